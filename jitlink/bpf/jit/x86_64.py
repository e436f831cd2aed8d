"""x86-64: the back end.

    r0   rax        r6   rbx        rsp   the host's stack
    r1   rdi        r7   r13        r9    what is left of the budget
    r2   rsi        r8   r14        r10   scratch
    r3   rdx        r9   r15        r11   scratch
    r4   rcx        r10  rbp        r12   the record, 128 bytes past its start
    r5   r8

So r1 to r5 lie where the System V ABI wants arguments, r0 where it returns a result, and r6 to r10 in
registers that C functions keep: a helper in machine code is called as it is. The budget lives in a register
that calls do not keep, so it is stored before them and loaded after.

r12 points into the record, not at its start, so that the displacements of the first sites are of one byte.

The machine code of each shape is in x86_64_templates, the routines are in x86_64_runtime. Here is what a
shape depends on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.jit.backend import Kind, Runtime
from jitlink.bpf.jit.templates import Operand, Template
from jitlink.bpf.jit.x86_64_assembler import RAX, RCX, RDX, SHIFTS
from jitlink.bpf.jit.x86_64_runtime import BIAS, BPF_REGISTERS, has_bmi2, runtime
from jitlink.bpf.jit.x86_64_templates import (
    DIVISIONS,
    DST_IN_RAX,
    DST_IN_RCX,
    DST_IN_RDX,
    NO_DIVISOR,
    NO_IMM,
    NOPS,
    PADDING_BITS,
    SHORT,
    SIGNED_IMM,
    SMALL_IMM,
    SMALL_OFFSET,
    SRC_IN_RAX,
    SRC_IN_RCX,
    SRC_IN_RDX,
    UNSIGNED_IMM,
    template_of,
)
from jitlink.columns import Rows

DIVIDING, DIVIDING_BY_CONSTANT, SHIFTING, FETCHING = range(1, 5)
"""In which way an instruction depends on the registers of its operands."""
# Plain integers, since looking up the member of an enumeration takes as long as an array operation.
_DST, _SRC, _IMM, _OFFSET, _EXTRA = (
    int(each) for each in (Operand.DST, Operand.SRC, Operand.IMM, Operand.OFFSET, Operand.EXTRA)
)
_METER, _CHECK, _PADDING = map(int, (Kind.METER, Kind.CHECK, Kind.PADDING))
LARGEST_BYTE = 127
_OFFSET_RANGES = np.array([-128, 128], np.int64)
_OF_OFFSET = np.array([0, SMALL_OFFSET, 0], np.int64)
"""The features of an offset, by which of the ranges between these numbers it lies in."""
_IMM_RANGES = np.array([-(1 << 31), -128, 0, 1, 128, 1 << 31, 1 << 32], np.int64)
_OF_IMM = np.array(
    [
        0,
        SIGNED_IMM,
        SIGNED_IMM | SMALL_IMM,
        SIGNED_IMM | SMALL_IMM | UNSIGNED_IMM | NO_IMM,
        SIGNED_IMM | SMALL_IMM | UNSIGNED_IMM,
        SIGNED_IMM | UNSIGNED_IMM,
        UNSIGNED_IMM,
        0,
    ],
    np.int64,
)


class X8664:
    """The back end. Attributes as in Backend, and bmi2: whether shifts may take any register as their count."""

    target = "x86_64"
    byteorder: ByteOrder = "little"
    registers: Rows = np.array(BPF_REGISTERS, np.int64)
    short_reach = (SHORT.start, SHORT.stop)
    record_bias = BIAS
    paddings = tuple(NOPS)
    pointer_kind = "R_X86_64_64"

    def __init__(self, bmi2: bool | None = None) -> None:
        self.bmi2 = has_bmi2() if bmi2 is None else bmi2
        self._relevant, self._fixed = _relevant_features(self.bmi2)

    def own_features(self, kind: Rows, operands: npt.NDArray[np.int64]) -> Rows:
        """Find out what the immediate and the offset fit, and which registers are in the way."""
        imm = operands[_IMM]
        features: Rows = _OF_IMM[_IMM_RANGES.searchsorted(imm, "right")]
        features |= _OF_OFFSET[_OFFSET_RANGES.searchsorted(operands[_OFFSET], "right")]
        features &= self._relevant[kind]
        checks = (kind == _CHECK).nonzero()[0]
        if len(checks):
            # Its bound lies behind the site, and so may be out of the reach of a byte where the site is not.
            features[checks[operands[_EXTRA, checks] > LARGEST_BYTE]] &= ~SMALL_IMM
        rows = self._fixed[kind].nonzero()[0]
        if len(rows):
            self._add_registers_in_the_way(features, rows, kind[rows], operands)
        padding = (kind == _PADDING).nonzero()[0]
        if len(padding):
            features[padding] = imm[padding] << PADDING_BITS
        return features

    def _add_registers_in_the_way(
        self, features: Rows, rows: Rows, kind: Rows, operands: npt.NDArray[np.int64]
    ) -> None:
        """Find the operands of divisions, shifts and atomic operations that are in registers with a use."""
        dst, src = operands[_DST, rows], operands[_SRC, rows]
        way = self._fixed[kind]
        found = (src == RAX) * SRC_IN_RAX | (dst == RAX) * DST_IN_RAX | (dst == RDX) * DST_IN_RDX
        found |= (src == RDX) * SRC_IN_RDX
        shifts = way == SHIFTING
        found[shifts] = ((src == RCX) * SRC_IN_RCX | (dst == RCX) * DST_IN_RCX)[shifts]
        found[way == FETCHING] &= SRC_IN_RAX
        found[way == DIVIDING_BY_CONSTANT] &= DST_IN_RAX | DST_IN_RDX
        features[rows] |= found

    def template(self, kind: int, features: int) -> Template:
        """Make the template of a shape."""
        return template_of(kind, features, bmi2=self.bmi2)

    def runtime(self) -> Runtime:
        """Make the routines."""
        return runtime()


def _relevant_features(bmi2: bool) -> tuple[Rows, Rows]:
    """For each kind, which features of its constants its code depends on, and in which way on registers."""
    relevant, fixed = np.zeros((2, max(Kind) + 1), np.int64)
    for number, form in enumerate(FORMS):
        relevant[number] = _features_of(form)
        fixed[number] = _fixed_registers_of(form, bmi2)
    relevant[_METER] = SMALL_IMM
    relevant[_CHECK] = SMALL_IMM | SMALL_OFFSET
    relevant[Kind.SEARCH] = SMALL_OFFSET
    return relevant, fixed


def _features_of(form: Form) -> int:
    match form.family:
        case Family.ARITHMETIC if form.from_register:
            return 0
        case Family.ARITHMETIC if form.operation in DIVISIONS:
            return NO_DIVISOR
        case Family.ARITHMETIC if form.operation == "mov":
            return NO_IMM | UNSIGNED_IMM
        case Family.ARITHMETIC:
            return SMALL_IMM
        case Family.BRANCH if not form.from_register:
            return NO_IMM | SMALL_IMM
        case Family.CONSTANT:
            return NO_IMM | UNSIGNED_IMM | SIGNED_IMM
        case Family.ATOMIC | Family.LOAD | Family.STORE:
            return SMALL_OFFSET
        case _:
            return 0


def _fixed_registers_of(form: Form, bmi2: bool) -> int:
    if form.operation in DIVISIONS:
        return DIVIDING if form.from_register else DIVIDING_BY_CONSTANT
    if form.operation in SHIFTS and form.from_register and not bmi2:
        return SHIFTING
    return FETCHING if form.family is Family.ATOMIC else 0
