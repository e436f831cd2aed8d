"""Debug sections: relocated when somebody asks, and never part of the image.

The debug sections of an object refer to its code by relocations like any other, and to each other by
offsets from the start of a section. They are not laid out: each one starts at address 0, so that such
offsets come out as DWARF has them, and the result is a set of sections for each input, which a DWARF
reader takes as they are. A reference to code that was dropped becomes 0, as linkers have it.
"""

from __future__ import annotations

import numpy as np

from jitlink.fields import Addresses
from jitlink.fixups import EdgeLetters, values_of
from jitlink.formulas import Kind
from jitlink.graph import Lifetime, LinkGraph, Purpose

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
    contents = {row: bytearray(graph.content_of(row)) for row in wanted.nonzero()[0].tolist()}
    of_debug = wanted[edges.block]
    targets = edges.target[of_debug]
    dropped = ~blocks.live[graph.symbols.block[targets]] & ~wanted[graph.symbols.block[targets]]
    visible = addresses.copy()
    visible[targets[dropped]] = 0
    for number in np.unique(edges.kind[of_debug]).tolist():
        kind: Kind = graph.target.kinds[number]
        if not kind.applied:
            continue
        rows = (of_debug & (edges.kind == number)).nonzero()[0]
        values = values_of(kind, EdgeLetters(graph, rows, visible, np.uint64(got))).astype(kind.field.word)
        for block, offset, value in zip(edges.block[rows].tolist(), edges.offset[rows].tolist(), values, strict=True):
            contents[block][offset : offset + kind.field.size] = value.tobytes()
    found: DebugSections = {}
    for row, content in contents.items():
        view = graph.blocks[row].section
        found.setdefault(view.input, {})[view.name] = bytes(content)
    return found
