"""Cutting the sections of Mach-O objects into blocks.

An object with the flag MH_SUBSECTIONS_VIA_SYMBOLS promises that no code counts on what lies before or
behind a symbol. Each of its sections is cut at every symbol, but for alternative entries (N_ALT_ENTRY),
so that dead strip can keep one function and drop the next. Sections of C strings are cut at the end of each
string, in any object. Numbers are not worth a block each: sections of literals of a fixed size stay whole, as
unwind records, arrays of initialisers and debug information do.

A block keeps what its section promised about alignment. It may start anywhere, while something inside of
it lies at a multiple of 16 or of 4096: so it remembers the distance from such a multiple to its start
(alignment_offset), as far as any multiple lies inside.

A place is a section and an offset; one **key** for both, so that the blocks are one sorted column and a
search finds the block of a place. A section has one key more than bytes: labels may stand at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, rows_of, starts_of
from jitlink.formats import macho_layout as macho
from jitlink.graph import LinkGraph, Purpose

if TYPE_CHECKING:
    from jitlink.formats.macho import MachOReader

WHOLE_PURPOSES = (
    Purpose.INIT_ARRAY,
    Purpose.FINI_ARRAY,
    Purpose.INIT_OFFSETS,
    Purpose.EH_FRAME,
    Purpose.COMPACT_UNWIND,
    Purpose.DEBUG,
)
ALL_ALIGNED = 62
"""What lies at the start of a section lies at a multiple of everything."""


@dataclass
class Blocks:
    """The blocks of a batch. Block n is row n + 1 of the graph.

    Attributes: section (int64[n], row among the section headers), start and size (int64[n], bytes from the
    start of the section, and of the block); keys (int64[n], ascending); first_key (int64[headers], the key
    of each section's start; 0 where it was not kept).
    """

    section: Rows
    start: Rows
    size: Rows
    keys: Rows
    first_key: Rows

    def at(self, section: Rows, offset: Rows, *, kept: bool = False) -> Rows:
        """The graph's row of the block of each place; 0 in sections that were not kept.

        offset: int64[n], in [0, size of the section]. kept: whether all of the sections were.
        """
        first = self.first_key[section]
        key = first + offset
        if kept and (key[1:] >= key[:-1]).all():
            # Places in order: it is found out where among them each block starts, since blocks are fewer.
            bounds = np.append(key.searchsorted(self.keys), len(key))
            return np.arange(1, len(bounds)).repeat(np.diff(bounds))
        block: Rows = self.keys.searchsorted(key, "right")
        return block if kept else np.where(first > 0, block, 0)

    def start_of(self, rows: Rows) -> Rows:
        """Where in its section each block starts, by the graph's row; 0 for row 0."""
        starts: Rows = _behind_null(self.start)[rows]
        return starts

    def fill(self, reader: MachOReader, graph: LinkGraph) -> None:
        """Fill the table of blocks."""
        sections = reader.sections
        number = sections.number_of[self.section]
        power = reader.headers["align"].astype(np.int64)[self.section]
        alignment = np.int64(1) << np.minimum(power, highest_multiple(self.start, self.size))
        graph.blocks.fill(
            section=_behind_null(number),
            content=_behind_null(reader.position[self.section] + self.start),
            size=_behind_null(self.size),
            alignment=_behind_null(alignment),
            alignment_offset=_behind_null(self.start & (alignment - 1)),
            zero_fill=_behind_null(reader.zero_fill[self.section]),
            live=np.concatenate(([True], sections.part_of_image[number])),
        )


def _behind_null(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column of the graph, whose first row is the null row."""
    return np.concatenate((np.zeros(1, column.dtype), column))


def highest_multiple(start: Rows, size: Rows) -> Rows:
    """The highest power of two that has a multiple in [start, start + size): int64[n], its exponent.

    Of a start at 0 that is all of them. Where a block is empty, its start alone counts.
    """
    last = start + np.maximum(size, 1) - 1
    # A multiple of 2**k lies there if and only if the numbers around it differ in bit k or above.
    differing = (start - 1) ^ last
    _, exponent = np.frexp(np.where(start > 0, differing, 1).astype(np.float64))
    return np.where(start > 0, exponent.astype(np.int64) - 1, ALL_ALIGNED)


def cut_into_blocks(reader: MachOReader) -> Blocks:
    """Cut all sections that were kept."""
    sections = reader.sections
    kept = sections.kept[1:]
    # Key 0 is that of no section.
    bounds = starts_of(reader.size[kept] + 1) + 1
    first_key = np.zeros(len(reader.owner), np.int64)
    first_key[kept] = bounds[:-1]
    cuttable = np.zeros(len(reader.owner), np.bool_)
    cuttable[kept] = ~np.isin(sections.purpose[1:], WHOLE_PURPOSES)
    cuts = (_cuts_at_symbols(reader, cuttable), _cuts_of_strings(reader, cuttable))
    inner = [first_key[section] + offset for section, offset in cuts]
    # Sorting is much faster than numpy.unique here, since most of the keys come in order.
    keys = np.sort(np.concatenate((bounds[:-1], *inner)), kind="stable")
    keys = keys[np.append(keys[1:] != keys[:-1], True)[: len(keys)]]
    section = kept[bounds[:-1].searchsorted(keys, "right") - 1]
    start = keys - first_key[section]
    size = np.diff(keys, append=0)
    last = np.append(section[1:] != section[:-1], True)[: len(keys)]
    size[last] = reader.size[section[last]] - start[last]
    return Blocks(section, start, size, keys, first_key)


def _cuts_at_symbols(reader: MachOReader, cuttable: npt.NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """The places of the symbols that start a block: sections and offsets."""
    symbols = reader.symbols
    rows = symbols.in_sections()
    section = symbols.section[rows]
    offset = symbols.value[rows].view(np.int64) - reader.address[section]
    starts = cuttable[section] & reader.by_symbols[symbols.owner[rows]] & (offset < reader.size[section])
    starts &= (symbols.desc[rows] & macho.N_ALT_ENTRY) == 0
    return section[starts], offset[starts]


def _cuts_of_strings(reader: MachOReader, cuttable: npt.NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """The places behind each NUL of the sections of C strings."""
    rows = ((reader.type == macho.S_CSTRING_LITERALS) & cuttable & (reader.size > 1)).nonzero()[0]
    # The last byte ends the section anyway.
    count = reader.size[rows] - 1
    ends = (reader.batch.pool[rows_of(reader.position[rows], count)] == 0).nonzero()[0]
    return rows.repeat(count)[ends], rows_of(np.ones(len(rows), np.int64), count)[ends]
