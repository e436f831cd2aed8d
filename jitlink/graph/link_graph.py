"""The link graph itself: the tables, the bytes and names that they point at, and building by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jitlink.columns import NO_ROWS, Buffer, Rows
from jitlink.graph.bulk_names import read_names
from jitlink.graph.meanings import Definition, Lifetime, Linkage, Purpose, Scope, SymbolKind
from jitlink.graph.naming import PREFIX_OF_FORMAT, to_c_name, to_raw_name
from jitlink.graph.tables import Blocks, Edges, Groups, Sections, Symbols
from jitlink.graph.views import SymbolRow
from jitlink.protection import Protection

NO_NAME = -1
"""The position of the empty name."""
PADDING = 64
"""Bytes of zero behind the last input of a pool: short records may be read anywhere, and an empty one at the end."""
FEW_NAMES = 24
"""Up to this many names are read one by one."""

TABLES = ("sections", "blocks", "symbols", "edges", "groups")


@dataclass(frozen=True)
class WorkingMemory:
    """The bytes of a link under way.

    Attributes: image (uint8[bytes]); position (int64[blocks], where each block starts in image).
    """

    image: Buffer
    position: Rows


class StorageLetters(Protocol):
    """The letters of formulas that depend on where threads have their storage (jitlink.passes.thread_locals)."""

    def column(self, letter: str, graph: LinkGraph, edges: Rows) -> npt.NDArray[np.uint64]:
        """The letter for some edges of the graph, or of a copy: uint64[n] of int64[n]."""


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


class LinkGraph:
    """All inputs of a link, in tables.

    Made by the readers of jitlink.formats, or by hand::

        graph = LinkGraph(x86_64)
        text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
        block = graph.add_block(text, bytes.fromhex("b830000000c3"))
        graph.add_symbol("answer", block)
    """

    def __init__(
        self,
        target: Target,
        pool: Buffer | None = None,
        inputs: Sequence[str] = (),
        *,
        name: str | None = None,
        format: str = "elf",
    ) -> None:
        """Make an empty graph over a pool of input bytes, or one to be filled by hand.

        pool: uint8[bytes]; inputs: the names of the inputs, numbered from 1; name: of a graph that is
        built by hand, which is then its own only input; format: of the objects, which decides how names
        are spelt (see jitlink.graph.naming).
        """
        self.format = format
        self.symbol_prefix = PREFIX_OF_FORMAT.get(format, b"")
        self.own_input = 1 if name is not None else 0
        inputs = [name] if name is not None else inputs
        self.target = target
        self.pool: Buffer = np.empty(0, np.uint8) if pool is None else pool
        self.added = bytearray()
        self.inputs = ["(linker)", *inputs]
        self.added_names = [b""]
        # Where the names of the inputs stand in the pool: starts (ascending) and sizes, int64[tables].
        self.string_tables: tuple[Rows, Rows] = (NO_ROWS, NO_ROWS)
        # Where the inputs themselves stand in the pool, from the first on: starts and sizes, int64[n].
        self.input_places: tuple[Rows, Rows] = (NO_ROWS, NO_ROWS)
        # What objects tell their linker in words: number of the input, option and argument (COFF's .drectve).
        self.directives: list[tuple[int, str, str]] = []
        # After layout: what COFF's relative addresses count from, and the starts of the parts of the image.
        self.image_base = 0
        self.image_sections: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self.sections = Sections(self)
        self.blocks = Blocks(self)
        self.symbols = Symbols(self)
        self.edges = Edges(self)
        self.groups = Groups(self)
        # The bytes of the blocks, from the time when they are copied into the image: see linker.link.
        self.working: WorkingMemory | None = None
        # From the time when the block of its thread-local variables is made.
        self.storage_letters: StorageLetters | None = None

    # Names and content

    def add_name(self, name: str | bytes) -> int:
        """Keep a name that no input spells; returns its (negative) position."""
        self.added_names.append(name.encode(errors="surrogateescape") if isinstance(name, str) else name)
        return -len(self.added_names)

    def names_at(self, positions: npt.NDArray[Any]) -> list[bytes]:
        """Read the names at many positions, undecoded. positions: int64[n]. Raises MalformedInput."""
        if len(positions) < FEW_NAMES or not len(self.string_tables[0]):
            return [self.raw_name_at(position) for position in positions.tolist()]
        return read_names(self, positions)

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

    def place_of_input(self, input: int) -> tuple[int, int]:
        """Where the bytes of an input stand in the pool: start and size; no bytes for one built by hand."""
        starts, sizes = self.input_places
        return (int(starts[input - 1]), int(sizes[input - 1])) if 0 < input <= len(starts) else (0, 0)

    def c_name(self, raw: bytes) -> str:
        """The C name of a raw name, decoded."""
        return to_c_name(raw, self.symbol_prefix).decode(errors="surrogateescape")

    def raw_name(self, name: str) -> bytes:
        """The raw name of a C name."""
        return to_raw_name(name.encode(errors="surrogateescape"), self.symbol_prefix)

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
                live=bool(self.sections.lifetime[section] != Lifetime.NO_ALLOC),
            )[0]
        )

    def add_symbol(
        self,
        name: str | bytes,
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
                input=self.sections.input[self.blocks.section[block]] if block else self.own_input,
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

    def to_networkx(self) -> Any:
        """The graph as a networkx.MultiDiGraph: see jitlink.graph.exchange. Raises MissingExtra."""
        from jitlink.graph.exchange import to_networkx

        return to_networkx(self)

    def _repr_html_(self) -> str:
        from jitlink.graph.notebook import graph_html

        return graph_html(self)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, table)) - 1} {table}" for table in TABLES[:4])
        return f"<link graph for {self.target.name} of {len(self.inputs) - 1} inputs: {counts}>"
