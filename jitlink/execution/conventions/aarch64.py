"""AArch64: AAPCS64, and what Apple and Microsoft do differently.

AAPCS64 (section 6.8): eight general and eight vector registers, counted apart; up to four members of one
floating-point type (an HFA) go into vector registers; another aggregate of at most 16 bytes goes into
general registers, a larger one is passed by reference.

Apple ("Writing ARM64 code for Apple platforms"): arguments on the stack lie at their natural alignment,
not in slots of 8 bytes, and all arguments behind an ellipsis are on the stack, in slots. Microsoft
("Overview of ARM64 ABI conventions"): a variadic function gets all its arguments in general registers
and on the stack, floating-point numbers too.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitlink.execution.c_types import POINTER, CType, Kind
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
from jitlink.execution.conventions.va_lists import Aapcs64, InMemory

GENERAL = tuple(f"x{number}" for number in range(8))
VECTORS = tuple(f"q{number}" for number in range(8))
RESULT_POINTER = "x8"
LARGEST_IN_REGISTERS = 16
MOST_MEMBERS = 4


def homogeneous_members(c_type: CType) -> int:
    """How many members an aggregate of one floating-point type has: 0 for any other (AAPCS64 5.9.5)."""
    if c_type.kind is not Kind.AGGREGATE or not c_type.scalars:
        return 0
    member = c_type.scalars[0][1]
    if member.kind is not Kind.FLOATING or any(scalar != member for _, scalar in c_type.scalars):
        return 0
    count = len({offset for offset, _ in c_type.scalars})
    return count if count <= MOST_MEMBERS and count * member.size == c_type.size else 0


class AArch64Cursor(Cursor):
    """Where the arguments of a call are."""

    def __init__(self, convention: AArch64Convention, *, variadic: bool) -> None:
        self.convention = convention
        self.all_general = variadic and convention.variadic_in_general
        self.general = 0
        self.vectors = 0

    def place(self, c_type: CType, *, named: bool = True) -> Location:
        """Find the place of the next argument (AAPCS64 6.8.2, stage C)."""
        if not c_type.size:
            return NOWHERE
        members = 0 if self.all_general else homogeneous_members(c_type)
        if c_type.kind is Kind.AGGREGATE and c_type.size > LARGEST_IN_REGISTERS and not members:
            return Location(self.place(POINTER, named=named).pieces, by_reference=True)
        if not named and self.convention.variadic_on_stack:
            return self.on_stack(_slot_size(c_type), max(c_type.alignment, SLOT))
        if members:
            return self._place_members(c_type, members)
        if c_type.kind is Kind.FLOATING and not self.all_general:
            return self._place_vector(c_type)
        return self._place_general(c_type)

    def place_result_pointer(self) -> Location:
        """x8, which is no argument register."""
        return in_register(RESULT_POINTER)

    def _place_vector(self, c_type: CType) -> Location:
        if self.vectors == len(VECTORS):
            return self._stacked(c_type, c_type.alignment)
        self.vectors += 1
        return in_register(VECTORS[self.vectors - 1], c_type.size)

    def _place_members(self, c_type: CType, members: int) -> Location:
        """All members into vector registers, or none (rules C.2 and C.3)."""
        if self.vectors + members > len(VECTORS):
            self.vectors = len(VECTORS)
            return self._stacked(c_type, c_type.alignment)
        names = VECTORS[self.vectors : self.vectors + members]
        self.vectors += members
        return members_in(c_type, members, names)

    def _place_general(self, c_type: CType) -> Location:
        if c_type.alignment == 2 * SLOT:
            self.general += self.general % 2
        count = -(-c_type.size // SLOT)
        names = GENERAL[self.general : self.general + count]
        fits = len(names) == count
        # Microsoft splits an argument of a variadic function between the last registers and the stack.
        if not fits:
            self.general = len(GENERAL)
            if self.all_general and names:
                return self._split(c_type, names)
            return self._stacked(c_type, c_type.alignment if c_type.kind is Kind.INTEGER else SLOT)
        self.general += count
        return in_registers(c_type, names)

    def _split(self, c_type: CType, names: tuple[str, ...]) -> Location:
        first = in_registers(c_type, names).pieces
        done = sum(piece.size for piece in first)
        [rest] = self.on_stack(c_type.size - done).pieces
        return Location((*first, rest._replace(offset=done)))

    def _stacked(self, c_type: CType, alignment: int) -> Location:
        # Clang passes an aggregate that is no HFA as 64-bit words, on Apple's platforms too.
        if self.convention.packed_stack and (c_type.kind is not Kind.AGGREGATE or homogeneous_members(c_type)):
            return self.packed(c_type.size, alignment)
        return self.on_stack(_slot_size(c_type), max(c_type.alignment, SLOT))


def members_in(c_type: CType, members: int, names: tuple[str, ...]) -> Location:
    """The members of an HFA, one in each register."""
    size = c_type.size // members
    return Location(tuple(Piece(name, 0, row * size, size) for row, name in enumerate(names)))


def _slot_size(c_type: CType) -> int:
    """Bytes that a value takes on the stack: an integer is extended to its slot."""
    return max(c_type.size, SLOT) if c_type.kind is Kind.INTEGER else c_type.size


@dataclass(frozen=True)
class AArch64Convention(Convention):
    """AAPCS64 with a platform's differences.

    Attributes: packed_stack, variadic_on_stack (Apple); variadic_in_general (Microsoft).
    """

    packed_stack: bool = False
    variadic_on_stack: bool = False
    variadic_in_general: bool = False

    def cursor(self, *, variadic: bool = False) -> Cursor:
        """Begin a call."""
        return AArch64Cursor(self, variadic=variadic)

    def result(self, c_type: CType) -> Location | None:
        """Where the type would be as the first argument (AAPCS64 6.9)."""
        members = homogeneous_members(c_type)
        if not c_type.size:
            return NOWHERE
        if members:
            return members_in(c_type, members, VECTORS)
        if c_type.kind is Kind.FLOATING:
            return in_register(VECTORS[0], c_type.size)
        return in_registers(c_type, GENERAL) if c_type.size <= LARGEST_IN_REGISTERS else None

    def va_list(self, memory: Reader, address: int) -> VariableArguments:
        """A structure on Linux, which is passed by reference; elsewhere a pointer to the next argument."""
        if self.variadic_on_stack or self.variadic_in_general:
            return InMemory(memory, address, by_reference_above=LARGEST_IN_REGISTERS, align_pairs=True)
        return Aapcs64(memory, address)


AAPCS64 = AArch64Convention("AAPCS64")
APPLE_ARM64 = AArch64Convention("Apple's arm64", packed_stack=True, variadic_on_stack=True)
WINDOWS_ARM64 = AArch64Convention("Windows ARM64", long_size=4, variadic_in_general=True)
