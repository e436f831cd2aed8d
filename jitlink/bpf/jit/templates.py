"""Templates: the machine code of one shape of instruction, made once, filled in for many at a time.

All instructions of one shape have the same machine code but for a few bits: the numbers of registers,
an immediate, a displacement. A template is that code with a list of what goes where. The values come as
operands, a matrix with a row for each Operand and a column for each piece of code; filling in templates
is then array work over all pieces of a program, whatever their shapes.

Two sorts of holes suffice. A *bit field* puts bits of an operand into one byte, between other bits that
stay (a register's number in ModRM and REX, or, cut in pieces, in a word of AArch64 or RISC-V); several
may go into one byte. A *word* is 1, 2, 4 or 8 whole bytes.

What refers to another place is no hole but an edge: the linker fills it in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Rows, distinct, load_records, owners, rows_of, store_records

WORD_SIZES = (1, 2, 4, 8)
REGISTER_BITS = 5
"""Bits of the number of a host's register."""
UNIT = 32
"""Bytes of code that are copied at a time."""
FEW = 1024
"""Pieces up to which looking for those that are the same takes longer than making each."""


class Operand(IntEnum):
    """The rows of the matrix of operands."""

    DST = 0
    """The host's number of the register dst."""
    SRC = 1
    IMM = 2
    OFFSET = 3
    KEY = 4
    """What hides the immediate, in hardened code."""
    HIDDEN = 5
    """The immediate, or a displacement, combined with the key by exclusive or."""
    EXTRA = 6
    """A second constant, for pieces that need one."""


class Reach(IntEnum):
    """What an edge of a template leads to."""

    JUMP = 0
    """The piece that the program's own jump or call leads to."""
    COLD = 1
    """The piece off the main path that belongs to this one."""
    RUNTIME = 2
    """A routine that all programs share, by name."""
    OUTSIDE = 3
    """An address outside of the image: that of the symbol in EXTRA."""


class BitField(NamedTuple):
    """Bits [shift + width) of an operand, each inverted where flip says so, go to bit `out` of a byte."""

    at: int
    operand: Operand
    shift: int
    mask: int
    out: int
    flip: int


class Word(NamedTuple):
    """An operand goes to size whole bytes, cut to them."""

    at: int
    operand: Operand
    size: int


class EdgeField(NamedTuple):
    """A fixup: kind is a relocation kind by its ABI name; name is a routine of the run time, or ""."""

    at: int
    kind: str
    reach: Reach
    addend: int
    name: str


@dataclass
class Template:
    """Machine code with holes."""

    code: bytearray = field(default_factory=bytearray)
    bit_fields: list[BitField] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    edges: list[EdgeField] = field(default_factory=list)


class TemplateTable:
    """All templates that were made so far; their numbers are their places in `templates`."""

    def __init__(self) -> None:
        self.templates: list[Template] = []
        self._columns: _Columns | None = None

    def add(self, template: Template) -> int:
        """Add a template and return its number."""
        self.templates.append(template)
        self._columns = None
        return len(self.templates) - 1

    @property
    def columns(self) -> _Columns:
        """The templates in columns."""
        if self._columns is None:
            self._columns = _Columns(self.templates)
        return self._columns


