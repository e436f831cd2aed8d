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

from jitlink.columns import NO_ROWS, Rows, load_records, rows_of
from jitlink.errors import Place, UnsupportedRelocation
from jitlink.formats import elf_layout as elf
from jitlink.formulas import Kind
from jitlink.graph import LinkGraph

if TYPE_CHECKING:
    from jitlink.formats.elf import ElfReader


@dataclass(frozen=True)
class Relocations:
    """Relocations as their section has them.

    Attributes: section (int64[n], row of the relocation section), offset (uint64[n], from the start of
    the section that is relocated), type and symbol (int64[n]), addend (int64[n]).
    """

    section: Rows
    offset: npt.NDArray[np.uint64]
    type: Rows
    symbol: Rows
    addend: Rows


def read_relocations(reader: ElfReader, graph: LinkGraph) -> None:
    """Make edges of all relocations of the sections that were kept, sorted by block."""
    type = reader.type
    tables = ((type == elf.SHT_RELA) | (type == elf.SHT_REL) | (type == elf.SHT_CREL)).nonzero()[0]
    if not len(tables):
        return
    tables = _of_kept_sections(reader, tables)
    rela = tables[type[tables] == elf.SHT_RELA]
    if len(rela) == len(tables):
        return _add_edges(reader, graph, _read_records(reader, rela, elf.RELA))
    parts = [_read_records(reader, rela, elf.RELA)]
    rel = tables[type[tables] == elf.SHT_REL]
    if len(rel):
        parts.append(_with_addends_in_place(reader, _read_records(reader, rel, elf.REL)))
    crel = tables[type[tables] == elf.SHT_CREL]
    if len(crel):
        parts += _read_compact(reader, crel)
    joined = Relocations(*(np.concatenate([getattr(part, name) for part in parts]) for name in PARTS))
    return _add_edges(reader, graph, joined)


PARTS = ("section", "offset", "type", "symbol", "addend")


def _of_kept_sections(reader: ElfReader, tables: Rows) -> Rows:
    """Keep the relocation sections whose section became a block, after checking what they refer to."""
    owner = reader.owner[tables]
    info = reader.info[tables]
    reader.batch.refuse_any(
        (info == 0) | (info >= reader.section_count[owner]),
        "a relocation section relocates a section that is not there",
        owner,
    )
    relocated = reader.first_section[owner] + info
    kept = reader.block_of[relocated] > 0
    tables, owner, relocated = tables[kept], owner[kept], relocated[kept]
    reader.batch.refuse_any(
        reader.type[relocated] == elf.SHT_NOBITS, "a relocation section relocates one without content", owner
    )
    symbols = reader.first_section[owner] + reader.link[tables]
    reader.batch.refuse_any(
        reader.type[symbols] != elf.SHT_SYMTAB, "a relocation section is not linked to the symbol table", owner
    )
    return tables


def _read_records(reader: ElfReader, tables: Rows, record: np.dtype[np.void]) -> Relocations:
    """Read RELA or REL sections."""
    size = reader.size[tables].view(np.int64)
    reader.batch.refuse_any(
        (reader.entry_size[tables] != record.itemsize) | (size % record.itemsize != 0),
        f"a relocation section is not made of {record.itemsize}-byte records",
        reader.owner[tables],
    )
    count = size // record.itemsize
    records = load_records(reader.batch.pool, rows_of(reader.position[tables], count, record.itemsize), record)
    return Relocations(
        tables.repeat(count),
        records["offset"],
        records["type"].astype(np.int64),
        records["symbol"].astype(np.int64),
        records["addend"] if record is elf.RELA else np.zeros(len(records), np.int64),
    )


def _read_compact(reader: ElfReader, tables: Rows) -> list[Relocations]:
    """Read CREL sections, one after the other: each is one stream."""
    from jitlink.errors import reading
    from jitlink.formats.elf_crel import read_crel

    parts = []
    for table in tables.tolist():
        start = int(reader.position[table])
        with reading(reader.batch.names[int(reader.owner[table])]):
            stream = read_crel(reader.batch.pool[start : start + int(reader.size[table])])
        section = np.full(len(stream.offset), table, np.int64)
        part = Relocations(section, stream.offset, stream.type, stream.symbol, stream.addend)
        parts.append(part if stream.has_addends else _with_addends_in_place(reader, part))
    return parts


