"""RISC-V, 64 bits: the machine code of arithmetic, accesses and comparisons.

Instructions of 32 bits leave a result with its sign extended, where BPF wants zeros: two shifts follow. Two
numbers of 32 bits are compared with their signs extended, which keeps the order of unsigned ones as well.

The quotient of a division by zero is all ones, where RFC 9669 wants 0; the remainder is the number, and
MIN / -1 is MIN with the remainder 0, as it should be.

Source: The RISC-V Instruction Set Manual, volume I, chapters RV64I, M and A; RFC 9669. Orders of memory: the
same volume, appendix A.5 (Code Porting and Mapping Guidelines).
"""

from __future__ import annotations

from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.jit.backend import Feature
from jitlink.bpf.jit.load_store import Part, Register
from jitlink.bpf.jit.load_store_templates import DST, NO_OFFSET, SRC, Writer
from jitlink.bpf.jit.riscv64_assembler import ALL, AMO, LOAD, ZERO, Riscv64Assembler
from jitlink.bpf.jit.templates import Operand, Reach

SMALL_IMM, LOW_NEGATIVE, NEGATIVE = (int(Feature.OWN) << bit for bit in range(3))
"""What the immediate is like: of 12 bits with a sign; its lowest 12 bits are negative; negative."""
NO_IMM = NO_OFFSET
SMALL_OFFSET, HUGE = (int(Feature.OWN) << bit for bit in range(4, 6))
"""The offset has 12 bits with a sign; JAL may not reach everything. Calls have no room for the latter: they take
it for granted."""
SIGNED_IMM = NEGATIVE
"""Of constants: the immediate is a signed number of 32 bits."""

CONDITION = {
    "jeq": "eq", "jgt": "hi", "jge": "hs", "jne": "ne", "jsgt": "gt", "jsge": "ge", "jlt": "lo", "jle": "ls",
    "jslt": "lt", "jsle": "le",
}  # fmt: skip
SHIFTS = ("lsh", "rsh", "arsh")
WITH_NUMBER = ("add", "and", "or", "xor")
SIZE_CODE = {8: 0, 16: 1, 32: 2, 64: 3}
"""Bits 12 and 13 of accesses; bit 14 is set for loads that do not extend the sign."""
UNSIGNED = 4
AMOS = {"add": 0x00, "xchg": 0x01, "xor": 0x04, "or": 0x08, "and": 0x0C}
LOAD_RESERVED, STORE_CONDITIONAL = 0x02, 0x03
ACQUIRE, RELEASE = 1 << 26, 1 << 25
FENCE_AFTER_LOAD, FENCE_BEFORE_STORE = 0x0230000F, 0x0310000F
"""FENCE R,RW and FENCE RW,W."""


