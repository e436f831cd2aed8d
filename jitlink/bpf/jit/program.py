"""A program as the compiler sees it: what every slot is, and which slots make a basic block.

The columns have one row more than the program has slots: the place behind its end, where only a fault
can happen. Which slots can only fault is known here, and so is what a function has to keep for its caller.

Most programs are small, and then the number of array operations is what compiling takes. So properties that
depend on the form alone are tables, and what few programs have (wide constants, calls, encodings that nobody
defines) is worked on in the rows where it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jitlink.bpf.control_flow import control_flow, forms_where
from jitlink.bpf.instructions import USES, Instructions
from jitlink.bpf.isa import FORMS, FRAME_POINTER, REGISTERS, STACK_SIZE, Family
from jitlink.columns import Rows

Mask = npt.NDArray[np.bool_]

JUMPS, BRANCHES = forms_where(Family.JUMP), forms_where(Family.BRANCH)
CALLS, LOCAL_CALLS = forms_where(Family.CALL), forms_where(Family.CALL, operation="local")
LOADS, STORES, ATOMICS = forms_where(Family.LOAD), forms_where(Family.STORE), forms_where(Family.ATOMIC)
CONSTANTS = forms_where(Family.CONSTANT)
ACQUIRES = forms_where(Family.ATOMIC, operation="load_acquire")
MAY_GOTO = forms_where(Family.BRANCH, operation="may_goto")
REGISTER_CALLS = forms_where(Family.CALL, operation="register")
HELPER_CALLS = forms_where(Family.CALL, operation="helper")
ACCESSES = LOADS | STORES | ATOMICS
BASE_IS_SRC = LOADS | ACQUIRES
WRITES_MEMORY = STORES | ATOMICS & ~BASE_IS_SRC
SIZE = np.array([form.bits // 8 for form in FORMS], np.int64)
WRITES_DST = np.array(["dst" in form.writes for form in FORMS])
WRITES_SRC = np.array(["src" in form.writes for form in FORMS])
GOES = JUMPS | BRANCHES | LOCAL_CALLS
"""Those that lead to a place that they name."""
FUNCTION_ADDRESSES = forms_where(Family.CONSTANT, operation="code")
_REFUSED = np.array([bool(form.refused) or form.family is Family.NONE for form in FORMS])
_CANNOT_RUN = _REFUSED | CONSTANTS & ~np.array([form.operation in ("value", "code") for form in FORMS])
_ENDS_BLOCK = JUMPS | BRANCHES | CALLS | forms_where(Family.EXIT, Family.PACKET)
_ENDS_BLOCK[0] = True
_DISTANCE_IN_IMM = LOCAL_CALLS | JUMPS & np.array([form.operation == "ja" and form.bits == 32 for form in FORMS])
_REFERS = LOCAL_CALLS | FUNCTION_ADDRESSES
_STARTS_IN_FRAME = np.where(ACCESSES, STACK_SIZE + 1 - SIZE, 0).astype(np.uint64)
"""How many places in a frame an access of a form can begin at."""
SAVED = range(6, 10)
"""The registers that a call keeps."""


class Slots(NamedTuple):
    """The slots of a program; every column has one row a slot, and one for the place behind the last.

    form: as decoded, 0 where the slot can only fault. fields: int64[4, slots + 1], the fields dst, src, imm and
    offset, each also by its name. runs: an instruction begins there (no second half of a wide constant).
    jump_target: of jumps, branches and local calls; stays: it lies in the program; astray: the slots for which
    it does not. leads: a block begins there. counted: instructions of the block that begins there. entered:
    second halves to which something leads. functions: where calls and pointers of the program lead, and where
    it is entered from outside; not 0, unless something leads there.
    """

    code: Instructions
    form: Rows
    fields: npt.NDArray[np.int64]
    dst: Rows
    src: Rows
    imm: Rows
    offset: Rows
    runs: Mask
    jump_target: Rows
    stays: Mask
    astray: Rows
    leads: Mask
    counted: Rows
    entered: Rows
    functions: set[int]

    @property
    def moves_frame_pointer(self) -> bool:
        """Whether an instruction writes r10, as none may."""
        writes = WRITES_DST[self.form] & (self.dst == FRAME_POINTER) | WRITES_SRC[self.form] & (
            self.src == FRAME_POINTER
        )
        return bool(writes.any())

    def rest_of_block(self, slot: int) -> int:
        """How many instructions of its block follow an instruction."""
        behind = self.leads[slot + 1 :]
        size = int(behind.argmax()) if behind.any() else len(behind)
        return int(np.count_nonzero(self.runs[slot + 1 : slot + 1 + size])) if self.runs[slot] else 0

    def helpers_called(self) -> list[int]:
        """The numbers of the helpers that the program calls."""
        calls = HELPER_CALLS[self.form]
        return sorted({number & 0xFFFF_FFFF for number in self.imm[calls].tolist()})

    def saved_by_callers(self) -> npt.NDArray[np.bool_]:
        """For each slot, which of r6 to r9 a call of the function that it lies in has to keep: bool[4, slots].

        Those that the function writes; all, where control leaves the functions otherwise than by calls,
        or where the function can be left for another program (a tail call from any helper).
        """
        function = np.append(control_flow(self.code).function_of(), -1)
        functions = int(function[-2]) + 1 if len(function) > 1 else 0
        form, target = self.form, self.jump_target
        leaves = (JUMPS | BRANCHES)[form] & self.stays & (function[np.where(self.stays, target, 0)] != function)
        falls = self.runs & ~(JUMPS | forms_where(Family.EXIT))[form] & (form > 0)
        following = np.minimum(np.arange(len(form)) + 1 + CONSTANTS[form], len(form) - 1)
        leaves |= falls & (function[following] != function)
        all_of_them = np.zeros(functions, bool)
        all_of_them[:] = leaves.any()
        all_of_them[function[(CALLS & ~LOCAL_CALLS)[form]]] = True
        saved = np.zeros((len(SAVED), functions), bool)
        for row, register in enumerate(SAVED):
            writes = WRITES_DST[form] & (self.dst == register) | WRITES_SRC[form] & (self.src == register)
            saved[row, function[writes]] = True
        return (saved | all_of_them)[:, function]


def slots_of(code: Instructions, entries: Rows) -> Slots:
    """Look at every slot of a program of at least one. entries: int64[n], where it is entered from outside."""
    slots = len(code)
    columns = np.zeros((5, slots + 1), np.int64)
    form, dst, src, imm, offset = columns
    form[:-1], dst[:-1], src[:-1], imm[:-1], offset[:-1] = code.form, code.dst, code.src, code.imm, code.offset
    bad = _bad_rows(columns)
    bad_wide = bad[CONSTANTS[form[bad]]]
    form[bad] = 0
    runs = np.ones(slots + 1, bool)
    np.logical_not(code.is_second, out=runs[:-1])

    behind = np.arange(1, slots + 2)
    goes = GOES[form]
    jump_target = behind + np.where(_DISTANCE_IN_IMM[form], imm, offset)
    stays = goes & (jump_target.view(np.uint64) < slots)

    leads = np.zeros(slots + 3, bool)
    leads[0] = True
    leads[entries] = True
    leads[jump_target[stays]] = True
    ends = runs & _ENDS_BLOCK[form]
    if len(bad_wide):
        # The slot behind it is a second half, and nothing falls into that.
        ends[bad_wide] = False
        leads[bad_wide + 2] = True
    leads[behind[ends]] = True
    functions = set(entries.tolist())
    refers = _REFERS[form].nonzero()[0]
    if len(refers):
        target = behind[refers] + imm[refers]
        target = target[target.view(np.uint64) < slots]
        target = target[runs[target]]
        leads[target] = True
        functions.update(target.tolist())
    leads = leads[: slots + 1]
    entered = (leads > runs).nonzero()[0]
    leads &= runs
    return Slots(
        code=code,
        form=form,
        fields=columns[1:],
        dst=dst,
        src=src,
        imm=imm,
        offset=offset,
        runs=runs,
        jump_target=jump_target,
        stays=stays,
        astray=(goes > stays).nonzero()[0],
        leads=leads,
        counted=_instructions_of_blocks(runs, leads, entered),
        entered=entered,
        functions=functions,
    )


def _bad_rows(columns: npt.NDArray[np.int64]) -> Rows:
    """Find the slots that nobody can carry out, second halves among them. columns: form, dst, src, ..."""
    form, dst, src = columns[:3]
    bad = _CANNOT_RUN[form]
    if int(columns[1:3].max()) >= REGISTERS:
        bad |= USES["dst"][form] & (dst >= REGISTERS) | USES["src"][form] & (src >= REGISTERS)
    # A wide constant of which the program has only half.
    bad[-2] |= CONSTANTS[form[-2]]
    rows: Rows = bad[:-1].nonzero()[0]
    return rows


def _instructions_of_blocks(runs: Mask, leads: Mask, entered: Rows) -> Rows:
    """Count the instructions of each block, at its head; a second half that is entered counts as one."""
    heads = leads.nonzero()[0]
    place = runs.cumsum()
    first = place[heads]
    counted = np.zeros(len(runs), np.int64)
    counted[heads[:-1]] = first[1:] - first[:-1]
    counted[heads[-1]] = place[-1] + 1 - first[-1]
    if len(entered):
        counted[entered] = 1
    return counted


def within_frame(slots: Slots) -> Mask:
    """Mark the accesses at a constant distance from r10 that lie in its frame: bool[slots + 1]."""
    form = slots.form
    base = np.where(BASE_IS_SRC[form], slots.src, slots.dst)
    start = (slots.offset + STACK_SIZE).view(np.uint64)
    marks: Mask = (base == FRAME_POINTER) & (start < _STARTS_IN_FRAME[form])
    return marks
