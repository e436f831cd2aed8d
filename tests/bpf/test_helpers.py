"""Helpers: numbers and names of bpf.h, and those for maps, flow, records, memory and the world."""

import random
import re
from contextlib import suppress
from errno import E2BIG, EAGAIN, EFAULT, EINVAL, ENOENT, EPERM
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.assembler import assemble
from jitlink.bpf.contexts import SkbContext, XdpContext
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.helpers import HELPERS, NAMES, kernel_name, number_of
from jitlink.bpf.instructions import decode
from jitlink.bpf.machine import FUNCTION_BASE, Code
from jitlink.bpf.maps import MapDefinition, MapFlag, MapType
from jitlink.errors import UnsupportedInput, UsageError
from tests.bpf.worlds import MASK, PACKET, World


@pytest.fixture
def world():
    world = World()
    yield world
    world.machine.regions.close()


# The table.


@pytest.mark.skipif(not Path("/usr/include/linux/bpf.h").exists(), reason="the kernel's headers are not installed")
def test_numbers_and_names_are_those_of_the_kernel():
    """The names agree with the list of functions in bpf.h, as far as the installed header goes."""
    text = Path("/usr/include/linux/bpf.h").read_text()
    listed = re.findall(r"^\s*FN\((\w+)(?:, \d+)?[,)]", text, re.MULTILINE)
    if not listed or listed[0] != "unspec":
        listed = [name for name, _ in re.findall(r"FN\((\w+), (\d+), ##ctx\)", text)]
    assert NAMES[: len(listed)] == tuple(listed)[: len(NAMES)]
    for helper in HELPERS:
        found = re.search(rf"^ \* (\w+ \*?{helper.name}\(.*\))$", text, re.MULTILINE)
        assert found is None or without_width(helper.prototype) == without_width(found[1])


def without_width(prototype):
    """Leave out what has changed between kernels: const, and the width of integers."""
    return re.sub(r"const |(?<=\bu)(32|64)\b", "", prototype)


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "map_lookup_elem"), (6, "trace_printk"), (12, "tail_call"), (51, "redirect_map"), (131, "ringbuf_reserve"),
     (181, "loop"), (208, "ktime_get_tai_ns"), (211, "cgrp_storage_delete")],
)  # fmt: skip
def test_well_known_numbers(number, name):
    """The numbers are the kernel's and never change."""
    assert kernel_name(number) == f"bpf_{name}"
    assert number_of(name) == number_of(f"bpf_{name}") == number


def test_numbers_are_distinct_and_every_helper_has_a_prototype():
    """One row for each number, and the prototype names the helper."""
    assert len({helper.number for helper in HELPERS}) == len(HELPERS)
    assert all(f"{helper.name}(" in helper.prototype for helper in HELPERS)


def test_missing_helpers_are_named(world):
    """A program that calls helpers which we do not have is refused with their names, all at once."""
    with pytest.raises(UnsupportedInput, match=r"bpf_sk_lookup_tcp, helper #5000"):
        world.table.require([1, 84, 5000])
    world.table.require([1, 2, 3])


def test_helpers_are_replaced_by_number_or_name_and_added(world):
    """A function takes as many registers as it has parameters; None is 0."""

    @world.table.helper("ktime_get_ns")
    def clock(machine):
        return 42

    @world.table.helper(2000)
    def twice(machine, value):
        return 2 * value

    @world.table.helper(2001)
    def silent(machine, *registers):
        assert len(registers) == 5

    @world.table.kfunc("bpf_own")
    def own(machine, a, b):
        return a - b

    assert world.run("call 5\nr1 = r0\ncall 2000\nr6 = r0\ncall 2001\nr0 += r6\nexit") == 84
    assert world.table.name_of(2000) == "twice"
    assert world.table.number_of("twice") == 2000
    assert world.table.kfuncs["bpf_own"](world.machine, 5, 3, 0, 0, 0) == 2


