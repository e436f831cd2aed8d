"""Calls across the edge of an emulated machine, in both directions, by the rules of a convention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jitlink.execution.c_types import CType
from jitlink.execution.conventions import Convention, VariableArguments
from jitlink.execution.machine import WORD, Machine

STACK_ALIGNMENT = 16


class Value(NamedTuple):
    """A C value: its type, and its bytes."""

    c_type: CType
    raw: bytes


def call(
    machine: Machine,
    convention: Convention,
    address: int,
    result: CType,
    arguments: Sequence[Value],
    *,
    named: int | None = None,
) -> bytes:
    """Call an emulated function and return the bytes of its result.

    named: how many arguments its prototype declares, the others being behind its ellipsis; None if it has
    none. Raises EmulationFault, and whatever the Python functions raise that it calls.
    """
    cursor = convention.cursor(variadic=named is not None)
    result_at = convention.result(result)
    pointer_at = cursor.place_result_pointer() if result_at is None else None
    declared = len(arguments) if named is None else named
    locations = [cursor.place(each.c_type, named=row < declared) for row, each in enumerate(arguments)]
    with machine.entered() as stack:
        room = _below(stack, result.size)
        lowest = room
        passed = []
        for each, location in zip(arguments, locations, strict=True):
            if location.by_reference:
                lowest = _below(lowest, len(each.raw))
                machine.memory.write(lowest, each.raw)
                passed.append(_pointer(lowest))
            else:
                passed.append(convention.extended(each.c_type, each.raw))
        area = _below(lowest, cursor.stack)
        for raw, location in zip(passed, locations, strict=True):
            machine.store(location, raw, area)
        if pointer_at is not None:
            machine.store(pointer_at, _pointer(room), area)
        if named is not None:
            for name, value in convention.beside_arguments(locations).items():
                machine.write_register(name, value)
        machine.run(address, area - convention.argument_area)
        if result_at is None:
            return machine.memory.read(room, result.size)
        return machine.load(result_at, result.size, 0)


def _below(stack: int, size: int) -> int:
    return (stack - size) & -STACK_ALIGNMENT


def _pointer(address: int) -> bytes:
    return address.to_bytes(WORD, "little")


class IncomingCall:
    """A call of a Python function by emulated code, as the function finds it.

    Arguments are read one after the other: the registers that hold them change when emulated code runs again.
    """

    def __init__(self, machine: Machine, convention: Convention, result: CType, *, variadic: bool = False) -> None:
        """Begin to read. result: what the function returns; variadic: it is declared with an ellipsis."""
        self.machine = machine
        self.convention = convention
        self._result = result
        self._area = machine.read_register(machine.cpu.stack) + convention.argument_area
        self._cursor = convention.cursor(variadic=variadic)
        self._result_address = 0
        if convention.result(result) is None:
            raw = machine.load(self._cursor.place_result_pointer(), WORD, self._area)
            self._result_address = int.from_bytes(raw, "little")

    def argument(self, c_type: CType, *, named: bool = True) -> bytes:
        """The bytes of the next argument."""
        location = self._cursor.place(c_type, named=named)
        if location.by_reference:
            at = int.from_bytes(self.machine.load(location, WORD, self._area), "little")
            return self.machine.memory.read(at, c_type.size)
        return self.machine.load(location, c_type.size, self._area)

    def next(self, c_type: CType) -> bytes:
        """The bytes of the next argument behind the ellipsis."""
        return self.argument(c_type, named=False)

    def va_list(self, address: int) -> VariableArguments:
        """The arguments of a va_list that was passed as this address."""
        return self.convention.va_list(self.machine.memory, address)

    def finish(self, raw: bytes) -> None:
        """Return a value, by its bytes."""
        location = self.convention.result(self._result)
        if location is not None:
            self.machine.store(location, self.convention.extended(self._result, raw), 0)
            return
        self.machine.memory.write(self._result_address, raw)
        if self.convention.result_pointer:
            self.machine.write_register(self.convention.result_pointer, self._result_address)
