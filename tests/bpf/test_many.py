"""Many packets at once come to what each of them comes to alone."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.instructions import decode
from jitlink.bpf.machine import Code
from jitlink.errors import MalformedInput, UnsupportedInput, UsageError
from tests.bpf.machines import needs_native_code

# Length of the packet; its first byte where there is one.
MEASURE = """
    r2 = *(u32 *)(r1 + {data})
    r3 = *(u32 *)(r1 + {end})
    r0 = r3
    r0 -= r2
    if r2 == r3 goto end
    r4 = *(u8 *)(r2 + 0)
    r0 += r4
end:
    exit
"""
XDP, SKB = MEASURE.format(data=0, end=4), MEASURE.format(data=76, end=80)
READ_20 = "r2 = *(u32 *)(r1 + 0)\nr0 = *(u8 *)(r2 + 20)\nexit"
TIERS = [
    "interpreter",
    pytest.param("jit", marks=needs_native_code),
    pytest.param("llvm", marks=needs_native_code),
]


def load(text: str, tier: str, **options: Any) -> bpf.Program:
    """A program on packets, without what only the kernel's verifier asks."""
    given: dict[str, Any] = {"context": "xdp", "verify": False, **options}
    return bpf.load(bpf.assemble(text), tier=tier, cache=False, **given)


@pytest.fixture(params=TIERS)
def tier(request):
    """Each tier in turn."""
    return request.param


@pytest.mark.parametrize("context", ["xdp", "skb"])
def test_each_packet_comes_to_what_it_comes_to_alone(tier, context):
    """Results, instructions and faults are those of program.run, packet by packet, of any lengths."""
    program = load(XDP if context == "xdp" else SKB, tier, context=context)

    @settings(max_examples=20)
    @given(st.lists(st.binary(max_size=80), max_size=12))
    def check(packets):
        alone = [program.run(packet) for packet in packets]
        together = program.run_many(packets)
        assert together.retval.tolist() == [each.retval for each in alone]
        assert together.instructions.tolist() == [each.instructions for each in alone]
        assert len(together) == len(packets)

    check()


def test_the_fields_of_a_socket_buffer_are_made_from_each_packet(tier):
    """len, wire_len and protocol of struct __sk_buff follow the packet, as in program.run."""
    offsets = (0, 160, 16)
    for offset in offsets:
        program = load(f"r0 = *(u32 *)(r1 + {offset})\nexit", tier, context="skb")
        packets = [bytes(range(length)) for length in (3, 14, 60, 5)]
        assert program.run_many(packets).retval.tolist() == [program.run(packet).retval for packet in packets]


def test_an_array_of_packets_is_a_sequence_of_its_rows(tier):
    """uint8[packets, size] gives the results of its rows, also where it is not contiguous."""
    program = load(XDP, tier)
    packets = np.arange(40 * 32, dtype=np.uint8).reshape(40, 32)
    expected = [32 + int(row[0]) for row in packets]
    assert program.run_many(packets).retval.tolist() == expected
    assert program.run_many(packets[::2, :20]).retval.tolist() == [20 + int(row[0]) for row in packets[::2]]


@pytest.mark.parametrize("shape", [(3, 0), (0, 4), (0, 0)], ids=str)
def test_arrays_without_a_byte_are_packets_too(tier, shape):
    """Packets of no bytes are run, as empty ones; no packets give no results."""
    results = load(XDP, tier).run_many(np.zeros(shape, np.uint8))
    assert results.retval.tolist() == [0] * shape[0]
    assert not results.faults


def test_a_fault_belongs_to_its_packet(tier):
    """A packet on which the program faults has the fault of program.run, and the others have their results."""
    program = load(READ_20, tier)
    packets = [bytes(range(length)) for length in (30, 10, 21, 20)]
    results = program.run_many(packets)
    assert results.retval.tolist() == [20, 0, 20, 0]
    assert sorted(results.faults) == [1, 3]
    for number, fault in results.faults.items():
        with pytest.raises(bpf.BpfFault) as alone:
            program.run(packets[number])
        assert fault.kind == alone.value.kind
        assert fault.pc == alone.value.pc
        assert str(fault).split(" at 0x")[0] == str(alone.value).split(" at 0x")[0]


def test_a_budget_holds_for_each_packet(tier):
    """The budget is that of a run, not of all of them."""
    program = load("r0 = 1\nr0 += 1\nexit", tier)
    assert program.run_many([b""] * 5, budget=3).retval.tolist() == [2] * 5
    assert len(program.run_many([b""] * 5, budget=2).faults) == 5


def test_stack_and_registers_begin_at_zero_in_each_run(tier):
    """What a run leaves in its stack the next one does not find."""
    program = load("r0 = *(u64 *)(r10 - 8)\nr0 += r9\nr9 = 7\n*(u64 *)(r10 - 8) = r9\nexit", tier)
    assert program.run_many([b""] * 3).retval.tolist() == [0, 0, 0]


def test_packets_are_copied_before_a_program_writes_to_them(tier):
    """What a program writes into a packet is its own run's: the array is as it was, and each run begins with it."""
    text = "r2 = *(u32 *)(r1 + 0)\nr0 = *(u8 *)(r2 + 3)\nr3 = 9\n*(u8 *)(r2 + 3) = r3\nexit"
    program = load(text, tier)
    packets = np.full((5, 20), 4, np.uint8)
    for _ in range(2):
        assert program.run_many(packets).retval.tolist() == [4] * 5
    assert (packets == 4).all()


