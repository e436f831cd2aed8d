"""Helpers in machine code: the same results, memory and faults as those in Python, in every tier that calls them.

The oracle is the interpreter with the helpers in Python, on the same machine and the same memory: what a call
changes is put back, and then the call is made once more in native code.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.helpers import HelperTable, Host
from jitlink.bpf.instructions import decode
from jitlink.bpf.isa import STACK_SIZE
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.bpf.machine import Code
from jitlink.bpf.maps import Map, MapDefinition, MapFlag, Maps, MapType, hashes, rings
from jitlink.errors import MissingExtra, UsageError
from tests.bpf.machines import llvm_machine, native_machine, needs_native_code

pytest.importorskip("llvmlite")
pytestmark = needs_native_code

LOOKUP_ON, LOOKUP, UPDATE, DELETE, KTIME, PRANDOM, CPU, CSUM, BOOT, OUTPUT, COARSE, TAI = (
    195,
    1,
    2,
    3,
    5,
    7,
    8,
    28,
    125,
    130,
    160,
    208,
)
CPUS = 3
TIERS = ["jit", "llvm"]
MAKERS: dict[str, Callable[..., NativeMachine]] = {
    "jit": native_machine,
    "llvm": llvm_machine,
    "hardened": partial(native_machine, hardening=Hardening(3)),
}
CALL = """
    r6 = r1
    *(u64 *)(r10 - 8) = 1
    *(u64 *)(r10 - 512) = 2
    r1 = *(u64 *)(r6 + 0)
    r2 = *(u64 *)(r6 + 8)
    r3 = *(u64 *)(r6 + 16)
    r4 = *(u64 *)(r6 + 24)
    r5 = *(u64 *)(r6 + 32)
    call {number}
    r0 ^= r1
    r0 ^= r2
    r0 ^= r3
    r0 ^= r4
    r0 ^= r5
    r0 ^= r6
    exit
