"""Running programs: contexts, results, and what Python sees of a run."""

from __future__ import annotations

import struct

import pytest

from jitlink import bpf
from jitlink.errors import ClosedError, UsageError
from tests.bpf.sources import ORDERS, assembled, compiled

SKB = """
struct __sk_buff { u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority,
    ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end; };
"""


@pytest.mark.parametrize("order", ORDERS)
def test_an_xdp_program_sees_and_changes_its_packet(order):
    """Its 32-bit data and data_end are pointers to the packet, which comes back as the program left it."""
    program = bpf.load(
        compiled(
            """
            SEC("xdp") int run(struct xdp_md *context) {
                u8 *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
                if (data + 14 > end)
                    return 1;
                data[0] = end - data;
                return data[1] + context->ingress_ifindex;
            }
            """,
            order=order,
        )
    )
    result = program.run(bytes(range(20)), ctx={"ingress_ifindex": 5})
    assert (int(result), result.data[:2], len(result.data)) == (6, b"\x14\x01", 20)
    assert result.fields["ingress_ifindex"] == 5
    assert program.run(b"").action == "XDP_DROP"


def test_a_packet_grows_and_shrinks():
    """What a program puts in front of a packet, or takes away, is so in the result."""
    program = bpf.load(
        compiled("""
        SEC("xdp") int run(struct xdp_md *context) {
            int delta = (int)context->rx_queue_index - 100;
            if (xdp_adjust_head(context, delta))
                return 0;
            u8 *data = (void *)(long)context->data;
            if (data + 1 > (u8 *)(long)context->data_end)
                return 0;
            data[0] = 0xaa;
            return 2;
        }
        """)
    )
    packet = bytes(range(40))
    grown, shrunk = (program.run(packet, ctx={"rx_queue_index": 100 + delta}) for delta in (-4, 4))
    assert (grown.action, grown.data[0], grown.data[4:]) == ("XDP_PASS", 0xAA, packet)
    assert (shrunk.data[0], shrunk.data[1:]) == (0xAA, packet[5:])
    assert program.run(packet, ctx={"rx_queue_index": 139}).action == "XDP_ABORTED"


@pytest.mark.parametrize(("value", "action"), [(0, "TC_ACT_OK"), (2, "TC_ACT_SHOT"), (-1, "TC_ACT_UNSPEC"), (77, "")])
def test_a_tc_program_has_a_socket_buffer(value, action):
    """Fields of __sk_buff are there, writable ones come back, and the action has its name."""
    program = bpf.load(
        compiled(SKB + 'SEC("tc") int run(struct __sk_buff *skb) { skb->mark = skb->len; return skb->cb[1]; }')
    )
    result = program.run(bytes(60), ctx={"cb": (0, value & 0xFFFF_FFFF, 0, 0, 0)})
    assert (result.action, result.fields["mark"], result.retval) == (action, 60, value & 0xFFFF_FFFF)
    assert result.r0 & 0xFFFF_FFFF == result.retval


def test_a_plain_program_gets_address_and_length():
    """r1 is the address of the data and r2 its length; without data both are 0; changes come back."""
    program = bpf.load(compiled("u64 run(u8 *data, u64 n) { if (!data) return 99; data[n - 1]++; return n; }"))
    result = program.run(b"\1\2\3")
    assert (int(result), result.data) == (3, b"\1\2\4")
    assert program.run() == 99


def test_a_program_is_called_as_a_function():
    """call passes r1 to r5 and returns all of r0."""
    program = bpf.load(compiled("u64 run(u64 a, u64 b, u64 c, u64 d, u64 e) { return a ^ b ^ c ^ d ^ e; }"))
    assert program.call(1, 2, 4, 8, -1) == (2**64 - 1) ^ 15


