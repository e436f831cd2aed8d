"""A program's memory is its regions and nothing else, at real addresses."""

import ctypes
import gc
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.regions import GUARD, Region, Regions
from jitlink.errors import MemoryRefused, UsageError

needs_low_memory = pytest.mark.skipif(sys.platform == "darwin", reason="macOS maps nothing below 4 GiB")


@pytest.fixture
def regions():
    regions = Regions()
    yield regions
    regions.close()


def test_address_is_the_real_address(regions):
    """What is written at region.address from outside stands in region.data, and the other way round."""
    region = regions.allocate(16, "buffer")
    ctypes.memset(region.address + 3, 0xAB, 1)
    assert region.data[3] == 0xAB
    region.data[4] = 0xCD
    assert ctypes.string_at(region.address, 6) == b"\0\0\0\xab\xcd\0"


@pytest.mark.parametrize("low", [False, pytest.param(True, marks=needs_low_memory)])
@pytest.mark.parametrize("size", [0, 1, 512, 4096, 100_000])
def test_allocated_memory_is_zeroed(regions, size, low):
    """A new region holds size zero bytes."""
    region = regions.allocate(size, "buffer", low=low)
    assert region.size == size
    assert bytes(region.data) == bytes(size)


@needs_low_memory
def test_low_memory_fits_32_bits(regions):
    """Regions with low=True end below 4 GiB and do not overlap."""
    several = [regions.allocate(3000, f"packet {number}", low=True) for number in range(50)]
    assert all(region.end <= 1 << 32 for region in several)
    addresses = sorted(region.address for region in several)
    assert all(second - first >= 3000 + GUARD for first, second in pairwise(addresses))


@needs_low_memory
def test_low_memory_is_not_wasted(regions):
    """Small regions lie closely together, so that thousands of objects can each have one."""
    several = [regions.allocate(3000, f"packet {number}", low=True) for number in range(200)]
    distances = [abs(following.address - each.address) for each, following in pairwise(several)]
    assert sorted(distances)[len(distances) // 2] <= 4 * GUARD


@pytest.mark.skipif(sys.platform != "linux", reason="counts the mappings that Linux lists")
def test_low_memory_is_given_back(regions):
    """A removed low region is unmapped once no view of it is left, and not before."""

    def is_mapped(address):
        with open("/proc/self/maps") as maps:
            ranges = [[int(end, 16) for end in row.split()[0].split("-")] for row in maps]
        return any(start <= address < end for start, end in ranges)

    region = regions.allocate(64, "packet", low=True)
    address, view = region.address, region.array
    regions.remove(region)
    gc.collect()
    assert is_mapped(address)
    del view
    gc.collect()
    assert not is_mapped(address)


@pytest.mark.parametrize("low", [False, True])
def test_absurd_sizes_are_refused(regions, low):
    """Memory that no host has raises MemoryRefused, and a negative size UsageError."""
    with pytest.raises(MemoryRefused):
        regions.allocate(1 << 60, "too much", low=low)
    with pytest.raises(UsageError):
        regions.allocate(-1, "negative", low=low)


@pytest.mark.parametrize("write", [False, True])
def test_access_must_lie_inside_one_region(regions, write):
    """An access of any size is allowed from the first to the last byte and nowhere else."""
    region = regions.allocate(64, "buffer")
    for size in (1, 2, 4, 8, 64):
        assert regions.find(region.address, size, write) is region
        assert regions.find(region.end - size, size, write) is region
        for address in (region.address - 1, region.end - size + 1, region.end, region.address - size):
            with pytest.raises(BpfFault) as caught:
                regions.find(address, size, write)
            assert caught.value.kind is FaultKind.OUT_OF_BOUNDS
            assert (caught.value.address, caught.value.size, caught.value.nearest) == (address, size, "buffer")


def test_no_access_spans_two_regions(regions):
    """Between regions lie bytes of neither, also where the memory is one piece."""
    memory = np.zeros(64, np.uint8)
    regions.add("first", memory[:32])
    regions.add("second", memory[32:])
    with pytest.raises(BpfFault):
        regions.find(memory.ctypes.data + 30, 4)


def test_address_wraps_modulo_two_to_the_64(regions):
    """Pointer arithmetic wraps: an address above 2**64 is the one modulo 2**64, and one below 0 too."""
    region = regions.allocate(64, "buffer")
    assert regions.find(region.address + (1 << 64), 8) is region
    assert regions.find(region.address - (1 << 64), 8) is region
    for address in (0, -1, 1 << 63, (1 << 64) - 1):
        with pytest.raises(BpfFault):
            regions.find(address, 8)


def test_read_only_region_refuses_writes(regions):
    """A region that is not writable can be read, and Python can still change it."""
    region = regions.allocate(8, "constants", writable=False)
    region.data[0] = 1
    assert regions.find(region.address, 8) is region
    with pytest.raises(BpfFault, match=r"write of 8 bytes at .* in constants, which is read-only") as caught:
        regions.find(region.address, 8, write=True)
    assert caught.value.kind is FaultKind.READ_ONLY


def test_removed_region_is_gone(regions):
    """No access finds a removed region, and whoever kept it sees size 0."""
    region = regions.allocate(8, "record")
    address = region.address
    assert regions.find(address, 8) is region
    regions.remove(region)
    assert (region.size, len(region.data)) == (0, 0)
    with pytest.raises(BpfFault, match="there is no memory"):
        regions.find(address, 8)
    with pytest.raises(UsageError, match="not one of these regions"):
        regions.remove(region)


def test_window_moves_within_its_memory(regions):
    """resize moves both ends of a region; outside of the window nothing is accessible, and bytes stay."""
    region = regions.allocate(100, "packet")
    start = region.address
    region.data[50] = 7
    regions.resize(region, start + 40, 20)
    assert regions.find(start + 40, 20) is region
    assert region.data[10] == 7
    for address in (start + 39, start + 60):
        with pytest.raises(BpfFault):
            regions.find(address, 1)
    regions.resize(region, start, 100)
    assert region.data[50] == 7
    for window in ((start - 1, 10), (start + 90, 11), (start, -1)):
        with pytest.raises(UsageError):
            regions.resize(region, *window)


def test_overlap_is_refused(regions):
    """Memory cannot be in two regions."""
    memory = np.zeros(64, np.uint8)
    regions.add("whole", memory)
    with pytest.raises(UsageError, match="overlaps"):
        regions.add("part", memory[10:20])


def test_foreign_memory_must_be_as_it_is_said_to_be(regions):
    """Memory that is not contiguous, or read-only and said to be writable, is refused."""
    with pytest.raises(UsageError):
        regions.add("strided", np.zeros(64, np.uint8)[::2])
    constant = np.frombuffer(b"constant", np.uint8)
    with pytest.raises(UsageError):
        regions.add("constant", constant)
    assert not regions.add("constant", constant, writable=False).writable


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (-3, "3 bytes before packet (64 bytes at"),
        (62, "it runs 2 bytes over the end of packet (64 bytes at"),
        (64, "0 bytes past the end of packet (64 bytes at"),
        (65, "1 byte past the end of packet (64 bytes at"),
    ],
)
def test_fault_names_address_and_nearest_region(regions, distance, text):
    """The text of a fault says where the address lies from the nearest region."""
    region = regions.allocate(64, "packet")
    with pytest.raises(BpfFault) as caught:
        regions.find(region.address + distance, 4)
    assert f"read of 4 bytes at {region.address + distance:#x} is outside" in str(caught.value)
    assert text in str(caught.value)


