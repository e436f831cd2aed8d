"""A check of the header of a DWARF 5 line program, before anybody trusts the counts in it.

From version 5 on the header describes its own tables: of which fields an entry of the directory and the
file table consists, and how many entries there are. An entry of no fields takes no bytes, and a count of
such entries has no bound but its own. A reader that believes it fills the memory.

Source: DWARF 5, sections 6.2.4 (The Line Number Program Header) and 7.5.6 (Form Encodings).
"""

from __future__ import annotations

import struct

EXTENDED_LENGTH = 0xFFFFFFFF
SIZES = {0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x1E: 16}
"""Bytes of the forms of fixed size, by number: data2, data4, data8, data1, data16."""
OFFSETS = (0x0E, 0x1F)  # strp, line_strp
STRING, UDATA, BLOCK = 0x08, 0x0F, 0x09


def has_plausible_tables(section: bytes, offset: int) -> bool:
    """Whether the tables of the line program at an offset of .debug_line end inside the section.

    Programs of earlier versions are always plausible: their tables end with a byte of zero.
    """
    try:
        return _read_tables(section, offset)
    except (IndexError, struct.error):
        return False


def _read_tables(section: bytes, at: int) -> bool:
    (length,) = struct.unpack_from("<I", section, at)
    offset_size = 8 if length == EXTENDED_LENGTH else 4
    at += 12 if length == EXTENDED_LENGTH else 4
    (version,) = struct.unpack_from("<H", section, at)
    if version < 5:
        return True
    # Behind the version: sizes of addresses and segments, length of the header, five parameters.
    at += 4 + offset_size + 5
    at += section[at]  # opcode_base, and the operand counts of the opcodes below it
    for _ in ("directories", "files"):
        forms = []
        fields = section[at]
        at += 1
        for _ in range(fields):
            _, at = _leb128(section, at)
            form, at = _leb128(section, at)
            forms.append(form)
        count, at = _leb128(section, at)
        if count and not forms:
            return False
        for _ in range(count):
            for form in forms:
                at = _behind(section, at, form, offset_size)
    return True


def _behind(section: bytes, at: int, form: int, offset_size: int) -> int:
    """Where a field ends, which takes a byte at least. Raises IndexError behind the end of the section."""
    if form in SIZES:
        at += SIZES[form]
    elif form in OFFSETS:
        at += offset_size
    elif form == STRING:
        end = section.find(b"\0", at)
        at = end + 1 if end >= 0 else len(section) + 1
    elif form == UDATA:
        _, at = _leb128(section, at)
    elif form == BLOCK:
        size, at = _leb128(section, at)
        at += size
    else:
        raise IndexError(f"a form that no line table has: {form:#x}")
    if at > len(section):
        raise IndexError("a table that goes past the end of the section")
    return at


def _leb128(section: bytes, at: int) -> tuple[int, int]:
    """Read an unsigned LEB128 number; returns it and where it ends."""
    value = shift = 0
    while True:
        byte = section[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise IndexError("a number of more than 64 bits")
