"""Unwind records: which function each record of .eh_frame describes.

An .eh_frame section is a chain of records: a CIE says how a set of frames is laid out, an FDE describes
one function and refers to its CIE. An FDE refers to its function, so to follow its edges as ordinary
references would keep every function alive. The tie goes the other way: a function that is kept keeps
what its FDE refers to (the table of its exception handlers) and what the CIE of that refers to (the
personality routine, which runs the handlers), and the FDE of a dropped function is emptied: the unwinders of
libgcc and LLVM pass over an FDE whose start of function is zero.

Source: Linux Standard Base Core 5.0, section 10.6 (Exception Frames).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jitlink.arches.architecture import Architecture
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

    Attributes: function_edge (int64[n]: of each FDE the edge to its function) and function_cie (int64[n]:
    the number of its CIE); other_edge and owner_edge (int64[m]: every further edge of an FDE, with the
    edge to the function it belongs to); shared_edge and shared_cie (int64[k]: every edge of a CIE, such
    as that to the personality routine, with the number of the CIE); cies (how many CIEs there are).
    """

    function_edge: Rows
    function_cie: Rows
    other_edge: Rows
    owner_edge: Rows
    shared_edge: Rows
    shared_cie: Rows
    cies: int

    def ties(self, graph: LinkGraph, first_node: int) -> tuple[Rows, Rows]:
        """Tie each function to the blocks that its unwind record and the CIE of that refer to.

        first_node: CIE c is node first_node + c; the other nodes are blocks. Returns two int64 arrays.
        """
        block = graph.symbols.block
        target = graph.edges.target
        functions = block[target[self.function_edge]]
        source = (block[target[self.owner_edge]], functions, first_node + self.shared_cie)
        tied = (block[target[self.other_edge]], first_node + self.function_cie, block[target[self.shared_edge]])
        return np.concatenate(source), np.concatenate(tied)

    def drop_dead(self, graph: LinkGraph) -> None:
        """Empty the records of dropped functions, and the CIEs that only those use: they refer to nothing."""
        edges = graph.edges
        live = graph.blocks.live[graph.symbols.block]
        described = live[edges.target[self.function_edge]]
        used = np.zeros(self.cies, np.bool_)
        used[self.function_cie[described]] = True
        dropped = (
            self.function_edge[~described],
            self.other_edge[~live[edges.target[self.owner_edge]]],
            self.shared_edge[~used[self.shared_cie]],
        )
        assert isinstance(graph.target, Architecture)
        kinds = graph.target.kinds
        for rows in dropped:
            # The field may hold something in the input: it is overwritten with the address of nothing.
            edges.kind[rows] = kinds.clearing[kinds.size[edges.kind[rows]]]
            edges.target[rows] = 0
            edges.addend[rows] = 0


NO_UNWIND_RECORDS = UnwindRecords(NO_ROWS, NO_ROWS, NO_ROWS, NO_ROWS, NO_ROWS, NO_ROWS, 0)


def find_unwind_records(graph: LinkGraph) -> UnwindRecords:
    """Find what the records of .eh_frame describe. Needs edges sorted by block.

    Raises MalformedInput where a record goes past the end of its section, and where an FDE has no CIE.
    """
    blocks, edges = graph.blocks, graph.edges
    is_frame = (graph.sections.purpose[blocks.section] == Purpose.EH_FRAME) & blocks.live
    rows = is_frame[edges.block].nonzero()[0]
    if not len(rows):
        return NO_UNWIND_RECORDS
    rows = rows[np.lexsort((edges.offset[rows], edges.block[rows]))]
    block, offset = edges.block[rows], edges.offset[rows]
    frames = is_frame.nonzero()[0]
    first, last = block.searchsorted(frames), block.searchsorted(frames, "right")
    # The record that each edge is in and the CIE of that record, numbered over all sections.
    record, cie, field_at = (np.empty(len(rows), np.int64) for _ in range(3))
    records = 0
    for frame, start, end in zip(frames.tolist(), first.tolist(), last.tolist(), strict=True):
        starts, cies = _records(graph, frame)
        index = starts.searchsorted(offset[start:end], "right") - 1
        record[start:end] = records + index
        cie[start:end] = records + cies[index]
        field_at[start:end] = offset[start:end] - starts[index]
        records += len(starts)
    describes = cie != record
    to_function = describes & (field_at == FUNCTION_FIELD)
    # The edge to the function comes first among the edges of an FDE.
    owner = np.maximum.accumulate(np.where(to_function, np.arange(len(rows)), 0))
    other = describes & ~to_function & (record[owner] == record) & to_function[owner]
    return UnwindRecords(
        function_edge=rows[to_function],
        function_cie=cie[to_function],
        other_edge=rows[other],
        owner_edge=rows[owner[other]],
        shared_edge=rows[~describes],
        shared_cie=cie[~describes],
        cies=records,
    )


def _records(graph: LinkGraph, block: int) -> tuple[Rows, Rows]:
    """Walk the records of one section, each of which says where the next one starts.

    Returns the start of each record and the number of its CIE, which is its own for a CIE: int64[n] each.
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
    if not starts:
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    found = np.array(starts, np.int64)
    # The second word of an FDE is the distance from there back to its CIE; that of a CIE is 0.
    pointers = load_records(np.frombuffer(content + bytes(8), np.uint8), found + 4, WORD).astype(np.int64)
    wanted = np.where(pointers != 0, found + 4 - pointers, found)
    cie = np.maximum(found.searchsorted(wanted, "right") - 1, 0)
    lost = (found[cie] != wanted) | (pointers[cie] != 0)
    if lost.any():
        raise _malformed(graph, block, int(found[lost.argmax()]), "an unwind record that refers to no CIE")
    return found, cie


def _malformed(graph: LinkGraph, block: int, offset: int, fault: str) -> MalformedInput:
    row = graph.blocks[block]
    return MalformedInput(fault, input=row.input, section=row.section.name, offset=offset)