def test_a_result_compares_and_converts_like_its_value():
    """A result is equal to its number and to results of the same number, and is an index."""
    program = bpf.load(bpf.assemble("r0 = r2\nexit"))
    two = program.run(b"ab")
    assert two == 2 == int(two)
    assert two != 3
    assert two == program.run(b"cd")
    assert "abc"[two] == "c"
    assert two.instructions == 2
    assert hash(two) == hash(2)


def test_a_field_that_there_is_not():
    """Unknown fields are errors of usage, on packets and on plain memory."""
    with pytest.raises(UsageError, match="no field speed"):
        bpf.load(compiled('SEC("xdp") int run(void *context) { return 0; }')).run(ctx={"speed": 1})
    with pytest.raises(UsageError, match="plain memory"):
        bpf.load(bpf.assemble("r0 = 0\nexit")).run(ctx={"mark": 1})


def test_a_fault_leaves_the_program_usable():
    """After a fault, and after an exception of a helper, the next run starts afresh."""
    loaded = bpf.load_object(compiled("u64 run(u8 *data, u64 n) { return ktime_get_ns() + data[n > 2 ? 99999 : 0]; }"))
    program = loaded["run"]
    regions = len(loaded.regions)
    program.helper("ktime_get_ns")(lambda machine: 0)
    with pytest.raises(bpf.BpfFault, match=r"source\.c:\d+.*outside the program's memory") as caught:
        program.run(b"123")
    assert caught.value.kind is bpf.FaultKind.OUT_OF_BOUNDS
    assert program.run(b"12") == ord("1")

    @program.helper("ktime_get_ns")
    def broken(machine):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        program.run(b"12")
    program.helper(5)(lambda machine: 1000)
    assert program.run(b"12") == 1000 + ord("1")
    # The memory of the last run is kept for the next one.
    assert len(loaded.regions) == regions + 1


def test_a_run_is_bounded():
    """A loop without end stops at the budget that the run was given."""
    program = bpf.load(bpf.assemble("r0 = 0\ngoto -1\nexit"), kernel_rules=False)
    with pytest.raises(bpf.BpfFault, match="budget of 1000") as caught:
        program.run(budget=1000)
    assert caught.value.kind is bpf.FaultKind.BUDGET


def test_time_is_what_the_test_says():
    """A helper is replaced by number or by name, with or without its prefix."""
    program = bpf.load(compiled("u64 run(void) { return ktime_get_ns(); }"))
    times = iter((100, 200, 300))
    for key, expected in ((5, 100), ("ktime_get_ns", 200), ("bpf_ktime_get_ns", 300)):
        program.helper(key)(lambda machine: next(times))
        assert program.run() == expected


def test_what_a_program_prints_is_kept():
    """Lines of bpf_trace_printk are in trace."""
    program = bpf.load(
        compiled("""
        u64 run(u8 *data, u64 n) {
            static const char format[] = "length %d";
            return trace_printk(format, sizeof format, n);
        }
        """)
    )
    program.run(b"abc")
    assert program.trace[-1].startswith("length 3")


@pytest.mark.parametrize("order", ORDERS)
def test_a_tail_call_goes_on_in_another_program(order):
    """A prog array that Python fills leads to another program of the object, on the same context."""
    loaded = bpf.load_object(
        compiled(
            """
            struct { __uint(type, 3); __uint(max_entries, 2); __uint(key_size, 4); __uint(value_size, 4); }
                jumps SEC(".maps");
            SEC("xdp") int entry(struct xdp_md *context) { tail_call(context, &jumps, 1); return 1; }
            SEC("xdp") int other(struct xdp_md *context) { return context->data_end - context->data; }
            """,
            order=order,
        )
    )
    entry = loaded["entry"]
    assert entry.run(bytes(20)) == 1
    loaded.maps["jumps"][1] = loaded["other"]
    assert entry.run(bytes(20)) == 20


