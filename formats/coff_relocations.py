"""Relocations of COFF, into edges.

A record has an offset, a symbol and a number; the addend is what the relocated field holds. All addends of
a kind are read in one step. The kinds of ARM64 loads and stores (PAGEOFFSET_12L, SECREL_LOW12L) leave it to
the instruction how many bytes it moves, and with that the scale of its field: such a relocation becomes one
of five kinds, by its instruction.

Source: Microsoft PE Format specification, "COFF Relocations (Object Only)", "Type Indicators".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jitlink.columns import Rows, rows_of
from jitlink.errors import Place, UnsupportedRelocation
from jitlink.fields import WORD32
from jitlink.formats import coff_layout as coff
from jitlink.formulas import Kind
from jitlink.graph import LinkGraph

if TYPE_CHECKING:
    from jitlink.formats.coff import CoffReader


@dataclass
class Relocations:
    """Relocations of the sections that became blocks.

    Attributes: count (int64[sections], relocations of each); offset (from the start of the section), type,
    symbol (index in the table of its object), position (of the field in the pool), kind; all int64[n].
    """

    count: Rows
    offset: Rows
    type: Rows
    symbol: Rows
    position: Rows
    kind: Rows

    def section(self) -> Rows:
        """The section of each relocation, by its row: int64[n]."""
        return np.arange(len(self.count)).repeat(self.count)

    def owner(self, reader: CoffReader) -> Rows:
        """The input of each relocation: int64[n]."""
        return reader.owner.repeat(self.count)


def read_relocations(reader: CoffReader, graph: LinkGraph) -> None:
    """Make edges of all relocations of the sections that were kept, sorted by block.

    Raises MalformedInput for records that refer to what is not there, UnsupportedRelocation.
    """
    count = np.where(reader.block_of > 0, reader.relocation_count, 0)
    if not np.count_nonzero(count):
        return
    # The graph's edges start with a null row. It is read from the zeroes behind the last input, as the one
    # relocation of the null section.
    count[0] = 1
    at = reader.relocations_at
    at[0] = len(reader.batch.pool) - coff.RELOCATION.itemsize
    records = reader.load(rows_of(at, count, coff.RELOCATION.itemsize), coff.RELOCATION)
    offset, target = records["address"].astype(np.int64), records["symbol"].astype(np.int64)
    numbers = records["type"].astype(np.int64)
    kinds = reader.target.kinds
    kind = kinds.rows_of_numbers("coff", numbers)
    found = Relocations(count, offset, numbers, target, reader.position.repeat(count) + offset, kind)
    usable = kinds.supported[kind]
    if np.count_nonzero(usable) < len(usable):
        raise _unsupported(reader, found, int((~usable).argmax()))
    _check(reader, found)
    target += reader.first_symbol[reader.owner].repeat(count)
    target[0] = 0
    of_symbols = reader.is_symbol[target]
    if np.count_nonzero(of_symbols) < len(of_symbols):
        reader.batch.refuse_any(~of_symbols, "a relocation refers to an auxiliary record", found.owner(reader))
    _tell_scales(reader, found)
    addend = _addends(reader, found)
    found.kind[0] = 0
    graph.edges.fill(block=reader.block_of.repeat(count), offset=offset, kind=found.kind, target=target, addend=addend)


def _check(reader: CoffReader, found: Relocations) -> None:
    """Refuse relocations outside of their section or of its content, and of symbols that are not there."""
    count, end = found.count, found.offset + reader.target.kinds.size[found.kind]
    stray = found.symbol >= reader.symbol_count[reader.owner].repeat(count)
    # The null relocation refers to the null symbol.
    stray[0] = False
    faults = [
        (end > reader.size.repeat(count), "a relocation lies outside its section"),
        (stray, "a relocation refers to a symbol that is not there"),
    ]
    if np.count_nonzero(reader.zero_fill[count > 0]) > 1:
        # Fields of no size need no content.
        empty = reader.zero_fill.repeat(count) & (end > found.offset)
        faults.append((empty, "a relocation relocates a section without content"))
    for faulty, fault in faults:
        if np.count_nonzero(faulty):
            reader.batch.refuse_any(faulty, fault, found.owner(reader))


def _tell_scales(reader: CoffReader, found: Relocations) -> None:
    """Replace the kinds of ARM64 loads and stores by those for the size that each one moves."""
    if reader.target.name != "aarch64":
        return
    from jitlink.arches.aarch64_coff import PAGEOFFSET_12L, SECREL_LOW12L, scales_at

    for name in (PAGEOFFSET_12L, SECREL_LOW12L):
        rows = (found.kind == reader.target.kind_number(name)).nonzero()[0]
        if len(rows):
            # The rows for two bytes and more follow each other.
            scaled = reader.target.kind_number(f"{name}, 2 bytes") - 1
            scale = scales_at(reader.batch.pool, found.position[rows])
            found.kind[rows] = np.where(scale > 0, scaled + scale, found.kind[rows])


def _addends(reader: CoffReader, found: Relocations) -> Rows:
    """Read the addends out of the fields: int64[n]."""
    kinds, pool = reader.target.kinds, reader.batch.pool
    present = np.bincount(found.kind).nonzero()[0].tolist()
    # Nearly all fields are words of 32 bits: they are read as if all were.
    addend: Rows = WORD32.load(pool, found.position)
    for number in present:
        field = kinds[number].field
        if field is not WORD32:
            rows = (found.kind == number).nonzero()[0]
            addend[rows] = field.load(pool, found.position[rows]) if field.size else 0
    return addend


def _unsupported(reader: CoffReader, found: Relocations, row: int) -> UnsupportedRelocation:
    """Make the error for a relocation that is not applied, with all places of its number."""
    number = int(found.type[row])
    known: Kind = reader.target.kinds[int(found.kind[row])]
    if known.number == number and known.format == "coff":
        name, reason = known.name, known.reason
    else:
        name, reason = "of unknown type", f"COFF for {reader.target.name} has no relocation of this number"
    same = (found.type == number).nonzero()[0].tolist()
    return UnsupportedRelocation(name, number, reason, [_place(reader, found, each) for each in same])


def _place(reader: CoffReader, found: Relocations, row: int) -> Place:
    section = int(found.count.cumsum().searchsorted(row, "right"))
    name = reader.names.text(int(reader.section_name[section]))
    return Place(reader.batch.names[int(reader.owner[section])], name, int(found.offset[row]))
