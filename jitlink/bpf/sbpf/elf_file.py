"""The records of an SBPF file, each read only where the file holds all of it.

Source: gABI chapters 4 and 5 (Object Files, Program Loading).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer
from jitlink.errors import MalformedInput, UnsupportedInput
from jitlink.formats import elf_layout as elf

PHDR = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("vaddr", "<u8"),
        ("paddr", "<u8"),
        ("filesz", "<u8"),
        ("memsz", "<u8"),
        ("align", "<u8"),
    ]
)
DYN = np.dtype([("tag", "<u8"), ("value", "<u8")])
ET_DYN, EM_BPF, EM_SBPF = 3, 247, 263
NAMES = {EM_BPF: "BPF (247)", EM_SBPF: "SBPF (263)"}
PT_LOAD, PT_DYNAMIC = 1, 2
PF_X, PF_R = 1, 4
SHT_DYNAMIC, SHT_DYNSYM = 6, 11
DT_REL, DT_RELSZ, DT_RELENT = 17, 18, 19
STT_FUNC = 2
DT_SYMTAB = 6
LONGEST_NAME = 255
"""Bytes of a function's name that are looked at."""
LONGEST_SECTION_NAME, LONGEST_DYNAMIC_NAME = 16, 64
"""Bytes that other names have at most, each with the zero that ends it."""
TABLE_ALIGNMENT = 8
ABI_SHIFT = 56
"""Where in the first eight bytes of e_ident the ABI is."""
LENIENT_HEADER = {
    "version": elf.VERSION_CURRENT,
    "ehsize": elf.EHDR.itemsize,
    "phentsize": PHDR.itemsize,
    "shentsize": elf.SHDR.itemsize,
}
"""What fields of the header have to be, up to version 2."""
STRICT_HEADER = {
    "ident_rest": 0,
    "version": elf.VERSION_CURRENT,
    "phoff": elf.EHDR.itemsize,
    "ehsize": elf.EHDR.itemsize,
    "phentsize": PHDR.itemsize,
}
"""And in version 3, where nothing is said of sections."""


