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

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from jitlink.columns import NO_ROWS, Buffer, Row, Rows, Table, column, starts_of
from jitlink.protection import Protection


class Linkage(enum.IntEnum):
    """Whether a definition may be replaced by another one of its name."""

    STRONG = 0
    WEAK = 1


class Scope(enum.IntEnum):
    """How far a symbol is seen: by other dylibs, inside its own dylib, inside its own input."""

    DEFAULT = 0
    HIDDEN = 1
    LOCAL = 2


class Lifetime(enum.IntEnum):
    """How long a section is needed: as long as its dylib, until the link ends, or never in memory."""

    STANDARD = 0
    FINALIZE = 1
    NO_ALLOC = 2


class Definition(enum.IntEnum):
    """What a symbol's row says about where the symbol is."""

    UNDEFINED = 0
    DEFINED = 1
    ABSOLUTE = 2
    COMMON = 3
    EXTERNAL = 4
    """Outside of the graph; the offset is its address, or 0 for a weak symbol that is nowhere."""


class SymbolKind(enum.IntEnum):
    """What a symbol stands for, with the numbers of ELF's STT_ constants (gABI, Symbol Table)."""

    NONE = 0
    OBJECT = 1
    FUNCTION = 2
    SECTION = 3
    FILE = 4
    COMMON = 5
    TLS = 6
    IFUNC = 10


class Purpose(enum.IntEnum):
    """What a section is for, where the linker has to know it."""

    ORDINARY = 0
    PREINIT_ARRAY = 1
    INIT_ARRAY = 2
    FINI_ARRAY = 3
    CTORS = 4
    DTORS = 5
    EH_FRAME = 6
    NOTE = 7
    DEBUG = 8
    NAMED_SET = 9
    """Reached through __start_NAME and __stop_NAME: its blocks must lie side by side."""
    TLS = 10


class NamedKind(Protocol):
    """A relocation kind, as far as the graph looks at it."""

    @property
    def name(self) -> str: ...


class Target(Protocol):
    """What a graph is linked for, as far as the graph looks at it: see jitlink.arches."""

    @property
    def name(self) -> str: ...
    @property
    def kinds(self) -> Sequence[NamedKind]: ...
    def kind_number(self, name: str) -> int: ...


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
        return self.table.graph.inputs[self.read("input")]

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
        return self.table.graph.target.kinds[self.read("kind")].name

    def __repr__(self) -> str:
        return f"<edge {self.row} {self.kind} at +{self.offset:#x} to {self.target.name!r}{self.addend:+#x}>"


View = TypeVar("View", bound=Row)


class GraphTable(Table[View]):
    """A table that knows the graph it belongs to, and how to view one of its rows."""

    row_view: type[View]

    def __init__(self, graph: LinkGraph) -> None:
        super().__init__()
        self.graph = graph

    def view(self, row: int) -> View:
        return self.row_view(self, row)


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

    row_view = SectionRow


class Blocks(GraphTable[BlockRow]):
    """Pieces of content, in input order."""

    section = column("int64", refers="sections", doc="section that holds the block")
    content = column("int64", unit="byte", doc="position of the content: see LinkGraph.content_of")
    size = column("int64", unit="byte", doc="of the content")
    alignment = column("int64", unit="byte", doc="a power of two")
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


class Groups(GraphTable[GroupRow]):
    """Sets of blocks that are kept or dropped together (gABI, Section Groups)."""

    signature = column("int64", refers="symbols", doc="symbol whose name identifies the group")
    comdat = column("bool", doc="whether only one group of this signature is kept")

    row_view = GroupRow


NO_NAME = -1
"""The position of the empty name."""
PADDING = 64
"""Bytes of zero behind the last input of a pool: short records may be read anywhere, and an empty one at the end."""
FEW_NAMES = 24
"""Up to this many names are read one by one."""

TABLES = ("sections", "blocks", "symbols", "edges", "groups")


