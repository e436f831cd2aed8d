"""Reachability: which rows are reached from some roots by following references."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.columns.rows import Column, Rows, rows_of

SMALL_FRONTIER = 24
"""Below this many rows at once, a plain worklist is quicker than array operations."""


def reachable(first: Column, targets: Column, roots: Rows) -> npt.NDArray[np.bool_]:
    """Find the rows that are reached from roots, roots included.

    first: int64[rows + 1], targets: int64[references]: row r refers to targets[first[r]:first[r + 1]].
    Returns bool[rows].

        while roots:
            row = roots.pop()
            if not seen[row]:
                seen[row] = True
                roots += targets[first[row]:first[row + 1]]

    Wide frontiers are searched as arrays, a level at a time. A long chain has as many levels as rows,
    so narrow frontiers are searched row by row: both ways cost time in proportion to what they visit.
    """
    marks = bytearray(len(first) - 1)
    seen = np.frombuffer(marks, np.bool_)
    stamp = np.zeros(len(marks), np.int64)
    frontier = _first_seen(roots, seen, stamp)
    while len(frontier):
        if len(frontier) < SMALL_FRONTIER:
            frontier = _walk(first, targets, frontier, marks)
        else:
            start = first[frontier]
            frontier = _first_seen(targets[rows_of(start, first[frontier + 1] - start)], seen, stamp)
    return seen


def _first_seen(rows: Rows, seen: npt.NDArray[np.bool_], stamp: Rows) -> Rows:
    """Mark the rows that were not seen before, and return each of them once."""
    new: Rows = rows[~seen[rows]]
    stamp[new] = np.arange(len(new))
    new = new[stamp[new] == np.arange(len(new))]
    seen[new] = True
    return new


def _walk(first: Column, targets: Column, frontier: Rows, marks: bytearray) -> Rows:
    """Search row by row until nothing is left or the frontier has grown wide, and return what is left."""
    waiting = frontier.tolist()
    while waiting and len(waiting) < 4 * SMALL_FRONTIER:
        row = waiting.pop()
        for target in targets[first[row] : first[row + 1]].tolist():
            if not marks[target]:
                marks[target] = 1
                waiting.append(target)
    return np.array(waiting, np.int64)
