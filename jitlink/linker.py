"""The linker: what happens to a link graph, from first pass to finished image, in order.

The pipeline changes the graph and computes an image of bytes beside it. Where the image goes is decided
by the Place that the caller gives: memory of this process (jitlink.session), or nowhere (jitlink.image).
Nothing outside the graph changes before the image is finished, so a link that fails leaves no trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol as Interface

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Rows
from jitlink.errors import LinkFailure, UndefinedSymbols
from jitlink.errors import Place as ErrorPlace
from jitlink.escaping import escaped
from jitlink.fields import Addresses
from jitlink.fixups import apply_fixups, place_of
from jitlink.graph import Definition, Lifetime, LinkGraph, Scope, SymbolKind, WorkingMemory
from jitlink.graph.naming import to_c_name, to_raw_name
from jitlink.layout import Layout, lay_out
from jitlink.passes.advice import advise
from jitlink.passes.aliases import follow_aliases
from jitlink.passes.coff_symbols import define_coff_symbols, image_base
from jitlink.passes.compact_unwind import convert_compact_unwind
from jitlink.passes.content import fill_image
from jitlink.passes.conventions import FindCrossing, bridge_externals
from jitlink.passes.darwin_symbols import DARWIN_NAMES, define_darwin_symbols
from jitlink.passes.dead_strip import dead_strip
from jitlink.passes.debug import DebugSections, relocate_debug_sections
from jitlink.passes.eh_frame import find_unwind_records
from jitlink.passes.function_tables import find_function_tables
from jitlink.passes.got import Tables, build_got_and_stubs, shorten_address_pairs
from jitlink.passes.initialisers import LifeCycle, life_cycle
from jitlink.passes.linker_symbols import IMAGE_BASE, LinkerSymbols, define_linker_symbols
from jitlink.passes.needs import Needs, far_edges, find_needs, near_symbols
from jitlink.passes.pairs import settle_pairs
from jitlink.passes.relaxation import lay_out_relaxed, prepare_relaxation
from jitlink.passes.resolve import Resolution, place_commons, resolve
from jitlink.passes.stand_ins import take_stand_ins
from jitlink.passes.thread_locals import ThreadBlock, bind_thread_locals
from jitlink.passes.thread_storage import ThreadStorage, Variable
from jitlink.passes.veneers import extend_branches
from jitlink.protection import Protection

STAGES = ("pre_prune", "post_prune", "post_allocation", "pre_fixup", "post_fixup")
AFTER_LAYOUT = STAGES[2:]
SYMBOLS_OF_FORMAT = {"macho": define_darwin_symbols, "coff": define_coff_symbols}
"""What defines the linker's own symbols, for the formats that have others than ELF."""
ASKED_BY_RUNTIME = (
    b"__unw_add_dynamic_eh_frame_section",
    b"__unw_remove_dynamic_eh_frame_section",
    b"__cxa_begin_catch",
    b"__cxa_end_catch",
)
"""Functions of a C++ library and a libunwind that are linked themselves: we call them, if no linked code does."""
UserPass = Callable[[LinkGraph], None]
THREAD_LOCAL = int(SymbolKind.TLS)
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
    them with 32 bits); debug (relocate the debug sections of the graph as well); relax (rewrite GOT
    loads and addresses of what is near, and make code shorter where its compiler has marked it for that, as
    those for RISC-V do); passes (user passes by stage); trace (called with the name and the seconds of each
    step); crossing (tells which functions outside are called by another convention than that of the code,
    and their types).
    """

    exports: Sequence[str] | None = None
    dead_strip: bool = False
    copy_data: Sequence[str] = ()
    debug: bool = False
    relax: bool = True
    passes: Mapping[str, Sequence[UserPass]] = field(default_factory=dict)
    trace: Trace | None = None
    crossing: FindCrossing | None = None


@dataclass
class Linked:
    """A finished link.

    Attributes: graph (as the passes left it), layout, base (address of the image), image (uint8[bytes],
    the image up to the last byte that is not zero-fill), addresses (uint64[symbols]), resolution,
    resolver_slots (addresses of GOT entries that the result of the resolver they hold must replace),
    cycle, debug_sections (relocated, if they were asked for), thread_block (the block that threads have of
    its thread-local variables, or None).
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
    thread_block: ThreadBlock | None = None

    def code(self) -> list[range]:
        """The addresses of what is executable."""
        code = (each for each in self.layout.segments if each.protection & Protection.EXECUTE)
        starts = ((self.base + each.offset, each.size) for each in code)
        return [range(start, start + size) for start, size in starts]

    def definitions(self) -> Definitions:
        """What this link defines, apart from the graph, which can then be dropped."""
        symbols, winner = self.graph.symbols, self.resolution.winner
        definition = symbols.definition[winner]
        defined = (definition == Definition.DEFINED) | (definition == Definition.ABSOLUTE)
        defined &= self.graph.blocks.live[symbols.block[winner]]
        # A second name may be one for something outside.
        again = self.resolution.second_names
        defined[again] |= (definition[again] == Definition.EXTERNAL) & (symbols.offset[winner[again]] > 0)
        return Definitions(
            self.resolution.number_of,
            defined,
            defined & ~self.resolution.hidden,
            self.addresses[winner],
            symbols.size[winner],
            symbols.kind[winner] == THREAD_LOCAL,
            self.graph.symbol_prefix,
            self.thread_block,
        )