@pytest.mark.parametrize("key", ["no_such_helper", 0, -1, 1 << 31])
def test_a_key_that_is_no_helper_is_refused(world, key):
    """Names must be the kernel's, numbers positive."""
    with pytest.raises(UsageError):
        world.table.helper(key)


def test_functions_with_too_many_parameters_are_refused(world):
    """There are five argument registers."""
    with pytest.raises(UsageError):
        world.table.helper(2000)(lambda machine, a, b, c, d, e, f: 0)


# Maps.


def test_a_program_counts_in_a_map(world):
    """Lookup, update and add through the pointer: what Python then reads is what the program counted."""
    counts = world.map(MapType.HASH, value=8)
    text = f"""
        *(u32 *)(r10 - 4) = 7
        r1 = {counts.address} ll
        r2 = r10
        r2 += -4
        call 1
        if r0 != 0 goto found
        *(u64 *)(r10 - 16) = 1
        r1 = {counts.address} ll
        r2 = r10
        r2 += -4
        r3 = r10
        r3 += -16
        r4 = 0
        call 2
        exit
    found:
        r1 = 1
        lock *(u64 *)(r0 + 0) += r1
        r0 = 1
        exit
    """
    assert [world.run(text) for _ in range(4)] == [0, 1, 1, 1]
    assert dict(counts) == {(7).to_bytes(4, "little"): (4).to_bytes(8, "little")}


def test_map_helpers_answer_with_the_errors_of_the_kernel(world):
    """ENOENT, E2BIG and EEXIST come back as negative numbers; EPERM on a map that is read-only for programs."""
    key, value = world.memory(bytes(4)).address, world.memory(bytes(8)).address
    map = world.map(MapType.HASH, entries=1)
    assert world.call("map_delete_elem", map.address, key) == -ENOENT
    assert world.call("map_update_elem", map.address, key, value, 2) == -ENOENT
    assert world.call("map_update_elem", map.address, key, value, 0) == 0
    assert world.call("map_update_elem", map.address, value + 4, value, 0) == 0
    other = world.memory(b"abcd").address
    assert world.call("map_update_elem", map.address, other, value, 0) == -E2BIG
    constant = world.map(MapType.ARRAY, flags=MapFlag.RDONLY_PROG)
    assert world.call("map_update_elem", constant.address, key, value, 0) == -EPERM
    assert world.call("map_lookup_elem", world.map(MapType.ARRAY, flags=MapFlag.WRONLY_PROG).address, key) == 0


def test_per_cpu_maps_give_the_value_of_this_cpu(world):
    """Lookup and update are on the CPU of the host; the lookup by CPU is on any."""
    key, value = world.memory(bytes(4)).address, world.memory(b"12345678").address
    map = world.map(MapType.PERCPU_ARRAY)
    world.host.cpu = 1
    world.call("map_update_elem", map.address, key, value, 0)
    assert map[0] == [bytes(8), b"12345678"]
    assert world.call("map_lookup_elem", map.address, key) == map.lookup_elem(bytes(4), 1)
    assert world.call("map_lookup_percpu_elem", map.address, key, 0) == map.lookup_elem(bytes(4), 0)
    assert world.call("map_lookup_percpu_elem", map.address, key, 2) == 0


def test_a_number_that_is_no_map_faults(world):
    """A helper that is passed anything but the address of a map of this program stops the program."""
    stranger = World().map(MapType.ARRAY)
    for address in (0, 5, stranger.address):
        with pytest.raises(BpfFault, match="map"):
            world.call("map_lookup_elem", address, 0)


def test_inner_maps_are_reached_through_the_outer_map(world):
    """The address that a lookup in a map of maps gives works as a map."""
    inner = MapDefinition("inner", MapType.ARRAY, 4, 8, 2)
    outer = world.map(MapType.ARRAY_OF_MAPS, value=4, inner=inner)
    outer[1] = world.maps.inner(outer.name)
    outer[1][0] = 99
    key = world.memory((1).to_bytes(4, "little") + bytes(4)).address
    found = world.call("map_lookup_elem", outer.address, key)
    assert world.machine.read(world.call("map_lookup_elem", found, key + 4), 8) == (99).to_bytes(8, "little")


