"""The verbs of array work: the only clever indexing in the project.

A pass selects rows, derives values, and writes them back; what makes that unreadable is index
arithmetic in the middle of it. The arithmetic lives here, under names that say what it does. The
docstring of each verb holds its definition as a plain loop, and the tests compare the two.

Buffers are one-dimensional uint8 arrays. Records in them may lie at any byte position, as members
of an archive do: a buffer is seen as overlapping windows, one at each byte, and whole records are
gathered from the windows in one step. A window is of the void type, since NumPy moves opaque
records many times faster than structured ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Buffer = npt.NDArray[np.uint8]
Column = npt.NDArray[Any]

NO_ROWS: Rows = np.empty(0, np.int64)


def rows_of(first: Column, count: Column, step: int = 1) -> Rows:
    """Write out the ranges that start at first, with count entries each, step apart.

    first, count: int64[ranges]. Returns int64[sum of count].

        for start, n in zip(first, count):
            yield from range(start, start + n * step, step)
    """
    if len(count) == 1:
        start = int(first[0])
        return np.arange(start, start + int(count[0]) * step, step)
    ends = count.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    rows = np.arange(0, total * step, step)
    rows += (first - (ends - count) * step).repeat(count)
    return rows


def owners(count: Column) -> Rows:
    """Say for each entry of consecutive ranges which range it belongs to.

    count: int64[ranges]. Returns int64[sum of count].

        for row, n in enumerate(count):
            yield from [row] * n
    """
    return np.arange(len(count)).repeat(count)


def starts_of(count: Column) -> Rows:
    """Place ranges one behind the other: where each one starts, and where the last one ends.

    count: int64[ranges]. Returns int64[ranges + 1].

        at = 0
        for n in count:
            yield at
            at += n
        yield at
    """
    starts = np.zeros(len(count) + 1, np.int64)
    count.cumsum(out=starts[1:])
    return starts


def rows_by(key: Column, keys: int) -> tuple[Rows, Rows]:
    """Group rows by a small integer key, keeping their order inside a group.

    key: integers below keys. Returns (rows int64[n], first int64[keys + 1]): the rows of key k are
    rows[first[k]:first[k + 1]].

        for k in range(keys):
            rows += [row for row in range(len(key)) if key[row] == k]
    """
    rows = key.argsort(kind="stable")
    return rows, starts_of(np.bincount(key, minlength=keys))


def distinct(values: Column, below: int) -> tuple[Column, Rows]:
    """Find the distinct values, ascending, and for each entry the position of its value there.

    values: integers in [0, below). Returns (found int64[k], position int64[n]).

        found = sorted(set(values))
        position = [found.index(value) for value in values]
    """
    seen = np.zeros(below, bool)
    seen[values] = True
    found = seen.nonzero()[0]
    position = np.empty(below, np.int64)
    position[found] = np.arange(len(found))
    return found, position[values]


def renumber(keep: npt.NDArray[np.bool_]) -> Rows:
    """Give the kept rows consecutive new numbers; a dropped row gets 0, the null row.

    keep: bool[rows], where keep[0] (the null row) is true. Returns int64[rows].

        new = 0
        for row in range(len(keep)):
            new_row[row] = new if keep[row] else 0
            new += keep[row]
    """
    new_row = keep.cumsum(dtype=np.int64) - 1
    new_row[~keep] = 0
    return new_row


def accumulate(target: Column, rows: Column, values: Column) -> None:
    """Add each value to its row of target, also where a row is named more than once.

    for row, value in zip(rows, values):
        target[row] += value
    """
    np.add.at(target, rows, values)


def lowest_by(key: Column, value: Column, keys: int, none: int) -> Column:
    """Find the lowest value of each key; a key without rows gets none.

    key: int64[n] below keys; value: int64[n]. Returns int64[keys].

        for k in range(keys):
            yield min((v for other, v in zip(key, value) if other == k), default=none)
    """
    highest = np.iinfo(np.int64).max
    lowest = np.full(keys, highest)
    np.minimum.at(lowest, key, value)
    lowest[lowest == highest] = none
    return lowest


def follow(following: Column, start: int, length: int) -> Rows:
    """Walk a chain: start, following[start], following[following[start]], ... length entries.

    following: int64[n] with every entry in [0, n). Takes about log2(length) rounds, each over the
    whole of following, by jumping twice as far in every round.

        for _ in range(length):
            yield start
            start = following[start]
    """
    chain = np.full(min(length, 1), start, np.int64)
    jump = following
    while len(chain) < length:
        chain = np.concatenate((chain, jump[chain[: length - len(chain)]]))
        if len(chain) < length:
            jump = jump[jump]
    return chain


def align_up(value: Rows, alignment: Column) -> Rows:
    """Round up to a multiple of alignment, which is a power of two.

    (value + alignment - 1) // alignment * alignment
    """
    rounded: Rows = (value + (alignment - 1)) & -alignment
    return rounded


def as_signed(address: Column) -> npt.NDArray[np.int64]:
    """Read a uint64 column as two's complement int64, without copying."""
    return address.view(np.int64)


def as_address(distance: Column) -> npt.NDArray[np.uint64]:
    """Read an int64 column as uint64 modulo 2**64, without copying."""
    return distance.view(np.uint64)


def windows(buffer: Buffer, size: int) -> Column:
    """See a buffer as overlapping records of size bytes, one that starts at each byte.

    buffer: uint8[n], n >= size. Returns void(size)[n - size + 1], a view.
    """
    return np.ndarray((len(buffer) - size + 1,), f"V{size}", buffer, strides=(1,))


def load_records(buffer: Buffer, positions: Column, dtype: np.dtype[Any]) -> Column:
    """Gather a record of dtype from each byte position, at any alignment.

    positions: int64[n], each with the whole record inside the buffer. Returns dtype[n], a copy.

        for position in positions:
            yield np.frombuffer(buffer[position : position + dtype.itemsize], dtype)[0]
    """
    if not len(positions):
        return np.empty(0, dtype)
    return windows(buffer, dtype.itemsize)[positions].view(dtype)


def store_records(buffer: Buffer, positions: Column, records: Column) -> None:
    """Scatter records to byte positions, at any alignment; the inverse of load_records.

    for position, record in zip(positions, records):
        buffer[position : position + record.itemsize] = record.tobytes()
    """
    if len(positions):
        size = records.dtype.itemsize
        windows(buffer, size)[positions] = np.ascontiguousarray(records).view(f"V{size}")
