"""A small assembler for RISC-V, 64 bits: what templates and routines are written with.

A register is a number from 0 to 31, or an Operand, whose number is filled in later. What is used is RV64IMA.

A number of 32 bits takes LUI for its upper 20 bits and, for the lower 12, an instruction that extends their sign.
Where they are negative an ADDI would need an upper part that is larger by one, which a template cannot say;
XORI inverts all upper bits instead, and the upper part is written inverted.

Source: The RISC-V Instruction Set Manual, volume I, chapter RV32/64G Instruction Set Listings.
"""

from __future__ import annotations

from jitlink.bpf.jit.load_store import OPPOSITE, WORD, LoadStoreAssembler, Part, Register
from jitlink.bpf.jit.templates import Operand, Reach

ZERO, RA, SP, T0 = 0, 1, 2, 5
OP, OP_32, OP_IMM, OP_IMM_32, LOAD, STORE, AMO = 0x33, 0x3B, 0x13, 0x1B, 0x03, 0x23, 0x2F
BRANCH, JALR, JAL, LUI, AUIPC = 0x63, 0x67, 0x6F, 0x37, 0x17
LOW = range(-2048, 2048)
"""What an immediate of 12 bits can be."""
ALL = -1
# fmt: off
THREE = {  # funct7 and funct3, where they stand
    "add": 0, "sub": 0x4000_0000, "lsh": 0x1000, "slt": 0x2000, "sltu": 0x3000, "xor": 0x4000, "rsh": 0x5000,
    "arsh": 0x4000_5000, "or": 0x6000, "and": 0x7000, "mul": 0x0200_0000, "sdiv": 0x0200_4000, "div": 0x0200_5000,
    "smod": 0x0200_6000, "mod": 0x0200_7000,
}
WITHOUT_NARROW = ("and", "or", "xor")
"""What OP-32 lacks."""
CONDITIONS = {"eq": 0x0000, "ne": 0x1000, "lt": 0x4000, "ge": 0x5000, "lo": 0x6000, "hs": 0x7000}
EXCHANGED = {"gt": "lt", "le": "ge", "hi": "lo", "ls": "hs"}
"""Conditions that are others with the registers exchanged."""
# fmt: on


