"""What the place of an image has to offer, and what is in reach of it.

Most code does not mind where it is. Code that was compiled for a fixed place does: it holds addresses
in 32 bits, which must then be low ones, or reaches for data of other libraries at 32-bit distances,
which must then be near. Knowing this before the place is chosen turns most relocations that would be
out of range into ordinary ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture, Near
from jitlink.columns import Rows
from jitlink.formulas import Through
from jitlink.graph import Definition, LinkGraph

SLOT_AND_STUB = 32
"""Bytes that one GOT entry and one stub take at the most, alignment included."""
SLACK = 1 << 16
"""Bytes that segments and their page alignment may add to the image."""


@dataclass
class Needs:
    """What a link needs of its place.

    Attributes: size (bytes, an upper bound of the image), near_size (the same without sections of the
    large model), alignment (of the image, bytes), ceiling (all addresses of the image must be below
    this, if not 0), required (addresses that the image must be in 32-bit reach of), preferred (one that
    it had better be in reach of, or 0).
    """

    size: int
    near_size: int
    alignment: int
    ceiling: int = 0
    required: list[int] = field(default_factory=list)
    preferred: int = 0


def find_needs(graph: LinkGraph) -> Needs:
    """Find out what a graph needs of its place. Needs addresses of externals."""
    target, blocks, edges = graph.target, graph.blocks, graph.edges
    assert isinstance(target, Architecture)
    live = blocks.live
    padded = np.where(live, blocks.size + blocks.alignment, 0)
    size = int(padded.sum())
    large = graph.sections.large[blocks.section]
    near_size = size - (int(padded[large].sum()) if large.any() else 0)
    through = target.kinds.through[edges.kind]
    extra = SLACK + SLOT_AND_STUB * (int((through > Through.DIRECT).sum()) + int((graph.symbols.kind == 10).sum()))
    strictest = int(blocks.alignment[live].max(initial=1))
    needs = Needs(size + extra, near_size + extra, strictest)
    external = (graph.symbols.definition == Definition.EXTERNAL) & (graph.symbols.offset != 0)
    outside = external.nonzero()[0]
    if len(outside):
        needs.preferred = int(graph.symbols.offset[outside[0]])
    _find_ceiling(graph, target, needs)
    if len(outside):
        _find_required(graph, target, needs, external)
    return needs


def _find_ceiling(graph: LinkGraph, target: Architecture, needs: Needs) -> None:
    """Look for 32-bit absolute references to what is in the image or will get a stub there."""
    edges, symbols = graph.edges, graph.symbols
    for name, limit in target.absolute.items():
        rows = _live_edges_of(graph, name)
        if len(rows):
            into = edges.target[rows]
            if ((symbols.block[into] > 0) | (symbols.offset[into] >= limit)).any():
                needs.ceiling = min(needs.ceiling or limit, limit)
                needs.required.clear()


def _find_required(graph: LinkGraph, target: Architecture, needs: Needs, external: npt.NDArray[np.bool_]) -> None:
    """Look for 32-bit distances to data outside; a branch can go through a stub instead."""
    if needs.ceiling:
        return
    edges = graph.edges
    for name in target.pc_relative:
        rows = _live_edges_of(graph, name)
        rows = rows[external[edges.target[rows]]]
        rows = rows[~target.is_branch(graph, rows)]
        needs.required += graph.symbols.offset[np.unique(edges.target[rows])].tolist()


def _live_edges_of(graph: LinkGraph, kind: str) -> Rows:
    of_kind = graph.edges.kind == graph.target.kind_number(kind)
    rows: Rows = of_kind.nonzero()[0]
    return rows[graph.blocks.live[graph.edges.block[rows]]] if len(rows) else rows


def near_symbols(graph: LinkGraph, base: int, needs: Needs, linker_defined: Rows) -> Near:
    """Find the symbols that are in 32-bit reach of every place of the image: bool[symbols].

    base: address of the image. linker_defined: symbols that will be placed in the image.
    """
    target, symbols = graph.target, graph.symbols
    assert isinstance(target, Architecture)
    inside = symbols.block > 0
    compact = needs.near_size < target.reach
    near = inside & compact
    if graph.sections.large.any():
        near &= ~graph.sections.large[graph.blocks.section[symbols.block]]
    near[linker_defined] = compact
    low, high = max(base + needs.near_size - target.reach, 0), base + target.reach
    address = symbols.offset
    near |= ~inside & (symbols.definition == Definition.EXTERNAL) & (address >= low) & (address < high) & (address > 0)
    # An absolute symbol is where it says; what is not is never in reach.
    near |= (symbols.definition == Definition.ABSOLUTE) & ~inside & (address >= low) & (address < high)
    return near