def test_queues_are_pushed_popped_and_peeked(world):
    """Values come out in order; an empty queue clears the buffer; a bloom filter answers."""
    data = world.memory(b"12345678")
    queue, bloom = world.map(MapType.QUEUE, key=0), world.map(MapType.BLOOM_FILTER, key=0)
    assert world.call("map_push_elem", queue.address, data.address, 0) == 0
    data.data[:] = bytes(8)
    assert world.call("map_peek_elem", queue.address, data.address) == 0
    assert bytes(data.data) == b"12345678"
    assert world.call("map_peek_elem", bloom.address, data.address) == -ENOENT
    world.call("map_push_elem", bloom.address, data.address, 0)
    assert world.call("map_peek_elem", bloom.address, data.address) == 0
    assert world.call("map_pop_elem", queue.address, data.address) == 0
    assert world.call("map_pop_elem", queue.address, data.address) == -ENOENT
    assert bytes(data.data) == bytes(8)


CALLBACK = """
    r1 = {map} ll
    r2 = {callback} ll
    r3 = r10
    r3 += -8
    *(u64 *)(r10 - 8) = 0
    r4 = 0
    call 164
    r1 = *(u64 *)(r10 - 8)
    r1 <<= 8
    r0 |= r1
    exit
callback:
    r5 = *(u32 *)(r2 + 0)
    r6 = *(u64 *)(r3 + 0)
    r6 += r5
    r5 = *(u64 *)(r4 + 0)
    r5 += r6
    *(u64 *)(r4 + 0) = r5
    r0 = 0
    if r5 s< {limit} goto done
    r0 = 1
done:
    exit
"""


@pytest.mark.parametrize("type", [MapType.ARRAY, MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_ARRAY])
def test_a_callback_sees_every_element(world, type):
    """for_each_map_elem passes key, value and context of each element and counts; other than 0 ends it."""
    map = world.map(type, entries=4)
    for key in range(4):
        map[key] = [key * 10, 0] if type == MapType.PERCPU_ARRAY else key * 10
    size = len(decode(assemble(CALLBACK.format(map=map.address, callback=0, limit=1))))
    assert size
    first = FUNCTION_BASE + 8 * 13
    assert world.run(CALLBACK.format(map=map.address, callback=first, limit=1000)) == (66 << 8 | 4)
    assert world.run(CALLBACK.format(map=map.address, callback=first, limit=0)) & 0xFF == 1
    assert world.call("for_each_map_elem", map.address, first, 0, 1) == -EINVAL


LOOP = """
    r1 = {count}
    r2 = {callback} ll
    r3 = r10
    r3 += -8
    *(u64 *)(r10 - 8) = 0
    r4 = 0
    call 181
    exit
    r0 = 0
    if r1 != {last} goto done
    r0 = 1
done:
    exit
"""


@pytest.mark.parametrize(("count", "last", "expected"), [(0, 0, 0), (5, 99, 5), (5, 2, 3), (1 << 23, 0, 1)])
def test_loop_counts_its_calls(world, count, last, expected):
    """bpf_loop calls back with 0, 1, ... until the callback returns 1; too many is E2BIG."""
    assert world.run(LOOP.format(count=count, last=last, callback=FUNCTION_BASE + 8 * 9)) == expected
    assert world.call("loop", (1 << 23) + 1, 0, 0, 0) == -E2BIG
    assert world.call("loop", 1, 0, 0, 1) == -EINVAL


def test_an_endless_loop_ends_with_the_budget(world):
    """Callbacks share the budget of the run."""
    with pytest.raises(BpfFault) as caught:
        world.machine.run(
            Code(decode(assemble(LOOP.format(count=1 << 23, last=-1, callback=FUNCTION_BASE + 8 * 9)))), budget=1000
        )
    assert caught.value.kind == FaultKind.BUDGET


