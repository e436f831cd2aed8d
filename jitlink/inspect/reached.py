"""From which root each block of a link is reached, and through which reference.

Dead strip keeps what a root needs. This walks the same references breadth first, so that the chain of a
block is a shortest one, and remembers the edge over which each block was met first.

Roots are the symbols that the link is for; behind these, what an object asks to retain, and arrays of
initialisers. A block that none of them reaches was kept for a tie: the group it is in, or the unwind
record of a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jitlink.columns import Rows, rows_by, rows_of
from jitlink.graph import LinkGraph, Purpose, Scope

UNREACHED, ROOT = -2, -1


@dataclass(frozen=True)
class Reached:
    """How the blocks of a graph are reached.

    Attributes: by_edge (int64[blocks]: the edge over which a block was met first; ROOT for a root,
    UNREACHED for none); root_symbol (int64[blocks]: of a root the symbol that makes it one, else 0).
    """

    graph: LinkGraph
    by_edge: Rows
    root_symbol: Rows

    def chain(self, block: int) -> list[int]:
        """The edges from a root to a block, in that order; empty for a root. Raises KeyError if unreached."""
        if self.by_edge[block] == UNREACHED:
            raise KeyError(block)
        edges: list[int] = []
        while self.by_edge[block] != ROOT:
            edge = int(self.by_edge[block])
            edges.append(edge)
            block = int(self.graph.edges.block[edge])
        return edges[::-1]

    def root_of(self, block: int) -> int:
        """The root block from which a block is reached."""
        edges = self.chain(block)
        return int(self.graph.edges.block[edges[0]]) if edges else block


def reached_from(graph: LinkGraph, exports: Sequence[str] | None = None) -> Reached:
    """Walk the live references of a graph from its roots.

    exports: the names that the link is for; all symbols that other dylibs may see, if None.
    """
    by_edge = np.full(len(graph.blocks), UNREACHED, np.int64)
    root_symbol = np.zeros(len(graph.blocks), np.int64)
    walk = _Walk(graph, by_edge)
    symbols = _root_symbols(graph, exports)
    roots = graph.symbols.block[symbols]
    # Of several symbols that make a block a root, the first one is named.
    root_symbol[roots[::-1]] = symbols[::-1]
    walk.start(roots)
    purpose = graph.sections.purpose[graph.blocks.section]
    arrays = (Purpose.PREINIT_ARRAY, Purpose.INIT_ARRAY, Purpose.FINI_ARRAY, Purpose.CTORS, Purpose.DTORS)
    walk.start(np.isin(purpose, arrays).nonzero()[0])
    return Reached(graph, by_edge, root_symbol)


def _root_symbols(graph: LinkGraph, exports: Sequence[str] | None) -> Rows:
    symbols = graph.symbols
    rows: Rows = ((symbols.block > 0) & (symbols.scope == Scope.DEFAULT)).nonzero()[0]
    if exports is not None:
        wanted = {name.encode(errors="surrogateescape") for name in exports}
        named = [name in wanted for name in graph.names_at(symbols.name[rows])]
        rows = rows[np.array(named, np.bool_)]
    return rows


class _Walk:
    """A breadth-first walk that goes on from what earlier starts have met."""

    def __init__(self, graph: LinkGraph, by_edge: Rows) -> None:
        self.graph = graph
        self.by_edge = by_edge
        records = graph.sections.purpose[graph.blocks.section[graph.edges.block]] == Purpose.EH_FRAME
        self.edges = (~records & graph.blocks.live[graph.edges.block]).nonzero()[0]
        _, self.first = rows_by(graph.edges.block[self.edges], len(graph.blocks))

    def start(self, roots: Rows) -> None:
        """Walk from blocks that no earlier walk has met."""
        frontier = np.unique(roots[(self.by_edge[roots] == UNREACHED) & self.graph.blocks.live[roots] & (roots > 0)])
        self.by_edge[frontier] = ROOT
        while len(frontier):
            out = self.edges[rows_of(self.first[frontier], self.first[frontier + 1] - self.first[frontier])]
            target = self.graph.symbols.block[self.graph.edges.target[out]]
            new = (self.by_edge[target] == UNREACHED) & self.graph.blocks.live[target] & (target > 0)
            frontier, place = np.unique(target[new], return_index=True)
            self.by_edge[frontier] = out[new][place]
