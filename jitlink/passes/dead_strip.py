"""Dead strip: drop the blocks that nothing needs.

A block is needed when it is a root, or when a needed block refers to it. Roots are the symbols that
the link is asked for, the arrays of initialisers and finalisers, and what an object asks to retain
(SHF_GNU_RETAIN). Beside edges, some ties say that blocks live and die together: the members of a
section group (gABI), a block with SHF_LINK_ORDER and the block it follows, and an unwind record and the
function that it describes (see jitlink.passes.eh_frame). Notes stay: nothing refers to them.
"""

from __future__ import annotations

import numpy as np

from jitlink.columns import Rows, rows_by
from jitlink.columns.reach import reachable
from jitlink.graph import LinkGraph, Purpose
from jitlink.passes.eh_frame import UnwindRecords

RETAINED_PURPOSES = (
    Purpose.PREINIT_ARRAY,
    Purpose.INIT_ARRAY,
    Purpose.FINI_ARRAY,
    Purpose.CTORS,
    Purpose.DTORS,
    Purpose.NOTE,
)
SHF_GNU_RETAIN = 0x200000


def dead_strip(graph: LinkGraph, roots: Rows, unwind: UnwindRecords, named_sets: dict[int, Rows]) -> None:
    """Drop the blocks that no root reaches. Needs aimed edges; leaves the dead blocks not live.

    roots: int64[n], symbols. unwind: the unwind records. named_sets: for each symbol that bounds a set
    of sections (__start_NAME), the blocks of the set.
    """
    blocks, sections, edges = graph.blocks, graph.sections, graph.edges
    purpose = sections.purpose[blocks.section]
    retained = np.isin(purpose, RETAINED_PURPOSES)
    retained |= (sections.flags[blocks.section] & SHF_GNU_RETAIN) != 0
    start = np.concatenate((graph.symbols.block[roots], (retained & blocks.live).nonzero()[0]))
    ordinary = (purpose != Purpose.EH_FRAME)[edges.block]
    source = [edges.block[ordinary]]
    target = [graph.symbols.block[edges.target[ordinary]]]
    for members in (_group_ties(graph), _order_ties(graph), unwind.ties(graph)):
        source.append(members[0])
        target.append(members[1])
    for symbol, members_of_set in named_sets.items():
        users = edges.block[edges.target == symbol]
        source.append(users.repeat(len(members_of_set)))
        target.append(np.tile(members_of_set, len(users)))
    tie_source, tie_target = np.concatenate(source), np.concatenate(target)
    order, first = rows_by(tie_source, len(blocks))
    needed = reachable(first, tie_target[order], start)
    needed |= purpose == Purpose.EH_FRAME
    needed[0] = True
    blocks.live &= needed
    unwind.drop_dead(graph)


def _group_ties(graph: LinkGraph) -> tuple[Rows, Rows]:
    """Tie each member of a group to the next one, and the last to the first."""
    member = ((graph.blocks.group > 0) & graph.blocks.live).nonzero()[0]
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
