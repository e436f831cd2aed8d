"""Layout: where in the image each block goes.

Blocks of one protection lie together in a segment, since pages have one protection each. A segment is a
row of runs: first the blocks with content, by falling alignment and otherwise in input order; then the
sets of blocks that must lie side by side in input order, such as initialiser arrays, unwind records and
the sections that __start_NAME and __stop_NAME enclose; last the blocks of zeroes.

When every block of a run is rounded up to its own alignment, and no block's alignment is larger than
that of the one before, each block is aligned where the last one ends. So one sort and one cumulative
sum place all blocks, and a loop only goes over the runs. A block that starts behind a multiple of its
alignment is placed as if it had the bytes from there on.
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
IN_SETS[[Purpose.INIT_OFFSETS, Purpose.CTORS, Purpose.DTORS, Purpose.EH_FRAME, Purpose.NAMED_SET, Purpose.TLS]] = True
NAMED_SET, EH_FRAME, TLS = int(Purpose.NAMED_SET), int(Purpose.EH_FRAME), int(Purpose.TLS)

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


@dataclass
class Room:
    """Bytes left free around blocks, for others that a pass places there itself (see jitlink.passes.veneers).

    Attributes: before (int64[blocks], multiples of the alignment of the block); behind (int64[blocks]);
    guests (int64[n], the blocks that go there, and are not laid out).
    """

    before: Rows
    behind: Rows
    guests: Rows


def lay_out(graph: LinkGraph, page_size: int, room: Room | None = None) -> Layout:
    """Give every live block its place. Changes nothing in the graph.

    room: what is to be left free; its guests have no place in the result.

    Raises LinkFailure where sections that must lie side by side need protections that no page has, and
    where alignments ask for memory out of all proportion.
    """
    blocks, sections = graph.blocks, graph.sections
    rows = blocks.live.nonzero()[0][1:]
    if room is not None:
        rows = np.setdiff1d(rows, room.guests, assume_unique=True)
    section = blocks.section[rows]
    size, alignment = blocks.size[rows] + blocks.alignment_offset[rows], blocks.alignment[rows]
    if room is not None:
        size += room.before[rows] + room.behind[rows]
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
    if np.count_nonzero(blocks.alignment_offset):
        shift = blocks.alignment_offset.copy()
        shift[[block for members in sets.values() for block in members]] = 0
        position[rows] += shift[rows]
    if room is not None:
        position += room.before
    _place_thread_zeroes(graph, sets.get((TLS, b""), []), position)
    used = int(np.add.reduce(blocks.size[rows]))
    if sum(segment.size for segment in placed.segments) - used > MOST_PADDING:
        raise LinkFailure(f"the alignments of the sections cost more than {MOST_PADDING:#x} bytes of padding")
    return Layout(placed.segments, position, rows, placed.end, sets)


def _gather_sets(graph: LinkGraph, rows: Rows) -> Sets:
    """Gather the blocks that must lie side by side: by purpose, and sections of a named set by name."""
    sets: Sets = {}
    section = graph.blocks.section[rows]
    purposes, names = graph.sections.purpose[section].tolist(), graph.sections.name[section].tolist()
    members = list(zip(rows.tolist(), purposes, names, strict=True))
    grouped = graph.format == "coff"
    if grouped:
        # What follows the dollar sign in a name orders the parts of a section (PE Format, Grouped Sections).
        members.sort(key=lambda member: graph.raw_name_at(member[2]))
    for block, purpose, name in members:
        set_name = graph.raw_name_at(name) if purpose == NAMED_SET else b""
        sets.setdefault((purpose, set_name.partition(b"$")[0] if grouped else set_name), []).append(block)
    if (TLS, b"") in sets:
        # A thread's copy starts with what has no bytes and marks the start, and ends with zeroes.
        sets[TLS, b""].sort(key=lambda block: (graph.blocks.zero_fill[block], graph.blocks.size[block] > 0))
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
        offset = blocks.alignment_offset[members]
        # Side by side means without the room that would keep what is inside of a block aligned.
        alignments = np.where(offset > 0, offset & -offset, blocks.alignment[members]).tolist()
        run = (_place_of_set(graph, members, name) * 3 + SETS) << SET_BITS | number
        run_alignment[run] = max(alignments)
        sizes = blocks.size[members]
        if purpose == TLS:
            # The zeroes of threads' copies take no room in the image: see _place_thread_zeroes.
            zeroes = blocks.zero_fill[members]
            sizes[zeroes], alignments = 0, np.where(zeroes, 1, alignments).tolist()
        # Unwind records follow each other without a gap: a word of zeroes would end them.
        ends = _ends(sizes.tolist(), alignments if purpose != EH_FRAME else [1] * len(members))
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


def _place_thread_zeroes(graph: LinkGraph, members: list[int], position: Rows) -> None:
    """Place the zeroes of threads' copies behind what has content, as if nothing else were there."""
    blocks = graph.blocks
    end = int(position[members[0]]) if members else 0
    for block in members:
        if blocks.zero_fill[block]:
            alignment = int(blocks.alignment[block])
            position[block] = -(-end // alignment) * alignment
        end = int(position[block]) + int(blocks.size[block])


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
