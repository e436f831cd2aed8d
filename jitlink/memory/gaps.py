"""Where a range of addresses goes, given what is taken: planning only, nothing is mapped here.

The platforms list what the process has mapped; this decides which free place serves best. A linker
asks for a place near something (its references reach 2 GiB either way) or inside a window (absolute
32-bit references need addresses below 2 GiB). What counts for reach is the farthest byte of the
range, so "closest" is measured from the centre of the range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jitlink.errors import MemoryRefused

Span = tuple[int, int]
"""A range of addresses, not empty: start, and the first address behind it."""


def plan_gap(
    taken: Iterable[Span], size: int, *, low: int, high: int, near: int | None = None, alignment: int = 4096
) -> int | None:
    """Choose a base so that [base, base + size) lies in [low, high) and meets nothing taken.

    taken: in any order, may overlap. size: a multiple of the page size. alignment: of the base, a
    power of two. With near, no other base brings the centre of the range closer to that address;
    without, the highest base is chosen, where the range is out of the way of a growing heap.

    Returns None where there is no such base.
    """
    wanted = high if near is None else near - size // 2
    best: int | None = None
    for start, end in free_gaps(taken, low, high):
        first = -(-start // alignment) * alignment
        last = (end - size) // alignment * alignment
        if first > last:
            continue
        nearest = (wanted + alignment // 2) // alignment * alignment
        base = min(max(nearest, first), last)
        if best is None or abs(base - wanted) < abs(best - wanted):
            best = base
    return best


def free_gaps(taken: Iterable[Span], low: int, high: int) -> Iterator[Span]:
    """List what is free in [low, high), ascending; taken may be in any order and overlap."""
    free_from = low
    for start, end in sorted(taken):
        if free_from >= high:
            return
        if start > free_from:
            yield free_from, min(start, high)
        free_from = max(free_from, end)
    if free_from < high:
        yield free_from, high


def no_gap(taken: Iterable[Span], size: int, low: int, high: int) -> MemoryRefused:
    """Make the error for a window without room, saying how much room there is."""
    largest = max((end - start for start, end in free_gaps(taken, low, high)), default=0)
    return MemoryRefused(
        f"no free range of {size:#x} bytes lies wholly inside the addresses [{low:#x}, {high:#x}): "
        f"the largest free range there has {largest:#x} bytes. "
        "Allow a wider range of addresses (code compiled with -fPIC needs none), or load less"
    )
