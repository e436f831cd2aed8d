"""x86-64: the System V convention of Linux and macOS, and Microsoft's.

System V (psABI 3.2.3): six general and eight vector registers, counted apart; an aggregate of at most 16
bytes is cut into eightbytes, each of which goes where its members would. Microsoft ("x64 calling
convention"): four slots, of which each is a general or a vector register, then the stack, on which the
caller leaves 32 bytes for the first four; a value that is not 1, 2, 4 or 8 bytes large is passed by
reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jitlink.execution.c_types import CType, Kind
from jitlink.execution.conventions.base import (
    NOWHERE,
    SLOT,
    Convention,
    Cursor,
    Location,
    Piece,
    Reader,
    VariableArguments,
    in_register,
    in_registers,
)
from jitlink.execution.conventions.va_lists import InMemory, SystemV

GENERAL = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
VECTORS = tuple(f"xmm{number}" for number in range(8))
SLOT_REGISTERS = ("rcx", "rdx", "r8", "r9")
RETURN_ADDRESS = 8
SHADOW_SPACE = 32
LARGEST_IN_REGISTERS = 16
VECTOR = 16


class SystemVCursor(Cursor):
    """Where the arguments of a System V call are."""

    def __init__(self) -> None:
        self.general = list(GENERAL)
        self.vectors = list(VECTORS)

    def place(self, c_type: CType, *, named: bool = True) -> Location:
        """The next registers of its classes, if there are enough for all of it; else the stack."""
        if not c_type.size:
            return NOWHERE
        classes = eightbytes(c_type)
        if classes.count(Kind.INTEGER) > len(self.general) or classes.count(Kind.FLOATING) > len(self.vectors):
            classes = []
        if not classes:
            return self.on_stack(_slot_size(c_type), max(SLOT, c_type.alignment))
        return in_classes(c_type, classes, self.general, self.vectors)

    def place_result_pointer(self) -> Location:
        """The first argument register."""
        return in_register(self.general.pop(0))


def eightbytes(c_type: CType) -> list[Kind]:
    """The class of each eightbyte of a value; none for one that is passed in memory."""
    if c_type.kind is not Kind.AGGREGATE:
        return [c_type.kind] * -(-c_type.size // SLOT)
    misaligned = any(offset % scalar.alignment for offset, scalar in c_type.scalars)
    if c_type.size > LARGEST_IN_REGISTERS or misaligned:
        return []
    classes = [Kind.FLOATING] * -(-c_type.size // SLOT)
    for offset, scalar in c_type.scalars:
        if scalar.kind is Kind.INTEGER:
            for row in range(offset // SLOT, (offset + scalar.size - 1) // SLOT + 1):
                classes[row] = Kind.INTEGER
    return classes


def in_classes(c_type: CType, classes: list[Kind], general: list[str], vectors: list[str]) -> Location:
    """Take a register for each eightbyte."""
    if c_type.kind is Kind.INTEGER and c_type.size <= SLOT:
        return in_register(general.pop(0))
    pieces = []
    for row, kind in enumerate(classes):
        register = (general if kind is Kind.INTEGER else vectors).pop(0)
        pieces.append(Piece(register, 0, row * SLOT, min(SLOT, c_type.size - row * SLOT)))
    return Location(tuple(pieces))


def _slot_size(c_type: CType) -> int:
    """Bytes that a value takes on the stack: an integer is extended to its slot."""
    return max(c_type.size, SLOT) if c_type.kind is Kind.INTEGER else c_type.size


@dataclass(frozen=True)
class SystemVConvention(Convention):
    """x86-64 psABI 3.2.3."""

    def cursor(self, *, variadic: bool = False) -> Cursor:
        """Begin a call; arguments behind an ellipsis are placed like the others."""
        return SystemVCursor()

    def result(self, c_type: CType) -> Location | None:
        """By class: rax and rdx, xmm0 and xmm1."""
        if not c_type.size:
            return NOWHERE
        classes = eightbytes(c_type)
        return in_classes(c_type, classes, ["rax", "rdx"], ["xmm0", "xmm1"]) if classes else None

    def va_list(self, memory: Reader, address: int) -> VariableArguments:
        """A pointer to the structure."""
        return SystemV(memory, address)

    def beside_arguments(self, locations: Iterable[Location]) -> dict[str, int]:
        """al holds how many vector registers are used, at the most."""
        used = {piece.register for location in locations for piece in location.pieces}
        return {"rax": len(used & set(VECTORS))}


class MicrosoftCursor(Cursor):
    """Where the arguments of a Microsoft x64 call are."""

    def __init__(self) -> None:
        self.slots = 0
        self.stack = SHADOW_SPACE

    def place(self, c_type: CType, *, named: bool = True) -> Location:
        """The next slot; a floating-point number behind an ellipsis is in both of its registers."""
        if c_type.size not in (1, 2, 4, 8):
            return Location(self._next("", SLOT).pieces, by_reference=True)
        vector = f"xmm{self.slots}"
        if c_type.kind is not Kind.FLOATING:
            return self._next("", SLOT if c_type.kind is Kind.INTEGER else c_type.size)
        in_slot = self._next(vector, c_type.size)
        if not named and in_slot.pieces[0].register:
            return Location((*in_slot.pieces, Piece(SLOT_REGISTERS[self.slots - 1], 0, 0, c_type.size)))
        return in_slot

    def place_result_pointer(self) -> Location:
        """The first slot."""
        return self._next("", SLOT)

    def _next(self, vector: str, size: int) -> Location:
        if self.slots == len(SLOT_REGISTERS):
            return self.on_stack(size)
        self.slots += 1
        return in_register(vector or SLOT_REGISTERS[self.slots - 1], size)


@dataclass(frozen=True)
class MicrosoftConvention(Convention):
    """x64 calling convention, as Microsoft documents it."""

    def cursor(self, *, variadic: bool = False) -> Cursor:
        """Begin a call."""
        return MicrosoftCursor()

    def result(self, c_type: CType) -> Location | None:
        """rax or xmm0, for what is 1, 2, 4 or 8 bytes large."""
        if c_type.kind is Kind.VOID:
            return NOWHERE
        if c_type.kind is Kind.INTEGER and c_type.size == VECTOR:
            # __int128 is none of Microsoft's types; Clang and GCC return it so.
            return in_register("xmm0", VECTOR)
        if c_type.size not in (1, 2, 4, 8):
            return None
        return in_register("xmm0", c_type.size) if c_type.kind is Kind.FLOATING else in_registers(c_type, ["rax"])

    def va_list(self, memory: Reader, address: int) -> VariableArguments:
        """A pointer to the next argument."""
        return InMemory(memory, address, by_reference_above=SLOT, align_pairs=False)


SYSTEM_V_X64 = SystemVConvention("System V x86-64", argument_area=RETURN_ADDRESS, result_pointer="rax")
MICROSOFT_X64 = MicrosoftConvention("Microsoft x64", long_size=4, argument_area=RETURN_ADDRESS, result_pointer="rax")
