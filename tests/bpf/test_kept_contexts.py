"""Contexts that are kept from one run to the next: nothing of a run is left for another, nor taken from its result."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.assembler import assemble
from jitlink.bpf.contexts import FlatContext, SkbContext, XdpContext
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.kept_contexts import KeptContexts
from jitlink.bpf.regions import Regions
from jitlink.errors import UsageError
from tests.bpf.machines import TIERS
from tests.bpf.sources import compiled

PACKET = bytes(range(12)) + bytes.fromhex("0800") + bytes(range(100, 150))
XDP_ADJUST_HEAD, XDP_ADJUST_META, XDP_ADJUST_TAIL = 44, 54, 65
OUTSIDE = 200
"""The number of a helper of a test's own."""
tiers = pytest.mark.parametrize("tier", TIERS)


def loaded(text, tier, *, context: str | None = "xdp", **options: Any):
    return bpf.load(assemble(text), tier=tier, context=context, verify=False, **options)


def regions_of(program):
    """What memory there is after a run, by name and size."""
    return [(region.name, region.size) for region in program.object.regions]


# What a run finds, and what it gives back


@tiers
@pytest.mark.parametrize("context", ["xdp", "skb", "flat"])
def test_a_result_stays_what_it_was(tier, context):
    """Data, metadata and fields of a result are those of its own run, also when others have followed."""
    offset = {"xdp": 0, "skb": 76, "flat": None}[context]
    load = "r2 = r1" if offset is None else f"r2 = *(u32 *)(r1 + {offset})"
    program = loaded(f"{load}\nr0 = *(u8 *)(r2 + 0)\n*(u8 *)(r2 + 1) = r0\nexit", tier, context=context)
    packets = [bytes([first]) + bytes(19) for first in (5, 6, 7)]
    results = [program.run(packet) for packet in packets]
    assert [int(result) for result in results] == [5, 6, 7]
    assert [result.data for result in results] == [packet[:1] * 2 + packet[2:] for packet in packets]
    if context != "flat":
        others = [program.run(packets[0], ctx={"ingress_ifindex": number}) for number in (8, 9)]
        assert [result.fields["ingress_ifindex"] for result in (*others, *results)] == [8, 9, 1, 1, 1]


@tiers
@pytest.mark.parametrize("context", ["xdp", "skb", "flat"])
def test_the_memory_of_a_run_is_used_again(tier, context):
    """Context and data lie where those of the run before did, also where they are shorter or longer."""
    program = loaded("r0 = r1\nexit", tier, context=context)
    address = program.run(bytes(100)).r0
    regions = len(program.object.regions)
    assert [program.run(bytes(size)).r0 for size in (100, 60, 200, 100)] == [address] * 4
    assert len(program.object.regions) == regions


@tiers
def test_a_shorter_packet_does_not_see_the_longer_one_before_it(tier):
    """What a packet gains at its end is zero, though a longer packet was there; so is what lies in front of it."""
    grow = f"r6 = r1\nr2 = 40\ncall {XDP_ADJUST_TAIL}\nr1 = r6\nr2 = -40\ncall {XDP_ADJUST_HEAD}\nr0 = 2\nexit"
    program = loaded(grow, tier)
    long = program.run(b"\xff" * 200)
    assert long.data == bytes(40) + b"\xff" * 200 + bytes(40)
    for size in (200, 60, 200, 14):
        assert program.run(b"\xee" * size).data == bytes(40) + b"\xee" * size + bytes(40)


@tiers
def test_shorter_memory_ends_where_it_ends(tier):
    """Plain memory that was longer in the run before cannot be reached beyond its end, and grows anew at zero cost."""
    program = loaded("r2 += r1\nr0 = *(u8 *)(r2 - 1)\nexit", tier, context="flat")
    beyond = loaded("r2 += r1\nr0 = *(u8 *)(r2 + 0)\nexit", tier, context="flat")
    for data in (b"\x11" * 64, b"\x22" * 8, b"\x33" * 5000, b"\x44" * 8, b"\x55" * 64):
        assert int(program.run(data)) == data[0]
        with pytest.raises(BpfFault, match=rf"past the end of data \({len(data)} bytes"):
            beyond.run(data)


@tiers
def test_a_call_reaches_nothing_of_the_run_before(tier):
    """A program that is called as a function, with no context, cannot use the address of a packet that was."""
    program = loaded("r0 = *(u8 *)(r1 + 0)\nexit", tier)
    program.run(PACKET)
    (packet,) = (region.address for region in program.object.regions if region.name == "packet")
    with pytest.raises(BpfFault, match="outside"):
        program.call(packet)
    assert "packet" not in [name for name, _ in regions_of(program)]


