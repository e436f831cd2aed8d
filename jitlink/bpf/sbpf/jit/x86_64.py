"""x86-64: what the back end has for programs whose addresses are translated.

r10 is the spare register. An access whose address was translated goes to where r10 points.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from jitlink.bpf.isa import FORMS
from jitlink.bpf.jit.abi import SIZES
from jitlink.bpf.jit.backend import SIZE_SHIFT, WRITE_SHIFT, Feature, Kind, Runtime
from jitlink.bpf.jit.templates import Operand, Reach, Template
from jitlink.bpf.jit.x86_64 import X8664
from jitlink.bpf.jit.x86_64_assembler import R8, R9, R10, R11, RAX, RBP, RCX, RDI, RDX, RSI, RSP, Memory, Register
from jitlink.bpf.jit.x86_64_runtime import BIAS, BUDGET, PUSHED, RECORD, Routines, field
from jitlink.bpf.jit.x86_64_templates import DST, SMALL_OFFSET, SRC, SRC_IN_RAX, Writer
from jitlink.bpf.sbpf.abi import OFFSET, WINDOW_SIZE, Status, Window
from jitlink.bpf.sbpf.jit.backend import NUMBER_SHIFT
from jitlink.bpf.sbpf.memory import FRAME_BITS, FRAME_SIZE, REGION_BITS, REGIONS
from jitlink.columns import Rows

SPARE = R10
WINDOW = {name: getattr(Window, name).offset for name, _ in Window._fields_}
"""Where each field of a window lies."""
_DIVISIONS = np.array([form.operation in ("div", "mod", "sdiv", "smod") for form in FORMS])
_ADDRESSES = (int(Kind.TRANSLATE), int(Kind.FIND))
_SRC, _OFFSET = int(Operand.SRC), int(Operand.OFFSET)


class TranslatingX8664(X8664):
    """The back end. Attributes as in TranslatingBackend."""

    spare = SPARE

    def own_features(self, kind: Rows, operands: npt.NDArray[np.int64]) -> Rows:
        """Find out what X8664 does, and what else templates here depend on."""
        features = super().own_features(kind, operands)
        small = (operands[_OFFSET] >= -0x80) & (operands[_OFFSET] < 0x80)
        features |= (np.isin(kind, _ADDRESSES) & small) * SMALL_OFFSET
        # A division needs the spare register itself: a divisor in it goes to memory first.
        divides = _DIVISIONS[np.where(kind < len(FORMS), kind, 0)]
        features |= (divides & (operands[_SRC] == SPARE)) * SRC_IN_RAX
        return features

    def template(self, kind: int, features: int) -> Template:
        """Make the template of a shape."""
        writer = _Writer(features, self.bmi2)
        if kind < len(FORMS):
            writer.write_form(FORMS[kind])
        else:
            writer.write_kind(Kind(kind))
        return writer

    def runtime(self) -> Runtime:
        """Make the routines."""
        return _runtime()


class _Writer(Writer):
    """Writes the template of one shape."""

    FRAME_DISTANCE = FRAME_SIZE

    def write_kind(self, kind: Kind) -> None:
        match kind:
            case Kind.TRANSLATE:
                self._address(SPARE)
                self.alu("sub", SPARE, field(Operand.IMM))
                self.alu("cmp", SPARE, field(Operand.EXTRA))
                self.jump(Reach.COLD, "ae")
                self.alu("add", SPARE, field(Operand.HOST))
            case Kind.FIND:
                self._address(SPARE)
                self.move_word(R11, Operand.IMM)
                self.call(Reach.RUNTIME, "find")
                self.jump(Reach.JUMP)
            case Kind.FRAME if self.hidden:
                self._reveal(SPARE, Operand.HIDDEN, signed=True)
                self.alu("add", SPARE, field("frame"))
            case Kind.FRAME:
                self.load(SPARE, field("frame"))
            case Kind.DIVISOR | Kind.SIGNED_DIVISOR:
                self._guard_division(signed=kind is Kind.SIGNED_DIVISOR)
            case Kind.HIGH_PRODUCT | Kind.SIGNED_HIGH_PRODUCT:
                self._high_product(signed=kind is Kind.SIGNED_HIGH_PRODUCT)
            case Kind.NATIVE_SYSCALL:
                self.address_outside(R11)
                self.call(Reach.RUNTIME, "native_syscall")
            case _:
                super().write_kind(kind)

    def _place(self, base: Register) -> Memory:
        # In hardened code the offset is in the base already.
        return Memory(base, 0) if self.hidden else super()._place(base)

    def _guard_division(self, signed: bool) -> None:
        wide = not self.has(Feature.NARROW)
        self.test(SRC, SRC, wide)
        self.jump(Reach.COLD, "e")
        if signed:
            # MIN / -1 has no result, and MIN is the one number whose negation overflows (but 0 does not).
            self.alu_immediate("cmp", SRC, -1, 1, wide)
            other = self.skip("ne")
            self.move(R11, DST, wide)
            self.group3(3, R11, wide)
            self.jump(Reach.COLD, "o")
            self.land(other)

    def _high_product(self, signed: bool) -> None:
        """The host's instruction multiplies by rax, and leaves the upper half in rdx."""
        operand = field("scratch")
        self.store(operand, SRC)
        self.move(R11, RDX)
        self.move(R10, RAX)
        self.move(RAX, DST)
        self.group3(5 if signed else 4, operand)
        self.store(operand, RDX)
        self.move(RDX, R11)
        self.move(RAX, R10)
        self.load(DST, operand)

    # Calls

    def _call_register(self) -> None:
        """callx: a function that the table knows is called here, all else is given away."""
        self.move(R11, DST)
        self.alu("sub", R11, Memory(RECORD, OFFSET["text"] - BIAS))
        self.alu_immediate("cmp", R11, Operand.EXTRA, 4)
        beyond = self.skip("ae")
        # An address in the middle of an instruction is one of that instruction.
        self.alu_immediate("and", R11, -8, 1)
        self._call_from_table(beyond)

    def _next_frame(self) -> None:
        self.alu_immediate("add", R11, FRAME_SIZE, 4)
        self.store(field("frame"), R11)
        self.alu_immediate("add", RBP, Operand.OFFSET, 4)


