"""Source lines of the blocks of a graph, as far as the inputs have DWARF.

Line tables are by address. A graph that was read has none, so its blocks are given addresses of their
own here, one behind the other, for the time of looking up.
"""

from __future__ import annotations

import numpy as np

from jitlink.columns import starts_of
from jitlink.graph import Lifetime, LinkGraph
from jitlink.joining import join
from jitlink.passes.debug import relocate_debug_sections
from jitlink.runtime.lines import Lines, read_lines

FIRST_ADDRESS = 0x1_0000
GAP = 16
"""Bytes between two blocks, so that the end of one is not the start of the next."""


class SourceLines:
    """The lines of all inputs of a graph; tables are read when the first block of an input is asked about."""

    def __init__(self, graph: LinkGraph, *, allocated: bool) -> None:
        """Prepare the lines of a graph that was read with its debug sections. allocated: it has addresses."""
        self._graph = graph if allocated else _with_addresses(graph)
        self._sections = relocate_debug_sections(self._graph, self._graph.symbols.addresses(), 0)
        self._lines: dict[str, Lines] = {}

    def find(self, block: int, offset: int) -> tuple[str, int] | None:
        """The file and line of a place in a block, or None."""
        input = self._graph.input_of_block(block)
        if input not in self._sections:
            return None
        if input not in self._lines:
            self._lines[input] = read_lines(self._sections[input])
        return self._lines[input].find(int(self._graph.blocks.address[block]) + offset)


def _with_addresses(graph: LinkGraph) -> LinkGraph:
    """A copy of a graph whose blocks have addresses; those outside of the image have 0, as DWARF needs it."""
    placed = join([graph])
    blocks = placed.blocks
    part_of_image = placed.sections.lifetime[blocks.section] != Lifetime.NO_ALLOC
    part_of_image[0] = False
    starts = starts_of(np.where(part_of_image, blocks.size + GAP, 0))[:-1] + FIRST_ADDRESS
    blocks.address = np.where(part_of_image, starts, 0).astype(np.uint64)
    blocks.live = part_of_image.copy()
    blocks.live[0] = True
    return placed