@dataclass(frozen=True)
class Definitions:
    """The names that a link has defined, under their C names (see jitlink.graph.naming).

    Attributes: number_of (the row of each raw name in the columns); inside and exported (bool[names],
    whether the dylib itself and whether others see it); address and size (uint64[names]); thread_local
    (bool[names], whether the address is one in the template of thread_block); prefix (of the raw names).
    """

    number_of: dict[bytes, int]
    inside: npt.NDArray[np.bool_]
    exported: npt.NDArray[np.bool_]
    address: Addresses
    size: npt.NDArray[np.uint64]
    thread_local: npt.NDArray[np.bool_]
    prefix: bytes = b""
    thread_block: ThreadBlock | None = None

    def variable(self, row: int) -> Variable | None:
        """The thread-local variable that a row stands for, or None if it stands for anything else."""
        if self.thread_block is None or not self.thread_local[row]:
            return None
        return self.thread_block.variable(int(self.address[row]))

    def find(self, name: bytes, *, inside: bool = False) -> int | None:
        """The row of a name, or None if it is not defined or not seen."""
        row = self.number_of.get(to_raw_name(name, self.prefix))
        return row if row is not None and (self.inside if inside else self.exported)[row] else None

    def names(self) -> list[bytes]:
        """All names that the dylib sees."""
        return [to_c_name(name, self.prefix) for name, row in self.number_of.items() if self.inside[row]]

    def exported_names(self) -> list[bytes]:
        """All names that others see."""
        return [to_c_name(name, self.prefix) for name, row in self.number_of.items() if self.exported[row]]


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


