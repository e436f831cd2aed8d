"""The listing of a link graph: what `jitlink show` prints.

For each input its sections (protection, size, alignment), its symbols (linkage, scope, kind, size,
place) and, block by block, its edges (offset, relocation kind, target and addend). The rows come from
the columns of the graph, not from its views: an archive has a hundred thousand edges.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, rows_by
from jitlink.escaping import escaped
from jitlink.formulas import Kind
from jitlink.graph import Definition, Lifetime, Linkage, LinkGraph, Scope, SymbolKind
from jitlink.inspect.text import Paper
from jitlink.protection import Protection

NO_NAME = "(no name)"
PAGES_OF = {protection: Protection(protection).letters for protection in range(8)}


def listing(graph: LinkGraph, paper: Paper | None = None) -> Iterator[str]:
    """List a link graph, input by input, as lines without their newline.

    Inputs that have nothing in the graph are left out. The graph is not changed.
    """
    return _Listing(graph, paper or Paper()).lines()


class _Listing:
    """The columns of a graph as Python lists, with names ready to be printed."""

    def __init__(self, graph: LinkGraph, paper: Paper) -> None:
        self.graph = graph
        self.paper = paper
        self.section_names = names_of(graph, graph.sections.name)
        self.symbol_names = names_of(graph, graph.symbols.name)
        self.blocks_by_section = rows_by(graph.blocks.section, len(graph.sections))
        self.block_labels = self._block_labels()

    def _block_labels(self) -> list[str]:
        """The name of each block: that of its section, with a number where the section has several."""
        labels = [""] * len(self.graph.blocks)
        for section, name in enumerate(self.section_names):
            blocks = self._blocks_of(section).tolist()
            for number, block in enumerate(blocks):
                labels[block] = f"{name}[{number}]" if len(blocks) > 1 else name
        return labels

    def _blocks_of(self, section: int) -> Rows:
        """The blocks of a section, in input order."""
        rows, first = self.blocks_by_section
        return rows[first[section] : first[section + 1]]

    def lines(self) -> Iterator[str]:
        """All inputs, with an empty line between two of them."""
        graph = self.graph
        inputs = len(graph.inputs)
        input_of_section = graph.sections.input
        sections, first_section = rows_by(input_of_section[1:], inputs)
        symbols, first_symbol = rows_by(graph.symbols.input[1:], inputs)
        edges, first_edge = rows_by(input_of_section[graph.blocks.section[graph.edges.block[1:]]], inputs)
        between = False
        for number, name in enumerate(graph.inputs):
            of_input = [
                rows[first[number] : first[number + 1]] + 1
                for rows, first in ((sections, first_section), (symbols, first_symbol), (edges, first_edge))
            ]
            if number == 0 and not any(map(len, of_input)):
                continue
            if between:
                yield ""
            between = True
            yield from self._input(name, *of_input)

    def _input(self, name: str, sections: Rows, symbols: Rows, edges: Rows) -> Iterator[str]:
        symbols = symbols[~self._is_null(symbols)]
        counts = (counted(len(sections), "section"), counted(len(symbols), "symbol"), counted(len(edges), "edge"))
        yield self.paper.heading(f"{escaped(name)}: {self.graph.target.name}, {', '.join(counts)}")
        if len(sections):
            yield from ("", self.paper.aside("sections"))
            yield from self.paper.table(self._sections(sections.tolist()), right=(1, 2))
        if len(symbols):
            yield from ("", self.paper.aside("symbols"))
            yield from self.paper.table(self._symbols(symbols), right=(3,))
        block_of_edge = self.graph.edges.block[edges]
        for of_block in np.split(edges, (block_of_edge[1:] != block_of_edge[:-1]).nonzero()[0] + 1):
            if len(of_block):
                label = self.block_labels[int(self.graph.edges.block[of_block[0]])]
                yield from ("", self.paper.aside(f"edges of {label}"))
                yield from self.paper.table(self._edges(of_block), right=(0,))

    def _is_null(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which symbols are the null symbol that every ELF symbol table begins with (gABI, Symbol Table)."""
        symbols = self.graph.symbols
        null = np.array([self.symbol_names[row] == NO_NAME for row in rows.tolist()], np.bool_)
        null &= (symbols.kind[rows] == SymbolKind.NONE) & (symbols.scope[rows] == Scope.LOCAL)
        null &= (symbols.block[rows] == 0) & (symbols.offset[rows] == 0)
        return null

    def _sections(self, rows: list[int]) -> Iterator[tuple[str, ...]]:
        """Protection, size, alignment, and the name with what is special about the section."""
        graph = self.graph
        for row in rows:
            blocks = self._blocks_of(row)
            size = int(graph.blocks.size[blocks].sum())
            alignment = int(graph.blocks.alignment[blocks].max(initial=1))
            notes = "".join(f"  {note}" for note in self._notes(row, blocks))
            protection = PAGES_OF[int(graph.sections.protection[row]) & 7]
            yield protection, f"{size:#x}", str(alignment), f"{self.section_names[row]}{notes}"

    def _notes(self, section: int, blocks: Rows) -> Iterator[str]:
        graph = self.graph
        if graph.sections.lifetime[section] == Lifetime.NO_ALLOC:
            yield "(not loaded)"
        if len(blocks) and graph.blocks.zero_fill[blocks].all():
            yield "(zero-fill)"
        groups = set(graph.blocks.group[blocks].tolist()) - {0}
        for group in sorted(groups):
            sort = "COMDAT group" if graph.groups.comdat[group] else "group"
            yield f"({sort} {self.symbol_names[int(graph.groups.signature[group])]})"

    def _symbols(self, rows: Rows) -> Iterator[tuple[str, ...]]:
        """Linkage, scope, kind, size, place and name."""
        symbols = self.graph.symbols
        columns = (symbols.linkage, symbols.scope, symbols.kind, symbols.size, symbols.definition)
        for row, linkage, scope, kind, size, definition in zip(
            rows.tolist(), *(column[rows].tolist() for column in columns), strict=True
        ):
            words = Linkage(linkage).name.lower(), Scope(scope).name.lower(), kind_word(kind)
            yield *words, f"{size:#x}", self._place(row, definition), self.symbol_names[row]

    def _place(self, symbol: int, definition: int) -> str:
        """Where a symbol is: in a block, at an address, or not here."""
        offset = int(self.graph.symbols.offset[symbol])
        if definition == Definition.DEFINED:
            return f"{self.block_labels[int(self.graph.symbols.block[symbol])]}+{offset:#x}"
        if definition == Definition.ABSOLUTE:
            return f"absolute {offset:#x}"
        if definition == Definition.COMMON:
            return f"common, align {offset}"
        return Definition(definition).name.lower()

    def _edges(self, rows: Rows) -> Iterator[tuple[str, ...]]:
        """Offset, kind, and target with addend."""
        edges = self.graph.edges
        columns = (edges.offset, edges.kind, edges.target, edges.addend)
        for offset, number, target, addend in zip(*(column[rows].tolist() for column in columns), strict=True):
            kind = self.graph.target.kinds[number]
            reason = kind.reason if isinstance(kind, Kind) else ""
            note = f"  (not supported: {reason})" if reason else ""
            yield f"{offset:#x}", kind.name, f"{self.symbol_names[target]}{signed_hex(addend)}{note}"


def names_of(graph: LinkGraph, positions: Rows) -> list[str]:
    """Read names for printing. positions: int64[n] of LinkGraph.name_at."""
    return [escaped(name.decode(errors="surrogateescape")) or NO_NAME for name in graph.names_at(positions)]


def kind_word(number: int) -> str:
    """What a symbol stands for, in a word; the number where the ELF specification leaves it to others."""
    try:
        return SymbolKind(number).name.lower()
    except ValueError:
        return f"type {number}"


def signed_hex(addend: int) -> str:
    """An addend as it follows a name: nothing for zero."""
    return f" {'-' if addend < 0 else '+'} {abs(addend):#x}" if addend else ""


def counted(number: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
