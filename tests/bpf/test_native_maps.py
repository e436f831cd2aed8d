"""Maps that machine code works on: what Python does, entry by entry, and by several threads at once."""

from __future__ import annotations

import threading
from errno import EEXIST, ENOENT
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.helpers import HelperTable, Host
from jitlink.bpf.instructions import decode
from jitlink.bpf.machine import Code
from jitlink.bpf.maps import BPF_ANY, BPF_EXIST, BPF_NOEXIST, MapFlag, Maps, MapType
from jitlink.bpf.maps.hashes import SEQUENCE
from jitlink.bpf.maps.known import KnownMaps
from jitlink.bpf.regions import Regions
from jitlink.errors import ClosedError, UsageError
from tests.bpf.machines import native_machine, needs_native_code
from tests.bpf.map_models import U32, check_invariants, create, define, in_threads

pytest.importorskip("llvmlite")
pytestmark = needs_native_code

HASHES = [MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH]


def engine() -> Any:
    """The library of helpers in machine code."""
    from jitlink.bpf.native.library import library

    made = library(keeps=False)
    assert made is not None
    return made


def contents(map: Any) -> tuple[bytes, bytes, bytes]:
    """All memory of a hash map but the sequence, which counts changes, and the key of the null entry, a scratch."""
    index = map.index.copy()
    index[: 8 * (SEQUENCE + 1)].view("u8")[SEQUENCE] = 0
    return index.tobytes(), bytes(map._keys.data[map.key_stride :]), bytes(map.values_region.data)


@st.composite
def steps(draw: st.DrawFn) -> tuple[MapType, int, int, list[tuple[Any, ...]]]:
    """A sort of map, the sizes of keys and values, and operations on few keys."""
    type = draw(st.sampled_from(HASHES))
    key_size, value_size = draw(st.integers(1, 80)), draw(st.sampled_from([1, 3, 4, 7, 8, 12, 20]))
    keys = draw(st.lists(st.binary(min_size=key_size, max_size=key_size), min_size=1, max_size=9, unique=True))
    value = st.binary(min_size=value_size, max_size=value_size)
    key = st.sampled_from(keys)
    step = st.one_of(
        st.tuples(
            st.just("update_elem"), key, value, st.sampled_from([BPF_ANY, BPF_NOEXIST, BPF_EXIST, 3]),
            st.sampled_from([None, 0, 1, 2]),
        ),
        st.tuples(st.just("delete_elem"), key),
        st.tuples(st.just("lookup_elem"), key, st.sampled_from([0, 2])),
        st.tuples(st.just("entry_of"), key),
        st.tuples(st.just("values_of"), key),
        st.tuples(st.just("set_each"), key, st.lists(value, min_size=3, max_size=3), st.just(BPF_ANY)),
        st.tuples(st.just("raw_keys")),
        st.tuples(st.just("__len__")),
    )  # fmt: skip
    return type, key_size, value_size, draw(st.lists(step, max_size=60))


@settings(max_examples=200, deadline=None)
@given(steps())
def test_machine_code_does_with_a_hash_map_what_python_does(given):
    """The same operations give the same results, and leave the same bytes: chains, free list, order of use, values."""
    type, key_size, value_size, operations = given
    regions = Regions()
    definition = define(type, key=key_size, value=value_size, entries=4, flags=MapFlag.ZERO_SEED)
    python, native = (create(definition, regions, cpus=3) for _ in range(2))
    native.go_native(engine())
    for name, *arguments in operations:
        if name == "set_each" and not python.is_per_cpu:
            arguments[1] = arguments[1][:1]
        results = [getattr(map, name)(*arguments) for map in (python, native)]
        if name == "lookup_elem":
            results = [found and found - map.base for found, map in zip(results, (python, native), strict=True)]
        assert results[0] == results[1], (name, arguments)
        assert contents(python) == contents(native)
    regions.close()


def test_a_large_map_lists_all_its_keys():
    """Keys are copied some hundred at a time; none is left out, and none is there twice."""
    regions = Regions()
    map = create(define(MapType.HASH, entries=1000), regions)
    map.go_native(engine())
    for number in range(1000):
        map[number] = number
    for number in range(0, 1000, 3):
        del map[number]
    assert sorted(int.from_bytes(key, "little") for key in map) == [each for each in range(1000) if each % 3]
    assert len(map) == 666
    regions.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["reserve", "submit", "discard", "output", "read"]), st.integers(0, 1500)),
        max_size=60,
    )
)
def test_machine_code_does_with_a_ring_buffer_what_python_does(actions):
    """Room is taken as Python takes it, and the records are the same, with the same bytes in the ring."""
    regions = Regions()
    rings = [create(define(MapType.RINGBUF, 0, 0, 4096), regions) for _ in range(2)]
    rings[1].go_native(engine())
    opened: list[list[int]] = []
    for number, (action, size) in enumerate(actions):
        data = bytes([number % 256]) * size
        if action == "reserve":
            addresses = [ring.reserve(size) for ring in rings]
            assert bool(addresses[0]) == bool(addresses[1])
            if addresses[0]:
                assert addresses[0] - rings[0]._base == addresses[1] - rings[1]._base
                opened.append(addresses)
        elif action == "output":
            results = [ring.output(data) for ring in rings]
            assert results[0] == results[1]
        elif action == "read":
            assert rings[0].read() == rings[1].read()
        elif opened:
            addresses = opened.pop(size % len(opened))
            for ring, address in zip(rings, addresses, strict=True):
                assert ring.finish(address, discard=action == "discard")
        assert bytes(rings[0]._memory) == bytes(rings[1]._memory)
        assert len(rings[0]) == len(rings[1])
    regions.close()


