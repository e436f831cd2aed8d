"""The functions of an SBPF program, as LLVM gets them: what those that are known (jitlink.bpf.sbpf.targets) consist of.

That is what can be reached from their start without calls; two functions may share code, and then both have it.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.isa import REGISTERS, Family, Form, forms_of
from jitlink.bpf.sbpf.targets import TargetOf, starts_of, targets_of

MOST_SHARING = 8
"""How often the code of a program may be in functions, on average, before some are left to the interpreter."""
ENDS = (Family.JUMP, Family.BRANCH, Family.CALL, Family.CALL_REGISTER, Family.EXIT)
LONGEST_BLOCK = 64
"""Instructions after which a basic block is cut, so that code can be cut into parts of bounded size."""


@dataclass(frozen=True)
class Instruction:
    """An instruction; form is None where it can only fault."""

    pc: int
    form: Form | None
    dst: int
    src: int
    offset: int
    imm: int
    value: int
    """The immediate, or both halves of a wide constant."""
    goes_to: int | None
    """Where a jump, a branch or a call of a function leads, if that is in the code."""

    @property
    def following(self) -> int:
        """The slot behind it."""
        return self.pc + (2 if self.form is not None and self.form.family is Family.CONSTANT else 1)


class Code:
    """The instructions of a program. Attributes: executable; slots (how many)."""

    def __init__(self, executable: Executable, target_of: TargetOf) -> None:
        """target_of: the slot that a call leads to, by its pc, src and imm; None for a syscall."""
        self.executable = executable
        self.target_of = target_of
        self.forms = forms_of(executable.version)
        code = executable.slots
        self.slots = len(code)
        self.rows = list(
            zip(*(each.tolist() for each in (code.opcode, code.dst, code.src, code.offset, code.imm)), strict=True)
        )

    def instruction(self, pc: int) -> Instruction:
        """The instruction of a slot, or the fault behind the last."""
        if pc >= self.slots:
            return Instruction(pc, None, 0, 0, 0, 0, 0, None)
        opcode, dst, src, offset, imm = self.rows[pc]
        form = self.forms[opcode]
        value, goes_to = imm, None
        if form is not None:
            if form.family is Family.CONSTANT and pc + 1 < self.slots:
                value = (self.rows[pc + 1][4] & 0xFFFF_FFFF) << 32 | imm & 0xFFFF_FFFF
            if form.family in (Family.JUMP, Family.BRANCH):
                goes_to = pc + 1 + offset
            elif form.family is Family.CALL:
                goes_to = self.target_of(pc, src, imm)
            if not self._can_run(form, pc, dst, src, imm, goes_to):
                form = None
        if goes_to is not None and not 0 <= goes_to < self.slots:
            # A branch that leads astray goes to the place behind the end.
            goes_to = self.slots
        return Instruction(pc, form, dst, src, offset, imm, value, goes_to)

    def _can_run(self, form: Form, pc: int, dst: int, src: int, imm: int, goes_to: int | None) -> bool:
        if dst >= REGISTERS or src >= REGISTERS:
            return False
        if form.family is Family.CONSTANT:
            return pc + 1 < self.slots
        if form.family is Family.BYTE_ORDER:
            return imm in (16, 32, 64)
        if form.family in (Family.JUMP, Family.CALL):
            return goes_to is None or 0 <= goes_to < self.slots
        return True

    def function(self, start: int) -> list[list[Instruction]]:
        """The basic blocks of the function that begins at a slot, that one first."""
        found: dict[int, Instruction] = {}
        leads, waiting = {start}, [start]
        while waiting:
            pc = waiting.pop()
            passed = 0
            while pc not in found:
                each = found[pc] = self.instruction(pc)
                family = each.form.family if each.form is not None else None
                if each.goes_to is not None and family in (Family.JUMP, Family.BRANCH):
                    leads.add(each.goes_to)
                    waiting.append(each.goes_to)
                if family is None or family in (Family.JUMP, Family.EXIT):
                    break
                pc = each.following
                passed += 1
                if family in ENDS or passed % LONGEST_BLOCK == 0:
                    leads.add(pc)
        blocks = [_block(found, lead, leads) for lead in sorted(leads)]
        blocks.sort(key=lambda block: block[0].pc != start)
        return blocks

    def functions(self) -> dict[int, list[list[Instruction]]]:
        """All functions that are known, by their first slots: the entry, and those that calls and constants name."""
        code = self.executable.slots
        _, targets = targets_of(self.executable, code, self.target_of)
        starts = starts_of(self.executable, code, targets).tolist()
        found: dict[int, list[list[Instruction]]] = {}
        left = MOST_SHARING * self.slots
        for start in [self.executable.entry, *(start for start in starts if start != self.executable.entry)]:
            if left > 0 or not found:
                found[start] = self.function(start)
                left -= sum(map(len, found[start]))
        return found


def _block(found: dict[int, Instruction], lead: int, leads: set[int]) -> list[Instruction]:
    block = [found[lead]]
    while block[-1].form is not None and block[-1].form.family not in ENDS:
        following = block[-1].following
        if following in leads:
            break
        block.append(found[following])
    return block
