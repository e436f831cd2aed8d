"""Proofs: which accesses of a program need no check while it runs.

Most accesses of a program written for the kernel are of four sorts, and each can be seen to be good by
following a few registers through the code:

    the stack       at a constant distance from r10
    the context     at a constant distance from r1 as the program was entered
    the packet      at a constant distance from data, where a comparison with data_end has been passed
    a map's value   at a constant distance from what map_lookup_elem gave, where that is not 0

The first is arithmetic on columns. The rest is one pass over the instructions in their order, where there are
other pointers than r10, with no values but those of pointers. Where control joins, what both sides know stays.
Where it can come back from below, only what no instruction can change stays: a pointer to stack or context in a
register that is written once in the whole program. A call ends what is known of the packet, which it may have
moved, and of r0 to r5.

What a proof takes for granted is checked by the machine: that r1 is the context, when a run starts, and that
map_lookup_elem gave a value of that map, when it returns (anybody can put another helper in its place). Where
it is not so, other code is run that takes nothing for granted.

The context of the traffic control can be written to, also where data and data_end lie. So after any store
that is not known to go elsewhere, and after any call, these are not believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jitlink.bpf.contexts import PacketContext
from jitlink.bpf.isa import FORM_NUMBER, FORMS, FRAME_POINTER, REGISTERS, STACK_SIZE, Family
from jitlink.bpf.jit.program import (
    ACCESSES,
    ATOMICS,
    BASE_IS_SRC,
    BRANCHES,
    JUMPS,
    SIZE,
    WRITES_DST,
    WRITES_SRC,
    Mask,
    Slots,
    within_frame,
)
from jitlink.bpf.maps import Map, ValueMap
from jitlink.bpf.maps.arrays import INDEX_SIZE, ArrayMap

MOST_SLOTS = 8192
"""Programs up to this size are looked at: the pass is a loop, the rest of the compiler is not."""
FARTHEST = 1 << 16
"""Distances from the start of something are followed up to this one."""
MAP_LOOKUP = 1


class To(IntEnum):
    """What a pointer points to."""

    STACK = 0
    CONTEXT = 1
    PACKET = 2
    PACKET_END = 3
    VALUE = 4
    MAP = 5
    """The map itself."""


class Pointer(NamedTuple):
    """What a register holds.

    offset: from r10, from the context's start, from data, from the value's start; map: of VALUE and MAP;
    maybe_null: of VALUE, the slot of the call that gave it, while it may be 0; -1 once it is known not to be.
    """

    to: To
    offset: int = 0
    map: ValueMap | None = None
    maybe_null: int = -1


Lookups = Mapping[int, tuple[int, int]]
"""For calls whose result is believed to be 0 or a value of a map, the first and the last address that it may be."""


class Granted(NamedTuple):
    """What a proof may take for granted.

    Attributes: frame (r10 is the end of the active frame); context (what r1 is at the start); maps (by
    address; none where what map_lookup_elem returns is not to be believed).
    """

    frame: bool = True
    context: type[PacketContext] | None = None
    maps: Mapping[int, Map] = MappingProxyType({})


class Proof(NamedTuple):
    """What was proved.

    Attributes: good (bool[slots + 1], accesses that need no check); lookups (by slot); arrays (of these, those in
    arrays, and whether the index lies in the frame).
    """

    good: Mask
    lookups: Lookups
    arrays: Mapping[int, tuple[ArrayMap, bool]] = MappingProxyType({})


class _State:
    """What is known in front of an instruction.

    registers; length (bytes of the packet that are known to be there); believes (data and data_end in the
    context are what they were made).
    """

    __slots__ = ("believes", "length", "registers")

    def __init__(self, registers: list[Pointer | None], length: int = 0, believes: bool = True) -> None:
        self.registers = registers
        self.length = length
        self.believes = believes

    def copy(self) -> _State:
        return _State(self.registers.copy(), self.length, self.believes)

    def meet(self, other: _State) -> None:
        """Keep what both know."""
        pairs = zip(self.registers, other.registers, strict=True)
        self.registers = [one if one == another else None for one, another in pairs]
        self.length = min(self.length, other.length)
        self.believes &= other.believes

    def forget_packet(self) -> None:
        self.length = 0
        self.registers = [
            None if each is not None and each.to in (To.PACKET, To.PACKET_END) else each for each in self.registers
        ]


def prove(slots: Slots, granted: Granted) -> Proof:
    """Look for accesses that need no check."""
    good = within_frame(slots) if granted.frame else np.zeros(len(slots.form), bool)
    left = np.count_nonzero(ACCESSES[slots.form] > good)
    if not left and granted.maps:
        left = np.count_nonzero(slots.form == _HELPER)
    if not left or len(slots.code) > MOST_SLOTS or not _has_pointers(slots, granted):
        return Proof(good, {})
    prover = _Prover(slots, granted)
    prover.walk()
    good[prover.good] = True
    return Proof(good, prover.lookups, prover.arrays)


def _has_pointers(slots: Slots, granted: Granted) -> bool:
    """Whether there are pointers to follow: a context, a copy of r10, or the address of a map."""
    if granted.context is not None:
        return True
    copies = granted.frame and np.count_nonzero((slots.form == _MOVE) & (slots.src == FRAME_POINTER))
    return bool(copies or (granted.maps and np.count_nonzero(slots.form == _LDDW)))


_MOVE, _ADD, _SUB = FORM_NUMBER["mov64_reg"], FORM_NUMBER["add64_imm"], FORM_NUMBER["sub64_imm"]
_LDDW, _LDXW, _HELPER = FORM_NUMBER["lddw"], FORM_NUMBER["ldxw"], FORM_NUMBER["call_helper"]
_LEAVES = np.array([form.family in (Family.CALL, Family.PACKET) for form in FORMS])
_NULL_TESTS = {FORM_NUMBER["jeq_imm"]: False, FORM_NUMBER["jne_imm"]: True}
"""Of comparisons with 0, whether the register is not 0 where the branch is taken."""
_BOUND_TESTS = {  # whether `pointer condition end` says that the pointer is at most the end where the branch is taken
    FORM_NUMBER["jgt_reg"]: False, FORM_NUMBER["jge_reg"]: False,
    FORM_NUMBER["jlt_reg"]: True, FORM_NUMBER["jle_reg"]: True,
}  # fmt: skip


class _Prover:
    """One pass over a program."""

    def __init__(self, slots: Slots, granted: Granted) -> None:
        self.slots = slots
        self.granted = granted
        self.good: list[int] = []
        self.lookups: dict[int, tuple[int, int]] = {}
        self.arrays: dict[int, tuple[ArrayMap, bool]] = {}
        # A field that is no operand may hold the number of a register that there is not.
        self.dst, self.src = (np.minimum(column, FRAME_POINTER).tolist() for column in (slots.dst, slots.src))
        self.form = slots.form.tolist()
        self.offset, self.imm = slots.offset.tolist(), slots.imm.tolist()
        self.target = slots.jump_target.tolist()
        self.constant = slots.code.constant.tolist()
        self.incoming: dict[int, _State] = {}
        jumps = ((JUMPS | BRANCHES)[slots.form] & slots.stays).nonzero()[0]
        self.from_below = set(slots.jump_target[jumps][slots.jump_target[jumps] <= jumps].tolist())
        self.written_once = self._registers_written_once()

    def _registers_written_once(self) -> list[bool]:
        slots = self.slots
        written = np.concatenate((slots.dst[WRITES_DST[slots.form]], slots.src[WRITES_SRC[slots.form]]))
        writes = np.bincount(written, minlength=REGISTERS).tolist()
        # r0 to r5 are written by calls as well.
        return [register > 5 and writes[register] <= 1 for register in range(REGISTERS)]

    def _nothing(self) -> _State:
        registers: list[Pointer | None] = [None] * REGISTERS
        if self.granted.frame:
            registers[FRAME_POINTER] = Pointer(To.STACK)
        return _State(registers, believes=False)

    def walk(self) -> None:
        """Go over the instructions in their order."""
        leads, runs = self.slots.leads.tolist(), self.slots.runs.tolist()
        state: _State | None = self._nothing()
        if self.granted.context and 0 not in self.slots.functions and 0 not in self.from_below:
            assert state is not None
            state.registers[1], state.believes = Pointer(To.CONTEXT), True
        for slot in range(len(self.form)):
            if not runs[slot]:
                continue
            if leads[slot] and slot:
                state = self._arrive(slot, state)
            if state is not None:
                state = self._step(slot, state)

    def _arrive(self, slot: int, state: _State | None) -> _State | None:
        """What is known at the head of a block; state: where control falls into it."""
        other = self.incoming.pop(slot, None)
        if slot in self.slots.functions:
            return self._nothing()
        if state is None:
            state = other
        elif other is not None:
            state.meet(other)
        if slot not in self.from_below:
            return state
        kept = self._nothing()
        if state is not None:
            for register, pointer in enumerate(state.registers):
                if pointer is not None and self.written_once[register] and pointer.to <= To.CONTEXT:
                    kept.registers[register] = pointer
        return kept

    def _send(self, slot: int, state: _State) -> None:
        """Let a state arrive at a block further down."""
        known = self.incoming.get(slot)
        if known is None:
            self.incoming[slot] = state
        else:
            known.meet(state)

    def _step(self, slot: int, state: _State) -> _State | None:
        """Carry an instruction out; returns what is known behind it, None where control does not go there."""
        form = self.form[slot]
        if ACCESSES[form]:
            self._access(slot, form, state)
            return state
        if BRANCHES[form]:
            taken = state.copy()
            self._refine(slot, form, taken, state)
            if self.slots.stays[slot] and self.target[slot] > slot:
                self._send(self.target[slot], taken)
            return state
        if JUMPS[form] or FORMS[form].family is Family.EXIT or not form:
            if self.slots.stays[slot] and self.target[slot] > slot:
                self._send(self.target[slot], state)
            return None
        if _LEAVES[form]:
            self._call(slot, form, state)
            return state
        registers, dst = state.registers, self.dst[slot]
        pointer = registers[dst]
        if form == _MOVE:
            registers[dst] = registers[self.src[slot]]
        elif form in (_ADD, _SUB) and pointer is not None and pointer.to not in (To.PACKET_END, To.MAP):
            offset = pointer.offset + (self.imm[slot] if form == _ADD else -self.imm[slot])
            registers[dst] = pointer._replace(offset=offset) if abs(offset) < FARTHEST else None
        elif form == _LDDW:
            found = self.granted.maps.get(self.constant[slot])
            registers[dst] = Pointer(To.MAP, map=found) if isinstance(found, ValueMap) else None
        else:
            registers[dst] = None
        return state

    def _access(self, slot: int, form: int, state: _State) -> None:
        registers = state.registers
        loads = bool(BASE_IS_SRC[form])
        base = registers[self.src[slot] if loads else self.dst[slot]]
        start, size = self.offset[slot], int(SIZE[form])
        if base is not None:
            start += base.offset
        good = base is not None and self._is_good(base, start, size, not loads, state)
        if good:
            self.good.append(slot)
        context = self.granted.context
        if not loads and context is not None and context.programs_write:
            elsewhere = good and base is not None and base.to != To.CONTEXT
            state.believes &= elsewhere or (good and not _overlaps_pointers(context, start, size))
        if loads:
            registers[self.dst[slot]] = self._loaded(form, base, start, good, state)
        elif ATOMICS[form]:
            # Whatever it fetches, and wherever it puts it, is no pointer.
            registers[self.src[slot]] = registers[0] = None

    def _is_good(self, base: Pointer, start: int, size: int, writes: bool, state: _State) -> bool:
        match base.to:
            case To.STACK:
                return -STACK_SIZE <= start <= -size
            case To.CONTEXT:
                context = self.granted.context
                assert context is not None
                return 0 <= start <= context.size - size and (context.programs_write or not writes)
            case To.PACKET:
                return 0 <= start <= state.length - size
            case To.VALUE:
                assert base.map is not None
                good = base.maybe_null < 0 and 0 <= start <= base.map.value_size - size
                return good and (base.map.values_region.writable or not writes)
            case _:
                return False

    def _loaded(self, form: int, base: Pointer | None, start: int, good: bool, state: _State) -> Pointer | None:
        """What a load gives: data and data_end of the context are pointers."""
        context = self.granted.context
        if form != _LDXW or not good or base is None or base.to != To.CONTEXT or context is None or not state.believes:
            return None
        if start == context.fields["data"].offset:
            return Pointer(To.PACKET)
        return Pointer(To.PACKET_END) if start == context.fields["data_end"].offset else None

    def _call(self, slot: int, form: int, state: _State) -> None:
        map, key = state.registers[1:3]
        state.forget_packet()
        state.registers[:6] = [None] * 6
        context = self.granted.context
        if context is None or context.programs_write:
            state.believes = False
        if form == _HELPER and self.imm[slot] == MAP_LOOKUP and map is not None and map.to == To.MAP:
            assert map.map is not None
            region = map.map.values_region
            if region.size >= map.map.value_size:
                self.lookups[slot] = region.address, region.end - map.map.value_size
                state.registers[0] = Pointer(To.VALUE, 0, map.map, slot)
            if isinstance(map.map, ArrayMap):
                in_frame = key is not None and self._is_good(key, key.offset, INDEX_SIZE, False, state)
                self.arrays[slot] = map.map, in_frame and key is not None and key.to == To.STACK

    def _refine(self, slot: int, form: int, taken: _State, falls: _State) -> None:
        """Learn from a branch: on both sides what its condition says."""
        if form not in _NULL_TESTS and form not in _BOUND_TESTS:
            return
        pointer = falls.registers[self.dst[slot]]
        if pointer is None:
            return
        if form in _NULL_TESTS and self.imm[slot] == 0 and pointer.to == To.VALUE and pointer.maybe_null >= 0:
            where = taken if _NULL_TESTS[form] else falls
            where.registers = [
                each._replace(maybe_null=-1) if each is not None and each.maybe_null == pointer.maybe_null else each
                for each in where.registers
            ]
        elif form in _BOUND_TESTS:
            other = falls.registers[self.src[slot]]
            if other is None:
                return
            if pointer.to == To.PACKET and other.to == To.PACKET_END:
                where = taken if _BOUND_TESTS[form] else falls
                where.length = max(where.length, pointer.offset)
            elif pointer.to == To.PACKET_END and other.to == To.PACKET:
                where = falls if _BOUND_TESTS[form] else taken
                where.length = max(where.length, other.offset)


def _overlaps_pointers(context: type[PacketContext], start: int, size: int) -> bool:
    """Whether a store into the context may change data or data_end."""
    fields = (context.fields[name] for name in ("data", "data_end"))
    return any(start < each.offset + each.size and each.offset < start + size for each in fields)
