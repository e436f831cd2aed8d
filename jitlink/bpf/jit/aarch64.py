"""AArch64: the back end.

    r0   x7         r6   x19        x23  what is left of the budget
    r1   x0         r7   x20        x24  the record
    r2   x1         r8   x21        x9 to x11, x13 to x17  scratch
    r3   x2         r9   x22        x12  the return address of a routine
    r4   x3         r10  x25        x30  the return address of a function
    r5   x4

So r1 to r5 lie where AAPCS64 wants arguments, and r6 to r10, the budget and the record in registers that C
functions keep. x18, which belongs to the platform, is not touched.

The machine code of each shape is in aarch64_templates and load_store_templates, the routines are in
load_store_runtime. Here is what a shape depends on.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.jit.aarch64_assembler import AArch64Assembler
from jitlink.bpf.jit.aarch64_templates import (
    FOURTH_QUARTER,
    IMM_12,
    MINUS_OFFSET,
    NEAR,
    NEGATIVE,
    NO_IMM,
    ONE_HALF,
    SCALED,
    SECOND_QUARTER,
    SIGN_TESTS,
    SMALL_OFFSET,
    THIRD_QUARTER,
    AArch64Writer,
)
from jitlink.bpf.jit.backend import Kind, Runtime
from jitlink.bpf.jit.load_store_features import (
    MOST,
    SIZE_OF,
    WITH_ADDRESS,
    by_kind,
    bytes_at_most,
    finish,
    marked,
)
from jitlink.bpf.jit.load_store_runtime import Routines
from jitlink.bpf.jit.load_store_templates import NO_OFFSET, PADDINGS
from jitlink.bpf.jit.templates import Operand, Template
from jitlink.columns import Rows

BRANCH_REACH, TEST_REACH = 1 << 20, 1 << 15
"""Bytes that B.cond and CBZ, and TBZ, reach either way."""
# Plain integers, since looking up the member of an enumeration takes as long as an array operation.
_IMM, _OFFSET = int(Operand.IMM), int(Operand.OFFSET)


class AArch64:
    """The back end. Attributes as in Backend."""

    target = "aarch64"
    byteorder: ByteOrder = "little"
    registers: Rows = np.array(AArch64Assembler.BPF, np.int64)
    short_reach = (-BRANCH_REACH, BRANCH_REACH - 4)
    record_bias = 0
    paddings: tuple[int, ...] = PADDINGS
    pointer_kind = "R_AARCH64_ABS64"

    def own_features(self, kind: Rows, operands: npt.NDArray[np.int64]) -> Rows:
        """Find out what immediates and offsets fit, and whether what is off the main path may be out of reach.

        LONG is one of them here, for pieces that are no branches of the program: those that the driver makes long.
        """
        imm, offset = operands[_IMM], operands[_OFFSET]
        features: Rows = ((imm >= 0) & (imm < 1 << 12)) * IMM_12 | (imm < 0) * NEGATIVE
        features |= (imm >> 16 == imm >> 63) * ONE_HALF
        features |= (offset < 0) * MINUS_OFFSET
        size = SIZE_OF[kind]
        features |= ((offset >= 0) & (offset % size == 0) & (offset < size << 12)) * SCALED
        features |= ((offset >= -256) & (offset < 256)) * SMALL_OFFSET
        rows = WITH_ADDRESS[kind].nonzero()[0]
        if len(rows):
            of_address = offset[rows]
            features[rows] = (of_address == 0) * NO_OFFSET | (of_address < 0) * MINUS_OFFSET
            features[rows] |= ((of_address >= 0) & (of_address < 1 << 12)) * SMALL_OFFSET
        most = bytes_at_most(kind)
        rows = _COMPARES[kind].nonzero()[0]
        if len(rows):
            compared = imm[rows] == 0
            features[rows] &= IMM_12 | NEGATIVE | ONE_HALF
            features[rows] |= compared * (NO_IMM | NEAR * (most < TEST_REACH))
        rows = _CONSTANT[kind].nonzero()[0]
        for which, feature in enumerate((SECOND_QUARTER, THIRD_QUARTER, FOURTH_QUARTER), 1):
            features[rows] &= ~feature
            features[rows] |= (imm[rows] >> 16 * which & 0xFFFF > 0) * feature
        rows = _STORES_NUMBER[kind].nonzero()[0]
        features[rows] &= ~IMM_12
        features[rows] |= (imm[rows] == 0) * IMM_12
        features &= _RELEVANT[kind]
        finish(features, kind, imm, far=most >= BRANCH_REACH)
        return features

    def template(self, kind: int, features: int) -> Template:
        """Make the template of a shape."""
        writer = AArch64Writer(features)
        writer.write(kind)
        assert len(writer.code) <= MOST[kind]
        return writer

    def runtime(self) -> Runtime:
        """Make the routines."""
        return _runtime()


class _Routines(AArch64Assembler, Routines):
    pass


@cache
def _runtime() -> Runtime:
    return _Routines().write()


def _relevant(form: Form) -> int:
    """What the code of a form depends on."""
    imm = IMM_12 | ONE_HALF | NEGATIVE
    match form.family:
        case Family.ARITHMETIC if form.from_register or form.operation in ("neg", "lsh", "rsh", "arsh"):
            return 0
        case Family.ARITHMETIC if form.operation in ("add", "sub"):
            return imm
        case Family.ARITHMETIC:
            return ONE_HALF | NEGATIVE
        case Family.CONSTANT:
            return SECOND_QUARTER | THIRD_QUARTER | FOURTH_QUARTER
        case Family.LOAD | Family.STORE:
            return SCALED | SMALL_OFFSET | MINUS_OFFSET | (0 if form.from_register else imm)
        case Family.ATOMIC:
            return NO_OFFSET | SMALL_OFFSET | MINUS_OFFSET
        case Family.BRANCH if form.from_register or form.operation == "may_goto":
            return 0
        case Family.BRANCH:
            zero = {"jeq": NO_IMM, "jne": NO_IMM, **dict.fromkeys(SIGN_TESTS, NO_IMM | NEAR)}
            return imm | zero.get(form.operation, 0)
        case _:
            return 0


_OF_ADDRESS = NO_OFFSET | SMALL_OFFSET | MINUS_OFFSET
_RELEVANT = by_kind(
    [_relevant(form) for form in FORMS], {Kind.METER: IMM_12, Kind.CHECK: _OF_ADDRESS, Kind.SEARCH: _OF_ADDRESS}
)
_COMPARES, _CONSTANT = marked(family=Family.BRANCH), marked(family=Family.CONSTANT)
_STORES_NUMBER = marked(family=Family.STORE, only_numbers=True)
