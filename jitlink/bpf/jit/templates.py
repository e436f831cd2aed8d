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
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Column, Rows, load_records, rows_of, starts_of, store_records

WORD_PIECES = {1: {1: range(1), 2: range(2)}, 4: {4: range(0, 4, 4), 8: range(0, 8, 4)}}
"""Words are written in pieces of 1 and of 4 bytes: how far from the start of a word of each size they are."""
BYTE = 8
REGISTER_BITS = 5
"""Bits of the number of a host's register."""
UNIT = 32
"""Bytes of code that are copied at a time."""


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
    HOST = 7
    """Where in the record a piece that translates an address finds that of the host's memory."""


# Plain integers: looking up the member of an enumeration takes as long as an array operation.
_DST, _SRC = int(Operand.DST), int(Operand.SRC)


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
    """All templates that were made so far; their numbers are their places in `templates`. For any number of threads."""

    def __init__(self) -> None:
        self.templates: list[Template] = []
        self._columns: Columns | None = None
        self._changing = Lock()

    def add(self, template: Template) -> int:
        """Add a template and return its number."""
        with self._changing:
            self.templates.append(template)
            self._columns = None
            return len(self.templates) - 1

    @property
    def columns(self) -> Columns:
        """The templates in columns. Those that are made later are longer, and begin like these."""
        columns = self._columns
        if columns is None:
            with self._changing:
                columns = self._columns = Columns(self.templates)
        return columns


class Entries:
    """What templates have several of, or none: the entries of template t are rows first[t] to first[t] + count[t]."""

    def __init__(self, counts: list[int]) -> None:
        self.count = np.array(counts, np.int64)
        self.first = self.count.cumsum() - self.count

    def of(self, template: Rows) -> tuple[Rows, Rows]:
        """The entries of pieces: int64[n] each, the piece and the row."""
        count = self.count[template]
        piece = count.nonzero()[0]
        count, first = count[piece], self.first[template[piece]]
        if int(np.add.reduce(count)) == len(count):
            return piece, first
        return piece.repeat(count), rows_of(first, count)


class Words(Entries):
    """The words of one size in templates, each longer one cut in pieces of that size.

    Attributes, one row a word: at, operand, shift (of the operand, to the right).
    """

    def __init__(self, templates: list[Template], size: int, pieces: dict[int, range]) -> None:
        """pieces: for each size of a word, which distances from its start the pieces of this size have."""
        words = [[(row, start) for row in each.words for start in pieces.get(row.size, ())] for each in templates]
        super().__init__([len(each) for each in words])
        self.dtype = np.dtype(f"<u{size}")
        self.at = np.array([row.at + start for each in words for row, start in each], np.int64)
        self.operand = np.array([row.operand for each in words for row, _ in each], np.int64)
        self.shift = np.array([BYTE * start for each in words for _, start in each], np.int64)

    def store(self, code: Buffer, template: Rows, place: Rows, operands: npt.NDArray[np.int64]) -> None:
        """Write the words of pieces."""
        piece, row = self.of(template)
        if len(piece):
            value = operands[self.operand[row], piece] >> self.shift[row]
            store_records(code, place[piece] + self.at[row], value.astype(self.dtype))


