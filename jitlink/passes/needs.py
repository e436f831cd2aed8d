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
from jitlink.columns import Rows, as_address, distinct
from jitlink.errors import LinkFailure
from jitlink.formulas import Through
from jitlink.graph import Definition, LinkGraph, SymbolKind

SLOT_AND_STUB = 32
"""Bytes that one GOT entry and one stub take at the most, alignment included."""
IFUNC, EXTERNAL = int(SymbolKind.IFUNC), int(Definition.EXTERNAL)
SLACK = 1 << 16
"""Bytes that segments and their page alignment may add to the image."""
LARGEST_IMAGE = 1 << 56
"""Bytes: the addresses that any host has for a process. Zero-fill may claim more without a file to match."""


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
    """Find out what a graph needs of its place. Needs addresses of externals.

    Raises LinkFailure for an image that fits no address space.
    """
    target, blocks, edges = graph.target, graph.blocks, graph.edges
    assert isinstance(target, Architecture)
    live = blocks.live.nonzero()[0]
    alignment = blocks.alignment[live]
    padded = blocks.size[live] + alignment + blocks.alignment_offset[live]
    # Added up as float64 first: sizes of 64 bits could go round.
    if np.add.reduce(padded, dtype=np.float64) > LARGEST_IMAGE:
        raise LinkFailure(f"its sections have more than {LARGEST_IMAGE:#x} bytes together, which fit no address space")
    size = near_size = int(np.add.reduce(padded))
    large = graph.sections.large[blocks.section[live]]
    if np.count_nonzero(large):
        near_size -= int(padded[large].sum())
    of_kind = np.bincount(edges.kind, minlength=len(target.kinds))
    through = int(np.add.reduce(of_kind[target.kinds.through > Through.DIRECT]))
    indirect = np.count_nonzero(graph.symbols.kind == IFUNC)
    external = (graph.symbols.definition == EXTERNAL) & (graph.symbols.offset > 0)
    outside = np.count_nonzero(external)
    # As Python's integers, which compare with the end of the address space without going round.
    extra = SLACK + SLOT_AND_STUB * int(through + indirect + outside)
    needs = Needs(size + extra, near_size + extra, int(np.maximum.reduce(alignment)))
    if outside:
        needs.preferred = int(graph.symbols.offset[external.argmax()])
    _find_ceiling(graph, target, needs, of_kind)
    if needs.preferred and not needs.ceiling:
        _find_required(graph, target, needs, external, of_kind)
    if target.veneers:
        room = _room_for_veneers(target, needs, of_kind)
        needs.size += room
        needs.near_size += room
    return needs


def _find_ceiling(graph: LinkGraph, target: Architecture, needs: Needs, of_kind: Rows) -> None:
    """Look for 32-bit absolute references to what is in the image or will get a stub there.

    of_kind: int64[kinds], the edges of each kind.
    """
    edges, symbols = graph.edges, graph.symbols
    for name, limit in target.absolute.items():
        if not of_kind[target.kind_number(name)]:
            continue
        into = edges.target[_live_edges_of(graph, name)]
        if np.count_nonzero((symbols.block[into] > 0) | (symbols.offset[into] >= limit)):
            needs.ceiling = min(needs.ceiling or limit, limit)


def _room_for_veneers(target: Architecture, needs: Needs, of_kind: Rows) -> int:
    """Bytes for the veneers of branches that may not reach all of the image, with some made more than once.

    The padding that islands of them need is there: each block is counted with its whole alignment.
    """
    branches = 0
    for name in target.veneers:
        if needs.near_size >= target.reaches[name]:
            branches += int(of_kind[target.kind_number(name)])
    return 2 * SLOT_AND_STUB * branches


def _find_required(
    graph: LinkGraph, target: Architecture, needs: Needs, external: npt.NDArray[np.bool_], of_kind: Rows
) -> None:
    """Look for 32-bit distances to data outside; a branch can go through a stub instead."""
    edges = graph.edges
    for name in target.pc_relative:
        if not of_kind[target.kind_number(name)]:
            continue
        rows = _live_edges_of(graph, name)
        rows = rows[external[edges.target[rows]]]
        if len(rows):
            rows = rows[~target.is_branch(graph, rows)]
            targets, _ = distinct(edges.target[rows], len(graph.symbols))
            needs.required += graph.symbols.offset[targets].tolist()


def _live_edges_of(graph: LinkGraph, kind: str) -> Rows:
    rows = (graph.edges.kind == graph.target.kind_number(kind)).nonzero()[0]
    live: Rows = rows[graph.blocks.live[graph.edges.block[rows]]]
    return live


def near_symbols(graph: LinkGraph, base: int, needs: Needs, linker_defined: Rows) -> Near:
    """Find the symbols that are in 32-bit reach of every place of the image: bool[symbols].

    base: address of the image. linker_defined: symbols that will be placed in the image.
    """
    target, symbols = graph.target, graph.symbols
    assert isinstance(target, Architecture)
    # What is outside has its address; where nothing defines a symbol there is no address.
    lowest = max(base + needs.near_size - target.reach, 0)
    distance = symbols.offset - np.uint64(lowest)
    near: Near = (distance < np.uint64(max(base + target.reach - lowest, 0))) & (symbols.offset > 0)
    inside = symbols.block > 0
    compact = needs.near_size < target.reach
    near[inside] = compact
    if np.count_nonzero(graph.sections.large):
        near &= ~graph.sections.large[graph.blocks.section[symbols.block]]
    near[linker_defined] = compact
    near[0] = True
    return near


def far_edges(graph: LinkGraph, base: int, needs: Needs, near: Near) -> Near:
    """Find the edges of live blocks whose target may be out of their reach: bool[edges].

    near: bool[symbols], as near_symbols finds them. A kind that spans less than the usual (see
    Architecture.reaches) may not reach what is near otherwise. Inside of the image that is not decided
    here but once the layout is known (see jitlink.passes.veneers).
    """
    target, edges, symbols = graph.target, graph.edges, graph.symbols
    assert isinstance(target, Architecture)
    far: Near = (~near)[edges.target] & graph.blocks.live[edges.block]
    if not target.reaches:
        return far
    reach = target.reach_of_kind[edges.kind]
    address = symbols.offset[edges.target]
    rows = ((reach > 0) & (symbols.block[edges.target] == 0) & (address > 0)).nonzero()[0]
    # Both ends of the image must reach it, addresses being modulo 2**64 as distances are.
    reach, distance = reach[rows], address[rows] - np.uint64(base)
    outside = distance - as_address(needs.near_size - reach) >= as_address(np.maximum(2 * reach - needs.near_size, 0))
    far[rows[outside]] = graph.blocks.live[edges.block[rows[outside]]]
    return far
