"""Loops whose accesses and instructions can be accounted for before they run.

An innermost loop of one block, whose addresses move by a constant from round to round, gets a second version
without checks and without a meter. Before it is entered a number of rounds is computed for which all accesses
lie in the program's memory and the budget suffices; for so many rounds the second version runs, or until
the loop ends by itself. Then the loop goes on with checks: it finds the fault, the end of the budget, or the end
of the loop. LLVM can turn the second version into vector code.

To find such loops the block is carried out on symbols: what a register holds is a sum of multiples of what
registers held at the start of the round, plus a constant, or it is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jitlink.bpf.isa import REGISTERS, Family, Form
from jitlink.bpf.jit.program import BASE_IS_SRC, SIZE
from jitlink.bpf.llvm_tier.bodies import Program

FARTHEST = 1 << 31
"""Constants and steps that are larger are not followed."""
_WORD = 1 << 64


@dataclass(frozen=True)
class Sum:
    """A value: multiples of registers as they were at the start of the round (pairs, ascending), and a constant."""

    terms: tuple[tuple[int, int], ...]
    constant: int = 0

    def plus(self, other: Sum, sign: int = 1) -> Sum:
        """Add another sum, or take it away."""
        terms = dict(self.terms)
        for register, factor in other.terms:
            terms[register] = terms.get(register, 0) + sign * factor
        return Sum(
            tuple(sorted((each, factor) for each, factor in terms.items() if factor)),
            self.constant + sign * other.constant,
        )

    def times(self, factor: int) -> Sum:
        """Multiply."""
        if not factor:
            return Sum(())
        return Sum(tuple((register, each * factor) for register, each in self.terms), self.constant * factor)


@dataclass(frozen=True)
class Window:
    """The bytes that a round accesses through addresses with the same terms.

    Attributes: terms (of a Sum); low, high (the first byte, and the one behind the last, from their value); step
    (by which they move from round to round); writes.
    """

    terms: tuple[tuple[int, int], ...]
    low: int
    high: int
    step: int
    writes: bool


@dataclass(frozen=True)
class Loop:
    """A loop of one block.

    Attributes: lead (of its block); latch (lead of a block that only jumps back to it, or -1); count (instructions
    of a round that comes back); windows.
    """

    lead: int
    latch: int
    count: int
    windows: list[Window]

    @property
    def kept(self) -> list[tuple[str, str]]:
        """The variables, for each window, of the region that it was in and of the number of places for it there."""
        return [(f"%L{self.lead}s{number}", f"%L{self.lead}n{number}") for number in range(len(self.windows))]


def find_loop(program: Program, block: list[int], is_checked: Callable[[int], bool]) -> Loop | None:
    """Look at a block; None where it is no such loop. is_checked: whether an access is to be checked."""
    lead, last = block[0], block[-1]
    shape = program.shape(last)
    if shape.family is not Family.BRANCH or shape.operation == "may_goto" or not program.stays[last]:
        return None
    ways = (program.target[last], program.following(last))
    back = [each for each in ways if each == lead or _jumps_to(program, each, lead)]
    if len(back) != 1:
        return None
    latch = back[0] if back[0] != lead else -1
    round = _Round(program)
    for slot in block[:-1]:
        if not round.step(slot, program.shape(slot), is_checked):
            return None
    windows = round.windows()
    if windows is None:
        return None
    count = program.counted[lead] + (program.counted[latch] if latch >= 0 else 0)
    return Loop(lead, latch, count, windows)


def _jumps_to(program: Program, lead: int, target: int) -> bool:
    """Whether a block only jumps to another."""
    if lead == target or not program.runs[lead] or not program.leads[lead]:
        return False
    return program.shape(lead).family is Family.JUMP and program.stays[lead] and program.target[lead] == target


class _Round:
    """One round of a loop, carried out on symbols."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.values: list[Sum | None] = [Sum(((register, 1),)) for register in range(REGISTERS)]
        self.accesses: list[tuple[Sum, int, bool]] = []

    def step(self, slot: int, shape: Form, is_checked: Callable[[int], bool]) -> bool:
        """Carry out an instruction. Returns whether the loop still may be one that we look for."""
        program = self.program
        if shape.family in (Family.LOAD, Family.STORE):
            if is_checked(slot) and not self._access(slot, shape):
                return False
            if shape.family is Family.LOAD:
                self.values[program.dst[slot]] = None
            return True
        if shape.family in (Family.ARITHMETIC, Family.BYTE_ORDER, Family.CONSTANT):
            value = self._value(slot, shape) if shape.family is Family.ARITHMETIC and shape.bits == 64 else None
            small = value is not None and abs(value.constant) < FARTHEST
            self.values[program.dst[slot]] = value if small else None
            return True
        return False

    def _access(self, slot: int, shape: Form) -> bool:
        program = self.program
        base = self.values[program.src[slot] if BASE_IS_SRC[program.form[slot]] else program.dst[slot]]
        if base is None:
            return False
        start = replace(base, constant=base.constant + program.offset[slot])
        self.accesses.append((start, int(SIZE[program.form[slot]]), shape.family is Family.STORE))
        return True

    def _value(self, slot: int, shape: Form) -> Sum | None:
        program = self.program
        old = self.values[program.dst[slot]]
        imm = program.imm[slot]
        other = self.values[program.src[slot]] if shape.from_register else Sum((), imm)
        if shape.operation == "mov":
            return other
        if old is None or other is None:
            return None
        match shape.operation:
            case "add":
                return old.plus(other)
            case "sub":
                return old.plus(other, -1)
            case "lsh" if not shape.from_register:
                return old.times(1 << (imm & 31)) if imm & 63 < 32 else None
            case "mul" if not shape.from_register:
                return old.times(imm)
        return None

    def windows(self) -> list[Window] | None:
        """What a round accesses; None where it does not move by a constant."""
        found: dict[tuple[tuple[int, int], ...], Window] = {}
        for start, size, writes in self.accesses:
            step = 0
            for register, factor in start.terms:
                value = self.values[register]
                if value is None or value.terms != ((register, 1),):
                    return None
                step += factor * value.constant
            if abs(step) >= FARTHEST or abs(start.constant) >= FARTHEST:
                return None
            window = Window(start.terms, start.constant, start.constant + size, step, writes)
            known = found.get(start.terms)
            if known is not None:
                low, high = min(known.low, window.low), max(known.high, window.high)
                window = replace(known, low=low, high=high, writes=known.writes or writes)
            found[start.terms] = window
        return list(found.values())
