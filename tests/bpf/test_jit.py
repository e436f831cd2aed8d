"""Native code: what it is made of, what it takes for granted, and how Python and native code meet."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from threading import Thread
from typing import Any
from weakref import ref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.assembler import assemble
from jitlink.bpf.contexts import SkbContext, XdpContext
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.isa import FORMS, Family
from jitlink.bpf.jit.abi import OFFSET, RECORD_SIZE, Record, Status
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiler import Plan, compile_slots
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.jit.program import slots_of
from jitlink.bpf.jit.proofs import Granted, prove
from jitlink.bpf.jit.templates import BitField, Operand, Template, TemplateTable, Word, fill_in
from jitlink.bpf.jit.x86_64 import X8664
from jitlink.bpf.machine import FUNCTION_BASE, POISON, Code
from jitlink.bpf.maps import MapDefinition, Maps, MapType
from jitlink.columns import NO_ROWS, starts_of
from jitlink.errors import UsageError
from jitlink.protection import Protection
from tests.bpf.machines import machine_of, native_machine, needs_native_code, needs_x86_64, shapes

pytestmark = needs_native_code

LOOP = "r0 = 0\nr1 = 1000\nagain: r0 += r1\nr1 += -1\nif r1 != 0 goto again\nexit"
ENDLESS = "again: r0 += 1\ngoto again"


def program(text, **names):
    return Code(decode(assemble(text)), **names)


def slots(text):
    return slots_of(decode(assemble(text)), NO_ROWS)


def compiled(text, **plan):
    return compile_slots(slots(text), shapes(), Plan(**plan))


# Results and the meter


def test_the_default_tier_is_native(monkeypatch):
    """Without a choice programs run in native code; the environment variable chooses another tier."""
    monkeypatch.delenv("JITLINK_BPF_TIER", raising=False)
    assert bpf.load(assemble(LOOP)).object.tier.name == "jit"
    monkeypatch.setenv("JITLINK_BPF_TIER", "interpreter")
    assert bpf.load(assemble(LOOP)).object.tier.name == "interpreter"


def test_a_host_without_a_back_end_says_so(monkeypatch):
    """Asking for native code where there is none is an error that names the host, and nothing else is run."""
    from jitlink.bpf.jit import hosts

    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    with pytest.raises(UsageError, match=r"no native code for BPF on .* pdp11"):
        hosts.host_shapes.__wrapped__()


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 500, 3001, 3002, 3003, 3004])
def test_the_budget_ends_a_run_at_the_very_instruction(budget):
    """A run stops at the instruction that the interpreter stops at, with the same count and the same text."""
    outcomes: list[Any] = []
    for tier in ("interpreter", "jit"):
        machine = machine_of(tier)
        try:
            outcomes.append((machine.run(program(LOOP), budget=budget), machine.instructions))
        except BpfFault as fault:
            outcomes.append((fault.kind, str(fault), machine.instructions, machine.budget_left))
    assert outcomes[0] == outcomes[1]


def test_an_endless_loop_stops():
    """A loop without an end takes its budget and no more."""
    loaded = bpf.load(assemble(ENDLESS + "\nexit"), tier="jit", verify=False)
    with pytest.raises(BpfFault, match="budget of 100000001") as caught:
        loaded.run(budget=100_000_001)
    assert caught.value.kind is FaultKind.BUDGET
    assert loaded.object.machine.instructions == 100_000_001


def test_without_the_meter_nothing_is_counted():
    """Code without a meter gives the same result, is shorter, and counts nothing."""
    loaded = bpf.load(assemble(LOOP), tier="jit", meter=False)
    result = loaded.run(budget=1)
    assert (int(result), result.instructions) == (500500, 0)
    assert len(compiled(LOOP, metered=False).code) < len(compiled(LOOP).code)


def test_a_hook_sees_every_instruction():
    """A run with a hook is interpreted: coverage is complete, and the result the same."""
    loaded = bpf.load(assemble(LOOP), tier="jit")
    coverage = bpf.Coverage()
    assert loaded.run(hook=coverage) == loaded.run() == 500500
    assert coverage.counts(loaded.code).tolist() == [1, 1, 1000, 1000, 1000, 1]


def test_a_program_without_instructions_faults():
    """Running nothing runs off the end, as it does on the interpreter."""
    machine = native_machine()
    with pytest.raises(BpfFault, match="runs off its end"):
        machine.run(Code(decode(b"")))


def test_registers_can_be_read_after_a_run():
    """machine.registers holds what the program has left in r0 to r5."""
    machine = native_machine()
    machine.run(program("r0 = 1\nr3 = 7\nexit"), 5)
    assert machine.registers[:4] == [1, 5, 0, 7]


# Python and native code


def test_exceptions_of_helpers_come_through_unchanged():
    """What a helper raises is what run raises: the same object, with a note of the place, also an interrupt."""
    loaded = bpf.load(assemble("call 5\ncall 5\nexit"), tier="jit", verify=False)
    errors = LookupError("mine"), KeyboardInterrupt(), BpfFault(FaultKind.NO_PACKET, "mine")
    for error in errors:
        loaded.helper(5)(raiser(error))
        with pytest.raises(type(error)) as caught:
            loaded.run()
        assert caught.value is error
        if isinstance(error, LookupError):
            assert error.__notes__ == ["while BPF ran main at instruction 0"]
        assert loaded.object.machine.depth == 0
    loaded.helper(5)(lambda machine: 9)
    assert loaded.run() == 9


def test_an_interrupt_between_two_lines_of_ours_comes_through(monkeypatch):
    """Nothing passes through frames of native code: what is raised in our part of a call stops the program as well."""
    machine = native_machine(helpers={1: lambda machine, *registers: 0})
    code = program("call 1\nagain: goto again\nexit")
    error = KeyboardInterrupt()

    def interrupted(version):
        raise error

    monkeypatch.setattr(machine, "outside", lambda: interrupted(0))
    with pytest.raises(KeyboardInterrupt) as caught:
        machine.run(code)
    assert caught.value is error


def test_a_program_is_compiled_once():
    """Runs share an image."""
    machine, code = native_machine(), program(LOOP)
    machine.run(code)
    first = code.made[machine].images
    machine.run(program("r0 = 0\nexit"))
    machine.run(code)
    assert code.made[machine].images is first
    assert len(first) == 1


def raiser(error):
    """A helper that raises."""

    def raising(machine):
        raise error

    return raising


def test_frames_of_a_run_that_has_faulted_are_gone():
    """What a run remembers of the stack of a function that a fault has ended is no memory of the next run."""
    machine = native_machine()
    last = machine.record.last_frame - 6 * 1024
    touch = f"r6 = {last - 8} ll\nr0 = *(u64 *)(r6 + 0)\n"
    with pytest.raises(BpfFault, match="at 0x0 is outside"):
        machine.run(program(f"call f\nexit\nf: {touch}r6 = 0\nr0 = *(u64 *)(r6 + 0)\nexit"))
    with pytest.raises(BpfFault, match=f"read of 8 bytes at {last - 8:#x} is outside"):
        machine.run(program(f"{touch}exit"))


@pytest.mark.parametrize("budget", [-1, 1 << 70])
def test_a_budget_out_of_all_range_is_cut(budget):
    """A negative budget is none; one that no counter holds is as much as the counter holds."""
    machine = native_machine()
    if budget < 0:
        with pytest.raises(BpfFault, match="budget"):
            machine.run(program(LOOP), budget=budget)
        assert machine.instructions == 0
    else:
        assert machine.run(program(LOOP), budget=budget) == 500500
        assert machine.instructions == 3003


def test_a_helper_calls_back_and_shares_the_budget():
    """call_function from a helper enters native code again; depth, budget and saved registers are as they should."""
    machine = native_machine()
    seen = []

    def helper(machine, callback, argument, *rest):
        seen.append((machine.depth, machine.budget_left))
        return machine.call_function(callback, argument) + machine.call_function(callback, 1)

    machine.helpers[1] = helper
    code = program("r6 = 5\nr1 = code_addr(f)\nr2 = 20\ncall 1\nr0 += r6\nexit\nf: r6 = 100\nr0 = r1\nr0 *= 2\nexit")
    assert machine.run(code, budget=100) == 47
    assert seen == [(1, 96)]
    assert machine.instructions == 14


def test_functions_can_be_called_in_the_middle_of_a_block():
    """A callback may be any instruction of the program; code is made that can be entered there."""
    machine = native_machine()
    machine.helpers[1] = lambda machine, index, *rest: machine.call_function(FUNCTION_BASE + 8 * index, 3)
    code = program("r1 = 4\ncall 1\nexit\nr1 += 1\nr0 = r1\nr0 += 1\nexit")
    assert machine.run(code) == 4
    assert machine.instructions == 6


def test_a_native_helper_is_called_with_its_arguments_and_the_record():
    """A helper in machine code gets r1 to r5 and the record, gives r0, and leaves r1 to r5 poisoned."""
    seen = []

    @ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5, ctypes.POINTER(Record))
    def helper(r1, r2, r3, r4, r5, record):
        seen.append((r1, r2, r3, r4, r5, record.contents.budget))
        return 40

    address = ctypes.cast(helper, ctypes.c_void_p).value or 0
    machine = NativeMachine(shapes(), Plan(helpers={7: address}))
    text = "r1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\nr6 = 2\ncall 7\nr0 += r6\n"
    code = program(text + "".join(f"r0 ^= r{number}\n" for number in range(1, 6)) + "exit")
    assert machine.run(code, budget=50) == 42 ^ POISON
    assert seen == [(1, 2, 3, 4, 5, 43)]


def test_a_native_helper_that_stops_leaves_the_fault_to_the_helper_in_python():
    """A helper in machine code that sets FAULT is done over in Python, which raises what there is to raise."""

    @ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5, ctypes.POINTER(Record))
    def helper(r1, r2, r3, r4, r5, record):
        record.contents.status = Status.FAULT
        return 0

    def raising(machine, *registers):
        raise BpfFault(FaultKind.BAD_CALL, "not so")

    address = ctypes.cast(helper, ctypes.c_void_p).value or 0
    machine = NativeMachine(shapes(), Plan(helpers={7: address}), helpers={7: raising})
    with pytest.raises(BpfFault, match="instruction 1: not so"):
        machine.run(program("r0 = 1\ncall 7\nexit"))
    assert machine.instructions == 2


def test_the_record_is_what_the_contract_says():
    """Fields lie at multiples of 8 bytes, one behind the other, and the sites come first."""
    assert OFFSET["sites"] == 0
    assert all(offset % 8 == 0 for offset in OFFSET.values())
    assert ctypes.sizeof(Record) == RECORD_SIZE


def test_code_is_given_back_with_its_program():
    """When nobody holds a program any more, its pages are unmapped."""
    machine = native_machine()
    code = program(LOOP)
    machine.run(code)
    machine.run(program("r0 = 0\nexit"))
    (image,) = code.made[machine].images.values()
    base, gone = image.base, ref(code)
    assert mapped(base)
    del code, image
    gc.collect()
    assert gone() is None
    assert not mapped(base)


def mapped(address):
    return protection_of(address) is not None


def protection_of(address):
    """The protection of the page at an address, as /proc/self/maps writes it, or None."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            span, protection = line.split()[:2]
            start, end = (int(each, 16) for each in span.split("-"))
            if start <= address < end:
                return protection
    return None


