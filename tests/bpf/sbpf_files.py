"""Builds SBPF executables for tests: shared objects with dynamic relocations, and the strict files of version 3.

Code is given slot by slot, as in the tables of doc/bytecode.md: op(0xB7, dst=0, imm=7) is `mov64 r0, 7`.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
TEXT_AT = 0x200
"""Where .text is, in the file and so in memory."""
FUNC, NOTYPE = 2, 0
RECORDS = {".dynsym": 24, ".symtab": 24, ".rel.dyn": 16, ".dynamic": 16}
"""Bytes of the records of sections."""


def op(opcode: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    """One slot."""
    return struct.pack("<BBhI", opcode, dst | src << 4, offset, imm & 0xFFFF_FFFF)


def lddw(dst: int, value: int) -> bytes:
    """A wide constant, two slots."""
    return op(0x18, dst, imm=value) + op(0, imm=value >> 32)


def call(imm: int, src: int = 0) -> bytes:
    """A call by number, or by distance."""
    return op(0x85, src=src, imm=imm)


@dataclass
class Lenient:
    """An executable of versions 0 to 2. Attributes: as the fields; relocations are (place, type, symbol's name)."""

    text: bytes
    version: int = 0
    entry: int = 0
    rodata: bytes = b""
    relocations: list[Any] = field(default_factory=list)
    symbols: dict[str, Any] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)
    sections: list[Any] = field(default_factory=list)

    @property
    def rodata_at(self):
        """Where .rodata is."""
        return TEXT_AT + len(self.text)

    def build(self, **header: Any) -> bytes:
        """The bytes of the file. symbols: name to (value, type) of the dynamic ones; names: of functions."""
        strings, offset_of = _strings([*self.symbols, *self.names])
        dynsym = bytes(24) + b"".join(_symbol(offset_of[name], *value) for name, value in self.symbols.items())
        symtab = bytes(24) + b"".join(_symbol(offset_of[name], value, FUNC) for name, value in self.names.items())
        order = list(self.symbols)
        rel = b"".join(
            struct.pack("<QII", place, type, order.index(name) + 1 if isinstance(name, str) else name)
            for place, type, name in self.relocations
        )
        parts = [(".text", 1, 6, self.text), (".rodata", 1, 2, self.rodata), *self.sections]
        parts += [(".dynstr", 3, 2, strings), (".dynsym", 11, 2, dynsym), (".rel.dyn", 9, 2, rel)]
        parts += [(".symtab", 2, 0, symtab)]
        at, starts, places, body = TEXT_AT, [], {}, b""

        def put(name, data):
            nonlocal at, body
            gap = -at % 8 if name.startswith((".dyn", ".rel.", ".sym", ".shstr")) else 0
            body += bytes(gap) + data
            starts.append(at + gap)
            places[name] = at + gap
            at += gap + len(data)

        for name, _, _, data in parts:
            put(name, data)
        entries = [6, places[".dynsym"], 11, 24, 5, places[".dynstr"], 10, len(strings)]
        entries += [17, places[".rel.dyn"], 18, len(rel), 19, 16] if rel else []
        dynamic = struct.pack(f"<{len(entries) + 2}Q", *entries, 0, 0)
        parts += [(".dynamic", 6, 3, dynamic)]
        put(".dynamic", dynamic)
        names, name_at = _strings([".shstrtab", *(part[0] for part in parts)])
        parts += [(".shstrtab", 3, 0, names)]
        put(".shstrtab", names)
        # The table of sections is aligned, too: the virtual machine of Solana looks at that.
        body += bytes(-at % 8)
        index = {part[0]: number for number, part in enumerate(parts, 1)}
        links = {".dynsym": index[".dynstr"], ".symtab": index[".dynstr"], ".rel.dyn": index[".dynsym"]}
        table = bytes(64)
        for start, (name, type, flags, data) in zip(starts, parts, strict=True):
            record = RECORDS.get(name, 0)
            address = start if flags & 2 else 0
            table += struct.pack(
                "<IIQQQQIIQQ", name_at[name], type, flags, address, start, len(data), links.get(name, 0), 0, 1, record
            )
        shoff = TEXT_AT + len(body)
        fields = {"entry": TEXT_AT + 8 * self.entry, "shoff": shoff, "flags": self.version}
        fields |= {"shnum": len(parts) + 1, "shstrndx": len(parts), **header}
        file: bytes = _header(**fields).ljust(TEXT_AT, b"\0") + body + table
        return file


@dataclass
class Strict:
    """An executable of version 3."""

    text: bytes
    rodata: bytes | None = b""
    entry: int = 0

    def build(self, **header: Any) -> bytes:
        """The bytes of the file; without constants where rodata is None."""
        parts = [(1, 1 << 32, self.text)] if self.rodata is None else [(4, 0, self.rodata), (1, 1 << 32, self.text)]
        at, segments, body = 64 + 56 * len(parts), b"", b""
        for flags, address, data in parts:
            segments += _segment(flags, at + len(body), address, len(data))
            body += data
        names = b"\0.shstrtab\0"
        end = at + len(body)
        table = struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, end, len(names), 0, 0, 1, 0)
        fields = {"entry": (1 << 32) + 8 * self.entry, "flags": 3, "phoff": 64, "phnum": len(parts)}
        fields |= {"shoff": end + len(names), "shnum": 1, "shstrndx": 0, **header}
        file: bytes = _header(**fields) + segments + body + names + table
        return file


def build(version: int, text: bytes, rodata: bytes = b"", entry: int = 0) -> bytes:
    """An executable of any version, without relocations."""
    if version == 3:
        return Strict(text, rodata, entry).build()
    return Lenient(text, version, entry, rodata).build()


def _header(entry, shoff, flags, shnum, shstrndx, phoff=0, phnum=0, machine=247, type=3, ident=b"\x02\x01\x01"):
    ident = b"\x7fELF" + ident.ljust(12, b"\0")
    fields = (type, machine, 1, entry, phoff, shoff, flags, 64, 56, phnum, 64, shnum, shstrndx)
    return ident + struct.pack("<HHIQQQIHHHHHH", *fields)


def _segment(flags, offset, address, size):
    return struct.pack("<IIQQQQQQ", 1, flags, offset, address, address, size, size, 8)


def _symbol(name, value, type):
    return struct.pack("<IBBHQQ", name, type | 1 << 4, 0, 1 if value else 0, value, 0)


def _strings(names):
    table, places = b"\0", {}
    for name in dict.fromkeys(names):
        places[name] = len(table)
        table += name.encode() + b"\0"
    return table, places
