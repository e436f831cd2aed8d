"""The symbols of Mach-O objects: nlist records into columns.

A record's type says whether the symbol is in a section, absolute, undefined or a second name for another
one (N_INDR); an undefined one with a value is a common symbol of that size. Bits of its description say
the rest: weak, not to be stripped, an alternative entry into the block before it, a resolver that chooses
a function. Records of debuggers (N_STAB) stand between the others and are no symbols of the link.

Source: <mach-o/nlist.h>.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, distinct, rows_of, starts_of
from jitlink.formats import macho_layout as macho
from jitlink.graph import NO_NAME, Definition, Linkage, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.protection import Protection

if TYPE_CHECKING:
    from jitlink.formats.macho import MachOReader

NONE = -1
UNDEFINED, DEFINED, ABSOLUTE, COMMON, _, ALIAS = map(int, Definition)
STRONG = int(Linkage.STRONG)
LARGEST_COMMON = 1 << 40
LARGEST_NATURAL_ALIGNMENT = 15
"""A common symbol that does not say its alignment has that of its size, up to 2**15 (Apple's linker, ld64)."""
NOT_STRIPPED = macho.N_NO_DEAD_STRIP | macho.REFERENCED_DYNAMICALLY
WEAK_REFERENCE = macho.N_WEAK_REF
KNOWN_TYPES = np.isin(np.arange(16), (macho.N_UNDF, macho.N_ABS, macho.N_INDR, macho.N_SECT, 0xC))
"""0xC is N_PBUD: undefined, and looked up in advance by linkers of old."""


@dataclass
class Symbols:
    """The symbols of a batch, row 0 the null symbol.

    Attributes: first (int64[inputs], row of symbol 0 of each input), count (int64[inputs]); owner, name
    (position in the pool), definition, section (row of the section header, or -1), value, desc, is_stab,
    is_external and is_private (N_EXT and N_PEXT), alias_name (position of the name that an ALIAS stands
    for): a column each; string_tables (starts and sizes in the pool).
    """

    first: Rows
    count: Rows
    owner: Rows
    name: Rows
    definition: npt.NDArray[np.uint8]
    section: Rows
    value: npt.NDArray[np.uint64]
    desc: npt.NDArray[np.int64]
    is_stab: npt.NDArray[np.bool_]
    is_external: npt.NDArray[np.bool_]
    is_private: npt.NDArray[np.bool_]
    alias_name: Rows
    string_tables: tuple[Rows, Rows]

    def in_sections(self) -> Rows:
        """The symbols that are defined in a section."""
        rows: Rows = (self.section != NONE).nonzero()[0]
        return rows

    def fill(self, reader: MachOReader, graph: LinkGraph) -> None:
        """Fill the table of symbols, behind the real ones those that aliases stand for."""
        rows = self.in_sections()
        block, offset = np.zeros(len(self.owner), np.int64), self.value.copy()
        size = np.zeros(len(self.owner), np.uint64)
        definition, name = self.definition.copy(), self.name.copy()
        place = self.value[rows].view(np.int64) - reader.address[self.section[rows]]
        block[rows] = reader.blocks.at(self.section[rows], place)
        within = place - reader.blocks.start_of(block[rows])
        offset[rows] = within.view(np.uint64)
        cut = reader.by_symbols[self.owner[rows]]
        size[rows] = np.where(cut, graph.blocks.size[block[rows]] - within, 0).view(np.uint64)
        # What lies in a section that takes no part in the image is defined nowhere in it.
        outside = rows[block[rows] == 0]
        definition[outside], offset[outside], size[outside] = UNDEFINED, 0, 0
        commons = definition == COMMON
        size[commons] = self.value[commons]
        offset[commons] = self._common_alignments(reader, commons.nonzero()[0])
        offset[(definition == UNDEFINED) | (definition == ALIAS)] = 0
        name[0] = NO_NAME
        input = self.owner + 1
        input[0] = 0
        graph.symbols.fill(
            name=name,
            block=block,
            offset=offset,
            size=size,
            linkage=self._linkage(),
            scope=self._scope(),
            definition=definition,
            kind=self._kind(graph, block, definition),
            input=input,
            retained=((self.desc & NOT_STRIPPED) != 0) & (definition == DEFINED),
        )
        graph.string_tables = self.string_tables
        self._add_alias_targets(graph)

    def _linkage(self) -> npt.NDArray[np.uint8]:
        """Weak definitions, and references that may stay unmet. The same bits mean other things in the other case."""
        defined = self.section != NONE
        weak = np.where(defined, self.desc & macho.N_WEAK_DEF, self.desc & WEAK_REFERENCE) != 0
        weak &= self.is_external & (defined | (self.definition == UNDEFINED))
        return np.where(weak, np.uint8(Linkage.WEAK), np.uint8(Linkage.STRONG))

    def _scope(self) -> npt.NDArray[np.uint8]:
        scope = np.full(len(self.owner), Scope.LOCAL, np.uint8)
        scope[self.is_external] = Scope.DEFAULT
        scope[self.is_external & self.is_private] = Scope.HIDDEN
        return scope

    def _kind(self, graph: LinkGraph, block: Rows, definition: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Mach-O does not say what a symbol is: in code it is taken for a function, elsewhere for a variable."""
        section = graph.blocks.section[block]
        executable = (graph.sections.protection[section] & Protection.EXECUTE) != 0
        kind = np.where(executable, np.uint8(SymbolKind.FUNCTION), np.uint8(SymbolKind.OBJECT))
        kind[graph.sections.purpose[section] == Purpose.TLS] = SymbolKind.TLS
        kind[executable & ((self.desc & macho.N_SYMBOL_RESOLVER) != 0)] = SymbolKind.IFUNC
        kind[definition != DEFINED] = SymbolKind.NONE
        kind[self.is_stab] = SymbolKind.FILE
        return kind

    def _common_alignments(self, reader: MachOReader, rows: Rows) -> npt.NDArray[np.uint64]:
        """The alignments of common symbols: uint64[rows]."""
        size = self.value[rows]
        reader.batch.refuse_any(
            size > np.uint64(LARGEST_COMMON), "a common symbol of boundless size", self.owner[rows], None
        )
        given = (self.desc[rows] >> macho.COMMON_ALIGNMENT_SHIFT) & macho.COMMON_ALIGNMENT_MASK
        natural = np.ceil(np.log2(size.astype(np.float64))).astype(np.int64)
        power = np.where(given > 0, given, np.minimum(natural, LARGEST_NATURAL_ALIGNMENT))
        return np.uint64(1) << power.view(np.uint64)

    def _add_alias_targets(self, graph: LinkGraph) -> None:
        """Add a reference to the name that each alias stands for."""
        rows = (self.definition == ALIAS).nonzero()[0]
        if len(rows):
            graph.symbols.alias[rows] = graph.symbols.append(
                len(rows),
                name=self.alias_name[rows],
                scope=Scope.DEFAULT,
                definition=UNDEFINED,
                input=self.owner[rows] + 1,
            )


class Anchors:
    """A symbol at the start of each block, for references that name no symbol.

    That is the block's own first symbol, if no other definition can take its place; else a local symbol that
    is made for it and named after the section. What lies in no block has a symbol that is defined nowhere.
    """

    def __init__(self, graph: LinkGraph) -> None:
        self.graph = graph
        symbols = graph.symbols
        own = (symbols.definition == DEFINED) & (symbols.offset == 0) & (symbols.linkage == STRONG)
        rows = (own & (symbols.kind != SymbolKind.IFUNC)).nonzero()[0]
        self.of_block = np.zeros(len(graph.blocks), np.int64)
        # Of several symbols the first one is taken.
        self.of_block[symbols.block[rows[::-1]]] = rows[::-1]

    def at(self, block: Rows) -> Rows:
        """The symbol of each block: int64[n] of int64[n], rows of the graph."""
        graph = self.graph
        missing = block[self.of_block[block] == 0]
        if len(missing):
            blocks, _ = distinct(missing, len(graph.blocks))
            section = graph.blocks.section[blocks]
            self.of_block[blocks] = graph.symbols.append(
                len(blocks),
                name=graph.sections.name[section],
                block=blocks,
                scope=Scope.LOCAL,
                definition=np.where(blocks > 0, DEFINED, UNDEFINED),
                kind=SymbolKind.SECTION,
                input=graph.sections.input[section],
            )
        rows: Rows = self.of_block[block]
        return rows


def read_symbols(reader: MachOReader) -> Symbols:
    """Read the symbol tables of all inputs. Raises MalformedInput."""
    batch = reader.batch
    inputs = (reader.symtab_at != NONE).nonzero()[0]
    tables = reader.load(reader.symtab_at[inputs], macho.SYMTAB)
    count, size = tables["nsyms"].astype(np.int64), tables["strsize"].astype(np.int64)
    start, strings = tables["symoff"].astype(np.int64), tables["stroff"].astype(np.int64)
    file_size = batch.sizes[inputs]
    batch.refuse_any(
        start + count * macho.NLIST.itemsize > file_size, "its symbol table goes past the end of the file", inputs
    )
    batch.refuse_any(strings + size > file_size, "its string table goes past the end of the file", inputs)
    strings += batch.starts[inputs]
    # Of an empty table the byte before it is looked at, and not minded.
    last = batch.pool[strings + size - 1]
    batch.refuse_any((last != 0) & (size > 0), "its string table does not end with a NUL byte", inputs)
    symbol_count = np.zeros(len(batch), np.int64)
    symbol_count[inputs] = count
    first = starts_of(symbol_count)[:-1] + 1
    # The zeroes behind the last input make the null symbol.
    positions = rows_of(batch.starts[inputs] + start, count, macho.NLIST.itemsize)
    records = reader.load(np.concatenate(([len(batch.pool) - macho.NLIST.itemsize], positions)), macho.NLIST)
    owner = np.concatenate(([0], inputs.repeat(count)))
    table_start, table_size = (np.zeros(len(batch), np.int64) for _ in range(2))
    table_start[inputs], table_size[inputs] = strings, size
    offset = records["strx"].astype(np.int64)
    outside = (offset >= table_size[owner]) & (offset > 0)
    batch.refuse_any(outside, "the name of symbol {} lies outside the string table", owner, first)
    order = strings.argsort(kind="stable")
    symbols = Symbols(
        first=first,
        count=symbol_count,
        owner=owner,
        name=table_start[owner] + offset,
        definition=np.zeros(len(records), np.uint8),
        section=np.full(len(records), NONE, np.int64),
        value=records["value"].astype(np.uint64),
        desc=records["desc"].astype(np.int64),
        is_stab=(records["type"] & macho.N_STAB) != 0,
        is_external=(records["type"] & macho.N_EXT) != 0,
        is_private=(records["type"] & macho.N_PEXT) != 0,
        alias_name=np.zeros(len(records), np.int64),
        string_tables=(strings[order], size[order]),
    )
    _define(reader, symbols, records, table_start, table_size)
    return symbols


def _define(
    reader: MachOReader, symbols: Symbols, records: npt.NDArray[np.void], table_start: Rows, table_size: Rows
) -> None:
    """Find out how each symbol is defined, and in which section."""
    refuse, owner, first = reader.batch.refuse_any, symbols.owner, symbols.first
    sort = records["type"] & macho.N_TYPE
    sort[symbols.is_stab] = macho.N_ABS
    symbols.is_external &= ~symbols.is_stab
    refuse(~KNOWN_TYPES[sort], "symbol {} is of unknown type", owner, first)
    definition = symbols.definition
    common = (sort == macho.N_UNDF) & (symbols.value != 0) & symbols.is_external
    definition[common] = COMMON
    definition[sort == macho.N_ABS] = ABSOLUTE
    definition[0] = ABSOLUTE
    rows = (sort == macho.N_SECT).nonzero()[0]
    definition[rows] = DEFINED
    inside = owner[rows]
    ordinal = records["sect"][rows].astype(np.int64)
    absent = np.zeros(len(owner), np.bool_)
    absent[rows] = (ordinal < 1) | (ordinal > reader.section_count[inside])
    refuse(absent, "symbol {} is in a section that is not there", owner, first)
    section = reader.first_section[inside] + ordinal - 1
    symbols.section[rows] = section
    low = reader.address[section].view(np.uint64) if len(section) else symbols.value[rows]
    outside = np.zeros(len(owner), np.bool_)
    outside[rows] = symbols.value[rows] - low > reader.size[section].view(np.uint64)
    refuse(outside, "symbol {} lies outside of its section", owner, first)
    _find_alias_names(reader, symbols, (sort == macho.N_INDR).nonzero()[0], table_start, table_size)


def _find_alias_names(reader: MachOReader, symbols: Symbols, rows: Rows, table_start: Rows, table_size: Rows) -> None:
    """Find the names that aliases stand for: their values are offsets into the string table."""
    symbols.definition[rows] = ALIAS
    owner = symbols.owner[rows]
    outside = symbols.value[rows] >= table_size[owner].view(np.uint64)
    reader.batch.refuse_any(outside, "the name that an alias stands for lies outside the string table", owner)
    symbols.alias_name[rows] = table_start[owner] + symbols.value[rows].view(np.int64)