def test_no_page_is_writable_and_executable():
    """Code is readable and executable, the table of functions readable only."""
    machine = native_machine()
    code = program("r1 = code_addr(f)\ncallx r1\nexit\nf: r0 = 7\nexit")
    assert machine.run(code) == 7
    (image,) = code.made[machine].images.values()
    assert protection_of(image.base) == "r-xp"
    pages = [page for start, size, _ in image.segments for page in range(start, start + size, 1 << 12)]
    assert {protection_of(page) for page in pages} <= {"r-xp", "r--p"}
    assert Protection.READ in {protection for _, _, protection in image.segments}


# Templates


pieces = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 31), st.integers(0, 31)), min_size=1, max_size=60)


@given(pieces, st.booleans())
def test_templates_are_filled_in_as_a_loop_would(chosen, many):
    """Code, bit fields and words of many pieces at once are those of a plain loop over them."""
    table = TemplateTable()
    table.add(Template(bytearray(b"\x40\x01"), [BitField(0, Operand.DST, 3, 3, 0, 0)]))
    table.add(
        Template(
            bytearray(b"\x00" * 70),
            [BitField(0, Operand.DST, 0, 15, 4, 15), BitField(0, Operand.SRC, 0, 15, 0, 0)],
            [Word(66, Operand.IMM, 4)],
        )
    )
    table.add(Template(bytearray(b"\xc3")))
    table.add(Template(bytearray(33), [BitField(32, Operand.KEY, 0, 255, 0, 0)], [Word(1, Operand.IMM, 8)]))
    chosen = chosen * (200 if many else 1)
    template, dst, src = (np.array(column, np.int64) for column in zip(*chosen, strict=True))
    operands = np.zeros((len(Operand), len(chosen)), np.int64)
    operands[Operand.DST], operands[Operand.SRC] = dst, src
    operands[Operand.IMM], operands[Operand.KEY] = dst * 0x0102_0304_0506 - 7, src * 5 & 255
    place = starts_of(table.columns.size[template])
    code = fill_in(table.columns, template, place[:-1], operands, int(place[-1]))
    assert code.tobytes() == b"".join(
        filled(table.templates[number], [int(row[piece]) for row in operands])
        for piece, (number, *_) in enumerate(chosen)
    )