def test_helpers_in_python_see_the_packet_that_is_run(tier):
    """A helper is called with a machine whose context is the packet that the program is at, and may move it."""
    seen = []

    def adjust(machine: Any, *_: int) -> int:
        seen.append(machine.context.data)
        moved: int = machine.context.adjust_head(2)
        return moved

    program = bpf.load(
        bpf.assemble("r6 = r1\ncall 200\nr2 = *(u32 *)(r6 + 0)\nr0 = *(u32 *)(r6 + 4)\nr0 -= r2\nexit"),
        tier=tier,
        cache=False,
        context="xdp",
        verify=False,
        helpers={200: adjust},
    )
    packets = [bytes([number]) * (20 + number) for number in range(4)]
    assert program.run_many(packets).retval.tolist() == [18, 19, 20, 21]
    assert seen == packets


def test_an_exception_of_a_helper_says_at_which_packet(tier):
    """What a helper raises ends the call, with a note."""

    def helper(machine, *_):
        if machine.context.data[0] == 2:
            raise ValueError("two")
        return 0

    text = bpf.assemble("call 200\nexit")
    program = bpf.load(text, tier=tier, cache=False, context="xdp", verify=False, helpers={200: helper})
    with pytest.raises(ValueError, match="two") as raised:
        program.run_many([bytes([number]) for number in range(4)])
    if tier != "interpreter":
        assert "at packet 2" in raised.value.__notes__
    assert program.run_many([b"\0"]).retval.tolist() == [0]


def test_tail_calls_are_followed(tier):
    """A tail call from each packet leads to the other program, as often as one run may make them."""
    other = Code(decode(bpf.assemble("r0 = 9\nexit")), "other")
    text = bpf.assemble("call 200\nexit")
    program = bpf.load(
        text,
        tier=tier,
        cache=False,
        context="xdp",
        verify=False,
        helpers={200: lambda machine, *_: machine.tail_call(other)},
    )
    assert program.run_many([b""] * 50).retval.tolist() == [9] * 50


def test_plain_memory_is_run_too(tier):
    """A program without a packet gets address and length of each piece of memory."""
    program = load("r0 = r2\nif r2 == 0 goto end\nr3 = *(u8 *)(r1 + 0)\nr0 += r3\nend:\nexit", tier, context="flat")
    assert program.run_many([b"\x05ab", b"\x09", b"\x01" * 30]).retval.tolist() == [8, 10, 31]


def capture(packets: list[bytes], order: str = "<", magic: int = 0xA1B2C3D4, link: int = 1) -> bytes:
    """A pcap file."""
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)]
    parts += [struct.pack(f"{order}IIII", 0, 0, len(packet), len(packet) + 9) + packet for packet in packets]
    return b"".join(parts)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
def test_captures_are_read(tier, tmp_path, order, magic):
    """A pcap in either byte order and either unit of time gives its packets, from a file or from bytes."""
    program = load(XDP, tier)
    packets = [b"\x01abc", b"\x02", b"\x03" * 70]
    data = capture(packets, order, magic)
    (tmp_path / "some.pcap").write_bytes(data)
    expected = program.run_many(packets).retval.tolist()
    assert program.run_many(tmp_path / "some.pcap").retval.tolist() == expected
    assert program.run_many(data).retval.tolist() == expected


@pytest.mark.parametrize("cut", [1, 3, 10, 21])
def test_a_capture_that_is_cut_is_refused(cut):
    """A file that ends within a packet or its header is malformed."""
    program = load(XDP, "interpreter")
    with pytest.raises(MalformedInput):
        program.run_many(capture([b"abcd"])[:-cut])


def test_what_is_no_packets_is_refused():
    """pcapng, other links, other arrays and bytes that are no capture are refused by name."""
    program = load(XDP, "interpreter")
    with pytest.raises(UnsupportedInput, match="pcapng"):
        program.run_many(b"\x0a\x0d\x0d\x0a" + bytes(60))
    with pytest.raises(UnsupportedInput, match="101"):
        program.run_many(capture([], link=101))
    with pytest.raises(UsageError, match="float64"):
        program.run_many(np.zeros((3, 3)))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        program.run_many(bytes(64))


def test_progress_ends_at_the_number_of_packets(tier):
    """progress is called with how many were run; the last call says all."""
    calls = []
    packets = np.zeros((70 if tier == "interpreter" else 70_000, 1), np.uint8)
    load("r0 = 2\nexit", tier).run_many(packets, progress=lambda *now: calls.append(now))
    assert calls[-1][0] == calls[-1][1]
    assert calls == sorted(calls)


@needs_native_code
@pytest.mark.parametrize("tier", ["jit", "llvm"])
def test_threads_run_one_program_at_once(tier):
    """Four threads have the results that one has, also where helpers in Python and faults come between."""
    text = "r6 = r1\ncall 200\nr2 = *(u32 *)(r6 + 0)\nr0 = *(u8 *)(r2 + 9)\n"
    text += "*(u64 *)(r10 - 8) = r0\nr0 = *(u64 *)(r10 - 8)\nexit"
    program = bpf.load(
        bpf.assemble(text), tier=tier, cache=False, context="xdp", verify=False, helpers={200: lambda machine, *_: 0}
    )
    packets = [bytes([number % 251]) * (5 + number % 20) for number in range(300)]
    expected = program.run_many(packets)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: program.run_many(packets), range(12)):
            assert found.retval.tolist() == expected.retval.tolist()
            assert sorted(found.faults) == sorted(expected.faults)
