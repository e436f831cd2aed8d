"""AArch64 and RISC-V: what their back ends have for programs whose addresses are translated.

The spare register is the fourth scratch register, which no template of arithmetic or of an access uses.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cache

import numpy as np
import numpy.typing as npt

from jitlink.bpf.jit.aarch64 import AArch64
from jitlink.bpf.jit.aarch64_assembler import AArch64Assembler
from jitlink.bpf.jit.aarch64_templates import AArch64Writer
from jitlink.bpf.jit.backend import Feature, Kind, Runtime
from jitlink.bpf.jit.load_store import Part
from jitlink.bpf.jit.load_store_features import MOST
from jitlink.bpf.jit.load_store_templates import DST, SRC, Writer
from jitlink.bpf.jit.riscv64 import Riscv64
from jitlink.bpf.jit.riscv64_assembler import OP, Riscv64Assembler
from jitlink.bpf.jit.riscv64_templates import Riscv64Writer
from jitlink.bpf.jit.templates import Operand, Reach, Template
from jitlink.bpf.sbpf.abi import OFFSET
from jitlink.bpf.sbpf.jit.load_store_runtime import SPARE, TranslatingRoutines
from jitlink.bpf.sbpf.memory import FRAME_SIZE
from jitlink.columns import Rows

SMALLEST = 1 << 63
"""The bits of the smallest signed number."""
HALF = 32


class TranslatingWriter(Writer):
    """Writes the template of one shape."""

    @abstractmethod
    def high_product(self, signed: bool) -> None:
        """dst = the upper half of dst * src."""

    def _write_kind(self, kind: Kind) -> None:
        first, second, spare = self.SCRATCH[0], self.SCRATCH[1], self.SCRATCH[SPARE]
        match kind:
            case Kind.TRANSLATE:
                self._translate()
            case Kind.FIND:
                self._checked_address()
                self.number(second, Operand.IMM)
                self.routine("find")
                self.jump(Reach.JUMP)
            case Kind.FRAME if self.hidden:
                self.reveal(spare, Operand.HIDDEN)
                self.load_record(first, "frame")
                self.add(spare, spare, first)
            case Kind.FRAME:
                self.load_record(spare, "frame")
            case Kind.DIVISOR:
                self._guard_division()
            case Kind.SIGNED_DIVISOR:
                self._guard_signed_division()
            case Kind.HIGH_PRODUCT | Kind.SIGNED_HIGH_PRODUCT:
                self.high_product(kind is Kind.SIGNED_HIGH_PRODUCT)
            case Kind.NATIVE_SYSCALL:
                self.address_outside(first)
                self.routine("native_syscall")
            case _:
                super()._write_kind(kind)

    def _translate(self) -> None:
        distance, other, bound = self.SCRATCH[:3]
        self._checked_address()
        self.load_field(other, Operand.IMM)
        self.load_field(bound, Operand.EXTRA)
        self.subtract(distance, distance, other)
        self.branch("hs", distance, bound, Reach.COLD, self.far)
        self.load_field(other, Operand.HOST)
        self.add(self.SCRATCH[SPARE], distance, other)

    def _operand(self, to: int, operand: Operand) -> None:
        """to = what decides about a division: an operand, or in the upper half of to the lower half of it."""
        if self.has(Feature.NARROW):
            self.lower_half_up(to, operand)
        else:
            self.move(to, operand)

    @abstractmethod
    def lower_half_up(self, to: int, operand: Operand) -> None:
        """to = operand << 32."""

    def _guard_division(self) -> None:
        divisor = self.SCRATCH[0]
        self._operand(divisor, SRC)
        self.branch("eq", divisor, self.ZERO, Reach.COLD, self.far)

    def _guard_signed_division(self) -> None:
        divisor, dividend, other = self.SCRATCH[:3]
        self._guard_division()
        self._operand(dividend, DST)
        self.constant(other, -1 << HALF if self.has(Feature.NARROW) else -1)
        harmless = self.skip("ne", divisor, other)
        self.constant(other, SMALLEST)
        self.branch("eq", dividend, other, Reach.COLD, self.far)
        self.land(harmless)

    # Calls

    def _call_register(self) -> None:
        """callx: a function that the table knows is called here, all else is given away."""
        index, other = self.SCRATCH[:2]
        self.load(other, self.RECORD, OFFSET["text"])
        self.subtract(index, DST, other)
        self.number(other, Operand.EXTRA)
        beyond = self.skip("hs", index, other)
        # An address in the middle of an instruction is one of that instruction.
        self.shift_right(index, index, 3)
        self.shift_left(index, index, 3)
        self._call_from_table(index, beyond)

    def _next_frame(self, frame: int, other: int) -> None:
        self.constant(other, FRAME_SIZE)
        self.add(frame, frame, other)
        self.store_record(frame, "frame")
        self.number(other, Operand.OFFSET)
        self.add(self.BPF[10], self.BPF[10], other)

    def _last_frame(self, frame: int, other: int) -> None:
        self.constant(other, FRAME_SIZE)
        self.subtract(frame, frame, other)


class _AArch64Writer(TranslatingWriter, AArch64Writer):
    def lower_half_up(self, to: int, operand: Operand) -> None:
        self.shifted("lsh", to, operand, HALF)

    def high_product(self, signed: bool) -> None:
        # SMULH and UMULH.
        self.put(0x9B407C00 if signed else 0x9BC07C00, Part(DST, 0), Part(DST, 5), Part(SRC, 16))


class _Riscv64Writer(TranslatingWriter, Riscv64Writer):
    def lower_half_up(self, to: int, operand: Operand) -> None:
        self.shifted("lsh", to, operand, HALF)

    def high_product(self, signed: bool) -> None:
        # MULH and MULHU.
        self.put(OP | (0x02001000 if signed else 0x02003000), Part(DST, 7), Part(DST, 15), Part(SRC, 20))


class TranslatingAArch64(AArch64):
    """The back end. Attributes as in TranslatingBackend."""

    spare = AArch64Assembler.SCRATCH[SPARE]

    def own_features(self, kind: Rows, operands: npt.NDArray[np.int64]) -> Rows:
        """Find out what AArch64 does."""
        return super().own_features(_as_checks(kind), operands)

    def template(self, kind: int, features: int) -> Template:
        """Make the template of a shape."""
        writer = _AArch64Writer(features)
        writer.write(kind)
        assert len(writer.code) <= MOST[kind]
        return writer

    def runtime(self) -> Runtime:
        """Make the routines."""
        return _aarch64_runtime()


class TranslatingRiscv64(Riscv64):
    """The back end. Attributes as in TranslatingBackend."""

    spare = Riscv64Assembler.SCRATCH[SPARE]

    def own_features(self, kind: Rows, operands: npt.NDArray[np.int64]) -> Rows:
        """Find out what Riscv64 does."""
        return super().own_features(_as_checks(kind), operands)

    def template(self, kind: int, features: int) -> Template:
        """Make the template of a shape."""
        writer = _Riscv64Writer(features)
        writer.write(kind)
        assert len(writer.code) <= MOST[kind]
        return writer

    def runtime(self) -> Runtime:
        """Make the routines."""
        return _riscv64_runtime()


def _as_checks(kind: Rows) -> Rows:
    """Name translations as the checks whose features they have."""
    for ours, theirs in ((Kind.TRANSLATE, Kind.CHECK), (Kind.FIND, Kind.SEARCH)):
        kind = np.where(kind == ours, int(theirs), kind)
    return kind


class _AArch64Routines(AArch64Assembler, TranslatingRoutines):
    pass


class _Riscv64Routines(Riscv64Assembler, TranslatingRoutines):
    pass


@cache
def _aarch64_runtime() -> Runtime:
    return _AArch64Routines().write()


@cache
def _riscv64_runtime() -> Runtime:
    return _Riscv64Routines().write()
