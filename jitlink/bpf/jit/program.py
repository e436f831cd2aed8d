"""A program as the compiler sees it: what every slot is, and which slots make a basic block.

The columns have one row more than the program has slots: the place behind its end, where only a fault
can happen. Which slots can only fault is known here, and so is what a function has to keep for its caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.bpf.control_flow import ControlFlow, control_flow, forms_where
from jitlink.bpf.instructions import USES, Instructions
from jitlink.bpf.isa import FORMS, FRAME_POINTER, REGISTERS, Family
from jitlink.columns import Rows

Mask = npt.NDArray[np.bool_]

JUMPS, BRANCHES = forms_where(Family.JUMP), forms_where(Family.BRANCH)
CALLS, LOCAL_CALLS = forms_where(Family.CALL), forms_where(Family.CALL, operation="local")
LOADS, STORES, ATOMICS = forms_where(Family.LOAD), forms_where(Family.STORE), forms_where(Family.ATOMIC)
CONSTANTS = forms_where(Family.CONSTANT)
ACQUIRES = forms_where(Family.ATOMIC, operation="load_acquire")
MAY_GOTO = forms_where(Family.BRANCH, operation="may_goto")
REGISTER_CALLS = forms_where(Family.CALL, operation="register")
ACCESSES = LOADS | STORES | ATOMICS
BASE_IS_SRC = LOADS | ACQUIRES
SIZE = np.array([form.bits // 8 for form in FORMS], np.int64)
WRITES_DST = np.array(["dst" in form.writes for form in FORMS])
WRITES_SRC = np.array(["src" in form.writes for form in FORMS])
_REFUSED = np.array([bool(form.refused) or form.family is Family.NONE for form in FORMS])
_UNRESOLVED = CONSTANTS & ~np.array([form.operation in ("value", "code") for form in FORMS])
_ENDS_BLOCK = JUMPS | BRANCHES | CALLS | forms_where(Family.EXIT, Family.PACKET)
SAVED = range(6, 10)
"""The registers that a call keeps."""


@dataclass(frozen=True)
class Slots:
    """The slots of a program; every column has one row a slot, and one for the place behind the last.

    form: as decoded, 0 where the slot can only fault. runs: an instruction begins there (no second half
    of a wide constant). jump_target: of jumps, branches and local calls; stays: it lies in the program.
    leads: a block begins there. counted: instructions of the block that begins there. rest: how many
    instructions of the block follow. entered: second halves to which something leads. functions: where calls
    and pointers of the program lead, and where it is entered from outside; not 0, unless something leads there.
    """

    code: Instructions
    flow: ControlFlow
    form: Rows
    dst: Rows
    src: Rows
    offset: Rows
    imm: Rows
    runs: Mask
    jump_target: Rows
    stays: Mask
    leads: Mask
    counted: Rows
    rest: Rows
    entered: Rows
    functions: set[int]

    @property
    def moves_frame_pointer(self) -> bool:
        """Whether an instruction writes r10, as none may."""
        writes = WRITES_DST[self.form] & (self.dst == FRAME_POINTER) | WRITES_SRC[self.form] & (
            self.src == FRAME_POINTER
        )
        return bool(writes.any())

    def saved_by_callers(self) -> npt.NDArray[np.bool_]:
        """For each slot, which of r6 to r9 a call of the function that it lies in has to keep: bool[4, slots].

        Those that the function writes; all, where control leaves the functions otherwise than by calls,
        or where the function can be left for another program (a tail call from any helper).
        """
        function = np.append(self.flow.function_of(), -1)
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
    flow = control_flow(code)
    slots = len(code)

    def extended(column: npt.NDArray[np.int64]) -> Rows:
        longer = np.zeros(slots + 1, column.dtype)
        longer[:-1] = column
        return longer

    form, dst, src = extended(code.form), extended(code.dst), extended(code.src)
    constant = CONSTANTS[form]
    bad = _REFUSED[form] | _UNRESOLVED[form]
    bad |= USES["dst"][form] & (dst >= REGISTERS) | USES["src"][form] & (src >= REGISTERS)
    bad[slots - 1] |= constant[slots - 1]
    form[bad] = 0
    runs = np.append(~code.is_second, True)
    jump_target = extended(np.where(LOCAL_CALLS[code.form], flow.function_target, flow.jump_target))
    goes = (JUMPS | BRANCHES | LOCAL_CALLS)[form]
    stays = goes & (jump_target >= 0) & (jump_target < slots)

    position = np.arange(slots + 1)
    leads = np.zeros(slots + 3, bool)
    leads[0] = leads[entries] = True
    leads[jump_target[stays]] = True
    pointed_at = flow.function_target[flow.refers]
    pointed_at = pointed_at[flow.is_valid(pointed_at)]
    leads[pointed_at] = True
    ends = runs & (_ENDS_BLOCK[form] | (form == 0))
    # The slot behind a bad wide constant is a second half, and nothing falls into it.
    leads[(position + 1 + constant)[ends]] = True
    leads = leads[: slots + 1]
    entered = (leads & ~runs).nonzero()[0]
    leads = leads & runs

    place = runs.cumsum()
    block = np.where(runs, leads.cumsum() - 1, 0)
    first = place[leads]
    size = np.diff(np.append(first, place[-1] + 1))
    counted = np.zeros(slots + 1, np.int64)
    counted[leads] = size
    counted[entered] = 1
    rest = np.where(runs, (first + size)[block] - 1 - place, 0)
    functions = {*pointed_at.tolist(), *entries.tolist()}
    return Slots(
        code=code,
        flow=flow,
        form=form,
        dst=dst,
        src=src,
        offset=extended(code.offset),
        imm=extended(code.imm),
        runs=runs,
        jump_target=jump_target,
        stays=stays,
        leads=leads,
        counted=counted,
        rest=rest,
        entered=entered,
        functions=functions,
    )
