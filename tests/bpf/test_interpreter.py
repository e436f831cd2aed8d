"""Every tier: memory, calls, helpers and the limits of a run, as RFC 9669 and Linux say."""

import struct

import numpy as np
import pytest

from jitlink.bpf.assembler import assemble
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.instructions import decode
from jitlink.bpf.machine import FUNCTION_BASE, POISON, Code
from jitlink.errors import UsageError
from tests.bpf.machines import TIERS, machine_of

MASK = 0xFFFF_FFFF_FFFF_FFFF
PATTERN = bytes.fromhex("80f07f01ff8190a1b2c3d4e5f60718293a4b5c6d7e8f")


@pytest.fixture(params=TIERS)
def machine(request):
    machine = machine_of(request.param)
    yield machine
    machine.regions.close()


def program(text, byteorder="little", **names):
    return Code(decode(assemble(text, byteorder=byteorder), byteorder), **names)


def fault_of(machine, code, *arguments, **options):
    with pytest.raises(BpfFault) as caught:
        machine.run(code, *arguments, **options)
    return caught.value


# Loads and stores: RFC 9669 sections 5.1 and 5.2.


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize(
    ("size", "signed"), [(1, False), (2, False), (4, False), (8, False), (1, True), (2, True), (4, True)]
)
def test_load(machine, size, offset, signed, byteorder):
    """A load takes size bytes at any alignment, in the program's byte order, and extends zeros or the sign."""
    region = machine.regions.allocate(len(PATTERN), "buffer")
    region.data[:] = PATTERN
    code = program(f"r0 = -1\nr0 = *({'s' if signed else 'u'}{8 * size} *)(r1 + {offset})\nexit", byteorder)
    expected = int.from_bytes(PATTERN[offset : offset + size], byteorder, signed=signed) & MASK
    assert machine.run(code, region.address) == expected


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("value", [0, 1, -1, 0x7FFF_FFFF, -0x8000_0000, 0x0102_0304])
def test_store(machine, size, value, byteorder):
    """A store writes the low bytes of a register, or of the sign-extended immediate, and no byte beside them."""
    for stored in ("r2", value):
        region = machine.regions.allocate(24, "buffer")
        region.data[:] = b"\x55" * 24
        machine.run(program(f"r0 = 0\n*(u{8 * size} *)(r1 - 3) = {stored}\nexit", byteorder), region.address + 8, value)
        written = (value & (1 << 8 * size) - 1).to_bytes(size, byteorder)
        assert bytes(region.data) == b"\x55" * 5 + written + b"\x55" * (19 - size)


def test_access_outside_of_memory_faults_with_all_facts(machine):
    """A fault names program, instruction, source line, address, size and nearest region."""
    region = machine.regions.allocate(14, "packet")
    code = program(
        "r0 = 0\nr2 = *(u32 *)(r1 + 12)\nexit", name="xdp_main", lines=lambda index: {1: "xdp.c:14"}.get(index)
    )
    fault = fault_of(machine, code, region.address)
    assert (fault.kind, fault.pc, fault.line, fault.program) == (FaultKind.OUT_OF_BOUNDS, 1, "xdp.c:14", "xdp_main")
    assert (fault.address, fault.size, fault.nearest) == (region.address + 12, 4, "packet")
    assert str(fault) == (
        f"xdp_main: instruction 1 (xdp.c:14): read of 4 bytes at {region.address + 12:#x} is outside the program's "
        f"memory: it runs 2 bytes over the end of packet (14 bytes at {region.address:#x})"
    )


@pytest.mark.parametrize(
    "line", ["r0 = *(u8 *)(r1 + 0)", "*(u8 *)(r1 + 0) = r2", "*(u8 *)(r1 + 0) = 1", "lock *(u32 *)(r1 + 0) += w2"]
)
@pytest.mark.parametrize("pointer", [0, 1, MASK, 1 << 63, FUNCTION_BASE])
def test_wild_pointer_faults(machine, line, pointer):
    """Null, wrapped and function pointers can be neither read nor written."""
    kinds = {FaultKind.OUT_OF_BOUNDS, FaultKind.MISALIGNED_ATOMIC}
    assert fault_of(machine, program(f"{line}\nexit"), pointer).kind in kinds