class Riscv64Assembler(LoadStoreAssembler):
    """Writes instructions. wide: of 64 bits, else of 32, whose results have their sign extended.

    r0 to r10 are a5, a0 to a4, s1 to s5: arguments of a C function are where it wants them.
    """

    BPF = (15, 10, 11, 12, 13, 14, 9, 18, 19, 20, 21)
    BUDGET, RECORD, LINK, RETURN, STACK, ZERO = 23, 22, T0, RA, SP, ZERO
    SCRATCH = (6, 7, 28, 29, 30, 31, 16, 17)
    ARGUMENTS = (10, 11, 12, 13, 14, 15)
    RESULT = 10
    KEPT = (8, 9, 18, 19, 20, 21, 22, 23)
    huge = False
    """Whether what jumps lead to may be out of the reach of JAL."""

    # Computing

    def three(self, name: str, to: Register, one: Register, other: Register, wide: bool = True) -> None:
        """to = one operation other."""
        opcode = OP if wide or name in WITHOUT_NARROW else OP_32
        self.put(THREE[name] | opcode, Part(to, 7), Part(one, 15), Part(other, 20))

    def with_number(self, name: str, to: Register, one: Register, number: Register, wide: bool = True) -> None:
        """to = one operation a number of 12 bits."""
        opcode = OP_IMM if wide or name in WITHOUT_NARROW else OP_IMM_32
        self.put(THREE[name] | opcode, Part(to, 7), Part(one, 15), Part(number, 20, 12))

    def shifted(self, name: str, to: Register, one: Register, count: Register, wide: bool = True) -> None:
        """to = one shifted by a constant."""
        width = 6 if wide else 5
        self.put(THREE[name] | (OP_IMM if wide else OP_IMM_32), Part(to, 7), Part(one, 15), Part(count, 20, width))

    def upper(self, to: Register, value: Register, *, flip: int = 0) -> None:
        """to = bits 12 to 31 of a value, with the sign extended."""
        self.put(LUI, Part(to, 7), Part(value, 12, 20, 12, flip))

    def zero_extend(self, to: Register, one: Register, bits: int = 32) -> None:
        """to = the lowest bits of one."""
        self.shifted("lsh", to, one, 64 - bits)
        self.shifted("rsh", to, to, 64 - bits)

    def sign_extend(self, to: Register, one: Register, bits: int = 32) -> None:
        """to = the lowest bits of one, with their sign."""
        if bits == 32:
            self.with_number("add", to, one, 0, False)
        else:
            self.shifted("lsh", to, one, 64 - bits)
            self.shifted("arsh", to, to, 64 - bits)

    def move(self, to: Register, source: Register) -> None:
        self.with_number("add", to, source, 0)

    def constant(self, to: int, value: int) -> None:
        value = (value + (1 << 63) & (1 << 64) - 1) - (1 << 63)
        low = (value + 0x800 & 0xFFF) - 0x800
        if value == low:
            self.with_number("add", to, ZERO, low)
        elif -(1 << 31) <= value - low < 1 << 31:
            self.upper(to, value - low)
            self.with_number("add", to, to, low)
        else:
            self.constant(to, (value - low) >> 12)
            self.shifted("lsh", to, to, 12)
            self.with_number("add", to, to, low)

    def number(self, to: int, value: Operand) -> None:
        low = self.SCRATCH[-1]
        self.upper(to, value)
        self.put(LUI, Part(low, 7), Part(value, 12, 12))
        self.shifted("rsh", low, low, 12)
        self.three("or", to, to, low)

    # Memory

    def load(self, to: Register, base: int, offset: int = 0) -> None:
        self.put(LOAD | 0x3000, Part(to, 7), Part(base, 15), Part(offset, 20, 12))

    def store(self, source: Register, base: int, offset: int = 0) -> None:
        self.store_sized(3, source, base, offset)

    def store_sized(self, code: int, source: Register, base: Register, offset: Register) -> None:
        """The 1 << code bytes at base + offset = the lowest of source."""
        offset_parts = Part(offset, 7, 5), Part(offset, 25, 7, 5)
        self.put(STORE | code << 12, Part(base, 15), Part(source, 20), *offset_parts)

    def load_word(self, to: Register, base: int) -> None:
        self.put(LOAD | 0x6000, Part(to, 7), Part(base, 15))

    def multiply(self, to: Register, one: Register, other: Register) -> None:
        self.three("mul", to, one, other)

    def load_field(self, to: int, offset: Operand) -> None:
        self.put(LOAD | 0x3000, Part(to, 7), Part(self.RECORD, 15), Part(offset, 20, 12))

    # What every load-store machine has

    def add(self, to: Register, one: Register, other: Register) -> None:
        self.three("add", to, one, other)

    def subtract(self, to: Register, one: Register, other: Register) -> None:
        self.three("sub", to, one, other)

    def add_number(self, to: int, one: int, number: int) -> None:
        self.with_number("add", to, one, number)

    def low_bits(self, to: int, one: int, count: int) -> None:
        if count < 12:
            self.with_number("and", to, one, (1 << count) - 1)
        else:
            self.zero_extend(to, one, count)

    def shift_left(self, to: int, one: int, count: int) -> None:
        self.shifted("lsh", to, one, count)

    def shift_right(self, to: int, one: int, count: int) -> None:
        self.shifted("rsh", to, one, count)

    # Control

    def branch_here(self, condition: str, one: Register, other: Register, distance: int) -> None:
        if condition in EXCHANGED:
            condition, one, other = EXCHANGED[condition], other, one
        parts = Part(distance, 8, 4, 1), Part(distance, 25, 6, 5), Part(distance, 7, 1, 11), Part(distance, 31, 1, 12)
        self.put(BRANCH | CONDITIONS[condition], Part(one, 15), Part(other, 20), *parts)

    def jump_here(self, distance: int) -> None:
        self._jal(ZERO, distance)

    def _jal(self, link: int, distance: int = 0) -> None:
        parts = (
            Part(distance, 21, 10, 1),
            Part(distance, 20, 1, 11),
            Part(distance, 12, 8, 12),
            Part(distance, 31, 1, 20),
        )
        self.put(JAL, Part(link, 7), *parts)

    def branch(self, condition: str, one: Register, other: Register, reach: Reach, far: bool) -> None:
        if far:
            self.branch_here(OPPOSITE[condition], one, other, (3 if self.huge else 2) * WORD)
            self.jump(reach)
        else:
            self.edge("R_RISCV_BRANCH", reach)
            self.branch_here(condition, one, other, 0)

    def jump(self, reach: Reach) -> None:
        self._leave_for(ZERO, reach)

    def call(self, reach: Reach) -> None:
        self._leave_for(RA, reach)

    def routine(self, name: str) -> None:
        self._leave_for(self.LINK, Reach.RUNTIME, name)

    def _leave_for(self, link: int, reach: Reach, name: str = "") -> None:
        if not self.huge:
            self.edge("R_RISCV_JAL", reach, name)
            self._jal(link)
            return
        through = link or self.SCRATCH[-1]
        self.edge("R_RISCV_CALL_PLT", reach, name)
        self.put(AUIPC, Part(through, 7))
        self.put(JALR, Part(link, 7), Part(through, 15))

    def jump_register(self, register: int) -> None:
        self.put(JALR, Part(register, 15))

    def call_register(self, register: int) -> None:
        self.put(JALR, Part(RA, 7), Part(register, 15))

    def address_of(self, to: int, name: str) -> None:
        self.edge("R_RISCV_PCREL_HI20", Reach.RUNTIME, name)
        self.put(AUIPC, Part(to, 7))
        # The addend makes up for the place, one instruction on.
        self.edge("PCREL_LO12_I, paired", Reach.RUNTIME, name, addend=WORD)
        self.put(OP_IMM, Part(to, 7), Part(to, 15))

    def address_outside(self, to: int) -> None:
        # The address lies behind the code that loads it, in two halves, since it is aligned to 4 bytes only.
        low, behind = self.SCRATCH[-1], 6 * WORD
        self.put(AUIPC, Part(to, 7))
        self.put(LOAD | 0x6000, Part(low, 7), Part(to, 15), Part(behind, 20, 12))
        self.put(LOAD | 0x2000, Part(to, 7), Part(to, 15), Part(behind + WORD, 20, 12))
        self.shifted("lsh", to, to, 32)
        self.three("or", to, to, low)
        self.jump_here(3 * WORD)
        self.edge("R_RISCV_64", Reach.OUTSIDE)
        self.code += bytes(2 * WORD)
