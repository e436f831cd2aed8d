"""Naming places of a link graph for people: in which input, section and function something is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jitlink.columns import rows_by
from jitlink.errors import SymbolNotFound
from jitlink.escaping import escaped
from jitlink.graph import NO_NAME, Definition, LinkGraph, SymbolKind
from jitlink.inspect.words import Demangler, names_of


@dataclass(frozen=True)
class NamedPlace:
    """A place in an input, with the symbol that it lies in; offset counts from the start of the section."""

    input: str
    section: str
    offset: int
    symbol: str

    def __str__(self) -> str:
        inside = f"{self.symbol}, " if self.symbol else ""
        return f"{inside}{self.section}+{self.offset:#x} of {self.input}"


class Places:
    """Names the places of one graph."""

    def __init__(self, graph: LinkGraph, demangle: Demangler | None = None) -> None:
        self.graph = graph
        self.symbol_names = names_of(graph, graph.symbols.name, demangle)
        self.section_names = names_of(graph, graph.sections.name)
        self.inputs = [escaped(name) for name in graph.inputs]
        symbols = graph.symbols
        named = (symbols.definition == Definition.DEFINED) & (symbols.name != NO_NAME) & (symbols.block > 0)
        named &= (symbols.kind != SymbolKind.SECTION) & (symbols.kind != SymbolKind.FILE)
        rows = named.nonzero()[0]
        order, self._first = rows_by(symbols.block[rows], len(graph.blocks))
        self._rows = rows[order]
        self._starts = self._starts_of_blocks()

    def _starts_of_blocks(self) -> list[int]:
        """How far each block starts from the start of its section: readers may split sections."""
        blocks = self.graph.blocks
        order, first = rows_by(blocks.section, len(self.graph.sections))
        sizes = blocks.size[order]
        ends = sizes.cumsum()
        before = ends - sizes
        starts = np.zeros(len(blocks), np.int64)
        starts[order] = before - np.repeat(before[np.minimum(first[:-1], max(len(order) - 1, 0))], np.diff(first))
        found: list[int] = starts.tolist()
        return found

    def of(self, block: int, offset: int) -> NamedPlace:
        """Name a place in a block."""
        section = int(self.graph.blocks.section[block])
        return NamedPlace(
            self.inputs[int(self.graph.sections.input[section])],
            self.section_names[section],
            self._starts[block] + offset,
            self.symbol_at(block, offset),
        )

    def of_edge(self, edge: int) -> NamedPlace:
        """Name the place of an edge."""
        return self.of(int(self.graph.edges.block[edge]), int(self.graph.edges.offset[edge]))

    def symbol_at(self, block: int, offset: int) -> str:
        """The symbol that a place lies in: the last one that starts at or before it, or ""."""
        rows = self._rows[self._first[block] : self._first[block + 1]]
        starts = self.graph.symbols.offset[rows].astype(np.int64)
        before = (starts <= offset).nonzero()[0]
        if not len(before):
            return ""
        return self.symbol_names[int(rows[before[starts[before].argmax()]])]

    def label(self, block: int) -> str:
        """A name for a whole block: its first symbol, else its section."""
        return self.symbol_at(block, 0) or self.section_names[int(self.graph.blocks.section[block])]

    def named(self, name: str) -> int:
        """The symbol of a name, a definition first. Raises SymbolNotFound."""
        try:
            return self.graph.symbols.named(name).row
        except KeyError:
            raise SymbolNotFound(name, "the inputs") from None
