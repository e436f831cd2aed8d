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
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jitlink.bpf.control_flow import forms_where
from jitlink.bpf.instructions import SLOT, USES
from jitlink.bpf.isa import FORMS, REGISTERS, Family
from jitlink.bpf.jit.abi import OFFSET, SITE_SIZE, SIZES, Site
from jitlink.bpf.jit.backend import SAVES, Feature, Kind, Shapes, described
from jitlink.bpf.jit.hardening import Hardening, keys, padding
from jitlink.bpf.jit.program import (
    ACCESSES,
    ATOMICS,
    BASE_IS_SRC,
    BRANCHES,
    CALLS,
    CONSTANTS,
    FUNCTION_ADDRESSES,
    JUMPS,
    LOCAL_CALLS,
    MAY_GOTO,
    REGISTER_CALLS,
    SIZE,
    WRITES_MEMORY,
    Mask,
    Slots,
)
from jitlink.bpf.jit.templates import Operand, Reach, fill_in
from jitlink.bpf.machine import FUNCTION_BASE
from jitlink.bpf.maps.arrays import ArrayMap
from jitlink.columns import NO_ROWS, Buffer, Rows, starts_of

_GIVEN_AWAY = CALLS & ~LOCAL_CALLS & ~REGISTER_CALLS | forms_where(Family.PACKET)
_HELPER_CALLS = forms_where(Family.CALL, operation="helper")
_HIDDEN = ACCESSES | CONSTANTS | USES["imm"] & forms_where(Family.ARITHMETIC, Family.BRANCH) & ~MAY_GOTO
_FIRST_SITES = OFFSET["sites"] + SITE_SIZE * np.arange(2)
"""Where the first site for reading is in the record, and the first one for writing."""
_WAYS = 2 * REGISTERS
"""Ways of access: by each register, for reading and for writing."""
_BOUNDS = Site.bounds.offset + 8 * np.minimum(np.array(SIZES).searchsorted(SIZE), len(SIZES) - 1)
"""Where the bound for an access of each form lies in a site."""
_DESCRIPTIONS = described(np.zeros(len(FORMS), np.int64), SIZE, WRITES_MEMORY)
"""What a search has to know of an access of each form, but for the site."""

# Plain integers: looking up the member of an enumeration takes as long as an array operation.
_METER, _OUT_OF_BUDGET, _CHECK, _SEARCH = map(int, (Kind.METER, Kind.OUT_OF_BUDGET, Kind.CHECK, Kind.SEARCH))
_FAULT, _OUTSIDE, _NATIVE_HELPER, _PADDING = map(int, (Kind.FAULT, Kind.OUTSIDE, Kind.NATIVE_HELPER, Kind.PADDING))
_ARRAY_LOOKUP = int(Kind.ARRAY_LOOKUP)
_DST, _SRC, _IMM, _OFFSET, _KEY, _HIDDEN_VALUE, _EXTRA, _HOST = map(int, Operand)
_LONG, _HIDES, _SWAPPED, _ALIGNED = map(int, (Feature.LONG, Feature.HIDDEN, Feature.SWAPPED, Feature.ALIGNED))
_FROM_SRC, _COUNTS, _FORGETS = map(int, (Feature.FROM_SRC, Feature.CALL_COUNTS, Feature.CALL_FORGETS))
_SAVES = [int(each) for each in SAVES]
_JUMP, _COLD, _OUTSIDE_IMAGE = int(Reach.JUMP), int(Reach.COLD), int(Reach.OUTSIDE)


def of_kinds(forms: Mask) -> Mask:
    """Make a table for all kinds of one for the forms; the others are not marked."""
    return np.concatenate((forms, np.zeros(max(Kind) + 1 - len(forms), bool)))


_BRANCHING, _KEEPING = of_kinds(JUMPS | BRANCHES), of_kinds(LOCAL_CALLS | REGISTER_CALLS)
_CAN_FAIL = [LOCAL_CALLS | REGISTER_CALLS, LOCAL_CALLS | REGISTER_CALLS | ATOMICS]
"""Forms that can fault otherwise than by an access out of bounds, by whether there is a sandbox."""
_MAIN_KINDS = [
    np.where(_GIVEN_AWAY | (ATOMICS if swapped else False), _OUTSIDE, np.arange(len(FORMS)))
    for swapped in (False, True)
]
"""The kind of the piece that carries a form out, by whether the byte order is not the host's."""
for _kinds in _MAIN_KINDS:
    _kinds[0] = _FAULT


