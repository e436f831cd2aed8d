"""Each verb does what the plain loop in its docstring does, on none, one and many rows.

The verbs are the only clever indexing of the project, so they are held to definitions that need no
cleverness. hypothesis draws the arrays, and what it finds first is usually an empty one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.columns import (
    accumulate,
    align_up,
    as_address,
    as_signed,
    distinct,
    follow,
    load_records,
    lowest_by,
    owners,
    renumber,
    rows_by,
    rows_of,
    starts_of,
    store_records,
    windows,
)
from jitlink.columns.reach import SMALL_FRONTIER, reachable

COUNTS = st.lists(st.integers(0, 6), max_size=12)
UINT64 = st.integers(0, 2**64 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
RECORD = np.dtype([("name", "<u4"), ("kind", "u1"), ("value", "<i8")])


def int64(values: list[int]) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 6)), max_size=12), st.integers(1, 64))
def test_rows_of_writes_out_every_range(ranges: list[tuple[int, int]], step: int) -> None:
    """rows_of is the concatenation of the ranges, each with its own start and count, all step apart."""
    first, count = int64([start for start, _ in ranges]), int64([n for _, n in ranges])
    expected = [row for start, n in ranges for row in range(start, start + n * step, step)]
    assert rows_of(first, count, step).tolist() == expected


@given(COUNTS)
def test_owners_names_the_range_of_each_entry(counts: list[int]) -> None:
    """owners repeats the number of a range as often as the range has entries."""
    assert owners(int64(counts)).tolist() == [row for row, n in enumerate(counts) for _ in range(n)]


@given(COUNTS)
def test_starts_of_places_ranges_one_behind_the_other(counts: list[int]) -> None:
    """starts_of has one entry more than there are ranges: the last one is where all of them end."""
    assert starts_of(int64(counts)).tolist() == [sum(counts[:row]) for row in range(len(counts) + 1)]


@given(st.lists(st.integers(0, 6), max_size=30), st.integers(7, 9))
def test_rows_by_groups_rows_in_their_order(keys: list[int], bound: int) -> None:
    """The rows of key k are rows[first[k]:first[k + 1]], in the order in which they were given."""
    rows, first = rows_by(int64(keys), bound)
    assert len(first) == bound + 1
    for key in range(bound):
        assert rows[first[key] : first[key + 1]].tolist() == [row for row, k in enumerate(keys) if k == key]


@given(st.lists(st.integers(0, 40), max_size=30))
def test_distinct_finds_values_and_their_positions(values: list[int]) -> None:
    """distinct gives the values in ascending order, and where among them each entry's value is."""
    found, position = distinct(int64(values), 41)
    assert found.tolist() == sorted(set(values))
    assert [found[at] for at in position] == values


@given(st.lists(st.booleans(), max_size=30))
def test_renumber_counts_kept_rows_and_sends_dropped_ones_to_null(keep: list[bool]) -> None:
    """Kept rows get consecutive numbers from the null row on, and a dropped row gets 0."""
    mask = [True, *keep]
    expected, new = [], 0
    for kept in mask:
        expected.append(new if kept else 0)
        new += kept
    assert renumber(np.array(mask)).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 4), UINT64), max_size=30))
def test_accumulate_adds_every_value_of_a_repeated_row(additions: list[tuple[int, int]]) -> None:
    """A row that is named several times gets all of its values, modulo 2**64."""
    target = np.zeros(5, np.uint64)
    expected = [0] * 5
    for row, value in additions:
        expected[row] = (expected[row] + value) % 2**64
    accumulate(target, int64([row for row, _ in additions]), np.array([value for _, value in additions], np.uint64))
    assert target.tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-(2**40), 2**40)), max_size=30))
def test_lowest_by_finds_the_least_value_of_each_key(pairs: list[tuple[int, int]]) -> None:
    """Each key gets the lowest of its values, and a key without rows gets the value for none."""
    lowest = lowest_by(int64([key for key, _ in pairs]), int64([value for _, value in pairs]), 6, -7)
    assert lowest.tolist() == [min((v for k, v in pairs if k == key), default=-7) for key in range(6)]


@given(st.data(), st.integers(1, 40), st.integers(0, 120))
def test_follow_walks_a_chain_entry_by_entry(data: st.DataObject, size: int, length: int) -> None:
    """follow is length applications of the successor, also around a cycle."""
    following = data.draw(st.lists(st.integers(0, size - 1), min_size=size, max_size=size))
    start = row = data.draw(st.integers(0, size - 1))
    expected = []
    for _ in range(length):
        expected.append(row)
        row = following[row]
    assert follow(int64(following), start, length).tolist() == expected


