"""Dead strip: drop the blocks that nothing needs.

A block is needed when it is a root, or when a needed block refers to it. Roots are the symbols that
the link is asked for, the arrays of initialisers and finalisers, and sections and symbols that an object
asks to retain. Beside edges, some ties say that blocks live and die together: the members of a
section group (gABI), a block with SHF_LINK_ORDER and the block it follows, and an unwind record and the
function that it describes (see jitlink.passes.eh_frame). A block of a section for the support of live code
(Mach-O's S_ATTR_LIVE_SUPPORT) is kept if anything that it refers to is. Notes stay: nothing refers to them.
"""

from __future__ import annotations

import numpy as np

from jitlink.columns import NO_ROWS, Rows, rows_by
from jitlink.columns.reach import reachable
from jitlink.graph import LinkGraph, Purpose
from jitlink.passes.eh_frame import UnwindRecords
from jitlink.passes.function_tables import FunctionTables

RETAINED_PURPOSES = (
    Purpose.PREINIT_ARRAY,
    Purpose.INIT_ARRAY,
    Purpose.FINI_ARRAY,
    Purpose.INIT_OFFSETS,
    Purpose.CTORS,
    Purpose.DTORS,
    Purpose.NOTE,
)


def dead_strip(
    graph: LinkGraph, roots: Rows, unwind: UnwindRecords, tables: FunctionTables, named_sets: dict[int, Rows]
) -> None:
    """Drop the blocks that no root reaches. Needs aimed edges; leaves the dead blocks not live.

    roots: int64[n], symbols. unwind, tables: the unwind records of ELF and of COFF. named_sets: for each symbol that
    bounds a set of sections (__start_NAME), the blocks of the set.
    """
    blocks, sections, edges = graph.blocks, graph.sections, graph.edges
    purpose = sections.purpose[blocks.section]
    retained = np.isin(purpose, RETAINED_PURPOSES)
    retained |= sections.retained[blocks.section]
    retained[graph.symbols.block[graph.symbols.retained]] = True
    retained &= blocks.live
    if graph.format == "coff":
        # What goes with another section is kept for that alone.
        retained &= blocks.follows == 0
    start = np.concatenate((graph.symbols.block[roots], retained.nonzero()[0]))
    ordinary = ((purpose != Purpose.EH_FRAME) & (purpose != Purpose.FUNCTION_TABLE))[edges.block]
    source = [edges.block[ordinary]]
    target = [graph.symbols.block[edges.target[ordinary]]]
    # Behind the blocks come nodes that are none: the CIEs, and the sets that bounds stand for.
    first_cie, first_set = len(blocks), len(blocks) + unwind.cies
    ties = (
        _group_ties(graph),
        _order_ties(graph),
        unwind.ties(graph, first_cie),
        tables.ties(graph),
        _set_ties(graph, named_sets, first_set),
        _support_ties(graph),
    )
    for tied_from, tied_to in ties:
        source.append(tied_from)
        target.append(tied_to)
    tie_source, tie_target = np.concatenate(source), np.concatenate(target)
    order, first = rows_by(tie_source, first_set + len(named_sets))
    needed = reachable(first, tie_target[order], start)[: len(blocks)]
    needed |= purpose == Purpose.EH_FRAME
    needed[0] = True
    blocks.live &= needed
    unwind.drop_dead(graph)
    tables.drop_dead(graph)


def _group_ties(graph: LinkGraph) -> tuple[Rows, Rows]:
    """Tie each member of a group to the next one, and the last to the first."""
    # In a group of COFF, whatever goes with the section that is chosen follows it.
    of_elf = (graph.groups.selection == 0)[graph.blocks.group]
    member = ((graph.blocks.group > 0) & graph.blocks.live & of_elf).nonzero()[0]
    order, first = rows_by(graph.blocks.group[member], len(graph.groups))
    member = member[order]
    following = np.arange(1, len(member) + 1)
    ends = first[1:][first[1:] > first[:-1]]
    following[ends - 1] = first[:-1][first[1:] > first[:-1]]
    return member, member[following] if len(member) else member


def _order_ties(graph: LinkGraph) -> tuple[Rows, Rows]:
    """Tie each block that others follow to its followers."""
    follower = (graph.blocks.follows > 0).nonzero()[0]
    return graph.blocks.follows[follower], follower


def _support_ties(graph: LinkGraph) -> tuple[Rows, Rows]:
    """Tie what a block for the support of live code refers to to that block."""
    support = graph.sections.live_support & (graph.sections.purpose != Purpose.EH_FRAME)
    if not np.count_nonzero(support):
        return NO_ROWS, NO_ROWS
    rows = support[graph.blocks.section[graph.edges.block]].nonzero()[0]
    return graph.symbols.block[graph.edges.target[rows]], graph.edges.block[rows]


def _set_ties(graph: LinkGraph, named_sets: dict[int, Rows], first_node: int) -> tuple[Rows, Rows]:
    """Tie each block that refers to a bound to the node of its set, and that to the members of the set."""
    source, target = [NO_ROWS], [NO_ROWS]
    for node, (symbol, members) in enumerate(named_sets.items(), first_node):
        users = graph.edges.block[graph.edges.target == symbol]
        source += [users, np.full(len(members), node)]
        target += [np.full(len(users), node), members]
    return np.concatenate(source), np.concatenate(target)