@pytest.mark.parametrize("line", ["*(u8 *)(r1 + 0) = r2", "*(u8 *)(r1 + 0) = 1", "lock *(u32 *)(r1 + 0) += w2"])
def test_write_to_read_only_memory_faults(machine, line):
    """Every kind of store faults in a read-only region."""
    region = machine.regions.allocate(8, "constants", writable=False)
    assert fault_of(machine, program(f"{line}\nexit"), region.address).kind is FaultKind.READ_ONLY


def test_remembered_region_does_not_outlive_its_removal(machine):
    """An instruction that used a region faults on it once the region is removed or has moved away."""
    region = machine.regions.allocate(64, "record")
    address = region.address
    code = program("r0 = *(u64 *)(r1 + 0)\nexit")
    assert machine.run(code, address) == 0
    machine.regions.resize(region, address + 8, 8)
    fault_of(machine, code, address)
    assert machine.run(code, address + 8) == 0
    machine.regions.remove(region)
    fault_of(machine, code, address + 8)


# Atomic operations: RFC 9669 section 5.3.

ATOMIC_CASES = {
    "add": lambda old, src, r0: old + src,
    "or": lambda old, src, r0: old | src,
    "and": lambda old, src, r0: old & src,
    "xor": lambda old, src, r0: old ^ src,
    "xchg": lambda old, src, r0: src,
    "cmpxchg": lambda old, src, r0: src if old == r0 else old,
}
VALUES = [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0001, 0x8000_0000_0000_0000, MASK]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("fetch", ["", "fetch "])
@pytest.mark.parametrize("name", ["add", "or", "and", "xor"])
def test_atomic(machine, name, fetch, bits):
    """Memory gets the result in its width; with fetch src gets the old value, zero-extended, else it stays."""
    check_atomic(machine, f"lock {fetch}{name}", bits, ATOMIC_CASES[name], fetched="r2" if fetch else None)


@pytest.mark.parametrize("bits", [32, 64])
def test_xchg(machine, bits):
    """xchg writes src and gives src the old value, zero-extended."""
    check_atomic(machine, "lock xchg", bits, ATOMIC_CASES["xchg"], fetched="r2")


@pytest.mark.parametrize("bits", [32, 64])
def test_cmpxchg(machine, bits):
    """cmpxchg writes src if memory holds r0, compared in its width; r0 gets the old value, zero-extended."""
    check_atomic(machine, "lock cmpxchg", bits, ATOMIC_CASES["cmpxchg"], fetched="r0")


def check_atomic(machine, line, bits, result, *, fetched):
    region = machine.regions.allocate(24, "counter")
    mask = (1 << bits) - 1
    width = "32" if bits == 32 else ""
    codes = {
        register: program(f"r0 = r3\n{line}{width} [r1+8], r2\nr0 = {register}\nexit") for register in ("r0", "r2")
    }
    for old in VALUES:
        for src in VALUES:
            for r0 in {old, src, 5}:
                kept = {"r0": r0, "r2": src}
                in_memory = old & ~mask | result(old & mask, src & mask, r0 & mask) & mask
                for register, code in codes.items():
                    region.data[:] = struct.pack("<QQQ", 0, old, 0)
                    after = machine.run(code, region.address, src, r0)
                    assert struct.unpack("<QQQ", region.data) == (0, in_memory, 0)
                    assert after == (old & mask if register == fetched else kept[register])