def filled(template, operands):
    """One template with its holes filled."""
    code = bytearray(template.code)
    for at, operand, shift, mask, out, flip in template.bit_fields:
        code[at] |= ((operands[operand] ^ flip) >> shift & mask) << out
    for at, operand, size in template.words:
        code[at : at + size] = (operands[operand] & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(code)


def arithmetic(first, dst):
    """A program of every fifth form of arithmetic from one on."""
    slots = []
    for form in [form for form in FORMS if form.family is Family.ARITHMETIC and not form.refused][first::5]:
        fields = {"dst": dst, "src": 9 - dst, "offset": 0, "imm": 3 * dst}
        slots.append((form.opcode, *(fields | dict([form.selector] if form.selector else [])).values()))
    return slots_of(decode(encode([*slots, (0x95, 0, 0, 0, 0)])), NO_ROWS)


def test_threads_compile_with_the_same_templates():
    """Threads that compile at once, and make the templates while they do, come to what one alone comes to."""
    programs = [arithmetic(first, dst) for dst in range(8) for first in range(5)]
    shared, found = Shapes(X8664(bmi2=False)), [b""] * len(programs)

    def work(first):
        for number in range(first, first + len(programs)):
            made = compile_slots(programs[number % len(programs)], shared, Plan())
            found[number % len(programs)] = made.code.tobytes()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=work, args=(first,)) for first in (0, 10, 20, 30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    alone = Shapes(X8664(bmi2=False))
    assert found == [compile_slots(each, alone, Plan()).code.tobytes() for each in programs]


@needs_x86_64
def test_every_jump_and_call_is_an_edge():
    """In unlinked code each distance to another place is zero, and an edge fills it in."""
    import capstone

    made = compiled(
        "r1 = code_addr(f)\ncall f\ncallx r1\nif r0 > 5 goto end\nr2 = *(u32 *)(r1 + 8)\nr3 /= r2\ncall 5\nend: exit\n"
        "f: *(u64 *)(r10 - 8) = r1\nlock fetch or [%r2+0], %r1\nexit"
    )
    names = ["(outside)", *shapes().symbols]
    edges = {at: names[symbol] for at, symbol in zip(made.edges.at.tolist(), made.edges.symbol.tolist(), strict=True)}
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    calls = jumps = 0
    for instruction in decoder.disasm(made.code.tobytes(), 0):
        long_field, first = instruction.address + instruction.size - 4, instruction.bytes[0]
        if instruction.id == capstone.x86.X86_INS_CALL and first == 0xE8:
            assert edges.pop(long_field) in names[1:-1]
            calls += 1
        elif (
            capstone.CS_GRP_JUMP in instruction.groups and instruction.size > 2 and instruction.bytes[0] in (0x0F, 0xE9)
        ):
            assert edges.pop(long_field) == "program"
            jumps += 1
    assert calls > 10
    assert jumps > 10
    # What is left are short branches of the program and the address of the table.
    assert set(edges.values()) == {"program", "table"}
    assert not any(made.code[at] for at in made.edges.at.tolist())


@needs_x86_64
@pytest.mark.parametrize(("between", "size"), [(0, 2), (30, 2), (31, 2), (32, 6), (400, 6)])
def test_branches_are_short_where_they_reach(between, size):
    """A branch over 4-byte instructions is of two bytes as long as these are at most 127, and of six beyond."""
    jump = compiled("if r1 == 0 goto end\n" + "r0 += 1\n" * between + "end: exit", metered=False)
    # test, jump, `between` additions, exit, and an end that control never reaches.
    assert jump.entry[1] == 3 + size
    machine = native_machine()
    code = program("r0 = 0\nif r1 == 0 goto end\n" + "r0 += 1\n" * between + "end: exit")
    assert (machine.run(code, 0), machine.run(code, 1)) == (0, between)


# Proofs


XDP = "r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr4 = r2\nr4 += 14\nif r4 > r3 goto out\n{}\nout: r0 = 0\nexit"
SKB = XDP.replace("r1 + 0", "r1 + 76").replace("r1 + 4)", "r1 + 80)")


def proved(text, context=None, maps=None):
    """The lines, by their index, of accesses that need no check."""
    return prove(slots(text), Granted(context=context, maps=maps or {})).good.nonzero()[0].tolist()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("r0 = *(u8 *)(r2 + 13)", [0, 1, 5]),
        ("r0 = *(u8 *)(r2 + 14)", [0, 1]),
        ("r0 = *(u16 *)(r2 + 13)", [0, 1]),
        ("r0 = *(u8 *)(r2 - 1)", [0, 1]),
        ("*(u64 *)(r2 + 6) = r0", [0, 1, 5]),
        ("r0 = *(u8 *)(r4 - 1)", [0, 1, 5]),
        ("call 1\nr0 = *(u8 *)(r2 + 0)", [0, 1]),
        ("r6 = r2\ncall 44\nr0 = *(u8 *)(r6 + 0)", [0, 1]),
        ("r2 += r0\nr0 = *(u8 *)(r2 + 0)", [0, 1]),
        ("if r0 == 0 goto +1\nr2 += 1\nr0 = *(u8 *)(r2 + 0)", [0, 1]),
    ],
)
def test_packet_accesses_behind_a_comparison_are_proved(lines, expected):
    """Bytes that a comparison with data_end has covered need no check, until the packet may have moved."""
    assert proved(XDP.format(lines), XdpContext) == expected


