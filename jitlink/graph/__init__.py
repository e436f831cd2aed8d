"""The link graph: what a link is about, in four tables.

A **section** is a named part of one input with one protection. It holds **blocks**, pieces of content
that stay together when everything else moves. A **symbol** names a place in a block, an absolute
address, or something that is defined elsewhere. An **edge** is a relocation: it says how the bytes at
an offset of a block depend on the address of a symbol. One graph holds all inputs of a link at once.

The words are those of LLVM's JITLink. The tables are columns (see jitlink.columns): a pass computes on
whole columns, while `graph.symbols["main"].block.edges[0].target.name` walks the same data as objects.

Content and names are not copied out of the inputs: a block holds the position of its content in the
pool (all inputs in one buffer), a symbol the position of its name there. What the linker adds itself
(GOT entries, stubs) lies in a second buffer whose positions continue those of the pool.
"""

from jitlink.graph.link_graph import NO_NAME, PADDING, TABLES, LinkGraph, Target, WorkingMemory
from jitlink.graph.meanings import Definition, Lifetime, Linkage, Purpose, Scope, SymbolKind
from jitlink.graph.tables import Blocks, Edges, Groups, Sections, Symbols
from jitlink.graph.views import BlockRow, EdgeRow, GroupRow, SectionRow, SymbolRow

__all__ = [
    "NO_NAME",
    "PADDING",
    "TABLES",
    "BlockRow",
    "Blocks",
    "Definition",
    "EdgeRow",
    "Edges",
    "GroupRow",
    "Groups",
    "Lifetime",
    "LinkGraph",
    "Linkage",
    "Purpose",
    "Scope",
    "SectionRow",
    "Sections",
    "SymbolKind",
    "SymbolRow",
    "Symbols",
    "Target",
    "WorkingMemory",
]
