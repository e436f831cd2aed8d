"""The architecture-neutral compiler: from a program to machine code and the edges of a link graph.

A program becomes *pieces*, each an instance of a template: for every instruction its own, before it a
check where it reads or writes memory that no proof covers, at the head of every basic block one that takes
from the meter. What is hardly ever run lies behind all of them: leaving, and the search behind a check.

    slots       what every slot is, and the basic blocks        jitlink.bpf.jit.program
    pieces      which pieces, in which order, with what operands
    shapes      the template of each piece; branches short where they reach
    code        the templates written out, holes filled         jitlink.bpf.jit.templates
    edges       whatever refers to another place

All of it is array work over the whole program. The one loop makes branches long until every short one
reaches; a piece never shrinks, so it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from jitlink.bpf.control_flow import forms_where
from jitlink.bpf.instructions import SLOT, USES
from jitlink.bpf.isa import FRAME_POINTER, STACK_SIZE, Family
from jitlink.bpf.jit.abi import OFFSET, SITE_SIZE, SITES
from jitlink.bpf.jit.backend import SAVES, Feature, Kind, Shapes, described
from jitlink.bpf.jit.hardening import Hardening, keys, padding
from jitlink.bpf.jit.program import (
    ACCESSES,
    ATOMICS,
    BASE_IS_SRC,
    BRANCHES,
    CALLS,
    CONSTANTS,
    JUMPS,
    LOCAL_CALLS,
    MAY_GOTO,
    REGISTER_CALLS,
    SIZE,
    STORES,
    Mask,
    Slots,
)
from jitlink.bpf.jit.templates import Operand, Reach, fill_in
from jitlink.bpf.machine import FUNCTION_BASE
from jitlink.columns import NO_ROWS, Buffer, Rows, starts_of

_FUNCTION_ADDRESSES = forms_where(Family.CONSTANT, operation="code")
_HELPER_CALLS = forms_where(Family.CALL, operation="helper")
_GIVEN_AWAY = CALLS & ~LOCAL_CALLS & ~REGISTER_CALLS | forms_where(Family.PACKET)
_BYTE_ORDERS = forms_where(Family.BYTE_ORDER)
_HIDDEN = ACCESSES | CONSTANTS | USES["imm"] & forms_where(Family.ARITHMETIC, Family.BRANCH) & ~MAY_GOTO
_KEEPING = LOCAL_CALLS | REGISTER_CALLS
_SIZE_INDEX = np.zeros(9, np.int64)
_SIZE_INDEX[[1, 2, 4, 8]] = range(4)
_BOUNDS = 8
"""Where the bounds begin in a site."""


# Plain integers: looking up the member of an enumeration takes as long as an array operation.
_METER, _OUT_OF_BUDGET, _CHECK, _SEARCH = map(int, (Kind.METER, Kind.OUT_OF_BUDGET, Kind.CHECK, Kind.SEARCH))
_FAULT, _OUTSIDE, _NATIVE_HELPER, _PADDING = map(int, (Kind.FAULT, Kind.OUTSIDE, Kind.NATIVE_HELPER, Kind.PADDING))
_DST, _SRC, _IMM, _OFFSET, _KEY, _HIDDEN_VALUE, _EXTRA = map(int, Operand)
_LONG, _HIDES, _SWAPPED, _ALIGNED = map(int, (Feature.LONG, Feature.HIDDEN, Feature.SWAPPED, Feature.ALIGNED))
_FROM_SRC, _COUNTS, _FORGETS = map(int, (Feature.FROM_SRC, Feature.CALL_COUNTS, Feature.CALL_FORGETS))
_SAVES = [int(each) for each in SAVES]
_JUMP, _IN_RUNTIME, _OUTSIDE_IMAGE = int(Reach.JUMP), int(Reach.RUNTIME), int(Reach.OUTSIDE)


@dataclass(frozen=True)
class Plan:
    """What the code of a program is to be like.

    Attributes: sandbox (check accesses); metered (count instructions); swapped (the program's byte order
    is not the host's); hardening; helpers (addresses of helpers in machine code, by number);
    frame_is_known (r10 is the end of the active frame, as in every verified program).
    """

    sandbox: bool = True
    metered: bool = True
    swapped: bool = False
    hardening: Hardening | None = None
    helpers: Mapping[int, int] = field(default_factory=dict)
    frame_is_known: bool = True


@dataclass(frozen=True)
class Edges:
    """References of the code: each column has one row an edge.

    at: byte of the code; kind: relocation kind by name, a row of kind_names; reach; target: byte of the
    code (JUMP, COLD), row of names (RUNTIME), or an address (OUTSIDE); addend.
    """

    at: Rows
    kind: Rows
    reach: Rows
    target: Rows
    addend: Rows
    kind_names: list[str]
    names: list[str]


@dataclass(frozen=True)
class MachineCode:
    """A program in machine code, before it is linked.

    Attributes: code; edges; place and slot (int64[pieces]: the first byte of each piece, and the slot
    that it carries out); entry (int64[slots + 1], the byte where each slot is entered, -1 where it
    cannot be); slots; needs_table (it looks functions up by their pointers).
    """

    code: Buffer
    edges: Edges
    place: Rows
    slot: Rows
    entry: Rows
    slots: Slots
    needs_table: bool


def compile_slots(slots: Slots, shapes: Shapes, plan: Plan, proven: Mask | None = None) -> MachineCode:
    """Compile a program. proven: bool[slots + 1], accesses that need no check beyond those of the stack."""
    return _Compiler(slots, shapes, plan, proven).compile()


class _Compiler:
    """One program in the making. The columns of pieces are named like those of a table: piece_*."""

    def __init__(self, slots: Slots, shapes: Shapes, plan: Plan, proven: Mask | None) -> None:
        self.slots = slots
        self.shapes = shapes
        self.backend = shapes.backend
        self.plan = plan
        self.proven = proven
        self.random = plan.hardening.randomness() if plan.hardening else None

    def compile(self) -> MachineCode:
        """Do all steps, in order."""
        self._lay_out_pieces()
        self._add_operands()
        self._add_features()
        self._choose_templates()
        columns = self.shapes.table.columns
        code = fill_in(columns, self.template, self.place[:-1], self.operands, int(self.place[-1]))
        entry = np.where(self.entered >= 0, self.place[self.entered], -1)
        needs_table = bool(REGISTER_CALLS[self.slots.form].any())
        return MachineCode(code, self._edges(), self.place[:-1], self.slot, entry, self.slots, needs_table)

    # Which pieces there are

    def _lay_out_pieces(self) -> None:
        """Give every piece its row: in the order of the slots, and then what is off the main path."""
        slots, plan = self.slots, self.plan
        form, runs = slots.form, slots.runs
        metered = slots.leads & plan.metered
        checked = self._checked()
        pad = self._padding()
        count = (pad > 0).astype(np.int64) + metered + checked + runs
        first = starts_of(count)
        hot = int(first[-1])
        meter_at = (first[:-1] + (pad > 0))[metered]
        check_at = (first[1:] - 2)[checked]
        main_at = (first[1:] - 1)[runs]
        failing = self._failing()
        # Behind them: leaving at blocks, searches, faults, and second halves that something leads to.
        blocks, searched, faulty = metered.nonzero()[0], checked.nonzero()[0], failing.nonzero()[0]
        halves = slots.entered
        parts = [blocks, searched, faulty, halves, halves, halves] if plan.metered else [NO_ROWS, searched, faulty]
        if not plan.metered:
            parts += [NO_ROWS, halves, NO_ROWS]
        begin = hot + starts_of(np.array([len(part) for part in parts]))
        left, search, fault, half_meter, half, half_left = (
            np.arange(start, end) for start, end in pairwise(begin.tolist())
        )
        if plan.metered:
            # The meter of a second half lies in front of its fault.
            pairs = np.arange(half_meter[0], half_left[0]) if len(halves) else NO_ROWS
            half_meter, half = pairs[::2], pairs[1::2]
        total = int(begin[-1])
        self.kind, self.slot = np.empty(total, np.int64), np.empty(total, np.int64)
        self.jump, self.cold = np.zeros(total, np.int64), np.zeros(total, np.int64)
        self.slot[:hot] = np.arange(len(form)).repeat(count)
        self.pad_at = first[:-1][pad > 0]
        self.pad = pad[pad > 0]
        self._put(self.pad_at, _PADDING)
        self._put(meter_at, _METER, cold=left)
        self._put(check_at, _CHECK, cold=search)
        self.kind[main_at] = self._main_kinds()[runs]
        self._put(left, _OUT_OF_BUDGET, slot=blocks)
        self._put(search, _SEARCH, slot=searched, jump=check_at + 1)
        self._put(fault, _FAULT, slot=faulty)
        if plan.metered:
            self._put(half_meter, _METER, slot=halves, cold=half_left)
            self._put(half_left, _OUT_OF_BUDGET, slot=halves)
        self._put(half, _FAULT, slot=halves)
        self.entered = np.where(runs, first[:-1], -1)
        self.entered[halves] = half_meter if plan.metered else half
        self.main = np.zeros(len(form), np.int64)
        self.main[runs] = main_at
        self.cold[self.main[faulty]] = fault
        goes = (JUMPS | BRANCHES | LOCAL_CALLS)[form].nonzero()[0]
        target = slots.jump_target[goes]
        inside = slots.stays[goes]
        self.jump[self.main[goes]] = np.where(
            inside, self.entered[np.where(inside, target, 0)], self.cold[self.main[goes]]
        )

    def _put(
        self, at: Rows, kind: int, *, slot: Rows | None = None, jump: Rows | None = None, cold: Rows | None = None
    ) -> None:
        self.kind[at] = kind
        if slot is not None:
            self.slot[at] = slot
        if jump is not None:
            self.jump[at] = jump
        if cold is not None:
            self.cold[at] = cold

    def _main_kinds(self) -> Rows:
        """The kind of the piece that carries each slot out."""
        slots = self.slots
        form, imm = slots.form, slots.imm
        given_away = _GIVEN_AWAY[form] | (ATOMICS[form] if self.plan.swapped else False)
        kind = np.where(given_away, _OUTSIDE, form)
        if self.plan.helpers:
            native = _HELPER_CALLS[form] & np.isin(imm & 0xFFFF_FFFF, list(self.plan.helpers))
            kind[native] = _NATIVE_HELPER
        # A jump that leads out of the program is a fault, and so is what nobody can carry out.
        astray = (JUMPS | LOCAL_CALLS)[form] & ~slots.stays
        kind[(form == 0) | astray] = _FAULT
        return kind

    def _checked(self) -> Mask:
        """Mark the accesses that are compared with the regions while the program runs: bool[slots + 1]."""
        slots, form = self.slots, self.slots.form
        if not self.plan.sandbox:
            return np.zeros(len(form), bool)
        checked = ACCESSES[form]
        if self.plan.swapped:
            checked = checked & ~ATOMICS[form]
        if self.plan.frame_is_known:
            base = np.where(BASE_IS_SRC[form], slots.src, slots.dst)
            inside = (slots.offset >= -STACK_SIZE) & (slots.offset <= -SIZE[form])
            checked = checked & ~((base == FRAME_POINTER) & inside)
        return checked if self.proven is None else checked & ~self.proven

    def _failing(self) -> Mask:
        """Mark the instructions that can fault otherwise than by an access out of bounds: bool[slots + 1]."""
        form = self.slots.form
        failing = _KEEPING[form] | BRANCHES[form] & ~self.slots.stays
        if self.plan.sandbox:
            failing = failing | ATOMICS[form]
        return failing

    def _padding(self) -> Rows:
        if self.random is None:
            return np.zeros(len(self.slots.form), np.int64)
        return padding(self.random, len(self.slots.form), self.backend.paddings) * self.slots.runs

    # What they work with

    def _add_operands(self) -> None:
        slots, slot, kind = self.slots, self.slot, self.kind
        operands = np.zeros((len(Operand), len(kind)), np.int64)
        last = len(self.backend.registers) - 1
        operands[_DST] = self.backend.registers[np.minimum(slots.dst, last)][slot]
        operands[_SRC] = self.backend.registers[np.minimum(slots.src, last)][slot]
        imm = self._immediates()[slot]
        operands[_OFFSET] = slots.offset[slot]
        metered = kind == _METER
        imm[metered] = slots.counted[slot[metered]]
        imm[self.pad_at] = self.pad
        self.operands = operands
        if self.plan.sandbox:
            self._add_sites(imm)
        tables = REGISTER_CALLS[np.where(kind < len(REGISTER_CALLS), kind, 0)]
        operands[_EXTRA][tables] = SLOT * len(slots.code)
        if self.plan.helpers:
            rows = (kind == _NATIVE_HELPER).nonzero()[0]
            operands[_EXTRA][rows] = [self.plan.helpers[number & 0xFFFF_FFFF] for number in imm[rows].tolist()]
        if self.random is not None:
            self._hide(imm)
        operands[_IMM] = imm

    def _immediates(self) -> Rows:
        """The constant of each slot: int64[slots + 1]."""
        slots = self.slots
        wide, pointer = CONSTANTS[slots.form], _FUNCTION_ADDRESSES[slots.form].nonzero()[0]
        imm = slots.imm.copy()
        imm[:-1] = np.where(wide[:-1], slots.code.constant.view(np.int64), imm[:-1])
        if len(pointer):
            target = (pointer + 1 + slots.imm[pointer]) * SLOT
            imm[pointer] = target + np.int64(FUNCTION_BASE - (1 << 64))
        return imm

    def _add_sites(self, imm: Rows) -> None:
        """Say to checks and searches which site they use: one for each register and way of access.

        The sites used most come first, where their displacement in the record is small.
        """
        slots, kind, slot = self.slots, self.kind, self.slot
        rows = ((kind == _CHECK) | (kind == _SEARCH)).nonzero()[0]
        form = slots.form[slot[rows]]
        writes = STORES[form] | ATOMICS[form] & ~BASE_IS_SRC[form]
        base = np.where(BASE_IS_SRC[form], slots.src[slot[rows]], slots.dst[slot[rows]])
        site = np.zeros(len(rows), np.int64)
        for parity in (0, 1):
            of_way = writes == bool(parity)
            used = np.bincount(base[of_way], minlength=FRAME_POINTER + 1)
            rank = np.empty(len(used), np.int64)
            rank[(-used).argsort(kind="stable")] = range(len(used))
            site[of_way] = rank[base[of_way]] * 2 + parity
        assert len(site) == 0 or int(site.max()) < SITES
        offset = OFFSET["sites"] + site * SITE_SIZE
        size = SIZE[form]
        checks = kind[rows] == _CHECK
        bias = self.backend.record_bias
        imm[rows] = np.where(checks, offset - bias, described(offset, size, writes))
        self.operands[_EXTRA][rows] = np.where(checks, offset + _BOUNDS + 8 * _SIZE_INDEX[size] - bias, 0)

    def _hide(self, imm: Rows) -> None:
        """Draw keys, and combine with them what the program chooses."""
        assert self.random is not None
        operands, kind = self.operands, self.kind
        offset = operands[_OFFSET]
        form = np.where(kind < len(CONSTANTS), kind, 0)
        key = operands[_KEY] = keys(self.random, CONSTANTS[form])
        checks = (kind == _CHECK) | (kind == _SEARCH)
        operands[_HIDDEN_VALUE] = np.where(checks, offset, imm) ^ key
        rows = ACCESSES[form].nonzero()[0]
        operands[_EXTRA][rows] = offset[rows] ^ key[rows]

    # Which templates they take

    def _add_features(self) -> None:
        slots, slot, kind, plan = self.slots, self.slot, self.kind, self.plan
        form = np.where(kind < len(CONSTANTS), kind, 0)
        checks = (kind == _CHECK) | (kind == _SEARCH)
        features = self.backend.own_features(kind, self.operands)
        features |= (checks & BASE_IS_SRC[slots.form[slot]]) * _FROM_SRC
        if plan.swapped:
            features |= (ACCESSES | _BYTE_ORDERS)[form] * _SWAPPED
        if plan.sandbox:
            features |= ATOMICS[form] * _ALIGNED
        if plan.hardening:
            features |= (_HIDDEN[form] | checks) * _HIDES
        calls = _KEEPING[form].nonzero()[0]
        if len(calls):
            features[calls] |= self._features_of_calls(slot[calls], form[calls])
        self.features = features

    def _features_of_calls(self, slot: Rows, form: Rows) -> Rows:
        """What calls of functions have to keep."""
        features = np.zeros(len(slot), np.int64)
        saved = self.slots.saved_by_callers()
        target = np.where(LOCAL_CALLS[form], self.slots.jump_target[slot], 0)
        for row, feature in enumerate(_SAVES):
            features |= (saved[row, target] | REGISTER_CALLS[form]) * feature
        if MAY_GOTO[self.slots.form].any():
            features |= _COUNTS
        if self.plan.sandbox:
            features |= _FORGETS
        return features

    def _choose_templates(self) -> None:
        """Choose templates, with branches as short as they can be, and place the pieces."""
        template = self.shapes.templates_of(self.kind, self.features)
        form = np.where(self.kind < len(CONSTANTS), self.kind, 0)
        short = (JUMPS | BRANCHES)[form].nonzero()[0]
        long_form = self.shapes.templates_of(self.kind[short], self.features[short] | _LONG)
        size = self.shapes.table.columns.size
        low, high = self.backend.short_reach
        target = self.jump[short]
        while True:
            place = starts_of(size[template])
            if not len(short):
                break
            distance = place[target] - place[short + 1]
            far = (distance < low) | (distance >= high)
            if not np.count_nonzero(far):
                break
            template[short[far]] = long_form[far]
            short, long_form, target = short[~far], long_form[~far], target[~far]
        self.template, self.place = template, place

    def _edges(self) -> Edges:
        columns = self.shapes.table.columns
        piece, row = columns.edges_of(self.template)
        reach = columns.edge_reach[row]
        target = self.place[np.where(reach == _JUMP, self.jump[piece], self.cold[piece])]
        outside = reach == _OUTSIDE_IMAGE
        target[outside] = self.operands[_EXTRA][piece[outside]]
        in_runtime = reach == _IN_RUNTIME
        target[in_runtime] = columns.edge_name[row[in_runtime]]
        at = self.place[piece] + columns.edge_at[row]
        addend = columns.edge_addend[row]
        return Edges(at, columns.edge_kind[row], reach, target, addend, columns.kind_names, columns.names)