@pytest.mark.parametrize(("size", "letter"), [(1, "b"), (2, "h"), (4, "w"), (8, "dw")])
def test_load_acquire_and_store_release(machine, size, letter):
    """load_acquire zero-extends what it loads; store_release stores the low bytes; both change nothing else."""
    region = machine.regions.allocate(16, "flag")
    region.data[:] = b"\xf1" * 16
    load = program(f"load_acquire_{letter} r0, [r1+8]\nexit")
    assert machine.run(load, region.address) == int.from_bytes(b"\xf1" * size, "little")
    store = program(f"r0 = 0\nstore_release_{letter} [r1+8], r2\nexit")
    machine.run(store, region.address, 0x0807_0605_0403_0201)
    assert bytes(region.data) == b"\xf1" * 8 + bytes(range(1, size + 1)) + b"\xf1" * (8 - size)


def test_load_acquire_reads_read_only_memory(machine):
    """load_acquire does not need memory that can be written."""
    region = machine.regions.allocate(8, "constants", writable=False)
    assert machine.run(program("load_acquire_dw r0, [r1]\nexit"), region.address) == 0


@pytest.mark.parametrize(
    "line", ["lock add [r1+4], r2", "lock add32 [r1+2], r2", "lock cmpxchg [r1+1], r2", "load_acquire_h r0, [r1+1]"]
)
def test_misaligned_atomic_faults(machine, line):
    """Atomic accesses are naturally aligned, as the kernel's verifier asks; others need not be."""
    region = machine.regions.allocate(32, "counter")
    fault = fault_of(machine, program(f"{line}\nexit"), region.address)
    assert fault.kind is FaultKind.MISALIGNED_ATOMIC


# Legacy packet loads: RFC 9669 section 5.5.


def test_packet_loads_are_big_endian_and_clobber(machine):
    """ldabs and ldind load from the packet in network order into r0, zero-extended, and clobber r1 to r5."""
    region = machine.regions.allocate(8, "packet")
    region.data[:] = bytes.fromhex("f1e2d3c4b5a69788")
    machine.packet_bounds = lambda context: (region.address, region.end) if context == 99 else None
    for line, expected in (
        ("ldabsw 0", 0xF1E2D3C4),
        ("ldabsh 6", 0x9788),
        ("ldabsb 7", 0x88),
        ("ldindw r2, -1", 0xE2D3C4B5),
        ("ldindh r2, 0", 0xD3C4),
        ("ldindb r2, 1", 0xC4),
    ):
        assert machine.run(program(f"r6 = r1\nr2 = 2\n{line}\nr7 = r1\nexit"), 99) == expected
        assert machine.run(program(f"r6 = r1\nr2 = 2\n{line}\nr0 = r1\nexit"), 99) == POISON


@pytest.mark.parametrize("line", ["ldabsw 5", "ldabsb 8", "ldabsb -1", "ldindb r2, 6", "ldindb r2, -3"])
def test_packet_load_outside_of_the_packet_ends_the_program(machine, line):
    """Outside of the packet the program ends with r0 = 0."""
    region = machine.regions.allocate(8, "packet")
    machine.packet_bounds = lambda context: (region.address, region.end)
    assert machine.run(program(f"r6 = r1\nr2 = 2\n{line}\nr0 = 7\nexit")) == 0


def test_packet_load_without_a_packet_faults(machine):
    """A program that is given no packet cannot load from it."""
    assert fault_of(machine, program("ldabsw 0\nexit")).kind is FaultKind.NO_PACKET


# Calls of functions of the program: RFC 9669 section 4.3.2, kernel limits.


def test_local_call_keeps_callee_saved_registers(machine):
    """The callee may use r6 to r9 and r10 as it likes: the caller finds its own again."""
    code = program("""
        r6 = 6
        r7 = 7
        r8 = 8
        r9 = 9
        *(u64 *)(r10 - 8) = 1
        r1 = 30
        call f
        r0 += r6
        r0 += r7
        r0 += r8
        r0 += r9
        r1 = *(u64 *)(r10 - 8)
        r0 += r1
        exit
    f:  r6 = 100
        r7 = 100
        r8 = 100
        r9 = 100
        *(u64 *)(r10 - 8) = 100
        r0 = r1
        exit
    """)
    assert machine.run(code) == 30 + 6 + 7 + 8 + 9 + 1


