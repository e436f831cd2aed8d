"""Symbols of COFF that no input defines because a linker does, and what Windows compilers take for granted.

`__imp_NAME` is a pointer to NAME. Code that was compiled for a DLL reaches what another one exports through
such pointers, whether or not it turns out to be in the same link; an import library brings them along
(jitlink.formats.coff_imports), and here they are made where none does.

`__ImageBase` is what relative addresses count from. The few functions and variables of a C library that
compilers refer to by themselves are in jitlink.arches.coff_support.
"""

from __future__ import annotations

from collections.abc import Callable

from jitlink.arches.coff_support import ABSOLUTE, DATA, ROUTINES
from jitlink.graph import Definition, LinkGraph, SymbolKind
from jitlink.passes.linker_symbols import IMAGE_BASE, Definer, LinkerSymbols
from jitlink.passes.resolve import Resolution
from jitlink.protection import Protection

IMP = "__imp_"
REACH = 1 << 32
"""Bytes from the image base to which a relative address reaches."""


def define_coff_symbols(
    graph: LinkGraph,
    resolution: Resolution,
    already_defined: Callable[[str], int | None],
    in_process: Callable[[str], bool],
) -> LinkerSymbols:
    """Define what undefined symbols of COFF ask of the linker. Needs aimed edges; leaves fewer undefined symbols.

    already_defined: the address of a name that this dylib has defined before. in_process: whether a name is
    defined outside.
    """
    return _CoffDefiner(graph, resolution, already_defined, in_process).define_all()


def image_base(base: int, size: int, earlier: int | None) -> int:
    """What relative addresses count from: the start of the image, or of the first one of its dylib.

    base, size: of the image. earlier: __ImageBase of earlier links of the dylib; it stays if it is in reach.
    """
    return base if earlier is None or not 0 <= base - earlier < REACH - size else earlier


class _CoffDefiner(Definer):
    """Turns undefined symbols into symbols that the linker defines."""

    def __init__(
        self,
        graph: LinkGraph,
        resolution: Resolution,
        already_defined: Callable[[str], int | None],
        in_process: Callable[[str], bool],
    ) -> None:
        super().__init__(graph, resolution, already_defined, in_process)
        self.routines = ROUTINES.get(graph.target.name, {})
        self.pointers = 0
        self.data = 0

    def define_all(self) -> LinkerSymbols:
        """Define what is undefined, and the image base in any case: later links of the dylib count from it."""
        self.reference(IMAGE_BASE)
        return super().define_all()

    def define(self, name: str, row: int) -> None:
        """Define one symbol, if its name is one of the linker's."""
        if name == IMAGE_BASE:
            self.found.late[name] = row
            self.set_definition(row, Definition.ABSOLUTE)
        elif name in ABSOLUTE:
            self.set_definition(row, Definition.ABSOLUTE)
            self.graph.symbols.offset[row] = ABSOLUTE[name]
        elif name.startswith(IMP) and not name.startswith(2 * IMP) and not self.in_process(name):
            self._define_pointer(name.removeprefix(IMP), row)
        elif name in DATA and not self.in_process(name):
            self.data = self.data or self.graph.add_section(".data", Protection.READ | Protection.WRITE)
            self.set_definition(row, Definition.DEFINED, self.graph.add_block(self.data, DATA[name]))
        elif name in self.routines:
            self.define_routine(name, self.routines[name], row)

    def _define_pointer(self, name: str, row: int) -> None:
        """Make a pointer to a name, wherever that is."""
        graph, kind = self.graph, self.target.pointer
        self.pointers = self.pointers or graph.add_section(".idata$5", Protection.READ)
        size = self.target.kinds[self.target.kind_number(kind)].field.size
        block = graph.add_block(self.pointers, bytes(size), alignment=size)
        graph.add_edge(block, 0, kind, self.reference(name))
        self.set_definition(row, Definition.DEFINED, block)
        graph.symbols.kind[row] = SymbolKind.OBJECT
