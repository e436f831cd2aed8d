"""A symbol file: what a debugger is told of linked code, as an ELF object in memory.

It has a section for each range of code, which says where the range is and holds no bytes (SHT_NOBITS:
they are in memory already), the symbols of the functions, and, where there are such, the unwind records
and the debug sections. Section headers with addresses in a relocatable object (ET_REL) are what GDB
takes as "this is where it was loaded".

Sources: gABI, chapter 4; GDB manual, chapter JIT Compilation Interface.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ET_REL = 1
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS = 1, 2, 3, 8
SHF_ALLOC, SHF_EXECINSTR = 2, 4
LOCAL_FUNCTION = 0x02
HEADER_SIZE, SECTION_SIZE, SYMBOL_SIZE = 64, 64, 24
MOST_RANGES = 0xF000
"""Section numbers from 0xff00 on are reserved (SHN_LORESERVE)."""


@dataclass(frozen=True)
class Range:
    """A range of code that is in memory."""

    address: int
    size: int


@dataclass(frozen=True)
class Function:
    """A function in one of the ranges, by its number; offset in bytes from the start of the range."""

    name: bytes
    range: int
    offset: int
    size: int


def symbol_file(
    elf_machine: int,
    ranges: Sequence[Range],
    functions: Sequence[Function],
    debug_sections: dict[str, bytes],
    unwind: tuple[int, bytes] | None = None,
) -> bytes:
    """Write a symbol file. debug_sections: by name, relocated; unwind: address and bytes of .eh_frame."""
    sections = [(".text", SHT_NOBITS, SHF_ALLOC | SHF_EXECINSTR, each.address, b"", each.size) for each in ranges]
    if unwind is not None:
        address, records = unwind
        sections.append((".eh_frame", SHT_PROGBITS, SHF_ALLOC, address, records, len(records)))
    sections += [(name, SHT_PROGBITS, 0, 0, content, len(content)) for name, content in debug_sections.items()]
    names = bytearray(b"\0")
    symbols = bytearray(SYMBOL_SIZE)
    for function in functions:
        entry = len(names), LOCAL_FUNCTION, 0, function.range + 1, function.offset, function.size
        symbols += struct.pack("<IBBHQQ", *entry)
        names += function.name + b"\0"
    sections.append((".symtab", SHT_SYMTAB, 0, 0, bytes(symbols), len(symbols)))
    sections.append((".strtab", SHT_STRTAB, 0, 0, bytes(names), len(names)))
    return _written(elf_machine, sections)


def _written(elf_machine: int, sections: list[tuple[str, int, int, int, bytes, int]]) -> bytes:
    """Put the sections behind the header, and their headers behind them."""
    section_names = b"\0" + b"".join(name.encode(errors="surrogateescape") + b"\0" for name, *_ in sections)
    section_names += b".shstrtab\0"
    body, headers = bytearray(), bytearray(SECTION_SIZE)
    name_at = 1
    strings = len(sections)  # .strtab comes last of those, and sections are numbered from 1
    for name, kind, flags, address, content, size in sections:
        body += bytes(-len(body) % 16)
        at = HEADER_SIZE + len(body)
        link, first_global = (strings, len(content) // SYMBOL_SIZE) if kind == SHT_SYMTAB else (0, 0)
        entry_size = SYMBOL_SIZE if kind == SHT_SYMTAB else 0
        alignment = 16 if flags & SHF_EXECINSTR else 8 if kind == SHT_SYMTAB else 1
        fields = flags, address, at, size, link, first_global, alignment, entry_size
        headers += struct.pack("<IIQQQQIIQQ", name_at, kind, *fields)
        name_at += len(name.encode(errors="surrogateescape")) + 1
        body += content
    at = HEADER_SIZE + len(body)
    headers += struct.pack("<IIQQQQIIQQ", name_at, SHT_STRTAB, 0, 0, at, len(section_names), 0, 0, 1, 0)
    body += section_names
    body += bytes(-len(body) % 8)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(ET_REL, elf_machine, 1, 0, 0, HEADER_SIZE + len(body), 0),
        *(HEADER_SIZE, 0, 0, SECTION_SIZE, len(sections) + 2, len(sections) + 1),
    )
    return header + bytes(body) + bytes(headers)
