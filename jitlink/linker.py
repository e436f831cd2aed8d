"""The linker: what happens to a link graph, from first pass to finished image, in order.

The pipeline changes the graph and computes an image of bytes beside it. Where the image goes is decided
by the Place that the caller gives: memory of this process (jitlink.session), or nowhere (jitlink.image).
Nothing outside the graph changes before the image is finished, so a link that fails leaves no trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Rows
from jitlink.errors import LinkFailure, UndefinedSymbols
from jitlink.errors import Place as ErrorPlace
from jitlink.escaping import escaped
from jitlink.fields import Addresses
from jitlink.fixups import apply_fixups, place_of
from jitlink.graph import Definition, LinkGraph, Scope, WorkingMemory
from jitlink.layout import Layout, lay_out
from jitlink.passes.advice import advise
from jitlink.passes.content import fill_image
from jitlink.passes.dead_strip import dead_strip
from jitlink.passes.debug import DebugSections, relocate_debug_sections
from jitlink.passes.eh_frame import find_unwind_records
from jitlink.passes.got import Tables, build_got_and_stubs
from jitlink.passes.initialisers import LifeCycle, life_cycle
from jitlink.passes.linker_symbols import LinkerSymbols, define_linker_symbols
from jitlink.passes.needs import Needs, find_needs, near_symbols
from jitlink.passes.resolve import Resolution, place_commons, resolve
from jitlink.protection import Protection

STAGES = ("pre_prune", "post_prune", "post_allocation", "pre_fixup", "post_fixup")
AFTER_LAYOUT = STAGES[2:]
UserPass = Callable[[LinkGraph], None]
Trace = Callable[[str, float], None]


class Surroundings(Interface):
    """What a link can see of the world around it."""

    def address_of(self, name: str) -> int | None:
        """The address of a symbol that this link does not define, or None."""

    def own_address_of(self, name: str) -> int | None:
        """The address of a symbol that this dylib has defined in an earlier link, or None."""

    def hidden_address_of(self, name: str) -> int | None:
        """The address of a symbol that no other dylib may define: an own one, or one that the caller gives."""

    def is_function(self, address: int) -> bool:
        """Whether a function starts at an address outside of the link."""

    def datum(self, address: int) -> bytes | None:
        """The bytes of the variable at an address outside of the link; None if its size is not known."""


class Place(Interface):
    """Where the image is to be used."""

    page_size: int

    def choose(self, needs: Needs) -> int:
        """Choose the address of an image that is not larger than needs.size."""


@dataclass
class Options:
    """What the caller asks of a link.

    Attributes: exports (names that the link is for, None for all); dead_strip (drop what exports do not
    need); copy_data (names of variables outside that are copied into the image, since code reaches for
    them with 32 bits); debug (relocate the debug sections of the graph as well); passes (user
    passes by stage); trace (called with the name and the seconds of each step).
    """

    exports: Sequence[str] | None = None
    dead_strip: bool = False
    copy_data: Sequence[str] = ()
    debug: bool = False
    passes: Mapping[str, Sequence[UserPass]] = field(default_factory=dict)
    trace: Trace | None = None


@dataclass
class Linked:
    """A finished link.

    Attributes: graph (as the passes left it), layout, base (address of the image), image (uint8[bytes],
    the image up to the last byte that is not zero-fill), addresses (uint64[symbols]), resolution,
    resolver_slots (addresses of GOT entries that the result of the resolver they hold must replace),
    cycle, debug_sections (relocated, if they were asked for).
    """

    graph: LinkGraph
    layout: Layout
    base: int
    image: Buffer
    addresses: Addresses
    resolution: Resolution
    resolver_slots: list[int]
    cycle: LifeCycle
    debug_sections: DebugSections

    def definitions(self) -> Definitions:
        """What this link defines, apart from the graph, which can then be dropped."""
        symbols, winner = self.graph.symbols, self.resolution.winner
        definition = symbols.definition[winner]
        defined = (definition == Definition.DEFINED) | (definition == Definition.ABSOLUTE)
        defined &= self.graph.blocks.live[symbols.block[winner]]
        return Definitions(
            self.resolution.number_of,
            defined,
            defined & ~self.resolution.hidden,
            self.addresses[winner],
            symbols.size[winner],
        )


@dataclass(frozen=True)
class Definitions:
    """The names that a link has defined.

    Attributes: number_of (the row of each name in the columns); inside and exported (bool[names],
    whether the dylib itself and whether others see it); address and size (uint64[names]).
    """

    number_of: dict[bytes, int]
    inside: npt.NDArray[np.bool_]
    exported: npt.NDArray[np.bool_]
    address: Addresses
    size: npt.NDArray[np.uint64]

    def find(self, name: bytes, *, inside: bool = False) -> int | None:
        """The row of a name, or None if it is not defined or not seen."""
        row = self.number_of.get(name)
        return row if row is not None and (self.inside if inside else self.exported)[row] else None

    def names(self) -> list[bytes]:
        """All names that the dylib sees."""
        return [name for name, row in self.number_of.items() if self.inside[row]]

    def exported_names(self) -> list[bytes]:
        """All names that others see."""
        return [name for name, row in self.number_of.items() if self.exported[row]]


class _Clock:
    """Tells a trace how long each step took."""

    def __init__(self, trace: Trace | None) -> None:
        self.trace = trace
        self.last = time.perf_counter() if trace else 0.0

    def __call__(self, step: str) -> None:
        if self.trace:
            now = time.perf_counter()
            self.trace(step, now - self.last)
            self.last = now


def link(graph: LinkGraph, surroundings: Surroundings, place: Place, options: Options) -> Linked:
    """Link a graph into an image. Changes the graph. Raises LinkFailure, and InputError for bad content."""
    clock = _Clock(options.trace)
    run = _UserPasses(graph, options)
    # All content in one buffer, so that passes can look at instructions.
    graph.settle()
    run("pre_prune")
    # One definition for each name; edges point at definitions from here.
    resolution = resolve(graph)
    place_commons(graph, resolution)
    clock("resolve")
    # Names that belong to the linker, such as __dso_handle and atexit.
    linker_symbols = define_linker_symbols(
        graph, resolution, surroundings.own_address_of, lambda name: surroundings.address_of(name) is not None
    )
    # Drop what nothing needs.
    prune(graph, resolution, linker_symbols, options)
    clock("prune")
    run("post_prune")
    # Everything that is not in the graph has an address from here.
    find_externals(graph, resolution, surroundings, options)
    clock("externals")
    # The place is chosen before GOT and stubs are built, so that they are built only where needed.
    needs = find_needs(graph)
    base = place.choose(needs)
    near = near_symbols(graph, base, needs, linker_symbols.rows())
    tables = build_got_and_stubs(
        graph, near, lambda symbol: surroundings.is_function(int(graph.symbols.offset[symbol]))
    )
    clock("got and stubs")
    layout = lay_out(graph, place.page_size)
    got = assign_addresses(graph, layout, base, tables, linker_symbols)
    clock("layout")
    # Addresses are final from here.
    run("post_allocation")
    # Blocks have bytes that can be changed from here.
    image = fill_image(graph, layout)
    graph.working = WorkingMemory(image, layout.position)
    clock("content")
    run("pre_fixup")
    addresses = graph.symbols.addresses()
    apply_fixups(
        graph, image, layout.position, addresses, got, lambda kind, edge: advise(graph, kind, edge, base, addresses)
    )
    clock("fixups")
    run("post_fixup")
    slots = _slot_addresses(graph, tables.resolver_slots)
    cycle = life_cycle(graph, layout, image.data)
    debug = relocate_debug_sections(graph, addresses, got) if options.debug else {}
    return Linked(graph, layout, base, image, addresses, resolution, slots, cycle, debug)


class _UserPasses:
    """Runs the passes that the caller has attached to a stage."""

    def __init__(self, graph: LinkGraph, options: Options) -> None:
        unknown = set(options.passes) - set(STAGES)
        if unknown:
            raise ValueError(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
        self.graph = graph
        self.passes = options.passes

    def __call__(self, stage: str) -> None:
        for user_pass in self.passes.get(stage, ()):
            rows = len(self.graph.blocks), len(self.graph.symbols)
            user_pass(self.graph)
            if stage in AFTER_LAYOUT and rows != (len(self.graph.blocks), len(self.graph.symbols)):
                raise LinkFailure(f"a pass at {stage} has added blocks or symbols: they have places by then")
            self.graph.settle()
            self.graph.sort_edges()


def prune(graph: LinkGraph, resolution: Resolution, linker_symbols: LinkerSymbols, options: Options) -> None:
    """Drop what is not needed, and see to it that nothing refers to what was dropped."""
    if options.dead_strip:
        graph.sort_edges()
        unwind = find_unwind_records(graph)
        dead_strip(graph, _roots(graph, resolution, options.exports), unwind, linker_symbols.sets(graph))
    elif np.count_nonzero(graph.blocks.live) < len(graph.blocks):
        graph.sort_edges()
        find_unwind_records(graph).drop_dead(graph)
    else:
        return
    _refuse_references_to_dropped(graph)


def _roots(graph: LinkGraph, resolution: Resolution, exports: Sequence[str] | None) -> Rows:
    """The symbols that the link is for: those exported by name, or all that other dylibs may see."""
    if exports is None:
        scope = graph.symbols.scope[resolution.winner]
        roots: Rows = resolution.winner[(scope == Scope.DEFAULT) & ~resolution.hidden]
        return roots
    return np.array([resolution.symbol(name.encode(errors="surrogateescape")) for name in exports], np.int64)


def _refuse_references_to_dropped(graph: LinkGraph) -> None:
    """Refuse an edge from a live block into a dropped one: its value would mean nothing."""
    live, edges = graph.blocks.live, graph.edges
    dangling = live[edges.block] & ~live[graph.symbols.block[edges.target]] & (edges.kind > 0)
    if dangling.any():
        row = int(dangling.argmax())
        target = graph.edges[row].target
        where = target.block.section.name if target.block else ""
        raise LinkFailure(f"{place_of(graph, row)}: refers to {target.name or where!r} in a section that was dropped")


def find_externals(graph: LinkGraph, resolution: Resolution, surroundings: Surroundings, options: Options) -> None:
    """Find the addresses of what the graph refers to and does not define.

    Leaves no undefined symbol that a live edge refers to. Raises UndefinedSymbols with all that are
    nowhere and that a strong reference asks for.
    """
    symbols, edges = graph.symbols, graph.edges
    live = graph.blocks.live[edges.block]
    referenced = np.zeros(len(symbols), np.bool_)
    referenced[edges.target if np.count_nonzero(live) == len(live) else edges.target[live]] = True
    rows = (referenced & (symbols.definition == Definition.UNDEFINED)).nonzero()[0].tolist()
    missing: dict[int, str] = {}
    for row in rows:
        raw_name = resolution.undefined.get(row)
        if raw_name is None:
            raise _reference_to_nothing(graph, row)
        name = raw_name.decode(errors="surrogateescape")
        # One hidden reference to a name is enough (gABI: the most constraining visibility applies).
        inside = resolution.hidden[resolution.number_of[raw_name]]
        address = surroundings.hidden_address_of(name) if inside else surroundings.address_of(name)
        if address is None and row not in resolution.weak:
            missing[row] = name
            continue
        symbols.definition[row] = Definition.EXTERNAL
        symbols.offset[row] = address or 0
        if address and name in options.copy_data:
            _copy_datum(graph, row, name, surroundings.datum(address))
    if missing:
        raise UndefinedSymbols(list(missing.values()), [_first_reference(graph, row) for row in missing])


def _reference_to_nothing(graph: LinkGraph, symbol: int) -> LinkFailure:
    """Make the error for a reference to a local symbol of a section that is not part of the image."""
    name = escaped(graph.symbols[symbol].name) or "a local symbol"
    return LinkFailure(
        f"{_first_reference(graph, symbol)}: refers to {name} in a section that is not part of the image"
    )


def _first_reference(graph: LinkGraph, symbol: int) -> ErrorPlace:
    live = graph.blocks.live[graph.edges.block]
    return place_of(graph, int(((graph.edges.target == symbol) & live).argmax()))


def _copy_datum(graph: LinkGraph, row: int, name: str, content: bytes | None) -> None:
    """Define a variable that is outside by a copy of what it holds now."""
    if content is None:
        raise LinkFailure(f"{escaped(name)} cannot be copied: its size is not known")
    section = graph.add_section(".data", Protection.READ | Protection.WRITE)
    block = graph.add_block(section, content)
    symbols = graph.symbols
    symbols.block[row], symbols.offset[row], symbols.definition[row] = block, 0, Definition.DEFINED


def assign_addresses(graph: LinkGraph, layout: Layout, base: int, tables: Tables, linker_symbols: LinkerSymbols) -> int:
    """Give every block its address, and the linker's own symbols theirs. Returns the address of the GOT."""
    blocks = graph.blocks
    blocks.address = layout.position.view(np.uint64) + np.uint64(base)
    blocks.address[~blocks.live] = 0
    blocks.address[0] = 0
    got = base
    if tables.got_section:
        got = int(blocks.address[(blocks.section == tables.got_section).argmax()])
    linker_symbols.place(graph, layout, base, got)
    return got


def _slot_addresses(graph: LinkGraph, edges: Rows) -> list[int]:
    addresses: list[int] = graph.blocks.address[graph.edges.block[edges]].tolist()
    return addresses