class Riscv64Writer(Riscv64Assembler, Writer):
    """Writes the template of one shape."""

    NOP = 0x13

    def write(self, kind: int) -> None:
        self.huge = (kind < len(FORMS) and FORMS[kind].family is Family.CALL) or self.has(HUGE)
        super().write(kind)

    def reveal(self, to: int, value: Operand) -> None:
        key = self.SCRATCH[-2]
        self.number(to, value)
        self.number(key, Operand.KEY)
        self.three("xor", to, to, key)

    def _immediate(self, to: Register) -> None:
        """to = the immediate, which is not hidden, with its sign."""
        if self.has(SMALL_IMM):
            self.with_number("add", to, ZERO, Operand.IMM)
        else:
            self.upper(to, Operand.IMM, flip=ALL if self.has(LOW_NEGATIVE) else 0)
            self.with_number("xor", to, to, Operand.IMM)

    def _second(self, form: Form) -> Register:
        """The register with the second operand of an instruction."""
        if form.from_register:
            return SRC
        if self.has(NO_IMM) and not self.hidden:
            return ZERO
        to = self.SCRATCH[2]
        if self.hidden:
            self.reveal(to, Operand.HIDDEN)
        else:
            self._immediate(to)
        return to

    def wide_constant(self) -> None:
        if self.hidden:
            key = self.SCRATCH[0]
            self._wide(DST, Operand.HIDDEN)
            self._wide(key, Operand.KEY)
            self.three("xor", DST, DST, key)
        elif self.has(SIGNED_IMM):
            self._immediate(DST)
        else:
            self._wide(DST, Operand.IMM)

    def _wide(self, to: Register, value: Operand) -> None:
        """to = 64 bits: 20 of them, and four times 11, which have no sign."""
        self.put(0x37, Part(to, 7), Part(value, 12, 20, 44))
        self.shifted("arsh", to, to, 1)
        for shift in (33, 22, 11, 0):
            if shift < 33:
                self.shifted("lsh", to, to, 11)
            self.put(0x13, Part(to, 7), Part(to, 15), Part(value, 20, 11, shift))

    # Arithmetic

    def arithmetic(self, form: Form, wide: bool) -> None:
        name = form.operation
        if name == "neg":
            self.three("sub", DST, ZERO, DST, wide)
        elif name.startswith("movsx"):
            self.sign_extend(DST, SRC, int(name.removeprefix("movsx")))
        elif name == "mov":
            self._move(form, wide)
            return
        elif name in SHIFTS and not form.from_register and not self.hidden:
            self.shifted(name, DST, DST, Operand.IMM, wide)
        elif name in WITH_NUMBER and not form.from_register and self.has(SMALL_IMM) and not self.hidden:
            self.with_number(name, DST, DST, Operand.IMM, wide)
        elif name in ("div", "sdiv"):
            self._divide(form, wide)
        else:
            self.three(name, DST, DST, self._second(form), wide)
        if not wide:
            self.zero_extend(DST, DST)

    def _move(self, form: Form, wide: bool) -> None:
        if form.from_register and not wide:
            self.zero_extend(DST, SRC)
        elif form.from_register or self.hidden:
            self.move(DST, self._second(form))
        else:
            self._immediate(DST)
        if not form.from_register and not wide and (self.hidden or self.has(NEGATIVE)):
            self.zero_extend(DST, DST)

    def _divide(self, form: Form, wide: bool) -> None:
        quotient, tested = self.SCRATCH[:2]
        divisor = self._second(form)
        self.three(form.operation, quotient, DST, divisor, wide)
        if not wide:
            self.sign_extend(tested, divisor)
            divisor = tested
        good = self.skip("ne", divisor, ZERO)
        self.constant(quotient, 0)
        self.land(good)
        self.move(DST, quotient)

    def byte_order(self, form: Form) -> None:
        if form.operation == "bswap" or (form.operation == "be") != self.has(Feature.SWAPPED):
            self._swap(DST, DST, form.bits)
        elif form.bits < 64:
            self.zero_extend(DST, DST, form.bits)

    def _swap(self, to: Register, source: Register, bits: int) -> None:
        """Reverse the lowest bytes of a register, one by one; the others become zero."""
        rest, byte, result = self.SCRATCH[3:6]
        self.move(rest, source)
        self.with_number("and", result, source, 0xFF)
        for _ in range(bits // 8 - 1):
            self.shifted("rsh", rest, rest, 8)
            self.with_number("and", byte, rest, 0xFF)
            self.shifted("lsh", result, result, 8)
            self.three("or", result, result, byte)
        self.move(to, result)

    # Memory

    def address(self, to: int, base: Register, hidden: Operand) -> None:
        if self.hidden:
            self.reveal(to, hidden)
            self.add(to, to, base)
        elif self.has(NO_OFFSET):
            self.move(to, base)
        elif self.has(SMALL_OFFSET):
            self.with_number("add", to, base, Operand.OFFSET)
        else:
            self.number(to, Operand.OFFSET)
            self.add(to, to, base)

    def _place(self, base: Register) -> tuple[Register, Register]:
        """The register and the offset of an access."""
        if self.has(SMALL_OFFSET) and not self.hidden:
            return base, Operand.OFFSET
        to = self.SCRATCH[1]
        if self.hidden:
            self.reveal(to, Operand.EXTRA)
        else:
            self.number(to, Operand.OFFSET)
        self.add(to, to, base)
        return to, 0

    def access(self, form: Form) -> None:
        swapped = self.has(Feature.SWAPPED) and form.bits > 8
        code = SIZE_CODE[form.bits]
        if form.family is Family.STORE:
            value = self._second(form)
            if swapped and value != ZERO:
                self._swap(self.SCRATCH[2], value, form.bits)
                value = self.SCRATCH[2]
            self.store_sized(code, value, *self._place(DST))
            return
        signed = form.operation == "load_signed"
        self._load(DST, *self._place(SRC), form.bits, signed and not swapped)
        if swapped:
            self._swap(DST, DST, form.bits)
            if signed:
                self.sign_extend(DST, DST, form.bits)

    def _load(self, to: Register, base: Register, offset: Register, bits: int, signed: bool) -> None:
        code = SIZE_CODE[bits] | (0 if signed or bits == 64 else UNSIGNED)
        self.put(LOAD | code << 12, Part(to, 7), Part(base, 15), Part(offset, 20, 12))

    def atomic(self, form: Form) -> None:
        address, name, wide = self.SCRATCH[0], form.operation, form.bits == 64
        if name == "load_acquire":
            self._load(DST, address, 0, form.bits, False)
            self.put(FENCE_AFTER_LOAD)
        elif name == "store_release":
            self.put(FENCE_BEFORE_STORE)
            self.store_sized(SIZE_CODE[form.bits], SRC, address, 0)
        elif name == "cmpxchg":
            self._compare_and_exchange(wide)
        else:
            combined = name.removeprefix("fetch_")
            fetches = combined != name or name == "xchg"
            order = ACQUIRE | RELEASE if fetches else 0
            self._amo(AMOS[combined], SRC if fetches else ZERO, SRC, wide, order)
            if fetches and not wide:
                self.zero_extend(SRC, SRC)

    def _amo(self, number: int, to: Register, operand: Register, wide: bool, order: int) -> None:
        word = AMO | number << 27 | order | (0x3000 if wide else 0x2000)
        self.put(word, Part(to, 7), Part(self.SCRATCH[0], 15), Part(operand, 20))

    def _compare_and_exchange(self, wide: bool) -> None:
        _, old, failed, expected = self.SCRATCH[:4]
        r0 = self.BPF[0]
        if not wide:
            self.sign_extend(expected, r0)
        again = len(self.code)
        self._amo(LOAD_RESERVED, old, ZERO, wide, ACQUIRE | RELEASE)
        differs = self.skip("ne", old, r0 if wide else expected)
        self._amo(STORE_CONDITIONAL, failed, SRC, wide, RELEASE)
        self.back(again, "ne", failed, ZERO)
        self.land(differs)
        if wide:
            self.move(r0, old)
        else:
            self.zero_extend(r0, old)

    # Control

    def meter(self) -> None:
        count = self.SCRATCH[0]
        if self.has(SMALL_IMM):
            self.with_number("add", count, ZERO, Operand.IMM)
        else:
            self.number(count, Operand.IMM)
        self.subtract(self.BUDGET, self.BUDGET, count)
        self.branch("lt", self.BUDGET, ZERO, Reach.COLD, self.far)

    def conditional(self, form: Form, wide: bool) -> None:
        second = self._second(form)
        if form.operation == "jset":
            common = self.SCRATCH[3]
            self.three("and", common, DST, second)
            if not wide:
                self.sign_extend(common, common)
            self.branch("ne", common, ZERO, Reach.JUMP, self.far)
            return
        first: Register = DST
        if not wide:
            first, extended = self.SCRATCH[3], self.SCRATCH[4]
            self.sign_extend(first, DST)
            if form.from_register:
                self.sign_extend(extended, SRC)
                second = extended
        self.branch(CONDITION[form.operation], first, second, Reach.JUMP, self.far)