@pytest.mark.parametrize("condition", ["r3 < r4", "r4 > r3", "r4 >= r3", "r3 <= r4"])
def test_every_way_to_compare_is_understood(condition):
    """The end may stand on either side."""
    assert 5 in proved(XDP.replace("r4 > r3", condition).format("r0 = *(u8 *)(r2 + 13)"), XdpContext)


@pytest.mark.parametrize("condition", ["r4 < r3", "r4 <= r3", "r3 > r4", "r3 >= r4", "r4 == r3", "w4 > w3", "r4 s> r3"])
def test_other_comparisons_prove_nothing(condition):
    """The other side of the branch, or another comparison, says nothing of what is behind it."""
    assert proved(XDP.replace("r4 > r3", condition).format("r0 = *(u8 *)(r2 + 13)"), XdpContext) == [0, 1]


def test_a_writable_context_is_not_believed_after_a_store():
    """What a program may have written over data_end is no end of the packet; XDP cannot write there."""
    lines = "r0 = *(u8 *)(r2 + 13)"
    assert proved(SKB.format(lines), SkbContext) == [0, 1, 5]
    for store, believed in [
        ("*(u32 *)(r1 + 80) = r5", False),
        ("*(u32 *)(r5 + 0) = r5", False),
        ("call 1\nr1 = r6", False),
        ("*(u32 *)(r10 - 4) = 1", True),
        ("*(u32 *)(r1 + 8) = 1", True),
    ]:
        text = "r6 = r1\n" + store + "\n" + SKB.format(lines)
        last = len(decode(assemble(text))) - 3
        assert (last in proved(text, SkbContext)) is believed, store