def _with_addends_in_place(reader: ElfReader, found: Relocations) -> Relocations:
    """Take the addends of REL relocations from the fields that they relocate."""
    kind, block = _kinds(reader, found), _blocks(reader, found)
    _refuse_outside(reader, found, kind, block)
    kinds = reader.target.kinds
    relocated = reader.kept[block - 1]
    place = reader.position[relocated] + found.offset.view(np.int64)
    addend = np.zeros(len(place), np.int64)
    for number in np.unique(kind).tolist():
        of_kind = (kind == number).nonzero()[0]
        if kinds[number].applied:
            addend[of_kind] = kinds[number].field.load(reader.batch.pool, place[of_kind])
    return Relocations(found.section, found.offset, found.type, found.symbol, addend)


def _blocks(reader: ElfReader, found: Relocations) -> Rows:
    """The block that each relocation changes: int64[n]."""
    section = found.section
    blocks: Rows = reader.block_of[reader.first_section[reader.owner[section]] + reader.info[section]]
    return blocks


def _kinds(reader: ElfReader, found: Relocations) -> Rows:
    """The kind of each relocation by its number: int64[n]. Raises UnsupportedRelocation."""
    kinds = reader.target.kinds
    table = kinds.row_of_elf
    kind = table[np.minimum(found.type, len(table) - 1)]
    unusable = (kind < 0) | ~kinds.supported[kind]
    if unusable.any():
        first = int(unusable.argmax())
        number = int(found.type[first])
        known: Kind | None = kinds[int(kind[first])] if kind[first] >= 0 else None
        same = (found.type == number).nonzero()[0]
        raise UnsupportedRelocation(
            known.name if known else "of an unknown type",
            number,
            known.reason if known else f"the ABI of {reader.target.name} has no relocation of this number",
            [_place(reader, found, row) for row in same.tolist()],
        )
    return kind


def _place(reader: ElfReader, found: Relocations, row: int) -> Place:
    table = int(found.section[row])
    owner = int(reader.owner[table])
    section = int(reader.first_section[owner] + reader.info[table])
    name = LinkGraph(reader.target, reader.batch.pool).name_at(int(reader.name[section]))
    return Place(reader.batch.names[owner], name, int(found.offset[row]))


def _refuse_outside(reader: ElfReader, found: Relocations, kind: Rows, block: Rows) -> None:
    """Refuse a relocation whose field does not lie inside its section."""
    size = reader.size[reader.kept[block - 1]]
    field = reader.target.kinds.size[kind].view(np.uint64)
    outside = (found.offset > size) | (size - found.offset < field)
    reader.batch.refuse_any(outside, "a relocation lies outside its section", reader.owner[found.section])


def _add_edges(reader: ElfReader, graph: LinkGraph, found: Relocations) -> None:
    """Fill the edge table."""
    owner = reader.owner[found.section]
    reader.batch.refuse_any(
        found.symbol >= np.maximum(reader.symbol_count[owner], 1), "a relocation refers to a symbol that is not there", owner
    )
    kind, block = _kinds(reader, found), _blocks(reader, found)
    _refuse_outside(reader, found, kind, block)
    has_symbols = reader.symbol_count[owner] > 0
    graph.edges.fill(
        block=_behind_null(block),
        offset=_behind_null(found.offset.view(np.int64)),
        kind=_behind_null(kind),
        target=_behind_null(np.where(has_symbols, reader.first_symbol[owner] + found.symbol, 0)),
        addend=_behind_null(found.addend),
    )
    graph.sort_edges()


def _behind_null(column: Rows) -> Rows:
    """Put the null row in front of a column."""
    return np.concatenate((NULL_ROW, column))


NULL_ROW = np.zeros(1, np.int64)

__all__ = ["NO_ROWS", "Relocations", "read_relocations"]