"""
"""Calls a helper with what is in memory; what it leaves in r1 to r5 has a part in the result."""
MAPS: dict[str, tuple[MapType, int, int, int, int]] = {  # name: type, sizes of keys and values, entries, flags
    "array": (MapType.ARRAY, 4, 12, 5, 0),
    "wide array": (MapType.ARRAY, 4, 8, 3, 0),
    "array of CPUs": (MapType.PERCPU_ARRAY, 4, 5, 3, 0),
    "hash": (MapType.HASH, 4, 8, 3, MapFlag.ZERO_SEED),
    "hash of long keys": (MapType.HASH, 21, 4, 3, MapFlag.ZERO_SEED),
    "hash of CPUs": (MapType.PERCPU_HASH, 8, 7, 3, MapFlag.ZERO_SEED),
    "LRU": (MapType.LRU_HASH, 4, 8, 3, MapFlag.ZERO_SEED),
    "LRU of CPUs": (MapType.LRU_PERCPU_HASH, 3, 8, 3, MapFlag.ZERO_SEED),
    "read-only": (MapType.HASH, 4, 8, 3, MapFlag.ZERO_SEED | MapFlag.RDONLY_PROG),
    "write-only": (MapType.ARRAY, 4, 8, 3, MapFlag.WRONLY_PROG),
    "ring": (MapType.RINGBUF, 0, 0, 4096, 0),
    "queue": (MapType.QUEUE, 0, 8, 3, 0),
}


class World:
    """A machine with maps of all sorts and memory to point into."""

    def __init__(self, tier: str, **options: Any) -> None:
        self.machine: NativeMachine = MAKERS[tier](**options)
        regions = self.machine.regions
        self.maps = Maps(regions, CPUS)
        for name, (type, key, value, entries, flags) in MAPS.items():
            self.maps.create(MapDefinition(name, type, key, value, entries, int(flags)))
        self.host = Host(self.maps)
        self.machine.helpers.update(HelperTable(self.host).by_number)
        self.machine.maps = self.maps.by_address
        self.data = regions.allocate(600, "data")
        self.data.data[:] = bytes(Random(1).randbytes(600))
        self.arguments = regions.allocate(40, "arguments")
        self.called_outside = 0
        outside = self.machine.outside
        self._codes: dict[int, Code] = {}

        def counting() -> None:
            self.called_outside += 1
            outside()

        self.machine.outside = counting  # type: ignore[method-assign]

    def map(self, name: str) -> Any:
        """A map; typed as Any, since each sort has attributes of its own."""
        return self.maps[name]

    def call(self, number: int, *arguments: int) -> Any:
        """Call a helper from a program: r0, with what is left in r1 to r5; or the fault, or what Python raises."""
        code = self._codes.get(number)
        if code is None:
            code = self._codes[number] = Code(decode(bpf.assemble(CALL.format(number=number))), "call")
        struct.pack_into(
            "=5Q", self.arguments.data, 0, *(each & (1 << 64) - 1 for each in (*arguments, 0, 0, 0, 0, 0)[:5])
        )
        try:
            return self.machine.run(code, self.arguments.address), self.machine.instructions
        except BpfFault as fault:
            return str(fault), fault.pc, fault.address, fault.size, fault.nearest, self.machine.instructions
        except UsageError as error:
            return str(error), error.__notes__, self.machine.instructions

    def compare(self, number: int, *arguments: int, seed: int = 0) -> Any:
        """Call a helper in Python, put back what it has changed, and call it in machine code. Returns the result."""
        buffers = self._buffers()
        before = [bytes(buffer) for buffer, _ in buffers]
        engines = {map: map.engine for map in self.maps.values()}
        for map in engines:
            map.engine = None
        self.host.random.seed(seed)
        self.machine.hook = lambda machine: None
        expected = self.call(number, *arguments), _contents(buffers)
        self.machine.hook = None
        for (buffer, _), content in zip(buffers, before, strict=True):
            buffer[:] = content
        for map, engine in engines.items():
            map.engine = engine
        self.host.random.seed(seed)
        found = self.call(number, *arguments), _contents(buffers)
        assert found == expected, (number, arguments)
        return found[0][0]

    def _buffers(self) -> list[tuple[memoryview, int]]:
        """The memory of maps that calls may change; and where its sequence is, which machine code counts, or -1."""
        buffers: list[tuple[Any, int]] = []
        for map in map_list(self.maps):
            if map.type is MapType.RINGBUF:
                buffers += [(map._memory.data, -1), (map._lengths.data, -1), (map._state, 8 * rings.SEQUENCE)]
            elif map.type is not MapType.QUEUE:
                buffers.append((map.values_region.data, -1))
            if map.type not in (MapType.RINGBUF, MapType.QUEUE, MapType.ARRAY, MapType.PERCPU_ARRAY):
                buffers += [(map._keys.data[map.key_stride :], -1), (map.index.data, 8 * hashes.SEQUENCE)]
        return [(memoryview(buffer).cast("B"), at) for buffer, at in buffers]

    def close(self) -> None:
        """Give the memory back."""
        self.machine.regions.close()


def _contents(buffers: list[tuple[memoryview, int]]) -> list[bytes]:
    contents = []
    for buffer, at in buffers:
        content = bytearray(buffer)
        if at >= 0:
            content[at : at + 8] = bytes(8)
        contents.append(bytes(content))
    return contents


def map_list(maps: Maps) -> list[Any]:
    """The maps, typed as Any."""
    return list(maps.values())


def pointers(world: World) -> st.SearchStrategy[int]:
    """Addresses: of data that is there, at its end, of the stack, of maps, and of nothing."""
    data, stack = world.data, world.machine.record.stack + STACK_SIZE
    good = st.integers(0, 40).map(lambda at: data.address + at)
    frame = st.sampled_from([stack, stack + STACK_SIZE - 8, stack + 256])
    edges = st.integers(-24, 24).flatmap(
        lambda at: st.sampled_from(
            [data.end + at, data.address + at, stack + at, stack + STACK_SIZE + at, stack + 1024 + at]
        )
    )
    maps = st.sampled_from([each for map in map_list(world.maps) for each in (map.address, getattr(map, "base", 0))])
    return good | good | good | frame | edges | maps | st.sampled_from([0, 1, (1 << 64) - 4, 1 << 47])


def addresses_of_maps(world: World) -> st.SearchStrategy[int]:
    """Maps, and now and then something else."""
    maps = st.sampled_from([map.address for map in map_list(world.maps)])
    return maps | maps | maps | st.sampled_from([0, 4096, world.data.address, world.map("hash").address + 8])


@pytest.mark.parametrize("tier", MAKERS)
def test_calls_on_maps_do_what_python_does(tier):
    """Lookups, updates and deletes with any pointers, flags and CPUs: equal results, faults and bytes."""
    world = World(tier)

    @settings(max_examples=400, deadline=None)
    @given(st.data())
    def check(data):
        world.host.cpu = data.draw(st.sampled_from([0, 0, 1, 2, 3]))
        number = data.draw(st.sampled_from([LOOKUP, LOOKUP_ON, UPDATE, UPDATE, DELETE, OUTPUT]))
        # The first bytes of data are small numbers, so that arrays have such an index, and hash maps meet keys again.
        world.data.data[:48] = bytes([data.draw(st.integers(0, 5)), 0, 0, 0] * 12)
        flags = data.draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 1 << 40]))
        map = data.draw(addresses_of_maps(world))
        one, other = data.draw(pointers(world)), data.draw(pointers(world))
        if number == OUTPUT:
            size = data.draw(st.sampled_from([0, 1, 7, 8, 9, 500, 513, 600, 601, 1 << 32, (1 << 64) - 1]))
            world.compare(number, map, one, size, flags)
            if data.draw(st.booleans()):
                ring = world.map("ring")
                assert all(len(record) <= 600 for record in ring.read())
        elif number == LOOKUP_ON:
            world.compare(number, map, one, data.draw(st.sampled_from([0, 1, 2, 3, 1 << 32, (1 << 64) - 1])))
        else:
            world.compare(number, map, one, other, flags)

    check()
    world.close()


@pytest.mark.parametrize("tier", TIERS)
def test_calls_on_good_maps_do_not_pass_through_python(tier):
    """With a map of each sort and good pointers, machine code does all of it by itself."""
    world = World(tier)
    key, value = world.data.address, world.data.address + 64
    world.data.data[:24] = bytes([1, *[0] * 23])
    for number in (LOOKUP, UPDATE, DELETE):
        world.call(number, world.map("hash").address, key, value, 0)
    world.called_outside = 0
    for name in MAPS:
        if name not in ("ring", "queue"):
            for number in (UPDATE, LOOKUP, DELETE):
                world.call(number, world.map(name).address, key, value, 0)
    world.call(OUTPUT, world.map("ring").address, key, 32, 0)
    for number in (KTIME, BOOT, TAI, COARSE, PRANDOM, CPU, CSUM):
        world.call(number, key, 4, value, 4, 0)
    assert world.called_outside == 0
    world.close()


@pytest.mark.parametrize("tier", TIERS)
def test_trusted_programs_get_the_same_from_good_pointers(tier):
    """Without checks, results and memory are those of Python's helpers all the same."""
    world = World(tier, sandbox=False)

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def check(data):
        world.host.cpu = data.draw(st.integers(0, 2))
        number = data.draw(st.sampled_from([LOOKUP, UPDATE, UPDATE, DELETE]))
        world.data.data[:24] = bytes([data.draw(st.integers(0, 5)), *[0] * 23])
        name = data.draw(st.sampled_from([each for each in MAPS if each != "ring"]))
        map = world.map(name).address
        world.compare(number, map, world.data.address, world.data.address + 64, data.draw(st.integers(0, 3)))

    check()
    world.close()


