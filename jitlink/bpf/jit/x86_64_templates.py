"""x86-64: the machine code of every form of instruction.

Where an instruction of the host wants fixed registers (a division rax and rdx, a shift without BMI2 cl),
what they hold is kept in scratch registers; a divisor in one of them goes to memory first. A constant that
is to be hidden is put together in r11, an offset in r10.

Source: Intel SDM volume 2 for the instructions; RFC 9669 for what they must do.
"""

from __future__ import annotations

from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.jit.abi import FRAME_STRIDE
from jitlink.bpf.jit.backend import SAVES, Feature, Kind
from jitlink.bpf.jit.templates import Operand, Reach, Template
from jitlink.bpf.jit.x86_64_assembler import ALU, R10, R11, RAX, RBP, RCX, RDX, SHIFTS, Assembler, Memory, Register
from jitlink.bpf.jit.x86_64_runtime import BPF_REGISTERS, BUDGET, SAVED, field
from jitlink.bpf.machine import FUNCTION_BASE, POISON

DST, SRC = Operand.DST, Operand.SRC

SMALL_IMM, NO_IMM, UNSIGNED_IMM, SIGNED_IMM, SMALL_OFFSET = (int(Feature.OWN) << bit for bit in range(5))
"""What the immediate and the offset are like: of one byte; 0; of 32 bits without or with a sign."""
SRC_IN_RAX, NO_DIVISOR, DST_IN_RAX, DST_IN_RDX, SRC_IN_RDX = SMALL_IMM, NO_IMM, UNSIGNED_IMM, SIGNED_IMM, SMALL_OFFSET
"""Of divisions, and SRC_IN_RAX of atomic operations: an operand is in a register that the host's one uses itself."""
SRC_IN_RCX, DST_IN_RCX = SMALL_IMM, UNSIGNED_IMM
"""The same of shifts."""

SHORT = range(-0x80, 0x80)
NOPS = {  # the recommended multi-byte forms of NOP (Intel SDM, table 4-12)
    1: "90", 2: "6690", 3: "0f1f00", 4: "0f1f4000", 5: "0f1f440000", 6: "660f1f440000", 7: "0f1f8000000000",
    8: "0f1f840000000000", 9: "660f1f840000000000",
}  # fmt: skip
PADDING_BITS = int(Feature.OWN).bit_length() - 1
"""Where in the features of PADDING its size is."""

CONDITION = {
    "jeq": "e", "jgt": "a", "jge": "ae", "jset": "ne", "jne": "ne", "jsgt": "g", "jsge": "ge", "jlt": "b",
    "jle": "be", "jslt": "l", "jsle": "le",
}  # fmt: skip
DIVISIONS = {"div": (6, RAX), "mod": (6, RDX), "sdiv": (7, RAX), "smod": (7, RDX)}
"""Of a division the number in group 3, and where the result is."""


def template_of(kind: int, features: int, *, bmi2: bool) -> Template:
    """Write the template of a shape. bmi2: whether shifts may take any register as their count."""
    writer = Writer(features, bmi2)
    if kind < len(FORMS):
        writer.write_form(FORMS[kind])
    else:
        writer.write_kind(Kind(kind))
    return writer


