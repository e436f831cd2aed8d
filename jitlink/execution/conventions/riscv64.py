"""RISC-V: LP64D, with floating-point registers, and LP64, without (psABI, Procedure Calling Convention).

Eight general registers, and for named arguments eight floating-point ones. A structure of one or two
members of which at least one is a floating-point number is passed as its members would be. Anything else
of at most 16 bytes goes into general registers, the last of which may leave its second half to the stack;
what is larger is passed by reference.
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
from jitlink.execution.conventions.va_lists import InMemory

GENERAL = tuple(f"a{number}" for number in range(8))
FLOATING = tuple(f"fa{number}" for number in range(8))
PAIR = 2 * SLOT


def members_in_registers(c_type: CType) -> tuple[tuple[int, CType], ...]:
    """The scalars that go into registers of their own kinds; none where the integer rules apply."""
    if c_type.kind is Kind.FLOATING:
        return ((0, c_type),)
    if c_type.kind is not Kind.AGGREGATE or not 1 <= len(c_type.scalars) <= 2 or c_type.overlaps:
        return ()
    floating = any(scalar.kind is Kind.FLOATING for _, scalar in c_type.scalars)
    fit = all(scalar.size <= SLOT for _, scalar in c_type.scalars)
    return c_type.scalars if floating and fit else ()


class RiscvCursor(Cursor):
    """Where the arguments of a call are."""

    def __init__(self, *, floating_registers: bool) -> None:
        self.general = 0
        self.floating = 0 if floating_registers else len(FLOATING)

    def place(self, c_type: CType, *, named: bool = True) -> Location:
        """Find the place of the next argument."""
        if not c_type.size:
            return NOWHERE
        members = members_in_registers(c_type) if named else ()
        floating = sum(scalar.kind is Kind.FLOATING for _, scalar in members)
        general = len(members) - floating
        if members and self.floating + floating <= len(FLOATING) and self.general + general <= len(GENERAL):
            taken = self.floating, self.general
            self.floating += floating
            self.general += general
            return members_from(members, FLOATING[taken[0] :], GENERAL[taken[1] :])
        if c_type.size > PAIR:
            return Location(self._place_general(POINTER, named=named).pieces, by_reference=True)
        return self._place_general(c_type, named=named)

    def place_result_pointer(self) -> Location:
        """The first argument register."""
        self.general += 1
        return in_register(GENERAL[0])

    def _place_general(self, c_type: CType, *, named: bool) -> Location:
        # Only variadic arguments are moved to an even register by a 16-byte alignment.
        if c_type.alignment == PAIR and not named:
            self.general += self.general % 2
        count = -(-c_type.size // SLOT)
        names = GENERAL[self.general : self.general + count]
        self.general += len(names)
        if not names:
            whole = max(c_type.size, SLOT) if c_type.kind is Kind.INTEGER else c_type.size
            return self.on_stack(whole, max(SLOT, c_type.alignment))
        in_front = in_registers(c_type, names)
        if len(names) == count:
            return in_front
        [rest] = self.on_stack(c_type.size - SLOT).pieces
        return Location((*in_front.pieces, rest._replace(offset=SLOT)))


def members_from(
    members: tuple[tuple[int, CType], ...], floating: tuple[str, ...], general: tuple[str, ...]
) -> Location:
    """Put each member into the next register of its kind."""
    names = {Kind.FLOATING: iter(floating), Kind.INTEGER: iter(general)}
    pieces = []
    for offset, scalar in members:
        # A float in a register for doubles has ones above it, which makes it no number as a double.
        boxed = scalar.kind is Kind.FLOATING and scalar.size < SLOT
        pieces.append(Piece(next(names[scalar.kind]), 0, offset, scalar.size, boxed))
    return Location(tuple(pieces))


@dataclass(frozen=True)
class RiscvConvention(Convention):
    """The psABI's convention. Attributes: floating_registers (whether values are passed in them)."""

    floating_registers: bool = True

    def cursor(self, *, variadic: bool = False) -> Cursor:
        """Begin a call."""
        return RiscvCursor(floating_registers=self.floating_registers)

    def result(self, c_type: CType) -> Location | None:
        """Where the type would be as the first named argument; what that passes by reference is in memory."""
        if not c_type.size:
            return NOWHERE
        members = members_in_registers(c_type) if self.floating_registers else ()
        if members:
            return members_from(members, FLOATING, GENERAL)
        return in_registers(c_type, GENERAL) if c_type.size <= PAIR else None

    def va_list(self, memory: Reader, address: int) -> VariableArguments:
        """A pointer to the next argument."""
        return InMemory(memory, address, by_reference_above=PAIR, align_pairs=True)

    def extended(self, c_type: CType, raw: bytes) -> bytes:
        """A 32-bit integer is sign-extended, an unsigned one too; narrower ones first widen by their type."""
        if c_type.kind is not Kind.INTEGER or len(raw) >= SLOT:
            return raw
        sign = raw[-1] & 0x80 and (c_type.signed or len(raw) == 4)
        return raw + (b"\xff" if sign else b"\0") * (SLOT - len(raw))


LP64D = RiscvConvention("LP64D")
LP64 = RiscvConvention("LP64", floating_registers=False)