def test_a_withdrawn_region_keeps_its_memory_for_others(regions):
    """Who lists the region as well reads and writes it on; it is found here no more."""
    region, other = regions.allocate(16, "shared"), Regions()
    other.share(region)
    regions.withdraw(region)
    assert other.find(region.address, 16) is region
    region.data[3] = 5
    assert ctypes.string_at(region.address, 4) == b"\0\0\0\5"
    with pytest.raises(BpfFault):
        regions.find(region.address, 1)


def test_regions_that_are_left_go_with_the_next_allocation(regions):
    """leave changes nothing at once, so that a finalizer may call it amid a change; what is gone already stays gone."""
    first, second = regions.allocate(16, "first"), regions.allocate(16, "second")
    regions.leave([first, second])
    assert len(regions) == 2
    regions.remove(second)
    third = regions.allocate(16, "third")
    assert list(regions) == [third]


def test_a_table_that_somebody_reads_does_not_change(regions):
    """A change puts another table in the place of the one that native code may be reading."""
    regions.allocate(16, "first")
    table = regions.table
    before = table.tolist()
    assert before == [next(iter(regions)).address, 16, 1]
    second = regions.allocate(32, "second")
    regions.resize(second, second.address, 8)
    assert table.tolist() == before
    assert len(regions.table) == 6


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), max_size=8),
    st.lists(st.tuples(st.integers(-4, 70), st.integers(1, 9)), max_size=20),
)
def test_find_agrees_with_a_search_through_all(windows, accesses):
    """find gives the one region that holds the access, whatever was asked before, or faults."""
    memory = np.zeros(128, np.uint8)
    base = memory.ctypes.data
    regions, kept = Regions(), list[Region]()
    for start, size in windows:
        try:
            kept.append(regions.add(f"at {start}", memory[start : start + size]))
        except UsageError:
            assert any(start < region.end - base and region.address - base < start + size for region in kept)
    for start, size in accesses:
        holding = [region for region in kept if region.address <= base + start and base + start + size <= region.end]
        try:
            found = [regions.find(base + start, size)]
        except BpfFault:
            found = []
        assert found == holding
        nearest = regions.nearest(base + start)
        distances = [max(region.address - base - start, base + start - region.end) for region in kept]
        assert nearest is None or distances[kept.index(nearest)] == min(distances)
        assert (nearest is None) == (not kept)
