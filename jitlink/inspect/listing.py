"""The listing of a link graph: what `jitlink show` prints.

For each input its sections (protection, size, alignment), its symbols (linkage, scope, kind, size,
place) and, block by block, its edges (offset, relocation kind, formula, target and addend), or its code
with the edges beside the instructions. The relocation kinds that occur are explained at the end. The
rows come from the columns of the graph, not from its views: an archive has a hundred thousand edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, rows_by
from jitlink.escaping import escaped
from jitlink.formulas import Kind
from jitlink.graph import Definition, Lifetime, Linkage, LinkGraph, Scope, SymbolKind
from jitlink.inspect.code_listing import CodeListing
from jitlink.inspect.selection import Filter, Selection, select
from jitlink.inspect.sources import SourceLines
from jitlink.inspect.stages import Snapshot
from jitlink.inspect.text import Paper
from jitlink.inspect.words import NO_NAME, Demangler, counted, kind_in_words, kind_word, names_of, signed_hex
from jitlink.protection import Protection

PAGES_OF = {protection: Protection(protection).letters for protection in range(8)}
SORTS = ("input", "name", "size", "address")
EXECUTE = int(Protection.EXECUTE)


@dataclass(frozen=True)
class Look:
    """How a graph is listed.

    Attributes: filter (what to show); sort (of sections and symbols, one of SORTS); demangle (makes C++
    and Rust names readable); disassemble (code as instructions); sources (with source lines beside the
    instructions, as far as there is DWARF); legend (explain the relocation kinds at the end).
    """

    filter: Filter | None = None
    sort: str = "input"
    demangle: Demangler | None = None
    disassemble: bool = False
    sources: bool = True
    legend: bool = True


def listing(
    graph: LinkGraph, paper: Paper | None = None, look: Look | None = None, snapshot: Snapshot | None = None
) -> Iterator[str]:
    """List a link graph, input by input, as lines without their newline.

    snapshot: the stage that the graph is of, which gives addresses and values; None for one that was read.
    Inputs that have nothing to show are left out. The graph is not changed.
    """
    return _Listing(graph, paper or Paper(), look or Look(), snapshot).lines()


class _Listing:
    """The columns of a graph as Python lists, with names ready to be printed."""

    def __init__(self, graph: LinkGraph, paper: Paper, look: Look, snapshot: Snapshot | None) -> None:
        self.graph = graph
        self.paper = paper
        self.look = look
        self.snapshot = snapshot
        self.allocated = snapshot is not None and snapshot.allocated
        self.keep: Selection = select(graph, look.filter)
        self.section_names = names_of(graph, graph.sections.name)
        self.symbol_names = names_of(graph, graph.symbols.name, look.demangle)
        self.blocks_by_section = rows_by(graph.blocks.section, len(graph.sections))
        self.block_labels = self._block_labels()
        self.values = dict(zip(self.keep.edges.tolist(), self._values(), strict=True)) if self.allocated else {}
        self.code = self._code_listing() if look.disassemble else None

    def _values(self) -> list[int]:
        assert self.snapshot is not None
        values: list[int] = self.snapshot.values(self.keep.edges).tolist()
        return values

    def _code_listing(self) -> CodeListing:
        sources = SourceLines(self.graph, allocated=self.allocated) if self.look.sources else None
        return CodeListing(
            self.graph,
            lambda edge: "  ".join(self._edge(edge)[1:]),
            self.symbol_names.__getitem__,
            self.snapshot.bytes_of if self.snapshot else self.graph.content_of,
            sources.find if sources else None,
        )

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
        """All inputs, with an empty line between two of them, and what the kinds mean."""
        graph, keep = self.graph, self.keep
        inputs = len(graph.inputs)
        input_of_block = graph.sections.input[graph.blocks.section]
        of_input = [
            partial(_group, rows, *rows_by(input_of_row, inputs))
            for rows, input_of_row in (
                (keep.sections, graph.sections.input[keep.sections]),
                (keep.symbols, graph.symbols.input[keep.symbols]),
                (keep.edges, input_of_block[graph.edges.block[keep.edges]]),
                (keep.blocks, input_of_block[keep.blocks]),
            )
        ]
        between = False
        for number, name in enumerate(graph.inputs):
            sections, symbols, edges, blocks = (rows(number) for rows in of_input)
            if not len(sections) + len(symbols) + len(edges) and (number == 0 or self.look.filter):
                continue
            if between:
                yield ""
            between = True
            yield from self._input(name, sections, symbols, edges, blocks)
        if self.look.legend and len(keep.edges):
            yield from self._legend()

    def _input(self, name: str, sections: Rows, symbols: Rows, edges: Rows, blocks: Rows) -> Iterator[str]:
        symbols = symbols[~self._is_null(symbols)]
        counts = (counted(len(sections), "section"), counted(len(symbols), "symbol"), counted(len(edges), "edge"))
        yield self.paper.heading(f"{escaped(name)}: {self.graph.target.name}, {', '.join(counts)}")
        if len(sections):
            yield from ("", self.paper.aside("sections"))
            yield from self.paper.table(self._sections(self._sorted_sections(sections)), right=(1, 2))
        if len(symbols):
            yield from ("", self.paper.aside("symbols"))
            yield from self.paper.table(self._symbols(self._sorted_symbols(symbols)), right=(3,))
        yield from self._contents(edges, blocks)

    def _contents(self, edges: Rows, blocks: Rows) -> Iterator[str]:
        """The edges block by block, and the code of blocks that are disassembled in their place."""
        if self.code is None:
            blocks = np.unique(self.graph.edges.block[edges])
        order, first = rows_by(self.graph.edges.block[edges], len(self.graph.blocks))
        for block in blocks.tolist():
            if self.code is not None and self._is_code(block):
                yield from ("", self.paper.aside(f"code of {self.block_labels[block]}"))
                yield from self.code.lines(block, self.paper)
                continue
            of_block = edges[order[first[block] : first[block + 1]]]
            if len(of_block):
                yield from ("", self.paper.aside(f"edges of {self.block_labels[block]}"))
                yield from self.paper.table(map(self._edge, of_block.tolist()), right=(0,))

    def _is_code(self, block: int) -> bool:
        section = int(self.graph.blocks.section[block])
        return bool(self.graph.sections.protection[section] & EXECUTE) and self.graph.blocks.size[block] > 0

    def _is_null(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which symbols are the null symbol that every ELF symbol table begins with (gABI, Symbol Table)."""
        symbols = self.graph.symbols
        null = np.array([self.symbol_names[row] == NO_NAME for row in rows.tolist()], np.bool_)
        null &= (symbols.kind[rows] == SymbolKind.NONE) & (symbols.scope[rows] == Scope.LOCAL)
        null &= (symbols.block[rows] == 0) & (symbols.offset[rows] == 0)
        return null

    def _sorted_sections(self, rows: Rows) -> list[int]:
        keys: dict[str, Callable[[int], object]] = {
            "name": self.section_names.__getitem__,
            "size": lambda row: -int(self.graph.blocks.size[self._blocks_of(row)].sum()),
            "address": lambda row: int(self.graph.blocks.address[self._blocks_of(row)].min(initial=0)),
        }
        return self._sorted(rows, keys)

    def _sorted_symbols(self, rows: Rows) -> Rows:
        addresses = self.graph.symbols.addresses()
        keys: dict[str, Callable[[int], object]] = {
            "name": self.symbol_names.__getitem__,
            "size": lambda row: -int(self.graph.symbols.size[row]),
            "address": lambda row: int(addresses[row]),
        }
        return np.array(self._sorted(rows, keys), np.int64)

    def _sorted(self, rows: Rows, keys: dict[str, Callable[[int], object]]) -> list[int]:
        key = keys.get(self.look.sort)
        return sorted(rows.tolist(), key=key) if key else rows.tolist()  # type: ignore[arg-type]

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
        elif len(blocks) and not graph.blocks.live[blocks].any():
            yield "(dropped)"
        if len(blocks) and graph.blocks.zero_fill[blocks].all():
            yield "(zero-fill)"
        if self.allocated and len(blocks) and graph.blocks.live[blocks].any():
            yield f"(at {int(graph.blocks.address[blocks].min()):#x})"
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
            block = int(self.graph.symbols.block[symbol])
            if self.allocated and self.graph.blocks.live[block]:
                return f"{int(self.graph.blocks.address[block]) + offset:#x}"
            return f"{self.block_labels[block]}+{offset:#x}"
        if definition == Definition.ABSOLUTE:
            return f"absolute {offset:#x}"
        if definition == Definition.COMMON:
            return f"common, align {offset}"
        if definition == Definition.EXTERNAL:
            return f"external {offset:#x}"
        return Definition(definition).name.lower()

    def _edge(self, row: int) -> tuple[str, ...]:
        """Offset, kind, target with addend, and formula with its value."""
        edges = self.graph.edges
        kind = self.graph.target.kinds[int(edges.kind[row])]
        note, formula = "", ""
        if isinstance(kind, Kind):
            note = f"(not supported: {kind.reason})" if kind.reason else ""
            formula = str(kind.value) if kind.applied else ""
            if row in self.values and formula:
                formula += f" = {kind.check.readable(np.uint64(self.values[row])):#x}"
        target = f"{self._target(int(edges.target[row]))}{signed_hex(int(edges.addend[row]))}"
        return f"{int(edges.offset[row]):#x}", kind.name, target, f"{formula}{note}"

    def _target(self, symbol: int) -> str:
        name = self.symbol_names[symbol]
        return name if name != NO_NAME or not symbol else self.block_labels[int(self.graph.symbols.block[symbol])]

    def _legend(self) -> Iterator[str]:
        """What the relocation kinds that occur do."""
        yield from ("", self.paper.aside("relocation kinds"))
        numbers = np.unique(self.graph.edges.kind[self.keep.edges]).tolist()
        kinds = [self.graph.target.kinds[number] for number in numbers]
        yield from self.paper.table([(kind.name, kind_in_words(kind)) for kind in kinds if isinstance(kind, Kind)])


def _group(rows: Rows, order: Rows, first: Rows, number: int) -> Rows:
    """The rows of one group, as columns.rows_by has sorted them."""
    return rows[order[first[number] : first[number + 1]]]
