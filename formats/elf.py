"""Reading ELF: relocatable objects, many at once, into one link graph.

64-bit objects of any machine whose architecture has a table from relocation number to kind, and of
its byte order. All objects of a batch are read together: the headers of all are gathered in one step, then the
section headers, the symbols and the relocations of all. A step is a handful of array operations, and
no loop runs over objects, sections, symbols or relocations.

Each section that takes part in the image becomes a section and a block of the graph. Symbol i of an
object keeps its place among the symbols of its object, so that the symbol index of a relocation needs
no table. Nothing is resolved here: the passes see what the objects say.

Source: gABI chapters 4 and 5 (Object Files, Sections, Symbol Table, Relocation).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jitlink.arches import NAME_OF_ELF_MACHINE
from jitlink.arches.architecture import Architecture
from jitlink.columns import NO_ROWS, Buffer, Rows, load_records, owners, rows_of, starts_of
from jitlink.errors import InputError, MalformedInput, UnsupportedInput
from jitlink.formats import elf_layout as elf
from jitlink.formats.batch import Batch
from jitlink.formats.elf_groups import SectionGroups, read_groups
from jitlink.formats.elf_names import purposes_by_name
from jitlink.formats.elf_relocations import read_relocations
from jitlink.graph import NO_NAME, Definition, Lifetime, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.protection import Protection

STRUCTURE_TYPES = (
    elf.SHT_NULL,
    elf.SHT_SYMTAB,
    elf.SHT_STRTAB,
    elf.SHT_RELA,
    elf.SHT_REL,
    elf.SHT_GROUP,
    elf.SHT_SYMTAB_SHNDX,
)
ORDINARY_TYPES = 32
"""Section types from here on are of an operating system, a processor or a program, or CREL."""
IS_STRUCTURE = np.isin(np.arange(ORDINARY_TYPES + 1), STRUCTURE_TYPES)
PURPOSE_OF_TYPE = np.zeros(ORDINARY_TYPES + 1, np.uint8)
PURPOSE_OF_TYPE[elf.SHT_NOTE] = Purpose.NOTE
PURPOSE_OF_TYPE[elf.SHT_INIT_ARRAY] = Purpose.INIT_ARRAY
PURPOSE_OF_TYPE[elf.SHT_FINI_ARRAY] = Purpose.FINI_ARRAY
PURPOSE_OF_TYPE[elf.SHT_PREINIT_ARRAY] = Purpose.PREINIT_ARRAY
PROTECTION_OF_FLAGS = np.array([1, 3, 1, 3, 5, 5, 5, 5], np.uint8)
"""By the flags SHF_WRITE (1) and SHF_EXECINSTR (4); of an image, a section with both is refused."""
SCOPE_OF_BINDING = np.full(16, Scope.DEFAULT, np.uint8)
SCOPE_OF_BINDING[elf.STB_LOCAL] = Scope.LOCAL
IS_BINDING = np.isin(np.arange(16), (elf.STB_LOCAL, elf.STB_GLOBAL, elf.STB_WEAK, elf.STB_GNU_UNIQUE))
# Plain integers: an enumeration's members cost as much to look up as an array operation on a small object.
UNDEFINED, DEFINED, ABSOLUTE, COMMON = map(int, tuple(Definition)[:4])
DEFAULT, HIDDEN, LOCAL = map(int, Scope)
READ, TLS, SECTION_SYMBOL = int(Protection.READ), int(Purpose.TLS), int(SymbolKind.SECTION)
NO_ALLOC_UNLESS = np.array([Lifetime.NO_ALLOC, Lifetime.STANDARD], np.uint8)
LARGEST_ALIGNMENT = 1 << 30
MOST_BYTES = 1 << 62
ZERO, NOT = np.zeros(1, np.int64), np.zeros(1, np.bool_)
NULL_SECTION = np.zeros((), elf.SHDR)
I64, U64 = np.dtype(np.int64), np.dtype(np.uint64)


def machine_name(head: bytes) -> str | None:
    """The architecture of an object by the first bytes of its header, or None if it is none that we link for."""
    return NAME_OF_ELF_MACHINE.get(_machine(head))


def machine_in_words(head: bytes) -> str:
    """Objects of this sort, in the words of an error."""
    machine, order = _machine(head)
    return f"{order}-endian objects for {elf.MACHINE_NAMES.get(machine, f'machine {machine}')}"


def _machine(head: bytes) -> tuple[int, str]:
    """The e_machine of an ELF header, whatever its class, and its byte order."""
    order: Literal["little", "big"] = "big" if head[5:6] == bytes([elf.DATA_BIG]) else "little"
    return int.from_bytes(head[18:20], order), order


def read_elf(batch: Batch, target: Architecture, *, everything: bool = False) -> LinkGraph:
    """Read relocatable objects into one link graph.

    everything: also what does not take part in the image, such as debug sections and comments, with
    the relocations of those. Raises MalformedInput and UnsupportedInput, naming the input.
    """
    reader = ElfReader(batch, target)
    reader.read_headers()
    reader.read_section_headers()
    reader.choose_sections(everything)
    if everything:
        from jitlink.formats.elf_compressed import unpack_sections

        unpack_sections(reader)
    reader.read_symbols()
    groups = read_groups(reader)
    return reader.graph(groups)


class ElfReader:
    """The columns of a batch of objects, filled step by step.

    Section columns have one row for each section header of each object, in order; symbol columns one
    for each symbol. `owner` is the input of a section, `first_section` where the sections of an input
    start, so that index i of input k means row first_section[k] + i.
    """

    def __init__(self, batch: Batch, target: Architecture) -> None:
        self.batch = batch
        self.target = target
        self.big_endian = target.byte_order == "big"

    def load(self, positions: Rows, record: np.dtype[Any]) -> npt.NDArray[Any]:
        """Gather a record from each position of the pool, of whichever byte order the objects are.

        record: one of the dtypes of elf_layout. Returns record[n], a copy.
        """
        if self.big_endian:
            return load_records(self.batch.pool, positions, record.newbyteorder(">")).astype(record)
        return load_records(self.batch.pool, positions, record)

    def read_headers(self) -> None:
        """Read the file headers. Leaves the position and number of each input's section headers."""
        batch = self.batch
        batch.refuse_any(batch.sizes < elf.EHDR.itemsize, "the file ends inside its ELF header")
        header = self.load(batch.starts, elf.EHDR)
        ident, wanted = header["ident"], elf.ET_REL | self.target.elf_machine << 16
        expected = elf.IDENT
        if self.big_endian:
            ident, wanted = ident.byteswap(), elf.ET_REL << 16 | self.target.elf_machine
            expected = elf.IDENT_BIG
        ours = ((ident & elf.IDENT_MASK) == expected) & (header["type_and_machine"] == wanted)
        if np.count_nonzero(ours) < len(ours):
            raise self._other_file(int((~ours).argmax()))
        self.section_count = header["shnum"].astype(I64)
        self.string_section = header["shstrndx"].astype(I64)
        offset = header["shoff"]
        # Compared without adding, since an offset may be anything up to 2**64.
        room = batch.sizes.view(U64) - (self.section_count * elf.SHDR.itemsize).view(U64)
        usual = (
            (self.section_count > 0)
            & (self.string_section < self.section_count)
            & (header["shentsize"] == elf.SHDR.itemsize)
            & (offset > 0)
            & (offset <= room)
            & (room < MOST_BYTES)
        )
        self.headers_at = batch.starts + offset.view(I64) if len(header) else NO_ROWS
        if np.count_nonzero(usual) < len(usual):
            self._read_unusual_headers(header, (~usual).nonzero()[0])

    def _read_unusual_headers(self, header: npt.NDArray[Any], rows: Rows) -> None:
        """Read headers without sections, or with more than the header itself can count; refuse the rest."""
        batch = self.batch
        refuse = batch.refuse_any
        offset, size = header["shoff"][rows], batch.sizes[rows].view(U64)
        number, strings = self.section_count[rows], self.string_section[rows]
        none = offset == 0
        refuse(none & (number != 0), "it has section headers at offset 0", rows)
        refuse(
            ~none & (header["shentsize"][rows] != elf.SHDR.itemsize), "its section headers are not 64 bytes each", rows
        )
        outside = (offset > size) | (size - np.minimum(offset, size) < elf.SHDR.itemsize)
        refuse(~none & outside, "its section headers lie past the end of the file", rows)
        self.headers_at[rows] = batch.starts[rows] + np.where(none, 0, offset).view(I64)
        # With 0xff00 sections or more, the numbers are in the fields of section 0 (gABI, e_shnum).
        zeroth = self.load(self.headers_at[rows], elf.SHDR)
        claimed = np.minimum(zeroth["size"], np.uint64(MOST_BYTES)).view(I64)
        number = np.where(~none & (number == 0), claimed, number)
        strings = np.where(~none & (strings == elf.SHN_XINDEX), zeroth["link"], strings)
        refuse(
            ~none & (number > (size - np.minimum(offset, size)).view(I64) // elf.SHDR.itemsize),
            "its section headers go past the end of the file",
            rows,
        )
        refuse((number > 0) & (strings >= number), "the index of its section name table is out of range", rows)
        self.section_count[rows] = number
        self.string_section[rows] = strings

    def _other_file(self, input: int) -> InputError:
        """Make the error for what is not a relocatable object for our machine, with the reason."""
        name, start = self.batch.names[input], int(self.batch.starts[input])
        raw = self.batch.pool[start : start + elf.EHDR.itemsize].tobytes()
        if not raw.startswith(elf.MAGIC):
            return MalformedInput("it does not start as an ELF file does", input=name)
        if raw[4] != elf.CLASS_64:
            return UnsupportedInput("a 32-bit ELF file; only 64-bit objects are linked", input=name)
        order, data = self.target.byte_order, elf.DATA_BIG if self.big_endian else elf.DATA_LITTLE
        if raw[5] != data and raw[5] in (elf.DATA_LITTLE, elf.DATA_BIG):
            other = _machine(raw)[1]
            return UnsupportedInput(f"a {other}-endian ELF file; this link is for {order}-endian objects", input=name)
        if raw[5] != data:
            return MalformedInput(f"unknown ELF byte order {raw[5]}", input=name)
        if raw[6] != elf.VERSION_CURRENT:
            return MalformedInput(f"unknown ELF version {raw[6]}", input=name)
        file_type, machine = int.from_bytes(raw[16:18], order), _machine(raw)[0]
        if file_type != elf.ET_REL:
            sort = elf.TYPE_NAMES.get(file_type, f"a file of ELF type {file_type}")
            hint = "Give the object it was made from, or load it with jitlink.shared_library()"
            return UnsupportedInput(f"{sort}; only relocatable objects are linked", input=name, hint=hint)
        ours = f"{self.target.name} ({self.target.elf_machine})"
        return UnsupportedInput(f"an object for machine {machine}; this link is for {ours}", input=name)

    def read_section_headers(self) -> None:
        """Read the section headers of all inputs. Leaves section columns whose contents lie in their files."""
        batch = self.batch
        count = self.section_count
        starts = starts_of(count)
        self.first_section = starts[:-1]
        self.owner = owners(count)
        headers = self.load(rows_of(self.headers_at, count, elf.SHDR.itemsize), elf.SHDR)
        # Section 0 is the null section, whose fields may hold extended numbers and mean nothing else.
        headers[self.first_section[count > 0]] = NULL_SECTION
        self.headers = headers
        self.type = headers["type"].astype(I64)
        self.flags = headers["flags"]
        self.size = headers["size"].astype(U64)
        offset = headers["offset"]
        file_size = batch.sizes[self.owner].view(U64)
        self.filled = (self.type != elf.SHT_NOBITS) & (self.type != elf.SHT_NULL)
        outside = ((offset > file_size) | (self.size > file_size - offset)) & self.filled
        batch.refuse_any(outside, "section {} goes past the end of the file", self.owner, self.first_section)
        self.position = np.where(self.filled, offset, 0).view(I64) + batch.starts[self.owner]
        batch.refuse_any(
            (headers["link"] >= count[self.owner]) & (self.type != elf.SHT_NULL),
            "section {} is linked to a section that is not there",
            self.owner,
            self.first_section,
        )
        self._refuse_overlaps()
        self._find_section_names(headers["name"].astype(I64))

    def _refuse_overlaps(self) -> None:
        """Refuse two sections of one file that share bytes."""
        rows = (self.filled & (self.size > 0)).nonzero()[0]
        position = self.position[rows]
        order = position.argsort(kind="stable")
        rows, position = rows[order], position[order]
        overlap = position[:-1] + self.size[rows[:-1]].view(I64) > position[1:]
        self.batch.refuse_any(overlap, "two of its sections share bytes of the file", self.owner[rows])

    def _find_section_names(self, offset: Rows) -> None:
        """Find where the name of each section stands in the pool."""
        if not len(offset):
            self.name = offset
            return
        has_sections = self.section_count > 0
        table = np.where(has_sections, self.first_section + self.string_section, 0)
        self._check_string_tables(table[has_sections])
        table_of = table[self.owner]
        # An empty table has one name, the empty one at offset 0.
        outside = (offset >= self.size[table_of].view(I64)) & (offset > 0)
        self.batch.refuse_any(
            outside, "the name of section {} lies outside the name table", self.owner, self.first_section
        )
        self.name = self.position[table_of] + offset

    def _check_string_tables(self, rows: Rows) -> None:
        """Refuse sections that are used as string tables and are none, or do not end with a NUL."""
        self.batch.refuse_any(
            self.type[rows] != elf.SHT_STRTAB, "a section that is used as string table is none", self.owner[rows]
        )
        size = self.size[rows].view(I64)
        # Of an empty table the byte before it is looked at, and not minded.
        last = self.batch.pool[self.position[rows] + size - 1]
        self.batch.refuse_any((last != 0) & (size > 0), "a string table does not end with a NUL byte", self.owner[rows])

    def choose_sections(self, everything: bool) -> None:
        """Decide which sections become blocks. Leaves block_of: the block row of each section, or 0."""
        structure = IS_STRUCTURE[np.minimum(self.type, ORDINARY_TYPES)]
        part_of_image = (self.flags & (elf.SHF_ALLOC | elf.SHF_EXCLUDE)) == elf.SHF_ALLOC
        kept = ~structure & (self.type != elf.SHT_CREL) if everything else ~structure & part_of_image
        # Row 0 of the graph's tables is the null row: section 0 of the first input is a null section.
        self.kept = np.concatenate((ZERO, kept.nonzero()[0]))
        self.block_of = np.zeros(max(len(self.type), 1), I64)
        self.block_of[self.kept] = np.arange(len(self.kept))
        self.kept_flags = self.flags[self.kept] if len(self.flags) else np.zeros(1, U64)
        self.part_of_image = part_of_image[self.kept] if len(self.flags) else np.zeros(1, np.bool_)
        both = elf.SHF_WRITE | elf.SHF_EXECINSTR
        mixed = ((self.kept_flags & both) == both) & self.part_of_image
        if np.count_nonzero(mixed):
            raise self._mixed_protection(int(self.kept[mixed.argmax()]))
        self._check_alignments()

    def _mixed_protection(self, section: int) -> UnsupportedInput:
        return UnsupportedInput(
            "a section that is to be writable and executable at once",
            input=self.batch.names[int(self.owner[section])],
            section=self.section_name(section),
            hint="Split it: no page is ever both",
        )

    def section_name(self, section: int) -> str:
        """The name of a section, by its row."""
        return LinkGraph(self.target, self.batch.pool).name_at(int(self.name[section]))

    def _check_alignments(self) -> None:
        """Refuse alignments that are none, and sizes that no memory has."""
        owner = self._of_kept(self.owner)
        alignment = np.maximum(self._of_kept(self.headers["addralign"]), np.uint64(1))
        odd = ((alignment & (alignment - np.uint64(1))) != 0) | (alignment > LARGEST_ALIGNMENT)
        self.batch.refuse_any(odd, "the alignment of a section is not a power of two up to 2**30", owner)
        self.block_alignment = alignment.view(I64)
        self.block_size = self._of_kept(self.size).view(I64)
        self.batch.refuse_any(
            self.block_size.view(U64) >= MOST_BYTES, "the size of a section is out of all bounds", owner
        )

    def _of_kept(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows of a section column that become sections and blocks of the graph, null row first."""
        return column[self.kept] if len(column) else np.zeros(1, column.dtype)

    def replace_pool(self, pool: Buffer) -> None:
        """Go on with a longer pool, in which all positions are still right."""
        self.batch = replace(self.batch, pool=pool)
        self.block_size = self._of_kept(self.size).view(I64)

    def read_symbols(self) -> None:
        """Read the symbol tables of all inputs. Leaves symbol columns, row 0 the null symbol."""
        batch = self.batch
        tables = (self.type == elf.SHT_SYMTAB).nonzero()[0]
        owner = self.owner[tables]
        batch.refuse_any(np.bincount(owner, minlength=len(batch)) > 1, "it has two symbol tables")
        record = np.uint64(elf.SYM.itemsize)
        size = self.size[tables]
        count = (size // record).view(I64)
        batch.refuse_any(
            (self.headers["entsize"][tables] != record) | (count.view(U64) * record != size),
            "its symbol table is not made of 24-byte records",
            owner,
        )
        self.symbol_count = np.zeros(len(batch), I64)
        self.symbol_count[owner] = count
        # Row 0 is the graph's null symbol, so the symbols of the first input start at row 1.
        starts = starts_of(self.symbol_count)
        self.first_symbol = starts[:-1] + 1
        # The zeroes behind the last input make the null symbol.
        positions = np.concatenate(
            ([len(batch.pool) - elf.SYM.itemsize], rows_of(self.position[tables], count, elf.SYM.itemsize))
        )
        symbols = self.load(positions, elf.SYM)
        self.symbols = symbols
        self.symbol_owner = np.concatenate((ZERO, owner.repeat(count)))
        strings = self.first_section[owner] + self.headers["link"][tables]
        self._check_string_tables(strings)
        table_of = np.zeros(len(batch), I64)
        table_of[owner] = strings
        if len(tables):
            table = table_of[self.symbol_owner]
            name = symbols["name"].astype(I64)
            outside = (name >= self.size[table].view(I64)) & (name > 0)
            batch.refuse_any(
                outside, "the name of symbol {} lies outside the string table", self.symbol_owner, self.first_symbol
            )
            self.symbol_name = self.position[table] + name
        else:
            self.symbol_name = np.zeros(1, I64)
        self.string_tables = strings
        self._place_symbols(symbols["shndx"].astype(I64))

    def _place_symbols(self, section: Rows) -> None:
        """Find the block and the sort of definition of each symbol. section: int64[symbols], st_shndx."""
        owner = self.symbol_owner
        definition = (section != elf.SHN_UNDEF).view(np.uint8)
        reserved = (section >= elf.SHN_LORESERVE).nonzero()[0]
        if len(reserved):
            special = section[reserved]
            section[reserved] = 0
            definition[reserved[special == elf.SHN_ABS]] = ABSOLUTE
            common = (special == elf.SHN_COMMON) | (special == elf.SHN_X86_64_LCOMMON)
            definition[reserved[common]] = COMMON
            extended = reserved[special == elf.SHN_XINDEX]
            section[extended] = self._extended_indices(extended)
            known = common | (special == elf.SHN_ABS) | (special == elf.SHN_XINDEX)
            self.batch.refuse_any(~known, "a symbol has an unknown reserved section index", owner[reserved])
            self._check_commons(reserved[common])
        if len(self.first_section):
            self.batch.refuse_any(
                section >= np.maximum(self.section_count, 1)[owner],
                "symbol {} is in a section that is not there",
                owner,
                self.first_symbol,
            )
        if len(self.block_of):
            self.symbol_block = self.block_of[self.first_section[owner] + section]
        else:
            self.symbol_block = np.zeros(len(section), I64)
        # What lies in a section that takes no part in the image is defined nowhere in it.
        definition[(definition == DEFINED) & (self.symbol_block == 0)] = UNDEFINED
        # Symbol 0 of each input is the null symbol: relocations without a symbol refer to it.
        definition[self.first_symbol[self.symbol_count > 0]] = ABSOLUTE
        definition[0] = ABSOLUTE
        self.definition = definition

    def _check_commons(self, symbols: Rows) -> None:
        """Refuse common symbols whose value is no alignment."""
        alignment = self.symbols["value"][symbols]
        odd = ((alignment & (alignment - np.uint64(1))) != 0) | (alignment > LARGEST_ALIGNMENT)
        odd |= self.symbols["size"][symbols] >= MOST_BYTES
        self.batch.refuse_any(
            odd, "a common symbol whose alignment is no power of two, or of boundless size", self.symbol_owner[symbols]
        )

    def _extended_indices(self, symbols: Rows) -> Rows:
        """Look up the section indices of symbols whose st_shndx is SHN_XINDEX (gABI, SHT_SYMTAB_SHNDX)."""
        table_of = np.full(len(self.batch), -1, I64)
        tables = (self.type == elf.SHT_SYMTAB_SHNDX).nonzero()[0]
        table_of[self.owner[tables]] = tables
        owner = self.symbol_owner[symbols]
        table = table_of[owner]
        self.batch.refuse_any(table < 0, "a symbol needs an extended index table, and there is none", owner)
        entry = symbols - self.first_symbol[owner]
        outside = (entry + 1) * 4 > self.size[table].view(I64)
        self.batch.refuse_any(outside, "its extended index table is too short", owner)
        return self.load(self.position[table] + entry * 4, elf.WORD).astype(I64)

    def graph(self, groups: SectionGroups) -> LinkGraph:
        """Make the link graph of what was read."""
        graph = LinkGraph(self.target, self.batch.pool, self.batch.names)
        self._fill_sections(graph)
        self._fill_blocks(graph)
        self._fill_symbols(graph)
        if len(groups.signature):
            graph.blocks.group = self._of_kept(groups.group_of)
            graph.groups.fill(
                signature=np.concatenate((ZERO, groups.signature)), comdat=np.concatenate((NOT, groups.comdat))
            )
        tables = self.string_tables[self.position[self.string_tables].argsort(kind="stable")]
        graph.string_tables = (self.position[tables], self.size[tables].view(I64))
        read_relocations(self, graph)
        return graph

    def _fill_sections(self, graph: LinkGraph) -> None:
        flags = self.kept_flags
        section_type = self._of_kept(self.type)
        protection = PROTECTION_OF_FLAGS[flags & (elf.SHF_WRITE | elf.SHF_EXECINSTR)]
        purpose = PURPOSE_OF_TYPE[np.minimum(section_type, ORDINARY_TYPES)]
        name = self._of_kept(self.name)
        only_relocated = purposes_by_name(self.batch.pool, name, self.part_of_image, purpose)
        purpose[(flags & elf.SHF_TLS) != 0] = TLS
        protection[only_relocated] = READ
        name[0] = NO_NAME
        input = self._of_kept(self.owner) + 1
        input[0] = 0
        graph.sections.fill(
            name=name,
            input=input,
            protection=protection,
            lifetime=NO_ALLOC_UNLESS[self.part_of_image.view(np.uint8)],
            purpose=purpose,
            type=section_type,
            flags=flags,
            entry_size=self._of_kept(self.headers["entsize"]),
            large=(flags & self.target.large_section_flag) != 0,
            retained=(flags & elf.SHF_GNU_RETAIN) != 0,
        )

    def _fill_blocks(self, graph: LinkGraph) -> None:
        kept = self.kept
        live = self.part_of_image.copy()
        live[0] = True
        graph.blocks.fill(
            section=np.arange(len(kept)),
            content=self._of_kept(self.position),
            size=self.block_size,
            alignment=self.block_alignment,
            zero_fill=self._of_kept(self.type) == elf.SHT_NOBITS,
            live=live,
        )
        ordered = ((self.kept_flags & elf.SHF_LINK_ORDER) != 0).nonzero()[0]
        if len(ordered):
            section = kept[ordered]
            linked_to = self.first_section[self.owner[section]] + self.headers["link"][section]
            graph.blocks.follows[ordered] = self.block_of[linked_to]

    def _fill_symbols(self, graph: LinkGraph) -> None:
        symbols = self.symbols
        info = symbols["info"]
        binding = info >> 4
        self.batch.refuse_any(
            ~IS_BINDING[binding], "symbol {} has an unknown binding", self.symbol_owner, self.first_symbol
        )
        scope = SCOPE_OF_BINDING[binding]
        visibility = symbols["other"] & 3
        hidden = (visibility == elf.STV_HIDDEN) | (visibility == elf.STV_INTERNAL)
        scope[hidden & (scope == DEFAULT)] = HIDDEN
        offset = symbols["value"].astype(U64)
        # The value of a null symbol is zero whatever its record says (gABI, index STN_UNDEF).
        nulls = self.first_symbol[self.symbol_count > 0]
        offset[nulls] = 0
        scope[nulls] = LOCAL
        kind = info & 15
        name = self.symbol_name
        # Section symbols have no name of their own and are known by that of their section.
        sections = ((kind == SECTION_SYMBOL) & (self.symbol_block > 0)).nonzero()[0]
        name[sections] = graph.sections.name[self.symbol_block[sections]]
        name[0] = NO_NAME
        input = self.symbol_owner + 1
        input[0] = 0
        graph.symbols.fill(
            name=name,
            block=self.symbol_block,
            offset=offset,
            size=symbols["size"].astype(U64),
            linkage=(binding == elf.STB_WEAK).view(np.uint8),
            scope=scope,
            definition=self.definition,
            kind=kind,
            input=input,
        )
