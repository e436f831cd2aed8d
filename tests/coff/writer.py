"""A writer of COFF objects: every field can be said, also wrong ones, and nothing is checked.

    made = Object()
    text = made.section(".text", b"\\xc3", CODE)
    made.symbol("f", section=text)
    made.write()

Symbols are numbered as the relocations of COFF number them, with auxiliary records counted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

AMD64, ARM64 = 0x8664, 0xAA64
CODE, READ_ONLY, DATA, ZEROES = 0x6000_0020, 0x4000_0040, 0xC000_0040, 0xC000_0080
COMDAT, INFO, REMOVE, OVERFLOW = 0x1000, 0x200, 0x800, 0x0100_0000
EXTERNAL, STATIC, WEAK_EXTERNAL, FILE = 2, 3, 105, 103
FUNCTION = 0x20
ABSOLUTE, DEBUG = -1, -2
NO_DUPLICATES, ANY, SAME_SIZE, EXACT_MATCH, ASSOCIATIVE, LARGEST, NEWEST = range(1, 8)
BIG_CLASS = bytes.fromhex("c7a1bad1eebaa94baf20faf66aa4dcb8")


@dataclass
class Section:
    """A section: what its header says, and its relocations as (offset, symbol, type)."""

    name: bytes
    content: bytes
    flags: int
    size: int
    relocations: list[tuple[int, int, int]] = field(default_factory=list)
    count: int | None = None
    data_at: int | None = None
    relocations_at: int | None = None


@dataclass
class Object:
    """An object under construction."""

    machine: int = AMD64
    big: bool = False
    time: int = 0
    sections: list[Section] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    strings: bytes = b""
    string_size: int | None = None
    symbol_count: int | None = None

    def section(self, name: str, content: bytes | int = b"", flags: int = DATA, *, alignment: int = 0) -> int:
        """Add a section of content, or of that many zeroes; returns its number, from 1."""
        size = content if isinstance(content, int) else len(content)
        flags |= (alignment.bit_length()) << 20
        self.sections.append(
            Section(self._section_name(name), b"" if isinstance(content, int) else content, flags, size)
        )
        return len(self.sections)

    def comdat(
        self, name: str, content: bytes, selection: int, signature: str = "", *, parent: int = 0, flags: int = DATA
    ) -> int:
        """Add a COMDAT section with its two symbols, or an associative one; returns its number."""
        number = self.section(name, content, flags | COMDAT)
        self.section_symbol(number, selection=selection, parent=parent)
        if signature:
            self.symbol(signature, section=number)
        return number

    def section_symbol(self, section: int, *, selection: int = 0, parent: int = 0) -> int:
        """Add the symbol that stands for a section; returns its index."""
        size = self.sections[section - 1].size
        aux = struct.pack("<IHHIHBBH", size, 0, 0, 0, parent & 0xFFFF, selection, 0, parent >> 16)
        return self.symbol(f".s{section}", section=section, storage=STATIC, aux=aux)

    def symbol(
        self, name: str, value: int = 0, section: int = 0, storage: int = EXTERNAL, type: int = 0, aux: bytes = b""
    ) -> int:
        """Add a symbol with its auxiliary records, of 18 bytes each or less; returns its index."""
        index = len(self.records)
        layout = "<8sIiHBB" if self.big else "<8sIhHBB"
        count = -(-len(aux) // 18)
        self.records.append(struct.pack(layout, self._name(name), value, section, type, storage, count))
        width = 20 if self.big else 18
        for number in range(count):
            self.records.append(aux[18 * number : 18 * number + 18].ljust(width, b"\0"))
        return index

    def weak(self, name: str, default: int, search: int = 3) -> int:
        """Add a weak external; returns its index."""
        return self.symbol(name, storage=WEAK_EXTERNAL, aux=struct.pack("<II10x", default, search))

    def relocate(self, section: int, offset: int, symbol: int, type: int) -> None:
        """Add a relocation to a section."""
        self.sections[section - 1].relocations.append((offset, symbol, type))

    def _string(self, name: str) -> int:
        offset = 4 + len(self.strings)
        self.strings += name.encode() + b"\0"
        return offset

    def _name(self, name: str) -> bytes:
        raw = name.encode()
        return raw if len(raw) <= 8 else struct.pack("<II", 0, self._string(name))

    def _section_name(self, name: str) -> bytes:
        raw = name.encode()
        return raw if len(raw) <= 8 else b"/%d" % self._string(name)

    def write(self) -> bytes:
        """The bytes of the object."""
        header_size = 56 if self.big else 20
        at = header_size + 40 * len(self.sections)
        headers, body = bytearray(), bytearray()
        for each in self.sections:
            data_at = 0
            if each.content:
                data_at = at + len(body)
                body += each.content
            relocations_at = at + len(body) if each.relocations else 0
            body += b"".join(struct.pack("<IIH", *one) for one in each.relocations)
            count = len(each.relocations) if each.count is None else each.count
            headers += struct.pack(
                "<8sIIIIIIHHI",
                *(each.name, 0, 0, each.size),
                data_at if each.data_at is None else each.data_at,
                relocations_at if each.relocations_at is None else each.relocations_at,
                *(0, count & 0xFFFF, 0, each.flags),
            )
        symbols = b"".join(self.records)
        count = len(self.records) if self.symbol_count is None else self.symbol_count
        size = 4 + len(self.strings) if self.string_size is None else self.string_size
        symbols_at = at + len(body)
        if self.big:
            fields = (
                0,
                0xFFFF,
                2,
                self.machine,
                self.time,
                BIG_CLASS,
                0,
                0,
                0,
                0,
                len(self.sections),
                symbols_at,
                count,
            )
            header = struct.pack("<HHHHI16sIIIIIII", *fields)
        else:
            header = struct.pack("<HHIIIHH", self.machine, len(self.sections), self.time, symbols_at, count, 0, 0)
        return header + bytes(headers) + bytes(body) + symbols + struct.pack("<I", size) + self.strings


def import_member(
    symbol: str, library: str = "lib.dll", *, sort: int = 0, name_type: int = 1, ordinal: int = 0, exported: str = ""
) -> bytes:
    """A member of an import library."""
    names = symbol.encode() + b"\0" + library.encode() + b"\0" + (exported.encode() + b"\0" if exported else b"")
    return struct.pack("<HHHHIIHH", 0, 0xFFFF, 0, AMD64, 0, len(names), ordinal, sort | name_type << 2) + names
