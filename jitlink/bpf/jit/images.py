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
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from jitlink.arches import architecture
from jitlink.arches.architecture import Architecture
from jitlink.bpf.jit.backend import Backend
from jitlink.bpf.jit.compiler import Edges, MachineCode
from jitlink.bpf.jit.hardening import START_UNIT
from jitlink.bpf.jit.proofs import Lookups
from jitlink.columns import Buffer, Column, Rows, Table
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
PROGRAM_NAME = 2
"""Where the program's name is among those that its graph adds."""
LOCAL, FUNCTION, EXTERNAL = int(Scope.LOCAL), int(SymbolKind.FUNCTION), int(Definition.EXTERNAL)
READ_EXECUTE = Protection.READ | Protection.EXECUTE
TOO_LARGE = "The program is too large for the distances of this machine."


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
        lookups: Lookups,
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


@dataclass(frozen=True)
class _Common:
    """What the graphs of all programs for a back end have in common.

    Attributes: target; pool (uint8[bytes], the routines and the padding behind them); size (of the routines); entries
    (where each begins); names (those that a graph adds itself; that of the program is at PROGRAM_NAME); sections,
    blocks, symbols (columns of these tables, nobody may write to them).
    """

    target: Architecture
    pool: Buffer
    size: int
    entries: dict[str, int]
    names: list[bytes]
    sections: dict[str, Column]
    blocks: dict[str, Column]
    symbols: dict[str, Column]


@cache
def _common_of(backend: Backend) -> _Common:
    """Build a graph of no program, and take what any other has of it."""
    runtime = backend.runtime()
    code, entries = bytes(runtime.template.code), runtime.entries
    target = architecture(backend.target)
    graph = LinkGraph(target, name="")
    text = graph.add_section(".text", READ_EXECUTE)
    program, routines = (graph.add_block(text, b"", alignment=ALIGNMENT) for _ in range(2))
    graph.add_symbol("(program)", program, scope=Scope.LOCAL, kind=SymbolKind.FUNCTION)
    for name, offset in entries.items():
        graph.add_symbol(name, routines, offset, scope=Scope.LOCAL, kind=SymbolKind.FUNCTION)
    columns = [_shared_columns(table) for table in (graph.sections, graph.blocks, graph.symbols)]
    return _Common(
        target, np.frombuffer(code + bytes(PADDING), np.uint8), len(code), entries, graph.added_names, *columns
    )


def _shared_columns(table: Table[Any]) -> dict[str, Column]:
    columns = {name: getattr(table, name).copy() for name in table.declarations}
    for each in columns.values():
        each.flags.writeable = False
    return columns


def graph_of(made: MachineCode, backend: Backend, name: str, start: int = 0) -> LinkGraph:
    """Build the link graph of a program: a block of code, one of routines, and what else it needs.

    name: of the program. start: bytes of traps in front of the code, a multiple of START_UNIT, so that it
    begins anywhere in a page.
    """
    common = _common_of(backend)
    target = common.target
    graph = LinkGraph(target, np.concatenate((made.code, common.pool)), name=name or "(program)")
    graph.added_names = common.names.copy()
    if name:
        graph.added_names[PROGRAM_NAME] = name.encode(errors="surrogateescape")
    size = len(made.code)
    graph.sections.fill(**common.sections)
    graph.blocks.fill(**{**common.blocks, "content": np.array([0, 0, size]), "size": np.array([0, size, common.size])})
    graph.symbols.fill(**common.symbols)
    if start:
        # Blocks of a larger alignment come first.
        graph.add_block(TEXT, bytes([target.trap]) * start, alignment=START_UNIT)
    if not made.needs_table:
        _add_edges(graph, made.edges)
        return graph
    table = _add_table(graph, made)
    _add_edges(graph, made.edges)
    begins = np.array(sorted(made.slots.functions), np.int64)
    kind, block = graph.target.kind_number(backend.pointer_kind), graph.symbols.block[table]
    places, entries = POINTER * begins, made.entry[begins]
    graph.edges.append(len(begins), block=block, offset=places, kind=kind, target=PROGRAM, addend=entries)
    return graph


def _add_edges(graph: LinkGraph, edges: Edges) -> None:
    """Add the edges of the code: to places in it, to routines, and to addresses outside."""
    columns = np.zeros((5, len(edges.at) + 1), np.int64)
    block, offset, kind, target, addend = columns
    block[1:], offset[1:], kind[1:], target[1:], addend[1:] = CODE, edges.at, edges.kind, edges.symbol, edges.addend
    if len(edges.outside):
        target[1:][edges.symbol == 0] = _add_outside(graph, edges.outside)
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


def load_image(made: MachineCode, backend: Backend, name: str, lookups: Lookups, start: int = 0) -> Image:
    """Link a program and map it. Raises LinkError, and MemoryRefused where the host gives no memory.

    Of the linker's steps (jitlink.linker) these graphs need the later ones: every name is local, everything
    is live, all references but whole addresses stay inside.
    """
    common, graph = _common_of(backend), graph_of(made, backend, name, start)
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
        _map(reservation, layout, image, common.target.trap)
    except BaseException:
        reservation.release()
        raise
    enter = int(blocks.address[ROUTINES]) + common.entries["enter"]
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
