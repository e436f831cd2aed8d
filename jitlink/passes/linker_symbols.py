"""Symbols that no input defines because the linker does, and code that a static library would bring.

Static linkers define a few names by themselves: the bounds of arrays and of sections whose names are C
identifiers, the start of the GOT, a handle that stands for the linked object. And objects refer to
functions that C libraries have only in their static part (see jitlink.arches). Both are defined here,
only if something refers to them, by turning the undefined symbol into a defined one.

Sources: GNU ld manual (Input Section Example, PROVIDE, __start_SECNAME), Itanium C++ ABI 3.3.6
(__dso_handle), gABI (_GLOBAL_OFFSET_TABLE_).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jitlink.arches.architecture import Architecture, Routine
from jitlink.columns import NO_ROWS, Rows
from jitlink.graph import Definition, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.layout import Layout
from jitlink.passes.resolve import Resolution
from jitlink.protection import Protection

GLOBAL_OFFSET_TABLE = "_GLOBAL_OFFSET_TABLE_"
IMAGE_BASE = "__ImageBase"
DSO_HANDLE = "__dso_handle"
ARRAY_BOUNDS = {
    "__preinit_array": Purpose.PREINIT_ARRAY,
    "__init_array": Purpose.INIT_ARRAY,
    "__fini_array": Purpose.FINI_ARRAY,
}
IMAGE_STARTS = ("__executable_start", "__ehdr_start")
TEXT_ENDS = ("etext", "_etext", "__etext")
DATA_ENDS = ("edata", "_edata", "__bss_start")
IMAGE_ENDS = ("end", "_end")
START, STOP = "__start_", "__stop_"


@dataclass
class LinkerSymbols:
    """The symbols of a link whose addresses the layout decides.

    Attributes: late (symbol row by name), bounds (for each __start_ and __stop_ symbol, the name of its set).
    """

    late: dict[str, int] = field(default_factory=dict)
    bounds: dict[int, tuple[str, bytes]] = field(default_factory=dict)

    def rows(self) -> Rows:
        """All of them: int64[n], symbols."""
        return np.array([*self.late.values(), *self.bounds], np.int64)

    def sets(self, graph: LinkGraph) -> dict[int, Rows]:
        """For each bound, the live blocks of its set."""
        if not self.bounds:
            return {}
        purpose = graph.sections.purpose[graph.blocks.section]
        rows = ((purpose == Purpose.NAMED_SET) & graph.blocks.live).nonzero()[0]
        names = graph.names_at(graph.sections.name[graph.blocks.section[rows]])
        return {
            symbol: rows[[named == wanted for named in names]] if names else NO_ROWS
            for symbol, (_, wanted) in self.bounds.items()
        }

    def place(self, graph: LinkGraph, layout: Layout, base: int, got: int) -> None:
        """Give them their addresses, once the layout is known."""
        for name, row in self.late.items():
            graph.symbols.offset[row] = _late_address(name, layout, graph, base, got)
        for row, (side, set_name) in self.bounds.items():
            members = layout.sets.get((Purpose.NAMED_SET, set_name), [])
            graph.symbols.offset[row] = base + _bound(graph, layout, members, side == STOP)


def define_linker_symbols(
    graph: LinkGraph,
    resolution: Resolution,
    already_defined: Callable[[str], int | None],
    in_process: Callable[[str], bool],
) -> LinkerSymbols:
    """Define what undefined symbols ask of the linker. Needs aimed edges; leaves fewer undefined symbols.

    already_defined: the address of a name that this dylib has defined before (there is one
    __dso_handle in a dylib). in_process: whether some library has a function of this name.
    """
    definer = Definer(graph, resolution, already_defined, in_process)
    return definer.define_all()


class Definer:
    """Turns undefined symbols into symbols that the linker defines."""

    def __init__(
        self,
        graph: LinkGraph,
        resolution: Resolution,
        already_defined: Callable[[str], int | None],
        in_process: Callable[[str], bool],
    ) -> None:
        assert isinstance(graph.target, Architecture)
        self.graph = graph
        self.target = graph.target
        self.resolution = resolution
        self.already_defined = already_defined
        self.in_process = in_process
        self.found = LinkerSymbols()
        self.set_names: set[bytes] | None = None
        self.text = 0

    def define_all(self) -> LinkerSymbols:
        """Define all undefined symbols whose names are the linker's."""
        for row, name in list(self.resolution.undefined.items()):
            self.define(self.graph.c_name(name), row)
        return self.found

    def define(self, name: str, row: int) -> None:
        """Define one symbol, if its C name is one of the linker's."""
        if name in LATE_NAMES:
            self.found.late[name] = row
            self.set_definition(row, Definition.ABSOLUTE)
        elif name == DSO_HANDLE:
            self._define_handle(row)
        elif name.startswith((START, STOP)):
            self._define_bound(name, row)
        elif name in self.target.support:
            self.define_routine(name, self.target.support[name], row)

    def _define_handle(self, row: int) -> None:
        """Make the handle: a pointer to itself, as compilers' start files have it."""
        if self.already_defined(DSO_HANDLE) is not None:
            return
        graph = self.graph
        section = graph.add_section(".data.rel.ro", Protection.READ)
        pointer = self.target.kinds[self.target.kind_number(self.target.pointer)]
        block = graph.add_block(section, bytes(pointer.field.size), alignment=pointer.field.size)
        graph.add_edge(block, 0, self.target.pointer, row)
        self.set_definition(row, Definition.DEFINED, block)

    def _define_bound(self, name: str, row: int) -> None:
        """Define __start_NAME or __stop_NAME, if there are sections of that name."""
        if self.set_names is None:
            sections = self.graph.sections
            rows = (sections.purpose == Purpose.NAMED_SET).nonzero()[0]
            self.set_names = set(self.graph.names_at(sections.name[rows]))
        side = START if name.startswith(START) else STOP
        set_name = name.removeprefix(side).encode(errors="surrogateescape")
        if set_name in self.set_names:
            self.found.bounds[row] = (side, set_name)
            self.set_definition(row, Definition.ABSOLUTE)

    def define_routine(self, name: str, routine: Routine, row: int) -> None:
        """Add a function that the process cannot give, with what it refers to."""
        if not routine.always and self.in_process(name):
            return
        if routine.requires and not self.in_process(routine.requires):
            return
        graph = self.graph
        self.text = self.text or graph.add_section(".text", Protection.READ | Protection.EXECUTE)
        block = graph.add_block(self.text, routine.content)
        self.set_definition(row, Definition.DEFINED, block)
        graph.symbols.kind[row] = SymbolKind.FUNCTION
        for offset, kind, target_name, addend in routine.edges:
            graph.add_edge(block, offset, kind, self.reference(target_name), addend)

    def reference(self, name: str) -> int:
        """Find the symbol that a C name stands for, or refer to it anew."""
        raw = self.graph.raw_name(name)
        known = self.resolution.symbol(raw)
        if known:
            return known
        row = self.graph.add_symbol(raw.decode(errors="surrogateescape"))
        self.resolution.add_reference(raw, row)
        self.define(name, row)
        return row

    def set_definition(self, row: int, definition: Definition, block: int = 0) -> None:
        """Define a symbol, for this dylib alone: every dylib has bounds and a handle of its own."""
        symbols = self.graph.symbols
        symbols.definition[row] = definition
        symbols.block[row] = block
        symbols.scope[row] = Scope.HIDDEN
        name = self.resolution.undefined.pop(row)
        self.resolution.hidden[self.resolution.number_of[name]] = True


