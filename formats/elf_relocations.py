"""Relocation sections of ELF: RELA, REL and CREL, into edges.

The three forms differ in how a record is written. RELA records hold an addend; REL records leave it in
the field that is relocated; CREL (SHT_CREL, from the gABI proposal of 2024) is a compressed form that
is unpacked in jitlink.formats.elf_crel. From there on a relocation is a relocation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, rows_of
from jitlink.errors import Place, UnsupportedRelocation, reading
from jitlink.formats import elf_layout as elf
from jitlink.formulas import Kind
from jitlink.graph import LinkGraph

if TYPE_CHECKING:
    from jitlink.formats.elf import ElfReader

ZERO, ONE = np.zeros(1, np.int64), np.ones(1, np.int64)
NO_SYMBOLS_BUT_NULL = 1


@dataclass
class Tables:
    """Relocation sections, a row each.

    Attributes: section (row of its own header), owner (input), relocated (row of the section that it
    relocates); all int64[n].
    """

    section: Rows
    owner: Rows
    relocated: Rows

    def take(self, rows: npt.NDArray[np.bool_]) -> Tables:
        """Some of them."""
        return Tables(self.section[rows], self.owner[rows], self.relocated[rows])


@dataclass
class Relocations:
    """Relocations as their sections have them.

    Attributes: tables, count (int64[tables], relocations in each); offset (uint64[n], from the start of
    the section that is relocated), type and symbol (int64[n]), addend (int64[n]).
    """

    tables: Tables
    count: Rows
    offset: npt.NDArray[np.uint64]
    type: Rows
    symbol: Rows
    addend: Rows

    def owner(self) -> Rows:
        """The input of each relocation: int64[n]."""
        return self.tables.owner.repeat(self.count)


def read_relocations(reader: ElfReader, graph: LinkGraph) -> None:
    """Make edges of all relocations of the sections that were kept, sorted by block."""
    kind = reader.type
    rows = ((kind == elf.SHT_RELA) | (kind == elf.SHT_REL) | (kind == elf.SHT_CREL)).nonzero()[0]
    if not len(rows):
        return
    tables = _of_kept_sections(reader, rows)
    forms = kind[tables.section]
    rela = forms == elf.SHT_RELA
    if np.count_nonzero(rela) == len(rela):
        _add_edges(reader, graph, _read_records(reader, tables, elf.RELA, behind_null=True))
        return
    parts = [_read_records(reader, tables.take(rela), elf.RELA, behind_null=True)]
    rel = _read_records(reader, tables.take(forms == elf.SHT_REL), elf.REL)
    rel.addend = _addends_in_place(reader, rel)
    parts += [rel, *_read_compact(reader, tables.take(forms == elf.SHT_CREL))]
    _add_edges(reader, graph, _concatenated(parts))


def _concatenated(parts: list[Relocations]) -> Relocations:
    tables = Tables(
        np.concatenate([part.tables.section for part in parts]),
        np.concatenate([part.tables.owner for part in parts]),
        np.concatenate([part.tables.relocated for part in parts]),
    )
    columns = ("count", "offset", "type", "symbol", "addend")
    return Relocations(tables, *(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def _of_kept_sections(reader: ElfReader, rows: Rows) -> Tables:
    """Find the relocation sections whose section became a block, and check what they refer to."""
    owner, info = reader.owner[rows], reader.headers["info"][rows]
    refuse = reader.batch.refuse_any
    refuse(
        (info == 0) | (info >= reader.section_count[owner]),
        "a relocation section relocates a section that is not there",
        owner,
    )
    tables = Tables(rows, owner, reader.first_section[owner] + info)
    tables = tables.take(reader.block_of[tables.relocated] > 0)
    refuse(
        reader.type[tables.relocated] == elf.SHT_NOBITS,
        "a relocation section relocates one without content",
        tables.owner,
    )
    symbols = reader.first_section[tables.owner] + reader.headers["link"][tables.section]
    refuse(
        reader.type[symbols] != elf.SHT_SYMTAB, "a relocation section is not linked to the symbol table", tables.owner
    )
    return tables


def _read_records(
    reader: ElfReader, tables: Tables, record: np.dtype[np.void], *, behind_null: bool = False
) -> Relocations:
    """Read RELA or REL sections. behind_null: with an empty record in front, which is of no kind."""
    size = reader.size[tables.section].view(np.int64)
    count = size // record.itemsize
    reader.batch.refuse_any(
        (reader.headers["entsize"][tables.section] != record.itemsize) | (count * record.itemsize != size),
        f"a relocation section is not made of {record.itemsize}-byte records",
        tables.owner,
    )
    positions = rows_of(reader.position[tables.section], count, record.itemsize)
    if behind_null:
        # The graph's edges start with a null row. It is read from the zeroes behind the last input, as
        # the one relocation of the null section.
        positions = np.concatenate(([len(reader.batch.pool) - record.itemsize], positions))
        count = np.concatenate((ONE, count))
        columns = (tables.section, tables.owner, tables.relocated)
        tables = Tables(*(np.concatenate((ZERO, column)) for column in columns))
    records = reader.load(positions, record)
    addend = records["addend"] if record is elf.RELA else np.zeros(len(records), np.int64)
    kind, symbol = records["type"].astype(np.int64), records["symbol"].astype(np.int64)
    if reader.big_endian:
        # r_info is one number with the symbol in its upper half, which then comes first (gABI, ELF64_R_SYM).
        kind, symbol = symbol, kind
    return Relocations(tables, count, records["offset"].astype(np.uint64), kind, symbol, addend)


def _read_compact(reader: ElfReader, tables: Tables) -> list[Relocations]:
    """Read CREL sections, one after the other: each is one stream."""
    from jitlink.formats.elf_crel import read_crel

    parts = []
    for row, (section, owner) in enumerate(zip(tables.section.tolist(), tables.owner.tolist(), strict=True)):
        start = int(reader.position[section])
        with reading(reader.batch.names[owner]):
            stream = read_crel(reader.batch.pool[start : start + int(reader.size[section])])
        one = Tables(tables.section[row : row + 1], tables.owner[row : row + 1], tables.relocated[row : row + 1])
        count = np.array([len(stream.offset)])
        part = Relocations(one, count, stream.offset, stream.type, stream.symbol, stream.addend)
        if not stream.has_addends:
            part.addend = _addends_in_place(reader, part)
        parts.append(part)
    return parts


def _addends_in_place(reader: ElfReader, found: Relocations) -> Rows:
    """Read the addends of relocations from the fields that they relocate: int64[n]."""
    kind = _kinds(reader, found)
    _refuse_outside(reader, found, kind)
    place = reader.position[found.tables.relocated].repeat(found.count) + found.offset.view(np.int64)
    addend = np.zeros(len(place), np.int64)
    for number in np.bincount(kind).nonzero()[0].tolist():
        of_kind = (kind == number).nonzero()[0]
        described: Kind = reader.target.kinds[number]
        if described.applied:
            addend[of_kind] = described.field.load(reader.batch.pool, place[of_kind])
    return addend


def _kinds(reader: ElfReader, found: Relocations) -> Rows:
    """The kind of each relocation by its number: int64[n]. Raises UnsupportedRelocation."""
    kinds = reader.target.kinds
    kind = kinds.rows_of_numbers("elf", found.type)
    usable = kinds.supported[kind]
    if np.count_nonzero(usable) < len(usable):
        raise _unsupported(reader, found, int((~usable).argmax()), kind)
    return kind


def _unsupported(reader: ElfReader, found: Relocations, row: int, kind: Rows) -> UnsupportedRelocation:
    """Make the error for a relocation that is not applied, with all places of its number."""
    number = int(found.type[row])
    same = (found.type == number).nonzero()[0].tolist()
    known: Kind = reader.target.kinds[int(kind[row])]
    if known.number == number and known.format == "elf":
        name, reason = known.name, known.reason
    else:
        name, reason = "of unknown type", f"the ABI of {reader.target.name} has no relocation of this number"
    return UnsupportedRelocation(name, number, reason, [_place(reader, found, each) for each in same])


def _place(reader: ElfReader, found: Relocations, row: int) -> Place:
    table = int(found.count.cumsum().searchsorted(row, "right"))
    name = reader.section_name(int(found.tables.relocated[table]))
    return Place(reader.batch.names[int(found.tables.owner[table])], name, int(found.offset[row]))


def _refuse_outside(reader: ElfReader, found: Relocations, kind: Rows) -> None:
    """Refuse a relocation whose field does not lie inside its section."""
    size = reader.size[found.tables.relocated].repeat(found.count)
    field = reader.target.kinds.size[kind].view(np.uint64)
    # The offset may be anything up to 2**64, so nothing is added to it.
    outside = (found.offset > size) | (size - found.offset < field)
    if np.count_nonzero(outside):
        reader.batch.refuse_any(outside, "a relocation lies outside its section", found.owner())


def _add_edges(reader: ElfReader, graph: LinkGraph, found: Relocations) -> None:
    """Fill the edge table, of whose relocations the first is the null row."""
    tables, count = found.tables, found.count
    symbols = np.maximum(reader.symbol_count, NO_SYMBOLS_BUT_NULL)[tables.owner].repeat(count)
    stray = found.symbol >= symbols
    if np.count_nonzero(stray):
        reader.batch.refuse_any(stray, "a relocation refers to a symbol that is not there", found.owner())
    kind = _kinds(reader, found)
    _refuse_outside(reader, found, kind)
    # The symbols of an input without any are the null symbol, row 0.
    target = np.where(reader.symbol_count > 0, reader.first_symbol, 0)[tables.owner].repeat(count)
    target += found.symbol
    target[0] = 0
    graph.edges.fill(
        block=reader.block_of[tables.relocated].repeat(count),
        offset=found.offset.view(np.int64),
        kind=kind,
        target=target,
        addend=np.ascontiguousarray(found.addend),
    )
    graph.sort_edges()
