"""Where control goes in a BPF program: targets, functions, and what can be reached.

Everything here is array work over the columns of the program, but for the search itself. A search
over single instructions would take one round for each of a long straight line, so it goes over
basic blocks, with a plain list of work: linear, and no recursion however deep the program.

A function begins where a call or a function pointer leads; instruction 0 begins one always.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import Instructions
from jitlink.bpf.isa import FORMS, Family
from jitlink.columns import Rows, rows_by

Mask = npt.NDArray[np.bool_]


def forms_where(*families: Family, operation: str | None = None) -> Mask:
    """Mark the forms of some families, or those of them that have one operation: bool[forms]."""
    return np.array([form.family in families and operation in (None, form.operation) for form in FORMS])


_JUMPS = forms_where(Family.JUMP)
_LONG_JUMPS = _JUMPS & np.array([form.operation == "ja" and form.bits == 32 for form in FORMS])
_COMPUTED = forms_where(Family.JUMP, operation="gotox")
_BRANCHES = forms_where(Family.BRANCH)
_LOCAL_CALLS = forms_where(Family.CALL, operation="local")
_FUNCTION_POINTERS = forms_where(Family.CONSTANT, operation="code")
_CONSTANTS = forms_where(Family.CONSTANT)
_ENDS = _JUMPS | forms_where(Family.EXIT)


@dataclass(frozen=True)
class ControlFlow:
    """The targets of a program; every column has one row a slot.

    jumps: bool, a jump or branch with a target; jump_target: int64, its target as an index, which
    may lie anywhere, 0 elsewhere. refers: bool, a local call or a function pointer;
    function_target: int64, of these. falls_through: bool, the next instruction can run after this
    one; following: int64, its index. valid: bool, the indices that a target may be: an instruction
    begins there.
    """

    jumps: Mask
    jump_target: Rows
    refers: Mask
    function_target: Rows
    falls_through: Mask
    following: Rows
    valid: Mask

    def is_valid(self, target: Rows) -> Mask:
        """Mark the targets at which an instruction of the program begins."""
        inside = (target >= 0) & (target < len(self.valid))
        marks: Mask = inside & self.valid[np.where(inside, target, 0)]
        return marks

    def function_starts(self) -> Rows:
        """The indices at which functions begin, ascending: 0 and every valid target of a reference."""
        targets = self.function_target[self.refers]
        return np.unique(np.concatenate((np.zeros(1, np.int64), targets[self.is_valid(targets)])))

    def function_of(self) -> Rows:
        """For each slot the number of the function it lies in, by the order of the starts."""
        begins = np.zeros(len(self.valid), np.int64)
        begins[self.function_starts()] = 1
        return begins.cumsum() - 1


def control_flow(code: Instructions) -> ControlFlow:
    """Find the targets in a program of at least one slot."""
    form, position = code.form, np.arange(len(code))
    jumps = (_JUMPS | _BRANCHES)[form] & ~_COMPUTED[form]
    refers = (_LOCAL_CALLS | _FUNCTION_POINTERS)[form]
    distance = np.where(_LONG_JUMPS[form], code.imm, code.offset)
    return ControlFlow(
        jumps=jumps,
        jump_target=np.where(jumps, position + 1 + distance, 0),
        refers=refers,
        function_target=np.where(refers, position + 1 + code.imm, 0),
        falls_through=~_ENDS[form] & ~code.is_second,
        following=position + 1 + _CONSTANTS[form],
        valid=~code.is_second,
    )


def reachable(flow: ControlFlow) -> Mask:
    """Mark the slots that can run, when the program starts at 0: bool[slots].

    A second slot counts with its first. Targets that are not valid lead nowhere.
    """
    slots = len(flow.valid)
    jumps = (flow.jumps & flow.is_valid(flow.jump_target)).nonzero()[0]
    refers = (flow.refers & flow.is_valid(flow.function_target)).nonzero()[0]
    source = np.concatenate((jumps, refers))
    target = np.concatenate((flow.jump_target[jumps], flow.function_target[refers]))

    leads = np.zeros(slots + 2, bool)
    leads[0] = True
    leads[target] = True
    leads[flow.following[flow.jumps | ~flow.falls_through & flow.valid]] = True
    block = leads[:slots].cumsum() - 1
    blocks = int(block[-1]) + 1

    # From the last instruction of a block control can fall into the next block.
    last = flow.falls_through & (flow.following < slots) & leads[flow.following]
    falls = last.nonzero()[0]
    edge_source = np.concatenate((block[source], block[falls]))
    edge_target = np.concatenate((block[target], block[flow.following[falls]]))
    reached: Mask = _search(edge_source, edge_target, blocks)[block]
    return reached


def _search(source: Rows, target: Rows, nodes: int) -> Mask:
    """Mark the nodes that can be reached from node 0 along the edges."""
    rows, first = rows_by(source, nodes)
    after, start = target[rows].tolist(), first.tolist()
    seen = bytearray(nodes)
    seen[0] = 1
    work = [0]
    while work:
        node = work.pop()
        for following in after[start[node] : start[node + 1]]:
            if not seen[following]:
                seen[following] = 1
                work.append(following)
    return np.frombuffer(seen, np.uint8).astype(bool)
