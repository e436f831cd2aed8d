"""What may go wrong, before anything runs: a look at the graph of a link for what is unusual in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from jitlink.arches import host_architecture
from jitlink.arches.architecture import Architecture
from jitlink.columns import Rows
from jitlink.escaping import escaped
from jitlink.formulas import Kind
from jitlink.graph import Definition, Linkage, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.inspect.explain.places import Places
from jitlink.inspect.explain.suppliers import Suppliers
from jitlink.inspect.stages import Watched
from jitlink.inspect.text import Paper
from jitlink.inspect.words import Demangler, counted
from jitlink.protection import Protection

SHOWN = 5
RARE = 8
"""A relocation kind that occurs at most so often in a link of many is worth a look."""
MANY = 200
PROBLEM, RISK, NOTE = "problem", "risk", "note"
THREAD_LOCAL_MODELS = {
    "TLSGD": "general dynamic",
    "TLS_GD": "general dynamic",
    "TLSLD": "local dynamic",
    "DTPOFF": "local dynamic",
    "DTPREL": "local dynamic",
    "GOTTPOFF": "initial exec",
    "TLSIE": "initial exec",
    "TLS_GOT": "initial exec",
    "TPOFF": "local exec",
    "TPREL": "local exec",
    "TLSLE": "local exec",
    "TLSDESC": "descriptors",
    "TLV": "descriptors of Mach-O",
}
"""Thread-local models by what their relocations have in their names."""


@dataclass(frozen=True)
class Finding:
    """Something to know before a link is run.

    Attributes: weight ("problem": the link fails or code will not work; "risk": it may, depending on where
    things are; "note"); topic; text; examples (a few names or places).
    """

    weight: str
    topic: str
    text: str
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Preflight:
    """All findings about a link, the gravest first."""

    findings: list[Finding]

    def lines(self, paper: Paper) -> Iterator[str]:
        """As text."""
        weights = [finding.weight for finding in self.findings]
        counts = ", ".join(counted(weights.count(weight), weight) for weight in (PROBLEM, RISK, NOTE))
        yield paper.heading(f"preflight: {counts}")
        for finding in self.findings:
            yield ""
            yield paper.fit(f"{finding.weight}: {finding.topic}: {finding.text}")
            yield from paper.table([(example,) for example in finding.examples], indent=4)


def preflight(link: Watched, *, demangle: Demangler | None = None, search: bool = True) -> Preflight:
    """Look for what is unusual or may fail in a link.

    search: look for undefined symbols in this process and in the libraries of the machine.
    """
    stage = "post_prune" if "post_prune" in link.snapshots else "pre_prune"
    graph = link.snapshot(stage).graph
    # This process and its libraries have names for code of this machine only.
    suppliers = Suppliers() if search and graph.target is host_architecture() else None
    looking = _Looking(link, graph, Places(graph, demangle), suppliers)
    checks: Sequence[Callable[[], Iterator[Finding]]] = (
        looking.failure,
        looking.undefined,
        looking.unsupported,
        looking.thread_locals,
        looking.indirect,
        looking.initialisers,
        looking.distances,
        looking.protections,
        looking.unusual,
    )
    found = [finding for check in checks for finding in check()]
    weights = [PROBLEM, RISK, NOTE]
    return Preflight(sorted(found, key=lambda finding: weights.index(finding.weight)))


class _Looking:
    """The checks, each over the columns of the graph."""

    def __init__(self, link: Watched, graph: LinkGraph, places: Places, suppliers: Suppliers | None) -> None:
        self.link = link
        self.graph = graph
        self.places = places
        self.suppliers = suppliers
        live = graph.blocks.live[graph.edges.block]
        self.edges: Rows = (live & (graph.edges.kind > 0)).nonzero()[0]
        self.kinds = graph.edges.kind[self.edges]

    def _examples(self, edges: Rows) -> list[str]:
        more = [f"and {len(edges) - SHOWN:,} more"] if len(edges) > SHOWN else []
        return [str(self.places.of_edge(edge)) for edge in edges[:SHOWN].tolist()] + more

    def _names(self, symbols: Rows) -> list[str]:
        more = [f"and {len(symbols) - SHOWN:,} more"] if len(symbols) > SHOWN else []
        return [self.places.symbol_names[row] for row in symbols[:SHOWN].tolist()] + more

    def _of_kinds(self, wanted: Callable[[Kind], bool]) -> Rows:
        rows = [
            number
            for number in np.unique(self.kinds).tolist()
            if isinstance(kind := self.graph.target.kinds[number], Kind) and wanted(kind)
        ]
        found: Rows = self.edges[np.isin(self.kinds, rows)]
        return found

    def failure(self) -> Iterator[Finding]:
        """The link fails, whatever the addresses are."""
        if self.link.error is not None:
            first, *rest = str(self.link.error).splitlines()
            yield Finding(PROBLEM, "the link fails", first, rest[:SHOWN])

    def undefined(self) -> Iterator[Finding]:
        """Names that nobody defines, and who could supply them."""
        rows = self.graph.symbols.definition == Definition.UNDEFINED
        asked = np.zeros(len(rows), np.bool_)
        asked[self.graph.edges.target[self.edges]] = True
        rows &= asked & (self.graph.symbols.scope != Scope.LOCAL)
        weak = rows & (self.graph.symbols.linkage == Linkage.WEAK)
        strong = (rows & ~weak).nonzero()[0]
        if len(strong):
            names = [self.graph.symbols[row].name for row in strong.tolist()]
            yield from self._supplied(names)
        if weak.any():
            names_of_weak = self._names(weak.nonzero()[0])
            yield Finding(
                NOTE, "weak", f"{counted(int(weak.sum()), 'weak reference')} may stay at address 0", names_of_weak
            )

    def _supplied(self, names: list[str]) -> Iterator[Finding]:
        """Sort undefined names by who could supply them."""
        by_supplier: dict[str, list[str]] = {}
        for name in names:
            supplier = self.suppliers.supplier_of(name) if self.suppliers else None
            by_supplier.setdefault(supplier or "", []).append(escaped(name))
        nobody = by_supplier.pop("", [])
        if nobody:
            more = [f"and {len(nobody) - SHOWN:,} more"] if len(nobody) > SHOWN else []
            searched = "nobody is known to define" if self.suppliers else "the inputs do not define"
            text = f"{searched} {counted(len(nobody), 'name')}; see jitlink explain why NAME"
            yield Finding(PROBLEM if self.suppliers else RISK, "undefined", text, nobody[:SHOWN] + more)
        for supplier, found in by_supplier.items():
            weight = NOTE if supplier == Suppliers.PROCESS else RISK
            more = [f"and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
            yield Finding(weight, "undefined", f"{supplier} has {counted(len(found), 'name')}", found[:SHOWN] + more)

    def unsupported(self) -> Iterator[Finding]:
        """Relocations that are refused."""
        for number in np.unique(self.kinds).tolist():
            kind = self.graph.target.kinds[number]
            if isinstance(kind, Kind) and kind.reason:
                edges = self.edges[self.kinds == number]
                text = f"{kind.name}, {counted(len(edges), 'time')}: {kind.reason}"
                yield Finding(PROBLEM, "unsupported relocation", text, self._examples(edges))

    def thread_locals(self) -> Iterator[Finding]:
        """Thread-local variables and the models by which code reaches them."""
        for mark, model in THREAD_LOCAL_MODELS.items():
            edges = self._of_kinds(lambda kind, mark=mark: _is_model(kind.name, mark))  # type: ignore[misc]
            if len(edges):
                fixed = model in ("initial exec", "local exec")
                text = f"{model}, {counted(len(edges), 'reference')}"
                reserve = "; needs room in the reserve that the process keeps for libraries loaded late"
                yield Finding(
                    RISK if fixed else NOTE, "thread-local storage", text + reserve * fixed, self._examples(edges)
                )

    def indirect(self) -> Iterator[Finding]:
        """Functions that are chosen by running code when they are linked."""
        rows = (self.graph.symbols.kind == SymbolKind.IFUNC).nonzero()[0]
        if len(rows):
            text = f"{counted(len(rows), 'function')} chosen by running a resolver; an image cannot do that"
            yield Finding(NOTE, "indirect functions", text, self._names(rows))

    def initialisers(self) -> Iterator[Finding]:
        """Code that runs at load and at close."""
        purpose = self.graph.sections.purpose[self.graph.blocks.section]
        live = self.graph.blocks.live
        for words, purposes in (
            ("run when it is loaded", (Purpose.PREINIT_ARRAY, Purpose.INIT_ARRAY, Purpose.CTORS)),
            ("run when it is closed", (Purpose.FINI_ARRAY, Purpose.DTORS)),
        ):
            blocks = (np.isin(purpose, purposes) & live).nonzero()[0]
            edges = self.edges[np.isin(self.graph.edges.block[self.edges], blocks)]
            if len(edges):
                names = [self._pointee(edge) for edge in edges[:SHOWN].tolist()]
                yield Finding(NOTE, "initialisers", f"{counted(len(edges), 'function')} {words}", names)

    def _pointee(self, edge: int) -> str:
        """The name of what an edge points at, also where it goes through the symbol of a section."""
        target = int(self.graph.edges.target[edge])
        symbols = self.graph.symbols
        if symbols.kind[target] != SymbolKind.SECTION:
            return self.places.symbol_names[target]
        block, offset = int(symbols.block[target]), int(symbols.offset[target] + self.graph.edges.addend[edge])
        return str(self.places.of(block, offset))

    def distances(self) -> Iterator[Finding]:
        """References that only reach so far."""
        target = self.graph.target
        if not isinstance(target, Architecture):
            return
        edges = self._of_kinds(lambda kind: kind.name in target.absolute)
        if len(edges):
            holders = counted(len(edges), "reference")
            text = f"{holders} hold addresses in 32 bits or fewer (-fno-pic): the code must lie low"
            yield Finding(RISK, "code model", text, self._examples(edges))
        outside = self.graph.symbols.block[self.graph.edges.target[self.edges]] == 0
        near = self._of_kinds(lambda kind: kind.name in target.pc_relative)
        near = near[outside[np.searchsorted(self.edges, near)]]
        near = near[~target.is_branch(self.graph, near)] if len(near) else near
        if len(near):
            text = (
                f"{counted(len(near), 'reference')} to data outside hold a distance of 32 bits: "
                "the code must lie near it; compile with -fPIC, or use copy_data="
            )
            yield Finding(RISK, "distance", text, self._examples(near))
        large = int(self.graph.blocks.size[self.graph.blocks.live].sum())
        if large > target.reach // 2:
            yield Finding(RISK, "distance", f"{large:,} bytes are more than half of what a reference spans")

    def protections(self) -> Iterator[Finding]:
        """Sections whose pages cannot have what they ask for, and addresses in read-only data."""
        both = int(Protection.WRITE | Protection.EXECUTE)
        sections = ((self.graph.sections.protection & both) == both).nonzero()[0]
        if len(sections):
            names = [self.places.section_names[row] for row in sections[:SHOWN].tolist()]
            yield Finding(PROBLEM, "protection", "sections that are writable and executable are refused", names)
        stacks = [
            escaped(section.input)
            for section in self.graph.sections
            if section.name == ".note.GNU-stack" and int(self.graph.sections.flags[section.row]) & 4
        ]
        if stacks:
            yield Finding(
                RISK, "protection", "objects that ask for an executable stack; it is not made so", stacks[:SHOWN]
            )

    def unusual(self) -> Iterator[Finding]:
        """Relocation kinds that are rare among many."""
        if len(self.edges) < MANY:
            return
        counts = np.bincount(self.kinds, minlength=len(self.graph.target.kinds))
        for number in ((counts > 0) & (counts <= RARE)).nonzero()[0].tolist():
            edges = self.edges[self.kinds == number]
            name = self.graph.target.kinds[number].name
            yield Finding(NOTE, "unusual relocation", f"{name}, {counted(len(edges), 'time')}", self._examples(edges))


def _is_model(name: str, mark: str) -> bool:
    """Whether a kind's name has the mark of a model, and not that of one whose name contains it."""
    if mark == "TPOFF":
        return "TPOFF" in name and "DTPOFF" not in name and "GOTTPOFF" not in name
    if mark == "TPREL":
        return "TPREL" in name and "DTPREL" not in name and "GOTTPREL" not in name and "TLSIE" not in name
    return mark in name