def test_callee_reaches_the_stack_of_its_caller(machine):
    """A pointer into the caller's stack is good in the callee."""
    code = program("""
        r1 = r10
        r1 += -8
        call f
        r0 = *(u64 *)(r10 - 8)
        exit
    f:  *(u64 *)(r1 + 0) = 42
        exit
    """)
    assert machine.run(code) == 42


def test_stack_of_a_function_that_returned_is_gone(machine):
    """A pointer into the stack of a callee faults once the callee has returned."""
    code = program("call f\nr0 = *(u64 *)(r0 - 8)\nexit\nf: r0 = r10\nexit")
    fault = fault_of(machine, code)
    assert (fault.kind, fault.pc) == (FaultKind.OUT_OF_BOUNDS, 1)


@pytest.mark.parametrize(("offset", "allowed"), [(-512, True), (-8, True), (-513, False), (-7, False), (0, False)])
def test_stack_of_a_frame_is_512_bytes(machine, offset, allowed):
    """Accesses lie in the 512 bytes below r10, in the first function and in a called one."""
    for code in (
        program(f"r0 = *(u64 *)(r10 + {offset})\nexit"),
        program(f"call f\nexit\nf: r0 = *(u64 *)(r10 + {offset})\nexit"),
    ):
        if allowed:
            assert machine.run(code) == 0
        else:
            assert fault_of(machine, code).kind is FaultKind.OUT_OF_BOUNDS


def test_stack_is_zero_when_a_run_starts(machine):
    """What a run left on the stack is not seen by the next one."""
    assert machine.run(program("*(u64 *)(r10 - 8) = 5\nr0 = 0\nexit")) == 0
    assert machine.run(program("r0 = *(u64 *)(r10 - 8)\nexit")) == 0


@pytest.mark.parametrize(("calls", "allowed"), [(7, True), (8, False)])
def test_eight_functions_can_be_active(machine, calls, allowed):
    """The first function and seven calls deep is allowed, one more is a fault."""
    code = program("r1 = r1\ncall f\nexit\nf: r0 = r1\nr1 += -1\nif r1 == 0 goto done\ncall f\ndone: exit")
    if allowed:
        assert machine.run(code, calls) == 1
    else:
        assert fault_of(machine, code, calls).kind is FaultKind.CALL_DEPTH
    assert machine.depth == 0


def test_call_through_a_register(machine):
    """callx calls the function whose pointer code_addr gave, and a helper by its number."""
    code = program("r2 = code_addr(f)\nr1 = 20\ncallx r2\nexit\nf: r0 = r1\nr0 += 1\nexit")
    assert machine.run(code) == 21
    machine.helpers[5] = lambda machine, *arguments: arguments[0] + 2
    assert machine.run(program("r2 = 5\nr1 = 40\ncallx r2\nexit")) == 42


@pytest.mark.parametrize("pointer", [0, 77, FUNCTION_BASE + 4, FUNCTION_BASE + 80, FUNCTION_BASE - 8, MASK])
def test_call_of_what_is_no_function_faults(machine, pointer):
    """callx of anything else than an instruction of the program is a fault."""
    assert fault_of(machine, program("callx r1\nexit"), pointer).kind is FaultKind.BAD_CALL


# Helpers.


def test_helper_gets_five_arguments_and_returns_modulo_two_to_the_64(machine):
    """A helper gets r1 to r5 as unsigned numbers, its result is cut to 64 bits, and r1 to r5 are poison then."""
    got = []

    def helper(machine, *arguments):
        got.append((machine.pc, machine.depth, arguments))
        return -2

    machine.helpers[200] = helper
    code = program("r1 = 1\nr2 = -2\nr3 = 3\nr4 = 4\nr5 = 5\nr6 = 6\ncall 200\nexit")
    assert machine.run(code) == MASK - 1
    assert got == [(6, 1, (1, MASK - 1, 3, 4, 5))]
    poisoned = program("call 200\nr0 = 0\nr0 |= r1\nr0 ^= r2\nr0 |= r3\nr0 ^= r4\nr0 |= r5\nexit")
    assert machine.run(poisoned) == POISON