class LinkGraph:
    """All inputs of a link, in tables.

    Made by the readers of jitlink.formats, or by hand::

        graph = LinkGraph(x86_64)
        text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
        block = graph.add_block(text, bytes.fromhex("b830000000c3"))
        graph.add_symbol("answer", block)
    """

    def __init__(
        self, target: Target, pool: Buffer | None = None, inputs: Sequence[str] = (), *, name: str | None = None
    ) -> None:
        """Make an empty graph over a pool of input bytes, or one to be filled by hand.

        pool: uint8[bytes]; inputs: the names of the inputs, numbered from 1; name: of a graph that is
        built by hand, which is then its own only input.
        """
        self.own_input = 1 if name is not None else 0
        inputs = [name] if name is not None else inputs
        self.target = target
        self.pool: Buffer = np.empty(0, np.uint8) if pool is None else pool
        self.added = bytearray()
        self.inputs = ["(linker)", *inputs]
        self.added_names = [b""]
        # Where the names of the inputs stand in the pool: starts (ascending) and sizes, int64[tables].
        self.string_tables: tuple[Rows, Rows] = (NO_ROWS, NO_ROWS)
        self.sections = Sections(self)
        self.blocks = Blocks(self)
        self.symbols = Symbols(self)
        self.edges = Edges(self)
        self.groups = Groups(self)

    # Names and content

    def add_name(self, name: str | bytes) -> int:
        """Keep a name that no input spells; returns its (negative) position."""
        self.added_names.append(name.encode(errors="surrogateescape") if isinstance(name, str) else name)
        return -len(self.added_names)

    def names_at(self, positions: npt.NDArray[Any]) -> list[bytes]:
        """Read the names at many positions, undecoded. positions: int64[n].

        The string tables are cut at their NULs in one step, and a name is the piece that its position
        falls into. Assemblers let a name end another one, so a position may be inside its piece.
        """
        starts, sizes = self.string_tables
        if len(positions) < FEW_NAMES or not len(starts):
            return [self.raw_name_at(position) for position in positions.tolist()]
        ends = (starts + sizes).tolist()
        pool = memoryview(self.pool)
        strings = b"".join([pool[start:end] for start, end in zip(starts.tolist(), ends, strict=True)])
        pieces = strings.split(b"\0")
        nuls = (np.frombuffer(strings, np.uint8) == 0).nonzero()[0]
        table = starts.searchsorted(positions, "right") - 1
        place = positions - starts[table] + starts_of(sizes)[:-1][table]
        piece = nuls.searchsorted(place)
        inside = place - np.concatenate(([0], nuls + 1))[piece]
        names = list(map(pieces.__getitem__, piece.tolist()))
        for row in inside.nonzero()[0].tolist():
            names[row] = names[row][inside[row] :]
        for row in ((positions < 0) | (inside < 0)).nonzero()[0].tolist():
            names[row] = self.raw_name_at(int(positions[row]))
        return names

    def raw_name_at(self, position: int) -> bytes:
        """Read the name at a position, undecoded."""
        if position < 0:
            return self.added_names[-position - 1]
        taken = 64
        while True:
            name, end, _ = self.pool[position : position + taken].tobytes().partition(b"\0")
            if end or position + taken >= len(self.pool):
                return name
            taken *= 4

    def name_at(self, position: int) -> str:
        """Read the name at a position; bytes that are not UTF-8 become surrogate escapes."""
        return self.raw_name_at(position).decode(errors="surrogateescape")

    def add_content(self, content: bytes) -> int:
        """Keep content that no input holds; returns its position, behind those of the pool."""
        position = len(self.pool) + len(self.added)
        self.added += content
        return position

    def content_of(self, block: int) -> bytes:
        """Read the content of a block, before fixups."""
        size = int(self.blocks.size[block])
        if self.blocks.zero_fill[block]:
            return bytes(size)
        return self.content_at(int(self.blocks.content[block]), size)

    def content_at(self, position: int, size: int) -> bytes:
        """Read size bytes at a position of the pool or of what was added."""
        if position >= len(self.pool):
            position -= len(self.pool)
            return bytes(self.added[position : position + size])
        return self.pool[position : position + size].tobytes()

    def settle(self) -> None:
        """Move what was added into the pool, so that all content is in one buffer."""
        if self.added:
            self.pool = np.concatenate((self.pool, np.frombuffer(self.added, np.uint8), np.zeros(PADDING, np.uint8)))
            self.added = bytearray()

    # Building by hand

    def add_section(
        self,
        name: str,
        protection: Protection = Protection.READ,
        *,
        purpose: Purpose = Purpose.ORDINARY,
        lifetime: Lifetime = Lifetime.STANDARD,
    ) -> int:
        """Add a section; returns its row number."""
        added = self.sections.append(
            1,
            name=self.add_name(name),
            protection=protection,
            purpose=purpose,
            lifetime=lifetime,
            input=self.own_input,
        )
        return int(added[0])

    def add_block(self, section: int, content: bytes | int, *, alignment: int = 16) -> int:
        """Add a block of content, or of that many zeroes; returns its row number.

        Raises ValueError when alignment is not a power of two.
        """
        if alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"alignment {alignment} is not a power of two")
        zeroes = isinstance(content, int)
        return int(
            self.blocks.append(
                1,
                section=section,
                content=0 if isinstance(content, int) else self.add_content(content),
                size=content if isinstance(content, int) else len(content),
                alignment=alignment,
                zero_fill=zeroes,
                live=True,
            )[0]
        )

    def add_symbol(
        self,
        name: str,
        block: int = 0,
        offset: int = 0,
        *,
        size: int = 0,
        linkage: Linkage = Linkage.STRONG,
        scope: Scope = Scope.DEFAULT,
        kind: SymbolKind = SymbolKind.NONE,
        definition: Definition | None = None,
    ) -> int:
        """Add a symbol: defined in a block, or undefined where no block is given; returns its row number."""
        if definition is None:
            definition = Definition.DEFINED if block else Definition.UNDEFINED
        return int(
            self.symbols.append(
                1,
                name=self.add_name(name),
                block=block,
                offset=np.uint64(offset),
                size=np.uint64(size),
                linkage=linkage,
                scope=scope,
                kind=kind,
                definition=definition,
                input=self.sections.input[self.blocks.section[block]],
            )[0]
        )

    def add_edge(self, block: int, offset: int, kind: str, target: int, addend: int = 0) -> int:
        """Add an edge: at an offset of a block, of a kind by its ABI name, to a symbol.

        Raises KeyError for a kind that the target does not have.
        """
        number = self.target.kind_number(kind)
        return int(self.edges.append(1, block=block, offset=offset, kind=number, target=target, addend=addend)[0])

    def add_pieces(
        self,
        section: int,
        content: bytes,
        count: int,
        edges: Iterable[tuple[int, str, Rows, int]],
        *,
        alignment: int,
    ) -> Rows:
        """Add count blocks of the same content, each with a local symbol at its start.

        edges: for each edge of a piece its offset, kind, targets (int64[count]) and addend.
        Returns int64[count], the symbols. Several edges a piece leave the edges unsorted: see sort_edges.
        """
        content_position = self.add_content(content)
        blocks = self.blocks.append(
            count, section=section, content=content_position, size=len(content), alignment=alignment, live=True
        )
        symbols = self.symbols.append(
            count,
            name=self.symbols.name[0],
            block=blocks,
            size=np.uint64(len(content)),
            scope=Scope.LOCAL,
            definition=Definition.DEFINED,
            input=self.sections.input[section],
        )
        for offset, kind, targets, addend in edges:
            number = self.target.kind_number(kind)
            self.edges.append(count, block=blocks, offset=offset, kind=number, target=targets, addend=addend)
        return symbols

    def sort_edges(self) -> None:
        """Put the edges into block order, keeping their order inside a block."""
        block = self.edges.block
        if len(block) > 1 and (block[1:] < block[:-1]).any():
            self.edges.take(block.argsort(kind="stable"), "sort_edges")

    # Views for people

    def input_of_block(self, block: int) -> str:
        """The name of the input that a block came from."""
        return self.inputs[int(self.sections.input[self.blocks.section[block]])]

    def defined(self) -> Iterator[SymbolRow]:
        """Go over the named symbols that are defined here."""
        return (symbol for symbol in self.symbols if symbol.definition != Definition.UNDEFINED and symbol.name)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, table)) - 1} {table}" for table in TABLES[:4])
        return f"<link graph for {self.target.name} of {len(self.inputs) - 1} inputs: {counts}>"
