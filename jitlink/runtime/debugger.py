"""The GDB JIT interface: telling a debugger which functions are where.

A list of symbol files hangs on the descriptor (see jitlink.runtime.descriptor_library). To add or remove
one, we change the list, say in the descriptor which entry it is about, and call the function at which a
debugger that is there has its breakpoint. One that attaches later reads the whole list.

A link becomes one symbol file; inputs that have debug sections become one each, since the offsets in
their sections count from the start of the input's own. Files must not claim the same addresses, so each
has just the ranges that hold its code.

Source: GDB manual, chapter JIT Compilation Interface. LLDB reads the same interface.
"""

from __future__ import annotations

import ctypes

import numpy as np

from jitlink.arches.architecture import Architecture
from jitlink.columns import Rows
from jitlink.linker import Linked
from jitlink.protection import Protection
from jitlink.runtime.descriptor_library import DESCRIPTOR, REGISTER, descriptor_library
from jitlink.runtime.functions import named_places
from jitlink.runtime.symbol_file import MOST_RANGES, Function, Range, symbol_file
from jitlink.runtime.unwind_chain import UnwindChain

NO_ACTION, REGISTER_ACTION, UNREGISTER_ACTION = range(3)
WIDEST_GAP = 4096
"""Ranges end where there is no code for so long."""


class Entry(ctypes.Structure):
    """struct jit_code_entry."""


Entry._fields_ = [
    ("next", ctypes.POINTER(Entry)),
    ("previous", ctypes.POINTER(Entry)),
    ("file", ctypes.c_void_p),
    ("size", ctypes.c_uint64),
]


class Descriptor(ctypes.Structure):
    """struct jit_descriptor."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("action", ctypes.c_uint32),
        ("relevant", ctypes.POINTER(Entry)),
        ("first", ctypes.POINTER(Entry)),
    )


class Debugger:
    """The symbol files of a session. Not for two threads at once."""

    def __init__(self, target: Architecture) -> None:
        """Load the interface. Raises MemoryRefused where the host does not allow it."""
        self.target = target
        library = descriptor_library(target.elf_machine)
        self._descriptor = Descriptor.in_dll(library, DESCRIPTOR)
        self._breakpoint = getattr(library, REGISTER)
        self._breakpoint.restype = None
        # The bytes of a file must stay where they are as long as its entry is in the list.
        self._kept: dict[object, list[tuple[Entry, bytes]]] = {}

    def add(self, owner: object, linked: Linked, chain: UnwindChain | None) -> None:
        """Tell of a link of owner, whose code is in memory."""
        for file in symbol_files(linked, chain, self.target.elf_machine):
            entry = Entry(file=ctypes.cast(ctypes.c_char_p(file), ctypes.c_void_p), size=len(file))
            first = self._descriptor.first
            if first:
                entry.next = first
                first.contents.previous = ctypes.pointer(entry)
            self._descriptor.first = ctypes.pointer(entry)
            self._kept.setdefault(owner, []).append((entry, file))
            self._tell(entry, REGISTER_ACTION)

    def remove(self, owner: object) -> None:
        """Take back what was told of an owner."""
        for entry, _ in reversed(self._kept.pop(owner, [])):
            if entry.previous:
                entry.previous.contents.next = entry.next
            else:
                self._descriptor.first = entry.next
            if entry.next:
                entry.next.contents.previous = entry.previous
            self._tell(entry, UNREGISTER_ACTION)

    def _tell(self, entry: Entry, action: int) -> None:
        self._descriptor.relevant = ctypes.pointer(entry)
        self._descriptor.action = action
        self._breakpoint()
        self._descriptor.action = NO_ACTION


def symbol_files(linked: Linked, chain: UnwindChain | None, elf_machine: int) -> list[bytes]:
    """Write the symbol files of a link: one for all inputs without debug sections, one for each other."""
    graph = linked.graph
    blocks = graph.blocks
    code = linked.layout.order
    code = code[graph.sections.protection[blocks.section[code]] == Protection.READ | Protection.EXECUTE]
    described = [number for number, name in enumerate(graph.inputs) if number and name in linked.debug_sections]
    file_of_input = np.zeros(len(graph.inputs), np.int64)
    file_of_input[described] = np.arange(1, len(described) + 1)
    file_of = file_of_input[graph.sections.input[blocks.section[code]]]
    first, last = _ranges(linked, code, file_of)
    if len(first) > MOST_RANGES:
        file_of, described = np.zeros(len(code), np.int64), []
        first, last = _ranges(linked, code, file_of)
    start = blocks.address[code[first]]
    end = blocks.address[code[last]] + blocks.size[code[last]].astype(np.uint64)
    places = named_places(graph, code=True)
    range_of = start.searchsorted(places.address, "right") - 1
    unwind = (chain.address, ctypes.string_at(chain.address, chain.size)) if chain else None
    files = []
    for number in range(len(described) + 1):
        mine = (file_of[first] == number).nonzero()[0]
        new_range = {row: new for new, row in enumerate(mine.tolist())}
        ranges = [Range(int(start[row]), int(end[row] - start[row])) for row in new_range]
        functions = [
            Function(places.name[row], new_range[owner], int(places.address[row] - start[owner]), int(size))
            for row, (owner, size) in enumerate(zip(range_of.tolist(), places.end - places.address, strict=True))
            if owner in new_range
        ]
        debug = linked.debug_sections[graph.inputs[described[number - 1]]] if number else {}
        if ranges:
            files.append(symbol_file(elf_machine, ranges, functions, debug, unwind))
            unwind = None
    return files


def _ranges(linked: Linked, code: Rows, file_of: Rows) -> tuple[Rows, Rows]:
    """Cut a row of blocks where the file changes or a gap is: the first and the last of each range."""
    if not len(code):
        return code, code
    start = linked.layout.position[code]
    gap = start[1:] - (start[:-1] + linked.graph.blocks.size[code[:-1]])
    breaks = ((file_of[1:] != file_of[:-1]) | (gap > WIDEST_GAP)).nonzero()[0]
    return np.concatenate(([0], breaks + 1)), np.concatenate((breaks, [len(code) - 1]))
