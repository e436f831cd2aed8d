"""Objects of GNU's compiler, as its assembler wrote them before binutils 2.41.

LLVM leaves the addend in the field that a relocation names. The older GNU assembler leaves there the value of the
symbol plus the addend, where the symbol is not that of a section, although the relocation says S + A; and in a call
it counts bytes where instructions are counted. So whoever takes S + A (its own linker does) takes the value
twice, and gets another variable or no function at all. Nothing in such an object says who assembled it. What we
go by: the compiler is GCC before 14, which section .comment says, and each field holds at least the value that
its symbol has, each call exactly. The newer assembler leaves 0 in calls and most others, as LLVM does.

Data relocations have numbers of their own, see jitlink.arches.bpf.

Source: binutils 2.40, include/elf/bpf.h and gas/config/tc-bpf.c; the notes on 2.41 in gas/NEWS.
"""

from __future__ import annotations

import re

import numpy as np

from jitlink.bpf.instructions import SLOT
from jitlink.columns import Rows
from jitlink.graph import Definition, LinkGraph, SymbolKind

COMMENT = b".comment"
FIRST_WITH_NEW_ASSEMBLER = 14
COMPILER = re.compile(rb"GCC: \([^\0]*\) (\d+)\.")
DEFINED, SECTION = int(Definition.DEFINED), int(SymbolKind.SECTION)


def take_off_symbol_values(graph: LinkGraph) -> None:
    """Let the edges of old GNU objects have the addends that are meant. Needs edges that lead to their own input."""
    for input in _inputs_of_old_compilers(graph):
        rows = _edges_with_values(graph, input)
        value = graph.symbols.offset[graph.edges.target[rows]].view(np.int64)
        is_call = graph.edges.kind[rows] == graph.target.kind_number("R_BPF_64_32")
        field = graph.edges.addend[rows]
        if (field[is_call] == value[is_call] * SLOT).all() and (field[~is_call] >= value[~is_call]).all():
            graph.edges.addend[rows] = np.where(is_call, 0, field - value)


def _inputs_of_old_compilers(graph: LinkGraph) -> list[int]:
    """The numbers of the inputs that say so in their section .comment."""
    comments = [row for row, name in enumerate(graph.names_at(graph.sections.name)) if name == COMMENT]
    if not comments:
        return []
    found = []
    for block in (np.isin(graph.blocks.section, comments) & ~graph.blocks.zero_fill).nonzero()[0].tolist():
        compiler = COMPILER.search(graph.content_of(block))
        if compiler and int(compiler[1]) < FIRST_WITH_NEW_ASSEMBLER:
            found.append(int(graph.sections.input[graph.blocks.section[block]]))
    return found


def _edges_with_values(graph: LinkGraph, input: int) -> Rows:
    """The edges of an input to symbols that have a value, those of sections aside: int64[n]."""
    edges, symbols, blocks = graph.edges, graph.symbols, graph.blocks
    named = (symbols.definition == DEFINED) & (symbols.kind != SECTION) & (symbols.offset > 0)
    own = blocks.live & (graph.sections.input[blocks.section] == input)
    rows: Rows = (named[edges.target] & own[edges.block] & (edges.kind > 0)).nonzero()[0]
    return rows