@cache
def _features_of_kinds(sandbox: bool, swapped: bool, hidden: bool) -> Rows:
    """The features that follow from the kind of a piece alone: int64[kinds]."""
    features = np.zeros(max(Kind) + 1, np.int64)
    features |= of_kinds(ACCESSES | forms_where(Family.BYTE_ORDER)) * (_SWAPPED * swapped)
    features |= of_kinds(ATOMICS) * (_ALIGNED * sandbox)
    features |= of_kinds(_HIDDEN) * (_HIDES * hidden)
    features[[_CHECK, _SEARCH]] |= _HIDES * hidden
    return features


@dataclass(frozen=True)
class Plan:
    """What the code of a program is to be like.

    Attributes: sandbox (check accesses); metered (count instructions); swapped (the program's byte order
    is not the host's); hardening; helpers (addresses of helpers in machine code, by number).
    """

    sandbox: bool = True
    metered: bool = True
    swapped: bool = False
    hardening: Hardening | None = None
    helpers: Mapping[int, int] = field(default_factory=dict)


class Edges(NamedTuple):
    """References of the code: each column has one row an edge.

    at: byte of the code; kind: number of a relocation kind of the target; symbol: number of a symbol that every
    graph of a program has (Shapes.symbols), 0 where it is an address outside; addend, of a place in the code with
    that place. outside: of those rows, in their order, the addresses.
    """

    at: Rows
    kind: Rows
    symbol: Rows
    addend: Rows
    outside: Rows


class MachineCode(NamedTuple):
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


def compile_slots(
    slots: Slots,
    shapes: Shapes,
    plan: Plan,
    proven: Mask | None = None,
    arrays: Mapping[int, ArrayMap] = MappingProxyType({}),
) -> MachineCode:
    """Compile a program.

    proven: bool[slots + 1], accesses that need no check; arrays: by slot, those that a call looks up, whose key
    needs no check either.
    """
    return Compiler(slots, shapes, plan, proven, arrays).compile()


