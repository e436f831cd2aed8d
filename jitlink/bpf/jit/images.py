"""From machine code to memory that can be run: a link graph, linked and mapped like any other.

The graph of a program has one block for its code and one for the routines of the back end; where the
program calls functions by their pointers, a third one, read-only, has the table of them. Every reference
between and inside of them is an edge. The linker lays the blocks out, applies the kinds, and says what
bytes belong where; here they get pages that are never writable and executable at once.

Each program has pages of its own, so that the code of one can be given back while others run.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence

import numpy as np

from jitlink.arches import architecture
from jitlink.bpf.jit.backend import Backend, Runtime
from jitlink.bpf.jit.compiler import MachineCode
from jitlink.bpf.jit.hardening import START_UNIT
from jitlink.bpf.jit.templates import Reach
from jitlink.columns import Buffer, Rows
from jitlink.fixups import apply_fixups
from jitlink.graph import NO_NAME, PADDING, Definition, LinkGraph, Scope, SymbolKind
from jitlink.layout import Layout, lay_out
from jitlink.memory import Reservation, page_size, reserve
from jitlink.passes.content import fill_image
from jitlink.protection import Protection

ENTER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
ALIGNMENT = 16
POINTER = 8
TEXT, CODE, ROUTINES, PROGRAM = 1, 1, 2, 1
"""The section, the blocks and the symbol that every graph of a program has."""
LOCAL, FUNCTION = int(Scope.LOCAL), int(SymbolKind.FUNCTION)
DEFINED, ABSOLUTE, EXTERNAL = int(Definition.DEFINED), int(Definition.ABSOLUTE), int(Definition.EXTERNAL)
INSIDE, IN_RUNTIME, OUTSIDE = int(Reach.COLD), int(Reach.RUNTIME), int(Reach.OUTSIDE)
READ_EXECUTE = Protection.READ | Protection.EXECUTE
TOO_LARGE = "The program is too large for the distances of this machine."
_NONE_AND_ONE = np.array([0, 1])
_NO_BYTES = np.zeros(PADDING, np.uint8)


class Image:
    """A program in memory, which is given back when the image is dropped.

    Attributes: code (MachineCode); base, end (addresses of its code); start (address of its instruction 0);
    enter (the routine, as a C function of the record's address and that of an instruction); lookups (see
    jitlink.bpf.jit.proofs); functions (slots that a call from outside may enter);
    segments (address, size and protection of what is mapped of it).
    """

    def __init__(
        self,
        code: MachineCode,
        base: int,
        enter: int,
        lookups: dict[int, tuple[int, int]],
        reservation: Reservation,
        segments: Sequence[tuple[int, int, Protection]],
    ) -> None:
        self.code = code
        self.lookups = lookups
        self.segments = segments
        self.functions = code.slots.functions
        self.base = base
        self.end = base + len(code.code)
        self.start = base + int(code.entry[0])
        self.enter: Callable[[int, int], None] = ENTER(enter)
        weakref.finalize(self, reservation.release).atexit = False

    def slot_of(self, place: int) -> int:
        """The slot whose piece ends its instruction at an address: what `place` of the record says."""
        piece = int(self.code.place.searchsorted(place - self.base, "left")) - 1
        return int(self.code.slot[piece])


def graph_of(made: MachineCode, backend: Backend, name: str, start: int = 0) -> LinkGraph:
    """Build the link graph of a program: a block of code, one of routines, and what else it needs.

    name: of the program. start: bytes of traps in front of the code, a multiple of START_UNIT, so that it
    begins anywhere in a page.
    """
    target = architecture(backend.target)
    routines = backend.runtime()
    pool = np.concatenate((made.code, np.frombuffer(routines.template.code, np.uint8), _NO_BYTES))
    graph = LinkGraph(target, pool, name=name or "(program)")
    size = len(made.code)
    graph.sections.fill(
        name=np.array([NO_NAME, graph.add_name(".text")]),
        input=_NONE_AND_ONE * graph.own_input,
        protection=_NONE_AND_ONE * int(READ_EXECUTE),
    )
    graph.blocks.fill(
        section=np.array([0, TEXT, TEXT]),
        content=np.array([0, 0, size]),
        size=np.array([0, size, len(routines.template.code)]),
        alignment=np.array([0, ALIGNMENT, ALIGNMENT]),
        live=np.ones(3, np.bool_),
    )
    symbol_of = _add_symbols(graph, name, routines)
    if start:
        # Blocks of a larger alignment come first.
        graph.add_block(TEXT, bytes([target.trap]) * start, alignment=START_UNIT)
    if not made.needs_table:
        _add_edges(graph, made, symbol_of)
        return graph
    table = _add_table(graph, made)
    _add_edges(graph, made, {**symbol_of, "table": table})
    begins = np.array(sorted(made.slots.functions), np.int64)
    kind, block = graph.target.kind_number(backend.pointer_kind), graph.symbols.block[table]
    places, entries = POINTER * begins, made.entry[begins]
    graph.edges.append(len(begins), block=block, offset=places, kind=kind, target=PROGRAM, addend=entries)
    return graph


def _add_symbols(graph: LinkGraph, name: str, routines: Runtime) -> dict[str, int]:
    """Add a symbol for the program and one for each routine. Returns their rows by name."""
    names = ["program", *routines.entries]
    count = len(names) + 1
    block = np.full(count, ROUTINES)
    block[0], block[PROGRAM] = 0, CODE
    definition = np.full(count, DEFINED, np.uint8)
    definition[0] = ABSOLUTE
    graph.symbols.fill(
        name=np.array([NO_NAME, graph.add_name(name or names[0]), *map(graph.add_name, names[1:])]),
        block=block,
        offset=np.array([0, 0, *routines.entries.values()]).view(np.uint64),
        scope=np.full(count, LOCAL, np.uint8),
        definition=definition,
        kind=np.full(count, FUNCTION, np.uint8),
        input=(block > 0) * graph.own_input,
    )
    return dict(zip(names, range(PROGRAM, count), strict=True))


def _add_edges(graph: LinkGraph, made: MachineCode, symbol_of: dict[str, int]) -> None:
    """Add the edges of the code: to places in it, to routines, and to addresses outside."""
    edges = made.edges
    kinds = np.array([graph.target.kind_number(name) for name in edges.kind_names], np.int64)
    count = len(edges.at) + 1
    target, addend, block, offset, kind = np.zeros((5, count), np.int64)
    target[1:], block[1:] = PROGRAM, CODE
    offset[1:], kind[1:] = edges.at, kinds[edges.kind]
    addend[1:] = edges.addend + edges.target * (edges.reach <= INSIDE)
    routine = np.array([symbol_of.get(name, 0) for name in edges.names], np.int64)
    in_runtime = (edges.reach == IN_RUNTIME).nonzero()[0]
    target[1:][in_runtime] = routine[edges.target[in_runtime]]
    outside = (edges.reach == OUTSIDE).nonzero()[0]
    if len(outside):
        target[1:][outside] = _add_outside(graph, edges.target[outside])
    graph.edges.fill(block=block, offset=offset, kind=kind, target=target, addend=addend)


def _add_table(graph: LinkGraph, made: MachineCode) -> int:
    """Add the table of functions: for each slot where one begins its address, else 0. Returns its symbol."""
    section = graph.add_section(".rodata", Protection.READ)
    block = graph.add_block(section, bytes(POINTER * len(made.slots.code)), alignment=POINTER)
    return graph.add_symbol("table", block, scope=Scope.LOCAL, kind=SymbolKind.OBJECT)


def _add_outside(graph: LinkGraph, addresses: Rows) -> Rows:
    """Add a symbol for each distinct address outside of the image; returns the symbol of each."""
    found, position = np.unique(addresses, return_inverse=True)
    symbols = graph.symbols.append(
        len(found),
        name=NO_NAME,
        offset=found.view(np.uint64),
        scope=LOCAL,
        definition=EXTERNAL,
        kind=FUNCTION,
        input=graph.own_input,
    )
    chosen: Rows = symbols[position]
    return chosen


def load_image(
    made: MachineCode, backend: Backend, name: str, lookups: dict[int, tuple[int, int]], start: int = 0
) -> Image:
    """Link a program and map it. Raises LinkError, and MemoryRefused where the host gives no memory.

    Of the linker's steps (jitlink.linker) these graphs need the later ones: every name is local, everything
    is live, all references but whole addresses stay inside.
    """
    graph = graph_of(made, backend, name, start)
    graph.settle()
    layout = lay_out(graph, page_size())
    reservation = reserve(layout.size)
    try:
        blocks = graph.blocks
        blocks.address = layout.position.view(np.uint64) + np.uint64(reservation.base)
        blocks.address[0] = 0
        # Addresses are final from here.
        image = fill_image(graph, layout)
        apply_fixups(graph, image, layout.position, graph.symbols.addresses(), 0, lambda kind, edge: TOO_LARGE)
        _map(reservation, layout, image, architecture(backend.target).trap)
    except BaseException:
        reservation.release()
        raise
    enter = int(blocks.address[ROUTINES]) + backend.runtime().entries["enter"]
    segments = [(reservation.base + part.offset, part.size, part.protection) for part in layout.segments]
    return Image(made, int(blocks.address[CODE]), enter, lookups, reservation, segments)


def _map(reservation: Reservation, layout: Layout, image: Buffer, trap: int) -> None:
    """Put an image into pages and give them their protections."""
    page = page_size()
    for part in layout.segments:
        segment = reservation.commit(part.offset, -(-part.size // page) * page, part.protection)
        working = segment.working
        working[: part.filled] = image[part.offset : part.offset + part.filled]
        if part.protection == READ_EXECUTE:
            # Also where no block lies: nobody shall run what is there.
            working[part.filled :] = trap
        segment.seal()
