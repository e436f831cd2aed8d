"""Programs made at random, and what a run of one comes to: every tier must come to the same.

Three sorts are made. Wild programs are any encodings of any forms; most fault soon. Tame ones keep pointers
in few registers and mostly access memory that is there, so that they get far: loops, calls, helpers that
call back, tail calls, stores and loads of all sizes, inside of memory and just outside. Packet programs do what
programs for the kernel do, well or badly: they compare pointers with the end of the packet, look maps up, test
for null, write to the context, and have the packet moved; so they meet the proofs of a compiler.

The oracle is the interpreter, on the same machine: a native machine whose hook is set interprets, and so
both runs see the same memory at the same addresses. Whatever can be observed is compared: result, fault with
its text, exceptions and their notes, count of instructions, registers, memory, and what helpers have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from jitlink.bpf.contexts import HEAD_ROOM, PacketContext, SkbContext, XdpContext
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.instructions import ByteOrder, decode, encode
from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.machine import FUNCTION_BASE, Code
from jitlink.bpf.maps import MapDefinition, Maps, MapType

BUFFER, CONSTANTS = 64, 32
"""Bytes of the memory whose addresses are in r1 and r2; programs cannot write to the second one."""
MASK = 0xFFFF_FFFF_FFFF_FFFF
HELPERS = range(1, 7)

_ARITHMETIC = [form for form in FORMS if form.family in (Family.ARITHMETIC, Family.BYTE_ORDER) and not form.refused]
_MEMORY = [form for form in FORMS if form.family in (Family.LOAD, Family.STORE, Family.ATOMIC)]
_BRANCHES = [form for form in FORMS if form.family in (Family.BRANCH, Family.JUMP) and not form.refused]
_CALLS = [form for form in FORMS if form.family in (Family.CALL, Family.EXIT, Family.PACKET)]

FORM = {form.name: form for form in FORMS}
Slot = tuple[int, int, int, int, int]
_small = st.integers(-12, 12)
_numbers = st.sampled_from(
    [0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 127, 128, -1, -2, -128, -129, 255, 0x7FFF_FFFF, -0x8000_0000, 0x1234_5678]
)
immediates = _small | _numbers | st.integers(-(1 << 31), (1 << 31) - 1)
values = st.sampled_from([0, 1, MASK, 1 << 63, (1 << 63) - 1, 1 << 31, 1 << 32, (1 << 32) - 1]) | st.integers(0, MASK)


def slot_of(form: Form, *, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> Slot:
    """An instruction as the fields of its slot."""
    fields = {"dst": dst, "src": src, "offset": offset, "imm": imm} | dict([form.selector] if form.selector else [])
    return form.opcode, fields["dst"], fields["src"], fields["offset"], fields["imm"]


@st.composite
def _wild(draw: st.DrawFn) -> list[Slot]:
    """One instruction of any form, its fields nearly always legal."""
    form = draw(st.sampled_from(FORMS[1:]))
    register = st.integers(0, 10) | st.integers(0, 15)
    offset = draw(_small | st.sampled_from([-512, -513, -(1 << 15), (1 << 15) - 1]))
    return [slot_of(form, dst=draw(register), src=draw(register), offset=offset, imm=draw(immediates))]


@st.composite
def _computing(draw: st.DrawFn) -> list[Slot]:
    """Arithmetic that leaves the pointers in r1 and r2 alone."""
    form = draw(st.sampled_from(_ARITHMETIC))
    dst, src = draw(st.sampled_from([0, 3, 4, 5, 6, 7, 8, 9])), draw(st.integers(0, 10))
    return [slot_of(form, dst=dst, src=src, offset=0, imm=draw(immediates))]


@st.composite
def _accessing(draw: st.DrawFn) -> list[Slot]:
    """An access of any form: of the buffer, the constants, the stack, or through a copy of a pointer."""
    form = draw(st.sampled_from(_MEMORY))
    base = draw(st.sampled_from([1, 1, 1, 10, 10, 10, 2, 6]))
    other = draw(st.sampled_from([0, 3, 4, 5, 7, 8, 9]))
    size = form.bits // 8
    if base == 10:
        offset = draw(st.integers(-8, -1)) * 8 | draw(st.sampled_from([-512, -size, -size + 1, 0]))
    else:
        offset = draw(st.integers(0, BUFFER // size - 1)) * size + draw(st.sampled_from([0, 0, 0, 0, 1, -1, 64]))
    loads = form.family is Family.LOAD or form.operation == "load_acquire"
    dst, src = (other, base) if loads else (base, other)
    slot = slot_of(form, dst=dst, src=src, offset=offset, imm=draw(immediates))
    return [slot_of(FORM["mov64_reg"], dst=6, src=draw(st.sampled_from([1, 2, 10])), offset=0, imm=0)] * (base == 6) + [
        slot
    ]


@st.composite
def _jumping(draw: st.DrawFn) -> list[Slot]:
    """A branch, mostly forward: programs should get far."""
    form = draw(st.sampled_from(_BRANCHES))
    distance = draw(st.integers(0, 5) | st.integers(0, 5) | _small)
    imm = distance if form.operation == "ja" and form.bits == 32 else draw(immediates)
    return [slot_of(form, dst=draw(st.integers(0, 9)), src=draw(st.integers(0, 9)), offset=distance, imm=imm)]


@st.composite
def _calling(draw: st.DrawFn) -> list[Slot]:
    """A call of any sort, a packet load, or an exit; callx calls a function whose address is loaded before."""
    form = draw(st.sampled_from(_CALLS))
    imm = draw(st.sampled_from([*HELPERS, -3, 9]) if form.operation in ("helper", "kfunc") else _small)
    slots = []
    if form.operation == "register":
        slots = [slot_of(FORM["lddw_code"], dst=4, src=4, offset=0, imm=draw(_small)), (0, 0, 0, 0, 0)]
    return [*slots, slot_of(form, dst=4, src=draw(st.integers(0, 9)), offset=0, imm=imm)]


@st.composite
def _constant(draw: st.DrawFn) -> list[Slot]:
    """A wide constant."""
    dst = draw(st.sampled_from([0, 3, 5, 7]))
    form = FORM["lddw"] if draw(st.booleans()) else FORM["lddw_code"]
    return [slot_of(form, dst=dst, src=0, offset=0, imm=draw(immediates)), (0, 0, 0, 0, draw(immediates))]


_tame = _computing() | _computing() | _accessing() | _accessing() | _jumping() | _calling() | _constant()
_EXIT = [slot_of(FORM["exit"], dst=0, src=0, offset=0, imm=0)]


def joined(parts: list[list[Slot]]) -> list[Slot]:
    """Put the instructions of several parts one behind the other."""
    return [slot for part in parts for slot in part]


def programs(byteorder: ByteOrder) -> st.SearchStrategy[bytes]:
    """Programs of both sorts, as bytes."""
    tame = st.lists(_tame, min_size=1, max_size=40).map(lambda parts: [*joined(parts), *_EXIT])
    wild = st.lists(_tame | _wild(), min_size=1, max_size=30).map(joined)
    encoded = (tame | tame | wild).map(lambda slots: encode(slots, byteorder))
    return encoded | st.binary(min_size=8, max_size=120).map(lambda data: data[: len(data) // 8 * 8])


# Packet programs: r6 the context, r7 data, r8 data_end, r9 a value of the map.

LAYOUTS: dict[type[PacketContext], dict[str, int]] = {
    context: {name: context.fields[name].offset for name in ("data", "data_end")}
    for context in (XdpContext, SkbContext)
}
PACKET = 18
MAP_VALUE, MAP_ENTRIES = 12, 4
LOOKUP, MOVE_PACKET, SCRIBBLE = 1, 2, 3
_BOUNDS = ["jgt", "jge", "jlt", "jle", "jeq", "jne"]


def _form(name: str, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> Slot:
    return slot_of(FORM[name], dst=dst, src=src, offset=offset, imm=imm)


@st.composite
def _load_pointers(draw: st.DrawFn, layout: dict[str, int]) -> list[Slot]:
    """Take data or data_end out of the context."""
    parts = [_form("ldxw", 7, 6, layout["data"]), _form("ldxw", 8, 6, layout["data_end"])]
    return draw(st.sampled_from([parts, parts[:1], parts[1:]]))


@st.composite
def _compare(draw: st.DrawFn) -> list[Slot]:
    """Compare a place in the packet with its end, in one of the many ways."""
    distance = draw(st.sampled_from([0, 1, 4, 14, -4]) | st.integers(PACKET - 2, PACKET + 3))
    name = draw(st.sampled_from(_BOUNDS)) + draw(st.sampled_from(["_reg", "_reg", "_reg", "32_reg"]))
    one, other = draw(st.sampled_from([(2, 8), (8, 2), (7, 8)]))
    compared = _form(name, one, other, draw(st.integers(0, 4)))
    return [_form("mov64_reg", 2, 7), _form("add64_imm", 2, imm=distance), compared]


@st.composite
def _touch(draw: st.DrawFn) -> list[Slot]:
    """Access the packet, a value, the stack or the context at a constant distance."""
    form = draw(st.sampled_from(_MEMORY))
    base = draw(st.sampled_from([7, 7, 7, 9, 9, 6, 10, 2, 0]))
    reach = {7: (-2, PACKET), 9: (-1, MAP_VALUE), 6: (-1, 195), 10: (-516, 1)}.get(base, (-8, 24))
    other = draw(st.sampled_from([3, 4, 5]))
    loads = form.family is Family.LOAD or form.operation == "load_acquire"
    size = form.bits // 8
    near_end = st.integers(PACKET - size - 1, PACKET + 2) if base == 7 else st.just(0)
    offset = draw(st.integers(*reach) | near_end)
    offset = draw(st.sampled_from([offset, offset // size * size]))
    dst, src = (other, base) if loads else (base, other)
    return [slot_of(form, dst=dst, src=src, offset=offset, imm=draw(immediates))]


@st.composite
def _look_up(draw: st.DrawFn, map_address: int) -> list[Slot]:
    """Look a map up, and mostly test for null."""
    key = draw(st.sampled_from([0, MAP_ENTRIES - 1, MAP_ENTRIES, MAP_ENTRIES]))
    low = (map_address & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
    slots = [
        _form("stw", 10, offset=-4, imm=key),
        _form("mov64_reg", 2, 10),
        _form("add64_imm", 2, imm=-4),
        _form("lddw", 1, imm=low),
        (0, 0, 0, 0, map_address >> 32),
        _form("call_helper", imm=LOOKUP),
    ]
    if draw(st.booleans()):
        test = draw(st.sampled_from(["jeq_imm", "jeq_imm", "jne_imm", "jeq32_imm"]))
        register = draw(st.sampled_from([0, 9]))
        copied = [_form("mov64_reg", 9, 0)]
        return slots + copied + [_form(test, register, offset=draw(st.integers(0, 6)))]
    return [*slots, _form("mov64_reg", 9, 0)]


@st.composite
def _overwrite(draw: st.DrawFn, layout: dict[str, int]) -> list[Slot]:
    """Write another end of the packet into the context, in sight or out of sight of a proof, and take it out."""
    end = layout["data_end"]
    store = draw(
        st.sampled_from(
            [
                [_form("stxw", 6, 2, end)],
                [_form("stxdw", 6, 2, end)],
                [_form("mov64_reg", 5, 6), _form("mov64_imm", 4), _form("add64_reg", 5, 4), _form("stxw", 5, 2, end)],
                [_form("mov64_reg", 1, 6), _form("call_helper", imm=SCRIBBLE)],
            ]
        )
    )
    return [_form("mov64_reg", 2, 8), _form("add64_imm", 2, imm=8), *store, _form("ldxw", 8, 6, end)]


_shift = st.sampled_from([7, 9, 2, 6]).flatmap(
    lambda register: st.sampled_from([-4, 1, 4, 14]).map(lambda by: [_form("add64_imm", register, imm=by)])
)
_copy = st.tuples(st.sampled_from([2, 7, 9]), st.sampled_from([6, 7, 8, 9, 10])).map(
    lambda pair: [_form("mov64_reg", *pair)]
)
_move_packet = st.sampled_from([[_form("mov64_reg", 1, 6), _form("call_helper", imm=MOVE_PACKET)]])


def packet_programs(context: type[PacketContext], map_address: int) -> st.SearchStrategy[bytes]:
    """Programs on a context, with a map."""
    layout = LAYOUTS[context]
    part = (
        _touch() | _touch() | _touch() | _compare() | _compare() | _look_up(map_address) | _load_pointers(layout)
        | _overwrite(layout) | _look_up(map_address) | _shift | _copy | _move_packet | _jumping() | _calling()
    )  # fmt: skip
    start = [
        _form("mov64_reg", 6, 1),
        _form("ldxw", 7, 1, layout["data"]),
        _form("ldxw", 8, 1, layout["data_end"]),
        _form("mov64_imm", 9),
    ]
    return st.lists(part, min_size=2, max_size=20).map(lambda parts: encode([*start, *joined(parts), *_EXIT]))


class PacketWorld:
    """A machine with a packet, its context and a map, whose lookups sometimes lie."""

    def __init__(self, machine: Interpreter, context: type[PacketContext]) -> None:
        self.machine = machine
        self.sort = context
        self.maps = Maps(machine.regions)
        self.map: Any = self.maps.create(MapDefinition("values", MapType.ARRAY, 4, MAP_VALUE, MAP_ENTRIES))
        self.lies = 0
        self.context = context(machine.regions, bytes(PACKET))
        machine.helpers.update({LOOKUP: self.look_up, MOVE_PACKET: self.move_packet, SCRIBBLE: self.scribble})
        machine.context, machine.packet_bounds = self.context, self.context.packet_bounds

    def take_maps(self) -> None:
        """Let the machine take its maps for granted, as an object's programs do."""
        machine: Any = self.machine
        machine.maps = self.maps.by_address

    def look_up(self, machine: Any, map: int, key: int, *rest: int) -> int:
        """Find a value, or give what is none."""
        found = self.maps.by_address.get(map)
        value = found.lookup_elem(machine.read(key, 4)) if found else 0
        return value + self.lies if value else 0

    def move_packet(self, machine: Any, *registers: int) -> int:
        """Make the packet shorter by one byte."""
        context = self.context
        if context.end > context.start + 2:
            context.move(meta=context.meta, start=context.start + 1, end=context.end - 1)
        return 0

    def scribble(self, machine: Any, *registers: int) -> int:
        """Write an end of the packet into the context that is none."""
        context = self.context
        place = context.fields["data_end"].offset
        machine.write(context.address + place, (context.end + 8).to_bytes(4, "little"))
        return 0

    def outcome(self, code: Code, lies: int, budget: int) -> tuple[Any, ...]:
        """Run a program from a state that is always the same, and say all that can be seen of it."""
        context, machine = self.context, self.machine
        self.lies = lies
        start = context.frame + HEAD_ROOM
        context.region.data[:] = bytes(context.size)
        context.move(meta=start, start=start, end=start + PACKET)
        context.packet_region.data[:] = bytes(range(PACKET))
        self.map.values_region.data[:] = bytes(range(len(self.map.values_region.data)))
        try:
            result: Any = machine.run(code, context.address, budget=budget)
        except BpfFault as fault:
            result = (fault.kind, str(fault), fault.pc, fault.program, fault.address, fault.size, fault.nearest)
        regions = (context.region, context.packet_region, self.map.values_region)
        return result, machine.instructions, [bytes(region.data) for region in regions]

    def interpreted(self, code: Code, lies: int, budget: int) -> tuple[Any, ...]:
        """The outcome on the interpreter."""
        self.machine.hook = lambda machine: None
        try:
            return self.outcome(code, lies, budget)
        finally:
            self.machine.hook = None

    def close(self) -> None:
        """Give the memory back."""
        self.machine.regions.close()