def test_legacy_packet_loads_read_the_packet():
    """ld_abs and ld_ind read the packet of a socket filter, and end the program outside of it."""
    text = """
        .section socket,"ax",@progbits
        .globl filter
        .type filter,@function
    filter:
        r6 = r1
        r0 = *(u16 *)skb[12]
        r7 = r0
        r1 = 4
        r0 = *(u8 *)skb[r1]
        r0 += r7
        exit
    """
    program = bpf.load(assembled(text))
    packet = bytes([0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 8, 6])
    assert program.run(packet) == 0x0806 + 9
    assert program.run(packet[:13]) == 0


def test_programs_of_an_object_share_maps_and_variables():
    """What one program writes, another reads."""
    loaded = bpf.load_object(
        compiled("""
        u64 shared;
        SEC("xdp") int writer(struct xdp_md *context) { shared = 42; return 2; }
        SEC("tc") int reader(void *context) { return shared; }
        """)
    )
    loaded["writer"].run(bytes(14))
    assert loaded["reader"].run(bytes(14)) == 42
    assert loaded["reader"].globals is loaded["writer"].globals


def test_the_context_can_be_chosen():
    """A program for packets runs on plain memory if it is told to, and the other way round."""
    source = 'SEC("xdp") u64 run(u64 *context) { return context[0]; }'
    assert bpf.load(compiled(source), context="flat").run(struct.pack("<Q", 1 << 40)) == 1 << 40
    assert (
        bpf.load(compiled("int run(struct xdp_md *c) { return c->data_end - c->data; }"), context="xdp").run(bytes(30))
        == 30
    )


COVERED = """
SEC("xdp") int run(struct xdp_md *context)
{
    if (context->data_end - context->data > 100)
        return trace_printk("", 0) + 3;
    return 2;
}
"""


def test_coverage_says_which_source_lines_ran():
    """The lcov record of the runs counts the lines that were reached, and names those that were not."""
    program = bpf.load(compiled(COVERED))
    coverage = bpf.Coverage()
    for _ in range(3):
        program.run(bytes(60), hook=coverage)
    record = program.lcov(coverage, test="short")
    lines = dict(row[3:].split(",") for row in record.splitlines() if row.startswith("DA:"))
    source = [line for line, text in enumerate(_source().splitlines(), 1) if 'trace_printk(""' in text]
    assert int(lines[str(source[0])]) == 0
    assert int(lines[str(source[0] - 1)]) == 3
    assert record.startswith("TN:short\nSF:")
    assert "FNDA:3,run" in record
    program.run(bytes(200), hook=coverage)
    lines = dict(row[3:].split(",") for row in program.lcov(coverage).splitlines() if row.startswith("DA:"))
    assert int(lines[str(source[0])]) == 1


def _source():
    from tests.bpf.sources import MACROS

    return MACROS + COVERED


def test_a_listing_shows_references_and_source():
    """The assembly names functions, maps, variables and helpers, and shows the source where it changes."""
    program = bpf.load(
        compiled("""
        struct { __uint(type, 2); __uint(max_entries, 1); __type(key, u32); __type(value, u64); } counts SEC(".maps");
        u64 seen;
        NOINLINE u64 twice(u64 x) { return 2 * x; }
        SEC("xdp") u64 run(u64 x) { u32 key = 0; seen++; return twice((u64)map_lookup(&counts, &key)); }
        """)
    )
    text = program.disassemble()
    for expected in ("run:", "twice:", "call local twice", "# counts", "# seen", "# bpf_map_lookup_elem", "source.c:"):
        assert expected in text
    assert "lddw" in program.disassemble("mnemonic")


def test_close_takes_the_memory_away():
    """After close a program cannot be run any more, and closing twice is no error."""
    loaded = bpf.load_object(compiled("u64 seen; u64 run(void) { return ++seen; }"))
    assert loaded["run"].call() == 1
    loaded.close()
    loaded.close()
    for attempt in (loaded["run"].call, loaded["run"].run):
        with pytest.raises(ClosedError):
            attempt()
