"""Reading ELF: relocatable objects, many at once, into one link graph.

64-bit little-endian objects of any machine whose architecture has a table from relocation number to
kind. All objects of a batch are read together: the headers of all are gathered in one step, then the
section headers, the symbols and the relocations of all. A step is a handful of array operations, and
no loop runs over objects, sections, symbols or relocations.

Each section that takes part in the image becomes a section and a block of the graph. Symbol i of an
object keeps its place among the symbols of its object, so that the symbol index of a relocation needs
no table. Nothing is resolved here: the passes see what the objects say.

Source: gABI chapters 4 and 5 (Object Files, Sections, Symbol Table, Relocation).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.columns import NO_ROWS, Rows, load_records, owners, rows_of, starts_of
from jitlink.errors import MalformedInput, UnsupportedInput
from jitlink.formats import elf_layout as elf
from jitlink.formats.batch import Batch
from jitlink.formats.elf_names import purposes_by_name
from jitlink.formats.elf_relocations import read_relocations
from jitlink.graph import Definition, Lifetime, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.protection import Protection

Mask = npt.NDArray[np.bool_]

STRUCTURE = (
    elf.SHT_NULL,
    elf.SHT_SYMTAB,
    elf.SHT_STRTAB,
    elf.SHT_RELA,
    elf.SHT_REL,
    elf.SHT_CREL,
    elf.SHT_GROUP,
    elf.SHT_SYMTAB_SHNDX,
)
PURPOSE_BY_TYPE = {
    elf.SHT_NOTE: Purpose.NOTE,
    elf.SHT_INIT_ARRAY: Purpose.INIT_ARRAY,
    elf.SHT_FINI_ARRAY: Purpose.FINI_ARRAY,
    elf.SHT_PREINIT_ARRAY: Purpose.PREINIT_ARRAY,
}
LARGEST_ALIGNMENT = 1 << 30


def is_elf(content: bytes) -> bool:
    """Whether content starts as an ELF file does."""
    return content.startswith(elf.MAGIC)


def machine_of(content: bytes) -> int:
    """The e_machine of an ELF header, whatever its class; content: at least 20 bytes."""
    return int.from_bytes(content[18:20], "little" if content[5] == elf.DATA_LITTLE else "big")


def read_elf(batch: Batch, target: Architecture, *, everything: bool = False) -> LinkGraph:
    """Read relocatable objects into one link graph.

    everything: also what does not take part in the image, such as debug sections and comments, with
    the relocations of those. Raises MalformedInput and UnsupportedInput, naming the input.
    """
    reader = ElfReader(batch, target)
    reader.read_headers()
    reader.read_section_headers()
    reader.choose_sections(everything)
    reader.read_symbols()
    reader.read_groups()
    return reader.graph()


class ElfReader:
    """The columns of a batch of objects, filled step by step.

    Section columns have one row for each section header of each object, in order; symbol columns one
    for each symbol. `owner` is the input of a section, `first_section` where the sections of an input
    start, so that index i of input k means row first_section[k] + i.
    """

    def __init__(self, batch: Batch, target: Architecture) -> None:
        self.batch = batch
        self.target = target

    def read_headers(self) -> None:
        """Read the file headers. Leaves the position and number of each input's section headers."""
        batch = self.batch
        batch.refuse_any(batch.sizes < elf.EHDR.itemsize, "the file ends inside its ELF header")
        header = load_records(batch.pool, batch.starts, elf.EHDR)
        ident = np.ascontiguousarray(header["ident"]).view(np.uint8).reshape(-1, 16)
        self._refuse_other_files(header, ident)
        offset, number = header["shoff"], header["shnum"].astype(np.int64)
        self.string_section = header["shstrndx"].astype(np.int64)
        has_sections = offset != 0
        batch.refuse_any(~has_sections & (number != 0), "it has section headers at offset 0")
        batch.refuse_any(
            has_sections & (header["shentsize"] != elf.SHDR.itemsize), "its section headers are not 64 bytes each"
        )
        sizes = batch.sizes.astype(np.uint64)
        outside = (offset > sizes) | (sizes - offset < elf.SHDR.itemsize)
        batch.refuse_any(has_sections & outside, "its section headers lie past the end of the file")
        # With 0xff00 sections or more, the numbers are in the fields of section 0 (gABI, e_shnum).
        extended = has_sections & ((number == 0) | (self.string_section == elf.SHN_XINDEX))
        self.headers_at = batch.starts + np.where(has_sections, offset, 0).astype(np.int64)
        if extended.any():
            rows = extended.nonzero()[0]
            zeroth = load_records(batch.pool, self.headers_at[rows], elf.SHDR)
            room = batch.sizes[rows] // elf.SHDR.itemsize
            claimed = np.minimum(zeroth["size"], np.uint64(1 << 40)).astype(np.int64)
            batch.refuse_any((number[rows] == 0) & (claimed > room), "it claims more sections than fit", rows)
            number[rows] = np.where(number[rows] == 0, claimed, number[rows])
            by_link = self.string_section[rows] == elf.SHN_XINDEX
            self.string_section[rows] = np.where(by_link, zeroth["link"], self.string_section[rows])
        table_end = offset + number.astype(np.uint64) * np.uint64(elf.SHDR.itemsize)
        batch.refuse_any(has_sections & (table_end > sizes), "its section headers go past the end of the file")
        batch.refuse_any(
            (number > 0) & (self.string_section >= number), "the index of its section name table is out of range"
        )
        self.section_count = number

    def _refuse_other_files(self, header: npt.NDArray[Any], ident: npt.NDArray[np.uint8]) -> None:
        """Refuse what is not a relocatable object for our machine, with the reason."""
        magic = np.frombuffer(elf.MAGIC, np.uint8)
        wanted = (elf.CLASS_64, elf.DATA_LITTLE, elf.VERSION_CURRENT)
        good = (
            (ident[:, :4] == magic).all(axis=1)
            & (ident[:, 4:7] == np.array(wanted, np.uint8)).all(axis=1)
            & (header["type"] == elf.ET_REL)
            & (header["machine"] == self.target.elf_machine)
        )
        if good.all():
            return
        input = int((~good).argmax())
        name, raw, found = self.batch.names[input], ident[input].tobytes(), header[input]
        if not is_elf(raw):
            raise MalformedInput("it does not start as an ELF file does", input=name)
        if raw[4] != elf.CLASS_64:
            raise UnsupportedInput("a 32-bit ELF file; only 64-bit objects are linked", input=name)
        if raw[5] != elf.DATA_LITTLE:
            raise UnsupportedInput("a big-endian ELF file; only little-endian objects are linked", input=name)
        if raw[6] != elf.VERSION_CURRENT:
            raise MalformedInput(f"unknown ELF version {raw[6]}", input=name)
        if found["type"] != elf.ET_REL:
            sort = elf.TYPE_NAMES.get(int(found["type"]), f"a file of ELF type {found['type']}")
            hint = "Give the object it was made from, or load it with jitlink.shared_library()"
            raise UnsupportedInput(f"{sort}; only relocatable objects are linked", input=name, hint=hint)
        raise UnsupportedInput(
            f"an object for machine {found['machine']}; this link is for {self.target.name} ({self.target.elf_machine})",
            input=name,
        )

    def read_section_headers(self) -> None:
        """Read the section headers of all inputs. Leaves section columns whose contents lie in their files."""
        batch = self.batch
        self.first_section = starts_of(self.section_count)[:-1]
        self.owner = owners(self.section_count)
        headers = load_records(batch.pool, rows_of(self.headers_at, self.section_count, 64), elf.SHDR)
        self.type = headers["type"].astype(np.int64)
        self.flags = np.ascontiguousarray(headers["flags"])
        self.link = headers["link"].astype(np.int64)
        self.info = headers["info"].astype(np.int64)
        self.entry_size = headers["entsize"]
        self.alignment = headers["addralign"].copy()
        # Section 0 is the null section; its size and link may hold extended numbers, not a range.
        self.type[self.first_section[self.section_count > 0]] = elf.SHT_NULL
        file_size = batch.sizes[self.owner].astype(np.uint64)
        offset, size = headers["offset"], headers["size"]
        self.filled = (self.type != elf.SHT_NOBITS) & (self.type != elf.SHT_NULL)
        outside = self.filled & ((offset > file_size) | (size > file_size - offset))
        batch.refuse_any(outside, "section {} goes past the end of the file", self.owner, self.first_section)
        self.size = np.ascontiguousarray(size)
        self.position = np.where(self.filled, offset, 0).astype(np.int64) + batch.starts[self.owner]
        batch.refuse_any(
            (self.link >= self.section_count[self.owner]) & (self.type != elf.SHT_NULL),
            "section {} is linked to a section that is not there",
            self.owner,
            self.first_section,
        )
        self._refuse_overlaps()
        self._read_section_names(headers["name"].astype(np.int64))

    def _refuse_overlaps(self) -> None:
        """Refuse two sections of one file that share bytes."""
        rows = (self.filled & (self.size > 0)).nonzero()[0]
        position = self.position[rows]
        order = position.argsort(kind="stable")
        rows, position = rows[order], position[order]
        ends = position + self.size[rows].view(np.int64)
        overlap = ends[:-1] > position[1:]
        self.batch.refuse_any(overlap, "two of its sections share bytes of the file", self.owner[rows])

    def _read_section_names(self, offset: Rows) -> None:
        """Find where the name of each section stands in the pool."""
        table = (self.first_section + self.string_section)[self.section_count > 0]
        self._check_string_tables(table)
        strings = np.zeros(len(self.batch), np.int64)
        strings[self.section_count > 0] = table
        table_of = strings[self.owner]
        outside = offset.view(np.uint64) >= np.maximum(self.size[table_of], 1)
        self.batch.refuse_any(
            outside, "the name of section {} lies outside the name table", self.owner, self.first_section
        )
        self.name = self.position[table_of] + offset

    def _check_string_tables(self, rows: Rows) -> None:
        """Refuse sections that are used as string tables and are none, or do not end with a NUL."""
        if not len(rows):
            return
        self.batch.refuse_any(
            self.type[rows] != elf.SHT_STRTAB, "a section that is used as string table is none", self.owner[rows]
        )
        last = self.position[rows] + self.size[rows].view(np.int64) - 1
        unterminated = (self.size[rows] > 0) & (self.batch.pool[np.maximum(last, 0)] != 0)
        self.batch.refuse_any(unterminated, "a string table does not end with a NUL byte", self.owner[rows])

    def choose_sections(self, everything: bool) -> None:
        """Decide which sections become blocks. Leaves block_of: the block row of each section, or 0."""
        structure = np.isin(self.type, STRUCTURE)
        part_of_image = ((self.flags & elf.SHF_ALLOC) != 0) & ((self.flags & elf.SHF_EXCLUDE) == 0)
        kept = ~structure if everything else ~structure & part_of_image
        self.kept = kept.nonzero()[0]
        self.block_of = np.zeros(len(self.type), np.int64)
        self.block_of[self.kept] = np.arange(1, len(self.kept) + 1)
        self.part_of_image = part_of_image[self.kept]
        flags = self.flags[self.kept]
        both = elf.SHF_WRITE | elf.SHF_EXECINSTR
        mixed = ((flags & both) == both) & self.part_of_image
        if mixed.any():
            row = int(self.kept[mixed.argmax()])
            raise UnsupportedInput(
                "a section that is to be writable and executable at once",
                input=self.batch.names[int(self.owner[row])],
                section=LinkGraph(self.target, self.batch.pool).name_at(int(self.name[row])),
                hint="Split it: no page is ever both",
            )
        alignment = np.maximum(self.alignment[self.kept], 1)
        self.batch.refuse_any(
            ((alignment & (alignment - np.uint64(1))) != 0) | (alignment > LARGEST_ALIGNMENT),
            "the alignment of a section is not a power of two up to 2**30",
            self.owner[self.kept],
        )
        self.block_alignment = alignment.view(np.int64)
        self.batch.refuse_any(
            self.size[self.kept] >= 1 << 62, "the size of a section is out of all bounds", self.owner[self.kept]
        )

    def read_symbols(self) -> None:
        """Read the symbol tables of all inputs. Leaves symbol columns, row 0 the null symbol."""
        batch = self.batch
        tables = (self.type == elf.SHT_SYMTAB).nonzero()[0]
        batch.refuse_any(np.bincount(self.owner[tables], minlength=len(batch)) > 1, "it has two symbol tables")
        size = self.size[tables]
        record = np.uint64(elf.SYM.itemsize)
        batch.refuse_any(
            (self.entry_size[tables] != record) | (size % record != 0),
            "its symbol table is not made of 24-byte records",
            self.owner[tables],
        )
        count = (size // record).view(np.int64)
        self.symbol_count = np.zeros(len(batch), np.int64)
        self.symbol_count[self.owner[tables]] = count
        # Row 0 is the graph's null symbol, so the symbols of the first input start at row 1.
        self.first_symbol = starts_of(self.symbol_count)[:-1] + 1
        self.symbol_tables = tables
        symbols = load_records(batch.pool, rows_of(self.position[tables], count, elf.SYM.itemsize), elf.SYM)
        self.symbol_owner = self.owner[tables].repeat(count)
        strings = (self.first_section[self.owner[tables]] + self.link[tables]).repeat(count)
        self._check_string_tables(self.first_section[self.owner[tables]] + self.link[tables])
        name = symbols["name"].astype(np.int64)
        outside = name >= np.maximum(self.size[strings].view(np.int64), 1)
        batch.refuse_any(
            outside, "the name of symbol {} lies outside the string table", self.symbol_owner, self.first_symbol - 1
        )
        self.symbol_name = self.position[strings] + name
        self.symbols = symbols
        self._place_symbols(symbols["shndx"].astype(np.int64))

    def _place_symbols(self, index: Rows) -> None:
        """Find the section and the sort of definition of each symbol."""
        owner = self.symbol_owner
        definition = np.full(len(index), Definition.DEFINED, np.uint8)
        definition[index == elf.SHN_UNDEF] = Definition.UNDEFINED
        section = index
        reserved = (index >= elf.SHN_LORESERVE).nonzero()[0]
        if len(reserved):
            special = index[reserved]
            section = index.copy()
            section[reserved] = 0
            definition[reserved[special == elf.SHN_ABS]] = Definition.ABSOLUTE
            common = (special == elf.SHN_COMMON) | (special == elf.SHN_X86_64_LCOMMON)
            definition[reserved[common]] = Definition.COMMON
            extended = reserved[special == elf.SHN_XINDEX]
            section[extended] = self._extended_indices(extended)
            known = common | (special == elf.SHN_ABS) | (special == elf.SHN_XINDEX)
            self.batch.refuse_any(
                ~known, "a symbol has an unknown reserved section index", owner[reserved]
            )
        self.batch.refuse_any(
            section >= self.section_count[owner],
            "symbol {} is in a section that is not there",
            owner,
            self.first_symbol - 1,
        )
        self.symbol_block = self.block_of[self.first_section[owner] + section] if len(owner) else NO_ROWS
        # What lies in a section that takes no part in the image is defined nowhere in it.
        elsewhere = (definition == Definition.DEFINED) & (self.symbol_block == 0)
        definition[elsewhere] = Definition.UNDEFINED
        definition[self.first_symbol[self.symbol_count > 0] - 1] = Definition.ABSOLUTE
        self.definition = definition
        self.symbol_section = section
        common = definition == Definition.COMMON
        if common.any():
            alignment = self.symbols["value"]
            odd = common & (((alignment & (alignment - np.uint64(1))) != 0) | (alignment > LARGEST_ALIGNMENT))
            self.batch.refuse_any(
                odd, "the alignment of common symbol {} is no power of two", owner, self.first_symbol - 1
            )

    def _extended_indices(self, symbols: Rows) -> Rows:
        """Look up the section indices of symbols whose st_shndx is SHN_XINDEX (gABI, SHT_SYMTAB_SHNDX)."""
        table_of = np.full(len(self.batch), -1, np.int64)
        tables = (self.type == elf.SHT_SYMTAB_SHNDX).nonzero()[0]
        table_of[self.owner[tables]] = tables
        owner = self.symbol_owner[symbols]
        table = table_of[owner]
        self.batch.refuse_any(table < 0, "a symbol needs an extended index table, and there is none", owner)
        entry = symbols - (self.first_symbol[owner] - 1)
        outside = (entry + 1) * 4 > self.size[table].view(np.int64)
        self.batch.refuse_any(outside, "its extended index table is too short", owner)
        return load_records(self.batch.pool, self.position[table] + entry * 4, np.dtype("<u4")).astype(np.int64)

    def read_groups(self) -> None:
        """Read the section groups. Leaves group_of: the group of each section, or 0; and their signatures."""
        self.group_of = np.zeros(len(self.type), np.int64)
        tables = (self.type == elf.SHT_GROUP).nonzero()[0]
        self.groups = len(tables)
        if not len(tables):
            return
        owner = self.owner[tables]
        refuse = self.batch.refuse_any
        size = self.size[tables].view(np.int64)
        refuse((size < 4) | (size % 4 != 0), "a section group is not a table of 4-byte words", owner)
        word = np.dtype("<u4")
        flags = load_records(self.batch.pool, self.position[tables], word)
        refuse(self.info[tables] >= self.symbol_count[owner], "the signature of a section group is not there", owner)
        self.group_signature = self.first_symbol[owner] + self.info[tables]
        self.group_comdat = (flags & elf.GRP_COMDAT) != 0
        count = size // 4 - 1
        index = load_records(self.batch.pool, rows_of(self.position[tables] + 4, count, 4), word).astype(np.int64)
        member_owner = owner.repeat(count)
        refuse(
            (index == 0) | (index >= self.section_count[member_owner]),
            "a section group has a member that is not there",
            member_owner,
        )
        member = self.first_section[member_owner] + index
        refuse(self.type[member] == elf.SHT_GROUP, "a section group has a group as its member", member_owner)
        refuse(
            np.bincount(member, minlength=len(self.type))[member] > 1,
            "a section is in two section groups",
            member_owner,
        )
        self.group_of[member] = np.arange(1, len(tables) + 1).repeat(count)

    def graph(self) -> LinkGraph:
        """Make the link graph of what was read."""
        graph = LinkGraph(self.target, self.batch.pool, self.batch.names)
        self._fill_sections(graph)
        self._fill_blocks(graph)
        self._fill_symbols(graph)
        self._fill_groups(graph)
        tables = (self.type == elf.SHT_STRTAB).nonzero()[0]
        tables = tables[self.position[tables].argsort(kind="stable")]
        graph.string_tables = (self.position[tables], self.size[tables].view(np.int64))
        read_relocations(self, graph)
        return graph

    def _fill_sections(self, graph: LinkGraph) -> None:
        rows = self.kept
        flags = self.flags[rows]
        protection = np.full(len(rows), Protection.READ, np.uint8)
        protection[(flags & elf.SHF_WRITE) != 0] = Protection.READ | Protection.WRITE
        protection[(flags & elf.SHF_EXECINSTR) != 0] = Protection.READ | Protection.EXECUTE
        purpose = np.zeros(len(rows), np.uint8)
        section_type = self.type[rows]
        for number, meaning in PURPOSE_BY_TYPE.items():
            purpose[section_type == number] = meaning
        relocation_read_only = purposes_by_name(self.batch.pool, self.name[rows], self.part_of_image, purpose)
        purpose[(flags & elf.SHF_TLS) != 0] = Purpose.TLS
        protection[relocation_read_only] = Protection.READ
        graph.sections.fill(
            name=_behind_null(self.name[rows], -1),
            input=_behind_null(self.owner[rows] + 1),
            protection=_behind_null(protection),
            lifetime=_behind_null(np.where(self.part_of_image, Lifetime.STANDARD, Lifetime.NO_ALLOC)),
            purpose=_behind_null(purpose),
            type=_behind_null(section_type),
            flags=_behind_null(flags),
            entry_size=_behind_null(self.entry_size[rows]),
            large=_behind_null((flags & self.target.large_section_flag) != 0),
        )

    def _fill_blocks(self, graph: LinkGraph) -> None:
        rows = self.kept
        follows = np.zeros(len(rows), np.int64)
        ordered = ((self.flags[rows] & elf.SHF_LINK_ORDER) != 0).nonzero()[0]
        if len(ordered):
            section = rows[ordered]
            follows[ordered] = self.block_of[self.first_section[self.owner[section]] + self.link[section]]
        graph.blocks.fill(
            section=np.arange(len(rows) + 1),
            content=_behind_null(self.position[rows]),
            size=_behind_null(self.size[rows].view(np.int64)),
            alignment=_behind_null(self.block_alignment, 1),
            zero_fill=_behind_null(self.type[rows] == elf.SHT_NOBITS),
            group=_behind_null(self.group_of[rows]),
            follows=_behind_null(follows),
            live=_behind_null(self.part_of_image, True),
        )

    def _fill_symbols(self, graph: LinkGraph) -> None:
        symbols = self.symbols
        binding, visibility = symbols["info"] >> 4, symbols["other"] & 3
        local = binding == elf.STB_LOCAL
        known = local | (binding == elf.STB_GLOBAL) | (binding == elf.STB_WEAK) | (binding == elf.STB_GNU_UNIQUE)
        self.batch.refuse_any(~known, "symbol {} has an unknown binding", self.symbol_owner, self.first_symbol - 1)
        hidden = (visibility == elf.STV_HIDDEN) | (visibility == elf.STV_INTERNAL)
        scope = np.where(local, Scope.LOCAL, np.where(hidden, Scope.HIDDEN, Scope.DEFAULT))
        graph.symbols.fill(
            name=_behind_null(self.symbol_name, -1),
            block=_behind_null(self.symbol_block),
            offset=_behind_null(symbols["value"]),
            size=_behind_null(symbols["size"]),
            linkage=_behind_null(binding == elf.STB_WEAK),
            scope=_behind_null(scope, Scope.LOCAL),
            definition=_behind_null(self.definition, Definition.ABSOLUTE),
            kind=_behind_null(symbols["info"] & 15),
            input=_behind_null(self.symbol_owner + 1),
        )
        # The value of a null symbol is zero whatever its record says (gABI, index STN_UNDEF).
        nulls = self.first_symbol[self.symbol_count > 0]
        graph.symbols.offset[nulls] = 0
        graph.symbols.scope[nulls] = Scope.LOCAL
        self._name_section_symbols(graph)

    def _name_section_symbols(self, graph: LinkGraph) -> None:
        """Give section symbols, which have no name of their own, the name of their section."""
        rows = (graph.symbols.kind == SymbolKind.SECTION).nonzero()[0]
        defined = rows[graph.symbols.block[rows] != 0]
        graph.symbols.name[defined] = graph.sections.name[graph.symbols.block[defined]]

    def _fill_groups(self, graph: LinkGraph) -> None:
        if self.groups:
            graph.groups.fill(signature=_behind_null(self.group_signature), comdat=_behind_null(self.group_comdat))


def _behind_null(column: npt.NDArray[Any], null: int = 0) -> npt.NDArray[Any]:
    """Put the null row in front of a column."""
    whole = np.empty(len(column) + 1, column.dtype if null >= 0 else np.int64)
    whole[0] = null
    whole[1:] = column
    return whole
