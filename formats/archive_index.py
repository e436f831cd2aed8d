"""The symbol index of an archive: which member defines a name.

A linker takes a member of an archive only when somebody needs a symbol of it. To know which member that
is without opening any, the archive starts with a table from names to offsets of member headers. There
are two layouts, each with words of 4 or of 8 bytes:

    GNU and COFF, big-endian: the count n; n offsets of headers; n names, each ended by a NUL byte
    BSD and Darwin, little-endian: the size of the table in bytes; pairs of a position in the strings and
        an offset of a header; the size of the strings; the strings, each ended by a NUL byte

BSD's is in the byte order of the machine that the members are for; those that we link are little-endian.
COFF repeats its index in another form, sorted by name; the first form has the same symbols, in the order
of the members, and is the one that we read.

Source: ar(5) of Solaris, ranlib.h of Darwin; PE/COFF specification, "First Linker Member".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from jitlink.columns import Column, Rows
from jitlink.errors import MalformedInput


class IndexLayout(Enum):
    """How an index is laid out: (family, bytes of a word)."""

    GNU = ("GNU", 4)
    GNU_64 = ("GNU", 8)
    BSD = ("BSD", 4)
    BSD_64 = ("BSD", 8)


@dataclass(frozen=True)
class SymbolIndex:
    """An index as it is stored: start is its offset from the start of the archive."""

    layout: IndexLayout
    content: bytes
    start: int

    def member_rows(self, header_offsets: Rows) -> dict[bytes, int]:
        """From each name to the row of the first member that the index gives for it.

        header_offsets: int64[members], ascending. Raises MalformedInput.
        """
        family, word = self.layout.value
        names, offsets = self._read_gnu(word) if family == "GNU" else self._read_bsd(word)
        rows = self._rows_at(offsets, header_offsets)
        # The last of several equal keys stays in a dict, and the first one counts here: go backwards.
        return dict(zip(reversed(names), rows[::-1].tolist(), strict=True))

    def _read_gnu(self, word: int) -> tuple[list[bytes], Column]:
        content = self.content
        count = int.from_bytes(content[:word], "big")
        if word + count * (word + 1) > len(content):  # a name has at least its NUL byte
            raise self._fault(f"counts {count} symbols, more than its {len(content)} bytes can hold")
        offsets = np.frombuffer(content, f">u{word}", count, word)
        names = content[word * (count + 1) :].split(b"\0", count)
        if len(names) <= count:
            raise self._fault(f"counts {count} symbols and ends after {len(names) - 1} names")
        return names[:count], offsets

    def _read_bsd(self, word: int) -> tuple[list[bytes], Column]:
        content = self.content
        table_size = int.from_bytes(content[:word], "little")
        strings_start = 2 * word + table_size
        if strings_start > len(content) or table_size % (2 * word):
            raise self._fault(f"has a table of {table_size} bytes, which does not fit its {len(content)} bytes")
        strings_size = int.from_bytes(content[strings_start - word : strings_start], "little")
        if strings_size > len(content) - strings_start:
            raise self._fault(f"has strings of {strings_size} bytes, which go past its end")
        pairs = np.frombuffer(content, f"<u{word}", table_size // word, word).reshape(-1, 2)
        strings = content[strings_start : strings_start + strings_size]
        return self._names_at(pairs[:, 0], strings), pairs[:, 1]

    def _names_at(self, positions: Column, strings: bytes) -> list[bytes]:
        """The strings at these positions, each of which is the start of a whole string.

        No writer lets two names share a tail; a file that does could hold a long name in every byte.
        """
        names = strings.split(b"\0")
        del names[-1]  # what follows the last NUL byte has no end
        starts = np.flatnonzero(np.frombuffer(b"\0" + strings, np.uint8) == 0)[: len(names)]
        rows, wrong = _find(positions, starts, len(strings))
        if wrong.any():
            position = int(positions[wrong.argmax()])
            raise self._fault(f"has a name at {position} of its strings, where no terminated string starts")
        return [names[row] for row in rows.tolist()]

    def _rows_at(self, offsets: Column, header_offsets: Rows) -> Rows:
        past_the_end = int(header_offsets[-1]) + 1 if len(header_offsets) else 0
        rows, wrong = _find(offsets, header_offsets, past_the_end)
        if wrong.any():
            raise self._fault(f"gives the offset {int(offsets[wrong.argmax()]):#x}, where no member starts")
        return rows

    def _fault(self, what: str) -> MalformedInput:
        return MalformedInput(f"the symbol index {what}", offset=self.start)


def _find(values: Column, known: Rows, above: int) -> tuple[Rows, Column]:
    """Find each value among the known ones, which ascend and are below `above`.

    values: unsigned integers. Returns (rows int64[n], wrong bool[n]).

        for value in values:
            yield known.index(value) if value in known else anything, value not in known
    """
    values = np.minimum(values.astype(np.uint64), above).astype(np.int64)
    rows = known.searchsorted(values)
    return rows, np.append(known, -1)[rows] != values
