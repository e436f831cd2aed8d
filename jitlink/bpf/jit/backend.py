"""What a back end has to bring: the machine code of each shape, and the routines that all programs share.

The driver (jitlink.bpf.jit.compiler) decides which pieces a program consists of and in which order; it
knows no machine. A back end knows one machine and no program. Between them stand the *kind* of a piece (a
form of the instruction set, or one of the pieces that the driver adds) and its *features*: what else
decides which machine code it takes. Kind and features together are the shape, and a shape has a template.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jitlink.arches import architecture
from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.isa import FORMS
from jitlink.bpf.jit.templates import Reach, Template, TemplateTable
from jitlink.columns import NO_ROWS, Rows


class Kind(IntEnum):
    """The pieces that are no instruction of the program; their numbers follow those of FORMS."""

    METER = len(FORMS)
    """Takes IMM from the budget, or goes to COLD."""
    OUT_OF_BUDGET = len(FORMS) + 1
    """Leaves with that status."""
    CHECK = len(FORMS) + 2
    """Compares an access with a site, at IMM of the record, its bound at EXTRA; goes to COLD where it is outside.
    The base register is DST, or SRC with FROM_SRC; OFFSET is added to it."""
    SEARCH = len(FORMS) + 3
    """Looks for the region of such an access, described in IMM (see described), fills the site, goes on at JUMP."""
    FAULT = len(FORMS) + 4
    """Leaves with that status."""
    OUTSIDE = len(FORMS) + 5
    """Gives the instruction to the callback."""
    NATIVE_HELPER = len(FORMS) + 6
    """Calls the helper whose address is EXTRA."""
    PADDING = len(FORMS) + 7
    """Does nothing, in IMM bytes, which is one of the back end's paddings.

    And of the forms, callx: EXTRA is the size in bytes of the table of functions, which is called `table`
    among the routines; it has an address for each slot, or 0."""

    # Of programs whose addresses are translated (jitlink.bpf.sbpf.jit); only back ends for those have them.
    TRANSLATE = len(FORMS) + 8
    """As CHECK; then puts the address in the host's memory into the back end's `spare`, with what is at HOST."""
    FIND = len(FORMS) + 9
    """Looks for the region of such an access as SEARCH does, leaves its address as TRANSLATE does, goes on at JUMP."""
    FRAME = len(FORMS) + 10
    """Puts the end of the frame, in the host's memory, into `spare`; where HIDDEN with the offset added."""
    DIVISOR = len(FORMS) + 11
    """Goes to COLD where SRC is 0; the low half of it, where NARROW."""
    SIGNED_DIVISOR = len(FORMS) + 12
    """Goes to COLD where a signed division of DST by SRC has no result."""
    HIGH_PRODUCT = len(FORMS) + 13
    """DST = the upper half of DST * SRC, without signs."""
    SIGNED_HIGH_PRODUCT = len(FORMS) + 14
    """The same, with signs."""
    NATIVE_SYSCALL = len(FORMS) + 15
    """Calls the syscall whose address is EXTRA."""

    ARRAY_LOOKUP = len(FORMS) + 16
    """Looks an array up as bpf_map_lookup_elem does: r0 is the address of the value, or 0. The index is where r2
    points; there are IMM values from EXTRA on, each OFFSET bytes behind the one before."""


class Feature(IntFlag):
    """What a shape depends on besides the kind.

    The six bits from OWN on are the back end's, and may mean another thing for every kind. For calls of
    functions, of which back ends need no features of their own, they are those of CALL.
    """

    LONG = 1 << 0
    """JUMP may be out of the reach of a short branch."""
    HIDDEN = 1 << 1
    """No constant of the program is in the code: HIDDEN and KEY stand for the immediate, or in a CHECK and a
    SEARCH for the offset; EXTRA and KEY for the offset of any other access."""
    SWAPPED = 1 << 2
    """The program's byte order is not the host's."""
    ALIGNED = 1 << 3
    """An atomic access goes to COLD where its address is not a multiple of its size."""
    FROM_SRC = 1 << 4
    """The base register is SRC."""
    NARROW = 1 << 4
    """Of a DIVISOR: the operands are of 32 bits."""
    OWN = 1 << 5

    CALL_SAVES_R6 = 1 << 5
    """A call keeps r6 for the caller; and so on."""
    CALL_SAVES_R7 = 1 << 6
    CALL_SAVES_R8 = 1 << 7
    CALL_SAVES_R9 = 1 << 8
    CALL_COUNTS = 1 << 9
    """A call keeps the caller's may_goto, and gives the callee its own."""
    CALL_FORGETS = 1 << 10
    """After a call sites that hold the callee's frame are cleared."""


