"""What differs between two graphs: the same code before and after a change, or by two compilers.

Symbols are matched by name, since rows and places move with every change. A symbol counts as changed when
its size, its bytes or the references inside it are not the same; where it lies does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jitlink.escaping import escaped
from jitlink.graph import NO_NAME, Definition, LinkGraph, SymbolKind
from jitlink.inspect.text import Paper
from jitlink.inspect.words import Demangler, counted, names_of, signed_hex

NOT_PLACES = (SymbolKind.SECTION, SymbolKind.FILE)
Reference = tuple[int, str, str]
"""Offset in the symbol, kind, and target with addend."""


@dataclass(frozen=True)
class Piece:
    """What a symbol stands for: its bytes, and the references inside it."""

    size: int
    content: bytes
    references: tuple[Reference, ...]


def object_difference(
    before: LinkGraph, after: LinkGraph, paper: Paper | None = None, *, demangle: Demangler | None = None
) -> Iterator[str]:
    """Say what differs between two graphs, as lines without their newline."""
    paper = paper or Paper()
    old, new = _Pieces(before, demangle), _Pieces(after, demangle)
    yield paper.heading(f"from {_title(before)} to {_title(after)}")
    nothing = True
    for part in (
        _sections(old, new, paper),
        _symbols(old, new, paper),
        _undefined(old, new, paper),
        _kinds(old, new, paper),
    ):
        for line in part:
            nothing = False
            yield line
    if nothing:
        yield "no difference but for places"


def _title(graph: LinkGraph) -> str:
    return ", ".join(map(escaped, graph.inputs[1:3])) + (" and more" if len(graph.inputs) > 3 else "")


class _Pieces:
    """A graph, by name."""

    def __init__(self, graph: LinkGraph, demangle: Demangler | None) -> None:
        self.graph = graph
        self.section_names = names_of(graph, graph.sections.name)
        self.symbol_names = names_of(graph, graph.symbols.name, demangle)
        symbols = graph.symbols
        places = (symbols.definition == Definition.DEFINED) & ~np.isin(symbols.kind, NOT_PLACES)
        places &= symbols.name != NO_NAME
        self.rows = {self.symbol_names[row]: row for row in places.nonzero()[0][::-1].tolist()}
        self.ends = self._ends(places)

    def _ends(self, places: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> dict[int, int]:
        """Where each symbol ends: by its size, or where the next one of its block starts."""
        symbols = self.graph.symbols
        rows = places.nonzero()[0]
        order = rows[np.lexsort((symbols.offset[rows], symbols.block[rows]))].tolist()
        ends: dict[int, int] = {}
        for row, following in zip(order, [*order[1:], 0], strict=False):
            block = int(symbols.block[row])
            end = int(self.graph.blocks.size[block])
            if following and symbols.block[following] == block and symbols.offset[following] > symbols.offset[row]:
                end = min(end, int(symbols.offset[following]))
            start, size = int(symbols.offset[row]), int(symbols.size[row])
            ends[row] = min(start + size, int(self.graph.blocks.size[block])) if size else end
        return ends

    def piece(self, row: int) -> Piece:
        """What a symbol stands for."""
        graph = self.graph
        block, start, end = int(graph.symbols.block[row]), int(graph.symbols.offset[row]), self.ends[row]
        first, last = np.searchsorted(graph.edges.block, (block, block + 1)).tolist()
        references = tuple(
            (offset - start, graph.target.kinds[kind].name, f"{self.target_name(target)}{signed_hex(addend)}")
            for offset, kind, target, addend in zip(
                *(getattr(graph.edges, name)[first:last].tolist() for name in ("offset", "kind", "target", "addend")),
                strict=True,
            )
            if start <= offset < end
        )
        return Piece(max(end - start, 0), graph.content_of(block)[start:end], references)

    def target_name(self, symbol: int) -> str:
        """The name of what an edge points at; that of its section where it has none."""
        symbols = self.graph.symbols
        if symbols.name[symbol] != NO_NAME or not symbols.block[symbol]:
            return self.symbol_names[symbol]
        return self.section_names[int(self.graph.blocks.section[symbols.block[symbol]])]

    def section_sizes(self) -> Counter[str]:
        """Bytes in the sections of each name."""
        sizes: Counter[str] = Counter()
        for section, size in zip(self.graph.blocks.section.tolist(), self.graph.blocks.size.tolist(), strict=True):
            sizes[self.section_names[section]] += size
        return sizes

    def undefined(self) -> set[str]:
        """The names that are asked for."""
        rows = (self.graph.symbols.definition == Definition.UNDEFINED).nonzero()[0].tolist()
        return {self.symbol_names[row] for row in rows}

    def kinds(self) -> Counter[str]:
        """How many edges there are of each kind."""
        counts = np.bincount(self.graph.edges.kind[1:], minlength=1).tolist()
        return Counter({self.graph.target.kinds[kind].name: count for kind, count in enumerate(counts) if count})


def _heading(paper: Paper, title: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield from ("", paper.aside(title))
        yield from paper.table(rows)


def _changes(old: Counter[str], new: Counter[str]) -> list[tuple[str, ...]]:
    names = sorted(name for name in {*old, *new} if old[name] != new[name])
    return [(name, f"{old[name]:,} -> {new[name]:,}", f"{new[name] - old[name]:+,}") for name in names]


def _sections(old: _Pieces, new: _Pieces, paper: Paper) -> Iterator[str]:
    yield from _heading(paper, "sections, in bytes", _changes(old.section_sizes(), new.section_sizes()))


def _kinds(old: _Pieces, new: _Pieces, paper: Paper) -> Iterator[str]:
    yield from _heading(paper, "relocations of a kind", _changes(old.kinds(), new.kinds()))


def _undefined(old: _Pieces, new: _Pieces, paper: Paper) -> Iterator[str]:
    before, after = old.undefined(), new.undefined()
    yield from _heading(paper, "no longer asked for", [(name,) for name in sorted(before - after)])
    yield from _heading(paper, "newly asked for", [(name,) for name in sorted(after - before)])


def _symbols(old: _Pieces, new: _Pieces, paper: Paper) -> Iterator[str]:
    removed, added = sorted(old.rows.keys() - new.rows.keys()), sorted(new.rows.keys() - old.rows.keys())
    sizes = [(name, counted(old.piece(old.rows[name]).size, "byte")) for name in removed]
    yield from _heading(paper, "symbols removed", list(sizes))
    sizes = [(name, counted(new.piece(new.rows[name]).size, "byte")) for name in added]
    yield from _heading(paper, "symbols added", list(sizes))
    changed: list[tuple[str, ...]] = []
    for name in sorted(old.rows.keys() & new.rows.keys()):
        before, after = old.piece(old.rows[name]), new.piece(new.rows[name])
        if before != after:
            changed.append((name, *_in_words(before, after)))
    yield from _heading(paper, "symbols changed", changed)


def _in_words(before: Piece, after: Piece) -> tuple[str, str]:
    """How a symbol changed: its size or its bytes, and its references."""
    size = f"{before.size:,} -> {after.size:,} bytes" if before.size != after.size else ""
    if not size and before.content != after.content:
        different = sum(one != other for one, other in zip(before.content, after.content, strict=True))
        size = f"{counted(different, 'byte')} of {after.size:,}"
    lost = [target for _, _, target in before.references]
    won = [target for _, _, target in after.references]
    parts = [f"-{name}" for name in sorted((Counter(lost) - Counter(won)).keys())]
    parts += [f"+{name}" for name in sorted((Counter(won) - Counter(lost)).keys())]
    if not parts and before.references != after.references and not size:
        parts = ["other kinds or places of references"]
    return size, " ".join(parts)
