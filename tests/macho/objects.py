"""Mach-O objects for the tests: assembled, compiled, and written by hand.

    built = Built([Section("__TEXT", "__text", code, relocations=[relocation(1, 2, symbol=0)])], [symbol("_f", 1)])
    bytes(built)

What is written by hand can be wrong in every way that the format allows.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.toolchain import assemble, zig_cc

X86_64, ARM64 = 0x01000007, 0x0100000C
ZIG_TARGET = {"x86_64": "x86_64-macos", "aarch64": "aarch64-macos"}
HEADER_SIZE, SEGMENT_SIZE, SECTION_SIZE, SYMTAB_SIZE, DYSYMTAB_SIZE = 32, 72, 80, 24, 80
PURE_INSTRUCTIONS = 0x80000400
VIA_SYMBOLS = 0x2000
N_SECT, N_EXT, N_UNDF, N_ABS, N_INDR, N_PEXT = 0xE, 0x1, 0x0, 0x2, 0xA, 0x10


def assembled(source: str, machine: str = "x86_64") -> bytes:
    """Assemble a source for macOS; the object is cut into blocks at its symbols."""
    return assemble(source + "\n.subsections_via_symbols\n", target=ZIG_TARGET[machine])


def compiled(source: str, *flags: str, machine: str = "x86_64", language: str = "c") -> bytes:
    """Compile C or C++ for macOS."""
    return zig_cc(source, *flags, target=ZIG_TARGET[machine], language=language)  # type: ignore[arg-type]


def relocation(
    address: int,
    number: int,
    *,
    symbol: int = 0,
    external: bool = True,
    relative: bool = False,
    length: int = 3,
) -> bytes:
    """A relocation record."""
    info = symbol & 0xFFFFFF | relative << 24 | length << 25 | external << 27 | number << 28
    return struct.pack("<II", address, info)


@dataclass
class Section:
    """A section: names, content (or a size, of zeroes), and what its header says."""

    segment: str = "__TEXT"
    name: str = "__text"
    content: bytes | int = b""
    relocations: Sequence[bytes] = ()
    flags: int = PURE_INSTRUCTIONS
    align: int = 0
    address: int | None = None
    reserved1: int = 0
    offset: int | None = None
    size: int | None = None

    @property
    def length(self) -> int:
        """Bytes in memory."""
        return self.content if isinstance(self.content, int) else len(self.content)


@dataclass
class Symbol:
    """A symbol: its name and the other fields of its record."""

    name: str
    section: int = 0
    value: int = 0
    type: int = N_SECT | N_EXT
    desc: int = 0


def undefined(name: str, *, desc: int = 0, value: int = 0) -> Symbol:
    """A reference to a name, or a common symbol of a size."""
    return Symbol(name, type=N_UNDF | N_EXT, desc=desc, value=value)


@dataclass
class Built:
    """An object written by hand."""

    sections: Sequence[Section]
    symbols: Sequence[Symbol] = ()
    cpu: int = X86_64
    flags: int = VIA_SYMBOLS
    file_type: int = 1
    indirect: Sequence[int] = ()
    commands: Sequence[bytes] = ()
    """Load commands beside those that the parts need."""
    changes: dict[int, bytes] = field(default_factory=dict)
    """Bytes to put over the finished object, by their offset."""

    def __bytes__(self) -> bytes:
        commands_size = SEGMENT_SIZE + SECTION_SIZE * len(self.sections) + SYMTAB_SIZE + DYSYMTAB_SIZE
        commands_size += sum(map(len, self.commands))
        start = HEADER_SIZE + commands_size
        body = bytearray()
        headers = b""
        address = 0
        for section in self.sections:
            where = section.address
            if where is None:
                where = -(-address >> section.align) << section.align
            address = where + section.length
            offset = 0
            if isinstance(section.content, bytes):
                offset = start + len(body)
                body += section.content
            at = start + len(body)
            body += b"".join(section.relocations)
            headers += struct.pack(
                "<16s16sQQ8I",
                section.name.encode(),
                section.segment.encode(),
                where,
                section.length if section.size is None else section.size,
                offset if section.offset is None else section.offset,
                section.align,
                at if section.relocations else 0,
                len(section.relocations),
                section.flags,
                section.reserved1,
                0,
                0,
            )
        strings = bytearray(b"\0")
        records = b""
        symbols_at = start + len(body)
        for symbol in self.symbols:
            value = symbol.value
            name_at = len(strings)
            strings += symbol.name.encode() + b"\0"
            records += struct.pack("<IBBHQ", name_at, symbol.type, symbol.section, symbol.desc, value)
        body += records
        indirect_at = start + len(body)
        body += b"".join(entry.to_bytes(4, "little") for entry in self.indirect)
        strings_at = start + len(body)
        body += strings
        segment = struct.pack(
            "<II16s4QiiII", 0x19, SEGMENT_SIZE + len(headers), b"", 0, address, start, len(body), 7, 7,
            len(self.sections), 0,
        )  # fmt: skip
        symtab = struct.pack("<6I", 2, SYMTAB_SIZE, symbols_at, len(self.symbols), strings_at, len(strings))
        dysymtab = struct.pack("<20I", 0xB, DYSYMTAB_SIZE, *(0,) * 12, indirect_at, len(self.indirect), *(0,) * 4)
        extra = b"".join(self.commands)
        header = struct.pack(
            "<8I", 0xFEEDFACF, self.cpu, 0, self.file_type, 3 + len(self.commands), commands_size, self.flags, 0
        )
        made = bytearray(header + segment + headers + symtab + dysymtab + extra + body)
        for at, content in self.changes.items():
            made[at : at + len(content)] = content
        return bytes(made)


def section_at(number: int) -> int:
    """Where the header of a section, counted from 0, starts in a built object."""
    return HEADER_SIZE + SEGMENT_SIZE + SECTION_SIZE * number


def symtab_at(sections: int) -> int:
    """Where the symbol table command of a built object starts."""
    return section_at(sections)