def test_tail_calls_go_on_with_another_program(world):
    """The program behind the index runs instead; an empty index lets the caller go on."""
    programs = world.map(MapType.PROG_ARRAY, value=4)
    programs[2] = Code(decode(assemble("r0 = 55\nexit")))
    text = f"r2 = {programs.address} ll\nr3 = {{}}\ncall 12\nr0 = 7\nexit"
    assert world.run(text.format(2)) == 55
    assert world.run(text.format(3)) == 7
    assert world.run(text.format(99)) == 7


def test_tail_calls_end_after_33(world):
    """A program that calls itself is left after MAX_TAIL_CALL_CNT calls."""
    programs, count = world.map(MapType.PROG_ARRAY, value=4), world.map(MapType.ARRAY)
    value = count.lookup_elem(bytes(4))
    again = f"r2 = {programs.address} ll\nr3 = 0\ncall 12\nr0 = 3\nexit"
    text = f"r1 = {value} ll\nr2 = 1\nlock *(u64 *)(r1 + 0) += r2\n{again}"
    programs[0] = Code(decode(assemble(text)))
    assert world.run(text) == 3
    assert count.view[0] == 34


def test_spin_locks_are_taken_and_given_back(world):
    """A second lock can never be got, and an unlock without a lock is a mistake: both fault."""
    lock = world.memory(bytes(4))
    assert world.call("spin_lock", lock.address) == 0
    with pytest.raises(BpfFault, match="twice"):
        world.call("spin_lock", lock.address)
    assert world.call("spin_unlock", lock.address) == 0
    with pytest.raises(BpfFault, match="not taken"):
        world.call("spin_unlock", lock.address)


# Records.


def test_records_are_reserved_filled_and_submitted(world):
    """A program writes into its reservation; after submit the pointer is dead; Python reads the record."""
    ring = world.map(MapType.RINGBUF, key=0, value=0, entries=4096)
    text = f"""
        r1 = {ring.address} ll
        r2 = 8
        r3 = 0
        call 131
        r6 = r0
        r7 = 0x1122334455667788 ll
        *(u64 *)(r6 + 0) = r7
        r1 = r6
        r2 = 0
        call 132
        r0 = 0
        {{}}
        exit
    """
    assert world.run(text.format("")) == 0
    with pytest.raises(BpfFault, match="outside"):
        world.run(text.format("r0 = *(u8 *)(r6 + 0)"))
    assert ring.read() == [(0x1122334455667788).to_bytes(8, "little")] * 2


def test_ring_helpers_answer_with_the_errors_of_the_kernel(world):
    """Too big gives NULL or EAGAIN, unknown flags EINVAL; an address that is no record faults."""
    ring, data = world.map(MapType.RINGBUF, key=0, value=0, entries=4096), world.memory(bytes(5000))
    assert world.call("ringbuf_reserve", ring.address, 4096, 0) == 0
    assert world.call("ringbuf_reserve", ring.address, 8, 1) == 0
    assert world.call("ringbuf_output", ring.address, data.address, 4999, 0) == -EAGAIN
    assert world.call("ringbuf_output", ring.address, data.address, 8, 4) == -EINVAL
    assert world.call("ringbuf_output", ring.address, data.address, 8, 1) == 0
    assert [world.call("ringbuf_query", ring.address, what) for what in range(5)] == [16, 4096, 0, 16, 0]
    for helper in ("ringbuf_submit", "ringbuf_discard"):
        with pytest.raises(BpfFault, match="reserved"):
            world.call(helper, data.address, 0)


def test_perf_events_carry_data_and_packet(world):
    """The upper half of flags appends bytes of the packet; more than there are is EFAULT."""
    events, data = world.map(MapType.PERF_EVENT_ARRAY, value=4), world.memory(b"head")
    world.machine.context = context = XdpContext(world.machine.regions, PACKET)
    call = [context.address, events.address]
    assert world.call("perf_event_output", *call, 0xFFFFFFFF | 10 << 32, data.address, 4) == 0
    assert world.call("perf_event_output", *call, 1 << 52, data.address, 4) == -EINVAL
    assert world.call("perf_event_output", *call, 1000 << 32, data.address, 4) == -EFAULT
    assert [event.data for event in events.read()] == [b"head" + PACKET[:10]]


