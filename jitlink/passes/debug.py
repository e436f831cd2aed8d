"""Debug sections: relocated when somebody asks, and never part of the image.

The debug sections of an object refer to its code by relocations like any other, and to each other by
offsets from the start of a section. They are not laid out: each one starts at address 0, so that such
offsets come out as DWARF has them, and the result is a set of sections for each input, which a DWARF
reader takes as they are. A reference to code that was dropped becomes 0, as linkers have it.
"""

from __future__ import annotations

import numpy as np

from jitlink.columns import starts_of
from jitlink.fields import Addresses
from jitlink.fixups import EdgeLetters, values_of
from jitlink.formulas import LETTERS_OF_STORAGE, Kind
from jitlink.graph import Lifetime, LinkGraph, Purpose
from jitlink.passes.pairs import settle_pairs

MACHO_PREFIX = "__DWARF,__"
CUT_NAMES = {"debug_str_offs": "debug_str_offsets"}
"""Names of Mach-O have 16 bytes at the most."""
DebugSections = dict[str, dict[str, bytes]]
"""The relocated debug sections by name, of each input by name."""


def relocate_debug_sections(graph: LinkGraph, addresses: Addresses, got: int) -> DebugSections:
    """Relocate the debug sections of a linked graph.

    addresses: uint64[symbols], of a finished link. Values that do not fit their fields are cut off, since
    a debug section in 32-bit format may describe code that is anywhere.
    """
    blocks, sections, edges = graph.blocks, graph.sections, graph.edges
    section = blocks.section
    wanted = (sections.purpose[section] == Purpose.DEBUG) & (sections.lifetime[section] == Lifetime.NO_ALLOC)
    rows = wanted.nonzero()[0].tolist()
    # All of them in one buffer, each at its position, as the blocks of an image are.
    image = np.frombuffer(bytearray().join(graph.content_of(row) for row in rows), np.uint8)
    ends = starts_of(blocks.size[rows])
    positions = np.zeros(len(blocks), np.int64)
    positions[rows] = ends[:-1]
    of_debug = wanted[edges.block]
    targets = edges.target[of_debug]
    dropped = ~blocks.live[graph.symbols.block[targets]] & ~wanted[graph.symbols.block[targets]]
    visible = addresses.copy()
    visible[targets[dropped]] = 0
    settle_pairs(graph, wanted, image, positions, visible)
    for number in np.unique(edges.kind[of_debug]).tolist():
        kind: Kind = graph.target.kinds[number]
        # Where there is no thread-local storage, nothing has a place in it.
        has_value = graph.storage_letters is not None or not kind.value.letters & LETTERS_OF_STORAGE
        if kind.applied and has_value:
            of_kind = (of_debug & (edges.kind == number)).nonzero()[0]
            values = values_of(kind, EdgeLetters(graph, of_kind, visible, np.uint64(got)))
            if kind.value.letters & LETTERS_OF_STORAGE:
                # A thread-local that was dropped is nowhere in the block that the others are in.
                values = values * graph.blocks.live[graph.symbols.block[edges.target[of_kind]]]
            kind.field.store(image, positions[edges.block[of_kind]] + edges.offset[of_kind], values)
    found: DebugSections = {}
    for row, start, end in zip(rows, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        view = graph.blocks[row].section
        found.setdefault(view.input, {})[dwarf_name(view.name)] = image[start:end].tobytes()
    return found


def dwarf_name(section: str) -> str:
    """The name of a debug section as DWARF has it: of __DWARF,__debug_info in Mach-O, .debug_info."""
    if not section.startswith(MACHO_PREFIX):
        return section
    name = section.removeprefix(MACHO_PREFIX)
    return f".{CUT_NAMES.get(name, name)}"