class Columns:
    """The templates of a table, as arrays with a row for each template.

    size, start: bytes, in pool; units: of code that they take. register_fields, other_fields:
    int64[templates, most, 6], the bit fields of registers and all others; unused rows are zero, *_count says how
    many there are. words: by size. edges, with edge_*: edge_kind and edge_name are rows of kind_names and names.
    """

    def __init__(self, templates: list[Template]) -> None:
        self.size = np.array([len(each.code) for each in templates], np.int64)
        self.start = self.size.cumsum() - self.size
        self.units = -(-self.size // UNIT)
        self.longest = int(self.units.max()) * UNIT
        self.pool: Buffer = np.frombuffer(b"".join(each.code for each in templates) + bytes(self.longest), np.uint8)
        registers = [[row for row in each.bit_fields if row.operand <= Operand.SRC] for each in templates]
        others = [[row for row in each.bit_fields if row.operand > Operand.SRC] for each in templates]
        self.register_fields, self.register_field_count = _by_template(registers, len(BitField._fields))
        self.other_fields, self.other_field_count = _by_template(others, len(BitField._fields))
        self.words = [Words(templates, size, pieces) for size, pieces in WORD_PIECES.items()]
        self.edges = Entries([len(each.edges) for each in templates])
        edges = [row for each in templates for row in each.edges]
        self.edge_at = np.array([row.at for row in edges], np.int64)
        self.edge_addend = np.array([row.addend for row in edges], np.int64)
        self.edge_reach = np.array([row.reach for row in edges], np.int64)
        self.kind_names, self.edge_kind = _numbered([row.kind for row in edges])
        self.names, self.edge_name = _numbered([row.name for row in edges])
        # By template and registers, where in made its code is, with the registers in it; 0 where it is not.
        self._made_at = np.zeros(len(templates) << 2 * REGISTER_BITS, np.int64)
        self._made = np.zeros(1, f"V{UNIT}")
        self._making = Lock()

    def with_registers(self, combination: Rows) -> tuple[Rows, Column]:
        """The code of templates with registers: where in units of code each begins, and these, void(UNIT)[n].

        combination: int64[n], the template, and in REGISTER_BITS each dst and src. There are few of them, so the
        code of each is made once.
        """
        at = self._made_at[combination]
        if np.count_nonzero(at) < len(at):
            with self._making:
                self._make(np.unique(combination[self._made_at[combination] == 0]))
            at = self._made_at[combination]
        return at, self._made

    def _make(self, combination: Rows) -> None:
        """Put registers into the code of templates."""
        template = combination >> 2 * REGISTER_BITS
        register = np.stack((combination >> REGISTER_BITS, combination)) & (1 << REGISTER_BITS) - 1
        pieces = load_records(self.pool, self.start[template], np.dtype(f"V{self.longest}"))
        made = pieces.view(np.uint8).reshape(len(combination), self.longest)
        for number in range(self.register_fields.shape[1]):
            rows = (self.register_field_count[template] > number).nonzero()[0]
            at, operand, *fields = self.register_fields[template[rows], number].T
            made[rows, at] += _bits(register[operand, rows], *fields)
        units = self.units[template]
        first = np.arange(len(combination)) * (self.longest // UNIT)
        at = len(self._made) + starts_of(units)[:-1]
        # Other threads look where it is first, and then at what is there.
        self._made = np.concatenate((self._made, made.reshape(-1).view(f"V{UNIT}")[rows_of(first, units)]))
        self._made_at[combination] = at


def fill_in(columns: Columns, template: Rows, place: Rows, operands: npt.NDArray[np.int64], size: int) -> Buffer:
    """Write out pieces of code and fill their holes.

    template, place: int64[pieces], number of the template and position of its first byte, ascending and
    without gaps; operands: int64[Operand, pieces]; size: bytes of all. Returns uint8[size].
    """
    code = np.empty(size + UNIT, np.uint8)
    _write_code(columns, template, place, operands, code)
    for number in range(columns.other_fields.shape[1]):
        rows = (columns.other_field_count[template] > number).nonzero()[0]
        at, operand, *fields = columns.other_fields[template[rows], number].T
        # A bit is set by one field only, so a sum is an or.
        code[place[rows] + at] += _bits(operands[operand, rows], *fields)
    for words in columns.words:
        words.store(code, template, place, operands)
    return code[:size]


def _write_code(columns: Columns, template: Rows, place: Rows, operands: npt.NDArray[np.int64], code: Buffer) -> None:
    """Write the code of pieces with their registers.

    It is copied in units, and the rest of a unit is overwritten by the piece behind it; the code has room for the
    last one.
    """
    combination = (template << REGISTER_BITS | operands[_DST]) << REGISTER_BITS | operands[_SRC]
    first, made = columns.with_registers(combination)
    units = columns.units[template]
    if np.count_nonzero(units != 1):
        first, place = rows_of(first, units), rows_of(place, units, UNIT)
    store_records(code, place, made[first])


def _bits(value: Rows, shift: Rows, mask: Rows, out: Rows, flip: Rows) -> Buffer:
    """What bit fields put into their bytes: uint8[n]."""
    return (((value ^ flip) >> shift & mask) << out).astype(np.uint8)


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