@tiers
def test_plain_memory_and_packets_take_turns(tier):
    """Programs of one object on different contexts reach their own, and not that of the run before."""
    source = """
    struct __sk_buff { u32 len; };
    SEC("xdp") int packet(struct xdp_md *context) { return *(volatile u32 *)&context->data_end - context->data; }
    SEC("tc") int traffic(struct __sk_buff *context) { return context->len; }
    SEC("plain") long memory(unsigned char *data, long size) { return size ? data[size - 1] : 0; }
    """
    object = bpf.load_object(compiled(source), tier=tier, verify=False)
    for size in (20, 30, 20):
        assert int(object["packet"].run(bytes(size))) == size
        assert int(object["traffic"].run(bytes(size))) == size
        assert int(object["memory"].run(bytes([size]) * size)) == size
    assert [region.name for region in object.regions if region.of_run] == ["data"]


# Beginning again, compared with beginning


rooms: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.integers(0, 8).map(lambda words: bytes([words + 1]) * 4 * words),
        "head_room": st.sampled_from([64, 256, 300]),
        "tail_room": st.sampled_from([0, 100, 4000]),
        "ingress_ifindex": st.integers(0, 9),
    },
)
packets = st.tuples(st.sampled_from([64, 64, 64, 0, 14, 65, 300, 3520, 9000]), st.integers(1, 255))
changes = st.lists(
    st.tuples(st.sampled_from(["head", "tail", "metadata", "write", "field"]), st.integers(-60, 60)), max_size=4
)


def state(context):
    """All that can be seen of a context, in distances from its frame, and all bytes of the frame."""
    pointers = {name: context[name] - context.frame for name in ("data", "data_end", "data_meta")}
    places = [each - context.frame for each in (context.meta, context.start, context.end, context.frame_end)]
    seen = dict(context.values()), context.data, context.metadata, context.forbidden_writes()
    window = context.packet_region.address - context.frame, context.packet_region.size
    context.regions.resize(context.packet_region, context.frame, context.frame_end - context.frame)
    frame = bytes(context.packet_region.data)
    context.regions.resize(context.packet_region, context.meta, context.end - context.meta)
    return pointers, places, seen, window, frame


def change(context, action, number):
    """Do to a context what a program can do to it, with or without helpers."""
    if action == "write":
        context.packet_region.data[:] = bytes([number % 256]) * context.packet_region.size
    elif action == "field" and isinstance(context, SkbContext):
        context["mark"] = number % 256
    elif isinstance(context, XdpContext) and action in ("head", "tail", "metadata"):
        {"head": context.adjust_head, "tail": context.adjust_tail, "metadata": context.adjust_meta}[action](number)
    elif isinstance(context, SkbContext) and action == "tail":
        context.change_tail(max(context.end - context.start + number, 0))


@given(st.sampled_from([XdpContext, SkbContext]), st.lists(st.tuples(packets, rooms, changes), min_size=1, max_size=6))
def test_a_context_begun_again_is_like_a_new_one(sort, runs):
    """After any runs, a context that begins again has the pointers, fields and bytes of one that was just made."""
    kept, others = Regions(), Regions()
    context: Any = sort(kept, PACKET)
    for (size, filling), options, changed in runs:
        packet = bytes([filling]) * size
        if not context.again(packet, **options):
            context.close()
            context = sort(kept, packet, **options)
        fresh = sort(others, packet, **options)
        assert state(context) == state(fresh)
        fresh.close()
        for action, number in changed:
            change(context, action, number)
    assert len(kept) == 2
    kept.close()


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), min_size=1, max_size=8))
def test_plain_memory_begun_again_is_like_new(runs):
    """After any runs, plain memory has the bytes, the address and the length that it should have."""
    regions = Regions()
    context = FlatContext(regions, b"abc")
    for size, filling in runs:
        data = bytes([filling]) * size
        if not context.again(data):
            context.close()
            context = FlatContext(regions, data)
        assert context.data == data
        assert context.arguments == (context.region.address if size else 0, size)
        context.region.data[:] = b"\xff" * size
    assert len(regions) == 1
    regions.close()


# Faults, exceptions, others who hold it