def csum_by_the_book(old: bytes, new: bytes, seed: int) -> int:
    """The Internet checksum of new less that of old, on top of a seed, as RFC 1071 adds: by bytes."""
    total = seed
    for at in range(0, len(new), 2):
        total += new[at] | new[at + 1] << 8
    for at in range(0, len(old), 2):
        total += 0xFFFF - (old[at] | old[at + 1] << 8)
    while total > 0xFFFF:
        total = total % 0x10000 + total // 0x10000
    return total


@pytest.mark.parametrize("tier", TIERS)
def test_a_difference_of_checksums_is_that_of_rfc_1071(tier):
    """csum_diff adds one's complement words, and refuses sizes as the kernel does."""
    world = World(tier)

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=64), st.binary(max_size=64), st.integers(0, (1 << 64) - 1))
    def check(old, new, seed):
        at = world.data.address
        world.data.data[: len(old)] = old
        world.data.data[64 : 64 + len(new)] = new
        found = world.compare(CSUM, at, len(old), at + 64, len(new), seed)
        if len(old) % 4 == 0 and len(new) % 4 == 0:
            expected = csum_by_the_book(old, new, seed & 0xFFFF_FFFF)
            poison = 0xDEAD_BEEF_DEAD_BEEF
            assert found ^ poison ^ world.arguments.address == expected

    check()
    world.close()


