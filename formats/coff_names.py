"""Names of COFF: in eight bytes of a record, or in the string table; and what the names of sections say.

A name of at most eight bytes lies in its record, padded with zeroes, so one of eight has no end mark. Such
names are cut out all at once and kept as added names of the graph. A longer name lies in the string table:
a symbol gives its offset in the last four of the eight bytes, a section in decimal digits behind a slash,
and beyond 9,999,999 in base 64 behind two.

COFF has no section types: what a section is for, its name says. What follows a dollar sign only orders the
parts of a section: `.CRT$XCA`, `.CRT$XCU` and `.CRT$XCZ` are parts of .CRT, in this order.

Source: Microsoft PE Format specification, "Section Table", "Symbol Name Representation", "Grouped Sections
(Object Only)", "Special Sections"; the base 64 form as LLVM's and Microsoft's tools read and write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, load_records
from jitlink.formats.batch import Batch
from jitlink.graph import NO_NAME, Purpose

if TYPE_CHECKING:
    from jitlink.formats.coff import CoffReader

Words = npt.NDArray[np.uint64]
"""The first 16 bytes of each name as two words, zeroes behind its end: uint64[2, names]."""

SHORT, HEAD = 8, 16
LONGEST = 4096
"""Bytes of a name that is read by itself; Microsoft's compiler makes no longer ones."""
SLASH, DOLLAR, ZERO_DIGIT = map(ord, "/$0")
BASE_64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
NO_DIGIT = -1
VALUE_IN_BASE_64 = np.full(256, NO_DIGIT, np.int64)
VALUE_IN_BASE_64[np.frombuffer(BASE_64, np.uint8)] = np.arange(len(BASE_64))
VALUE_IN_DECIMAL = np.full(256, NO_DIGIT, np.int64)
VALUE_IN_DECIMAL[ZERO_DIGIT : ZERO_DIGIT + 10] = np.arange(10)

ORDINARY, OUTSIDE = 0, 255
"""What a name says beside a Purpose: nothing; that the section takes no part in the image."""
MEANINGS = {
    # Compilers name parts of these for themselves (.text$mn, .rdata$zz), and their order means nothing here.
    **dict.fromkeys((b".text", b".data", b".rdata", b".bss", b".xdata", b".rsrc", b".CRT"), ORDINARY),
    b".debug": Purpose.DEBUG,
    b".tls": Purpose.TLS,
    b".pdata": Purpose.FUNCTION_TABLE,
    b".ctors": Purpose.CTORS,
    b".dtors": Purpose.DTORS,
    # Directives; the tables of long import libraries, of safe exception handlers and of control flow guard:
    # they speak to a linker or to a loader of executables.
    **dict.fromkeys((b".drectve", b".idata", b".sxdata", b".gfids", b".giats", b".gljmp", b".gehcont"), OUTSIDE),
    **dict.fromkeys((b".voltbl", b".chks64"), OUTSIDE),
}
"""What a section is for whose name is one of these, or starts with one of these and a dollar sign."""
PREFIXES = {
    b".CRT$XI": Purpose.PREINIT_ARRAY,
    b".CRT$XC": Purpose.INIT_ARRAY,
    b".CRT$XP": Purpose.FINI_ARRAY,
    b".CRT$XT": Purpose.FINI_ARRAY,
    b".ctors.": Purpose.CTORS,
    b".dtors.": Purpose.DTORS,
    b".debug_": Purpose.DEBUG,
    b".zdebug_": Purpose.DEBUG,
}
"""What a section is for whose name starts with one of these. Parts of .CRT are initialisers of C, then those of
C++, and terminators; debug sections are DWARF's, as GNU tools write it."""
IN_ORDER = sorted(MEANINGS, key=lambda name: int.from_bytes(name, "little"))
KNOWN_WORDS = np.array([int.from_bytes(name, "little") for name in IN_ORDER], np.uint64)
MEANING_OF_KNOWN = np.array([MEANINGS[name] for name in IN_ORDER], np.uint8)
EACH_BYTE, TOP_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