def test_kfunc_is_found_by_its_btf_id(machine):
    """A call with src 2 goes to the kfuncs, not to the helpers."""
    machine.kfuncs[200] = lambda *arguments: 3
    assert machine.run(program("call runtime 200\nexit")) == 3
    assert fault_of(machine, program("call 200\nexit")).kind is FaultKind.UNKNOWN_HELPER


def test_unknown_helper_faults_only_when_it_is_reached(machine):
    """A call of a helper that does not exist is a fault of that call; CO-RE's poison is explained."""
    code = program("if r1 == 0 goto +1\ncall 195896080\nr0 = 1\nexit")
    assert machine.run(code, 0) == 1
    fault = fault_of(machine, code, 1)
    assert (fault.kind, fault.pc) == (FaultKind.UNKNOWN_HELPER, 1)
    assert "CO-RE relocation" in str(fault)


def test_helper_can_be_replaced_between_runs(machine):
    """Helpers are looked up when they are called."""
    code = program("call 1\nexit")
    for number in (1, 2):
        machine.helpers[1] = lambda machine, *arguments, number=number: number
        assert machine.run(code) == number


def test_helper_reads_and_writes_memory(machine):
    """read, write and read_string go through the regions, with the faults of the program's own accesses."""
    region = machine.regions.allocate(16, "buffer")

    def helper(machine, address, *rest):
        assert machine.read_string(address) == b"abc"
        assert machine.read_string(address, 2) == b"ab"
        machine.write(address + 8, machine.read(address, 4))
        machine.write(address, b"")
        return machine.read(address + 14, 4)

    machine.helpers[1] = helper
    region.data[:4] = b"abc\0"
    fault = fault_of(machine, program("call 1\nexit"), region.address)
    assert (fault.kind, fault.pc, fault.nearest) == (FaultKind.OUT_OF_BOUNDS, 0, "buffer")
    assert bytes(region.data[8:12]) == b"abc\0"


def test_exception_of_a_helper_passes_with_a_note(machine):
    """What a helper raises comes out as it is, with a note of the instruction; the machine runs on after it."""

    def helper(machine, *arguments):
        raise KeyError("mine")

    machine.helpers[1] = helper
    with pytest.raises(KeyError, match="mine") as caught:
        machine.run(program("r0 = 0\ncall 1\nexit", name="tc", lines=lambda index: "tc.c:9"))
    assert caught.value.__notes__ == ["while BPF ran tc at instruction 1 (tc.c:9)"]
    assert machine.run(program("r0 = 3\nexit")) == 3


def test_helper_calls_back_into_the_program(machine):
    """call_function runs a function of the program with its own frame, and the caller's registers are kept."""

    def loop(machine, count, function, context, *rest):
        for index in range(count):
            if machine.call_function(function, index, context):
                break
        return index + 1

    machine.helpers[181] = loop
    code = program("""
        r6 = 66
        *(u64 *)(r10 - 8) = 0
        r1 = 10
        r2 = code_addr(body)
        r3 = r10
        r3 += -8
        call 181
        r7 = *(u64 *)(r10 - 8)
        r0 *= 1000
        r0 += r7
        r0 += r6
        exit
    body:
        r6 = 1
        r0 = *(u64 *)(r2 + 0)
        r0 += r1
        *(u64 *)(r2 + 0) = r0
        r0 = 0
        if r1 < 4 goto +1
        r0 = 1
        exit
    """)
    assert machine.run(code) == 5 * 1000 + (0 + 1 + 2 + 3 + 4) + 66


