"""Where the functions of an SBPF program begin, as far as the file says.

It does not say it directly. A function begins at the entry, wherever a call leads, and wherever a constant or a
pointer of the program points into the code. A call by address may lead elsewhere; that is seen when it is made.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jitlink.bpf.instructions import SLOT
from jitlink.bpf.sbpf.executable import Executable, Slots
from jitlink.bpf.sbpf.isa import Family, forms_of
from jitlink.columns import NO_ROWS, Rows

TargetOf = Callable[[int, int, int], int | None]
"""Gives the slot that a call leads to, by its pc, src and imm; None for the call of a syscall."""
SYSCALL = -1
"""Stands for the target of a call of a syscall."""
LDDW = 0x18
_OPCODES = 256
_LOW = 0xFFFF_FFFF


def opcodes_of(executable: Executable, family: Family) -> Rows:
    """Mark the opcodes of a family: bool[256]."""
    table = np.zeros(_OPCODES, bool)
    table[[form.opcode for form in forms_of(executable.version) if form is not None and form.family is family]] = True
    return table


def second_halves(executable: Executable, code: Slots) -> Rows:
    """The slots that are second halves of wide constants, where control comes from in front: int64[n]."""
    if forms_of(executable.version)[LDDW] is None:
        return NO_ROWS
    wide = (code.opcode == LDDW).nonzero()[0]
    following = wide[:-1][wide[1:] == wide[:-1] + 1] + 1
    if len(following):
        # In a row of such opcodes every other one begins a constant.
        begins = np.ones(len(code), bool)
        for pc in following.tolist():
            begins[pc] = not begins[pc - 1]
        wide = wide[begins[wide]]
    second: Rows = wide[wide + 1 < len(code)] + 1
    return second


def constants_of(code: Slots, wide: Rows) -> Rows:
    """The values of wide constants that begin at slots: int64[n], the bits of an unsigned number."""
    value: Rows = code.imm[wide + 1] << 32 | code.imm[wide] & _LOW
    return value


def targets_of(executable: Executable, code: Slots, target_of: TargetOf) -> tuple[Rows, Rows]:
    """The calls of a program, and the slot that each leads to, or SYSCALL: int64[n] both."""
    calls = opcodes_of(executable, Family.CALL)[code.opcode].nonzero()[0]
    found = map(target_of, calls.tolist(), code.src[calls].tolist(), code.imm[calls].tolist())
    # A target outside of the code is one that no slot has.
    slots = len(code)
    targets = [SYSCALL if each is None else each if 0 <= each < slots else slots for each in found]
    return calls, np.array(targets, np.int64)


def starts_of(executable: Executable, code: Slots, targets: Rows) -> Rows:
    """Where functions begin: int64[n], ascending. targets: of calls."""
    wide = second_halves(executable, code) - 1
    distance = constants_of(code, wide) - executable.text_address
    pointed = distance[distance % SLOT == 0] // SLOT
    said = [executable.entry, *executable.pointers, *executable.functions.values()]
    starts = np.unique(np.concatenate((np.array(said, np.int64), pointed, targets)))
    inside: Rows = starts[(starts >= 0) & (starts < len(code))]
    return inside
