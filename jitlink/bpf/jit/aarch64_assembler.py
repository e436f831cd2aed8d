"""A small assembler for AArch64: what templates and routines are written with.

A register is a number from 0 to 31, or an Operand, whose number is filled in later. Number 31 is the zero
register, or in the few instructions that say so the stack pointer.

Source: Arm Architecture Reference Manual for A-profile architecture, chapter C6, A64 base instructions.
"""

from __future__ import annotations

from jitlink.bpf.jit.load_store import OPPOSITE, WORD, LoadStoreAssembler, Part, Register
from jitlink.bpf.jit.templates import Operand, Reach

ZR = SP = 31
LR = 30
ALL_16 = 0xFFFF
WIDE = 1 << 31
"""The bit that chooses registers of 64 bits."""
CONDITIONS = {
    "eq": 0, "ne": 1, "hs": 2, "lo": 3, "mi": 4, "pl": 5, "hi": 8, "ls": 9, "ge": 10, "lt": 11, "gt": 12, "le": 13,
}  # fmt: skip
# fmt: off
THREE = {  # dst, first, second register
    "add": 0x0B000000, "sub": 0x4B000000, "subs": 0x6B000000, "and": 0x0A000000, "or": 0x2A000000,
    "xor": 0x4A000000, "ands": 0x6A000000, "mul": 0x1B007C00, "div": 0x1AC00800, "sdiv": 0x1AC00C00,
    "lsh": 0x1AC02000, "rsh": 0x1AC02400, "arsh": 0x1AC02800,
}
MSUB = 0x1B008000
NUMBERED = {"add": 0x11000000, "sub": 0x51000000, "adds": 0x31000000, "subs": 0x71000000}
"""With an immediate of 12 bits."""
SHIFTED = {"lsh": 0, "rsh": 1, "arsh": 2}
"""How the second register of an arithmetic instruction is shifted (bits 22 and 23)."""
MOVN, MOVZ, MOVK = 0x12800000, 0x52800000, 0x72800000
# fmt: on