def test_call_back_shares_budget_and_depth(machine):
    """A function that a helper calls back counts instructions and frames of the same run."""
    machine.helpers[1] = lambda machine, function, *rest: machine.call_function(function, function)
    recursive = program("r1 = code_addr(f)\ncall 1\nexit\nf: call 1\nexit")
    assert fault_of(machine, recursive).kind is FaultKind.CALL_DEPTH
    endless = program("r1 = code_addr(f)\ncall 1\nexit\nf: goto -1")
    fault = fault_of(machine, endless, budget=1000)
    assert (fault.kind, fault.pc, machine.instructions, machine.budget_left) == (FaultKind.BUDGET, 4, 1000, 0)


def test_run_within_a_run_is_refused(machine):
    """A helper cannot start another run on the same machine, nor pass six arguments."""
    machine.helpers[1] = lambda machine, *arguments: machine.run(machine.code)
    with pytest.raises(UsageError, match="call_function"):
        machine.run(program("call 1\nexit"))
    with pytest.raises(UsageError, match="at most 5 arguments"):
        machine.run(program("exit"), 1, 2, 3, 4, 5, 6)


def test_doors_for_helpers_are_closed_outside_of_a_run(machine):
    """Without a run under way nothing can be called back or left."""
    code = program("exit")
    machine.run(code)
    with pytest.raises(UsageError, match="no run is under way"):
        machine.call_function(FUNCTION_BASE)
    with pytest.raises(UsageError, match="no run is under way"):
        machine.tail_call(code)


def test_closed_machine_leaves_the_memory_of_others(machine):
    """close takes the stack out of the regions and nothing else."""
    region = machine.regions.allocate(8, "shared")
    machine.close()
    assert len(machine.regions) == 1
    assert machine.regions.find(region.address, 8) is region


# Tail calls.


def tail_call_to(target):
    def helper(machine, *arguments):
        assert not machine.tail_call(target)
        return -1

    return helper


def test_tail_call_goes_on_in_the_other_program(machine):
    """The other program gets r1 as the helper did, the same frame, and its result is the result of the run."""
    target = program("r0 = r1\nr2 = *(u64 *)(r10 - 8)\nr0 += r2\nexit")
    machine.helpers[12] = tail_call_to(target)
    assert machine.run(program("*(u64 *)(r10 - 8) = 5\ncall 12\nr0 = 99\nexit"), 37) == 42


def test_tail_call_from_a_function_returns_to_its_caller(machine):
    """A tail call replaces only the function that makes it."""
    machine.helpers[12] = tail_call_to(program("r0 = 40\nexit"))
    assert machine.run(program("r6 = 2\ncall f\nr0 += r6\nexit\nf: call 12\nexit")) == 42


def test_tail_call_in_a_call_back_returns_to_the_helper(machine):
    """A tail call in a function that a helper called ends at that helper, and the first program goes on."""
    machine.helpers[12] = tail_call_to(program("r0 = 40\nexit"))
    machine.helpers[1] = lambda machine, function, *rest: machine.call_function(function) + 1
    assert machine.run(program("r1 = code_addr(f)\ncall 1\nr0 += 1\nexit\nf: call 12\nexit")) == 42


def test_thirty_three_tail_calls_are_allowed(machine):
    """The 34th tail call of a run fails and the program goes on behind it; the next run starts anew."""
    code = program("r7 = 0\ncall 12\nr0 = -r0\nexit")
    calls = []

    def helper(machine, *arguments):
        calls.append(machine.pc)
        return -5 if not machine.tail_call(code) else 0

    machine.helpers[12] = helper
    for _ in range(2):
        calls.clear()
        assert machine.run(code) == 5
        assert len(calls) == 34


# Limits and bad programs.