class Writer(Assembler):
    """Writes the template of one shape. FRAME_DISTANCE: bytes from the end of one frame to that of the next."""

    FRAME_DISTANCE = FRAME_STRIDE

    def __init__(self, features: int, bmi2: bool) -> None:
        super().__init__()
        self.features = features
        self.bmi2 = bmi2

    def has(self, feature: int) -> bool:
        """Whether the shape has a feature."""
        return bool(self.features & feature)

    @property
    def hidden(self) -> bool:
        """Whether constants are hidden."""
        return self.has(Feature.HIDDEN)

    def write_form(self, form: Form) -> None:
        """Write an instruction of the program."""
        wide = form.bits == 64
        match form.family:
            case Family.ARITHMETIC:
                self._arithmetic(form, wide)
            case Family.BYTE_ORDER:
                self._byte_order(form)
            case Family.CONSTANT:
                self._constant(wide=True)
            case Family.LOAD:
                self._load(form)
            case Family.STORE:
                self._store(form)
            case Family.ATOMIC:
                self._atomic(form, wide)
            case Family.BRANCH:
                self._branch(form, wide)
            case Family.JUMP:
                self.jump(Reach.JUMP, short=not self.has(Feature.LONG))
            case Family.CALL if form.operation == "local":
                self._call_local()
            case Family.CALL:
                self._call_register()
            case Family.EXIT:
                self.ret()
            case _:
                raise AssertionError(f"{form.name} has no machine code of its own")

    def write_kind(self, kind: Kind) -> None:
        """Write a piece that the driver adds."""
        match kind:
            case Kind.METER:
                self.alu_immediate("sub", BUDGET, Operand.IMM, 1 if self.has(SMALL_IMM) else 4)
                self.jump(Reach.COLD, "b")
            case Kind.CHECK:
                self._check()
            case Kind.SEARCH:
                self._address(R10)
                self.move_word(R11, Operand.IMM)
                self.call(Reach.RUNTIME, "search")
                self.jump(Reach.JUMP)
            case Kind.NATIVE_HELPER:
                self.address_outside(R11)
                self.call(Reach.RUNTIME, "native_helper")
            case Kind.ARRAY_LOOKUP:
                self._look_up()
            case Kind.PADDING:
                self.code += bytes.fromhex(NOPS[self.features >> PADDING_BITS])
            case _:
                self.call(Reach.RUNTIME, kind.name.lower())

    # Constants that may be hidden

    def _reveal(self, to: int, value: Operand, signed: bool) -> None:
        """Put a hidden constant of 32 bits together."""
        self.move_word(to, value)
        self.alu_immediate("xor", to, Operand.KEY, 4, False)
        if signed:
            self.op(0x63, to, to)

    def _constant(self, wide: bool) -> None:
        """dst = the immediate: of 64 bits, or a signed one of 32 that is cut where not wide."""
        if self.hidden:
            self.move_wide(DST, Operand.HIDDEN)
            self.move_wide(R11, Operand.KEY)
            self.alu("xor", DST, R11)
        elif self.has(NO_IMM):
            self.op(0x31, DST, DST, False)
        elif self.has(UNSIGNED_IMM) or not wide:
            self.move_word(DST, Operand.IMM)
        elif self.has(SIGNED_IMM):
            self.move_signed(DST, Operand.IMM)
        else:
            self.move_wide(DST, Operand.IMM)

    # Arithmetic

    def _arithmetic(self, form: Form, wide: bool) -> None:
        name = form.operation
        if name in DIVISIONS:
            self._divide(form, wide)
        elif name == "neg":
            self.group3(3, DST, wide)
        elif name.startswith("movsx"):
            opcode = {"movsx8": b"\x0f\xbe", "movsx16": b"\x0f\xbf", "movsx32": b"\x63"}[name]
            self.op(opcode, DST, SRC, wide)
        elif name in SHIFTS:
            self._shift(form, wide)
        elif form.from_register:
            self._combine(name, SRC, wide)
        elif name == "mov":
            self._move_immediate(wide)
        elif self.hidden:
            self._reveal(R11, Operand.HIDDEN, wide)
            self._combine(name, R11, wide)
        elif name == "mul":
            small = self.has(SMALL_IMM)
            self.op(0x6B if small else 0x69, DST, DST, wide)
            self.word(Operand.IMM, 1 if small else 4)
        else:
            self.alu_immediate(name, DST, Operand.IMM, 1 if self.has(SMALL_IMM) else 4, wide)

    def _combine(self, name: str, source: Register, wide: bool) -> None:
        if name == "mov":
            self.move(DST, source, wide)
        elif name == "mul":
            self.op(b"\x0f\xaf", DST, source, wide)
        else:
            assert name in ALU
            self.alu(name, DST, source, wide)

    def _move_immediate(self, wide: bool) -> None:
        if self.hidden:
            self._reveal(R11, Operand.HIDDEN, wide)
            self.move(DST, R11, wide)
        elif self.has(NO_IMM):
            self.op(0x31, DST, DST, False)
        elif wide and not self.has(UNSIGNED_IMM):
            self.move_signed(DST, Operand.IMM)
        else:
            self.move_word(DST, Operand.IMM)

    def _shift(self, form: Form, wide: bool) -> None:
        name = form.operation
        if not form.from_register:
            self.shift(name, DST, Operand.IMM, wide)
        elif self.bmi2:
            self.shift_by_register(name, DST, DST, SRC, wide)
        elif self.has(SRC_IN_RCX):
            self.shift_by_cl(name, DST, wide)
        elif self.has(DST_IN_RCX):
            self.move(R11, DST)
            self.move(RCX, SRC)
            self.shift_by_cl(name, R11, wide)
            self.move(DST, R11)
        else:
            self.move(R11, RCX)
            self.move(RCX, SRC)
            self.shift_by_cl(name, DST, wide)
            self.move(RCX, R11)

    def _divide(self, form: Form, wide: bool) -> None:
        """dst = dst / divisor or dst % divisor; rax and rdx keep what they hold, unless they are dst."""
        number, _ = DIVISIONS[form.operation]
        ends = []
        if not form.from_register and self.has(NO_DIVISOR):
            self._by_zero(form, wide)
            return
        divisor: Register | Memory = SRC
        if not form.from_register:
            divisor = field("scratch")
            if self.hidden:
                self._reveal(R11, Operand.HIDDEN, wide)
                self.store(divisor, R11)
            else:
                self.move_signed(divisor, Operand.IMM)
        else:
            self.test(SRC, SRC, wide)
            nonzero = self.skip("ne")
            self._by_zero(form, wide)
            ends.append(self.skip())
            self.land(nonzero)
            if self.has(SRC_IN_RAX | SRC_IN_RDX):
                divisor = field("scratch")
                self.store(divisor, SRC)
        if number == 7:
            # MIN / -1 has a result that the host's instruction faults on.
            self.alu_immediate("cmp", divisor, -1, 1, wide)
            other = self.skip("ne")
            self._by_minus_one(form, wide)
            ends.append(self.skip())
            self.land(other)
        self._divide_by(divisor, form, wide)
        self.land(*ends)

    def _by_zero(self, form: Form, wide: bool) -> None:
        if DIVISIONS[form.operation][1] == RAX:
            self.op(0x31, DST, DST, False)
        elif not wide:
            self.move(DST, DST, False)

    def _by_minus_one(self, form: Form, wide: bool) -> None:
        if DIVISIONS[form.operation][1] == RAX:
            self.group3(3, DST, wide)
        else:
            self.op(0x31, DST, DST, False)

    def _divide_by(self, divisor: Register | Memory, form: Form, wide: bool) -> None:
        number, result = DIVISIONS[form.operation]
        in_rax, in_rdx = self.has(DST_IN_RAX), self.has(DST_IN_RDX)
        if not in_rdx:
            self.move(R11, RDX)
        if not in_rax:
            self.move(R10, RAX)
            self.move(RAX, DST)
        if number == 7:
            self.code += b"\x48\x99" if wide else b"\x99"
        else:
            self.op(0x31, RDX, RDX, False)
        self.group3(number, divisor, wide)
        if not (in_rax and result == RAX) and not (in_rdx and result == RDX):
            self.move(DST, result, wide)
        if not in_rax:
            self.move(RAX, R10)
        if not in_rdx:
            self.move(RDX, R11)

    def _byte_order(self, form: Form) -> None:
        swaps = form.operation == "bswap" or (form.operation == "be") != self.has(Feature.SWAPPED)
        if swaps:
            self._swap(DST, form.bits)
        elif form.bits == 32:
            self.move(DST, DST, False)
        elif form.bits == 16:
            self.op(b"\x0f\xb7", DST, DST, False)

    def _swap(self, register: Register, bits: int) -> None:
        """Reverse the lowest bytes of a register; the others become zero."""
        if bits == 16:
            self.op(0xC1, SHIFTS["rol"], register, False, prefix=0x66)
            self.word(8, 1)
            self.op(b"\x0f\xb7", register, register, False)
        else:
            self.byte_swap(register, bits == 64)

    # Memory

    def _place(self, base: Register) -> Memory:
        """The place that an access goes to."""
        if self.hidden:
            self._reveal(R10, Operand.EXTRA, signed=True)
            return Memory(base, 0, index=R10)
        return Memory(base, Operand.OFFSET, 1 if self.has(SMALL_OFFSET) else 4)

    def _load(self, form: Form) -> None:
        signed = form.operation == "load_signed"
        swapped = self.has(Feature.SWAPPED) and form.bits > 8
        self._load_from(self._place(SRC), form.bits, signed and not swapped)
        if swapped:
            self._swap(DST, form.bits)
            if signed:
                self._extend(DST, form.bits)

    def _load_from(self, place: Memory, bits: int, signed: bool) -> None:
        if signed:
            self.op({8: b"\x0f\xbe", 16: b"\x0f\xbf", 32: b"\x63"}[bits], DST, place)
        else:
            self.op({8: b"\x0f\xb6", 16: b"\x0f\xb7", 32: b"\x8b", 64: b"\x8b"}[bits], DST, place, bits == 64)

    def _extend(self, register: Register, bits: int) -> None:
        self.op({16: b"\x0f\xbf", 32: b"\x63"}[bits], register, register)

    def _store(self, form: Form) -> None:
        bits = form.bits
        swapped = self.has(Feature.SWAPPED) and bits > 8
        place = self._place(DST)
        if form.from_register and not swapped:
            self._store_to(place, SRC, bits)
        elif form.from_register:
            self.move(R11, SRC)
            self._swap(R11, bits)
            self._store_to(place, R11, bits)
        elif self.hidden or swapped:
            if self.hidden:
                self._reveal(R11, Operand.HIDDEN, signed=True)
            else:
                self.move_signed(R11, Operand.IMM)
            if swapped:
                self._swap(R11, bits)
            self._store_to(place, R11, bits)
        else:
            self.op(0xC6 if bits == 8 else 0xC7, 0, place, bits == 64, prefix=0x66 if bits == 16 else 0)
            self.word(Operand.IMM, min(bits // 8, 4))

    def _store_to(self, place: Memory, source: Register, bits: int) -> None:
        self.op(0x88 if bits == 8 else 0x89, source, place, bits == 64, prefix=0x66 if bits == 16 else 0)

    def _atomic(self, form: Form, wide: bool) -> None:
        name, size = form.operation, form.bits // 8
        self.address(R10, self._place(SRC if name == "load_acquire" else DST))
        place = Memory(R10)
        if self.has(Feature.ALIGNED) and size > 1:
            self.test_bits(R10, size - 1)
            self.jump(Reach.COLD, "ne")
        lock = 0xF0
        if name == "load_acquire":
            self._load_from(place, form.bits, False)
        elif name == "store_release":
            self._store_to(place, SRC, form.bits)
        elif name == "fetch_add":
            self.op(b"\x0f\xc1", SRC, place, wide, prefix=lock)
        elif name == "xchg":
            self.op(0x87, SRC, place, wide)
        elif name == "cmpxchg":
            self.op(b"\x0f\xb1", SRC, place, wide, prefix=lock)
            if not wide:
                self.move(RAX, RAX, False)
        elif name.startswith("fetch_"):
            self._fetch(name.removeprefix("fetch_"), place, wide)
        else:
            self.op(8 * ALU[name] + 1, SRC, place, wide, prefix=lock)

    def _fetch(self, name: str, place: Memory, wide: bool) -> None:
        """src = what was there, which is replaced by its combination with src: a loop around cmpxchg."""
        r0, operand = field("scratch"), field("scratch", 8)
        self.store(r0, RAX)
        self.store(operand, SRC)
        self.load(RAX, place, wide)
        again = len(self.code)
        self.move(R11, RAX, wide)
        self.alu(name, R11, operand, wide)
        self.op(b"\x0f\xb1", R11, place, wide, prefix=0xF0)
        self.back(again, "ne")
        if self.has(SRC_IN_RAX):
            self.move(RAX, RAX, wide)
        else:
            self.move(SRC, RAX, wide)
            self.load(RAX, r0)

    def _address(self, to: int) -> None:
        """The address of the access that a check or a search is for."""
        base = SRC if self.has(Feature.FROM_SRC) else DST
        if self.hidden:
            self._reveal(to, Operand.HIDDEN, signed=True)
            self.alu("add", to, base)
        else:
            self.address(to, Memory(base, Operand.OFFSET, 1 if self.has(SMALL_OFFSET) else 4))

    def _check(self) -> None:
        size = 1 if self.has(SMALL_IMM) else 4
        self._address(R11)
        self.alu("sub", R11, field(Operand.IMM, size=size))
        self.alu("cmp", R11, field(Operand.EXTRA, size=size))
        self.jump(Reach.COLD, "ae")

    def _look_up(self) -> None:
        found, poisoned, *others = BPF_REGISTERS[:6]
        self.op(0x8B, found, Memory(others[0]), False)
        self.alu_immediate("cmp", found, Operand.IMM, 4, False)
        beyond = self.skip("ae")
        self.op(0x69, found, found)
        self.word(Operand.OFFSET, 4)
        self.address_outside(R11)
        self.alu("add", found, R11)
        inside = self.skip()
        self.land(beyond)
        self.constant(found, 0)
        self.land(inside)
        self.constant(poisoned, POISON)
        for register in others:
            self.move(register, poisoned)

    # Control

    def _branch(self, form: Form, wide: bool) -> None:
        short, name = not self.has(Feature.LONG), form.operation
        if name == "may_goto":
            self.alu_immediate("sub", field("may_goto"), 1, 1)
            self.jump(Reach.JUMP, "s", short=short)
            return
        if form.from_register or self.hidden:
            other: Register = SRC
            if not form.from_register:
                self._reveal(R11, Operand.HIDDEN, wide)
                other = R11
            if name == "jset":
                self.test(other, DST, wide)
            else:
                self.alu("cmp", DST, other, wide)
        elif name == "jset":
            self.group3(0, DST, wide)
            self.word(Operand.IMM, 4)
        elif self.has(NO_IMM):
            self.test(DST, DST, wide)
        else:
            self.alu_immediate("cmp", DST, Operand.IMM, 1 if self.has(SMALL_IMM) else 4, wide)
        self.jump(Reach.JUMP, CONDITION[name], short=short)

    def _call_local(self) -> None:
        kept = self._enter_frame()
        self.call(Reach.JUMP)
        self._leave_frame(kept)

    def _call_register(self) -> None:
        """callx: a function that the table knows is called here, all else is given away."""
        self.move(R11, DST)
        self.constant(R10, FUNCTION_BASE)
        self.alu("sub", R11, R10)
        self.alu_immediate("cmp", R11, Operand.EXTRA, 4)
        beyond = self.skip("ae")
        self.test_bits(R11, 7)
        between = self.skip("ne")
        self._call_from_table(beyond, between)

    def _call_from_table(self, *beyond: int) -> None:
        """Call the function that the table has at r11; if there is none, or control comes from beyond, give it away."""
        self.address_of(R10, "table")
        self.load(R10, Memory(R10, 0, index=R11))
        self.test(R10, R10)
        known = self.skip("ne")
        self.land(*beyond)
        self.call(Reach.RUNTIME, "outside")
        done = self.skip()
        self.land(known)
        kept = self._enter_frame()
        self.call_register(R10)
        self._leave_frame(kept)
        self.land(done)

    def _enter_frame(self) -> list[int]:
        """Keep what the caller needs and move to the next frame. Returns the registers pushed."""
        self.load(R11, field("frame"))
        self.alu("cmp", R11, field("last_frame"))
        self.jump(Reach.COLD, "e")
        kept = [RBP, *(register for feature, register in zip(SAVES, SAVED, strict=True) if self.has(feature))]
        if (len(kept) + self.has(Feature.CALL_COUNTS)) % 2 == 0:
            # The host's stack stays at a multiple of 16 bytes where functions are called.
            kept.append(RBP)
        for register in kept:
            self.push(register)
        self._next_frame()
        return kept

    def _next_frame(self) -> None:
        """Move frame and r10 on. r11: the end of the active frame."""
        self.address(RBP, Memory(R11, FRAME_STRIDE))
        self.store(field("frame"), RBP)
        if self.has(Feature.CALL_COUNTS):
            self.push_from(field("may_goto"))
            self.load(R11, field("may_goto_limit"))
            self.store(field("may_goto"), R11)

    def _leave_frame(self, kept: list[int]) -> None:
        if self.has(Feature.CALL_COUNTS):
            self.pop_to(field("may_goto"))
        for register in reversed(kept):
            self.pop(register)
        self.alu_immediate("sub", field("frame"), self.FRAME_DISTANCE, 4)
        if self.has(Feature.CALL_FORGETS):
            self.alu_immediate("cmp", field("stack_kept"), 0, 1)
            clean = self.skip("e")
            self.call(Reach.RUNTIME, "forget")
            self.land(clean)
