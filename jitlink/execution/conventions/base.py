"""What all conventions have in common: pieces of values in registers and on the stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from jitlink.execution.c_types import CType, Kind

SLOT = 8
"""Bytes of a stack slot and of a general register, on all machines here."""


class Piece(NamedTuple):
    """Part of a value in one place.

    Attributes: register (name, or None for the stack); stack (bytes from the start of the arguments on
    the stack); offset and size (bytes of the value); boxed (the rest of the register is filled with
    ones, as RISC-V does with a float in a register for doubles).
    """

    register: str | None
    stack: int
    offset: int
    size: int
    boxed: bool = False


class Location(NamedTuple):
    """Where a value is: its pieces, or with by_reference the piece that holds its address."""

    pieces: tuple[Piece, ...]
    by_reference: bool = False


class Reader(Protocol):
    """Memory that can be read."""

    def read(self, address: int, size: int) -> bytes:
        """Read bytes."""


class VariableArguments(Protocol):
    """The arguments behind an ellipsis, one after the other."""

    def next(self, c_type: CType) -> bytes:
        """The bytes of the next argument, which is of this type."""


class Cursor(ABC):
    """Goes over the arguments of one call, from left to right.

    Attributes: stack (bytes of the arguments on the stack so far).
    """

    stack = 0

    @abstractmethod
    def place(self, c_type: CType, *, named: bool = True) -> Location:
        """Find the place of the next argument; named: whether the prototype declares it."""

    @abstractmethod
    def place_result_pointer(self) -> Location:
        """Find the place of the address at which a large result is wanted; asked for before all arguments."""

    def on_stack(self, size: int, alignment: int = SLOT) -> Location:
        """Put a value on the stack, in slots of its own."""
        location = self.packed(size, alignment)
        self.stack = -(-self.stack // SLOT) * SLOT
        return location

    def packed(self, size: int, alignment: int) -> Location:
        """Put a value on the stack right behind the last one."""
        start = -(-self.stack // alignment) * alignment
        self.stack = start + size
        return Location((Piece(None, start, 0, size),))


@dataclass(frozen=True)
class Convention(ABC):
    """A platform's rules.

    Attributes: name (for messages); long_size (bytes of C's long); argument_area (bytes from the stack
    pointer at the entry of a function to the arguments on the stack); result_pointer (the register in
    which a function returns the address of a large result, or None).
    """

    name: str
    long_size: int = 8
    argument_area: int = 0
    result_pointer: str | None = None

    @abstractmethod
    def cursor(self, *, variadic: bool = False) -> Cursor:
        """Begin a call. variadic: of a function that is declared with an ellipsis."""

    @abstractmethod
    def result(self, c_type: CType) -> Location | None:
        """Where a result is; None for one that is stored where the caller says."""

    @abstractmethod
    def va_list(self, memory: Reader, address: int) -> VariableArguments:
        """Read the arguments of a va_list that was passed to a function as this address."""

    def extended(self, c_type: CType, raw: bytes) -> bytes:
        """An integer as it is in a register or a stack slot: extended to 8 bytes by its sign."""
        if c_type.kind is not Kind.INTEGER or len(raw) >= SLOT:
            return raw
        negative = c_type.signed and raw[-1] & 0x80
        return raw + (b"\xff" if negative else b"\0") * (SLOT - len(raw))

    def beside_arguments(self, locations: Iterable[Location]) -> dict[str, int]:
        """What a variadic call says beside its arguments: registers and their values."""
        return {}


def in_registers(c_type: CType, names: Sequence[str]) -> Location:
    """A value in general registers, 8 bytes in each; a small integer is extended to all of its register."""
    size = c_type.size
    if c_type.kind is Kind.INTEGER and size <= SLOT:
        return in_register(names[0])
    pieces = (
        Piece(name, 0, offset, min(SLOT, size - offset))
        for offset, name in zip(range(0, size, SLOT), names, strict=False)
    )
    return Location(tuple(pieces))


def in_register(name: str, size: int = SLOT, *, boxed: bool = False) -> Location:
    """A scalar in one register."""
    return Location((Piece(name, 0, 0, size, boxed),))


NOWHERE = Location(())
"""The place of void, and of a structure without members."""
