"""Relocations of Mach-O sections, into edges.

A section header says where its relocations are; assemblers write them from the last to the first. They are
read backwards, which puts most of them into the order of their places, and the first record of a pair
behind the second. From there each step is over all relocations of all objects: the form of each one gives
its kind, the field its addend, the symbol or the address in the field its target.

What jitlink.arches.macho says about pairs is done here.

Source: <mach-o/reloc.h>, <mach-o/x86_64/reloc.h>, <mach-o/arm64/reloc.h>.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.arches import architecture
from jitlink.arches.macho import (
    EXTERNAL,
    LENGTH_SHIFT,
    NUMBER_SHIFT,
    RELATIVE,
    MachORules,
    rows_by_form,
    rules_of,
)
from jitlink.columns import Rows, rows_of
from jitlink.errors import MalformedInput, Place, UnsupportedRelocation
from jitlink.fields import WORD32, WORD64, Field
from jitlink.formats import macho_layout as macho
from jitlink.formats.macho_edges import EdgeColumns
from jitlink.formats.macho_sections import name_of
from jitlink.formulas import Kind, KindTable, Through
from jitlink.graph import Definition, LinkGraph

if TYPE_CHECKING:
    from jitlink.formats.macho import MachOReader

SYMBOL_MASK = (1 << 24) - 1
FORM_SHIFT = 24
LENGTH_MASK = 3
SIZE_OF_LENGTH = np.array([1, 2, 4, 8])
SIGN_OF_ADDEND = 1 << 23
DEFINED = int(Definition.DEFINED)
INSTRUCTION = np.dtype("<u4")
NO_SYMBOL = "a relocation refers to a symbol that is not there"
Bytes = npt.NDArray[np.uint8]


@dataclass
class Relocations:
    """Relocations of all inputs, each with what the one before it says where the two are a pair.

    Attributes: section (row of the section header), offset (from its start), symbol (index of the symbol or
    number of the section): int64[n]; form (the last byte of the record: see jitlink.arches.macho, uint8[n]);
    paired (rows of those that have one before them), first_number and first_symbol (of that): one for each
    of paired.
    """

    section: Rows
    offset: Rows
    symbol: Rows
    form: Bytes
    paired: Rows
    first_number: Bytes
    first_symbol: Rows

    @property
    def number(self) -> Bytes:
        """The type of each."""
        number: Bytes = self.form >> np.uint8(NUMBER_SHIFT)
        return number


def read_relocations(reader: MachOReader, graph: LinkGraph) -> EdgeColumns:
    """Make edges of all relocations of the sections that were kept."""
    found = _read_records(reader)
    return EdgeColumns() if found is None else _EdgeMaker(reader, graph, found).make()


def _read_records(reader: MachOReader) -> Relocations | None:
    """Read the records of the kept sections, and put pairs together."""
    batch = reader.batch
    kept = reader.sections.kept[1:]
    count = reader.headers["nreloc"][kept].astype(np.int64)
    kept, count = kept[count > 0], count[count > 0]
    if not len(kept):
        return None
    owner = reader.owner[kept]
    start = reader.headers["reloff"][kept].astype(np.int64)
    record = macho.RELOCATION.itemsize
    batch.refuse_any(
        start + count * record > batch.sizes[owner], "the relocations of a section go past the end of the file", owner
    )
    batch.refuse_any(reader.zero_fill[kept], "a section without content has relocations", owner)
    last = batch.starts[owner] + start + (count - 1) * record
    records = reader.load(rows_of(last, count, -record), macho.RELOCATION)
    section = kept.repeat(count)
    info, offset = records["info"], records["address"].astype(np.int64)
    form = (info >> FORM_SHIFT).astype(np.uint8)
    number = form >> NUMBER_SHIFT
    length = form >> LENGTH_SHIFT & LENGTH_MASK
    # A scattered relocation has the highest bit of its offset set, and so lies outside as well.
    outside = offset + SIZE_OF_LENGTH[length] > reader.size[section]
    if np.count_nonzero(outside):
        scattered = (offset & macho.R_SCATTERED) != 0
        owner = reader.owner[section]
        batch.refuse_any(scattered, "a scattered relocation, which 64-bit objects do not have", owner)
        batch.refuse_any(outside, "a relocation lies outside its section", owner)
    symbol = (info & SYMBOL_MASK).astype(np.int64)
    is_first = number == reader.rules.subtractor
    if reader.rules.addend is not None:
        is_first |= number == reader.rules.addend
    first = is_first.nonzero()[0]
    if not len(first):
        return Relocations(section, offset, symbol, form, first, form[first], first)
    _check_pairs(reader, section, offset, form, first)
    rows = (~is_first).nonzero()[0]
    # The first of a pair stands behind the second here.
    paired = rows.searchsorted(first - 1)
    return Relocations(section[rows], offset[rows], symbol[rows], form[rows], paired, number[first], symbol[first])


def _check_pairs(reader: MachOReader, section: Rows, offset: Rows, form: Bytes, first: Rows) -> None:
    """Refuse the first of a pair whose second, the record before it here, is not there or does not go with it."""
    rules, refuse = reader.rules, reader.batch.refuse_any
    owner = reader.owner[section[first]]
    second = np.maximum(first - 1, 0)
    lone = (first == 0) | (section[second] != section[first]) | (offset[second] != offset[first])
    one, other = form[first], form[second]
    subtracts = one >> NUMBER_SHIFT == rules.subtractor
    same_length = (one ^ other) >> LENGTH_SHIFT & LENGTH_MASK == 0
    unsigned = (other >> NUMBER_SHIFT == rules.unsigned) & same_length
    fits = np.where(subtracts, unsigned, np.isin(other >> NUMBER_SHIFT, rules.takes_addend))
    wrong = lone | ~fits
    refuse(wrong & subtracts, "a SUBTRACTOR relocation without the UNSIGNED one that belongs to it", owner)
    refuse(wrong, "an ADDEND relocation without one behind it that it belongs to", owner)
    refuse(subtracts & (one & EXTERNAL == 0), "a SUBTRACTOR relocation that names no symbol", owner)


@dataclass(frozen=True)
class _Tables:
    """What the rules of a machine say, by form and by kind.

    Attributes: kind_of_form (int64[FORMS]); bias (int64[kinds], how far behind its place each counts from),
    field_bias (int64[kinds], the same up to the end of the field); words (the kinds whose field is a whole word
    of 4, and of 8 bytes: bool[kinds]); instructions (pairs of mask and word, uint32[kinds] each: of each kind
    one of them fits the instructions that it may be in, and of a kind of data all do).
    """

    kind_of_form: Rows
    bias: Rows
    field_bias: Rows
    words: dict[Field, npt.NDArray[np.bool_]]
    instructions: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]]


@cache
def _tables(target: str) -> _Tables:
    kinds = architecture(target).kinds
    rules = rules_of(target)
    bias = np.array([rules.bias.get(kind.name, 0) for kind in kinds], np.int64)
    return _Tables(
        rows_by_form(kinds),
        bias,
        np.minimum(bias, kinds.size),
        {field: np.array([kind.field == field for kind in kinds]) for field in (WORD32, WORD64)},
        _instructions(rules, kinds),
    )


def _instructions(rules: MachORules, kinds: KindTable) -> list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]]:
    """The masks and words of the instructions of each kind; a kind with fewer sorts than others repeats its last."""
    most = max((len(sorts) for sorts, _ in rules.instructions.values()), default=0)
    tables = []
    for number in range(most):
        mask, word = np.zeros(len(kinds), np.uint32), np.zeros(len(kinds), np.uint32)
        for name, (sorts, _) in rules.instructions.items():
            row = kinds.by_name[name]
            mask[row], word[row] = sorts[min(number, len(sorts) - 1)]
        tables.append((mask, word))
    return tables


class _EdgeMaker:
    """Turns relocations into columns of edges, which are kind, target and addend of each."""

    def __init__(self, reader: MachOReader, graph: LinkGraph, found: Relocations) -> None:
        self.reader = reader
        self.graph = graph
        self.found = found
        self.rules = reader.rules
        self.tables = _tables(reader.target.name)
        self.kinds: KindTable = reader.target.kinds
        self.owner = reader.owner[found.section]
        self.external = (found.form & EXTERNAL) != 0
        self.position = reader.position[found.section] + found.offset

    def make(self) -> EdgeColumns:
        """Make the edges; of a pair that takes two, they stand one behind the other."""
        found, reader = self.found, self.reader
        self.kind = self._kinds()
        self.block = reader.blocks.at(found.section, found.offset, kept=True)
        self.offset = found.offset - reader.blocks.start_of(self.block)
        self._refuse_over_the_end()
        self.addend = self._addends()
        self.target = self._symbols()
        self._aim_at_addresses()
        rows, target = self._join_pairs()
        edges = EdgeColumns(self.block, self.offset, self.kind, self.target, self.addend)
        if len(rows):
            edges = EdgeColumns(*(np.insert(column, rows + 1, column[rows]) for column in vars(edges).values()))
            added = rows + 1 + np.arange(len(rows))
            edges.kind[added] = self.kinds.by_name[self.rules.second_symbol]
            edges.target[added], edges.addend[added] = target, 0
        return edges

    # Kinds

    def _kinds(self) -> Rows:
        """The kind of each relocation. Raises UnsupportedRelocation and MalformedInput."""
        found = self.found
        kind = self.tables.kind_of_form[found.form]
        usable = self.kinds.supported[kind] & (kind > 0)
        if np.count_nonzero(usable) < len(usable):
            raise self._unsupported(int((~usable).argmax()), kind)
        if self.rules.instructions:
            self._look_at_instructions(kind)
        return kind

    def _look_at_instructions(self, kind: Rows) -> None:
        """Choose kinds by their instructions, and check that each is in one of its own. kind: changed in place."""
        words = self.reader.load(self.position, INSTRUCTION)
        for name, choices in self.rules.by_instruction.items():
            rows = (kind == self.kinds.by_name[name]).nonzero()[0]
            chosen = [(words[rows] & np.uint32(mask)) == word for mask, word, _ in choices]
            kind[rows] = np.select(chosen, [self.kinds.by_name[other] for *_, other in choices], kind[rows])
        right = np.zeros(len(kind), np.bool_)
        for mask, word in self.tables.instructions:
            right |= (words & mask[kind]) == word[kind]
        if np.count_nonzero(right) < len(right):
            row = int((~right).argmax())
            name = self.kinds[int(kind[row])].name
            raise self._misplaced(row, name, self.rules.instructions[name][1])

    def _unsupported(self, row: int, kind: Rows) -> UnsupportedRelocation:
        """Make the error for a relocation that is not applied, with all places of its sort."""
        found = self.found
        number = int(found.number[row])
        same = ((found.number == number) & (kind == kind[row])).nonzero()[0].tolist()
        places = [self._place(each) for each in same]
        known: Kind = self.kinds[int(kind[row])]
        if kind[row]:
            return UnsupportedRelocation(known.name, number, known.reason, places)
        named = [each.name for each in self.kinds if each.format == "macho" and each.number == number]
        if not named:
            reason = f"Mach-O for {self.reader.target.name} has no relocation of this number"
            return UnsupportedRelocation("of unknown type", number, reason, places)
        form = int(found.form[row])
        sort = "relative to its place" if form & RELATIVE else "not relative to its place"
        size = 1 << (form >> LENGTH_SHIFT & LENGTH_MASK)
        reason = f"a field of {size} bytes that is {sort} is not one of its forms"
        return UnsupportedRelocation(named[0], number, reason, places)

    def _misplaced(self, row: int, name: str, words: str) -> MalformedInput:
        place = self._place(row)
        fault = f"a relocation {name} that is not in {words}"
        return MalformedInput(fault, input=place.input, section=place.section, offset=place.offset)

    def _place(self, row: int) -> Place:
        section = int(self.found.section[row])
        name = name_of(self.reader.headers["names"][section].tobytes())
        return Place(self.reader.batch.names[int(self.owner[row])], name, int(self.found.offset[row]))

    def _refuse_over_the_end(self) -> None:
        over = self.offset + self.kinds.size[self.kind] > self.graph.blocks.size[self.block]
        self.reader.batch.refuse_any(over, "a relocation reaches from one symbol's content into the next", self.owner)

    # Addends and targets

    def _addends(self) -> Rows:
        """The addends: what stands in words, and what ADDEND says of instructions, which hold none."""
        found, rules, pool = self.found, self.rules, self.reader.batch.pool
        addend = np.zeros(len(self.kind), np.int64)
        for field, of_field in self.tables.words.items():
            rows = of_field[self.kind].nonzero()[0]
            addend[rows] = field.load(pool, self.position[rows])
        if rules.addend is not None:
            given = found.first_number == rules.addend
            addend[found.paired[given]] = (found.first_symbol[given] ^ SIGN_OF_ADDEND) - SIGN_OF_ADDEND
        return addend

    def _symbols(self) -> Rows:
        """The row of each symbol; 0 where the relocation names a section."""
        symbols = self.reader.symbols
        external, index = self.external, self.found.symbol
        absent = external & (index >= symbols.count[self.owner])
        if np.count_nonzero(absent):
            self.reader.batch.refuse_any(absent, NO_SYMBOL, self.owner)
        row = np.where(external, symbols.first[self.owner] + index, 0)
        stab = symbols.is_stab[row]
        if np.count_nonzero(stab):
            self.reader.batch.refuse_any(stab, "a relocation refers to a debugger's record", self.owner)
        return row

    def _aim_at_addresses(self) -> None:
        """Aim the relocations without a symbol at the blocks that lie at the addresses in their fields."""
        found, reader, refuse = self.found, self.reader, self.reader.batch.refuse_any
        rows = (~self.external).nonzero()[0]
        stored, kind, owner = self.addend[rows], self.kind[rows], self.owner[rows]
        # The displacement of a named symbol counts from the end of the field, wherever the instruction ends.
        self.addend -= self.tables.field_bias[self.kind]
        absolute = found.symbol[rows] == macho.R_ABS
        refuse(
            absolute & (found.form[rows] >> NUMBER_SHIFT != self.rules.unsigned), "a relocation of no section", owner
        )
        if np.count_nonzero(absolute):
            rows, stored, kind, owner = (column[~absolute] for column in (rows, stored, kind, owner))
        if not len(rows):
            return
        bias = self.tables.bias[kind]
        relative = found.form[rows] & RELATIVE != 0
        needs_symbol = (self.kinds.through[kind] > Through.BRANCH) | (relative & (bias == 0))
        refuse(needs_symbol, "a relocation that needs a symbol and names a section", owner)
        section = reader.section_row(owner, found.symbol[rows], "a relocation refers to a section that is not there")
        place = reader.address[found.section[rows]] + found.offset[rows]
        offset = stored + np.where(relative, place + bias, 0) - reader.address[section]
        # An address just outside of its section, such as that of a table without its first entries.
        block = reader.blocks.at(section, np.minimum(np.maximum(offset, 0), reader.size[section]))
        self.target[rows] = self.reader.anchors.at(block)
        self.addend[rows] = offset - reader.blocks.start_of(block) - bias

    # Pairs

    def _join_pairs(self) -> tuple[Rows, Rows]:
        """Give the pairs of SUBTRACTOR and UNSIGNED their kinds.

        Returns the rows of those that take two edges, and the target of the second one: int64[n] each.
        """
        found, symbols, rules = self.found, self.graph.symbols, self.rules
        subtracts = found.first_number == rules.subtractor
        rows, index = found.paired[subtracts], found.first_symbol[subtracts]
        if not len(rows):
            return rows, rows
        owner = self.owner[rows]
        self.reader.batch.refuse_any(index >= self.reader.symbols.count[owner], NO_SYMBOL, owner)
        minuend, subtrahend = self.target[rows], self.reader.symbols.first[owner] + index
        stab = self.reader.symbols.is_stab[subtrahend]
        self.reader.batch.refuse_any(stab, "a relocation refers to a debugger's record", owner)
        here, offset = self.block[rows], self.offset[rows]
        from_here = (symbols.block[subtrahend] == here) & (symbols.definition[subtrahend] == DEFINED)
        of_here = (symbols.block[minuend] == here) & (symbols.definition[minuend] == DEFINED) & ~from_here
        start = symbols.offset.view(np.int64)
        self.addend[rows] += np.where(from_here, offset - start[subtrahend], 0)
        self.addend[rows] += np.where(of_here, start[minuend] - offset, 0)
        self.target[rows] = np.where(of_here, subtrahend, minuend)
        sizes = self.kinds.size[self.kind[rows]]
        for size in rules.difference:
            of_size = sizes == size
            names = (rules.distance[size], rules.distance_to_here[size], rules.difference[size])
            number = [self.kinds.by_name[name] for name in names]
            chosen = np.where(from_here, number[0], np.where(of_here, number[1], number[2]))
            self.kind[rows] = np.where(of_size, chosen, self.kind[rows])
        apart = ~from_here & ~of_here
        return rows[apart], subtrahend[apart]
