"""AArch64: the machine code of arithmetic, accesses and comparisons.

Division needs no care: the quotient of a division by zero is 0 and MIN / -1 is MIN, as RFC 9669 has it, and
the remainder, number - quotient * divisor, is then the number and 0, as it has it too.

Immediates of 12 bits fit into additions and comparisons. Others take a MOVZ, or for negative ones a MOVN, and
a MOVK where they need more than 16 bits. Offsets fit where they are small, or positive multiples of the size.

Atomic operations are loops around exclusive loads and stores, which every AArch64 has. Those that return the
old value are full barriers, as the Linux memory model wants it: a release in the store, a barrier behind it.

Source: Arm Architecture Reference Manual for A-profile architecture, chapter C6; RFC 9669.
"""

from __future__ import annotations

from jitlink.bpf.isa import Family, Form
from jitlink.bpf.jit.aarch64_assembler import ALL_16, MOVK, MOVN, MOVZ, NUMBERED, SHIFTED, ZR, AArch64Assembler
from jitlink.bpf.jit.backend import Feature
from jitlink.bpf.jit.load_store import Part, Register
from jitlink.bpf.jit.load_store_templates import DST, NO_OFFSET, SRC, Writer
from jitlink.bpf.jit.templates import Operand, Reach

IMM_12, ONE_HALF, NEGATIVE = (int(Feature.OWN) << bit for bit in range(3))
"""What the immediate is like: of 12 bits without a sign; put together by a single MOVZ or MOVN; negative."""
SCALED, SMALL_OFFSET, MINUS_OFFSET = (int(Feature.OWN) << bit for bit in range(3, 6))
"""What the offset is like: 12 bits, counted in units of the size; 9 bits with a sign, or of an address 12 without
one; negative."""
NO_IMM, NEAR = NO_OFFSET, SMALL_OFFSET
"""Of comparisons: the immediate is 0; a TBZ reaches all of the program."""
SECOND_QUARTER, THIRD_QUARTER, FOURTH_QUARTER = IMM_12, ONE_HALF, NEGATIVE
"""Of constants: which 16 bits are not 0."""

CONDITION = {
    "jeq": "eq", "jgt": "hi", "jge": "hs", "jset": "ne", "jne": "ne", "jsgt": "gt", "jsge": "ge", "jlt": "lo",
    "jle": "ls", "jslt": "lt", "jsle": "le",
}  # fmt: skip
SIZE_CODE = {8: 0, 16: 1, 32: 2, 64: 3}
"""Bits 30 and 31 of loads and stores."""
STORE, LOAD, LOAD_SIGNED = 0, 1, 2
"""Bits 22 and 23 of them."""
BARRIER = 0xD5033BBF
"""DMB ISH."""
SIGN_TESTS = {"jslt": 0x37000000, "jsge": 0x36000000}
"""TBNZ and TBZ of the sign, where a number is compared with 0."""