@pytest.mark.parametrize("tier", TIERS)
def test_bad_pointers_to_a_checksum_are_pythons_faults(tier):
    """Sizes of 0 are not looked at, and of two bad pointers the one that Python reads first is named."""
    world = World(tier)
    at, end = world.data.address, world.data.end
    for old, old_size, new, new_size in [
        (0, 0, at, 4), (at, 4, 0, 0), (0, 4, 8, 4), (at, 4, end - 2, 4), (end - 2, 4, at, 4), (at, 512, at, 4),
        (at, 256, at, 256), (at, 1 << 32 | 4, at, 4), (at, 3, 0, 0),
    ]:  # fmt: skip
        world.compare(CSUM, old, old_size, new, new_size, 7)
    world.close()


@pytest.mark.parametrize("tier", TIERS)
def test_random_numbers_are_one_sequence(tier):
    """Programs in machine code and Python take turns with one generator, whose seed decides all of it."""
    world = World(tier)
    expected = Host(world.maps).random
    expected.seed(5)
    wanted = [expected.getrandbits(32) for _ in range(9)]
    world.host.random.seed(5)
    mask = 0xDEAD_BEEF_DEAD_BEEF ^ world.arguments.address
    found = [world.host.random.getrandbits(32) if turn % 3 == 2 else world.call(PRANDOM)[0] ^ mask for turn in range(9)]
    assert found == wanted
    world.host.random = Random(11)
    assert world.call(PRANDOM)[0] ^ mask == Random(11).getrandbits(32)
    world.close()


def test_random_numbers_use_all_their_bits():
    """Each of 32 bits is set about half of the time, and numbers of other sizes, shuffles and states work as usual."""
    random: Any = Host(Maps(native_machine().regions)).random
    numbers = [random.getrandbits(32) for _ in range(2000)]
    for bit in range(32):
        assert 800 < sum(number >> bit & 1 for number in numbers) < 1200
    random.seed(3)
    state = random.getstate()
    drawn = (
        random.random(),
        random.randrange(10**30),
        random.getrandbits(130),
        random.gauss(0, 1),
        random.getrandbits(0),
    )
    assert 0 <= drawn[0] < 1
    assert drawn[2] < 1 << 130
    random.setstate(state)
    assert random.random() == drawn[0]
    with pytest.raises(ValueError, match="non-negative"):
        random.getrandbits(-1)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("number", "clock"),
    [(KTIME, "CLOCK_MONOTONIC"), (COARSE, "CLOCK_MONOTONIC"), (BOOT, "CLOCK_BOOTTIME"), (TAI, "CLOCK_TAI")],
)
def test_clocks_are_the_systems(tier, number, clock):
    """The time that a program sees lies between two looks at the system's clock, unless a clock was set."""
    world = World(tier)
    mask = 0xDEAD_BEEF_DEAD_BEEF ^ world.arguments.address
    world.call(number)
    before = time.clock_gettime_ns(getattr(time, clock))
    found = world.call(number)[0] ^ mask
    assert before <= found <= time.clock_gettime_ns(getattr(time, clock))
    world.host.ktime_ns = world.host.boot_ns = world.host.tai_ns = lambda: 77
    assert world.call(number)[0] ^ mask == 77
    world.close()


@pytest.mark.parametrize("tier", TIERS)
def test_the_cpu_is_that_of_the_host(tier):
    """Whoever sets the CPU of the host decides what the next call sees, and which values of a map it gets."""
    world = World(tier)
    mask = 0xDEAD_BEEF_DEAD_BEEF ^ world.arguments.address
    world.data.data[:8] = bytes(8)
    for cpu in (0, 2, 1):
        world.host.cpu = cpu
        assert world.call(CPU)[0] ^ mask == cpu
        found = world.call(LOOKUP, world.map("array of CPUs").address, world.data.address)[0] ^ mask
        assert found == world.map("array of CPUs").lookup_elem(bytes(4), cpu)
    world.close()