class ElfFile:
    """The bytes of a file, and its header. Attributes: data (uint8[n]); header; segments (rows of PHDR)."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data: Buffer = np.frombuffer(data, np.uint8)
        self.header = self.table(0, 1, elf.EHDR, "ELF header")[0]
        self._require_ours()
        count = int(self.header["phnum"])
        self.segments = self.table(int(self.header["phoff"]), count, PHDR, "program headers")

    def _require_ours(self) -> None:
        identity = int(self.header["ident"])
        if identity & elf.IDENT_MASK != elf.IDENT:
            raise UnsupportedInput("this is not an ELF file of 64 bits, little-endian, as SBPF programs are")
        if identity >> ABI_SHIFT:
            raise UnsupportedInput(f"the file is for the ABI {identity >> ABI_SHIFT}, and not for ABI 0")
        self.require_machine(EM_BPF, EM_SBPF)

    def require_machine(self, *machines: int) -> None:
        """Refuse files for other machines. Raises UnsupportedInput."""
        machine = int(self.header["type_and_machine"]) >> 16
        if machine not in machines:
            wanted = " or ".join(NAMES[each] for each in machines)
            raise UnsupportedInput(f"the file is for machine {machine}, not for {wanted}")

    def require_shared_object(self) -> None:
        """Refuse files of other types. Raises UnsupportedInput."""
        type = int(self.header["type_and_machine"]) & 0xFFFF
        if type != ET_DYN:
            raise UnsupportedInput(
                f"an SBPF program is a shared object (ET_DYN, 3), and this file is of type {type}",
                hint="Relocatable objects are loaded with bpf.load" if type == elf.ET_REL else None,
            )

    def require_fields(self, expected: Mapping[str, int]) -> None:
        """Refuse headers whose fields are not as expected. Raises MalformedInput."""
        for field, value in expected.items():
            if int(self.header[field]) != value:
                raise MalformedInput(f"the field {field} of the header is {int(self.header[field])}, and not {value}")

    def table(self, offset: int, count: int, record: np.dtype[Any], what: str) -> npt.NDArray[Any]:
        """Read count records at offset. Raises MalformedInput where the file ends before them."""
        size = count * record.itemsize
        if offset + size > len(self.data):
            raise MalformedInput(f"the {what} run over the end of the file", offset=offset)
        return np.frombuffer(self.data[offset : offset + size].tobytes(), record)

    def sections(self) -> npt.NDArray[Any]:
        """The section headers, rows of SHDR."""
        if not int(self.header["shoff"]):
            return np.zeros(0, elf.SHDR)
        return self.table(int(self.header["shoff"]), int(self.header["shnum"]), elf.SHDR, "section headers")

    def contents(self, section: Any, what: str) -> tuple[int, int]:
        """The first byte of a section and the one behind its last. Raises MalformedInput as table does."""
        start, size = int(section["offset"]), int(section["size"])
        if section["type"] == elf.SHT_NOBITS:
            size = 0
        if start + size > len(self.data):
            raise MalformedInput(f"the section {what} runs over the end of the file", offset=start)
        return start, start + size

    def names(self, sections: npt.NDArray[Any]) -> list[str]:
        """The names of sections."""
        number = int(self.header["shstrndx"])
        if not len(sections):
            return []
        if number >= len(sections):
            raise MalformedInput(f"the names of sections are in section {number}, which there is not")
        if sections[number]["type"] != elf.SHT_STRTAB:
            raise MalformedInput(f"the section {number}, of the names of sections, is no table of strings")
        start, end = self.contents(sections[number], "of names")
        places = sections["name"].tolist()
        return [self.name(start, end, place, LONGEST_SECTION_NAME).decode(errors="replace") for place in places]

    def text(self, start: int, end: int, at: int) -> bytes:
        """A name in the table of strings from start to end, cut to LONGEST_NAME."""
        if start + at >= end:
            raise MalformedInput(f"a name is at {at:#x}, outside of its table of strings", offset=start)
        found = self.data[start + at : min(start + at + LONGEST_NAME, end)].tobytes()
        return found.split(b"\0", 1)[0]

    def name(self, start: int, end: int, at: int, longest: int = LONGEST_DYNAMIC_NAME) -> bytes:
        """The same for a name that counts: one that is longer, or that nothing ends, is refused."""
        found = self.text(start, end, at)
        if len(found) >= longest or start + at + len(found) >= end:
            raise MalformedInput(f"the name at {at:#x} is longer than {longest - 1} bytes, or nothing ends it")
        return found

    def dynamic_symbols(
        self, sections: npt.NDArray[Any], names: list[str], dynamic: Mapping[int, int]
    ) -> tuple[npt.NDArray[Any], tuple[int, int]]:
        """The symbols that the dynamic table names, and where their names are. Empty where it names none."""
        address = dynamic.get(DT_SYMTAB, 0)
        if not address:
            return np.zeros(0, elf.SYM), (0, 0)
        tables = np.isin(sections["type"], (elf.SHT_SYMTAB, SHT_DYNSYM)) & (sections["addr"] == address)
        if not tables.any():
            raise MalformedInput(f"the dynamic table says that symbols are at {address:#x}, where no table of them is")
        start, end = self.contents(sections[tables][0], "of symbols")
        of_names = [each for each, name in zip(sections, names, strict=True) if name == ".dynstr"]
        strings = (0, 0)
        if of_names and of_names[0]["type"] == elf.SHT_STRTAB:
            strings = self.contents(of_names[0], ".dynstr")
        return self.table(start, (end - start) // elf.SYM.itemsize, elf.SYM, "symbols"), strings

    def symbols(self, sections: npt.NDArray[Any], type: int) -> tuple[npt.NDArray[Any], tuple[int, int]]:
        """The symbols of the first section of a type, and where their names are. Empty where there is none."""
        of_type = (sections["type"] == type).nonzero()[0]
        if not len(of_type):
            return np.zeros(0, elf.SYM), (0, 0)
        section = sections[of_type[0]]
        start, end = self.contents(section, "of symbols")
        if section["link"] >= len(sections):
            raise MalformedInput("the names of symbols are in a section that there is not", offset=start)
        strings = self.contents(sections[section["link"]], "of strings")
        return self.table(start, (end - start) // elf.SYM.itemsize, elf.SYM, "symbols"), strings

    def dynamic(self, sections: npt.NDArray[Any]) -> dict[int, int]:
        """The dynamic table, values by tag, of the segment PT_DYNAMIC; where that is broken or there is none, of the
        section. Empty where there is neither. Raises MalformedInput for a broken section."""
        for segment in self.segments[self.segments["type"] == PT_DYNAMIC][:1]:
            start, size = int(segment["offset"]), int(segment["filesz"])
            if size % DYN.itemsize == 0 and start + size <= len(self.data):
                return self._dynamic_entries(start, size)
        for section in sections[sections["type"] == SHT_DYNAMIC][:1]:
            size = int(section["size"])
            if size % DYN.itemsize:
                raise MalformedInput(f"a dynamic table of {size} bytes is not a whole number of entries")
            return self._dynamic_entries(int(section["offset"]), size)
        return {}

    def _dynamic_entries(self, start: int, size: int) -> dict[int, int]:
        entries = self.table(start, size // DYN.itemsize, DYN, "dynamic entries")
        ends = (entries["tag"] == 0).nonzero()[0]
        entries = entries[: ends[0]] if len(ends) else entries
        return dict(zip(entries["tag"].tolist(), entries["value"].tolist(), strict=True))

    def offset_of(self, address: int, sections: npt.NDArray[Any]) -> int:
        """Where in the file the byte of an address is. Raises MalformedInput where the file does not say."""
        loaded = self.segments[self.segments["type"] == PT_LOAD]
        for segment in loaded[(loaded["vaddr"] <= address)]:
            within = address - int(segment["vaddr"])
            if within < int(segment["filesz"]):
                return int(segment["offset"]) + within
        found = (sections["addr"] == address).nonzero()[0]
        if not len(found):
            raise MalformedInput(f"the dynamic table says {address:#x}, which no segment and no section holds")
        return int(sections[found[0]]["offset"])


def check_layout(file: ElfFile, sections: npt.NDArray[Any]) -> None:
    """Refuse files whose header, tables and sections overlap, or whose sections are not in the order of the file.

    sections: rows of SHDR. Raises MalformedInput.
    """
    header = file.header
    tables = [("header", 0, elf.EHDR.itemsize)]
    for name, start, size in (
        ("program headers", int(header["phoff"]), len(file.segments) * PHDR.itemsize),
        ("section headers", int(header["shoff"]), len(sections) * elf.SHDR.itemsize),
    ):
        if start % TABLE_ALIGNMENT:
            raise MalformedInput(f"the {name} are not aligned to {TABLE_ALIGNMENT} bytes", offset=start)
        for other, other_start, other_end in tables:
            if _overlap(start, start + size, other_start, other_end):
                raise MalformedInput(f"the {name} and the {other} overlap", offset=start)
        tables.append((name, start, start + size))
    if len(sections) and sections[0]["type"] != elf.SHT_NULL:
        raise MalformedInput("the first section is not empty")
    end = 0
    for section in sections[sections["type"] != elf.SHT_NOBITS]:
        start, size = int(section["offset"]), int(section["size"])
        if start < end:
            raise MalformedInput("sections overlap, or are not in the order of the file", offset=start)
        end = start + size
        for name, table_start, table_end in tables:
            if _overlap(start, end, table_start, table_end):
                raise MalformedInput(f"a section and the {name} overlap", offset=start)


def _overlap(start: int, end: int, other_start: int, other_end: int) -> bool:
    """Whether neither of two ranges lies behind the other; so an empty one in the middle of another overlaps it."""
    return start < other_end and other_start < end
