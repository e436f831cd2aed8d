"""Reading Mach-O: relocatable objects, many at once, into one link graph.

An object of Mach-O is a header, load commands behind it, and what these point at: one segment with all
sections, and one symbol table. All objects of a batch are read together, as the ELF reader does it: a
step is a handful of array operations over the records of all objects. Load commands differ in size, so
they are walked, one step for the first command of all objects, one for the second of all, and so on.

Three things differ from ELF. A section of an object that was compiled for it (MH_SUBSECTIONS_VIA_SYMBOLS)
is cut into blocks at its symbols (jitlink.formats.macho_blocks). Symbols and relocations speak of
addresses in the object's own address space, so a place is found by searching among the starts of blocks.
And names have an underscore that C does not have (jitlink.graph.naming).

Symbol i of an object keeps its place among the symbols of its object. Nothing is resolved here.

Source: <mach-o/loader.h>, <mach-o/nlist.h>.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.arches.macho import rules_of
from jitlink.columns import NO_ROWS, Rows, load_records, owners, rows_of, starts_of
from jitlink.errors import InputError, MalformedInput, UnsupportedInput
from jitlink.formats import macho_layout as macho
from jitlink.formats.batch import Batch
from jitlink.formats.macho_blocks import Blocks, cut_into_blocks
from jitlink.formats.macho_edges import together
from jitlink.formats.macho_eh_frame import fill_edges
from jitlink.formats.macho_pointers import read_symbol_pointers
from jitlink.formats.macho_relocations import read_relocations
from jitlink.formats.macho_sections import Sections, choose_sections
from jitlink.formats.macho_symbols import Anchors, Symbols, read_symbols
from jitlink.graph import LinkGraph

NAME_OF_CPU = {macho.CPU_TYPE_X86_64: "x86_64", macho.CPU_TYPE_ARM64: "aarch64"}
MAGIC = macho.MAGIC_64.to_bytes(4, "little")
MOST_COMMANDS = 4096
"""Load commands of one object; compilers write about five."""
LARGEST_ADDRESS = 1 << 47
"""Past the end of any section, in the address space of an object."""
MOST_BYTES = float(1 << 60)
"""Bytes of all sections of a batch together, zero-fill included."""
NONE = -1
I64, U64 = np.dtype(np.int64), np.dtype(np.uint64)


def machine_name(head: bytes) -> str | None:
    """The architecture of an object by the first bytes of its header, or None if it is none that we link for."""
    return NAME_OF_CPU.get(int.from_bytes(head[4:8], "little"))


def machine_in_words(head: bytes) -> str:
    """Objects of this sort, in the words of an error."""
    cpu = int.from_bytes(head[4:8], "little")
    return f"Mach-O objects for {macho.CPU_NAMES.get(cpu, f'CPU type {cpu:#x}')}"


def read_macho(batch: Batch, target: Architecture, *, everything: bool = False) -> LinkGraph:
    """Read relocatable objects into one link graph.

    everything: also what does not take part in the image, such as debug sections, with the relocations
    of those. Raises MalformedInput and UnsupportedInput, naming the input.
    """
    reader = MachOReader(batch, target)
    reader.read_headers()
    reader.read_commands()
    reader.read_section_headers()
    reader.sections = choose_sections(reader, everything)
    reader.symbols = read_symbols(reader)
    reader.blocks = cut_into_blocks(reader)
    graph = LinkGraph(target, batch.pool, batch.names, format="macho")
    reader.sections.fill(graph)
    reader.blocks.fill(reader, graph)
    reader.symbols.fill(reader, graph)
    reader.anchors = Anchors(graph)
    edges = together((read_relocations(reader, graph), read_symbol_pointers(reader)))
    fill_edges(reader, graph, edges)
    return graph


class MachOReader:
    """The columns of a batch of objects, filled step by step.

    Section columns have one row for each section of each object, in order: section n of input k, counted
    from 1 as the format does, is row first_section[k] + n - 1. `owner` is the input of a section.
    """

    sections: Sections
    symbols: Symbols
    blocks: Blocks
    anchors: Anchors

    def __init__(self, batch: Batch, target: Architecture) -> None:
        self.batch = batch
        self.target = target
        self.rules = rules_of(target.name)

    def load(self, positions: Rows, record: np.dtype[Any]) -> npt.NDArray[Any]:
        """Gather a record of macho_layout from each position of the pool."""
        return load_records(self.batch.pool, positions, record)

    def read_headers(self) -> None:
        """Read the file headers. Leaves flags and, for each input, how many load commands there are."""
        batch = self.batch
        batch.refuse_any(batch.sizes < macho.HEADER.itemsize, "the file ends inside its Mach-O header")
        header = self.load(batch.starts, macho.HEADER)
        ours = (
            (header["magic"] == macho.MAGIC_64)
            & (header["cputype"] == self.rules.cpu_type)
            & (header["filetype"] == macho.MH_OBJECT)
        )
        if np.count_nonzero(ours) < len(ours):
            raise self._other_file(int((~ours).argmax()))
        self.by_symbols = (header["flags"] & macho.MH_SUBSECTIONS_VIA_SYMBOLS) != 0
        self.command_count = header["ncmds"].astype(I64)
        self.commands_size = header["sizeofcmds"].astype(I64)
        batch.refuse_any(
            self.commands_size > batch.sizes - macho.HEADER.itemsize, "its load commands go past the end of the file"
        )
        batch.refuse_any(self.command_count > MOST_COMMANDS, f"it has more than {MOST_COMMANDS} load commands")

    def _other_file(self, input: int) -> InputError:
        """Make the error for what is not a relocatable object for our machine, with the reason."""
        name, start = self.batch.names[input], int(self.batch.starts[input])
        header = self.load(np.array([start]), macho.HEADER)[0]
        magic, cpu, sort = (int(header[field]) for field in ("magic", "cputype", "filetype"))
        if magic != macho.MAGIC_64:
            if magic in macho.OTHER_MAGICS:
                return UnsupportedInput(f"{macho.OTHER_MAGICS[magic]}; only 64-bit objects are linked", input=name)
            return MalformedInput("it does not start as a Mach-O file does", input=name)
        if sort != macho.MH_OBJECT:
            words = macho.FILE_TYPES.get(sort, f"a file of Mach-O type {sort}")
            hint = "Give the object it was made from"
            return UnsupportedInput(f"{words}; only relocatable objects are linked", input=name, hint=hint)
        found = macho.CPU_NAMES.get(cpu, f"CPU type {cpu:#x}")
        return UnsupportedInput(f"an object for {found}; this link is for {self.target.name}", input=name)

    def read_commands(self) -> None:
        """Walk the load commands of all inputs. Leaves where the segment and the symbol tables are described.

        Each of segment_at, symtab_at and dysymtab_at is the position of a command in the pool, or NONE.
        """
        batch = self.batch
        self.segment_at, self.symtab_at, self.dysymtab_at = (np.full(len(batch), NONE, I64) for _ in range(3))
        self.segment_size = np.zeros(len(batch), I64)
        wanted = {
            macho.LC_SEGMENT_64: (self.segment_at, macho.SEGMENT.itemsize, "segment"),
            macho.LC_SYMTAB: (self.symtab_at, macho.SYMTAB.itemsize, "symbol table"),
            macho.LC_DYSYMTAB: (self.dysymtab_at, macho.DYSYMTAB.itemsize, "dynamic symbol table"),
        }
        at = batch.starts + macho.HEADER.itemsize
        end = at + self.commands_size
        for number in range(int(self.command_count.max(initial=0))):
            rows = (self.command_count > number).nonzero()[0]
            batch.refuse_any(
                at[rows] + macho.COMMAND.itemsize > end[rows], f"load command {number} lies past the others", rows
            )
            command = self.load(at[rows], macho.COMMAND)
            sort, size = command["cmd"], command["cmdsize"].astype(I64)
            batch.refuse_any(
                (size < macho.COMMAND.itemsize) | (size % 4 != 0),
                f"load command {number} has a size that is none",
                rows,
            )
            batch.refuse_any(at[rows] + size > end[rows], f"load command {number} lies past the others", rows)
            for code, (place, least, words) in wanted.items():
                here = rows[sort == code]
                if len(here):
                    batch.refuse_any(place[here] != NONE, f"it has two {words} commands", here)
                    batch.refuse_any(size[sort == code] < least, f"its {words} command is too short", here)
                    place[here] = at[here]
                    if code == macho.LC_SEGMENT_64:
                        self.segment_size[here] = size[sort == code]
            at[rows] += size

    def read_section_headers(self) -> None:
        """Read the section headers of all inputs. Leaves section columns whose contents lie in their files."""
        batch = self.batch
        rows = (self.segment_at != NONE).nonzero()[0]
        count = self.load(self.segment_at[rows], macho.SEGMENT)["nsects"].astype(I64)
        room = (self.segment_size[rows] - macho.SEGMENT.itemsize) // macho.SECTION.itemsize
        batch.refuse_any(count > room, "its segment command has no room for its sections", rows)
        self.section_count = np.zeros(len(batch), I64)
        self.section_count[rows] = count
        self.first_section = starts_of(self.section_count)[:-1]
        self.owner = owners(self.section_count)
        headers = self.load(
            rows_of(self.segment_at[rows] + macho.SEGMENT.itemsize, count, macho.SECTION.itemsize), macho.SECTION
        )
        self.headers = headers
        self.flags = headers["flags"]
        self.type = (self.flags & macho.SECTION_TYPE).astype(I64)
        self._check_places(headers["addr"], headers["size"])

    def _check_places(self, address: npt.NDArray[np.uint64], size: npt.NDArray[np.uint64]) -> None:
        """Refuse sections that lie outside of their file or on each other."""
        refuse, owner, first = self.batch.refuse_any, self.owner, self.first_section
        largest = np.uint64(LARGEST_ADDRESS)
        beyond = (address > largest) | (size > largest)
        refuse(beyond, "the address or size of section {} is out of all bounds", owner, first)
        self.address, self.size = address.astype(I64), size.astype(I64)
        if np.add.reduce(self.size, dtype=np.float64) > MOST_BYTES:
            refuse(self.size == self.size.max(), "the size of section {} is out of all bounds", owner, first)
        self.zero_fill = np.isin(self.type, (macho.S_ZEROFILL, macho.S_GB_ZEROFILL, macho.S_THREAD_LOCAL_ZEROFILL))
        offset = self.headers["offset"].astype(I64)
        outside = (offset + self.size > self.batch.sizes[owner]) & ~self.zero_fill
        refuse(outside, "section {} goes past the end of the file", owner, first)
        refuse(self.headers["align"] > 30, "the alignment of section {} is more than 2**30", owner, first)
        self.position = self.batch.starts[owner] + np.where(self.zero_fill, 0, offset)
        self._refuse_overlaps(self.position, ~self.zero_fill, "two of its sections share bytes of the file")
        self._refuse_overlaps(self.address, self.size > 0, "two of its sections share addresses")

    def _refuse_overlaps(self, start: Rows, among: npt.NDArray[np.bool_], fault: str) -> None:
        rows = (among & (self.size > 0)).nonzero()[0]
        if len(rows):
            rows = rows[np.lexsort((start[rows], self.owner[rows]))]
            overlap = start[rows[:-1]] + self.size[rows[:-1]] > start[rows[1:]]
            overlap &= self.owner[rows[:-1]] == self.owner[rows[1:]]
            self.batch.refuse_any(overlap, fault, self.owner[rows])

    def section_row(self, input: Rows, ordinal: Rows, fault: str, first: Rows | None = None) -> Rows:
        """The row of section number ordinal, from 1, of each input. Raises MalformedInput where there is none."""
        self.batch.refuse_any((ordinal < 1) | (ordinal > self.section_count[input]), fault, input, first)
        return self.first_section[input] + ordinal - 1 if len(input) else NO_ROWS