class Names:
    """Names of a batch; those that were cut out of records are in added, as in LinkGraph.added_names."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.added = [b""]

    def of_symbols(self, reader: CoffReader) -> Rows:
        """Find the names of all symbols: int64[symbols], positions as LinkGraph.name_at has them."""
        words = reader.raw_name.view(np.dtype([("zeroes", "<u4"), ("offset", "<u4")]))
        long = (words["zeroes"] == 0) & reader.is_symbol
        position = np.full(len(long), NO_NAME)
        rows = long.nonzero()[0]
        rows = rows[words["offset"][rows] > 0]
        if len(rows):
            owner = reader.symbol_owner[rows]
            offset = words["offset"][rows].astype(np.int64)
            outside = (offset < 4) | (offset >= reader.strings_size[owner])
            self.batch.refuse_any(outside, "the name of a symbol lies outside the string table", owner)
            position[rows] = reader.strings_at[owner] + offset
        short = (~long & reader.is_symbol).nonzero()[0]
        position[short] = self._cut_out(reader.raw_name[short])
        return position

    def of_sections(self, reader: CoffReader) -> tuple[Rows, Words]:
        """Find the names of all sections: int64[sections], positions; and the first words of each."""
        raw = np.ascontiguousarray(reader.headers["name"])
        words = np.zeros((2, len(raw)), np.uint64)
        words[0] = raw.view(np.uint64)
        is_long = (words[0] & np.uint64(0xFF)) == SLASH
        position = np.full(len(raw), NO_NAME)
        rows = is_long.nonzero()[0]
        if len(rows):
            offset = self._offsets(reader, raw[rows].view(np.uint8).reshape(-1, SHORT), rows)
            owner = reader.owner[rows]
            outside = (offset < 4) | (offset >= reader.strings_size[owner])
            self.batch.refuse_any(outside, "the name of a section lies outside the string table", owner)
            position[rows] = reader.strings_at[owner] + offset
            found = load_records(self.batch.pool, position[rows], np.dtype(f"V{HEAD}"))
            # Other names follow in a string table.
            words[:, rows] = _before(found.view(np.uint64).reshape(-1, 2).T, 0)
        short = (~is_long).nonzero()[0]
        position[short] = self._cut_out(raw[short])
        return position, words

    def _offsets(self, reader: CoffReader, letters: npt.NDArray[np.uint8], rows: Rows) -> Rows:
        """Read the offsets of section names: decimal behind one slash, in base 64 behind two."""
        in_base_64 = letters[:, 1] == SLASH
        decimal, wrong_decimal = _number(letters[:, 1:], VALUE_IN_DECIMAL, 10)
        other, wrong_other = _number(letters[:, 2:], VALUE_IN_BASE_64, 64)
        wrong = np.where(in_base_64, wrong_other, wrong_decimal)
        self.batch.refuse_any(wrong, "the name of a section gives no offset behind its slash", reader.owner[rows])
        return np.where(in_base_64, other, decimal)

    def _cut_out(self, raw: npt.NDArray[np.void]) -> Rows:
        """Keep names that lie in records as added ones: their positions, int64[n]. raw: void(8)[n]."""
        names: list[bytes] = raw.view(f"S{SHORT}").tolist()
        # NumPy takes off the zeroes at the end; a name ends at the first one.
        if b"".join(names).find(b"\0") >= 0:
            names = [name.partition(b"\0")[0] for name in names]
        first = len(self.added)
        self.added += names
        return -(first + 1 + np.arange(len(names)))

    def raw(self, position: int) -> bytes:
        """A name, of which no more than LONGEST bytes are read."""
        if position < 0:
            return self.added[-position - 1]
        return self.batch.pool[position : position + LONGEST].tobytes().partition(b"\0")[0]

    def text(self, position: int) -> str:
        """A name for an error message."""
        return self.raw(position).decode(errors="surrogateescape")


def _number(letters: npt.NDArray[np.uint8], value_of: Rows, base: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Read numbers that end at a zero byte or with the row: int64[n], and which are none: bool[n]."""
    number = np.zeros(len(letters), np.int64)
    going = np.ones(len(letters), np.bool_)
    wrong = letters[:, 0] == 0
    for column in letters.T:
        going &= column != 0
        digit = value_of[column]
        wrong |= going & (digit < 0)
        number = np.where(going, number * base + digit, number)
    return number, wrong


def section_purposes(words: Words) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """What each section is for, and which take no part in the image for it: uint8 and bool[sections]."""
    base = _before(words, DOLLAR)
    nearest = KNOWN_WORDS.searchsorted(base[0])
    nearest[nearest == len(KNOWN_WORDS)] = 0
    known = (KNOWN_WORDS[nearest] == base[0]) & (base[1] == 0)
    is_part = (base[0] != words[0]) | (base[1] != words[1])
    meaning = np.where(known, MEANING_OF_KNOWN[nearest], np.where(is_part, Purpose.NAMED_SET, ORDINARY))
    for prefix, purpose in PREFIXES.items():
        mask = np.uint64((1 << 8 * len(prefix)) - 1)
        meaning[(words[0] & mask) == int.from_bytes(prefix, "little")] = purpose
    outside = (meaning == OUTSIDE) | (meaning == Purpose.DEBUG)
    meaning[meaning == OUTSIDE] = ORDINARY
    return meaning.astype(np.uint8), outside


def is_named(words: Words, name: bytes) -> npt.NDArray[np.bool_]:
    """Which sections have this name, of at most 8 bytes, or one of its parts: bool[sections]."""
    base = _before(words, DOLLAR)
    named: npt.NDArray[np.bool_] = (base[0] == int.from_bytes(name, "little")) & (base[1] == 0)
    return named


def _before(words: Words, end: int) -> Words:
    """The bytes of names before the first that is end, and zeroes from there on: uint64[2, names].

    A byte is zero where taking 1 off borrows from its top bit and that was not set; of several in a word,
    the lowest one is sure to be (Hacker's Delight, 6-1).
    """
    mixed = words ^ (EACH_BYTE * np.uint64(end))
    found = (mixed - EACH_BYTE) & ~mixed & TOP_BITS
    lowest = found & -found
    # All bits where no byte was found.
    kept = (lowest >> np.uint64(7)) - np.uint64(1)
    kept[1, lowest[0] != 0] = 0
    before: Words = words & kept
    return before