def test_map_values_are_proved_behind_the_null_check():
    """A value of a looked-up map is good within its size, once it is known not to be null."""
    maps = Maps(machine_of("interpreter").regions)
    values: Any = maps.create(MapDefinition("values", MapType.ARRAY, 4, 12, 4))
    head = f"*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = {values.address} ll\ncall 1\n"
    text = head + "r9 = r0\n{}if r0 == 0 goto out\n*(u32 *)(r9 + 8) = 1\nr3 = *(u64 *)(r0 + 8)\nout: r0 = 0\nexit"
    assert proved(text.format(""), maps=maps.by_address) == [0, 8]
    assert proved(text.format("r3 = *(u8 *)(r0 + 0)\n"), maps=maps.by_address) == [0, 9]
    assert proved(text.format(""), maps={}) == [0]
    proof = prove(slots(text.format("")), Granted(maps=maps.by_address))
    assert proof.lookups == {5: (values.values_region.address, values.values_region.end - 12)}


def test_a_lookup_that_gives_something_else_is_not_believed():
    """When map_lookup_elem is replaced and gives a pointer of its own, accesses through it are checked."""
    machine = native_machine()
    maps = Maps(machine.regions)
    machine.maps = maps.by_address
    values: Any = maps.create(MapDefinition("values", MapType.ARRAY, 4, 8, 1))
    text = f"r1 = {values.address} ll\nr2 = r10\ncall 1\nif r0 == 0 goto out\nr0 = *(u64 *)(r0 + 0)\nout: exit"
    code = program(text)
    values.values_region.data[:] = (77).to_bytes(8, "little")
    machine.helpers[1] = lambda machine, *registers: values.base
    assert machine.run(code) == 77
    machine.helpers[1] = lambda machine, *registers: values.values_region.end - 7
    with pytest.raises(BpfFault, match="runs 1 byte over the end") as caught:
        machine.run(code)
    assert caught.value.pc == 5
    assert machine.instructions == 5
    machine.helpers[1] = lambda machine, *registers: 0
    assert machine.run(code) == 0


