"""Which basic blocks belong to which function of a program.

LLVM knows functions, with an entry and blocks of their own. BPF knows instructions: a call leads to any of
them, and a jump may lead out of one function into the middle of another. So the body of a function is
every block that control can reach from its entry without a call. Compilers write functions that share
nothing; where a program does share blocks they are written once for each function that reaches them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from jitlink.bpf.control_flow import forms_where
from jitlink.bpf.isa import FORM_NUMBER, FORMS, FRAME_POINTER, STACK_SIZE, Family, Form
from jitlink.bpf.jit.program import (
    ACCESSES,
    BASE_IS_SRC,
    CONSTANTS,
    LOCAL_CALLS,
    REGISTER_CALLS,
    SIZE,
    Slots,
)

ENDS = frozenset({Family.JUMP, Family.EXIT})
LDDW = FORM_NUMBER["lddw"]
FUNCTION_POINTERS = forms_where(Family.CONSTANT, operation="code")


class Program:
    """The columns of a program as lists, for who goes over them one by one.

    Attributes: those of Slots; swapped (its byte order is not the host's).
    """

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.swapped = slots.code.byteorder != sys.byteorder
        self.form: list[int] = slots.form.tolist()
        self.dst: list[int] = slots.dst.tolist()
        self.src: list[int] = slots.src.tolist()
        self.offset: list[int] = slots.offset.tolist()
        self.imm: list[int] = slots.imm.tolist()
        self.constant: list[int] = slots.code.constant.tolist()
        self.runs: list[bool] = slots.runs.tolist()
        self.leads: list[bool] = slots.leads.tolist()
        self.counted: list[int] = slots.counted.tolist()
        self.target: list[int] = slots.jump_target.tolist()
        self.stays: list[bool] = slots.stays.tolist()

    def block(self, lead: int) -> list[int]:
        """The instructions of the block that begins at a slot, as their slots."""
        if not self.runs[lead]:
            return [lead]
        block = [lead]
        slot = self.following(lead)
        while self._goes_on(block[-1]) and not self.leads[slot]:
            block.append(slot)
            slot = self.following(slot)
        return block

    def following(self, slot: int) -> int:
        """The slot behind an instruction."""
        return slot + 1 + bool(CONSTANTS[self.form[slot]])

    def shape(self, slot: int) -> Form:
        """The form of a slot; the null form where it can only fault."""
        return FORMS[self.form[slot] if self.runs[slot] else 0]

    def wide_constants(self) -> list[int]:
        """The slots of constants of 64 bits that stand for themselves."""
        found: list[int] = (self.slots.form == LDDW).nonzero()[0].tolist()
        return found

    def pointed_at(self) -> list[int]:
        """The slots that pointers to functions lead to."""
        pointers = FUNCTION_POINTERS[self.slots.code.form].nonzero()[0].tolist()
        targets = (slot + 1 + self.imm[slot] for slot in pointers)
        return [each for each in targets if 0 <= each < len(self.slots.code) and self.runs[each]]

    def _goes_on(self, slot: int) -> bool:
        """Whether control can go on behind an instruction."""
        return self.form[slot] > 0 and self.shape(slot).family not in ENDS

    def successors(self, block: list[int]) -> list[int]:
        """The blocks that control can go to from a block."""
        last = block[-1]
        if not self.runs[last] or not self.form[last]:
            return []
        found = []
        family = self.shape(last).family
        if family in (Family.JUMP, Family.BRANCH) and self.stays[last]:
            found.append(self.target[last])
        if self._goes_on(last) and not (LOCAL_CALLS[self.form[last]] and not self.stays[last]):
            found.append(self.following(last))
        return found


@dataclass
class Body:
    """The blocks of one function.

    Attributes: entry (its first slot); blocks (by their first slots, that of the entry first); calls (entries
    of the functions that it calls by number); leaves (it gives instructions to the outside); keeps_frame (nobody
    but the function itself looks at its frame while it runs); loops (control may come back to a block).
    """

    entry: int
    blocks: dict[int, list[int]]
    calls: set[int]
    leaves: bool
    keeps_frame: bool
    loops: bool = False

    @property
    def size(self) -> int:
        """How many slots it has."""
        return sum(map(len, self.blocks.values()))


def bodies_of(program: Program, entries: list[int], most: int) -> dict[int, Body] | None:
    """Find the bodies of the entries and of all that they call, by entry. None where they have more slots than most."""
    bodies: dict[int, Body] = {}
    work = list(entries)
    size = 0
    while work:
        entry = work.pop()
        if entry in bodies:
            continue
        body = bodies[entry] = _body(program, entry, most - size)
        size += body.size
        if size > most:
            return None
        work += body.calls
    return bodies


def _body(program: Program, entry: int, most: int) -> Body:
    body = Body(entry, {}, set(), False, True)
    work = [entry]
    size = 0
    while work and size <= most:
        lead = work.pop()
        if lead in body.blocks:
            continue
        block = body.blocks[lead] = program.block(lead)
        size += len(block)
        for slot in block:
            _note(program, slot, body)
        successors = program.successors(block)
        # Every way around leads backwards at least once.
        body.loops = body.loops or any(each <= lead for each in successors)
        work += successors
    # The outside may go on with another program in the same frame, or carry an access of it out.
    body.keeps_frame = body.keeps_frame and not body.leaves
    return body


def _note(program: Program, slot: int, body: Body) -> None:
    """Take one instruction into account."""
    shape, number = program.shape(slot), program.form[slot]
    if shape.family is Family.PACKET or (shape.family is Family.ATOMIC and program.swapped):
        body.leaves = True
    elif shape.family is Family.CALL:
        if not LOCAL_CALLS[number]:
            body.leaves = True
        elif program.stays[slot]:
            body.calls.add(program.target[slot])
        if REGISTER_CALLS[number]:
            body.calls |= set(program.pointed_at())
    if body.keeps_frame and shape.family is not Family.NONE:
        body.keeps_frame = not _shows_frame(program, slot, shape)


def _shows_frame(program: Program, slot: int, shape: Form) -> bool:
    """Whether an instruction does anything with r10 but access the frame at a constant distance: then its address may
    be elsewhere."""
    number, dst, src = program.form[slot], program.dst[slot], program.src[slot]
    reads = ("dst" in shape.operands and dst == FRAME_POINTER, "src" in shape.operands and src == FRAME_POINTER)
    if not any(reads):
        return False
    if not ACCESSES[number]:
        return True
    base = int(BASE_IS_SRC[number])
    return not reads[base] or reads[1 - base] or not in_frame(program.offset[slot], int(SIZE[number]))


def in_frame(offset: int, size: int) -> bool:
    """Whether an access of size bytes at r10 + offset lies in the frame."""
    return -STACK_SIZE <= offset <= -size


def reach_outside(bodies: dict[int, Body]) -> set[int]:
    """The functions that give something to the outside, themselves or in what they call."""
    found = {entry for entry, body in bodies.items() if body.leaves}
    callers: dict[int, list[int]] = {entry: [] for entry in bodies}
    for entry, body in bodies.items():
        for called in body.calls:
            callers[called].append(entry)
    work = list(found)
    while work:
        for caller in callers[work.pop()]:
            if caller not in found:
                found.add(caller)
                work.append(caller)
    return found