def link(
    graph: LinkGraph,
    surroundings: Surroundings,
    place: Place,
    options: Options,
    storage: ThreadStorage | None = None,
) -> Linked:
    """Link a graph into an image. Changes the graph. Raises LinkFailure, and InputError for bad content.

    storage: makes the block of thread-local variables that threads have; without it there can be none.
    What it has made for a link that fails is for the caller to give back.
    """
    clock = _Clock(options.trace)
    run = _UserPasses(graph, options)
    # All content in one buffer, so that passes can look at instructions.
    graph.settle()
    run("pre_prune")
    # One definition for each name; edges point at definitions from here.
    resolution = resolve(graph)
    take_stand_ins(graph, resolution, surroundings.own_address_of)
    follow_aliases(graph, resolution)
    place_commons(graph, resolution)
    clock("resolve")
    # Unwind records of Mach-O's own form become those that unwinders of the process read.
    convert_compact_unwind(graph)
    # Names that belong to the linker, such as __dso_handle and atexit.
    define_symbols = SYMBOLS_OF_FORMAT.get(graph.format, define_linker_symbols)
    linker_symbols = define_symbols(
        graph, resolution, surroundings.own_address_of, lambda name: surroundings.address_of(name) is not None
    )
    # Drop what nothing needs.
    prune(graph, resolution, linker_symbols, options)
    clock("prune")
    run("post_prune")
    # Thread-local variables have their access decided from here, and those outside are known.
    thread_locals = bind_thread_locals(graph, resolution, storage)
    clock("thread-locals")
    # Everything that is not in the graph has an address from here.
    find_externals(graph, resolution, surroundings, options)
    if options.crossing is not None:
        # What calls by another convention is reached through entries from here.
        bridge_externals(graph, options.crossing)
    clock("externals")
    # Code that may get shorter is aligned for any length from here.
    prepare_relaxation(graph, options.relax)
    # The place is chosen before GOT and stubs are built, so that they are built only where needed.
    needs = find_needs(graph)
    base = place.choose(needs)
    graph.image_base = image_base(base, needs.size, surroundings.own_address_of(IMAGE_BASE))
    near = near_symbols(graph, base, needs, linker_symbols.rows())
    far = far_edges(graph, base, needs, near)
    tables = build_got_and_stubs(
        graph,
        far,
        lambda symbol: surroundings.is_function(int(graph.symbols.offset[symbol])),
        relax=options.relax,
    )
    clock("got and stubs")

    def lay_out_all() -> tuple[Layout, int]:
        layout = lay_out(graph, place.page_size)
        layout = extend_branches(graph, layout, base, place.page_size, tables.stub_section, needs.size)
        return layout, assign_addresses(graph, layout, base, tables, linker_symbols)

    # Code is as short as it gets from here.
    layout, got = lay_out_relaxed(graph, resolution.symbol, lay_out_all)
    clock("layout")
    # Addresses are final from here.
    run("post_allocation")
    # Blocks have bytes that can be changed from here.
    image = fill_image(graph, layout)
    graph.working = WorkingMemory(image, layout.position)
    clock("content")
    run("pre_fixup")
    addresses = graph.symbols.addresses()
    if options.relax:
        shorten_address_pairs(graph, image, layout.position, addresses)
    # Every edge has a value of its own from here.
    settle_pairs(graph, graph.blocks.live, image, layout.position, addresses)
    fixups = partial(
        apply_fixups,
        *(graph, image, layout.position, addresses, got),
        advise=lambda kind, edge: advise(graph, kind, edge, base, addresses),
    )
    fixups()
    # The template of thread-local variables is final from here.
    thread_block = None
    if thread_locals is not None:
        thread_block = thread_locals.allocate(layout, base, image)
        fixups(of_storage=True)
    clock("fixups")
    run("post_fixup")
    if thread_locals is not None:
        thread_locals.refuse_changes(layout, image)
    slots = _slot_addresses(graph, tables.resolver_slots)
    cycle = life_cycle(graph, layout, image.data)
    debug = relocate_debug_sections(graph, addresses, got) if options.debug else {}
    return Linked(graph, layout, base, image, addresses, resolution, slots, cycle, debug, thread_block)


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
        unwind, tables = find_unwind_records(graph), find_function_tables(graph)
        dead_strip(graph, _roots(graph, resolution, options.exports), unwind, tables, linker_symbols.sets(graph))
    elif _any_dropped(graph):
        graph.sort_edges()
        find_unwind_records(graph).drop_dead(graph)
        find_function_tables(graph).drop_dead(graph)
    else:
        return
    _refuse_references_to_dropped(graph)


def _any_dropped(graph: LinkGraph) -> bool:
    """Whether a block that is part of the image was dropped before, as those of COMDAT groups are."""
    blocks = graph.blocks
    dead = (~blocks.live).nonzero()[0]
    return bool(np.count_nonzero(graph.sections.lifetime[blocks.section[dead]] != Lifetime.NO_ALLOC))


def _roots(graph: LinkGraph, resolution: Resolution, exports: Sequence[str] | None) -> Rows:
    """The symbols that the link is for: those exported by name, or all that other dylibs may see."""
    asked = [resolution.winner[row] for row in map(resolution.number_of.get, ASKED_BY_RUNTIME) if row is not None]
    if exports is None:
        scope = graph.symbols.scope[resolution.winner]
        roots: Rows = resolution.winner[(scope == Scope.DEFAULT) & ~resolution.hidden]
        return np.concatenate((roots, asked)).astype(np.int64) if asked else roots
    return np.array([*asked, *(resolution.symbol(graph.raw_name(name)) for name in exports)], np.int64)


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
        name = graph.c_name(raw_name)
        # One hidden reference to a name is enough (gABI: the most constraining visibility applies).
        inside = resolution.hidden[resolution.number_of[raw_name]]
        if symbols.kind[row] == THREAD_LOCAL and row not in resolution.weak:
            # The pass for thread-locals has looked where there could be one.
            missing[row] = name
            continue
        find = surroundings.hidden_address_of if inside else surroundings.address_of
        address = find(name)
        if address is None and graph.format == "macho" and name in DARWIN_NAMES:
            address = find(DARWIN_NAMES[name])
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
    graph.image_sections = np.array([base + segment.offset for segment in layout.segments], np.uint64)
    linker_symbols.place(graph, layout, base, got)
    return got


def _slot_addresses(graph: LinkGraph, edges: Rows) -> list[int]:
    addresses: list[int] = graph.blocks.address[graph.edges.block[edges]].tolist()
    return addresses
