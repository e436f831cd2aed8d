"""Layout: where in the image each block goes.

Blocks of one protection lie together in a segment, since pages have one protection each. Inside a
segment blocks go by falling alignment and otherwise in input order: when every block's size is rounded
up to its own alignment, each next block is aligned where the last one ends, so that all offsets are one
cumulative sum. Blocks that must lie side by side in a given order, such as initialiser arrays, unwind
records and the sections that __start_NAME and __stop_NAME enclose, come after those of their segment;
they are few, and they are placed one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jitlink.columns import NO_ROWS, Rows, align_up, starts_of
from jitlink.errors import LinkFailure
from jitlink.graph import LinkGraph, Purpose
from jitlink.protection import Protection

CODE = Protection.READ | Protection.EXECUTE
DATA = Protection.READ | Protection.WRITE
SEGMENT_ORDER = ((CODE, False), (Protection.READ, False), (DATA, False), (CODE, True), (Protection.READ, True), (DATA, True))
"""The protections of the segments in order, and whether they hold the large sections, which come last."""
GROUPED_PURPOSES = frozenset(
    (
        Purpose.PREINIT_ARRAY,
        Purpose.INIT_ARRAY,
        Purpose.FINI_ARRAY,
        Purpose.CTORS,
        Purpose.DTORS,
        Purpose.EH_FRAME,
        Purpose.NAMED_SET,
    )
)
MOST_PADDING = 1 << 28
"""Bytes of padding that alignments may ask for beside the content itself."""


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
    order (int64[n], the placed blocks by position); size (bytes, a multiple of the page size); alignment
    (bytes, what the start of the image must be a multiple of); sets (for each grouped set of blocks,
    under its purpose and name, the blocks in order).
    """

    segments: list[Segment]
    position: Rows
    order: Rows
    size: int
    alignment: int
    sets: dict[tuple[Purpose, bytes], list[int]] = field(default_factory=dict)

    @property
    def filled(self) -> int:
        """Bytes of the image up to the end of the last block with content."""
        return max((segment.offset + segment.filled for segment in self.segments), default=0)


def lay_out(graph: LinkGraph, page_size: int) -> Layout:
    """Give every live block its place. Changes nothing in the graph."""
    blocks, sections = graph.blocks, graph.sections
    live = blocks.live.copy()
    live[0] = False
    rows = live.nonzero()[0]
    section = blocks.section[rows]
    purpose = sections.purpose[section]
    grouped = (purpose >= Purpose.PREINIT_ARRAY) & (purpose != Purpose.NOTE) & (purpose != Purpose.TLS)
    sets = _sets(graph, rows[grouped]) if grouped.any() else {}
    rows, section = (rows[~grouped], section[~grouped]) if sets else (rows, section)
    placer = _Placer(graph, page_size)
    protection = sections.protection[section]
    zero = blocks.zero_fill[rows]
    # One key says content before zero-fill, and among those the larger alignment first.
    key = (zero.astype(np.int64) << 32) - blocks.alignment[rows]
    large = sections.large[section]
    for wanted, far in SEGMENT_ORDER:
        of_segment = ((protection == wanted) & (large == far)).nonzero()[0]
        order = of_segment[key[of_segment].argsort(kind="stable")]
        members = [several for several in sets.values() if _protection_of(graph, several) == wanted and not far]
        placer.place_segment(wanted, rows[order], members)
    return Layout(
        placer.segments,
        placer.position,
        np.concatenate(placer.order) if placer.order else NO_ROWS,
        placer.end,
        max(int(blocks.alignment[rows].max(initial=1)), page_size),
        sets,
    )


def _protection_of(graph: LinkGraph, members: list[int]) -> int:
    """The protection of a set, which its members share: what any of them needs."""
    protection = int(np.bitwise_or.reduce(graph.sections.protection[graph.blocks.section[members]]))
    if protection & Protection.WRITE and protection & Protection.EXECUTE:
        name = graph.blocks[members[0]].section.name
        raise LinkFailure(f"sections named {name!r} must lie side by side, and some are code and some are writable")
    return protection


def _sets(graph: LinkGraph, rows: Rows) -> dict[tuple[Purpose, bytes], list[int]]:
    """Gather the blocks that must lie side by side: by purpose, and sections of a named set by name."""
    sets: dict[tuple[Purpose, bytes], list[int]] = {}
    section = graph.blocks.section[rows]
    names = graph.names_at(graph.sections.name[section])
    purposes = graph.sections.purpose[section].tolist()
    for block, purpose, name in zip(rows.tolist(), purposes, names, strict=True):
        named = purpose == Purpose.NAMED_SET
        sets.setdefault((Purpose(purpose), name if named else b""), []).append(block)
    return sets


class _Placer:
    """Places segments one behind the other."""

    def __init__(self, graph: LinkGraph, page_size: int) -> None:
        self.graph = graph
        self.page_size = page_size
        self.segments: list[Segment] = []
        self.position = np.zeros(len(graph.blocks), np.int64)
        self.order: list[Rows] = []
        self.end = 0

    def place_segment(self, protection: Protection, rows: Rows, sets: list[list[int]]) -> None:
        """Place the blocks of a segment: those with content, the sets, then zero-fill."""
        if not len(rows) and not sets:
            return
        blocks = self.graph.blocks
        strictest = int(blocks.alignment[rows].max(initial=self.page_size))
        start = self.end = -(-self.end // strictest) * strictest
        content = int((~blocks.zero_fill[rows]).sum())
        self._place_rows(rows[:content])
        for several in sets:
            self._place_side_by_side(several)
        filled = self.end
        self._place_rows(rows[content:])
        size = self.end - start
        wasted = filled - start - int(blocks.size[rows[:content]].sum()) - sum(int(blocks.size[several].sum()) for several in sets)
        if wasted > MOST_PADDING:
            raise LinkFailure(f"the alignments of the sections would cost {wasted:#x} bytes of padding")
        self.segments.append(Segment(protection, start, filled - start, size))
        self.end = -(-self.end // self.page_size) * self.page_size

    def _place_rows(self, rows: Rows) -> None:
        """Place blocks that are sorted by falling alignment."""
        if not len(rows):
            return
        blocks = self.graph.blocks
        alignment = blocks.alignment[rows]
        start = int(align_up(np.int64(self.end), alignment[0]))
        ends = starts_of(align_up(blocks.size[rows], alignment))
        self.position[rows] = start + ends[:-1]
        self.order.append(rows)
        self.end = start + int(ends[-1])

    def _place_side_by_side(self, rows: list[int]) -> None:
        """Place blocks in the given order, each where the last one ends."""
        blocks = self.graph.blocks
        for row, size, alignment in zip(rows, blocks.size[rows].tolist(), blocks.alignment[rows].tolist(), strict=True):
            self.end = -(-self.end // alignment) * alignment
            self.position[row] = self.end
            self.end += size
        self.order.append(np.array(rows))