def test_what_comes_back_from_below_is_forgotten():
    """At the head of a loop only a pointer that nothing can change is still known."""
    text = (
        "r6 = r1\nr7 = r1\nagain: r0 = *(u32 *)(r6 + 0)\nr0 = *(u32 *)(r7 + 0)\nr7 += 4\n"
        "if r0 != 0 goto again\nr0 = *(u32 *)(r10 - 4)\nexit"
    )
    assert proved(text, XdpContext) == [2, 6]


def test_a_function_takes_nothing_for_granted():
    """r1 is the context only where the program starts, not in a function, nor where something leads to the start."""
    assert proved("call f\nexit\nf: r0 = *(u32 *)(r1 + 0)\nexit", XdpContext) == []
    assert proved("r0 = *(u32 *)(r1 + 0)\nif r0 == 0 goto -2\nexit", XdpContext) == []


@pytest.mark.parametrize("argument", [0, 8, 1 << 63])
def test_a_program_called_as_a_function_takes_no_context_for_granted(argument):
    """call passes any r1: what was proved of the context does not hold, and the access faults."""
    loaded = bpf.load(assemble("r0 = *(u32 *)(r1 + 0)\nexit"), tier="jit", context="xdp")
    assert loaded.run(bytes(60)).r0 > 0
    with pytest.raises(BpfFault, match="outside"):
        loaded.call(argument)


def test_what_is_no_context_is_not_taken_for_one():
    """Where r1 is another address than the context's, nothing that was proved of the context holds."""
    machine = native_machine()
    machine.context = XdpContext(machine.regions, bytes(60))
    code = program("r0 = *(u32 *)(r1 + 0)\nexit")
    assert machine.run(code, machine.context.address) == machine.context.start
    with pytest.raises(BpfFault, match="outside"):
        machine.run(code, 8)


def test_fields_that_are_no_operands_do_not_matter():
    """An unused field may hold the number of a register that there is not: nobody looks at it."""
    unused = [(0xE5, 11, 15, 0, 0), (0x05, 12, 15, 0, 0), (0x95, 15, 15, 0, 0)]
    code = Code(decode(encode([(0x7B, 10, 1, -8, 0), (0xB7, 0, 15, 0, 7), *unused])))
    assert native_machine().run(code) == 7


def test_the_sandbox_checks_and_trust_does_not():
    """Without the sandbox there is no check and no search in the code; faults of arithmetic or calls need none."""
    text = "r0 = *(u64 *)(r1 + 0)\nlock *(u64 *)(r1 + 8) += r0\nexit"
    checked, trusted = compiled(text), compiled(text, sandbox=False)
    assert len(checked.code) > len(trusted.code) + 40
    machine = native_machine(sandbox=False)
    memory = ctypes.create_string_buffer((41).to_bytes(8, "little") + bytes(8), 16)
    # No region has this memory; code that is trusted reads and writes it all the same.
    assert machine.run(program(text), ctypes.addressof(memory)) == 41
    assert memory.raw[8] == 41