def _late_address(name: str, layout: Layout, graph: LinkGraph, base: int, got: int) -> int:
    """The address of a symbol that stands for a place of the image."""
    if name == GLOBAL_OFFSET_TABLE:
        return got
    if name == IMAGE_BASE:
        return graph.image_base
    if name in IMAGE_STARTS:
        return base
    if name in IMAGE_ENDS:
        return base + max((segment.offset + segment.size for segment in layout.segments), default=0)
    for array, purpose in ARRAY_BOUNDS.items():
        if name.startswith(array):
            return base + _bound(graph, layout, layout.sets.get((purpose, b""), []), name.endswith("_end"))
    wanted = Protection.EXECUTE if name in TEXT_ENDS else Protection.WRITE
    ends = [segment.offset + segment.filled for segment in layout.segments if segment.protection & wanted]
    return base + max(ends, default=0)


def _bound(graph: LinkGraph, layout: Layout, members: list[int], at_end: bool) -> int:
    """Where a set of blocks starts or ends, from the start of the image; 0 for an empty set."""
    if not members:
        return 0
    edge = members[-1 if at_end else 0]
    return int(layout.position[edge]) + (int(graph.blocks.size[edge]) if at_end else 0)


LATE_NAMES = frozenset(
    (
        GLOBAL_OFFSET_TABLE,
        *IMAGE_STARTS,
        *TEXT_ENDS,
        *DATA_ENDS,
        *IMAGE_ENDS,
        *(f"{array}_{side}" for array in ARRAY_BOUNDS for side in ("start", "end")),
    )
)