@pytest.mark.parametrize("tier", TIERS)
def test_whoever_replaces_a_helper_has_theirs_called(tier):
    """From the next run on a helper in Python that was put in the place of a native one is called."""
    world = World(tier)
    mask = 0xDEAD_BEEF_DEAD_BEEF ^ world.arguments.address
    for number in (LOOKUP, UPDATE, DELETE, KTIME, PRANDOM, CPU, CSUM, OUTPUT):
        world.call(number, 0)
        world.machine.helpers[number] = lambda machine, *registers: 42
        assert world.call(number, 0)[0] ^ mask == 42
    world.close()


@pytest.mark.parametrize("tier", TIERS)
def test_a_map_that_is_added_later_is_known(tier):
    """Inner maps and shared ones that come when programs run already are worked on in machine code as well."""
    world = World(tier)
    world.data.data[:4] = bytes(4)
    world.call(LOOKUP, world.map("array").address, world.data.address)
    added: list[Map] = [world.maps.create(MapDefinition(f"m{k}", MapType.ARRAY, 4, 8, 2)) for k in range(40)]
    world.called_outside = 0
    mask = 0xDEAD_BEEF_DEAD_BEEF ^ world.arguments.address
    for map in added:
        assert world.call(LOOKUP, map.address, world.data.address)[0] ^ mask == map.lookup_elem(bytes(4))
    assert world.called_outside == 0
    world.close()


@pytest.mark.parametrize("tier", TIERS)
def test_a_host_with_other_maps_knows_no_others(tier):
    """Where somebody has given the host other maps, those of before are none, as for Python's helpers."""
    world = World(tier)
    world.data.data[:4] = bytes(4)
    array = world.map("array").address
    world.call(LOOKUP, array, world.data.address)
    world.host.maps = Maps(world.machine.regions)
    assert f"{array:#x} is passed as a map, and is none" in world.call(LOOKUP, array, world.data.address)[0]
    world.close()


def test_programs_of_the_other_byte_order_have_their_helpers_called_in_python():
    """Machine code reads numbers in the host's order; a big-endian program's maps and helpers are Python's."""
    machine = native_machine()
    maps = Maps(machine.regions)
    map: Any = maps.create(MapDefinition("m", MapType.ARRAY, 4, 8, 3, byte_order="big"))
    machine.helpers.update(HelperTable(Host(maps)).by_number)
    machine.maps = maps.by_address
    text = f"*(u32 *)(r10 - 4) = 2\nr2 = r10\nr2 += -4\nr1 = {map.address:#x} ll\ncall 1\nexit"
    code = Code(decode(bpf.assemble(text, byteorder="big"), "big"), "big")
    assert machine.run(code) == map.base + 2 * 8
    assert map.engine is None
    machine.regions.close()


def test_without_llvm_helpers_are_called_in_python(monkeypatch):
    """Where nothing can compile the library, programs run as ever, and maps stay Python's."""
    from jitlink.bpf.native import library

    monkeypatch.setattr(library, "_LOADED", [])
    monkeypatch.setattr(library, "_triple", _no_llvm)
    world = World("jit")
    world.data.data[:4] = bytes(4)
    mask = 0xDEAD_BEEF_DEAD_BEEF ^ world.arguments.address
    assert world.call(UPDATE, world.map("hash").address, world.data.address, world.data.address)[0] ^ mask == 0
    assert world.called_outside == 1
    assert world.map("hash").engine is None
    assert len(world.map("hash")) == 1
    world.close()


def _no_llvm() -> str:
    raise MissingExtra("llvmlite", "llvm", "a test")


def test_the_library_is_compiled_once(monkeypatch, tmp_path):
    """What was kept on disk is taken from there, without LLVM; another source would be another library."""
    from jitlink.bpf.native import library

    kept = ObjectCache(tmp_path / "kept")
    made = library._object("x86_64", kept)
    monkeypatch.setattr(library, "_triple", _no_llvm)
    assert library._object("x86_64", kept) == made
    with pytest.raises(MissingExtra):
        library._object("aarch64", kept)
    monkeypatch.setattr(library, "_constants", lambda: [("OTHER", 1)])
    with pytest.raises(MissingExtra):
        library._object("x86_64", kept)
