"""Shrinking: cutting bytes out of blocks, with everything that counts bytes following.

A linker that relaxes code finds instructions that it can do without. Cutting them out moves what stands
behind them: the offsets of symbols and edges, the sizes of symbols and blocks, and addends that count from
the start of a section. All of that is one function from positions to positions, the same for all blocks at
once: put the blocks one behind the other, and a position moves back by the bytes that were cut before it.

Which cuts are worth making depends on where things are, which depends on the cuts. So what was read first
is kept, and every new set of cuts is applied to that: nothing is ever cut twice.
"""

from __future__ import annotations

import numpy as np

from jitlink.columns import Buffer, Rows, rows_of, starts_of
from jitlink.errors import MalformedInput
from jitlink.graph import LinkGraph, SymbolKind

SECTION_SYMBOL = int(SymbolKind.SECTION)


class Cuts:
    """Ranges of positions that are taken out; they do not overlap.

    Attributes: start (int64[n], ascending), end (int64[n]).
    """

    def __init__(self, start: Rows, count: Rows) -> None:
        """Take ranges in any order; those of no bytes are left out."""
        some = count > 0
        start, count = start[some], count[some]
        order = start.argsort(kind="stable")
        self.start, self.count = start[order], count[order]
        self.end = self.start + self.count
        # How many positions the cuts before each one take out.
        self.before = starts_of(self.count)

    def moved(self, position: Rows) -> Rows:
        """Where positions are after the cuts; what was inside a cut is where the cut was. int64[n] of int64[n].

        for each in position:
            yield each - sum(min(each, cut.end) - cut.start for cut in cuts if cut.start < each)
        """
        earlier = self.start.searchsorted(position)
        moved: Rows = position - self.before[earlier]
        if len(self.start):
            last = np.maximum(earlier - 1, 0)
            inside = (earlier > 0) & (self.end[last] > position)
            moved[inside] = (self.start - self.before[:-1])[last[inside]]
        return moved

    def touch(self, start: Rows, size: Rows) -> Rows:
        """Find the ranges that lose a byte: rows of start and size, int64[n] each."""
        if not len(self.start):
            return np.empty(0, np.int64)
        following = np.minimum(self.end.searchsorted(start, "right"), len(self.end) - 1)
        touched = (self.end[following] > start) & (self.start[following] < start + size)
        rows: Rows = touched.nonzero()[0]
        return rows


class ShrinkingBlocks:
    """Some blocks of a graph, out of which bytes are cut.

    A coordinate is a position in all of these blocks, put one behind the other with a byte between, so
    that the end of one is not the start of the next.
    """

    def __init__(self, graph: LinkGraph, blocks: Rows) -> None:
        """Remember what the graph says of these blocks. blocks: int64[n], ascending rows."""
        self.graph = graph
        self.blocks = blocks
        self.size = graph.blocks.size[blocks].copy()
        first = starts_of(self.size + 1)
        self.first, self.length = first[:-1], int(first[-1])
        self.number = np.full(len(graph.blocks), -1, np.int64)
        self.number[blocks] = np.arange(len(blocks))
        self._remember_symbols()
        self._remember_edges()

    def _remember_symbols(self) -> None:
        symbols = self.graph.symbols
        self.symbols = (self.number[symbols.block] >= 0).nonzero()[0]
        number = self.number[symbols.block[self.symbols]]
        self.symbol_offset, self.symbol_size = symbols.offset[self.symbols], symbols.size[self.symbols]
        size = self.size[number].view(np.uint64)
        # An offset may be anything up to 2**64, and an end so too: what lies past the block moves with its end.
        start = np.minimum(self.symbol_offset, size)
        end = start + np.minimum(self.symbol_size, size - start)
        self.symbol_block = number
        self.symbol_start = self.first[number] + start.view(np.int64)
        self.symbol_end = self.first[number] + end.view(np.int64)

    def _remember_edges(self) -> None:
        edges, symbols = self.graph.edges, self.graph.symbols
        self.edges = (self.number[edges.block] >= 0).nonzero()[0]
        self.edge_block = self.number[edges.block[self.edges]]
        self.edge_at = np.zeros(len(edges), np.int64)
        self.edge_at[self.edges] = self.first[self.edge_block] + edges.offset[self.edges]
        # A reference to the start of a section, with the place in it as its addend.
        into = edges.target
        counted = (symbols.kind[into] == SECTION_SYMBOL) & (self.number[symbols.block[into]] >= 0)
        rows = counted.nonzero()[0]
        block = self.number[symbols.block[into[rows]]]
        within = (edges.addend[rows] >= 0) & (edges.addend[rows] <= self.size[block])
        self.counted, self.counted_block = rows[within], block[within]
        self.counted_at = self.first[self.counted_block] + edges.addend[self.counted]

    def cut(self, cuts: Cuts) -> None:
        """Say in the graph where everything is after these cuts of what was there at first."""
        graph = self.graph
        first = cuts.moved(self.first)
        graph.blocks.size[self.blocks] = cuts.moved(self.first + self.size) - first
        start = cuts.moved(self.symbol_start)
        lost = (self.symbol_start - self.first[self.symbol_block]) - (start - first[self.symbol_block])
        graph.symbols.offset[self.symbols] = self.symbol_offset - lost.view(np.uint64)
        lost = (self.symbol_end - self.symbol_start) - (cuts.moved(self.symbol_end) - start)
        graph.symbols.size[self.symbols] = self.symbol_size - lost.view(np.uint64)
        graph.edges.offset[self.edges] = cuts.moved(self.edge_at[self.edges]) - first[self.edge_block]
        graph.edges.addend[self.counted] = cuts.moved(self.counted_at) - first[self.counted_block]

    def content(self) -> Buffer:
        """Copy the content of the blocks, each at its coordinate: uint8[length]. They lie in the pool."""
        content = self.graph.blocks.content[self.blocks]
        return self.graph.pool[rows_of(content, self.size + 1)]

    def replace_content(self, content: Buffer, cuts: Cuts) -> None:
        """Give the blocks new content, out of which the cuts are taken. content: uint8[length]."""
        kept = np.ones(len(content), np.bool_)
        kept[rows_of(cuts.start, cuts.count)] = False
        position = self.graph.add_content(content[kept].tobytes())
        self.graph.blocks.content[self.blocks] = position + cuts.moved(self.first)

    def refuse_damage(self, cuts: Cuts) -> None:
        """Refuse fixups of bytes that are cut out. Raises MalformedInput."""
        kind = self.graph.edges.kind[self.edges]
        size: Rows = self.graph.target.kinds.size[kind]  # type: ignore[attr-defined]
        at = self.edge_at[self.edges]
        damaged = cuts.touch(at[size > 0], size[size > 0])
        if len(damaged):
            raise self.malformed(
                int(self.edges[size > 0][damaged[0]]), "a relocation lies in bytes that relaxation takes out"
            )

    def malformed(self, edge: int, fault: str) -> MalformedInput:
        """Make the error for an edge of these blocks, by the place that it had at first."""
        number = int(self.number[self.graph.edges.block[edge]])
        row = self.graph.blocks[int(self.blocks[number])]
        offset = int(self.edge_at[edge] - self.first[number])
        return MalformedInput(fault, input=row.input, section=row.section.name, offset=offset)