def test_a_table_of_maps_grows():
    """Every map that was added is found, in as many slots as a power of two, and other addresses are not."""
    regions = Regions()
    maps = [create(define(MapType.ARRAY, entries=1), regions) for _ in range(100)]
    known = KnownMaps(maps[:1], engine())
    for map in maps:
        known.add(map)
    slots = known._tables[-1]
    assert {address for address in slots[1:] if address} == {map.address for map in maps}
    assert len(slots) - 2 == slots[0]
    assert 200 <= len(slots) - 1 <= 400
    regions.close()


def test_maps_that_mean_something_else_are_left_to_python():
    """A table of devices is a hash map in Python, and a map that somebody has derived may be anything."""
    regions = Regions()
    device = create(define(MapType.DEVMAP_HASH, value=4), regions)
    known = KnownMaps([device], engine())
    assert device.engine is None
    assert not any(known._tables[-1][1:])
    regions.close()


# Threads.


@pytest.mark.parametrize("type", [MapType.HASH, MapType.LRU_HASH])
def test_a_map_holds_together_when_threads_change_it(type):
    """Four threads look up, update and delete while Python reads: chains, free list and order of use stay whole."""
    regions = Regions()
    map = create(define(type, key=4, value=8, entries=64), regions)
    map.go_native(engine())

    def work(number: int) -> None:
        random = Random(number)
        for _ in range(4000):
            key = random.randrange(96).to_bytes(4, "little")
            match random.randrange(4):
                case 0:
                    map.delete_elem(key)
                case 1:
                    map.lookup_elem(key)
                case _:
                    map.update_elem(key, key * 2)

    def read() -> None:
        for key in map.raw_keys():
            values = map.values_of(key)
            assert values is None or values == [key * 2]

    in_threads(work, meanwhile=read)
    check_invariants(map)
    regions.close()


SCRIBBLE = """
    r2 = {rounds}
again:
    r3 = r2
    r3 &= 7
    *(u8 *)(r1 + 0) = r3
    *(u8 *)(r1 + 9) = r3
    r2 += -1
    if r2 != 0 goto again
    exit
"""


@pytest.mark.parametrize("type", [MapType.HASH, MapType.LRU_HASH])
def test_a_key_that_changes_while_it_is_passed_does_no_harm(type):
    """Threads of a program may write to a key that another one passes: some key is meant, and the map stays whole."""
    machine = native_machine(metered=False)
    map = create(define(type, key=12, value=8, entries=16), machine.regions)
    map.go_native(engine())
    key = machine.regions.allocate(16, "key")
    scribble = Code(decode(bpf.assemble(SCRIBBLE.format(rounds=100_000_000))), "scribble")
    done = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            machine.run(scribble, key.address)
            done.set()
            return
        while not done.is_set():
            map.engine.update(map.address, key.address, bytes(8), BPF_ANY, 0, 1, 0)
            map.engine.delete(map.address, key.address)

    in_threads(work, 2)
    check_invariants(map)
    machine.regions.close()


LOOK = """
    r6 = {rounds}
    r8 = 0
again:
    *(u32 *)(r10 - 4) = {key}
    r2 = r10
    r2 += -4
    r1 = {map:#x} ll
    call 1
    r1 = {found:#x} ll
    if r0 != r1 goto next
    r8 += 1
next:
    r6 += -1
    if r6 != 0 goto again
    r0 = r8
    exit
"""
"""Looks a key up again and again, and counts how often it finds this address."""
CHURN = """
    r6 = {rounds}
    r9 = r1
again:
    r1 = r6
    r1 &= 31
    r1 <<= 2
    r2 = r9
    r2 += r1
    r3 = r9
    r4 = 0
    r1 = {map:#x} ll
    call 2
    r1 = r6
    r1 *= 11
    r1 >>= 2
    r1 &= 31
    r1 <<= 2
    r2 = r9
    r2 += r1
    r1 = {map:#x} ll
    call 3
    r6 += -1
    if r6 != 0 goto again
    r0 = 0
    exit
"""
"""Inserts and deletes keys out of 32 of them."""


class Runner:
    """A machine of its own for a thread, with a map that is shared."""

    def __init__(self, map: Any) -> None:
        self.machine = native_machine(metered=False, sandbox=False)
        maps = Maps(self.machine.regions)
        maps.add(map)
        self.machine.helpers.update(HelperTable(Host(maps)).by_number)

    def run(self, text: str, *arguments: int, **words: int) -> int:
        """Run a program."""
        return self.machine.run(Code(decode(bpf.assemble(text.format(**words))), "program"), *arguments)


