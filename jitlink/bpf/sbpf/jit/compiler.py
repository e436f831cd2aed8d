"""The pieces of an SBPF program: BPF's compiler, with other pieces in front of and behind an instruction.

    padding      in hardened code
    METER        at the head of a block
    before       a negation, or a constant into the spare register
    guard        leaves where a division has no result; translates an address, or finds the frame
    main         the instruction, or what it is lowered to
    EXTEND       extends the sign of the result

Off the main path lie OUT_OF_BUDGET, FIND and FAULT. An access has the spare register as its base, since the
address of the host is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from jitlink.bpf.control_flow import forms_where
from jitlink.bpf.instructions import SLOT, USES
from jitlink.bpf.isa import FORM_NUMBER, FRAME_POINTER, Family
from jitlink.bpf.jit.abi import SITE_SIZE, SIZES
from jitlink.bpf.jit.backend import Feature, Kind, Shapes
from jitlink.bpf.jit.compiler import Compiler, MachineCode, Plan
from jitlink.bpf.jit.hardening import Hardening, keys
from jitlink.bpf.jit.program import (
    ACCESSES,
    BASE_IS_SRC,
    BRANCHES,
    CONSTANTS,
    JUMPS,
    LOCAL_CALLS,
    REGISTER_CALLS,
    SIZE,
    STORES,
)
from jitlink.bpf.jit.templates import Operand
from jitlink.bpf.sbpf.abi import OFFSET
from jitlink.bpf.sbpf.jit.backend import TranslatingBackend, described
from jitlink.bpf.sbpf.jit.lowering import CONSTANT, EXTEND, Lowered
from jitlink.bpf.sbpf.memory import FRAME_SIZE
from jitlink.columns import Rows, starts_of

_CALL = FORM_NUMBER["call_helper"]
_CALLS = LOCAL_CALLS | REGISTER_CALLS
_HIDES = CONSTANTS | USES["imm"] & forms_where(Family.ARITHMETIC, Family.BRANCH, Family.STORE)
_BOUND_OF_SIZE = np.zeros(max(SIZES) + 1, np.int64)
_BOUND_OF_SIZE[list(SIZES)] = 8 + 8 * np.arange(len(SIZES))
"""Where in a site the bound for a size is."""
# Plain integers, since looking up the member of an enumeration takes as long as an array operation.
_METER, _OUT_OF_BUDGET, _FAULT, _OUTSIDE, _PADDING = map(
    int, (Kind.METER, Kind.OUT_OF_BUDGET, Kind.FAULT, Kind.OUTSIDE, Kind.PADDING)
)
_TRANSLATE, _FIND, _FRAME, _NATIVE_SYSCALL = map(int, (Kind.TRANSLATE, Kind.FIND, Kind.FRAME, Kind.NATIVE_SYSCALL))
_DST, _SRC, _IMM, _OFFSET, _KEY, _HIDDEN, _EXTRA, _HOST = map(int, Operand)
_HIDDEN_CONSTANT, _FROM_SRC, _NARROW = int(Feature.HIDDEN), int(Feature.FROM_SRC), int(Feature.NARROW)


@dataclass(frozen=True)
class Layout:
    """What the code of a program has to know of addresses.

    Attributes: step (how far a call moves r10); natives (addresses of syscalls in machine code, by number);
    frame_is_known (r10 is the end of the active frame, always).
    """

    step: int
    natives: Mapping[int, int] = field(default_factory=dict)
    frame_is_known: bool = False


def compile_program(lowered: Lowered, shapes: Shapes, layout: Layout, hardening: Hardening | None) -> MachineCode:
    """Compile a program. shapes: of a back end for SBPF."""
    return _Compiler(lowered, shapes, layout, hardening).compile()


class _Compiler(Compiler):
    """One program in the making."""

    def __init__(self, lowered: Lowered, shapes: Shapes, layout: Layout, hardening: Hardening | None) -> None:
        # No proof and no check is BPF's: what is looked at, and how, is all said here.
        super().__init__(lowered.slots, shapes, Plan(sandbox=False, hardening=hardening), None)
        self.backend: TranslatingBackend
        self.lowered = lowered
        self.layout = layout

    # Which pieces there are

    def _lay_out_pieces(self) -> None:
        slots, lowered = self.slots, self.lowered
        accesses, pad = self._accesses(), self._padding()
        guard = np.where(accesses > 0, accesses, lowered.guard)
        # In the order in which they lie; of each the kind, 0 for slots that have none.
        kinds = np.stack(
            (
                (pad > 0) * _PADDING,
                slots.leads * _METER,
                lowered.before,
                guard,
                self._main_kinds() * slots.runs,
                lowered.extends * EXTEND,
            )
        )
        there = kinds > 0
        count = there.sum(axis=0)
        first = starts_of(count)
        place = first[:-1] + there.cumsum(axis=0) - there
        self.kind = np.zeros(int(first[-1]), np.int64)
        self.kind[place[there]] = kinds[there]
        self.slot = np.arange(len(count)).repeat(count)
        self.pad_at, self.pad = place[0, there[0]], pad[there[0]]
        self.meters, self.guard, self.main = place[1, there[1]], place[3], place[4]
        self.entered = np.where(slots.runs, first[:-1], -1)
        self._lay_out_cold((accesses == _TRANSLATE).nonzero()[0])
        goes = (JUMPS | BRANCHES | LOCAL_CALLS)[slots.form].nonzero()[0]
        self.jump[self.main[goes]] = self.entered[slots.jump_target[goes]]

    def _lay_out_cold(self, translated: Rows) -> None:
        """Add the pieces off the main path. translated: the slots whose addresses are."""
        slots, divides = self.slots, self.lowered.guard > 0
        heads, halves = slots.leads.nonzero()[0], slots.entered
        faulty = (divides | _CALLS[slots.form]).nonzero()[0]
        # Where something leads to a second half, that is a block of one fault: its meter, the fault, and leaving.
        owners = (heads, translated, faulty, halves.repeat(3))
        ends = len(self.kind) + np.cumsum([0, *map(len, owners)])
        left, find, fault, behind = (np.arange(start, end) for start, end in pairwise(ends.tolist()))
        half_meter, half, half_left = behind.reshape(-1, 3).T
        self.slot = np.concatenate((self.slot, *owners))
        self.kind = np.concatenate((self.kind, np.zeros(len(self.slot) - len(self.kind), np.int64)))
        self.jump, self.cold = np.zeros((2, len(self.slot)), np.int64)
        self.kind[left], self.kind[find], self.kind[fault] = _OUT_OF_BUDGET, _FIND, _FAULT
        self.kind[half_meter], self.kind[half], self.kind[half_left] = _METER, _FAULT, _OUT_OF_BUDGET
        self.cold[self.meters] = left
        self.cold[self.guard[translated]], self.jump[find] = find, self.guard[translated] + 1
        self.cold[np.where(divides, self.guard, self.main)[faulty]] = fault
        self.cold[half_meter] = half_left
        self.entered[halves] = half_meter
        self.meters = np.concatenate((self.meters, half_meter))

    def _accesses(self) -> Rows:
        """How the address of each access becomes one of the host: a kind, 0 for what is no access."""
        slots, form = self.slots, self.slots.form
        kind = ACCESSES[form] * _TRANSLATE
        if self.layout.frame_is_known:
            base = np.where(BASE_IS_SRC[form], slots.src, slots.dst)
            inside = (slots.offset >= -FRAME_SIZE) & (slots.offset <= -SIZE[form])
            kind[ACCESSES[form] & inside & (base == FRAME_POINTER)] = _FRAME
        return kind

    def _main_kinds(self) -> Rows:
        """The kind of the piece that carries each slot out."""
        form, natives = self.slots.form, self.layout.natives
        kind = np.where(self.lowered.kind > 0, self.lowered.kind, form)
        calls = form == _CALL
        kind[calls] = _OUTSIDE
        if natives:
            kind[calls & np.isin(self.slots.imm & 0xFFFF_FFFF, list(natives))] = _NATIVE_SYSCALL
        kind[form == 0] = _FAULT
        return kind

    # What they work with

    def _add_operands(self) -> None:
        slots, slot, kind = self.slots, self.slot, self.kind
        operands = np.zeros((len(Operand), len(kind)), np.int64)
        last = len(self.backend.registers) - 1
        operands[_DST] = self.backend.registers[np.minimum(slots.dst, last)][slot]
        operands[_SRC] = self.backend.registers[np.minimum(slots.src, last)][slot]
        operands[_OFFSET] = slots.offset[slot]
        imm = slots.imm[slot]
        constants = (kind == CONSTANT).nonzero()[0]
        imm[constants] = slots.code.constant[slot[constants]].view(np.int64)
        imm[self.meters] = slots.counted[slot[self.meters]]
        imm[self.pad_at] = self.pad
        operands[_IMM] = imm
        self.operands = operands
        self._use_spare()
        self._add_sites()
        self._add_calls()
        if self.random is not None:
            self._hide_constants()

    def _use_spare(self) -> None:
        """Let the spare register be what a constant goes to, and what an instruction behind it works with."""
        operands, kind, slot = self.operands, self.kind, self.slot
        form, before = self.slots.form, self.lowered.before
        extends = self.lowered.extends[slot] & (kind == EXTEND)
        operands[_SRC, extends] = operands[_DST, extends]
        spared = before == CONSTANT
        loads_spare = spared[slot] & (kind == CONSTANT)
        operands[_SRC, spared[slot] & ~loads_spare] = operands[_DST, loads_spare] = self.backend.spare
        accesses = ACCESSES[form].nonzero()[0]
        main = self.main[accesses]
        loads = BASE_IS_SRC[form[accesses]]
        operands[_SRC, main[loads]] = operands[_DST, main[~loads]] = self.backend.spare
        framed = (kind[self.guard[accesses]] == _FRAME) & (self.random is None)
        operands[_OFFSET, main[~framed]] = 0

    def _add_sites(self) -> None:
        """Say to translations which site they use: one for each register and way of access, those used most first."""
        slots, kind, slot = self.slots, self.kind, self.slot
        rows = ((kind == _TRANSLATE) | (kind == _FIND)).nonzero()[0]
        form = slots.form[slot[rows]]
        writes = STORES[form]
        base = np.where(BASE_IS_SRC[form], slots.src[slot[rows]], slots.dst[slot[rows]])
        number = np.zeros(len(rows), np.int64)
        for parity in (0, 1):
            of_way = writes == bool(parity)
            used = np.bincount(base[of_way], minlength=FRAME_POINTER + 1)
            rank = np.empty(len(used), np.int64)
            rank[(-used).argsort(kind="stable")] = range(len(used))
            number[of_way] = rank[base[of_way]] * 2 + parity
        size = SIZE[form]
        offset = OFFSET["sites"] + number * SITE_SIZE - self.backend.record_bias
        translates = kind[rows] == _TRANSLATE
        self.operands[_IMM, rows] = np.where(translates, offset, described(number, size, writes))
        self.operands[_EXTRA, rows] = offset + _BOUND_OF_SIZE[size]
        self.operands[_HOST, rows] = OFFSET["hosts"] + 8 * number - self.backend.record_bias

    def _add_calls(self) -> None:
        """Say to calls how r10 moves, and how large the table of functions is, or where a syscall is."""
        slots, layout, operands = self.slots, self.layout, self.operands
        operands[_OFFSET, self.main[_CALLS[slots.form]]] = layout.step
        registers = self.main[REGISTER_CALLS[slots.form]]
        # The last slot stands for the place behind the end.
        operands[_EXTRA, registers] = SLOT * (len(slots.code) - 1)
        natives = (self.kind == _NATIVE_SYSCALL).nonzero()[0]
        numbers = slots.imm[self.slot[natives]] & 0xFFFF_FFFF
        operands[_EXTRA, natives] = [layout.natives[number] for number in numbers.tolist()]

    def _hide_constants(self) -> None:
        """Draw keys, and combine with them what the program chooses."""
        assert self.random is not None
        operands, kind = self.operands, self.kind
        form = np.where(kind < len(CONSTANTS), kind, 0)
        key = operands[_KEY] = keys(self.random, CONSTANTS[form])
        addresses = (kind == _TRANSLATE) | (kind == _FIND) | (kind == _FRAME)
        operands[_HIDDEN] = np.where(addresses, operands[_OFFSET], operands[_IMM]) ^ key
        rows = ACCESSES[form].nonzero()[0]
        operands[_EXTRA, rows] = key[rows]

    # Which templates they take

    def _add_features(self) -> None:
        slots, slot, kind = self.slots, self.slot, self.kind
        form = np.where(kind < len(CONSTANTS), kind, 0)
        addresses = (kind == _TRANSLATE) | (kind == _FIND)
        features = self.backend.own_features(kind, self.operands)
        features |= (addresses & BASE_IS_SRC[slots.form[slot]]) * _FROM_SRC
        divides = (kind == Kind.DIVISOR) | (kind == Kind.SIGNED_DIVISOR)
        features |= (divides & self.lowered.narrow[slot]) * _NARROW
        if self.plan.hardening:
            features |= (_HIDES[form] | addresses | (kind == _FRAME)) * _HIDDEN_CONSTANT
        calls = _CALLS[form].nonzero()[0]
        if len(calls):
            features[calls] |= self._features_of_calls(slot[calls], form[calls])
        self.features = features
