"""Function tables: which function each record of COFF's .pdata describes.

Windows finds the frames of a stack by a table with a record for each function: where it starts and ends, and
where more about it is (.xdata). A record refers to its function, so to follow its references as ordinary ones would
keep every function alive. The tie goes the other way, as for .eh_frame (jitlink.passes.eh_frame): a function
that is kept keeps its record and what that says about it, and the record of a dropped function is emptied.

    x86-64  start, end, unwind information
    ARM64   start, and unwind information or, if its two lowest bits are not zero, that information itself

Source: Microsoft, "x64 exception handling", struct RUNTIME_FUNCTION; "ARM64 exception handling", .pdata records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jitlink.columns import NO_ROWS, Rows
from jitlink.errors import MalformedInput
from jitlink.graph import LinkGraph, Purpose

FIELD = 4
FIELDS = {"x86_64": 3, "aarch64": 2}
"""How many words a record has; all but the last refer to the function."""
MOST_RECORDS = 1 << 40


@dataclass(frozen=True)
class FunctionTables:
    """The edges of all records.

    Attributes: function_edge (int64[n], the edges to the starts and ends of functions); other_edge
    (int64[m], the edges to what is said about them) and owner_edge (int64[m], an edge to the function of
    each).
    """

    function_edge: Rows
    other_edge: Rows
    owner_edge: Rows

    def ties(self, graph: LinkGraph) -> tuple[Rows, Rows]:
        """Tie each function to the table that has its record, and to what that refers to: two int64[n], blocks."""
        block, target = graph.symbols.block, graph.edges.target
        source = (block[target[self.function_edge]], block[target[self.owner_edge]])
        tied = (graph.edges.block[self.function_edge], block[target[self.other_edge]])
        return np.concatenate(source), np.concatenate(tied)

    def drop_dead(self, graph: LinkGraph) -> None:
        """Empty the records of dropped functions: they refer to nothing."""
        edges = graph.edges
        live = graph.blocks.live[graph.symbols.block]
        functions = self.function_edge[~live[edges.target[self.function_edge]]]
        others = self.other_edge[~live[edges.target[self.owner_edge]]]
        for rows in (functions, others):
            edges.kind[rows] = 0
            edges.target[rows] = 0


NO_FUNCTION_TABLES = FunctionTables(NO_ROWS, NO_ROWS, NO_ROWS)


def find_function_tables(graph: LinkGraph) -> FunctionTables:
    """Find what the records of live function tables describe. Needs edges sorted by block.

    Raises MalformedInput where a table is not made of records, a record describes no function, or one that
    ends before it starts.
    """
    blocks, edges, symbols = graph.blocks, graph.edges, graph.symbols
    is_table = (graph.sections.purpose[blocks.section] == Purpose.FUNCTION_TABLE) & blocks.live
    if not np.count_nonzero(is_table):
        return NO_FUNCTION_TABLES
    fields = FIELDS.get(graph.target.name, FIELDS["x86_64"])
    size = fields * FIELD
    _refuse(graph, is_table & (blocks.size % size != 0), f"its records are not {size} bytes each")
    rows = is_table[edges.block].nonzero()[0]
    block, offset = edges.block[rows], edges.offset[rows]
    _refuse(graph, _of(graph, block[offset % FIELD != 0]), "a relocation is not of a field of its records")
    record = block * MOST_RECORDS + offset // size
    field = offset % size // FIELD
    rows, record, field = (column[np.lexsort((field, record))] for column in (rows, record, field))
    is_function = field < fields - 1
    # The edge to the start of the function comes first among the edges of a record.
    first = record.searchsorted(record)
    lost = field[first] != 0
    _refuse(graph, _of(graph, edges.block[rows[lost]]), "a record does not say which function it describes")
    if fields > 2:
        ends = (field == 1).nonzero()[0]
        start, end = edges.target[rows[first[ends]]], edges.target[rows[ends]]
        distance = symbols.offset[end].view(np.int64) + edges.addend[rows[ends]]
        distance -= symbols.offset[start].view(np.int64) + edges.addend[rows[first[ends]]]
        wrong = (symbols.block[start] != symbols.block[end]) | (distance <= 0)
        _refuse(
            graph,
            _of(graph, edges.block[rows[ends[wrong]]]),
            "a record describes a function that ends before it starts",
        )
    return FunctionTables(rows[is_function], rows[~is_function], rows[first[~is_function]])


def _of(graph: LinkGraph, blocks: Rows) -> Rows:
    """Mark some blocks: bool[blocks]."""
    marked: Rows = np.zeros(len(graph.blocks), np.bool_)
    marked[blocks] = True
    return marked


def _refuse(graph: LinkGraph, faulty: Rows, fault: str) -> None:
    if np.count_nonzero(faulty):
        row = graph.blocks[int(faulty.argmax())]
        raise MalformedInput(f"a table of functions of which {fault}", input=row.input, section=row.section.name)
