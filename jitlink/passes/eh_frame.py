"""Unwind records: which function each record of .eh_frame describes.

An .eh_frame section is a chain of records: a CIE says how a set of frames is laid out, an FDE describes
one function and refers to its CIE. An FDE refers to its function, so to follow its edges as ordinary
references would keep every function alive. The tie goes the other way: a function that is kept keeps
what its FDE refers to (the table of its exception handlers), and the FDE of a dropped function is
emptied: the unwinders of libgcc and LLVM pass over an FDE whose start of function is zero.

Source: Linux Standard Base Core 5.0, section 10.6 (Exception Frames).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.columns import NO_ROWS, Rows, load_records
from jitlink.errors import MalformedInput
from jitlink.graph import LinkGraph, Purpose

WORD = np.dtype("<u4")
EXTENDED_LENGTH = 0xFFFFFFFF
FUNCTION_FIELD = 8
"""Where an FDE refers to its function, from the start of the record (length and CIE pointer go before)."""


@dataclass(frozen=True)
class UnwindRecords:
    """The edges of all unwind records.

    Attributes: function_edge (int64[n]: of each FDE the edge to its function), other_edge and
    owner_edge (int64[m]: every further edge of an FDE, with the edge to the function it belongs to).
    """

    function_edge: Rows
    other_edge: Rows
    owner_edge: Rows

    def ties(self, graph: LinkGraph) -> tuple[Rows, Rows]:
        """Tie each function to the blocks that its unwind record refers to: two int64[m], blocks."""
        block = graph.symbols.block
        target = graph.edges.target
        return block[target[self.owner_edge]], block[target[self.other_edge]]

    def drop_dead(self, graph: LinkGraph) -> None:
        """Empty the records of dropped functions: their edges are no longer applied."""
        dead = ~graph.blocks.live[graph.symbols.block]
        gone = dead[graph.edges.target]
        for edges, owner in ((self.function_edge, self.function_edge), (self.other_edge, self.owner_edge)):
            graph.edges.kind[edges[gone[owner]]] = 0


NO_UNWIND_RECORDS = UnwindRecords(NO_ROWS, NO_ROWS, NO_ROWS)


def find_unwind_records(graph: LinkGraph) -> UnwindRecords:
    """Find what the records of .eh_frame describe. Needs edges sorted by block.

    Raises MalformedInput where a record goes past the end of its section.
    """
    blocks, edges = graph.blocks, graph.edges
    frames = (graph.sections.purpose[blocks.section] == Purpose.EH_FRAME) & blocks.live
    rows = frames[edges.block].nonzero()[0]
    if not len(rows):
        return NO_UNWIND_RECORDS
    order = np.lexsort((edges.offset[rows], edges.block[rows]))
    rows = rows[order]
    block = edges.block[rows]
    first, last = block.searchsorted(frames.nonzero()[0]), block.searchsorted(frames.nonzero()[0], "right")
    record = np.empty(len(rows), np.int64)
    describes = np.empty(len(rows), np.bool_)
    for frame, start, end in zip(frames.nonzero()[0].tolist(), first.tolist(), last.tolist(), strict=True):
        starts, is_fde = _records(graph, frame)
        index = starts.searchsorted(edges.offset[rows[start:end]], "right") - 1
        record[start:end] = starts[index]
        describes[start:end] = is_fde[index]
    to_function = describes & (edges.offset[rows] == record + FUNCTION_FIELD)
    # The edge to the function comes first among the edges of an FDE.
    owner = np.maximum.accumulate(np.where(to_function, np.arange(len(rows)), 0))
    other = describes & ~to_function & (edges.block[rows[owner]] == block) & (record[owner] == record)
    return UnwindRecords(rows[to_function], rows[other], rows[owner[other]])


def _records(graph: LinkGraph, block: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Walk the records of one section, each of which says where the next one starts.

    Returns the start of each record (int64[n]) and whether it is an FDE (bool[n]).
    """
    content = graph.content_of(block)
    starts = []
    at, end = 0, len(content)
    while at + 4 <= end:
        length = int.from_bytes(content[at : at + 4], "little")
        if length == EXTENDED_LENGTH:
            raise _malformed(graph, block, at, "a record with a 64-bit length")
        if length == 0:
            break
        starts.append(at)
        at += 4 + length
        if at > end or length < 4:
            raise _malformed(graph, block, starts[-1], "a record that goes past the end of its section")
    found = np.array(starts or [0], np.int64)
    pointers = load_records(np.frombuffer(content + bytes(8), np.uint8), found + 4, WORD)
    return found, pointers != 0


def _malformed(graph: LinkGraph, block: int, offset: int, fault: str) -> MalformedInput:
    row = graph.blocks[block]
    return MalformedInput(fault, input=row.input, section=row.section.name, offset=offset)