def test_endless_loop_uses_up_its_budget(machine):
    """A run stops after as many instructions as it may take, and says where."""
    fault = fault_of(machine, program("r0 = 0\ngoto -1"), budget=12345)
    assert (fault.kind, fault.pc, machine.instructions) == (FaultKind.BUDGET, 1, 12345)
    assert "budget of 12345 instructions" in str(fault)


@pytest.mark.parametrize("budget", [3, 4])
def test_budget_that_just_suffices(machine, budget):
    """A program of three instructions needs a budget of three; lddw counts once."""
    assert machine.run(program("r0 = 7 ll\nr0 += 1\nexit"), budget=budget) == 8
    assert machine.instructions == 3
    assert fault_of(machine, program("r0 = 7 ll\nr0 += 1\nexit"), budget=2).kind is FaultKind.BUDGET


def test_may_goto_ends_its_loop(machine):
    """may_goto falls through a fixed number of times in each function activation, and then jumps."""
    machine.may_goto_limit = 10
    code = program("r0 = 0\nmay_goto +2\nr0 += 1\ngoto -3\nexit")
    assert machine.run(code) == 10
    twice = program("r6 = 0\ncall f\nr6 += r0\ncall f\nr0 += r6\nexit\nf: r0 = 0\nmay_goto +2\nr0 += 1\ngoto -3\nexit")
    assert machine.run(twice) == 20


def test_may_goto_loop_ends_within_the_default_budget(machine):
    """An endless loop with may_goto ends by itself when nothing is set otherwise."""
    code = program("r0 = 0\nmay_goto +2\nr0 += 1\ngoto -3\nexit")
    assert machine.run(code) > 0


@pytest.mark.parametrize(
    ("text", "kind", "pc"),
    [
        ("r0 = 1", FaultKind.BAD_JUMP, 1),
        ("", FaultKind.BAD_JUMP, 0),
        ("goto +5", FaultKind.BAD_JUMP, 0),
        ("r0 = 0\nif r0 == 0 goto -7\nexit", FaultKind.BAD_JUMP, 1),
        ("gotol -2147483648", FaultKind.BAD_JUMP, 0),
        ("call local +5\nexit", FaultKind.BAD_JUMP, 0),
        ("goto +1\nr0 = 1 ll\nexit", FaultKind.BAD_INSTRUCTION, 2),
        ("r0 = 1\n.insn 0xff, 0, 0, 0, 0", FaultKind.BAD_INSTRUCTION, 1),
        (".insn 0x3f, 0, 0, 2, 0", FaultKind.BAD_INSTRUCTION, 0),
        (".insn 0xbf, 11, 0, 0, 0", FaultKind.BAD_INSTRUCTION, 0),
        (".insn 0x18, 0, 0, 0, 0", FaultKind.BAD_INSTRUCTION, 0),
        ("r0 = addr_space_cast(r1, 0, 1)", FaultKind.BAD_INSTRUCTION, 0),
        ("gotox r1", FaultKind.BAD_INSTRUCTION, 0),
        ("r1 = map_by_fd(3)", FaultKind.UNRESOLVED, 0),
    ],
)
def test_bad_program_faults_where_it_is_bad(machine, text, kind, pc):
    """What the verifier would refuse is a fault of the instruction when it is reached, never a crash."""
    fault = fault_of(machine, program(text), 1)
    assert (fault.kind, fault.pc) == (kind, pc)


def test_wild_branch_that_is_not_taken_is_harmless(machine):
    """A branch out of the program faults only when it is taken."""
    code = program("r0 = 3\nif r1 == 1 goto +100\nexit")
    assert machine.run(code, 0) == 3
    assert fault_of(machine, code, 1).kind is FaultKind.BAD_JUMP


def test_arguments_are_cut_to_64_bits(machine):
    """Arguments are taken modulo 2**64, NumPy integers too."""
    code = program("r0 = r1\nexit")
    assert machine.run(code, -1) == MASK
    assert machine.run(code, np.int64(-1)) == MASK
    assert machine.run(code, (1 << 64) + 5) == 5
