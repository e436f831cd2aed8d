"""Layout: where in the image each block goes.

Blocks of one protection lie together in a segment, since pages have one protection each. A segment is a
row of runs: first the blocks with content, by falling alignment and otherwise in input order; then the
sets of blocks that must lie side by side in input order, such as initialiser arrays, unwind records and
the sections that __start_NAME and __stop_NAME enclose; last the blocks of zeroes.

When every block of a run is rounded up to its own alignment, and no block's alignment is larger than
that of the one before, each block is aligned where the last one ends. So one sort and one cumulative
sum place all blocks, and a loop only goes over the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jitlink.columns import Rows, align_up, starts_of
from jitlink.errors import LinkFailure
from jitlink.graph import LinkGraph, Purpose
from jitlink.protection import Protection

Sets = dict[tuple[int, bytes], list[int]]
"""The blocks of each set, in order, under its Purpose and, for named sets, the name."""

# Plain integers where they are computed with: operators of enumerations are slow.
CODE, DATA = int(Protection.READ | Protection.EXECUTE), int(Protection.READ | Protection.WRITE)
SEGMENT_ORDER = (Protection(CODE), Protection.READ, Protection(DATA))
PLACE_OF_PROTECTION = np.zeros(8, np.int64)
PLACE_OF_PROTECTION[list(SEGMENT_ORDER)] = np.arange(len(SEGMENT_ORDER))
LARGE = len(SEGMENT_ORDER)
"""Added to the place of a segment of large sections: they come last, since they may be far from the rest."""

CONTENT, SETS, ZEROES = range(3)
"""The parts of a segment, in order."""
IN_SETS = np.zeros(max(Purpose) + 1, np.bool_)
IN_SETS[[Purpose.PREINIT_ARRAY, Purpose.INIT_ARRAY, Purpose.FINI_ARRAY]] = True
IN_SETS[[Purpose.CTORS, Purpose.DTORS, Purpose.EH_FRAME, Purpose.NAMED_SET]] = True
NAMED_SET, EH_FRAME = int(Purpose.NAMED_SET), int(Purpose.EH_FRAME)

SET_BITS, ALIGNMENT_BITS = 24, 31
"""What the sort key holds below the place of the segment and the part: the set, and the alignment."""
MOST_PADDING = 1 << 28
"""Bytes of padding that alignments may ask for beside the content itself."""
UNWIND_END_SIZE = 4
"""Bytes behind the last unwind record for the word of zeroes that ends the chain (LSB 10.6)."""


@dataclass
class Segment:
    """A part of the image with one protection.

    Attributes: protection; offset (bytes from the start of the image, a multiple of the page size);
    filled (bytes that blocks with content reach to); size (bytes, zero-fill included).
    """

    protection: Protection
    offset: int
    filled: int
    size: int


@dataclass
class Layout:
    """Where everything is.

    Attributes: segments; position (int64[blocks], bytes from the start of the image; 0 for dead blocks);
    order (int64[n], the placed blocks by position); size (bytes, a multiple of the page size); sets.
    """

    segments: list[Segment]
    position: Rows
    order: Rows
    size: int
    sets: Sets

    @property
    def filled(self) -> int:
        """Bytes of the image up to the end of the last block with content."""
        return max((segment.offset + segment.filled for segment in self.segments), default=0)


def lay_out(graph: LinkGraph, page_size: int) -> Layout:
    """Give every live block its place. Changes nothing in the graph.

    Raises LinkFailure where sections that must lie side by side need protections that no page has, and
    where alignments ask for memory out of all proportion.
    """
    blocks, sections = graph.blocks, graph.sections
    rows = blocks.live.nonzero()[0][1:]
    section = blocks.section[rows]
    size, alignment = blocks.size[rows], blocks.alignment[rows]
    place = PLACE_OF_PROTECTION[sections.protection[section]] + LARGE * sections.large[section]
    run = (place * 3 + blocks.zero_fill[rows] * ZEROES) << SET_BITS
    in_sets = IN_SETS[sections.purpose[section]].nonzero()[0]
    sets: Sets = {}
    run_alignment: dict[int, int] = {}
    if len(in_sets):
        sets = _gather_sets(graph, rows[in_sets])
        run[in_sets], size[in_sets], run_alignment = _place_sets(graph, sets)
        rows[in_sets] = [block for members in sets.values() for block in members]
        alignment[in_sets] = 1
    key = (run << ALIGNMENT_BITS) - alignment
    order = key.argsort(kind="stable")
    rows, run, alignment = rows[order], run[order], alignment[order]
    starts = starts_of(align_up(size[order], alignment))
    # Where each run starts among the rows, and behind the last run.
    first = [0, *((run[1:] != run[:-1]).nonzero()[0] + 1).tolist(), len(run)] if len(run) else [0]
    placed = _place_runs(
        [int(run[row]) for row in first[:-1]],
        [run_alignment.get(int(run[row]), int(alignment[row])) for row in first[:-1]],
        starts[first].tolist(),
        page_size,
    )
    position = np.zeros(len(blocks), np.int64)
    for start, row, behind in zip(placed.starts, first[:-1], first[1:], strict=True):
        position[rows[row:behind]] = starts[row:behind] + (start - int(starts[row]))
    used = int(np.add.reduce(blocks.size[rows]))
    if sum(segment.size for segment in placed.segments) - used > MOST_PADDING:
        raise LinkFailure(f"the alignments of the sections cost more than {MOST_PADDING:#x} bytes of padding")
    return Layout(placed.segments, position, rows, placed.end, sets)


def _gather_sets(graph: LinkGraph, rows: Rows) -> Sets:
    """Gather the blocks that must lie side by side: by purpose, and sections of a named set by name."""
    sets: Sets = {}
    section = graph.blocks.section[rows]
    purposes, names = graph.sections.purpose[section].tolist(), graph.sections.name[section].tolist()
    for block, purpose, name in zip(rows.tolist(), purposes, names, strict=True):
        set_name = graph.raw_name_at(name) if purpose == NAMED_SET else b""
        sets.setdefault((purpose, set_name), []).append(block)
    return sets


def _place_sets(graph: LinkGraph, sets: Sets) -> tuple[list[int], list[int], dict[int, int]]:
    """Place the blocks of each set one by one, from the start of the set.

    Returns, for the blocks of all sets in order, the run that each is in and the distance from its
    start to the next one's; and the alignment of each run.
    """
    blocks = graph.blocks
    runs: list[int] = []
    distances: list[int] = []
    run_alignment: dict[int, int] = {}
    for number, ((purpose, name), members) in enumerate(sets.items()):
        alignments = blocks.alignment[members].tolist()
        run = (_place_of_set(graph, members, name) * 3 + SETS) << SET_BITS | number
        run_alignment[run] = max(alignments)
        # Unwind records follow each other without a gap: a word of zeroes would end them.
        ends = _ends(blocks.size[members].tolist(), alignments if purpose != EH_FRAME else [1] * len(members))
        if purpose == EH_FRAME:
            ends[-1] += UNWIND_END_SIZE
        distances += [end - start for start, end in zip([0, *ends], ends, strict=False)]
        runs += [run] * len(members)
    return runs, distances, run_alignment


def _ends(sizes: list[int], alignments: list[int]) -> list[int]:
    """Where the block behind each block starts, each at its own alignment; a step depends on the one before."""
    ends, end = [], 0
    for size, following in zip(sizes, [*alignments[1:], 1], strict=True):
        end = -(-(end + size) // following) * following
        ends.append(end)
    return ends


def _place_of_set(graph: LinkGraph, members: list[int], name: bytes) -> int:
    """The place of the segment of a set, whose protection is what any of its members needs."""
    section = graph.blocks.section[members]
    protection = 0
    for one in graph.sections.protection[section].tolist():
        protection |= one
    if protection & DATA == DATA and protection & CODE == CODE:
        text = name.decode(errors="surrogateescape")
        raise LinkFailure(f"sections named {text!r} must lie side by side, and some are code and some are writable")
    large = int(np.count_nonzero(graph.sections.large[section])) > 0
    return int(PLACE_OF_PROTECTION[protection]) + LARGE * large


@dataclass
class _Placed:
    """Where runs and segments are, in bytes from the start of the image."""

    starts: list[int]
    segments: list[Segment]
    end: int


def _place_runs(runs: list[int], alignments: list[int], bounds: list[int], page_size: int) -> _Placed:
    """Place runs one behind the other, and begin a segment where the protection changes.

    bounds: where each run would start, and the last one end, without padding between runs.
    """
    placed = _Placed([], [], 0)
    last_place = -1
    for run, alignment, start, end in zip(runs, alignments, bounds, bounds[1:], strict=False):
        size = end - start
        place, part = divmod(run >> SET_BITS, 3)
        if place != last_place:
            last_place = place
            boundary = max(page_size, alignment)
            placed.end = -(-placed.end // boundary) * boundary
            placed.segments.append(Segment(SEGMENT_ORDER[place % LARGE], placed.end, 0, 0))
        start = -(-placed.end // alignment) * alignment
        placed.starts.append(start)
        placed.end = start + size
        segment = placed.segments[-1]
        segment.size = placed.end - segment.offset
        if part != ZEROES:
            segment.filled = segment.size
    placed.end = -(-placed.end // page_size) * page_size
    return placed
