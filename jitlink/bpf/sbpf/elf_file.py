"""The records of an SBPF file, each read only where the file holds all of it.

Source: gABI chapters 4 and 5 (Object Files, Program Loading).
"""

from __future__ import annotations

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
PT_LOAD, PT_DYNAMIC = 1, 2
PF_X, PF_R = 1, 4
SHT_DYNAMIC, SHT_DYNSYM = 6, 11
DT_REL, DT_RELSZ, DT_RELENT = 17, 18, 19
STT_FUNC = 2
LONGEST_NAME = 255
"""Bytes of a name that are looked at."""


class ElfFile:
    """The bytes of a file, and its header. Attributes: data (uint8[n]); header; segments (rows of PHDR)."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data: Buffer = np.frombuffer(data, np.uint8)
        self.header = self.table(0, 1, elf.EHDR, "ELF header")[0]
        self._require_ours()
        count = int(self.header["phnum"])
        self.segments = self.table(int(self.header["phoff"]), count, PHDR, "program headers")

    def _require_ours(self) -> None:
        header = self.header
        if int(header["ident"]) & elf.IDENT_MASK != elf.IDENT:
            raise UnsupportedInput("this is not an ELF file of 64 bits, little-endian, as SBPF programs are")
        type, machine = int(header["type_and_machine"]) & 0xFFFF, int(header["type_and_machine"]) >> 16
        if machine not in (EM_BPF, EM_SBPF):
            raise UnsupportedInput(f"the file is for machine {machine}, not for BPF (247) or SBPF (263)")
        if type != ET_DYN:
            raise UnsupportedInput(
                f"an SBPF program is a shared object (ET_DYN, 3), and this file is of type {type}",
                hint="Relocatable objects are loaded with bpf.load" if type == elf.ET_REL else None,
            )

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
        start, end = self.contents(sections[number], "of names")
        return [self.text(start, end, name).decode(errors="replace") for name in sections["name"].tolist()]

    def text(self, start: int, end: int, at: int) -> bytes:
        """A name in the table of strings from start to end, cut to LONGEST_NAME."""
        if start + at >= end:
            raise MalformedInput(f"a name is at {at:#x}, outside of its table of strings", offset=start)
        found = self.data[start + at : min(start + at + LONGEST_NAME, end)].tobytes()
        return found.split(b"\0", 1)[0]

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
        """The dynamic table, values by tag: of the segment PT_DYNAMIC, or the section. Empty where there is none."""
        for rows in (self.segments[self.segments["type"] == PT_DYNAMIC], sections[sections["type"] == SHT_DYNAMIC]):
            if len(rows):
                size = int(rows[0]["filesz" if "filesz" in (rows.dtype.names or ()) else "size"])
                entries = self.table(int(rows[0]["offset"]), size // DYN.itemsize, DYN, "dynamic entries")
                ends = (entries["tag"] == 0).nonzero()[0]
                entries = entries[: ends[0]] if len(ends) else entries
                return dict(zip(entries["tag"].tolist(), entries["value"].tolist(), strict=True))
        return {}

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
