"""Sections of pointers to symbols, which Mach-O describes by a table of symbols and not by relocations.

Entry n of such a section (S_NON_LAZY_SYMBOL_POINTERS, S_LAZY_SYMBOL_POINTERS) points to the symbol that
entry reserved1 + n of the indirect symbol table names. Assembly has them as `.indirect_symbol`. A pointer
that a dynamic linker would fill at the first call is filled in advance like all others.

Source: <mach-o/loader.h>, struct section_64 and struct dysymtab_command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jitlink.columns import rows_of
from jitlink.formats import macho_layout as macho
from jitlink.formats.macho_edges import EdgeColumns

if TYPE_CHECKING:
    from jitlink.formats.macho import MachOReader

POINTER_SIZE = 8


def read_symbol_pointers(reader: MachOReader) -> EdgeColumns:
    """Make an edge of each pointer to a symbol. Raises MalformedInput."""
    types = (macho.S_NON_LAZY_SYMBOL_POINTERS, macho.S_LAZY_SYMBOL_POINTERS)
    sections = (np.isin(reader.type, types) & (reader.sections.number_of > 0)).nonzero()[0]
    if not len(sections):
        return EdgeColumns()
    refuse, owner = reader.batch.refuse_any, reader.owner[sections]
    refuse(reader.dysymtab_at[owner] < 0, "it has pointers to symbols, and no table that says to which", owner)
    tables = reader.load(reader.dysymtab_at[owner], macho.DYSYMTAB)
    table, entries = tables["indirectsymoff"].astype(np.int64), tables["nindirectsyms"].astype(np.int64)
    first = reader.headers["reserved1"][sections].astype(np.int64)
    count = reader.size[sections] // POINTER_SIZE
    entry_size = macho.WORD.itemsize
    outside = (first + count > entries) | (table + entries * entry_size > reader.batch.sizes[owner])
    refuse(outside, "its table of indirect symbols is too short", owner)
    start = reader.batch.starts[owner] + table + first * entry_size
    symbol = reader.load(rows_of(start, count, entry_size), macho.WORD).astype(np.int64)
    section, input = sections.repeat(count), owner.repeat(count)
    offset = rows_of(np.zeros(len(count), np.int64), count) * POINTER_SIZE
    # What is marked as local or absolute holds its address already.
    named = (symbol & (macho.INDIRECT_SYMBOL_LOCAL | macho.INDIRECT_SYMBOL_ABS)) == 0
    section, input, offset, symbol = section[named], input[named], offset[named], symbol[named]
    refuse(symbol >= reader.symbols.count[input], "a pointer to a symbol that is not there", input)
    block = reader.blocks.at(section, offset)
    return EdgeColumns(
        block,
        offset - reader.blocks.start_of(block),
        np.full(len(symbol), reader.target.kinds.by_name[reader.rules.pointer[POINTER_SIZE]]),
        reader.symbols.first[input] + symbol,
        np.zeros(len(symbol), np.int64),
    )
