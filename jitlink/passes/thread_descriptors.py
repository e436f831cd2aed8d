"""Thread-local variables of Mach-O: reached through descriptors.

The symbol of a variable stands for a descriptor in __DATA,__thread_vars, three words:

    a function    the code calls it with the address of the descriptor; it returns that of the variable
    a key         0 in the object, the loader's to use
    an offset     of the initial content, which has a symbol of its own (_variable$tlv$init)

Code loads the address of the descriptor as it would that of any datum. So the words are all there is to do:
the key becomes the number of the module and the offset that in the module's block, which together are what
__tls_get_addr takes; and the function, __tlv_bootstrap in the object, is one that calls it with them and
keeps the registers that Darwin's code expects it to keep (jitlink.arches.darwin_support).

Source: dyld, ThreadLocalVariables.h and threadLocalHelpers.s; <mach-o/loader.h>, S_THREAD_LOCAL_VARIABLES.
"""

from __future__ import annotations

import numpy as np

from jitlink.arches.architecture import Architecture
from jitlink.arches.thread_locals import MODULE_WORD, OFFSET_WORD
from jitlink.columns import Rows
from jitlink.errors import LinkFailure
from jitlink.fixups import place_of
from jitlink.graph import LinkGraph, Purpose

WORD, OFFSET_AT = 8, 16
"""Bytes of a word, and where in a descriptor the offset stands."""
DESCRIPTORS, TEMPLATE = int(Purpose.TLS_VARIABLES), int(Purpose.TLS)


def fill_descriptors(graph: LinkGraph) -> None:
    """Let the words of descriptors be filled with module and offset. Leaves edges unsorted.

    Raises LinkFailure for a reference to initial content that is at no place for an offset.
    """
    edges, blocks, purpose = graph.edges, graph.blocks, graph.sections.purpose
    if not np.count_nonzero(purpose == DESCRIPTORS):
        return
    in_descriptor = (purpose[blocks.section[edges.block]] == DESCRIPTORS) & blocks.live[edges.block]
    to_template = purpose[blocks.section[graph.symbols.block[edges.target]]] == TEMPLATE
    rows: Rows = (in_descriptor & to_template).nonzero()[0]
    misplaced = rows[~_are_offsets(graph, rows)]
    if len(misplaced):
        place = place_of(graph, int(misplaced[0]))
        raise LinkFailure(f"{place}: refers to the initial content of a thread-local, and is no offset in a descriptor")
    edges.kind[rows] = graph.target.kind_number(OFFSET_WORD)
    edges.append(
        len(rows),
        block=edges.block[rows],
        offset=edges.offset[rows] - WORD,
        kind=graph.target.kind_number(MODULE_WORD),
        target=edges.target[rows],
    )


def _are_offsets(graph: LinkGraph, rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which edges are whole words at the place of an offset: bool[n]."""
    target = graph.target
    assert isinstance(target, Architecture)
    kinds = [target.kinds[kind] for kind in graph.edges.kind[rows].tolist()]
    words = np.array([kind.field.size == WORD and kind.value.letters == {"S", "A"} for kind in kinds], np.bool_)
    offsets: np.ndarray[tuple[int], np.dtype[np.bool_]] = words & (graph.edges.offset[rows] % (3 * WORD) == OFFSET_AT)
    return offsets