class _Columns:
    """The templates of a table, as arrays with a row for each template.

    size, start: bytes, in pool. register_fields, other_fields: int64[templates, most, 6], the bit fields of
    registers and all others, and words: int64[templates, most, 3]; unused rows are zero, *_count says how
    many there are. The edges of all templates are rows of edge_*, those of template t from first_edge[t] to
    first_edge[t + 1]; edge_kind and edge_name are rows of kind_names and names.
    """

    def __init__(self, templates: list[Template]) -> None:
        self.size = np.array([len(each.code) for each in templates], np.int64)
        self.start = _starts([len(each.code) for each in templates])
        self.longest = -(-int(self.size.max()) // UNIT) * UNIT
        self.pool: Buffer = np.frombuffer(b"".join(each.code for each in templates) + bytes(self.longest), np.uint8)
        registers = [[row for row in each.bit_fields if row.operand <= Operand.SRC] for each in templates]
        others = [[row for row in each.bit_fields if row.operand > Operand.SRC] for each in templates]
        self.register_fields, self.register_field_count = _by_template(registers, len(BitField._fields))
        self.other_fields, self.other_field_count = _by_template(others, len(BitField._fields))
        self.words, self.word_count = _by_template([each.words for each in templates], len(Word._fields))
        edges = [row for each in templates for row in each.edges]
        self.first_edge = _starts([len(each.edges) for each in templates])
        self.edge_at = np.array([row.at for row in edges], np.int64)
        self.edge_addend = np.array([row.addend for row in edges], np.int64)
        self.edge_reach = np.array([row.reach for row in edges], np.int64)
        self.kind_names, self.edge_kind = _numbered([row.kind for row in edges])
        self.names, self.edge_name = _numbered([row.name for row in edges])

    def edges_of(self, template: Rows) -> tuple[Rows, Rows]:
        """The edges of pieces: int64[n] each, the piece and the row of the columns edge_*."""
        first = self.first_edge[template]
        count = self.first_edge[template + 1] - first
        return owners(count), rows_of(first, count)


def fill_in(columns: _Columns, template: Rows, place: Rows, operands: npt.NDArray[np.int64], size: int) -> Buffer:
    """Write out pieces of code and fill their holes.

    template, place: int64[pieces], number of the template and position of its first byte, ascending and
    without gaps; operands: int64[Operand, pieces]; size: bytes of all. Returns uint8[size].
    """
    code = np.empty(size + columns.longest, np.uint8)
    _write_code(columns, template, place, operands, code)
    for number in range(columns.other_fields.shape[1]):
        rows = (columns.other_field_count[template] > number).nonzero()[0]
        at, operand, *fields = columns.other_fields[template[rows], number].T
        # A bit is set by one field only, so a sum is an or.
        code[place[rows] + at] += _bits(operands[operand, rows], *fields)
    for number in range(columns.words.shape[1]):
        rows = (columns.word_count[template] > number).nonzero()[0]
        at, operand, width = columns.words[template[rows], number].T
        value = operands[operand, rows].view(np.uint64)
        at = at + place[rows]
        for each in WORD_SIZES:
            of_size = (width == each).nonzero()[0]
            if len(of_size):
                store_records(code, at[of_size], value[of_size].astype(f"<u{each}"))
    return code[:size]


def _write_code(columns: _Columns, template: Rows, place: Rows, operands: npt.NDArray[np.int64], code: Buffer) -> None:
    """Write the code of pieces with their registers.

    That is the same for all pieces of one template with the same registers, of which there are few: it is
    made once for each such combination. It is then copied in units, and the rest of a unit is overwritten
    by the piece behind it; the code has room for the last one.
    """
    dst, src = operands[Operand.DST], operands[Operand.SRC]
    combined = (template << REGISTER_BITS | dst) << REGISTER_BITS | src
    if len(combined) < FEW:
        found, position = combined, np.arange(len(combined))
    else:
        found, position = distinct(combined, len(columns.size) << 2 * REGISTER_BITS)
    of_combination = found >> 2 * REGISTER_BITS
    register = np.stack((found >> REGISTER_BITS, found)) & (1 << REGISTER_BITS) - 1
    pieces = load_records(columns.pool, columns.start[of_combination], np.dtype(f"V{columns.longest}"))
    made = pieces.view(np.uint8).reshape(len(found), columns.longest)
    for number in range(columns.register_fields.shape[1]):
        rows = (columns.register_field_count[of_combination] > number).nonzero()[0]
        at, operand, *fields = columns.register_fields[of_combination[rows], number].T
        made[rows, at] += _bits(register[operand, rows], *fields)
    units = -(-columns.size[template] // UNIT)
    first = position * (columns.longest // UNIT)
    if np.count_nonzero(units != 1):
        first, place = rows_of(first, units), rows_of(place, units, UNIT)
    store_records(code, place, made.reshape(-1).view(f"V{UNIT}")[first])


def _bits(value: Rows, shift: Rows, mask: Rows, out: Rows, flip: Rows) -> Buffer:
    """What bit fields put into their bytes: uint8[n]."""
    return (((value ^ flip) >> shift & mask) << out).astype(np.uint8)


def _starts(counts: list[int]) -> Rows:
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))


def _by_template(rows: Sequence[Sequence[tuple[int, ...]]], width: int) -> tuple[npt.NDArray[np.int64], Rows]:
    """Put the rows of each template side by side: int64[templates, most, width], and how many each has."""
    counts = np.array([len(each) for each in rows], np.int64)
    table = np.zeros((len(rows), int(counts.max()), width), np.int64)
    for number, each in enumerate(rows):
        if each:
            table[number, : len(each)] = each
    return table, counts


def _numbered(names: list[str]) -> tuple[list[str], Rows]:
    """Number the distinct names: returns them, and the number of each entry, int64[n]."""
    number: dict[str, int] = {}
    rows = [number.setdefault(name, len(number)) for name in names]
    return list(number), np.array(rows, np.int64)
