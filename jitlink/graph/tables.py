"""The tables of a link graph: which columns there are, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from jitlink.columns import Row, Table, column
from jitlink.graph.meanings import Definition, Scope
from jitlink.graph.views import BlockRow, EdgeRow, GroupRow, SectionRow, SymbolRow

if TYPE_CHECKING:
    from jitlink.graph.link_graph import LinkGraph

View = TypeVar("View", bound=Row)


class GraphTable(Table[View]):
    """A table that knows the graph it belongs to, and how to view one of its rows."""

    row_view: type[View]

    def __init__(self, graph: LinkGraph) -> None:
        super().__init__()
        self.graph = graph

    def view(self, row: int) -> View:
        return self.row_view(self, row)

    def to_pandas(self) -> Any:
        """The table as a pandas.DataFrame, indexed by row number. Raises MissingExtra."""
        from jitlink.graph.exchange import to_pandas

        return to_pandas(self)

    def to_arrow(self) -> Any:
        """The table as a pyarrow.Table. Raises MissingExtra."""
        from jitlink.graph.exchange import to_arrow

        return to_arrow(self)

    def _repr_html_(self) -> str:
        from jitlink.graph.notebook import table_html

        return table_html(self)


class Sections(GraphTable[SectionRow]):
    """Named parts of inputs."""

    name = column("int64", null=-1, doc="position of the name: see LinkGraph.name_at")
    input = column("int64", doc="number in LinkGraph.inputs; 0 is the linker itself")
    protection = column("uint8", doc="Protection, as running code sees it")
    lifetime = column("uint8", doc="Lifetime")
    purpose = column("uint8", doc="Purpose")
    type = column("uint32", doc="the section type of the input's format (sh_type)")
    flags = column("uint64", doc="the section flags of the input's format (sh_flags)")
    entry_size = column("uint64", unit="byte", doc="of a mergeable or table section's entries, or 0")
    large = column("bool", doc="may lie out of reach of the other sections")
    retained = column("bool", doc="its blocks are kept though nothing refers to them")
    live_support = column("bool", doc="a block of it is kept if anything that it refers to is kept")

    row_view = SectionRow


class Blocks(GraphTable[BlockRow]):
    """Pieces of content, in input order."""

    section = column("int64", refers="sections", doc="section that holds the block")
    content = column("int64", unit="byte", doc="position of the content: see LinkGraph.content_of")
    size = column("int64", unit="byte", doc="of the content")
    alignment = column("int64", unit="byte", doc="a power of two")
    alignment_offset = column("int64", unit="byte", doc="from a multiple of the alignment to the start of the block")
    zero_fill = column("bool", doc="all zero; content is not used")
    group = column("int64", refers="groups", doc="COMDAT group of the block, or 0")
    follows = column("int64", refers="blocks", doc="block whose fate it shares (SHF_LINK_ORDER), or 0")
    live = column("bool", null=True, doc="still part of the link")
    address = column("uint64", unit="byte", doc="of the first byte, after layout; 0 for row 0")

    row_view = BlockRow


class Symbols(GraphTable[SymbolRow]):
    """Names for places; the address of a symbol is its block's address plus its offset."""

    name = column("int64", null=-1, doc="position of the name: see LinkGraph.name_at")
    block = column("int64", refers="blocks", doc="block that defines it; 0 if absolute or undefined")
    offset = column("uint64", unit="byte", doc="from the block's start; an absolute address; a common's alignment")
    size = column("uint64", unit="byte", doc="as the input says")
    linkage = column("uint8", doc="Linkage")
    scope = column("uint8", null=Scope.LOCAL, doc="Scope")
    # Nothing has to be found for the null symbol, which every relocation without a symbol points at.
    definition = column("uint8", null=Definition.ABSOLUTE, doc="Definition")
    kind = column("uint8", doc="SymbolKind")
    input = column("int64", doc="number in LinkGraph.inputs; 0 is the linker itself")
    retained = column("bool", doc="its block is kept though nothing refers to it")
    alias = column(
        "int64", refers="symbols", doc="whose place an ALIAS takes; what stands in for one that nobody defines"
    )

    row_view = SymbolRow

    def addresses(self) -> npt.NDArray[np.uint64]:
        """Compute the address of every symbol: uint64[symbols]. Undefined ones have their offset, 0."""
        addresses: npt.NDArray[np.uint64] = self.graph.blocks.address[self.block] + self.offset
        return addresses

    def named(self, name: str) -> SymbolRow:
        """Find a symbol by name, a definition before a reference. Raises KeyError when there is none."""
        wanted = name.encode(errors="surrogateescape")
        names = self.graph.names_at(self.name)
        rows = [row for row, found in enumerate(names) if found == wanted and row]
        if not rows:
            raise KeyError(name)
        defined = [row for row in rows if self.definition[row] != Definition.UNDEFINED]
        return self.view((defined or rows)[0])

    def __getitem__(self, row: int | str) -> SymbolRow:
        return self.named(row) if isinstance(row, str) else super().__getitem__(row)


class Edges(GraphTable[EdgeRow]):
    """References from blocks to symbols, one row per relocation, sorted by block."""

    block = column("int64", refers="blocks", doc="block that holds the fixup")
    offset = column("int64", unit="byte", doc="of the fixup, from the start of its block")
    kind = column("int64", doc="number of the relocation kind in the target's table")
    target = column("int64", refers="symbols", doc="symbol the fixup points at")
    addend = column("int64", doc="the constant of the formula")

    row_view = EdgeRow


class Groups(GraphTable[GroupRow]):
    """Sets of blocks that are kept or dropped together (gABI, Section Groups)."""

    signature = column("int64", refers="symbols", doc="symbol whose name identifies the group")
    comdat = column("bool", doc="whether only one group of this signature is kept")
    selection = column("uint8", doc="how COFF chooses that one (IMAGE_COMDAT_SELECT); 0 for ELF")
    precedence = column("int64", doc="of several the one with the highest is kept, else the first")

    row_view = GroupRow
