"""Reading COFF: relocatable objects of Windows compilers, many at once, into one link graph.

Ordinary objects and those of /bigobj, which has room for more than 65,279 sections. A COFF object has no
magic number: it starts with its machine. Its sections and symbols refer to each other by number; a symbol
may be followed by auxiliary records, which count as symbols, so that the reader first finds out which
records are symbols at all. They all keep their place in the graph's table: index i of an object's
relocations is row first_symbol + i.

As in jitlink.formats.elf, all objects of a batch are read together, a step at a time, and no loop runs over
objects, sections, symbols or relocations; names of at most eight bytes lie in the records without an end
mark, and become `bytes` in one step.

Members of import libraries take part as objects without sections (jitlink.formats.coff_imports), COMDAT is in
jitlink.formats.coff_comdat, the options that an object gives its linker in jitlink.formats.coff_directives.

Source: Microsoft PE Format specification; winnt.h for /bigobj.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.columns import Rows, load_records, owners, rows_of, starts_of
from jitlink.errors import InputError, UnsupportedInput
from jitlink.formats import coff_layout as coff
from jitlink.formats.batch import Batch
from jitlink.formats.coff_comdat import Comdats, read_comdats
from jitlink.formats.coff_directives import apply_directives
from jitlink.formats.coff_imports import add_imports
from jitlink.formats.coff_names import Names, section_purposes
from jitlink.formats.coff_relocations import read_relocations
from jitlink.graph import NO_NAME, Definition, Lifetime, Linkage, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.protection import Protection

NAME_OF_MACHINE = {coff.MACHINE_AMD64: "x86_64", coff.MACHINE_ARM64: "aarch64"}
MACHINE_OF_NAME = {name: machine for machine, name in NAME_OF_MACHINE.items()}

UNDEFINED, DEFINED, ABSOLUTE, COMMON = map(int, tuple(Definition)[:4])
DEFAULT, LOCAL = int(Scope.DEFAULT), int(Scope.LOCAL)
READ, WRITE, EXECUTE = map(int, (Protection.READ, Protection.WRITE, Protection.EXECUTE))
FIRST_RESERVED_SECTION = 0xFF00
"""Section numbers of ordinary objects are unsigned up to here; the rest are the negative reserved ones."""
DEFAULT_ALIGNMENT = 16
HIGHEST_ALIGNMENT_CODE = 14
LARGEST_COMMON_ALIGNMENT = 32
CLASS_FILE = 103
ZERO = np.zeros(1, np.int64)
I64, U64 = np.dtype(np.int64), np.dtype(np.uint64)


def machine_name(head: bytes) -> str | None:
    """The architecture of an object by the first bytes of its header, or None if it is none that we link for."""
    return NAME_OF_MACHINE.get(_machine(head))


def machine_in_words(head: bytes) -> str:
    """Objects of this sort, in the words of an error."""
    machine = _machine(head)
    return f"COFF objects for {coff.OTHER_MACHINES.get(machine, f'machine {machine:#x}')}"


def _machine(head: bytes) -> int:
    field = head[6:8] if head.startswith(coff.ANONYMOUS) else head[:2]
    return int.from_bytes(field, "little")


def read_coff(batch: Batch, target: Architecture, *, everything: bool = False) -> LinkGraph:
    """Read relocatable objects and members of import libraries into one link graph.

    everything: also what does not take part in the image, such as debug sections and directives, with the
    relocations of those. Raises MalformedInput and UnsupportedInput, naming the input.
    """
    reader = CoffReader(batch, target)
    reader.read_headers()
    reader.read_sections()
    reader.choose_sections(everything)
    reader.read_symbols()
    return reader.graph(read_comdats(reader))


class CoffReader:
    """The columns of a batch of objects, filled step by step.

    Section columns have one row for each section of each object, behind a null row: section number i of
    input k, counted from 1, is row first_section[k] + i. Symbol columns have one row for each record of a
    symbol table, auxiliary ones included, behind a null row.
    """

    def __init__(self, batch: Batch, target: Architecture) -> None:
        self.batch = batch
        self.target = target
        self.names = Names(batch)

    def load(self, positions: Rows, record: np.dtype[Any]) -> npt.NDArray[Any]:
        """Gather a record from each position of the pool. Returns record[n], a copy."""
        return load_records(self.batch.pool, positions, record)

    def read_headers(self) -> None:
        """Read the file headers. Leaves where the sections, symbols and strings of each input are."""
        batch = self.batch
        batch.refuse_any(batch.sizes < coff.HEADER.itemsize, "the file ends inside its COFF header")
        header, big = self.load(batch.starts, coff.HEADER), self.load(batch.starts, coff.BIG_HEADER)
        anonymous = (header["machine"] == 0) & (header["sections"] == 0xFFFF)
        self.is_import = anonymous & (big["version"] == coff.VERSION_IMPORT)
        self.is_big = anonymous & (big["version"] >= coff.VERSION_BIG) & (big["class"] == np.void(coff.BIG_CLASS))
        batch.refuse_any(self.is_big & (batch.sizes < coff.BIG_HEADER.itemsize), "the file ends inside its COFF header")
        machine = np.where(anonymous, big["machine"], header["machine"])
        wrong = (machine != MACHINE_OF_NAME.get(self.target.name, 0)) | (anonymous & ~self.is_import & ~self.is_big)
        wrong |= ~anonymous & ((header["characteristics"] & coff.EXECUTABLE_IMAGE) != 0)
        if np.count_nonzero(wrong):
            raise self._other_file(int(wrong.argmax()), bool(anonymous[wrong.argmax()]), int(machine[wrong.argmax()]))
        self.time = np.where(anonymous, big["time"], header["time"])
        own = {name: np.where(self.is_big, big[name], header[name]).astype(I64) for name in ("sections", "symbols")}
        symbols_at = np.where(self.is_big, big["symbols_at"], header["symbols_at"]).astype(I64)
        headers_at = np.where(self.is_big, coff.BIG_HEADER.itemsize, coff.HEADER.itemsize + header["optional_size"])
        self.section_count = np.where(self.is_import, 0, own["sections"])
        self.has_table = ~self.is_import & (symbols_at > 0)
        self.symbol_count = np.where(self.has_table, own["symbols"], 0)
        self.symbols_at = batch.starts + np.where(self.has_table, symbols_at, 0)
        self.headers_at = batch.starts + headers_at
        self.symbol_size = np.where(self.is_big, coff.BIG_SYMBOL.itemsize, coff.SYMBOL.itemsize)
        end = batch.starts + batch.sizes
        batch.refuse_any(
            self.headers_at + self.section_count * coff.SECTION.itemsize > end,
            "its section headers go past the end of the file",
        )
        self.strings_at = self.symbols_at + self.symbol_count * self.symbol_size
        batch.refuse_any(self.strings_at > end, "its symbol table goes past the end of the file")
        self._find_strings(end)

    def _find_strings(self, end: Rows) -> None:
        """Find the string tables, which follow the symbol tables and start with their own size."""
        batch = self.batch
        # An object without symbols may have one for the names of its sections.
        present = self.has_table & (self.strings_at < end)
        batch.refuse_any(present & (self.strings_at + 4 > end), "the file ends inside its string table")
        at = np.where(present, self.strings_at, len(batch.pool) - 4)
        size = self.load(at, coff.WORD).astype(I64)
        # Some writers give an empty table the size 0 and not 4.
        batch.refuse_any(present & (size > 0) & (size < 4), "its string table has less than 4 bytes")
        batch.refuse_any(present & (self.strings_at + size > end), "its string table goes past the end of the file")
        last = batch.pool[np.where(size > 4, self.strings_at + size, len(batch.pool)) - 1]
        batch.refuse_any(present & (last != 0), "its string table does not end with a NUL byte")
        self.strings_size = np.where(present, size, 0)

    def _other_file(self, input: int, anonymous: bool, machine: int) -> InputError:
        """Make the error for what is not a relocatable object for our machine, with the reason."""
        name = self.batch.names[input]
        ours = MACHINE_OF_NAME.get(self.target.name)
        if anonymous and not (self.is_import[input] or self.is_big[input]):
            hint = "Compile without link-time code generation (/GL)"
            return UnsupportedInput("an anonymous object that is no /bigobj object", input=name, hint=hint)
        if machine != ours:
            of_machine = NAME_OF_MACHINE.get(machine) or coff.OTHER_MACHINES.get(machine) or f"machine {machine:#x}"
            return UnsupportedInput(f"a COFF object for {of_machine}; this link is for {self.target.name}", input=name)
        hint = "Give the objects it was made from"
        return UnsupportedInput("an executable image; only relocatable objects are linked", input=name, hint=hint)

    def read_sections(self) -> None:
        """Read the section headers of all inputs. Leaves section columns whose contents lie in their files."""
        batch, count = self.batch, self.section_count
        # Row 0 is the null section, read from the zeroes behind the last input.
        positions = rows_of(self.headers_at, count, coff.SECTION.itemsize)
        positions = np.concatenate(([len(batch.pool) - coff.SECTION.itemsize], positions))
        self.first_section = starts_of(count)[:-1]
        self.owner = np.concatenate((ZERO, owners(count)))
        headers = self.headers = self.load(positions, coff.SECTION)
        self.flags = headers["flags"].astype(U64)
        self.size = headers["size"].astype(I64)
        data_at = headers["data_at"].astype(I64)
        self.zero_fill = ((self.flags & np.uint64(coff.SCN_CNT_UNINITIALIZED_DATA)) != 0) | (data_at == 0)
        file_size = batch.sizes[self.owner]
        filled = ~self.zero_fill & (self.size > 0)
        self.refuse_sections(filled & (data_at + self.size > file_size), "section {} goes past the end of the file")
        start = batch.starts[self.owner]
        self.position = start + np.where(filled, data_at, 0)
        self._find_relocations(start, file_size)
        self._refuse_overlaps(filled)
        self.section_name, self.section_words = self.names.of_sections(self)

    def refuse_sections(self, faulty: npt.NDArray[np.bool_], fault: str) -> None:
        """Raise MalformedInput for the first faulty section. faulty: bool[sections], null row included."""
        if np.count_nonzero(faulty):
            # Sections are counted from 1, as first_section has it.
            self.batch.refuse_any(faulty, fault, self.owner, self.first_section)

    def _find_relocations(self, start: Rows, file_size: Rows) -> None:
        """Find the relocations of each section; more than 65,534 are counted by the first record."""
        headers = self.headers
        count = headers["relocations"].astype(I64)
        at = headers["relocations_at"].astype(I64)
        record = coff.RELOCATION.itemsize
        overflown = ((self.flags & np.uint64(coff.SCN_LNK_NRELOC_OVFL)) != 0) & (count == coff.COUNT_OVERFLOWN)
        if np.count_nonzero(overflown):
            self.refuse_sections(
                overflown & (at + record > file_size), "the relocations of section {} go past the end of the file"
            )
            rows = overflown.nonzero()[0]
            first = self.load((start + at)[rows], coff.RELOCATION)
            count[rows] = first["address"]
            self.refuse_sections(
                overflown & (count < coff.COUNT_OVERFLOWN),
                "section {} says that its relocations do not fit its header, and counts fewer than would",
            )
            # The record that holds the count is counted, and is no relocation.
            count[rows] -= 1
            at[rows] += record
        self.refuse_sections(
            (count > 0) & (at + count * record > file_size), "the relocations of section {} go past the end of the file"
        )
        self.relocation_count = count
        self.relocations_at = start + at

    def _refuse_overlaps(self, filled: npt.NDArray[np.bool_]) -> None:
        """Refuse contents and relocation tables of one file that share bytes."""
        rows, tables = filled.nonzero()[0], (self.relocation_count > 0).nonzero()[0]
        position = np.concatenate((self.position[rows], self.relocations_at[tables]))
        size = np.concatenate((self.size[rows], self.relocation_count[tables] * coff.RELOCATION.itemsize))
        owner = np.concatenate((self.owner[rows], self.owner[tables]))
        order = position.argsort(kind="stable")
        overlap = position[order][:-1] + size[order][:-1] > position[order][1:]
        self.batch.refuse_any(overlap, "two of its sections share bytes of the file", owner[order])

    def choose_sections(self, everything: bool) -> None:
        """Decide which sections become blocks. Leaves block_of: the block row of each section, or 0."""
        self.purpose, outside = section_purposes(self.section_words)
        flags = self.flags
        removed = (flags & np.uint64(coff.SCN_LNK_REMOVE | coff.SCN_LNK_INFO)) != 0
        part_of_image = ~(removed | outside)
        part_of_image[0] = True
        self.kept = np.arange(len(flags)) if everything else part_of_image.nonzero()[0]
        self.block_of = np.zeros(len(flags), I64)
        self.block_of[self.kept] = np.arange(len(self.kept))
        self.part_of_image = part_of_image
        both = np.uint64(coff.SCN_MEM_EXECUTE | coff.SCN_MEM_WRITE)
        mixed = ((flags & both) == both) & part_of_image
        if np.count_nonzero(mixed):
            section = int(mixed.argmax())
            raise UnsupportedInput(
                "a section that is to be writable and executable at once",
                input=self.batch.names[int(self.owner[section])],
                section=self.names.text(int(self.section_name[section])),
                hint="Split it: no page is ever both",
            )
        code = (flags >> np.uint64(coff.SCN_ALIGN_SHIFT)).astype(I64) & coff.SCN_ALIGN_MASK
        self.refuse_sections(code > HIGHEST_ALIGNMENT_CODE, "the alignment of section {} is none that COFF has")
        self.alignment = np.where(code > 0, 1 << np.maximum(code - 1, 0), DEFAULT_ALIGNMENT)

    def read_symbols(self) -> None:
        """Read the symbol tables of all inputs. Leaves symbol columns, row 0 the null symbol."""
        batch, count = self.batch, self.symbol_count
        self.first_symbol = starts_of(count)[:-1] + 1
        self.symbol_owner = np.concatenate((ZERO, owners(count)))
        self.symbol_index = np.arange(len(self.symbol_owner))
        self.symbol_index[1:] -= self.first_symbol.repeat(count)
        positions = self.symbols_at.repeat(count) + self.symbol_index[1:] * self.symbol_size.repeat(count)
        # The zeroes behind the last input make the null symbol.
        self.symbol_at = np.concatenate(([len(batch.pool) - coff.BIG_SYMBOL.itemsize], positions))
        self._load_symbols(self.symbol_at)
        self._find_auxiliary()
        self.symbol_name = self.names.of_symbols(self)
        self._place_symbols()

    def _load_symbols(self, positions: Rows) -> None:
        """Gather the records, of whichever of the two sizes they are."""
        small_records = self.load(positions, coff.SYMBOL)
        section = small_records["section"].astype(I64)
        # What is below the reserved numbers is unsigned.
        section[(section < 0) & ((section & 0xFFFF) < FIRST_RESERVED_SECTION)] += 1 << 16
        columns = {name: small_records[name] for name in ("type", "class", "aux")}
        if np.count_nonzero(self.is_big):
            big = self.is_big[self.symbol_owner]
            big_records = self.load(positions, coff.BIG_SYMBOL)
            section = np.where(big, big_records["section"], section)
            columns = {name: np.where(big, big_records[name], columns[name]) for name in columns}
        self.raw_name = small_records["name"]
        self.value = small_records["value"].astype(I64)
        self.section_number = section
        self.type, self.storage_class, self.aux = columns["type"], columns["class"], columns["aux"].astype(I64)

    def _find_auxiliary(self) -> None:
        """Find the records that are no symbols of their own. Leaves is_symbol: bool[symbols]."""
        is_symbol = np.ones(len(self.symbol_index), np.bool_)
        leaders = (self.aux > 0).nonzero()[0]
        leaders = leaders[_not_inside_another(leaders, self.aux[leaders])]
        count, owner = self.aux[leaders], self.symbol_owner[leaders]
        self.batch.refuse_any(
            self.symbol_index[leaders] + count >= self.symbol_count[owner],
            "the auxiliary records of a symbol go past the end of the symbol table",
            owner,
        )
        is_symbol[rows_of(leaders + 1, count)] = False
        self.is_symbol = is_symbol
        self.leaders = leaders

    def _place_symbols(self) -> None:
        """Find the block, the sort of definition and the scope of each symbol."""
        batch, owner, section = self.batch, self.symbol_owner, self.section_number
        section[~self.is_symbol] = coff.SYM_ABSOLUTE
        section[0] = coff.SYM_ABSOLUTE
        stray = section < coff.SYM_DEBUG
        stray[1:] |= section[1:] > self.section_count.repeat(self.symbol_count)
        batch.refuse_any(stray, "symbol {} is in a section that is not there", owner, self.first_symbol)
        inside = section > 0
        row = np.where(inside, section + self.first_section[owner], 0)
        self.symbol_section = row
        self.symbol_block = self.block_of[row]
        visible = (self.storage_class == coff.CLASS_EXTERNAL) | (self.storage_class == coff.CLASS_WEAK_EXTERNAL)
        self.scope = np.where(visible & self.is_symbol, DEFAULT, LOCAL).astype(np.uint8)
        self.scope[0] = LOCAL
        definition = np.where(inside, DEFINED, UNDEFINED).astype(np.uint8)
        definition[section < 0] = ABSOLUTE
        common = (section == coff.SYM_UNDEFINED) & (self.storage_class == coff.CLASS_EXTERNAL) & (self.value > 0)
        definition[common] = COMMON
        # What lies in a section that takes no part in the image is defined nowhere in it.
        definition[inside & (self.symbol_block == 0)] = UNDEFINED
        self.definition = definition
        self._find_defaults()

    def _find_defaults(self) -> None:
        """Find the default of each weak external: the symbol that stands in if nobody defines it."""
        self.default_of = np.zeros(len(self.symbol_owner), I64)
        self.linkage = np.zeros(len(self.symbol_owner), np.uint8)
        is_weak = (self.storage_class == coff.CLASS_WEAK_EXTERNAL) & self.is_symbol
        rows = is_weak.nonzero()[0]
        if not len(rows):
            return
        self.linkage[rows] = Linkage.WEAK
        # GNU tools mark weak definitions by the same class, and those have no default.
        rows = rows[self.section_number[rows] == coff.SYM_UNDEFINED]
        owner = self.symbol_owner[rows]
        self.batch.refuse_any(self.aux[rows] == 0, "a weak external has no auxiliary record", owner)
        record = self.load(self.symbol_at[rows] + self.symbol_size[owner], coff.AUX_WEAK)
        default, search = record["default"].astype(I64), record["search"]
        self.batch.refuse_any(default >= self.symbol_count[owner], "the default of a weak external is not there", owner)
        default += self.first_symbol[owner]
        self.batch.refuse_any(~self.is_symbol[default], "the default of a weak external is not there", owner)
        odd = (search < coff.WEAK_SEARCH_NOLIBRARY) | (search > coff.WEAK_ANTI_DEPENDENCY)
        self.batch.refuse_any(odd, "a weak external has an unknown search kind", owner)
        self.default_of[rows] = default
        # Only this kind of search takes members of archives.
        self.linkage[rows[search == coff.WEAK_SEARCH_LIBRARY]] = Linkage.STRONG

    def graph(self, comdats: Comdats) -> LinkGraph:
        """Make the link graph of what was read."""
        graph = LinkGraph(self.target, self.batch.pool, self.batch.names, format="coff")
        graph.added_names = self.names.added
        self._fill_sections(graph)
        self._fill_blocks(graph, comdats)
        self._fill_symbols(graph)
        graph.groups.fill(**comdats.columns())
        tables = (self.strings_size > 4).nonzero()[0]
        tables = tables[self.strings_at[tables].argsort(kind="stable")]
        graph.string_tables = (self.strings_at[tables], self.strings_size[tables])
        read_relocations(self, graph)
        add_imports(self, graph)
        apply_directives(self, graph)
        return graph

    def _fill_sections(self, graph: LinkGraph) -> None:
        kept, flags = self.kept, self.flags[self.kept]
        protection = np.full(len(kept), READ, np.uint8)
        protection[(flags & np.uint64(coff.SCN_MEM_WRITE)) != 0] |= WRITE
        protection[(flags & np.uint64(coff.SCN_MEM_EXECUTE)) != 0] |= EXECUTE
        purpose = self.purpose[kept]
        # Only relocation writes to these.
        protection[np.isin(purpose, (Purpose.PREINIT_ARRAY, Purpose.INIT_ARRAY, Purpose.FINI_ARRAY))] = READ
        name, input = self.section_name[kept], self.owner[kept] + 1
        name[0], input[0] = NO_NAME, 0
        graph.sections.fill(
            name=name,
            input=input,
            protection=protection,
            lifetime=np.where(self.part_of_image[kept], Lifetime.STANDARD, Lifetime.NO_ALLOC).astype(np.uint8),
            purpose=purpose,
            flags=flags,
        )

    def _fill_blocks(self, graph: LinkGraph, comdats: Comdats) -> None:
        kept = self.kept
        alignment = self.alignment[kept]
        alignment[0] = 0
        graph.blocks.fill(
            section=np.arange(len(kept)),
            content=self.position[kept],
            size=self.size[kept],
            alignment=alignment,
            zero_fill=self.zero_fill[kept],
            group=comdats.group_of[kept],
            follows=self.block_of[comdats.parent_of[kept]],
            live=self.part_of_image[kept],
        )

    def _fill_symbols(self, graph: LinkGraph) -> None:
        defined = self.definition == DEFINED
        common = self.definition == COMMON
        absolute = (self.section_number == coff.SYM_ABSOLUTE) & self.is_symbol
        offset = np.where(defined | absolute, self.value, 0)
        size = np.where(common, self.value, 0)
        offset[common] = np.minimum(_next_power_of_two(size[common]), LARGEST_COMMON_ALIGNMENT)
        offset[0] = 0
        kind = np.where(self.type >> 4 == coff.DTYPE_FUNCTION, SymbolKind.FUNCTION, SymbolKind.NONE).astype(np.uint8)
        kind[self.is_section_symbol()] = SymbolKind.SECTION
        kind[self.storage_class == CLASS_FILE] = SymbolKind.FILE
        kind[~self.is_symbol] = SymbolKind.NONE
        input = self.symbol_owner + 1
        input[0] = 0
        graph.symbols.fill(
            name=self.symbol_name,
            block=self.symbol_block,
            offset=offset.astype(U64),
            size=size.astype(U64),
            linkage=self.linkage,
            scope=self.scope,
            definition=self.definition,
            kind=kind,
            input=input,
            alias=self.default_of,
        )

    def is_section_symbol(self) -> npt.NDArray[np.bool_]:
        """The symbols that stand for a section, whose auxiliary record defines it: bool[symbols]."""
        found: npt.NDArray[np.bool_] = (self.storage_class == coff.CLASS_STATIC) & (self.section_number > 0)
        found &= (self.value == 0) & (self.aux > 0) & self.is_symbol & (self.type >> 4 != coff.DTYPE_FUNCTION)
        return found


def _next_power_of_two(size: Rows) -> Rows:
    """The smallest power of two that is not below size. size: int64[n], from 1 on."""
    exponent: Rows = np.ceil(np.log2(np.maximum(size, 1))).astype(np.int64)
    return np.left_shift(np.int64(1), exponent)


def _not_inside_another(rows: Rows, lengths: Rows) -> npt.NDArray[np.bool_]:
    """Which rows do not lie among the records that follow an earlier such row, from the first on: bool[n].

    rows: int64[n], ascending; each claims the next lengths rows.

        end = -1
        for row, length in zip(rows, lengths):
            yield row > end
            if row > end:
                end = row + length

    An auxiliary record may look like a symbol that has some, as the name of a source file does. Only where
    a claim covers another row does one depend on the other, and only such chains are walked.
    """
    outside = np.ones(len(rows), np.bool_)
    if len(rows) < 2:
        return outside
    furthest = np.maximum.accumulate(rows + lengths)
    doubtful = np.zeros(len(rows), np.bool_)
    doubtful[1:] = rows[1:] <= furthest[:-1]
    if not np.count_nonzero(doubtful):
        return outside
    # A chain starts with the sound row before its first doubtful one.
    chain = (doubtful | np.append(doubtful[1:], False)).nonzero()[0]
    end = -1
    for at, row, length in zip(chain.tolist(), rows[chain].tolist(), lengths[chain].tolist(), strict=True):
        if row > end:
            end = row + length
        else:
            outside[at] = False
    return outside
