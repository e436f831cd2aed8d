"""Which rows of a graph a view shows.

Filters narrow. Each one speaks of one thing, and what is tied to it stays with it: a section brings its
symbols and edges, a symbol the edges that lie in it or point at it, a kind its edges and what these join.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows
from jitlink.graph import Definition, LinkGraph

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Filter:
    """What to show. Names are shell patterns (`.text.*`); several of one sort are alternatives.

    Attributes: inputs, sections, symbols, kinds (patterns; empty for all); undefined (only symbols that
    are not defined, and what refers to them).
    """

    inputs: Sequence[str] = ()
    sections: Sequence[str] = ()
    symbols: Sequence[str] = ()
    kinds: Sequence[str] = ()
    undefined: bool = False

    def __bool__(self) -> bool:
        return bool(self.inputs or self.sections or self.symbols or self.kinds or self.undefined)


@dataclass(frozen=True)
class Selection:
    """Rows of the tables of a graph: int64[n] each, ascending, without the null rows."""

    sections: Rows
    blocks: Rows
    symbols: Rows
    edges: Rows


def select(graph: LinkGraph, filter: Filter | None = None) -> Selection:
    """Find the rows that a filter leaves; all of them without one."""
    if not filter:
        counts = (len(graph.sections), len(graph.blocks), len(graph.symbols), len(graph.edges))
        return Selection(*(np.arange(1, count) for count in counts))
    return _Selecting(graph).apply(filter)


class _Selecting:
    """Masks over the tables of a graph, which filters narrow one after the other."""

    def __init__(self, graph: LinkGraph) -> None:
        self.graph = graph
        self.sections, self.blocks, self.symbols, self.edges = (
            np.ones(len(table), np.bool_) for table in (graph.sections, graph.blocks, graph.symbols, graph.edges)
        )

    def apply(self, filter: Filter) -> Selection:
        """Apply all parts of a filter."""
        graph = self.graph
        if filter.inputs:
            wanted = _matching(graph.inputs, filter.inputs)
            self._keep_sections(wanted[graph.sections.input])
            self.symbols &= wanted[graph.symbols.input]
        if filter.sections:
            names = _texts(graph, graph.sections.name)
            self._keep_sections(_matching(names, filter.sections))
            self.symbols &= self.blocks[graph.symbols.block] & (graph.symbols.block > 0)
        if filter.symbols:
            self._keep_symbols(_matching(_texts(graph, graph.symbols.name), filter.symbols))
        if filter.undefined:
            self._keep_symbols(graph.symbols.definition == Definition.UNDEFINED)
        if filter.kinds:
            wanted = _matching([kind.name for kind in graph.target.kinds], filter.kinds)
            self.edges &= wanted[graph.edges.kind]
            self._keep_what_edges_join()
        return Selection(
            *(mask[1:].nonzero()[0] + 1 for mask in (self.sections, self.blocks, self.symbols, self.edges))
        )

    def _keep_sections(self, wanted: Mask) -> None:
        graph = self.graph
        self.sections &= wanted
        self.blocks &= wanted[graph.blocks.section]
        self.edges &= self.blocks[graph.edges.block]

    def _keep_symbols(self, wanted: Mask) -> None:
        """Keep symbols, the edges inside them and to them, and the blocks of both."""
        graph = self.graph
        self.symbols &= wanted
        self.edges &= self.symbols[graph.edges.target] | self._inside_symbols()
        touched = np.zeros(len(graph.blocks), np.bool_)
        touched[graph.edges.block[self.edges]] = True
        touched[graph.symbols.block[self.symbols]] = True
        self._keep_blocks(touched)

    def _inside_symbols(self) -> Mask:
        """Which edges lie between the start and the end of a kept symbol: bool[edges]."""
        graph = self.graph
        inside = np.zeros(len(graph.edges), np.bool_)
        kept = (self.symbols & (graph.symbols.block > 0)).nonzero()[0]
        block, start = graph.symbols.block[kept], graph.symbols.offset[kept].astype(np.int64)
        first, last = np.searchsorted(graph.edges.block, block), np.searchsorted(graph.edges.block, block + 1)
        for begin, end, low, size in zip(
            first.tolist(), last.tolist(), start.tolist(), graph.symbols.size[kept].tolist(), strict=True
        ):
            offset = graph.edges.offset[begin:end]
            inside[begin:end] |= (offset >= low) & (offset - low < min(size, 1 << 62))
        return inside

    def _keep_what_edges_join(self) -> None:
        graph = self.graph
        holding, pointed_at = np.zeros(len(graph.blocks), np.bool_), np.zeros(len(graph.symbols), np.bool_)
        holding[graph.edges.block[self.edges]] = True
        pointed_at[graph.edges.target[self.edges]] = True
        self.symbols &= pointed_at
        self._keep_blocks(holding)

    def _keep_blocks(self, wanted: Mask) -> None:
        self.blocks &= wanted
        holding = np.zeros(len(self.graph.sections), np.bool_)
        holding[self.graph.blocks.section[self.blocks]] = True
        self.sections &= holding


def _texts(graph: LinkGraph, positions: Rows) -> list[str]:
    return [name.decode(errors="surrogateescape") for name in graph.names_at(positions)]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> Mask:
    """Which names match one of the shell patterns: bool[names]."""
    pattern = re.compile("|".join(translate(each) for each in patterns))
    matches = [pattern.match(name) is not None for name in names]
    return np.array(matches, np.bool_)