class AArch64Assembler(LoadStoreAssembler):
    """Writes instructions. wide: of 64 bits, else of 32, which clear the upper half of what they write.

    r0 to r10 are x7, x0 to x4, x19 to x22 and x25, as in Linux: arguments of a C function are where it wants them.
    x18 belongs to the platform, x16 and x17 to veneers of the linker, of which there are none inside of an image.
    """

    BPF = (7, 0, 1, 2, 3, 4, 19, 20, 21, 22, 25)
    BUDGET, RECORD, LINK, RETURN, STACK, ZERO = 23, 24, 12, LR, SP, ZR
    SCRATCH = (9, 10, 11, 13, 14, 15, 17, 16)
    ARGUMENTS = (0, 1, 2, 3, 4, 5)
    RESULT = 0
    KEPT = (19, 20, 21, 22, 23, 24, 25, 29)

    # Data processing

    def three(self, name: str, to: Register, one: Register, other: Register, wide: bool = True) -> None:
        """to = one operation other."""
        self.put(THREE[name] | wide * WIDE, Part(to, 0), Part(one, 5), Part(other, 16))

    def with_number(self, name: str, to: Register, one: Register, number: Part, wide: bool = True) -> None:
        """to = one operation an immediate of 12 bits."""
        self.put(NUMBERED[name] | wide * WIDE, Part(to, 0), Part(one, 5), number)

    def shifted(self, name: str, to: Register, one: Register, count: Register, wide: bool = True) -> None:
        """to = one shifted by a constant."""
        width = 6 if wide else 5
        self.put(
            THREE["or"] | wide * WIDE | SHIFTED[name] << 22,
            Part(to, 0),
            Part(ZR, 5),
            Part(one, 16),
            Part(count, 10, width),
        )

    def remainder(self, to: Register, number: Register, quotient: Register, divisor: Register, wide: bool) -> None:
        """to = number - quotient * divisor."""
        self.put(MSUB | wide * WIDE, Part(to, 0), Part(quotient, 5), Part(number, 10), Part(divisor, 16))

    def half(self, opcode: int, to: Register, value: Register, which: int, wide: bool, flip: int = 0) -> None:
        """Write 16 bits of a value into a register: MOVZ, MOVN and MOVK, and which of its four quarters."""
        self.put(opcode | wide * WIDE | which << 21, Part(to, 0), Part(value, 5, 16, 16 * which, flip))

    def extend(self, to: Register, one: Register, bits: int, *, signed: bool, wide: bool = True) -> None:
        """to = the lowest bits of one, with or without their sign."""
        base = 0x93400000 if signed and wide else 0x13000000 if signed else 0x53000000
        self.put(base | (bits - 1) << 10, Part(to, 0), Part(one, 5))

    # What every load-store machine has

    def move(self, to: Register, source: Register) -> None:
        self.three("or", to, ZR, source)

    def constant(self, to: int, value: int) -> None:
        quarters = [which for which in range(4) if value >> 16 * which & ALL_16] or [0]
        for number, which in enumerate(quarters):
            self.half(MOVK if number else MOVZ, to, value, which, True)

    def number(self, to: int, value: Operand) -> None:
        self.half(MOVZ, to, value, 0, False)
        self.half(MOVK, to, value, 1, False)
        self.extend(to, to, 32, signed=True)

    def load(self, to: Register, base: int, offset: int = 0) -> None:
        self.put(0xF9400000, Part(to, 0), Part(base, 5), Part(offset, 10, 12, 3))

    def store(self, source: Register, base: int, offset: int = 0) -> None:
        self.put(0xF9000000, Part(source, 0), Part(base, 5), Part(offset, 10, 12, 3))

    def load_word(self, to: Register, base: int) -> None:
        self.put(0xB9400000, Part(to, 0), Part(base, 5))

    def multiply(self, to: Register, one: Register, other: Register) -> None:
        self.three("mul", to, one, other)

    def load_field(self, to: int, offset: Operand) -> None:
        self.put(0xF9400000, Part(to, 0), Part(self.RECORD, 5), Part(offset, 10, 12, 3))

    def add(self, to: Register, one: Register, other: Register) -> None:
        self.three("add", to, one, other)

    def subtract(self, to: Register, one: Register, other: Register) -> None:
        self.three("sub", to, one, other)

    def add_number(self, to: int, one: int, number: int) -> None:
        self.with_number("add" if number >= 0 else "sub", to, one, Part(abs(number), 10, 12))

    def low_bits(self, to: int, one: int, count: int) -> None:
        self.put(0xD3400000 | (count - 1) << 10, Part(to, 0), Part(one, 5))

    def shift_left(self, to: int, one: int, count: int) -> None:
        self.shifted("lsh", to, one, count)

    def shift_right(self, to: int, one: int, count: int) -> None:
        self.shifted("rsh", to, one, count)

    # Control

    def compare(self, one: Register, other: Register, wide: bool = True) -> None:
        """Set flags by one - other."""
        self.three("subs", ZR, one, other, wide)

    def branch_if(self, condition: str, distance: int = 0) -> None:
        """Branch on flags."""
        self.put(0x54000000 | CONDITIONS[condition], Part(distance, 5, 19, 2))

    def branch_if_zero(self, condition: str, one: Register, distance: int = 0, wide: bool = True) -> None:
        """Branch where a register is 0 (eq), or is not (ne)."""
        self.put(
            (0x34000000 if condition == "eq" else 0x35000000) | wide * WIDE, Part(one, 0), Part(distance, 5, 19, 2)
        )

    def branch_here(self, condition: str, one: Register, other: Register, distance: int) -> None:
        if other == ZR and condition in ("eq", "ne"):
            self.branch_if_zero(condition, one, distance)
        else:
            self.compare(one, other)
            self.branch_if(condition, distance - WORD)

    def jump_here(self, distance: int) -> None:
        self.put(0x14000000, Part(distance, 0, 26, 2))

    def branch(self, condition: str, one: Register, other: Register, reach: Reach, far: bool) -> None:
        if other == ZR and condition in ("eq", "ne"):
            self.leave_if_zero(condition, one, reach, far)
        else:
            self.compare(one, other)
            self.leave_if(condition, reach, far)

    def leave_if(self, condition: str, reach: Reach, far: bool) -> None:
        """Branch on flags to another place; an edge."""
        if far:
            self.branch_if(OPPOSITE[condition], 2 * WORD)
            self.jump(reach)
        else:
            self.edge("R_AARCH64_CONDBR19", reach)
            self.branch_if(condition)

    def leave_if_zero(self, condition: str, one: Register, reach: Reach, far: bool, wide: bool = True) -> None:
        """Branch where a register is 0, or is not, to another place; an edge."""
        if far:
            self.branch_if_zero(OPPOSITE[condition], one, 2 * WORD, wide)
            self.jump(reach)
        else:
            self.edge("R_AARCH64_CONDBR19", reach)
            self.branch_if_zero(condition, one, 0, wide)

    def jump(self, reach: Reach) -> None:
        self.edge("R_AARCH64_JUMP26", reach)
        self.jump_here(0)

    def call(self, reach: Reach) -> None:
        self.edge("R_AARCH64_CALL26", reach)
        self.put(0x94000000)

    def routine(self, name: str) -> None:
        # ADR with the address behind the jump: the link register of BL is in use.
        self.put(0x10000000, Part(self.LINK, 0), Part(2 * WORD, 5, 19, 2))
        self.edge("R_AARCH64_JUMP26", Reach.RUNTIME, name)
        self.jump_here(0)

    def jump_register(self, register: int) -> None:
        self.put(0xD65F0000 if register == LR else 0xD61F0000, Part(register, 5))

    def call_register(self, register: int) -> None:
        self.put(0xD63F0000, Part(register, 5))

    def address_of(self, to: int, name: str) -> None:
        self.edge("R_AARCH64_ADR_PREL_PG_HI21", Reach.RUNTIME, name)
        self.put(0x90000000, Part(to, 0))
        self.edge("R_AARCH64_ADD_ABS_LO12_NC", Reach.RUNTIME, name)
        self.put(NUMBERED["add"] | WIDE, Part(to, 0), Part(to, 5))

    def address_outside(self, to: int) -> None:
        for which, kind in enumerate(("UABS_G0_NC", "UABS_G1_NC", "UABS_G2_NC", "UABS_G3")):
            self.edge(f"R_AARCH64_MOVW_{kind}", Reach.OUTSIDE)
            self.half(MOVK if which else MOVZ, to, 0, which, True)
