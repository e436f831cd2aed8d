"""Rows of a link graph, seen as objects: for people, plugins and error messages.

A view reads the columns when it is asked, and returns Python values; from one view others are reached:
`graph.symbols["main"].block.edges[0].target.name`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jitlink.columns import Buffer, Row
from jitlink.graph.meanings import Definition, Lifetime, Linkage, Purpose, Scope, SymbolKind
from jitlink.protection import Protection

if TYPE_CHECKING:
    from jitlink.graph.tables import Blocks, Edges, Groups, Sections, Symbols


class SectionRow(Row):
    """A named part of one input."""

    __slots__ = ()
    table: Sections

    @property
    def name(self) -> str:
        """The name in the input, decoded; bytes that are not UTF-8 become surrogate escapes."""
        return self.table.graph.name_at(self.read("name"))

    @property
    def input(self) -> str:
        """The input that the section came from."""
        return self.table.graph.inputs[int(self.read("input"))]

    @property
    def protection(self) -> Protection:
        """What running code may do with it."""
        return Protection(self.read("protection"))

    @property
    def lifetime(self) -> Lifetime:
        """Whether it takes part in the image."""
        return Lifetime(self.read("lifetime"))

    @property
    def purpose(self) -> Purpose:
        """What it is for, where the linker has to know."""
        return Purpose(self.read("purpose"))

    @property
    def blocks(self) -> list[BlockRow]:
        """Its blocks, in input order."""
        blocks = self.table.graph.blocks
        return [blocks[row] for row in np.flatnonzero(blocks.section == self.row).tolist()]

    def __repr__(self) -> str:
        return f"<section {self.row} {self.name!r} {self.protection.letters} of {self.input}>"


class BlockRow(Row):
    """A piece of content that stays together."""

    __slots__ = ()
    table: Blocks

    @property
    def section(self) -> SectionRow:
        """The section that holds the block."""
        return self.table.graph.sections[self.read("section")]

    @property
    def input(self) -> str:
        """The input that the block came from."""
        return self.section.input

    @property
    def size(self) -> int:
        """In bytes."""
        return int(self.read("size"))

    @property
    def alignment(self) -> int:
        """In bytes, a power of two."""
        return int(self.read("alignment"))

    @property
    def alignment_offset(self) -> int:
        """Bytes from a multiple of the alignment to the start of the block."""
        return int(self.read("alignment_offset"))

    @property
    def address(self) -> int:
        """Of the first byte; 0 before layout."""
        return int(self.read("address"))

    @property
    def live(self) -> bool:
        """False once a pass has dropped the block."""
        return bool(self.read("live"))

    @property
    def zero_fill(self) -> bool:
        """Whether the block is zeroes that no input spells out."""
        return bool(self.read("zero_fill"))

    @property
    def content(self) -> bytes:
        """The bytes as the input has them, before fixups; zeroes for a zero-fill block."""
        return self.table.graph.content_of(self.row)

    @property
    def working(self) -> Buffer:
        """The bytes that the link is working on, uint8[size], to be read and changed.

        From stage pre_fixup on, for live blocks with content. Raises ValueError for others and before.
        """
        memory = self.table.graph.working
        if memory is None or not self.live or self.zero_fill:
            raise ValueError(f"{self!r} has no working memory: it is not live, zero-fill, or before pre_fixup")
        start = int(memory.position[self.row])
        return memory.image[start : start + self.size]

    @property
    def edges(self) -> list[EdgeRow]:
        """The edges whose fixups lie in the block, by offset as the input orders them."""
        graph = self.table.graph
        first, last = np.searchsorted(graph.edges.block, (self.row, self.row + 1)).tolist()
        return [graph.edges[row] for row in range(first, last)]

    @property
    def symbols(self) -> list[SymbolRow]:
        """The symbols that are defined in the block."""
        symbols = self.table.graph.symbols
        return [symbols[row] for row in np.flatnonzero(symbols.block == self.row).tolist()]

    def __repr__(self) -> str:
        return f"<block {self.row} of {self.section.name!r} {self.size} bytes>"


class SymbolRow(Row):
    """A name for a place, or for something that is defined elsewhere."""

    __slots__ = ()
    table: Symbols

    @property
    def name(self) -> str:
        """Decoded; the empty string for a symbol without a name."""
        return self.table.graph.name_at(self.read("name"))

    @property
    def block(self) -> BlockRow | None:
        """The block that defines it, or None."""
        row = self.read("block")
        return self.table.graph.blocks[row] if row else None

    @property
    def offset(self) -> int:
        """Bytes from the start of the block; the address itself for an absolute symbol."""
        return int(self.read("offset"))

    @property
    def size(self) -> int:
        """In bytes, as the input says."""
        return int(self.read("size"))

    @property
    def address(self) -> int:
        """Where it is; before layout, the offset alone."""
        return int(self.table.addresses()[self.row])

    @property
    def linkage(self) -> Linkage:
        """Strong or weak."""
        return Linkage(self.read("linkage"))

    @property
    def scope(self) -> Scope:
        """How far it is seen."""
        return Scope(self.read("scope"))

    @property
    def definition(self) -> Definition:
        """Whether and how it is defined."""
        return Definition(self.read("definition"))

    @property
    def kind(self) -> SymbolKind:
        """What it stands for."""
        return SymbolKind(self.read("kind"))

    def __repr__(self) -> str:
        words = [self.definition.name.lower(), self.linkage.name.lower(), self.scope.name.lower()]
        return f"<symbol {self.row} {self.name!r} {' '.join(words)}>"


class EdgeRow(Row):
    """A relocation: how bytes of a block depend on the address of a symbol."""

    __slots__ = ()
    table: Edges

    @property
    def block(self) -> BlockRow:
        """The block that holds the fixup."""
        return self.table.graph.blocks[self.read("block")]

    @property
    def offset(self) -> int:
        """Of the fixup, in bytes from the start of its block."""
        return int(self.read("offset"))

    @property
    def target(self) -> SymbolRow:
        """The symbol that the fixup points at."""
        return self.table.graph.symbols[self.read("target")]

    @property
    def addend(self) -> int:
        """The constant of the formula."""
        return int(self.read("addend"))

    @property
    def kind(self) -> str:
        """The name of the relocation kind, as the ABI spells it."""
        return self.table.graph.target.kinds[int(self.read("kind"))].name

    def __repr__(self) -> str:
        return f"<edge {self.row} {self.kind} at +{self.offset:#x} to {self.target.name!r}{self.addend:+#x}>"


class GroupRow(Row):
    """A section group."""

    __slots__ = ()
    table: Groups

    @property
    def signature(self) -> SymbolRow:
        """The symbol whose name identifies the group."""
        return self.table.graph.symbols[self.read("signature")]

    def __repr__(self) -> str:
        return f"<group {self.row} {self.signature.name!r}>"