SAVES = (Feature.CALL_SAVES_R6, Feature.CALL_SAVES_R7, Feature.CALL_SAVES_R8, Feature.CALL_SAVES_R9)
FEATURE_BITS = 11
"""Kinds and features together are a shape: kind << FEATURE_BITS | features."""
SHAPES = (max(Kind) + 1) << FEATURE_BITS

SIZE_SHIFT, WRITE_SHIFT = 16, 24


def described(site_offset: Rows, size: Rows, write: npt.NDArray[np.bool_]) -> Rows:
    """Describe accesses for a SEARCH: the site (bits 0 to 15, its offset in the record), the size in bytes
    (16 to 23), whether it writes (24)."""
    return site_offset | size << SIZE_SHIFT | write.astype(np.int64) << WRITE_SHIFT


@dataclass
class Runtime:
    """The routines that every program brings along: their code, and where each begins, in bytes."""

    template: Template
    entries: dict[str, int]


class Backend(Protocol):
    """One machine.

    Attributes: target (its name in jitlink.arches); byteorder; registers (int64[11], the host's register of each
    BPF register); short_reach (first distance, and first beyond, from the end of a branch that a short
    one spans); record_bias (bytes from the start of the record to where the host's register points);
    paddings (sizes of PADDING); pointer_kind (relocation kind of an address in a table).
    """

    target: str
    byteorder: ByteOrder
    registers: Rows
    short_reach: tuple[int, int]
    record_bias: int
    paddings: tuple[int, ...]
    pointer_kind: str

    def __hash__(self) -> int:
        """A back end is itself, and can be a key."""

    def own_features(self, kind: Rows, operands: npt.NDArray[np.int64]) -> Rows:
        """Find the back end's own features of pieces: int64[pieces], multiples of Feature.OWN.

        operands: int64[Operand, pieces]. The features must not depend on anything else.
        """

    def template(self, kind: int, features: int) -> Template:
        """Make the template of a shape."""

    def runtime(self) -> Runtime:
        """Make the routines: `enter`, and what templates refer to."""


class Shapes:
    """The templates of one back end, each made when a program first needs it.

    Attributes: backend; table (of the templates); registers (int64[16], those of the back end by the field of an
    instruction, which may be no operand and hold a number that is none); architecture (of the back end's target);
    symbols (what each graph of a program has: their numbers by name).
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.table = TemplateTable()
        self.registers = backend.registers[np.minimum(np.arange(16), len(backend.registers) - 1)]
        self.architecture = architecture(backend.target)
        names = ["program", *backend.runtime().entries, "table"]
        self.symbols = dict(zip(names, range(1, len(names) + 1), strict=True))
        self._number = np.full(SHAPES, -1, np.int64)
        self._numbered: tuple[Any, Rows, Rows] = (None, NO_ROWS, NO_ROWS)

    def templates_of(self, kind: Rows, features: Rows) -> Rows:
        """The number of the template of each piece: int64[pieces]."""
        shape = kind << FEATURE_BITS | features
        number: Rows = self._number[shape]
        new = shape[number < 0]
        if len(new):
            for each in np.unique(new).tolist():
                template = self.backend.template(each >> FEATURE_BITS, each & (1 << FEATURE_BITS) - 1)
                self._number[each] = self.table.add(template)
            number = self._number[shape]
        return number

    def numbers(self) -> tuple[Rows, Rows]:
        """For each edge of the table the number of its kind in the architecture, and that of its symbol; 0 for none."""
        columns = self.table.columns
        if self._numbered[0] is not columns:
            kinds = np.array([self.architecture.kind_number(name) for name in columns.kind_names], np.int64)
            symbols = np.array([self.symbols.get(name, 0) for name in columns.names], np.int64)
            inside = columns.edge_reach <= int(Reach.COLD)
            symbol = np.where(inside, self.symbols["program"], symbols[columns.edge_name])
            self._numbered = columns, kinds[columns.edge_kind], symbol
        return self._numbered[1:]
