"""Content: the bytes of all blocks, copied from the inputs into the image.

Blocks that lie in the image as they lie in an input, one behind the other, are copied as one run; the
few bytes of padding between them come along. Of an object with thousands of functions that leaves a
handful of copies.
"""

from __future__ import annotations

import numpy as np

from jitlink.arches.architecture import Architecture
from jitlink.columns import Buffer
from jitlink.errors import MemoryRefused
from jitlink.graph import LinkGraph
from jitlink.layout import Layout
from jitlink.protection import Protection

LONGEST_GAP = 16
CODE = Protection.READ | Protection.EXECUTE


def fill_image(graph: LinkGraph, layout: Layout) -> Buffer:
    """Make the image and copy every block with content to its place.

    Returns uint8[layout.filled]; code segments are filled with the target's trap where no block is.
    Raises MemoryRefused: zero-fill that lies before content can make an image of any size.
    """
    assert isinstance(graph.target, Architecture)
    try:
        image = np.zeros(layout.filled, np.uint8)
    except MemoryError:
        size = f"{layout.filled:#x} bytes"
        raise MemoryRefused(f"there is no memory for an image of {size}, zero-fill included") from None
    for segment in layout.segments:
        if segment.protection == CODE:
            image[segment.offset : segment.offset + segment.filled] = graph.target.trap
    blocks = graph.blocks
    rows = layout.order[~blocks.zero_fill[layout.order] & (blocks.size[layout.order] > 0)]
    if not len(rows):
        return image
    source, start = blocks.content[rows], layout.position[rows]
    end = start + blocks.size[rows]
    distance = start - source
    gap = start[1:] - end[:-1]
    breaks = (distance[1:] != distance[:-1]) | (gap < 0) | (gap >= LONGEST_GAP)
    first = np.concatenate(([0], breaks.nonzero()[0] + 1))
    last = np.concatenate((first[1:] - 1, [len(rows) - 1]))
    into, pool, added = image.data, graph.pool.data, memoryview(graph.added)
    pooled = len(pool)
    for at, to, position in zip(start[first].tolist(), end[last].tolist(), source[first].tolist(), strict=True):
        if position < pooled:
            into[at:to] = pool[position : position + to - at]
        else:
            into[at:to] = added[position - pooled : position - pooled + to - at]
    return image