@given(st.lists(st.integers(0, 2**62), max_size=10), st.integers(0, 40))
def test_align_up_rounds_to_the_next_multiple(values: list[int], power: int) -> None:
    """The result is the least multiple of the alignment that is not below the value."""
    alignment = 1 << power
    assert align_up(int64(values), np.full(len(values), alignment)).tolist() == [
        -(-value // alignment) * alignment for value in values
    ]


@given(st.lists(UINT64, max_size=10))
def test_addresses_and_distances_reinterpret_each_other(values: list[int]) -> None:
    """as_signed reads two's complement and as_address undoes it; no low bit of an address is lost."""
    column = np.array(values, np.uint64)
    signed = as_signed(column)
    assert signed.tolist() == [value - 2**64 if value >= 2**63 else value for value in values]
    assert as_address(signed).tolist() == values
    assert np.shares_memory(signed, column) or not values


@given(st.binary(min_size=13, max_size=64), st.data())
def test_load_records_gathers_from_any_byte(content: bytes, data: st.DataObject) -> None:
    """A record is what its bytes say at whatever byte it starts, the last possible one included."""
    positions = data.draw(st.lists(st.integers(0, len(content) - RECORD.itemsize), max_size=8))
    loaded = load_records(np.frombuffer(content, np.uint8), int64(positions), RECORD)
    expected = [np.frombuffer(content[at : at + RECORD.itemsize], RECORD)[0] for at in positions]
    assert loaded.dtype == RECORD
    assert loaded.tolist() == [record.item() for record in expected]


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 255), INT64), max_size=5))
def test_store_records_is_the_inverse_of_load_records(values: list[tuple[int, int, int]]) -> None:
    """What is scattered to unaligned places is gathered back, and the bytes between stay as they were."""
    buffer = np.full(100, 0xAA, np.uint8)
    positions = int64([3 + 19 * row for row in range(len(values))])
    records = np.array(values, RECORD)
    store_records(buffer, positions, records)
    assert load_records(buffer, positions, RECORD).tolist() == records.tolist()
    written = {at + byte for at in positions.tolist() for byte in range(RECORD.itemsize)}
    assert all(buffer[at] == 0xAA for at in range(100) if at not in written)


def test_windows_start_at_every_byte() -> None:
    """windows sees the records that start at each byte, without a copy."""
    buffer = np.arange(5, dtype=np.uint8)
    assert [bytes(window.tobytes()) for window in windows(buffer, 3)] == [b"\0\1\2", b"\1\2\3", b"\2\3\4"]
    assert np.shares_memory(windows(buffer, 3), buffer)


def reached_by_worklist(first: list[int], targets: list[int], roots: list[int]) -> list[bool]:
    """The definition of reachable: a worklist."""
    seen = [False] * (len(first) - 1)
    waiting = list(roots)
    while waiting:
        row = waiting.pop()
        if not seen[row]:
            seen[row] = True
            waiting += targets[first[row] : first[row + 1]]
    return seen


@given(st.data(), st.integers(1, 12), st.sampled_from([1, 4 * SMALL_FRONTIER]))
def test_reachable_marks_what_a_worklist_marks(data: st.DataObject, rows: int, copies: int) -> None:
    """Narrow and wide frontiers, duplicates, cycles and self references all end with the same rows."""
    references = data.draw(st.lists(st.lists(st.integers(0, rows - 1), max_size=4), min_size=rows, max_size=rows))
    # The same small graph many times over has a frontier that is wide enough for the array search.
    counts = [len(targets) for targets in references] * copies
    targets = [target + copy * rows for copy in range(copies) for row in references for target in row]
    chosen = data.draw(st.lists(st.integers(0, rows - 1), max_size=3))
    roots = [root + copy * rows for copy in range(copies) for root in chosen]
    first = starts_of(int64(counts))
    expected = reached_by_worklist(first.tolist(), targets, roots)
    assert reachable(first, int64(targets), int64(roots)).tolist() == expected


@pytest.mark.parametrize("length", [0, 1, 100_000])
def test_reachable_follows_a_chain_to_its_end(length: int) -> None:
    """A chain has as many levels as rows, and is still followed to the last of them."""
    first = np.minimum(np.arange(length + 2), length)
    seen = reachable(first, np.arange(1, length + 1), int64([0]))
    assert len(seen) == length + 1
    assert seen.all()


def test_reachable_spreads_over_a_wide_level_once() -> None:
    """A hundred thousand rows that all refer to one row reach it, and it refers back to nobody new."""
    width = 100_000
    first = np.concatenate(([0], np.arange(width, 2 * width + 1), [2 * width]))
    targets = np.concatenate((np.arange(1, width + 1), np.full(width, width + 1)))
    seen = reachable(first, targets, int64([0]))
    assert len(seen) == width + 2
    assert seen.all()
