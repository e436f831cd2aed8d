"""Symbols of Mach-O that no input defines because Apple's linker and C library do.

The linker defines the bounds of any section (`section$start$__DATA$__set`) and segment, and names for the
header of the image, where something refers to them. These names have no underscore before them, so as C
names they have the byte 1 (see jitlink.graph.naming).

Most names of the library are those of C everywhere and are looked up as they are. A few that compilers and
headers of macOS put into objects are called otherwise in other C libraries; they are looked up under that
name if nobody defines them under their own. Only names of the same meaning and layout are here. In particular
the variants that a suffix tells apart (`stat$INODE64`, `fopen$DARWIN_EXTSN`, `select$UNIX2003`) are not:
their structures and flags are laid out otherwise than those of other systems.

Source: ld(1) of macOS; Apple's open sources of libc (the names with two underscores), dyld (the header).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jitlink.arches.darwin_support import ROUTINES
from jitlink.columns import Rows
from jitlink.graph import Definition, LinkGraph, Purpose
from jitlink.layout import Layout
from jitlink.passes.linker_symbols import DSO_HANDLE, START, STOP, Definer, LinkerSymbols
from jitlink.passes.resolve import Resolution
from jitlink.protection import Protection

DARWIN_NAMES = {
    "__error": "__errno_location",
    "__stdinp": "stdin",
    "__stdoutp": "stdout",
    "__stderrp": "stderr",
    "__bzero": "bzero",
    "_tlv_atexit": "__cxa_thread_atexit",
    "__exp10": "exp10",
    "__exp10f": "exp10f",
}
"""The name in glibc and others of a name of Apple's libraries: both are C names."""

MACH_HEADERS = frozenset(("_mh_execute_header", "_mh_dylib_header", "_mh_bundle_header"))
"""C names of the start of the image, by the sort of file that it would be."""
STACK_GUARD = "__stack_chk_guard"
"""A random number that functions put on their stack; other systems keep theirs elsewhere."""
POINTER_SIZE = 8
SECTION_BOUND = re.compile(r"\x01section\$(start|end)\$([^$]+)\$(.+)", re.DOTALL)
SEGMENT_BOUND = re.compile(r"\x01segment\$(start|end)\$(.+)", re.DOTALL)


@dataclass
class DarwinSymbols(LinkerSymbols):
    """The symbols of a link whose addresses the layout decides.

    Attributes: headers (symbols at the start of the image); segments (for each symbol that bounds a segment,
    whether it is the end, and the beginning of the names of the segment's sections).
    """

    headers: list[int] = field(default_factory=list)
    segments: dict[int, tuple[bool, bytes]] = field(default_factory=dict)

    def rows(self) -> Rows:
        """All of them: int64[n], symbols."""
        return np.concatenate((super().rows(), np.array([*self.headers, *self.segments], np.int64)))

    def place(self, graph: LinkGraph, layout: Layout, base: int, got: int) -> None:
        """Give them their addresses, once the layout is known."""
        super().place(graph, layout, base, got)
        graph.symbols.offset[self.headers] = base
        for row, (at_end, prefix) in self.segments.items():
            graph.symbols.offset[row] = base + _segment_bound(graph, layout, prefix, at_end)


def define_darwin_symbols(
    graph: LinkGraph,
    resolution: Resolution,
    already_defined: Callable[[str], int | None],
    in_process: Callable[[str], bool],
) -> LinkerSymbols:
    """Define what undefined symbols of Mach-O ask of the linker. Needs aimed edges; leaves fewer undefined symbols.

    already_defined: the address of a name that this dylib has defined before. in_process: whether a name is
    defined outside.
    """
    return _DarwinDefiner(graph, resolution, already_defined, in_process).define_all()


class _DarwinDefiner(Definer):
    """Turns undefined symbols into symbols that the linker defines."""

    def __init__(
        self,
        graph: LinkGraph,
        resolution: Resolution,
        already_defined: Callable[[str], int | None],
        in_process: Callable[[str], bool],
    ) -> None:
        super().__init__(graph, resolution, already_defined, in_process)
        self.symbols = self.found = DarwinSymbols()
        self.routines = ROUTINES.get(graph.target.name, {})

    def define(self, name: str, row: int) -> None:
        """Define one symbol, if its C name is one of the linker's."""
        section, segment = SECTION_BOUND.fullmatch(name), SEGMENT_BOUND.fullmatch(name)
        if section is not None:
            self._define_section_bound(row, section[1] == "end", f"{section[2]},{section[3]}")
        elif segment is not None:
            prefix = f"{segment[2]},".encode(errors="surrogateescape")
            self.symbols.segments[row] = segment[1] == "end", prefix
            self.set_definition(row, Definition.ABSOLUTE)
        elif name in MACH_HEADERS:
            self.symbols.headers.append(row)
            self.set_definition(row, Definition.ABSOLUTE)
        elif name == STACK_GUARD and not self.in_process(name):
            relocated = self.graph.add_section("__DATA_CONST,__const", Protection.READ)
            block = self.graph.add_block(relocated, os.urandom(POINTER_SIZE), alignment=POINTER_SIZE)
            self.set_definition(row, Definition.DEFINED, block)
        elif name in self.routines:
            self.define_routine(name, self.routines[name], row)
        elif name == DSO_HANDLE or name in self.target.support:
            super().define(name, row)

    def _define_section_bound(self, row: int, at_end: bool, name: str) -> None:
        """Let a symbol bound the sections of a name, whose blocks are going to lie side by side from here."""
        raw_name = name.encode(errors="surrogateescape")
        sections = self.graph.sections
        rows = (sections.purpose == Purpose.ORDINARY).nonzero()[0]
        same = np.array([named == raw_name for named in self.graph.names_at(sections.name[rows])], np.bool_)
        sections.purpose[rows[same]] = Purpose.NAMED_SET
        self.symbols.bounds[row] = STOP if at_end else START, raw_name
        self.set_definition(row, Definition.ABSOLUTE)


def _segment_bound(graph: LinkGraph, layout: Layout, prefix: bytes, at_end: bool) -> int:
    """Where the sections whose names begin with a prefix start or end, in bytes from the start of the image.

    Other things may lie between them: the image has all of one protection together, and not the sections
    of a segment.
    """
    of_segment = np.array([name.startswith(prefix) for name in graph.names_at(graph.sections.name)])
    rows = layout.order[of_segment[graph.blocks.section[layout.order]]]
    if not len(rows):
        return 0
    if at_end:
        return int((layout.position[rows] + graph.blocks.size[rows]).max())
    return int(layout.position[rows].min())
