"""A small assembler for x86-64: writes the code of templates and of the run time, holes included.

A register is a number from 0 to 15, or an Operand, whose number is filled in later; an immediate or a
displacement is a number or an Operand too. Every instruction with registers has a REX prefix, needed or
not, so that the length of the code does not depend on which registers go in.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter 2 for prefixes,
ModRM and SIB, and the pages of the instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitlink.bpf.jit.templates import BitField, EdgeField, Operand, Reach, Template, Word

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)

Register = int | Operand
Value = int | Operand

# fmt: off
CONDITIONS = {  # the low four bits of jcc
    "o": 0x0, "no": 0x1, "b": 0x2, "ae": 0x3, "e": 0x4, "ne": 0x5, "be": 0x6, "a": 0x7,
    "s": 0x8, "ns": 0x9, "l": 0xC, "ge": 0xD, "le": 0xE, "g": 0xF,
}
ALU = {"add": 0, "or": 1, "and": 4, "sub": 5, "xor": 6, "cmp": 7}
"""The number of an operation of the oldest group, in opcodes 8n + 0..5 and in ModRM of 80, 81 and 83."""
SHIFTS = {"rol": 0, "lsh": 4, "rsh": 5, "arsh": 7}
"""The number of a shift, in ModRM of C0, C1 and D3."""
# fmt: on

REX_W, REX_R, REX_X, REX_B = 3, 2, 1, 0
NEEDS_SIB = 4
SMALL, LARGE = range(-0x80, 0x80), 4


@dataclass(frozen=True)
class Memory:
    """A place in memory: base register, displacement (an Operand of `size` bytes, or a number), index."""

    base: Register
    displacement: Value = 0
    size: int = 4
    index: int | None = None


def here(label: int, code: bytearray) -> None:
    """Let a short jump (see Assembler.skip) lead to the end of the code so far."""
    distance = len(code) - label - 1
    assert distance in SMALL
    code[label] = distance


class Assembler(Template):
    """Writes a template, instruction by instruction. wide: operands of 64 bits, else 32."""

    # Encoding

    def _put(self, *values: int) -> None:
        self.code += bytes(values)

    def _bits(self, at: int, register: Register, shift: int, mask: int, out: int, flip: int = 0) -> None:
        if isinstance(register, Operand):
            self.bit_fields.append(BitField(at, register, shift, mask, out, flip))
        else:
            self.code[at] |= ((register ^ flip) >> shift & mask) << out

    def word(self, value: Value, size: int) -> None:
        """Write an immediate or a displacement."""
        if isinstance(value, Operand):
            self.words.append(Word(len(self.code), value, size))
            value = 0
        self.code += (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def rex(self, wide: bool, reg: Register, rm: Register | Memory) -> None:
        """Write the REX prefix for the operands of ModRM."""
        at = len(self.code)
        self._put(0x40 | wide << REX_W)
        self._bits(at, reg, 3, 1, REX_R)
        if isinstance(rm, Memory):
            self._bits(at, rm.base, 3, 1, REX_B)
            if rm.index is not None:
                self._bits(at, rm.index, 3, 1, REX_X)
        else:
            self._bits(at, rm, 3, 1, REX_B)

    def modrm(self, reg: Register, rm: Register | Memory) -> None:
        """Write ModRM, and what belongs to a place in memory."""
        at = len(self.code)
        if not isinstance(rm, Memory):
            self._put(0xC0)
            self._bits(at, reg, 0, 7, 3)
            self._bits(at, rm, 0, 7, 0)
            return
        size = rm.size
        if not isinstance(rm.displacement, Operand):
            size = 1 if rm.displacement in SMALL else LARGE
        self._put(0x40 if size == 1 else 0x80)
        self._bits(at, reg, 0, 7, 3)
        if rm.index is not None or rm.base in (RSP, R12):
            self.code[at] |= NEEDS_SIB
            self._put(0)
            self._bits(at + 1, NEEDS_SIB if rm.index is None else rm.index, 0, 7, 3)
            self._bits(at + 1, rm.base, 0, 7, 0)
        else:
            self._bits(at, rm.base, 0, 7, 0)
        self.word(rm.displacement, size)

    def op(self, opcode: int | bytes, reg: Register, rm: Register | Memory, wide: bool = True, prefix: int = 0) -> None:
        """Write an instruction with ModRM: prefix, REX, opcode, ModRM."""
        if prefix:
            self._put(prefix)
        self.rex(wide, reg, rm)
        self.code += bytes((opcode,)) if isinstance(opcode, int) else opcode
        self.modrm(reg, rm)

    # Moves

    def move(self, to: Register, source: Register, wide: bool = True) -> None:
        """to = source; of 32 bits the upper half becomes zero."""
        self.op(0x8B, to, source, wide)

    def constant(self, to: Register, value: int) -> None:
        """to = a number, in the shortest way."""
        if value == 0:
            self.op(0x31, to, to, False)
        elif 0 <= value < 1 << 32:
            self.move_word(to, value)
        else:
            self.move_wide(to, value)

    def move_word(self, to: Register, value: Value) -> None:
        """to = an unsigned number of 32 bits."""
        at = len(self.code)
        self._put(0x40, 0xB8)
        self._bits(at, to, 3, 1, REX_B)
        self._bits(at + 1, to, 0, 7, 0)
        self.word(value, 4)

    def move_wide(self, to: Register, value: Value) -> None:
        """to = a number of 64 bits."""
        at = len(self.code)
        self._put(0x48, 0xB8)
        self._bits(at, to, 3, 1, REX_B)
        self._bits(at + 1, to, 0, 7, 0)
        self.word(value, 8)

    def move_signed(self, to: Register | Memory, value: Value, wide: bool = True) -> None:
        """to = a signed number of 32 bits."""
        self.op(0xC7, 0, to, wide)
        self.word(value, 4)

    def load(self, to: Register, place: Memory, wide: bool = True) -> None:
        """to = what lies at place."""
        self.op(0x8B, to, place, wide)

    def store(self, place: Memory, source: Register, wide: bool = True) -> None:
        """What lies at place = source."""
        self.op(0x89, source, place, wide)

    def address(self, to: Register, place: Memory) -> None:
        """to = the address of place (lea)."""
        self.op(0x8D, to, place)

    # Arithmetic

    def alu(self, name: str, to: Register, source: Register | Memory, wide: bool = True) -> None:
        """to = to operation source."""
        self.op(8 * ALU[name] + 3, to, source, wide)

    def alu_immediate(self, name: str, to: Register | Memory, value: Value, size: int, wide: bool = True) -> None:
        """to = to operation a signed number of size (1 or 4) bytes."""
        self.op(0x83 if size == 1 else 0x81, ALU[name], to, wide)
        self.word(value, size)

    def test(self, one: Register, other: Register, wide: bool = True) -> None:
        """Set flags by one & other."""
        self.op(0x85, one, other, wide)

    def group3(self, number: int, rm: Register | Memory, wide: bool = True) -> None:
        """F7: test (0), not (2), neg (3), mul (4), imul (5), div (6), idiv (7)."""
        self.op(0xF7, number, rm, wide)

    def shift(self, name: str, to: Register, count: Value, wide: bool = True) -> None:
        """to = to shifted by a constant."""
        self.op(0xC1, SHIFTS[name], to, wide)
        self.word(count, 1)

    def shift_by_cl(self, name: str, to: Register, wide: bool = True) -> None:
        """to = to shifted by CL."""
        self.op(0xD3, SHIFTS[name], to, wide)

    def shift_by_register(self, name: str, to: Register, source: Register, count: Register, wide: bool = True) -> None:
        """to = source shifted by count (BMI2: shlx, shrx, sarx)."""
        prefix = {"lsh": 1, "arsh": 2, "rsh": 3}[name]
        at = len(self.code)
        # VEX.LZ.pp.0F38.W: R, X and B are inverted, and so is vvvv, the register of the count.
        self._put(0xC4, 0x42, wide << 7 | prefix, 0xF7)
        self._bits(at + 1, to, 3, 1, 7, flip=8)
        self._bits(at + 1, source, 3, 1, 5, flip=8)
        self._bits(at + 2, count, 0, 15, 3, flip=15)
        self.modrm(to, source)

    def byte_swap(self, register: Register, wide: bool = True) -> None:
        """Reverse the bytes of a register."""
        at = len(self.code)
        self._put(0x40 | wide << REX_W, 0x0F, 0xC8)
        self._bits(at, register, 3, 1, REX_B)
        self._bits(at + 2, register, 0, 7, 0)

    def test_bits(self, register: Register, mask: int) -> None:
        """Set flags by the lowest byte of a register & mask."""
        self.op(0xF6, 0, register, False)
        self.word(mask, 1)

    # Control

    def push(self, register: int) -> None:
        """Push a register."""
        self._put(0x40 | register >> 3, 0x50 | register & 7)

    def pop(self, register: int) -> None:
        """Pop a register."""
        self._put(0x40 | register >> 3, 0x58 | register & 7)

    def push_from(self, place: Memory) -> None:
        """Push what lies at place."""
        self.op(0xFF, 6, place)

    def pop_to(self, place: Memory) -> None:
        """Pop what goes to place."""
        self.op(0x8F, 0, place)

    def skip(self, condition: str = "") -> int:
        """Begin a short jump forward; `here` says where it leads. Returns its label."""
        self._put(0x70 | CONDITIONS[condition] if condition else 0xEB, 0)
        return len(self.code) - 1

    def land(self, *labels: int) -> None:
        """Let short jumps lead here."""
        for label in labels:
            here(label, self.code)

    def back(self, label: int, condition: str = "") -> None:
        """Jump back to a place in this template."""
        self._put(0x70 | CONDITIONS[condition] if condition else 0xEB, label - len(self.code) - 2 & 0xFF)

    def jump(self, reach: Reach, condition: str = "", *, short: bool = False, name: str = "") -> None:
        """Jump to another place; an edge."""
        if short:
            self._put(0x70 | CONDITIONS[condition] if condition else 0xEB, 0)
            self.edges.append(EdgeField(len(self.code) - 1, "R_X86_64_PC8", reach, -1, name))
            return
        self.code += bytes((0x0F, 0x80 | CONDITIONS[condition])) if condition else b"\xe9"
        self._distance(reach, name)

    def call(self, reach: Reach, name: str = "") -> None:
        """Call another place; an edge."""
        self._put(0xE8)
        self._distance(reach, name)

    def _distance(self, reach: Reach, name: str) -> None:
        self.edges.append(EdgeField(len(self.code), "R_X86_64_PC32", reach, -4, name))
        self.code += bytes(4)

    def address_of(self, to: int, name: str) -> None:
        """to = the address of something in the image; an edge."""
        self._put(0x48 | (to >> 3) << REX_R, 0x8D, 0x05 | (to & 7) << 3)
        self._distance(Reach.RUNTIME, name)

    def address_outside(self, to: int) -> None:
        """to = an address outside of the image; an edge."""
        self.move_wide(to, 0)
        self.edges.append(EdgeField(len(self.code) - 8, "R_X86_64_64", Reach.OUTSIDE, 0, ""))

    def call_register(self, register: int) -> None:
        """Call the address in a register."""
        self.op(0xFF, 2, register)

    def jump_to(self, rm: int | Memory) -> None:
        """Jump to the address in a register or in memory."""
        self.op(0xFF, 4, rm)

    def call_at(self, place: Memory) -> None:
        """Call the address in memory."""
        self.op(0xFF, 2, place)

    def ret(self) -> None:
        """Return."""
        self._put(0xC3)
