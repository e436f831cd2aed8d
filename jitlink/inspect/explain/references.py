"""Who refers to a symbol, and why a symbol is in a link at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from jitlink.columns import Rows
from jitlink.escaping import escaped
from jitlink.graph import Definition, Linkage, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.inspect.explain.places import NamedPlace, Places
from jitlink.inspect.reached import UNREACHED, reached_from
from jitlink.inspect.stages import Watched
from jitlink.inspect.text import Paper
from jitlink.inspect.words import Demangler, counted, signed_hex

PC_BIAS = 4
"""What x86 compilers take off the addend of a distance whose field ends the instruction."""


@dataclass(frozen=True)
class Reference:
    """One reference: its place, its relocation kind, and what it points at, with the addend."""

    place: NamedPlace
    kind: str
    target: str

    def row(self) -> tuple[str, ...]:
        """As a row of a table."""
        return str(self.place), self.kind, self.target


@dataclass(frozen=True)
class Who:
    """What refers to a symbol.

    Attributes: symbol; definition (where it is, or how it is not here); references.
    """

    symbol: str
    definition: str
    references: list[Reference]

    def lines(self, paper: Paper) -> Iterator[str]:
        """As text."""
        yield paper.heading(f"{self.symbol}: {self.definition}")
        yield from ("", f"{counted(len(self.references), 'reference')}{':' if self.references else ''}")
        yield from paper.table([reference.row() for reference in self.references])


@dataclass(frozen=True)
class Why:
    """Why a symbol is in a link, or is asked for.

    Attributes: symbol; verdict (in a sentence); chain (references from a root to the symbol); members
    (for a symbol of an archive, or asked for by one: which input asked for which member, by which name).
    """

    symbol: str
    verdict: str
    chain: list[Reference] = field(default_factory=list)
    members: list[tuple[str, str, str]] = field(default_factory=list)

    def lines(self, paper: Paper) -> Iterator[str]:
        """As text."""
        yield paper.heading(f"{self.symbol}: {self.verdict}")
        if self.chain:
            yield from ("", paper.aside("reference by reference"))
            yield from paper.table([reference.row() for reference in self.chain])
        if self.members:
            yield from ("", paper.aside("members of archives, each with who asked for it and by which name"))
            yield from paper.table(
                [(member, f"asked for by {asker}", f"for {name}") for member, asker, name in self.members]
            )


def who(link: Watched, name: str, *, demangle: Demangler | None = None) -> Who:
    """Find all references to a symbol. Raises SymbolNotFound, and the error of a link that came to nothing."""
    graph = _resolved(link)
    places = Places(graph, demangle)
    symbol = places.named(name)
    edges = np.union1d((graph.edges.target == symbol).nonzero()[0], _through_section_symbols(graph, symbol))
    edges = edges[graph.edges.kind[edges] > 0]
    references = [_reference(graph, places, edge) for edge in edges.tolist()]
    return Who(places.symbol_names[symbol], _definition(link, graph, places, symbol), references)


def why(link: Watched, name: str, exports: Sequence[str] | None = None, *, demangle: Demangler | None = None) -> Why:
    """Find the chain of references that keeps a symbol, or that asks for one that nobody defines.

    exports: the roots of the link, as it was given them. Raises SymbolNotFound.
    """
    graph = _resolved(link)
    places = Places(graph, demangle)
    symbol = places.named(name)
    shown = places.symbol_names[symbol]
    members = _Members(graph, exports)
    block = int(graph.symbols.block[symbol])
    reached = reached_from(graph, exports)
    if not block:
        return _why_asked_for(link, graph, places, symbol, exports, members)
    input = int(graph.sections.input[graph.blocks.section[block]])
    if not graph.blocks.live[block]:
        return Why(shown, f"dropped: no root reaches it ({places.of(block, int(graph.symbols.offset[symbol]))})")
    if reached.by_edge[block] == UNREACHED:
        return Why(shown, _kept_otherwise(graph, block), members=members.chain(input))
    chain = [_reference(graph, places, edge) for edge in reached.chain(block)]
    root = places.symbol_names[int(reached.root_symbol[reached.root_of(block)])]
    by = f"the root {root}" if reached.root_symbol[reached.root_of(block)] else "an array of initialisers"
    verdict = f"kept, since {by} reaches it" if chain else f"a root itself{_root_reason(exports)}"
    return Why(shown, verdict, chain, members.chain(input))


def _root_reason(exports: Sequence[str] | None) -> str:
    return ": the link is for it" if exports is not None else ": other dylibs may see it, and no exports were named"


def _kept_otherwise(graph: LinkGraph, block: int) -> str:
    if graph.sections.purpose[graph.blocks.section[block]] == Purpose.NOTE:
        return "kept, since notes are"
    if graph.blocks.group[block]:
        return "kept with the other members of its section group; no reference leads to it"
    return "kept, since its input was given to be linked whole or asks to retain it; no reference leads to it"


def _why_asked_for(
    link: Watched,
    graph: LinkGraph,
    places: Places,
    symbol: int,
    exports: Sequence[str] | None,
    members: _Members,
) -> Why:
    """Explain a symbol that no block defines: who asks for it first, and how that is reached."""
    definition = _definition(link, graph, places, symbol)
    live = graph.blocks.live[graph.edges.block]
    edges = ((graph.edges.target == symbol) & live & (graph.edges.kind > 0)).nonzero()[0]
    if not len(edges):
        return Why(places.symbol_names[symbol], f"{definition}; nothing that is part of the link refers to it")
    reached = reached_from(graph, exports)
    lengths = [
        len(reached.chain(block)) if reached.by_edge[block] != UNREACHED else len(graph.edges)
        for block in graph.edges.block[edges].tolist()
    ]
    edge = int(edges[int(np.argmin(lengths))])
    block = int(graph.edges.block[edge])
    before = reached.chain(block) if reached.by_edge[block] != UNREACHED else []
    chain = [_reference(graph, places, each) for each in [*before, edge]]
    more = f" and {counted(len(edges) - 1, 'more place')}" if len(edges) > 1 else ""
    input = int(graph.sections.input[graph.blocks.section[block]])
    verdict = f"{definition}; asked for by {places.of_edge(edge)}{more}"
    return Why(places.symbol_names[symbol], verdict, chain, members.chain(input))


def _resolved(link: Watched) -> LinkGraph:
    """The graph when edges point at definitions: behind the prune, or as read where the link failed before."""
    stage = "post_prune" if "post_prune" in link.snapshots else "pre_prune"
    return link.snapshot(stage).graph


def _definition(link: Watched, graph: LinkGraph, places: Places, symbol: int) -> str:
    block = int(graph.symbols.block[symbol])
    if block:
        state = "" if graph.blocks.live[block] else ", dropped from the link"
        return f"defined at {places.of(block, int(graph.symbols.offset[symbol]))}{state}"
    definition = int(graph.symbols.definition[symbol])
    if definition == Definition.UNDEFINED:
        weak = "weakly " if graph.symbols.linkage[symbol] == Linkage.WEAK else ""
        found = "" if graph.symbols[symbol].name in link.placeholders else ", found outside" * (not weak)
        return f"{weak}undefined in the inputs{found}"
    return f"{Definition(definition).name.lower()} {int(graph.symbols.offset[symbol]):#x}"


def _reference(graph: LinkGraph, places: Places, edge: int) -> Reference:
    target = int(graph.edges.target[edge])
    name = places.symbol_names[target]
    if graph.symbols.kind[target] == SymbolKind.SECTION:
        block, addend = int(graph.symbols.block[target]), int(graph.edges.addend[edge])
        bias = PC_BIAS if _is_distance(graph, edge) else 0
        inside = places.symbol_at(block, addend + bias)
        name += f" ({inside})" if inside else ""
    kind = graph.target.kinds[int(graph.edges.kind[edge])].name
    return Reference(places.of_edge(edge), kind, f"{name}{signed_hex(int(graph.edges.addend[edge]))}")


def _is_distance(graph: LinkGraph, edge: int) -> bool:
    """Whether an x86 edge holds a distance from the end of its field."""
    kind = graph.target.kinds[int(graph.edges.kind[edge])]
    return graph.target.name == "x86_64" and "P" in getattr(getattr(kind, "value", None), "letters", ())


def _through_section_symbols(graph: LinkGraph, symbol: int) -> Rows:
    """The edges to the section of a symbol whose addend leads into it: int64[n]."""
    symbols, edges = graph.symbols, graph.edges
    block, start, size = int(symbols.block[symbol]), int(symbols.offset[symbol]), int(symbols.size[symbol])
    sections = (symbols.block == block) & (symbols.kind == SymbolKind.SECTION)
    if not block or not size or not sections.any():
        return np.empty(0, np.int64)
    rows = sections[edges.target].nonzero()[0]
    bias = [PC_BIAS if _is_distance(graph, edge) else 0 for edge in rows.tolist()]
    place = edges.addend[rows] + np.array(bias, np.int64)
    found: Rows = rows[(place >= start) & (place < start + size)]
    return found


class _Members:
    """Which input asked for which: from those that were given, over names that one needs and another has."""

    def __init__(self, graph: LinkGraph, exports: Sequence[str] | None) -> None:
        self.graph = graph
        self.asked_by: dict[int, tuple[int, str]] = {}
        symbols = graph.symbols
        names = graph.names_at(symbols.name)
        seen = symbols.scope != Scope.LOCAL
        undefined = symbols.definition == Definition.UNDEFINED
        definer: dict[bytes, int] = {}
        for row in (seen & ~undefined & (symbols.input > 0)).nonzero()[0].tolist():
            definer.setdefault(names[row], int(symbols.input[row]))
        needs: dict[int, list[bytes]] = {}
        for row in (seen & undefined & (symbols.linkage != Linkage.WEAK)).nonzero()[0].tolist():
            needs.setdefault(int(symbols.input[row]), []).append(names[row])
        frontier = [number for number in range(1, len(graph.inputs)) if not self._is_member(number)]
        for name in exports or ():
            number = definer.get(name.encode(errors="surrogateescape"))
            if number is not None and number not in frontier:
                self.asked_by[number] = (0, name)
                frontier.append(number)
        known = set(frontier)
        for asker in frontier:
            for raw in needs.get(asker, []):
                number = definer.get(raw)
                if number is not None and number not in known:
                    known.add(number)
                    self.asked_by[number] = (asker, raw.decode(errors="surrogateescape"))
                    frontier.append(number)

    def _is_member(self, number: int) -> bool:
        return self.graph.inputs[number].endswith(")") and "(" in self.graph.inputs[number]

    def chain(self, input: int) -> list[tuple[str, str, str]]:
        """How an input came into the link: member, asker and name, from the first one on."""
        steps: list[tuple[str, str, str]] = []
        while input in self.asked_by:
            asker, name = self.asked_by[input]
            whom = escaped(self.graph.inputs[asker]) if asker else "the exports of the link"
            steps.append((escaped(self.graph.inputs[input]), whom, escaped(name)))
            input = asker
        return steps[::-1]
