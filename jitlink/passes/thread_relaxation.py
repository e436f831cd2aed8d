"""Shorter forms of thread-local accesses, where the block has one distance from the thread pointer.

Code that was compiled for shared objects calls a function to find its variables. Where the distance of the
block from the thread pointer is known, the ABIs let a linker put a local-exec access of the same length in
its place; the sequences are data (jitlink.arches.thread_locals). The bytes of the blocks are copied and
changed before layout, and the relocation becomes one that the ABI has for such code: from here on nobody
can tell that the compiler had written anything else.

Some sequences only make sense together. The instructions that load an entry or call a descriptor are
rewritten for all of a variable or for none of it. The offsets of the local dynamic model are counted from
what a call gives: they become distances from the thread pointer if every such call of the link does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.arches.thread_locals import Relaxation, ThreadLocalRules, windows_at
from jitlink.columns import Rows
from jitlink.formulas import Access
from jitlink.graph import LinkGraph
from jitlink.protection import Protection

LOCAL_DYNAMIC, BLOCK_OFFSET = int(Access.LOCAL_DYNAMIC), int(Access.BLOCK_OFFSET)
BY_VARIABLE = (int(Access.DESCRIPTOR), int(Access.DESCRIPTOR_CALL), int(Access.INITIAL_EXEC))
NONE = -1
EXECUTE = int(Protection.EXECUTE)


def relax_accesses(
    graph: LinkGraph, rules: ThreadLocalRules, rows: Rows, get_address: int, *, local_dynamic: bool
) -> None:
    """Rewrite accesses to variables whose blocks have one distance from the thread pointer.

    rows: int64[n], the edges of such accesses. get_address: the symbol __tls_get_addr. local_dynamic:
    whether the local dynamic model may be rewritten. What has no shorter form, or not together with what
    belongs to it, stays as it is.
    """
    edges, target = graph.edges, graph.target
    assert isinstance(target, Architecture)
    in_code = graph.sections.protection[graph.blocks.section[edges.block[rows]]] & EXECUTE > 0
    rows = rows[in_code & ~graph.blocks.zero_fill[edges.block[rows]]]
    chosen, call = _choose(graph, rules, rows, get_address)
    access = target.kinds.access[edges.kind[rows]]
    chosen[_torn(access, edges.target[rows], chosen, local_dynamic=local_dynamic)] = NONE
    matched = chosen != NONE
    _rewrite(graph, rules, rows[matched], chosen[matched], call[matched])
    if rules.relax_by_label is not None:
        changed, codes = rules.relax_by_label(graph, rows[~matched])
        _copy_blocks(graph, changed)
        places = graph.blocks.content[edges.block[changed]] + edges.offset[changed]
        graph.pool[places[:, None] + np.arange(codes.shape[1])] = codes


def _choose(graph: LinkGraph, rules: ThreadLocalRules, rows: Rows, get_address: int) -> tuple[Rows, Rows]:
    """Find the sequence that each edge is in, or NONE, and the edge of its call, or 0: int64[rows] both."""
    edges, blocks = graph.edges, graph.blocks
    chosen = np.full(len(rows), NONE)
    call = np.zeros(len(rows), np.int64)
    kind, block = edges.kind[rows], edges.block[rows]
    calls = _Calls(graph, get_address)
    for number, form in enumerate(rules.relaxations):
        size = len(form.code)
        start = edges.offset[rows] - form.field
        fits = (kind == graph.target.kind_number(form.kind)) & (chosen == NONE)
        fits &= (start >= 0) & (start + size <= blocks.size[block])
        if form.addend:
            fits &= edges.addend[rows] == -form.addend
        fitting = fits.nonzero()[0]
        if not len(fitting):
            continue
        codes = windows_at(graph.pool, blocks.content[block[fitting]] + start[fitting], size)
        fitting = fitting[form.matches(codes)]
        if form.call is not None:
            call_edges = calls.at(block[fitting], start[fitting] + form.call)
            fitting, call_edges = fitting[call_edges > 0], call_edges[call_edges > 0]
            call[fitting] = call_edges
        chosen[fitting] = number
    return chosen, call


class _Calls:
    """The edges of calls to __tls_get_addr, by where they stand."""

    def __init__(self, graph: LinkGraph, get_address: int) -> None:
        edges = graph.edges
        rows = ((edges.target == get_address) & (edges.kind > 0)).nonzero()[0] if get_address else []
        places = zip(edges.block[rows].tolist(), edges.offset[rows].tolist(), strict=True)
        self._edge_at = dict(zip(places, list(rows), strict=True))

    def at(self, block: Rows, offset: Rows) -> Rows:
        """The edge at each place, or 0: int64[n]."""
        places = zip(block.tolist(), offset.tolist(), strict=True)
        return np.array([self._edge_at.get(place, 0) for place in places], np.int64)


def _torn(access: npt.NDArray[np.uint8], target: Rows, chosen: Rows, *, local_dynamic: bool) -> npt.NDArray[np.bool_]:
    """Which edges may not be rewritten, since others that belong to them are not: bool[n]."""
    unmatched = chosen == NONE
    torn = np.zeros(len(access), np.bool_)
    calls, offsets = access == LOCAL_DYNAMIC, access == BLOCK_OFFSET
    if not local_dynamic or not calls.any() or (calls & unmatched).any():
        torn |= calls | offsets
    for group in (BY_VARIABLE[:2], BY_VARIABLE[2:]):
        of_group = np.isin(access, group)
        torn |= of_group & np.isin(target, target[of_group & unmatched])
    return torn


def _copy_blocks(graph: LinkGraph, rows: Rows) -> None:
    """Give the blocks that hold some edges content of their own, which may be changed."""
    blocks = graph.blocks
    for block in np.unique(graph.edges.block[rows]).tolist():
        blocks.content[block] = graph.add_content(graph.content_of(block))
    graph.settle()


def _rewrite(graph: LinkGraph, rules: ThreadLocalRules, rows: Rows, chosen: Rows, call: Rows) -> None:
    """Put the new code into copies of the blocks, and let the edges follow."""
    if not len(rows):
        return
    edges, blocks = graph.edges, graph.blocks
    _copy_blocks(graph, rows)
    for number in np.unique(chosen).tolist():
        form: Relaxation = rules.relaxations[number]
        of_form = rows[chosen == number]
        start = edges.offset[of_form] - form.field
        places = blocks.content[edges.block[of_form]] + start
        size = len(form.code)
        graph.pool[places[:, None] + np.arange(size)] = form.rewrite(windows_at(graph.pool, places, size))
        edges.kind[of_form] = graph.target.kind_number(form.becomes) if form.becomes else 0
        edges.offset[of_form] = start + form.new_field
        edges.addend[of_form] += form.addend
    for dropped in (call[call > 0], rows[edges.kind[rows] == 0]):
        edges.kind[dropped] = 0
        edges.target[dropped] = edges.addend[dropped] = 0
