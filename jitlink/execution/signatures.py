"""Signatures: the declared types of a function, and calls by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jitlink.execution.borrowed import Borrowed, Loan
from jitlink.execution.calls import IncomingCall, Value, call
from jitlink.execution.conventions import Convention
from jitlink.execution.machine import Machine
from jitlink.execution.values import Carrier, World, pack_address


@dataclass(frozen=True)
class Signature:
    """What a function takes and returns.

    Attributes: result; arguments; variadic (further ones may follow); undeclared (makes the carrier of an
    argument that has no declared type, by its value; None where there are none).
    """

    result: Carrier
    arguments: tuple[Carrier, ...]
    variadic: bool = False
    undeclared: Callable[[Any], Carrier] | None = None

    def carriers_for(self, values: Sequence[Any]) -> tuple[list[Carrier], int | None]:
        """The carrier of each argument, and how many are declared if the call is one with an ellipsis.

        A function that is declared without arguments takes any, as functions do that have no prototype.
        Raises TypeError for a wrong number.
        """
        declared, given = len(self.arguments), len(values)
        more = self.undeclared if given > declared else None
        if given < declared or (given > declared and more is None):
            raise TypeError(f"the function takes {declared} arguments, and {given} were given")
        carriers = list(self.arguments)
        if more is not None:
            carriers += [more(value) for value in values[declared:]]
        return carriers, declared if self.variadic or (more is not None and declared) else None

    def call(self, machine: Machine, convention: Convention, world: World, address: int, values: Sequence[Any]) -> Any:
        """Call emulated code with Python values. Raises TypeError, OverflowError, EmulationFault."""
        carriers, named = self.carriers_for(values)
        loan = Loan(machine.memory)
        packed = [carrier.pack(value, world, loan) for carrier, value in zip(carriers, values, strict=True)]
        loan.copy_in()
        try:
            arguments = [
                Value(carrier.c_type, pack_address(loan.address_of(raw)) if isinstance(raw, Borrowed) else raw)
                for carrier, raw in zip(carriers, packed, strict=True)
            ]
            raw = call(machine, convention, address, self.result.c_type, arguments, named=named)
            return self.result.unpack(raw, world)
        finally:
            loan.give_back()

    def serve(self, machine: Machine, convention: Convention, world: World, function: Callable[..., Any]) -> None:
        """Answer a call of emulated code by a Python function. Raises what the function raises, and TypeError."""
        incoming = IncomingCall(machine, convention, self.result.c_type, variadic=self.variadic)
        values = [carrier.unpack(incoming.argument(carrier.c_type), world) for carrier in self.arguments]
        result = self.result.pack(function(*values), world, Loan(machine.memory))
        if isinstance(result, Borrowed):
            raise TypeError("a Python function returned a buffer, which emulated code cannot see")
        incoming.finish(result)