class AArch64Writer(AArch64Assembler, Writer):
    """Writes the template of one shape."""

    NOP = 0xD503201F

    def reveal(self, to: int, value: Operand) -> None:
        key = self.SCRATCH[-1]
        for register, operand in ((to, value), (key, Operand.KEY)):
            self.half(MOVZ, register, operand, 0, False)
            self.half(MOVK, register, operand, 1, False)
        self.three("xor", to, to, key, False)
        self.extend(to, to, 32, signed=True)

    def _immediate(self, to: Register, wide: bool = True) -> None:
        """to = the immediate, which is not hidden."""
        if not self.has(NEGATIVE):
            self.half(MOVZ, to, Operand.IMM, 0, False)
        else:
            self.half(MOVN, to, Operand.IMM, 0, wide, flip=ALL_16)
        if not self.has(ONE_HALF):
            self.half(MOVK, to, Operand.IMM, 1, wide and self.has(NEGATIVE))

    def _second(self, form: Form, wide: bool) -> Register:
        """The register with the second operand of an instruction."""
        if form.from_register:
            return SRC
        to = self.SCRATCH[2]
        if self.hidden:
            self.reveal(to, Operand.HIDDEN)
        else:
            self._immediate(to, wide)
        return to

    def wide_constant(self) -> None:
        if self.hidden:
            key = self.SCRATCH[0]
            for register, operand in ((DST, Operand.HIDDEN), (key, Operand.KEY)):
                for which in range(4):
                    self.half(MOVK if which else MOVZ, register, operand, which, True)
            self.three("xor", DST, DST, key)
            return
        self.half(MOVZ, DST, Operand.IMM, 0, True)
        for which, feature in enumerate((SECOND_QUARTER, THIRD_QUARTER, FOURTH_QUARTER), 1):
            if self.has(feature):
                self.half(MOVK, DST, Operand.IMM, which, True)

    # Arithmetic

    def arithmetic(self, form: Form, wide: bool) -> None:
        name = form.operation
        if name == "neg":
            self.three("sub", DST, ZR, DST, wide)
        elif name.startswith("movsx"):
            self.extend(DST, SRC, int(name.removeprefix("movsx")), signed=True, wide=wide)
        elif name == "mov" and not form.from_register and not self.hidden:
            self._immediate(DST, wide)
        elif name == "mov":
            self.three("or", DST, ZR, self._second(form, wide), wide)
        elif name in SHIFTED and not form.from_register and not self.hidden:
            self.shifted(name, DST, DST, Operand.IMM, wide)
        elif name in NUMBERED and self.has(IMM_12) and not self.hidden:
            self.with_number(name, DST, DST, Part(Operand.IMM, 10, 12), wide)
        elif name in ("mod", "smod"):
            divisor, quotient = self._second(form, wide), self.SCRATCH[0]
            self.three("sdiv" if name == "smod" else "div", quotient, DST, divisor, wide)
            self.remainder(DST, DST, quotient, divisor, wide)
        else:
            self.three(name, DST, DST, self._second(form, wide), wide)

    def byte_order(self, form: Form) -> None:
        if form.operation == "bswap" or (form.operation == "be") != self.has(Feature.SWAPPED):
            self._swap(DST, DST, form.bits)
        elif form.bits == 32:
            self.three("or", DST, ZR, DST, False)
        elif form.bits == 16:
            self.extend(DST, DST, 16, signed=False)

    def _swap(self, to: Register, source: Register, bits: int) -> None:
        """Reverse the lowest bytes of a register; the others become zero."""
        self.put({16: 0x5AC00400, 32: 0x5AC00800, 64: 0xDAC00C00}[bits], Part(to, 0), Part(source, 5))
        if bits == 16:
            self.extend(to, to, 16, signed=False)

    # Memory

    def address(self, to: int, base: Register, hidden: Operand) -> None:
        offset = self.SCRATCH[-1]
        if self.hidden:
            self.reveal(to, hidden)
            self.three("add", to, to, base)
        elif self.has(NO_OFFSET):
            self.move(to, base)
        elif self.has(SMALL_OFFSET):
            self.with_number("add", to, base, Part(Operand.OFFSET, 10, 12))
        else:
            self._offset(offset)
            self.three("add", to, base, offset)

    def _offset(self, to: int) -> None:
        """to = the offset, which has 16 bits."""
        minus = self.has(MINUS_OFFSET)
        self.half(MOVN if minus else MOVZ, to, Operand.OFFSET, 0, True, flip=ALL_16 * minus)

    def access(self, form: Form) -> None:
        swapped = self.has(Feature.SWAPPED) and form.bits > 8
        if form.family is Family.STORE:
            self._access(STORE, form.bits, self._stored(form, swapped), DST)
            return
        signed = form.operation == "load_signed"
        self._access(LOAD_SIGNED if signed and not swapped else LOAD, form.bits, DST, SRC)
        if swapped:
            self._swap(DST, DST, form.bits)
            if signed:
                self.extend(DST, DST, form.bits, signed=True)

    def _stored(self, form: Form, swapped: bool) -> Register:
        """The register with what is to be stored."""
        if not form.from_register and self.has(IMM_12) and not self.hidden:
            return ZR
        value = self._second(form, True)
        if not swapped:
            return value
        self._swap(self.SCRATCH[2], value, form.bits)
        return self.SCRATCH[2]

    def _access(self, way: int, bits: int, register: Register, base: Register) -> None:
        code = SIZE_CODE[bits]
        word, parts = code << 30 | way << 22, (Part(register, 0), Part(base, 5))
        if self.hidden:
            offset = self.SCRATCH[1]
            self.reveal(offset, Operand.EXTRA)
        elif self.has(SCALED):
            self.put(word | 0x39000000, *parts, Part(Operand.OFFSET, 10, 12, code))
            return
        elif self.has(SMALL_OFFSET):
            self.put(word | 0x38000000, *parts, Part(Operand.OFFSET, 12, 9))
            return
        else:
            offset = self.SCRATCH[1]
            self._offset(offset)
        self.put(word | 0x38206800, *parts, Part(offset, 16))

    def atomic(self, form: Form) -> None:
        address, old, new, failed = self.SCRATCH[:4]
        name, wide, size = form.operation, form.bits == 64, SIZE_CODE[form.bits] << 30
        if name == "load_acquire":
            self.put(0x08DFFC00 | size, Part(DST, 0), Part(address, 5))
            return
        if name == "store_release":
            self.put(0x089FFC00 | size, Part(SRC, 0), Part(address, 5))
            return
        combined = name.removeprefix("fetch_")
        fetches = combined != name or name in ("xchg", "cmpxchg")
        again = len(self.code)
        self.put(0x085F7C00 | size, Part(old, 0), Part(address, 5))
        differs = None
        if name == "cmpxchg":
            self.three("subs", ZR, old, self.BPF[0], wide)
            differs = len(self.code)
            self.branch_if("ne")
        stored: Register = SRC
        if name not in ("xchg", "cmpxchg"):
            self.three(combined, new, old, SRC, wide)
            stored = new
        # STLXR, or STXR where nobody learns of the order.
        self.put(0x08007C00 | size | fetches << 15, Part(stored, 0), Part(address, 5), Part(failed, 16))
        self.branch_if_zero("ne", failed, again - len(self.code), False)
        if fetches:
            self.put(BARRIER)
        if differs is not None:
            distance = len(self.code) - differs
            self.code[differs : differs + 4] = (0x54000001 | distance >> 2 << 5).to_bytes(4, "little")
        if fetches:
            self.three("or", self.BPF[0] if name == "cmpxchg" else SRC, ZR, old, wide)

    # Control

    def meter(self) -> None:
        if self.has(IMM_12):
            self.with_number("subs", self.BUDGET, self.BUDGET, Part(Operand.IMM, 10, 12))
        else:
            count = self.SCRATCH[0]
            self.number(count, Operand.IMM)
            self.three("subs", self.BUDGET, self.BUDGET, count)
        self.leave_if("lo", Reach.COLD, self.far)

    def conditional(self, form: Form, wide: bool) -> None:
        name, condition = form.operation, CONDITION[form.operation]
        if self.has(NO_IMM) and name in ("jeq", "jne") and not self.hidden:
            self.leave_if_zero(condition, DST, Reach.JUMP, self.far, wide)
            return
        if self.has(NO_IMM) and self.has(NEAR) and name in SIGN_TESTS and not self.hidden:
            self.edge("R_AARCH64_TSTBR14", Reach.JUMP)
            self.put(SIGN_TESTS[name] | wide << 31 | 31 << 19, Part(DST, 0))
            return
        if name == "jset":
            self.three("ands", ZR, DST, self._second(form, wide), wide)
        elif not form.from_register and self.has(IMM_12) and not self.hidden:
            self.with_number("subs", ZR, DST, Part(Operand.IMM, 10, 12), wide)
        else:
            self.compare(DST, self._second(form, wide), wide)
        self.leave_if(condition, Reach.JUMP, self.far)