class Compiler:
    """One program in the making.

    Columns with a row for each piece: kind, slot (that it carries out, or belongs to), jump and cold (the pieces
    that these reaches lead to), operands (int64[Operand, pieces]), features, template, place. With a row for each
    slot: main (the piece that carries it out), entered (the first piece of it, -1 where nothing can lead to it).
    """

    def __init__(
        self,
        slots: Slots,
        shapes: Shapes,
        plan: Plan,
        proven: Mask | None,
        arrays: Mapping[int, ArrayMap] = MappingProxyType({}),
    ) -> None:
        self.slots = slots
        self.shapes = shapes
        self.backend = shapes.backend
        self.plan = plan
        self.proven = proven
        self.arrays = arrays
        self.random = plan.hardening.randomness() if plan.hardening else None

    def compile(self) -> MachineCode:
        """Do all steps, in order."""
        self._lay_out_pieces()
        self._add_operands()
        self._add_features()
        self._choose_templates()
        columns = self.shapes.table.columns
        place, entered = self.place[:-1], self.entered
        code = fill_in(columns, self.template, place, self.operands, int(self.place[-1]))
        entry = place[entered]
        entry[entered < 0] = -1
        needs_table = bool(np.count_nonzero(REGISTER_CALLS[self.slots.form]))
        return MachineCode(code, self._edges(), place, self.slot, entry, self.slots, needs_table)

    # Which pieces there are

    def _lay_out_pieces(self) -> None:
        """Give every piece its row: in the order of the slots, and then what is off the main path."""
        slots = self.slots
        runs = slots.runs
        checked, failing = self._checked(), self._failing()
        count = runs.astype(np.int64)
        count += checked
        if self.plan.metered:
            count += slots.leads
        pad = None
        if self.random is not None:
            pad = self._padding()
            count += pad > 0
        end = count.cumsum()
        first = end - count
        self.main = main = end - 1
        # Behind them: leaving at blocks, searches, and faults.
        heads = slots.leads.nonzero()[0] if self.plan.metered else NO_ROWS
        self.checked, faulty = checked.nonzero()[0], failing.nonzero()[0]
        left = int(end[-1])
        search = left + len(heads)
        fault = search + len(self.checked)
        rows = np.arange(fault + len(faulty))
        self.slot = np.concatenate((np.arange(len(count)).repeat(count), heads, self.checked, faulty))
        self.kind, self.jump, self.cold = np.zeros((3, len(rows)), np.int64)
        self.kind[main[runs]] = self._main_kinds()[runs]
        self.kind[left:search], self.kind[search:fault], self.kind[fault:] = _OUT_OF_BUDGET, _SEARCH, _FAULT
        self.cold[main[faulty]] = rows[fault:]
        self.meters = first[heads]
        if pad is not None:
            self.pad_at, self.pad = first[pad > 0], pad[pad > 0]
            self.meters += pad[heads] > 0
            self.kind[self.pad_at] = _PADDING
        self.kind[self.meters] = _METER
        self.cold[self.meters] = rows[left:search]
        self.checks, self.searches = main[self.checked] - 1, rows[search:fault]
        self.kind[self.checks] = _CHECK
        self.cold[self.checks], self.jump[search:fault] = self.searches, main[self.checked]
        self.entered = first
        first[~runs] = -1
        if len(slots.entered):
            self._add_halves(slots.entered)
        self._aim_jumps()

    def _add_halves(self, halves: Rows) -> None:
        """Add the faults of second halves that something leads to; each has a meter in front of it."""
        metered = int(self.plan.metered)
        end, count = len(self.kind), len(halves)
        first = end + np.arange(count) * (1 + metered)
        fault, left = first + metered, end + np.arange(count) + count * (1 + metered)
        added = np.zeros((4, count * (1 + 2 * metered)), np.int64)
        pieces = zip(added, (self.kind, self.slot, self.jump, self.cold), strict=True)
        self.kind, self.slot, self.jump, self.cold = (np.concatenate((column, more)) for more, column in pieces)
        self._put(fault, _FAULT, slot=halves)
        if metered:
            self._put(first, _METER, slot=halves, cold=left)
            self._put(left, _OUT_OF_BUDGET, slot=halves)
            self.meters = np.concatenate((self.meters, first))
        self.entered[halves] = first

    def _aim_jumps(self) -> None:
        """Aim jumps, branches and calls of functions at pieces; those that lead out of the program at their fault."""
        slots, main = self.slots, self.main
        goes = slots.stays.nonzero()[0]
        self.jump[main[goes]] = self.entered[slots.jump_target[goes]]
        if len(slots.astray):
            self.jump[main[slots.astray]] = self.cold[main[slots.astray]]

    def _put(
        self, at: Rows, kind: int, *, slot: Rows | None = None, jump: Rows | None = None, cold: Rows | None = None
    ) -> None:
        """Say what pieces are."""
        self.kind[at] = kind
        if slot is not None:
            self.slot[at] = slot
        if jump is not None:
            self.jump[at] = jump
        if cold is not None:
            self.cold[at] = cold

    def _main_kinds(self) -> Rows:
        """The kind of the piece that carries each slot out."""
        slots, helpers = self.slots, self.plan.helpers
        kind = _MAIN_KINDS[self.plan.swapped][slots.form]
        if self.arrays:
            kind[list(self.arrays)] = _ARRAY_LOOKUP
        if helpers:
            calls = _HELPER_CALLS[slots.form].nonzero()[0]
            native = [number & 0xFFFF_FFFF in helpers for number in slots.imm[calls].tolist()]
            calls = calls[native]
            kind[calls[kind[calls] != _ARRAY_LOOKUP]] = _NATIVE_HELPER
        # A jump that leads out of the program is a fault; a branch only is one where it is taken.
        astray = slots.astray
        if len(astray):
            kind[astray[~BRANCHES[slots.form[astray]]]] = _FAULT
        return kind

    def _checked(self) -> Mask:
        """Mark the accesses that are compared with the regions while the program runs: bool[slots + 1]."""
        form = self.slots.form
        if not self.plan.sandbox:
            return np.zeros(len(form), bool)
        checked = ACCESSES[form]
        if self.plan.swapped:
            checked &= ~ATOMICS[form]
        # Of bool, greater is "and not".
        return checked if self.proven is None else checked > self.proven

    def _failing(self) -> Mask:
        """Mark the instructions that can fault otherwise than by an access out of bounds: bool[slots + 1]."""
        slots = self.slots
        failing: Mask = _CAN_FAIL[self.plan.sandbox][slots.form]
        astray = slots.astray
        if len(astray):
            failing[astray[BRANCHES[slots.form[astray]]]] = True
        return failing

    def _padding(self) -> Rows:
        if self.random is None:
            return np.zeros(len(self.slots.form), np.int64)
        return padding(self.random, len(self.slots.form), self.backend.paddings) * self.slots.runs

    # What they work with

    def _add_operands(self) -> None:
        slots = self.slots
        self.operands = operands = np.zeros((len(Operand), len(self.kind)), np.int64)
        slots.fields.take(self.slot, 1, out=operands[: len(slots.fields)], mode="clip")
        operands[: _SRC + 1] = self.shapes.registers[operands[: _SRC + 1]]
        imm, extra = operands[_IMM], operands[_EXTRA]
        self._add_constants(imm)
        imm[self.meters] = slots.counted[self.slot[self.meters]]
        if self.random is not None:
            imm[self.pad_at] = self.pad
        if len(self.checked):
            self._choose_sites(imm, extra)
        calls = self.main[REGISTER_CALLS[slots.form].nonzero()[0]]
        if len(calls):
            extra[calls] = SLOT * len(slots.code)
        if self.plan.helpers:
            rows = (self.kind == _NATIVE_HELPER).nonzero()[0]
            extra[rows] = [self.plan.helpers[number & 0xFFFF_FFFF] for number in imm[rows].tolist()]
        for slot, map in self.arrays.items():
            operands[[_IMM, _OFFSET, _EXTRA], self.main[slot]] = map.max_entries, map.stride, map.base
        if self.random is not None:
            self._hide(imm)

    def _add_constants(self, imm: Rows) -> None:
        """Put both halves of wide constants together."""
        slots = self.slots
        wide = CONSTANTS[slots.form].nonzero()[0]
        if len(wide):
            imm[self.main[wide]] = slots.code.constant[wide].view(np.int64)
            pointer = wide[FUNCTION_ADDRESSES[slots.form[wide]]]
            target = (pointer + 1 + slots.imm[pointer]) * SLOT
            imm[self.main[pointer]] = target + np.int64(FUNCTION_BASE - (1 << 64))

    def _choose_sites(self, imm: Rows, extra: Rows) -> None:
        """Say to checks and searches which site they use: one for each register and way of access.

        The sites used most come first, where their displacement in the record is small.
        """
        slots, checked = self.slots, self.checked
        form = slots.form[checked]
        way = np.where(BASE_IS_SRC[form], slots.src[checked], slots.dst[checked]) * 2 + WRITES_MEMORY[form]
        used = np.bincount(way, minlength=_WAYS).reshape(-1, 2)
        rank = (-used).argsort(0, kind="stable").argsort(0)
        offset = (rank * (2 * SITE_SIZE) + _FIRST_SITES).reshape(-1)[way]
        imm[self.searches] = offset | _DESCRIPTIONS[form]
        offset -= self.backend.record_bias
        imm[self.checks], extra[self.checks] = offset, offset + _BOUNDS[form]

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
        kind, plan = self.kind, self.plan
        features = self.backend.own_features(kind, self.operands)
        features |= _features_of_kinds(plan.sandbox, plan.swapped, plan.hardening is not None)[kind]
        if len(self.checked):
            base = BASE_IS_SRC[self.slots.form[self.checked]] * _FROM_SRC
            features[self.checks] |= base
            features[self.searches] |= base
        calls = _KEEPING[kind].nonzero()[0]
        if len(calls):
            features[calls] |= self._features_of_calls(self.slot[calls], kind[calls])
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
        self.template = template = self.shapes.templates_of(self.kind, self.features)
        short = _BRANCHING[self.kind].nonzero()[0]
        size = self.shapes.table.columns.size
        low, high = self.backend.short_reach
        while True:
            self.place = place = starts_of(size[template])
            if not len(short) or place[-1] < min(high, -low):
                break
            distance = place[self.jump[short]] - place[short + 1]
            far = (distance < low) | (distance >= high)
            if not np.count_nonzero(far):
                break
            rows = short[far]
            template[rows] = self.shapes.templates_of(self.kind[rows], self.features[rows] | _LONG)
            # The table may have got new templates.
            size = self.shapes.table.columns.size
            short = short[~far]

    def _edges(self) -> Edges:
        columns, place = self.shapes.table.columns, self.place
        piece, row = columns.edges.of(self.template)
        reach = columns.edge_reach[row]
        leads_to = np.where(reach == _JUMP, self.jump[piece], self.cold[piece])
        addend = columns.edge_addend[row]
        addend += place[leads_to] * (reach <= _COLD)
        outside = piece[reach == _OUTSIDE_IMAGE]
        kinds, symbols = self.shapes.numbers()
        return Edges(
            place[piece] + columns.edge_at[row], kinds[row], symbols[row], addend, self.operands[_EXTRA, outside]
        )
