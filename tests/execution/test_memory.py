"""The addresses and the heap of a machine, against plain models of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink import EmulationFault, MemoryRefused
from jitlink.execution.address_space import HIGHEST, LOW_END, LOWEST, MOST_MAPPED, PAGE, AddressSpace
from jitlink.execution.heap import Heap

sizes = st.integers(1, 1 << 22)
alignments = st.sampled_from([PAGE, 1 << 14, 1 << 20])


@given(st.lists(st.tuples(sizes, alignments, st.booleans()), max_size=30))
def test_ranges_are_aligned_and_apart(steps):
    """Ranges that are in use never touch, also when others were given back in between."""
    space = AddressSpace()
    used: dict[int, int] = {}
    for size, alignment, give_back in steps:
        start = space.take(size, alignment)
        assert start % alignment == 0
        assert start >= LOWEST
        for other, length in used.items():
            assert start + size < other or other + length < start
        used[start] = size
        if give_back:
            space.give_back(min(used))
            del used[min(used)]


def test_what_must_be_low_is_low_and_the_rest_goes_where_there_is_room():
    """below is a bound; when there is no room below it, the error says so."""
    space = AddressSpace()
    assert space.take(1 << 30, below=LOW_END) < LOW_END
    assert space.take(1 << 30) >= LOW_END
    with pytest.raises(MemoryRefused, match="below 0x80000000"):
        space.take(1 << 30, below=LOW_END)


@pytest.mark.parametrize("size", [MOST_MAPPED + 1, HIGHEST, 1 << 63])
def test_more_than_a_machine_has_is_refused(size):
    """A size out of all proportion is an error before anything is mapped."""
    with pytest.raises(MemoryRefused):
        AddressSpace().take(size)


@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from([16, 64, 4096]), st.booleans()), max_size=60))
def test_blocks_of_the_heap_are_apart_and_are_reused(steps):
    """Blocks never overlap, have their alignment, and what is freed can be had again."""
    grown: list[int] = []

    def grow(size: int) -> int:
        grown.append(size)
        return 0x100_0000 * len(grown)

    heap = Heap(grow)
    used: dict[int, int] = {}
    for size, alignment, free in steps:
        address = heap.allocate(size, alignment)
        assert address % alignment == 0
        assert heap.size_of(address) == size
        for other, length in used.items():
            assert address + max(size, 1) <= other or other + max(length, 1) <= address
        used[address] = size
        if free:
            heap.free(min(used))
            with pytest.raises(EmulationFault, match="freed before"):
                heap.free(min(used))
            del used[min(used)]
    heap.free(0)