@dataclass
class World:
    """A machine with memory and helpers for random programs.

    Attributes: machine; other (a program to be tail-called); seen (what helpers have observed); caught (a helper has
    caught a fault in the last run).
    """

    machine: Interpreter
    other: Code = field(default_factory=lambda: Code(decode(encode([(0xB7, 0, 0, 0, 77), *_EXIT])), "other"))
    seen: list[Any] = field(default_factory=list)
    caught: bool = False

    def __post_init__(self) -> None:
        regions = self.machine.regions
        self.buffer = regions.allocate(BUFFER, "buffer")
        self.constants = regions.allocate(CONSTANTS, "constants", writable=False)
        self.machine.packet_bounds = lambda context: (self.buffer.address + 8, self.buffer.end)
        self.machine.helpers.update(dict.fromkeys(HELPERS, self.helper))
        self.machine.kfuncs.update(dict.fromkeys(HELPERS, self.helper))
        self.moved = regions.allocate(16, "moved")

    def helper(self, machine: Any, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
        """Use every door of the machine with what the program passes."""
        self.seen.append(
            (r1, r2, r3, r4, r5, machine.budget_left, machine.instructions, machine.depth, machine.pc, machine.code)
        )
        self.seen.append(tuple(machine.registers))
        match r3 % 9:
            case 0:
                machine.write(r1, machine.read(r2, r4 % 40))
            case 1:
                return int(machine.call_function(FUNCTION_BASE + 8 * (r4 % 8), r1, r2))
            case 2:
                try:
                    machine.call_function(FUNCTION_BASE + 8 * (r5 % 8), r1)
                except BpfFault as fault:
                    self.caught = True
                    return len(str(fault))
            case 3 if not machine.tail_call(self.other if r4 % 2 else machine.code):
                return -5
            case 4 if r5 % 3 == 0:
                raise ValueError(f"no {r4}")
            case 5:
                machine.regions.resize(self.moved, self.moved.address, 16 - self.moved.size)
                return int(self.moved.address)
        return r4 ^ 0x55

    def outcome(self, code: Code, arguments: tuple[int, ...], budget: int) -> tuple[Any, ...]:
        """Run a program from a state that is always the same, and say all that can be seen of it."""
        machine = self.machine
        self.buffer.data[:] = bytes(range(100, 100 + BUFFER))
        self.constants.data[:] = bytes(range(200, 200 + CONSTANTS))
        machine.regions.resize(self.moved, self.moved.address, 16)
        self.moved.data[:] = bytes(16)
        self.seen.clear()
        self.caught = False
        result: Any
        try:
            result = machine.run(code, self.buffer.address, self.constants.address, *arguments, budget=budget)
        except BpfFault as fault:
            result = (fault.kind, str(fault), fault.pc, fault.program, fault.address, fault.size, fault.nearest)
        except ValueError as error:
            result = (repr(error), error.__notes__)
        memory = [bytes(region.data) for region in (self.buffer, self.constants, self.moved)]
        left = machine.instructions, machine.budget_left, machine.depth
        return result, left, memory, list(self.seen)

    def interpreted(self, code: Code, arguments: tuple[int, ...], budget: int) -> tuple[Any, ...]:
        """The outcome on the interpreter, which is what every tier must come to."""
        self.machine.hook = lambda machine: None
        try:
            return self.outcome(code, arguments, budget)
        finally:
            self.machine.hook = None

    def close(self) -> None:
        """Give the memory back."""
        self.machine.regions.close()