def test_an_element_that_stays_is_always_found():
    """Whatever programs do to other elements of its chain, a lookup finds the one that is there, and only that."""
    regions = Regions()
    map = create(define(MapType.HASH, key=4, value=8, entries=64, flags=MapFlag.ZERO_SEED), regions)
    in_chain = (number for number in range(1 << 14) if map.bucket_of(U32.pack(number)) == 1)
    stays, never, *others = list(islice(in_chain, 34))
    churned = regions.allocate(128, "keys")
    churned.data[:] = b"".join(U32.pack(number) for number in others)
    map.update_elem(U32.pack(stays), bytes(8))
    rounds = 1_500_000
    runners = [Runner(map) for _ in range(3)]
    found = {}

    def work(number: int) -> None:
        if number == 2:
            runners[2].run(CHURN, churned.address, map=map.address, rounds=rounds)
            return
        key = (stays, never)[number]
        # Nothing is found at address 0: then every lookup has missed.
        place = 0 if number else map.lookup_elem(U32.pack(stays))
        found[number] = runners[number].run(LOOK, map=map.address, key=key, found=place, rounds=rounds)

    in_threads(work, 3)
    assert found == {0: rounds, 1: rounds}
    check_invariants(map)
    regions.close()


def test_of_threads_that_insert_one_key_just_one_succeeds():
    """BPF_NOEXIST lets one of four threads in for each key, and no key is lost."""
    regions = Regions()
    map = create(define(MapType.HASH, key=4, value=8, entries=2000), regions)
    map.go_native(engine())
    won: list[list[int]] = [[] for _ in range(4)]

    def work(number: int) -> None:
        keys = list(range(2000))
        Random(number).shuffle(keys)
        for key in keys:
            result = map.update_elem(key.to_bytes(4, "little"), bytes([number]) * 8, BPF_NOEXIST)
            assert result in (0, -EEXIST)
            if result == 0:
                won[number].append(key)

    in_threads(work)
    assert sorted(key for keys in won for key in keys) == list(range(2000))
    assert all(map[key] == bytes([number]) * 8 for number in range(4) for key in won[number])
    check_invariants(map)
    in_threads(lambda number: [map.delete_elem(key.to_bytes(4, "little")) for key in won[number]])
    assert len(map) == 0
    assert map.delete_elem(bytes(4)) == -ENOENT
    check_invariants(map)
    regions.close()


def test_records_of_several_threads_all_arrive():
    """Four threads put records into a ring while Python takes them out: each arrives once, in its order."""
    regions = Regions()
    ring = create(define(MapType.RINGBUF, 0, 0, 4096), regions)
    ring.go_native(engine())
    taken: list[bytes] = []

    def work(number: int) -> None:
        for count in range(1000):
            record = bytes([number]) * (count % 50) + count.to_bytes(4, "little") + bytes([number])
            while ring.output(record):
                pass

    in_threads(work, meanwhile=lambda: taken.extend(ring))
    for number in range(4):
        counts = [int.from_bytes(record[-5:-1], "little") for record in taken if record[-1] == number]
        assert counts == list(range(1000))
    assert all(set(record[:-5]) <= {record[-1]} for record in taken)
    regions.close()


@pytest.mark.parametrize("type", HASHES)
def test_what_machine_code_would_not_notice_is_refused(type):
    """Keys and values of other sizes, and maps whose memory was given back, never reach machine code."""
    regions = Regions()
    map = create(define(type, key=4, value=8), regions, cpus=2)
    ring = create(define(MapType.RINGBUF, 0, 0, 4096), regions)
    map.go_native(engine())
    ring.go_native(engine())
    calls: list[tuple[Any, ...]] = [
        ("lookup_elem", b"abc"), ("entry_of", b"abcde"), ("delete_elem", b""), ("values_of", b"ab"),
        ("update_elem", b"abcd", b"1234567"), ("update_elem", b"abc", b"12345678"), ("set_each", b"abcd", [], 0),
        ("set_each", b"abcd", [b"1"] * map.cpus, 0), ("set_each", b"abcd", [bytes(8)] * 3, 0),
    ]  # fmt: skip
    for name, *arguments in calls:
        with pytest.raises(ValueError, match="of map m"):
            getattr(map, name)(*arguments)
    assert map.update_elem(bytearray(4), memoryview(bytes(8))) == 0
    if map.is_per_cpu:
        with pytest.raises(UsageError, match="none of CPU 2"):
            map.update_elem(bytes(4), bytes(8), 0, 2)
    regions.close()
    too_late: list[tuple[Any, ...]] = [
        ("lookup_elem", bytes(4)), ("update_elem", bytes(4), bytes(8)), ("delete_elem", bytes(4)), ("raw_keys",),
        ("values_of", bytes(4)), ("entry_of", bytes(4)),
    ]  # fmt: skip
    for name, *arguments in too_late:
        with pytest.raises(ClosedError, match="closed"):
            getattr(map, name)(*arguments)
    with pytest.raises(ClosedError, match="closed"):
        ring.output(b"late")