class _Routines(Routines):
    """BPF's routines, and behind them

    find             finds the region of an access, keeps it in a site, and translates the address in r10
    native_syscall   calls the syscall whose address is in r11
    """

    def write(self) -> Runtime:
        runtime = super().write()
        self._find()
        self._native_syscall()
        return runtime

    def _find(self) -> None:
        """r10: the address, at the end that in the host's memory; r11: what FIND says. Changes no other register."""
        self._begin("lost")
        self._pop_pushed()
        self._go("fault")
        self._begin("find")
        for register in PUSHED:
            self.push(register)
        self.move(RAX, R11, False)
        self.shift("rsh", RAX, SIZE_SHIFT, False)
        self.op(b"\x0f\xb6", RAX, RAX, False)
        self.move(RCX, R10)
        self.shift("rsh", RCX, REGION_BITS)
        self.alu_immediate("cmp", RCX, REGIONS, 1)
        self._go("lost", "ae")
        self.op(0x6B, RSI, RCX)
        self.word(WINDOW_SIZE, 1)
        self.address(RSI, Memory(RECORD, OFFSET["readable"] - BIAS, index=RSI))
        self.group3(0, R11, False)
        self.word(1 << WRITE_SHIFT, 4)
        reads = self.skip("e")
        self.alu_immediate("add", RSI, OFFSET["writable"] - OFFSET["readable"], 4)
        self.land(reads)
        self._find_in_window()
        self._fill_site()
        self.address(R10, Memory(RDI, 0, index=RDX))
        self._pop_pushed()
        self.ret()

    def _find_in_window(self) -> None:
        """rsi: the window; rax: the size of the access.

        Leaves in rdx how far the access is from the start that goes into the site, in rsi how many addresses from
        there are good, in rcx how many bytes, and in rdi where they are.
        """
        self.move(RDX, R10, False)
        self.alu("sub", RDX, Memory(RSI, WINDOW["start"]))
        self.load(RCX, Memory(RSI, WINDOW["size"]))
        self.load(RDI, Memory(RSI, WINDOW["host"]))
        self.alu_immediate("cmp", Memory(RSI, WINDOW["gapped"]), 0, 1)
        self.move(RSI, RCX)
        whole = self.skip("e")
        # Every other frame is a gap. In the host's memory frames lie side by side.
        self.move(RSI, RDX)
        self.shift("rsh", RSI, FRAME_BITS)
        self.test_bits(RSI, 1)
        self._go("lost", "ne")
        self.shift("lsh", RSI, FRAME_BITS - 1)
        self.alu("cmp", RSI, RCX)
        self._go("lost", "ae")
        self.alu("sub", RCX, RSI)
        self.alu("add", RDI, RSI)
        self.alu_immediate("and", RDX, FRAME_SIZE - 1, 4)
        self.constant(RSI, FRAME_SIZE)
        self.land(whole)
        self.alu("cmp", RDX, RCX)
        self._go("lost", "ae")
        self.alu("add", RAX, RDX)
        self.alu("cmp", RAX, RCX)
        self._go("lost", "a")

    def _fill_site(self) -> None:
        """Write what was found into the site that r11 names."""
        self.alu("sub", R10, RDX)
        self.move(RAX, R11, False)
        self.shift("rsh", RAX, NUMBER_SHIFT, False)
        self.shift("lsh", RAX, 3)
        self.store(Memory(RECORD, OFFSET["hosts"] - BIAS, index=RAX), RDI)
        self.op(b"\x0f\xb7", R11, R11, False)
        self.address(R11, Memory(RECORD, -BIAS, index=R11))
        self.store(Memory(R11), R10)
        for number, size in enumerate(SIZES):
            self.move(RAX, RCX)
            self.alu_immediate("sub", RAX, size - 1, 1)
            fits = self.skip("ae")
            self.constant(RAX, 0)
            self.land(fits)
            self.alu("cmp", RAX, RSI)
            within = self.skip("be")
            self.move(RAX, RSI)
            self.land(within)
            self.store(Memory(R11, 8 + 8 * number), RAX)

    def _native_syscall(self) -> None:
        """r1 to r5 stay as they are; so does r0 where the syscall fails."""
        kept = (RAX, RDI, RSI, RDX, RCX, R8)
        self._begin("native_syscall")
        self.store(field("budget"), BUDGET)
        self.load(R10, Memory(RSP))
        self.store(field("place"), R10)
        for register in kept:
            self.push(register)
        self.address(R9, Memory(RECORD, -BIAS))
        self.call_register(R11)
        self.move(R11, RAX)
        for register in reversed(kept):
            self.pop(register)
        self.load(BUDGET, field("budget"))
        self.alu_immediate("cmp", field("status"), Status.RUNNING, 1)
        failed = self.skip("ne")
        self.test(BUDGET, BUDGET)
        overdrawn = self.skip("s")
        self.move(RAX, R11)
        self.ret()
        self.land(failed, overdrawn)
        self.move_signed(field("status"), Status.SYSCALL_FAILED)
        self._go("stop")


@cache
def _runtime() -> Runtime:
    return _Routines().write()
