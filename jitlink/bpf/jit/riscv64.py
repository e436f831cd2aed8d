"""RISC-V, 64 bits: the back end.

    r0   a5         r6   s1         s7   what is left of the budget
    r1   a0         r7   s2         s6   the record
    r2   a1         r8   s3         t1 to t6, a6, a7  scratch
    r3   a2         r9   s4         t0   the return address of a routine
    r4   a3         r10  s5         ra   the return address of a function
    r5   a4

So r1 to r5 lie where the psABI wants arguments, and r6 to r10, the budget and the record in registers that C
functions keep. t0 is the ISA's alternate link register. gp and tp are not touched.

Branches reach 4 KiB, JAL 1 MiB, AUIPC with JALR all there is.

The machine code of each shape is in riscv64_templates and load_store_templates, the routines are in
load_store_runtime. Here is what a shape depends on.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.jit.backend import Kind, Runtime
from jitlink.bpf.jit.load_store_features import MOST, WITH_ADDRESS, by_kind, bytes_at_most, finish, marked
from jitlink.bpf.jit.load_store_runtime import Routines
from jitlink.bpf.jit.load_store_templates import NO_OFFSET, PADDINGS
from jitlink.bpf.jit.riscv64_assembler import Riscv64Assembler
from jitlink.bpf.jit.riscv64_templates import (
    HUGE,
    LOW_NEGATIVE,
    NEGATIVE,
    NO_IMM,
    SIGNED_IMM,
    SMALL_IMM,
    SMALL_OFFSET,
    Riscv64Writer,
)
from jitlink.bpf.jit.templates import Operand, Template
from jitlink.columns import Rows

BRANCH_REACH, JUMP_REACH = 1 << 12, 1 << 20
# Plain integers, since looking up the member of an enumeration takes as long as an array operation.
_IMM, _OFFSET = int(Operand.IMM), int(Operand.OFFSET)


class Riscv64:
    """The back end. Attributes as in Backend."""

    target = "riscv64"
    byteorder: ByteOrder = "little"
    registers: Rows = np.array(Riscv64Assembler.BPF, np.int64)
    short_reach = (-BRANCH_REACH, BRANCH_REACH - 4)
    record_bias = 0
    paddings: tuple[int, ...] = PADDINGS
    pointer_kind = "R_RISCV_64"

    def own_features(self, kind: Rows, operands: npt.NDArray[np.int64]) -> Rows:
        """Find out what immediates and offsets fit, and what may be out of reach.

        LONG is one of them here, for pieces that are no branches of the program: those that the driver makes long.
        """
        imm, offset = operands[_IMM], operands[_OFFSET]
        features: Rows = _fits_12(imm) * SMALL_IMM | (imm >> 11 & 1) * LOW_NEGATIVE | (imm < 0) * NEGATIVE
        features |= (imm == 0) * NO_IMM | _fits_12(offset) * SMALL_OFFSET
        rows = WITH_ADDRESS[kind].nonzero()[0]
        features[rows] &= ~NO_OFFSET
        features[rows] |= (offset[rows] == 0) * NO_OFFSET
        rows = _CONSTANT[kind].nonzero()[0]
        features[rows] &= ~SIGNED_IMM
        features[rows] |= (imm[rows] >> 31 == imm[rows] >> 63) * SIGNED_IMM
        features &= _RELEVANT[kind]
        most = bytes_at_most(kind)
        if most >= JUMP_REACH:
            features |= ~_CALLS[kind] * HUGE
        finish(features, kind, imm, far=most >= BRANCH_REACH)
        return features

    def template(self, kind: int, features: int) -> Template:
        """Make the template of a shape."""
        writer = Riscv64Writer(features)
        writer.write(kind)
        assert len(writer.code) <= MOST[kind]
        return writer

    def runtime(self) -> Runtime:
        """Make the routines."""
        return _runtime()


class _Routines(Riscv64Assembler, Routines):
    pass


@cache
def _runtime() -> Runtime:
    return _Routines().write()


def _fits_12(value: Rows) -> npt.NDArray[np.bool_]:
    """Mark the numbers that are signed numbers of 12 bits."""
    return (value >= -2048) & (value < 2048)


def _relevant(form: Form) -> int:
    """What the code of a form depends on."""
    imm = SMALL_IMM | LOW_NEGATIVE
    match form.family:
        case Family.ARITHMETIC if form.from_register or form.operation in ("neg", "lsh", "rsh", "arsh"):
            return 0
        case Family.ARITHMETIC:
            return imm | (NEGATIVE if form.operation == "mov" else NO_IMM)
        case Family.CONSTANT:
            return imm | SIGNED_IMM
        case Family.LOAD | Family.STORE:
            return SMALL_OFFSET | (0 if form.from_register else imm | NO_IMM)
        case Family.ATOMIC:
            return NO_OFFSET | SMALL_OFFSET
        case Family.BRANCH if not form.from_register and form.operation != "may_goto":
            return imm | NO_IMM
        case _:
            return 0


_OF_ADDRESS = NO_OFFSET | SMALL_OFFSET
_RELEVANT = by_kind(
    [_relevant(form) for form in FORMS], {Kind.METER: SMALL_IMM, Kind.CHECK: _OF_ADDRESS, Kind.SEARCH: _OF_ADDRESS}
)
_CONSTANT, _CALLS = marked(family=Family.CONSTANT), marked(family=Family.CALL)