# The world.


def test_clocks_chance_and_processes_are_those_of_the_host(world):
    """Every answer can be fixed beforehand."""
    host = world.host
    host.ktime_ns, host.boot_ns, host.tai_ns, host.jiffies = (lambda n=n: n for n in (1, 2, 3, 4))
    host.cpu, host.pid, host.tid, host.uid, host.gid, host.comm = 1, 100, 101, 7, 8, b"a long name of a process"
    names = ["ktime_get_ns", "ktime_get_boot_ns", "ktime_get_tai_ns", "jiffies64", "get_smp_processor_id"]
    assert [world.call(name) for name in names] == [1, 2, 3, 4, 1]
    assert world.call("get_current_pid_tgid") == 100 << 32 | 101
    assert world.call("get_current_uid_gid") == 8 << 32 | 7
    assert world.call("get_prandom_u32") == random.Random(1).getrandbits(32)
    buffer = world.memory(b"x" * 17)
    assert world.call("get_current_comm", buffer.address, 16) == 0
    assert bytes(buffer.data) == b"a long name of \0x"
    with pytest.raises(BpfFault):
        world.call("get_current_comm", buffer.address, 18)


# Memory.


@pytest.mark.parametrize("name", ["probe_read", "probe_read_kernel", "probe_read_user", "copy_from_user"])
def test_probe_read_survives_bad_addresses(world, name):
    """Memory of the program is copied; any other address is EFAULT and clears the buffer; a bad buffer faults."""
    source, buffer = world.memory(b"abcdefgh"), world.memory(b"x" * 8)
    assert world.call(name, buffer.address, 4, source.address + 2) == 0
    assert bytes(buffer.data) == b"cdefxxxx"
    assert world.call(name, buffer.address, 6, source.address + 4) == -EFAULT
    assert bytes(buffer.data) == bytes(6) + b"xx"
    assert world.call(name, 0, 0, 0) == 0
    with pytest.raises(BpfFault):
        world.call(name, buffer.address, 1 << 31, source.address)


def test_probe_read_str_copies_up_to_the_zero_byte(world):
    """The result counts the zero byte; a string that is too long is cut; one without an end is EFAULT."""
    source, buffer = world.memory(b"abc\0defg"), world.memory(b"x" * 8)
    assert world.call("probe_read_str", buffer.address, 8, source.address) == 4
    assert bytes(buffer.data[:5]) == b"abc\0x"
    assert world.call("probe_read_kernel_str", buffer.address, 3, source.address) == 3
    assert bytes(buffer.data[:3]) == b"ab\0"
    assert world.call("probe_read_user_str", buffer.address, 8, source.address + 5) == -EFAULT
    assert world.call("probe_read_str", buffer.address, 8, 77) == -EFAULT


# Hostile programs.


@settings(settings.get_profile("mutations"))
@given(
    st.integers(1, 220),
    st.lists(st.one_of(st.integers(0, MASK), st.integers(0, 64), st.integers(-8, -1)), min_size=5, max_size=5),
    st.data(),
)
def test_helpers_survive_any_arguments(number, arguments, data):
    """Random registers, some of them real addresses, give a number or a BpfFault, and nothing else."""
    world = World()
    world.machine.context = SkbContext(world.machine.regions, PACKET)
    kinds = [MapType.HASH, MapType.ARRAY, MapType.LRU_HASH]
    known = [world.map(kind).address for kind in kinds]
    known += [world.map(MapType.RINGBUF, key=0, value=0, entries=4096).address, world.map(MapType.QUEUE, key=0).address]
    known += [world.machine.context.address, world.machine.context.start, world.memory(b"%s %d %pI4\0" * 20).address]
    chosen = [data.draw(st.sampled_from([argument & MASK, *known])) for argument in arguments]
    helper = world.table.by_number.get(number)
    if helper is not None:
        with suppress(BpfFault):
            int(helper(world.machine, *chosen))
    world.machine.regions.close()