@tiers
def test_a_run_that_fails_leaves_nothing_for_the_next(tier):
    """After a fault, an exception of a helper, or a field that there is not, the next run is like the first one."""

    def fail(machine, *arguments):
        machine.write(machine.context.start, b"\xff" * 14)
        raise LookupError("by design")

    text = (
        f"r6 = r1\nr2 = 20\ncall {XDP_ADJUST_TAIL}\nr2 = *(u32 *)(r6 + 0)\nr0 = *(u8 *)(r2 + 0)\n"
        f"if r0 == 1 goto beyond\nif r0 == 2 goto out\nexit\nbeyond: r0 = *(u8 *)(r2 - 1)\nexit\n"
        f"out: call {OUTSIDE}\nexit"
    )
    program = loaded(text, tier, helpers={OUTSIDE: fail})
    first = program.run(bytes(30))
    regions = regions_of(program)
    with pytest.raises(BpfFault, match="1 byte before packet"):
        program.run(b"\x01" * 50)
    with pytest.raises(LookupError, match="by design"):
        program.run(b"\x02" * 50)
    with pytest.raises(UsageError, match="no field nothing"):
        program.run(b"\x03" * 50, ctx={"nothing": 1})
    again = program.run(bytes(30))
    assert (again.data, again.r0, dict(again.fields)) == (first.data, first.r0, dict(first.fields))
    assert regions_of(program) == regions


@tiers
def test_a_helper_cannot_run_the_program_that_calls_it(tier):
    """A run inside of a run is refused, and the outer one goes on with its own packet."""
    refused: list[UsageError] = []

    def run_again(machine, *arguments):
        try:
            program.run(b"\xaa" * 80)
        except UsageError as error:
            refused.append(error)
        return 0

    text = f"r6 = r1\ncall {OUTSIDE}\nr2 = *(u32 *)(r6 + 0)\nr0 = *(u8 *)(r2 + 0)\nexit"
    program = loaded(text, tier, helpers={OUTSIDE: run_again})
    for first in (3, 4):
        result = program.run(bytes([first]) * 60)
        assert (int(result), result.data) == (first, bytes([first]) * 60)
    assert len(refused) == 2
    assert sum(name == "packet" for name, _ in regions_of(program)) == 1


@tiers
def test_a_helper_may_run_a_program_of_another_object(tier):
    """Programs of other objects have contexts of their own."""
    inner = loaded("r2 = *(u32 *)(r1 + 0)\nr0 = *(u8 *)(r2 + 0)\nexit", tier)
    text = f"r6 = r1\ncall {OUTSIDE}\nr2 = *(u32 *)(r6 + 0)\nr3 = *(u8 *)(r2 + 0)\nr0 += r3\nexit"
    outer = loaded(text, tier, helpers={OUTSIDE: lambda machine, *_: int(inner.run(b"\x07" * 20)) * 16})
    assert [int(outer.run(bytes([first]) * 60)) for first in (1, 2)] == [0x71, 0x72]


@tiers
def test_whoever_keeps_a_context_never_sees_another_packet_in_it(tier):
    """A context that a helper has put aside is not begun again for the next run."""
    held: list[Any] = []

    def keep(machine, *arguments):
        held.append(machine.context)
        return 0

    program = loaded(f"call {OUTSIDE}\nexit", tier, helpers={OUTSIDE: keep})
    for first in (1, 2, 3):
        program.run(bytes([first]) * 20)
        assert held[-1].data == bytes([first]) * 20
    assert len({id(context) for context in held}) == 3
    assert not held[0].data
    assert not held[1].data


# Threads, and the end


def test_threads_never_get_the_same_context():
    """A context that one thread has taken is no other thread's until it is put back."""
    regions = Regions()
    contexts = KeptContexts(regions, "little")
    taken: set[int] = set()
    faults: list[str] = []

    def work(number):
        data = bytes([number]) * 64
        for _ in range(300):
            context = contexts.take(XdpContext, data)
            if id(context) in taken or context.data != data:
                faults.append(f"thread {number}")
            taken.add(id(context))
            if context.data != data:
                faults.append(f"thread {number}, later")
            taken.discard(id(context))
            contexts.put_back(context)
            del context

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(regions) == 2
    contexts.close()
    assert len(regions) == 0


@tiers
def test_threads_that_take_turns_get_their_own_results(tier):
    """A program that threads run in turn gives each what its own packet comes to."""
    program = loaded("r2 = *(u32 *)(r1 + 0)\nr0 = *(u8 *)(r2 + 0)\nexit", tier)
    turn = threading.Lock()
    wrong: list[int] = []

    def work(number):
        packet = bytes([number]) * (20 + number)
        for _ in range(50):
            with turn:
                result = program.run(packet)
            if int(result) != number or result.data != packet:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@tiers
def test_an_object_closed_amid_a_run_keeps_no_memory(tier):
    """A helper may close the object that runs; then nothing is kept for a run that cannot be."""

    def close(machine, *arguments):
        program.object.close()
        return 0

    program = loaded(f"call {OUTSIDE}\nr0 = 1\nexit", tier, helpers={OUTSIDE: close})
    assert int(program.run(PACKET)) == 1
    assert len(program.object.regions) == 0
