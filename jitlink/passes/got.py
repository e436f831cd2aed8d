"""GOT entries and stubs: how code reaches what may be anywhere.

A GOT entry is a pointer in reach of the code that reads it; a stub is a jump through a GOT entry, in
reach of the code that calls it. Code that was compiled for shared objects asks for them by the kinds of
its relocations. A JIT linker knows where things are before it decides, so that

- a GOT load of something near is rewritten to compute the address itself (relaxation), and needs no entry;
- a call of something near goes there directly, and only a call of something far goes through a stub;
- a 32-bit reference to a far function, from code that was not compiled for this, is served by a stub that
  stands for the function in this whole link, so that all pointers to it are still equal. Static linkers
  call that a canonical PLT entry.

A weak symbol that nothing defines has the address 0, which nothing reaches: some instructions have a form
that says so.

An indirect function (STT_GNU_IFUNC) is not the code at its symbol but what that code returns when it is
called. It becomes a stub whose GOT entry is filled by running the resolver, when all else is in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jitlink.arches.architecture import Architecture, Near
from jitlink.columns import NO_ROWS, Buffer, Rows, as_address, distinct
from jitlink.errors import LinkFailure
from jitlink.escaping import escaped
from jitlink.fields import Addresses
from jitlink.fixups import place_of
from jitlink.formulas import Through
from jitlink.graph import Definition, LinkGraph, Scope, SymbolKind
from jitlink.protection import Protection

IFUNC, EXTERNAL = int(SymbolKind.IFUNC), int(Definition.EXTERNAL)
BRANCH, RELAXABLE = int(Through.BRANCH), int(Through.RELAXABLE_GOT_ENTRY)


@dataclass
class Tables:
    """What the pass made.

    Attributes: got_section and stub_section (rows, or 0), resolver_slots (int64[n], the edges of GOT
    entries that IFUNC resolvers fill).
    """

    got_section: int = 0
    stub_section: int = 0
    resolver_slots: Rows = field(default_factory=lambda: NO_ROWS)


def build_got_and_stubs(
    graph: LinkGraph, far: Near, is_function: Callable[[int], bool], *, relax: bool = True
) -> Tables:
    """Make the GOT entries and stubs that live edges need, and aim the edges at them.

    far: bool[edges], whether the target of an edge may be out of its reach (see far_edges).
    is_function: whether a far external symbol, by its row, is a function. relax: rewrite GOT loads of
    what is near. Needs aimed edges and content in the pool; leaves edges sorted by block, all of them
    within reach as far as GOT entries and stubs can serve. Raises LinkFailure for a GOT entry of something
    beside a symbol.
    """
    edges, symbols, target = graph.edges, graph.symbols, graph.target
    assert isinstance(target, Architecture)
    indirect = (symbols.kind == IFUNC).nonzero()[0]
    if len(indirect):
        indirect = indirect[graph.blocks.live[symbols.block[indirect]] & (symbols.block[indirect] > 0)]
    through = target.kinds.through[edges.kind]
    if not len(indirect) and not np.count_nonzero(through > BRANCH) and not np.count_nonzero(far):
        return Tables()
    if target.of_nothing:
        _refer_to_nothing(graph, target, far)
    maker = _Maker(graph, target)
    if relax:
        maker.relax((through == RELAXABLE) & ~far & ~_aims_at(edges.target, indirect))
    far_rows = far.nonzero()[0]
    maker.stand_in(_far_functions(graph, target, far_rows, is_function))
    maker.resolve_indirect(indirect)
    loads = (target.kinds.through[edges.kind] > BRANCH) & graph.blocks.live[edges.block]
    maker.use_slots(loads.nonzero()[0])
    # What stands for a far function is in the image by now.
    far_rows = far_rows[symbols.block[edges.target[far_rows]] == 0]
    maker.use_stubs(far_rows[_are_branches(graph, target, far_rows)])
    graph.sort_edges()
    return Tables(maker.got_section, maker.stub_section, maker.resolver_slots())


def shorten_address_pairs(graph: LinkGraph, image: Buffer, positions: Rows, addresses: Addresses) -> None:
    """Give shorter forms to the instructions that find what has turned out to be near, if the machine has any.

    Needs final addresses and content in the image; changes kinds of edges. image: uint8[bytes]; positions:
    int64[blocks], where each block starts in image; addresses: uint64[symbols].
    """
    target = graph.target
    assert isinstance(target, Architecture)
    if target.shorten is not None:
        target.shorten(graph, image, positions, addresses)


def _aims_at(targets: Rows, some: Rows) -> Near:
    return np.isin(targets, some) if len(some) else np.zeros(len(targets), np.bool_)


def _refer_to_nothing(graph: LinkGraph, target: Architecture, far: Near) -> None:
    """Give edges to weak symbols that nothing defines the kinds that are made for that; they are not far then."""
    edges, symbols = graph.edges, graph.symbols
    to_nothing = far & (symbols.definition[edges.target] == EXTERNAL) & (symbols.offset[edges.target] == 0)
    for name, replacement in target.of_nothing.items():
        rows = (to_nothing & (edges.kind == target.kind_number(name))).nonzero()[0]
        edges.kind[rows] = target.kind_number(replacement)
        far[rows] = False


def _refuse_addends(graph: LinkGraph, rows: Rows) -> None:
    """Refuse edges that want the GOT entry of a place beside a symbol, if there are any."""
    if len(rows):
        edge = graph.edges[int(rows[0])]
        raise LinkFailure(
            f"{place_of(graph, edge.row)}: {edge.kind} to {escaped(edge.target.name)} has the addend {edge.addend:#x}, "
            "and must have none: a GOT entry holds the address of a symbol"
        )


def _are_branches(graph: LinkGraph, target: Architecture, rows: Rows) -> Near:
    """Which edges are branches, by their kind or by the instruction they are in: bool[rows]."""
    branches: Near = target.kinds.through[graph.edges.kind[rows]] == BRANCH
    unclear = _of_kinds(graph, target.pc_relative, rows).nonzero()[0]
    branches[unclear] = target.is_branch(graph, rows[unclear])
    return branches


def _far_functions(graph: LinkGraph, target: Architecture, far: Rows, is_function: Callable[[int], bool]) -> Rows:
    """The far external functions whose address is taken in 32 bits. far: int64[n], edges."""
    taken = far[_of_kinds(graph, (*target.pc_relative, *target.absolute), far)]
    taken = taken[~_are_branches(graph, target, taken)]
    candidates = np.unique(graph.edges.target[taken]).tolist()
    symbols = graph.symbols
    external = [row for row in candidates if not symbols.block[row] and symbols.offset[row]]
    return np.array([row for row in external if is_function(row)], np.int64)


def _of_kinds(graph: LinkGraph, names: tuple[str, ...], rows: Rows) -> Near:
    """Which edges are of some kinds: bool[rows]."""
    kind = graph.edges.kind[rows]
    mask = np.zeros(len(rows), np.bool_)
    for name in names:
        mask |= kind == graph.target.kind_number(name)
    return mask


class _Maker:
    """Makes the entries, one for each distinct target, and remembers which there are."""

    def __init__(self, graph: LinkGraph, target: Architecture) -> None:
        self.graph = graph
        self.target = target
        self.got_section = 0
        self.stub_section = 0
        self.slot_of: dict[int, int] = {}

    def relax(self, relaxable: Near) -> None:
        """Rewrite GOT loads whose target is near; what has no shorter form stays a GOT load."""
        rows = relaxable.nonzero()[0]
        if not len(rows):
            return
        edges = self.graph.edges
        kind, shift = self.target.relax(self.graph, rows)
        edges.kind[rows] = np.where(kind > 0, kind, edges.kind[rows])
        edges.offset[rows] += shift

    def stand_in(self, functions: Rows) -> None:
        """Let a stub stand for each of these symbols: their rows move onto the stub."""
        if len(functions):
            self._move_onto_stubs(functions, self.target.pointer, SymbolKind.FUNCTION)

    def resolve_indirect(self, functions: Rows) -> None:
        """Let a stub stand for each indirect function, with an entry that its resolver fills."""
        if len(functions):
            self._move_onto_stubs(functions, self.target.resolver_pointer, SymbolKind.NONE)

    def _move_onto_stubs(self, functions: Rows, pointer: str, kind: SymbolKind) -> None:
        symbols = self.graph.symbols
        originals = symbols.append(
            len(functions),
            name=symbols.name[functions],
            block=symbols.block[functions],
            offset=symbols.offset[functions],
            scope=Scope.LOCAL,
            definition=symbols.definition[functions],
            kind=kind,
        )
        slots = self._make_slots(originals, pointer)
        stubs = self._make_stubs(slots)
        symbols.block[functions] = symbols.block[stubs]
        symbols.offset[functions] = 0
        symbols.kind[functions] = SymbolKind.FUNCTION
        symbols.definition[functions] = Definition.DEFINED

    def use_slots(self, rows: Rows) -> None:
        """Aim edges at the GOT entries of their targets."""
        if len(rows):
            edges = self.graph.edges
            _refuse_addends(self.graph, rows[self.target.lacks_addend[edges.kind[rows]] & (edges.addend[rows] != 0)])
            edges.target[rows] = self._slots_for(edges.target[rows])

    def use_stubs(self, rows: Rows) -> None:
        """Aim branches at stubs for their targets."""
        if not len(rows):
            return
        edges = self.graph.edges
        beside = rows[self.target.goes_beside[edges.kind[rows]] & (edges.addend[rows] != 0)]
        if len(beside):
            self._name_places(beside)
        functions, which = distinct(edges.target[rows], len(self.graph.symbols))
        stubs = self._make_stubs(self._slots_for(functions))
        self.graph.edges.target[rows] = stubs[which]

    def _name_places(self, rows: Rows) -> None:
        """Give a symbol of its own to each place beside an external symbol that a branch goes to."""
        edges, symbols = self.graph.edges, self.graph.symbols
        places = np.stack((edges.target[rows], edges.addend[rows]))
        distinct_places, which = np.unique(places, axis=1, return_inverse=True)
        beside, addend = distinct_places
        named = symbols.append(
            len(beside),
            name=symbols.name[beside],
            offset=symbols.offset[beside] + as_address(addend),
            scope=Scope.LOCAL,
            definition=symbols.definition[beside],
        )
        edges.target[rows] = named[which.reshape(-1)]
        edges.addend[rows] = 0

    def _slots_for(self, targets: Rows) -> Rows:
        """Find or make the GOT entry of each target: int64[n], symbols."""
        found, which = distinct(targets, len(self.graph.symbols))
        missing = np.array([target for target in found.tolist() if target not in self.slot_of], np.int64)
        if len(missing):
            made = self._make_slots(missing, self.target.pointer)
            self.slot_of.update(zip(missing.tolist(), made.tolist(), strict=True))
        slots: Rows = np.array([self.slot_of[target] for target in found.tolist()], np.int64)
        return slots[which]

    def _make_slots(self, targets: Rows, kind: str) -> Rows:
        if not self.got_section:
            self.got_section = self.graph.add_section(".got", Protection.READ)
        size = self.target.kinds[self.target.kind_number(kind)].field.size
        return self.graph.add_pieces(
            self.got_section, bytes(size), len(targets), [(0, kind, targets, 0)], alignment=size
        )

    def _make_stubs(self, slots: Rows) -> Rows:
        if not self.stub_section:
            self.stub_section = self.graph.add_section(".stubs", Protection.READ | Protection.EXECUTE)
        stub = self.target.stub
        edges = [(offset, kind, slots, addend) for offset, kind, addend in stub.edges]
        return self.graph.add_pieces(self.stub_section, stub.content, len(slots), edges, alignment=stub.alignment)

    def resolver_slots(self) -> Rows:
        """The edges of the GOT entries that resolvers fill."""
        kind = self.target.kind_number(self.target.resolver_pointer)
        slots: Rows = (self.graph.edges.kind == kind).nonzero()[0]
        return slots
