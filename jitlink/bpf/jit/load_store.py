"""What the back ends of load-store machines share: AArch64 and RISC-V.

Both have instructions of 32 bits with three registers, plenty of registers, and reach memory by loads and
stores only. So the routines (load_store_runtime) and all templates that are no arithmetic
(load_store_templates) are written once, in terms of the few operations below, which each machine encodes.

On neither does a call go through memory. A BPF function that calls another keeps its own return address; one
that calls none never writes it, since routines are called with a link register of their own, LINK. What
LINK holds in a routine is the place behind the instruction, as jitlink.bpf.jit.abi wants it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

from jitlink.bpf.jit.abi import OFFSET
from jitlink.bpf.jit.templates import BitField, EdgeField, Operand, Reach, Template

Register = int | Operand
Skip = tuple[int, str, Register, Register]
"""A branch whose target is not known yet: its place, its condition and what it compares."""
BYTE = 8
WORD = 4
"""Bytes of an instruction."""
SLOT = 8
"""Bytes that a register takes on the host's stack."""
STACK_UNIT = 16
"""What the stack pointer is a multiple of at every instruction (AAPCS64 6.4.5.1, RISC-V psABI Integer Calling
Convention, for calls)."""
OPPOSITE = {
    "eq": "ne", "ne": "eq", "lo": "hs", "hs": "lo", "hi": "ls", "ls": "hi",
    "lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "mi": "pl", "pl": "mi",
}  # fmt: skip
"""Conditions and their opposites: lo, hs, hi, ls compare unsigned numbers, lt, ge, gt, le signed ones."""


class Part(NamedTuple):
    """Bits [shift, shift + width) of a value, which go to the bits from `low` on of an instruction.

    flip: what the value is combined with first, by exclusive or.
    """

    value: Register
    low: int
    width: int = 5
    shift: int = 0
    flip: int = 0


class LoadStoreAssembler(Template):
    """Writes templates and routines for a load-store machine; each machine brings the abstract methods.

    Class attributes, all registers: BPF (those of r0 to r10), BUDGET, RECORD, LINK, RETURN (where a call puts
    the return address), STACK, ZERO, SCRATCH (eight that no piece expects to keep), ARGUMENTS (the first six of
    a C function), RESULT (of a C function), KEPT (those that a C function keeps and we use).
    """

    BPF: ClassVar[tuple[int, ...]]
    BUDGET: ClassVar[int]
    RECORD: ClassVar[int]
    LINK: ClassVar[int]
    RETURN: ClassVar[int]
    STACK: ClassVar[int]
    ZERO: ClassVar[int]
    SCRATCH: ClassVar[tuple[int, ...]]
    ARGUMENTS: ClassVar[tuple[int, ...]]
    RESULT: ClassVar[int]
    KEPT: ClassVar[tuple[int, ...]]

    # Encoding

    def put(self, word: int, *parts: Part) -> None:
        """Write an instruction: fixed bits, and parts of values between them."""
        at = len(self.code)
        for part in parts:
            if isinstance(part.value, Operand):
                self._add_bit_fields(at, part.value, part)
            else:
                word |= ((part.value ^ part.flip) >> part.shift & (1 << part.width) - 1) << part.low
        self.code += word.to_bytes(WORD, "little")

    def _add_bit_fields(self, at: int, operand: Operand, part: Part) -> None:
        """Cut a part at the ends of bytes."""
        low, shift, end = part.low, part.shift, part.low + part.width
        while low < end:
            byte, out = divmod(low, BYTE)
            width = min(BYTE - out, end - low)
            self.bit_fields.append(BitField(at + byte, operand, shift, (1 << width) - 1, out, part.flip))
            low, shift = low + width, shift + width

    def edge(self, kind: str, reach: Reach, name: str = "", *, addend: int = 0) -> None:
        """Let the instruction that is written next refer to another place."""
        self.edges.append(EdgeField(len(self.code), kind, reach, addend, name))

    # What each machine encodes. All works on 64 bits.

    @abstractmethod
    def move(self, to: Register, source: Register) -> None:
        """to = source."""

    @abstractmethod
    def constant(self, to: int, value: int) -> None:
        """to = a number that is known now."""

    @abstractmethod
    def number(self, to: int, value: Operand) -> None:
        """to = an operand, a signed number of 32 bits; may change the last of SCRATCH."""

    @abstractmethod
    def load(self, to: Register, base: int, offset: int = 0) -> None:
        """to = the 8 bytes at base + offset, which is not negative, and small."""

    @abstractmethod
    def store(self, source: Register, base: int, offset: int = 0) -> None:
        """The 8 bytes at base + offset = source."""

    @abstractmethod
    def load_word(self, to: Register, base: int) -> None:
        """to = the 4 bytes at base, without a sign."""

    @abstractmethod
    def multiply(self, to: Register, one: Register, other: Register) -> None:
        """to = one * other."""

    @abstractmethod
    def load_field(self, to: int, offset: Operand) -> None:
        """to = the 8 bytes of the record at an operand."""

    @abstractmethod
    def add(self, to: Register, one: Register, other: Register) -> None:
        """to = one + other."""

    @abstractmethod
    def subtract(self, to: Register, one: Register, other: Register) -> None:
        """to = one - other."""

    @abstractmethod
    def add_number(self, to: int, one: int, number: int) -> None:
        """to = one + a number of less than 2048 either way; also of the stack pointer."""

    @abstractmethod
    def low_bits(self, to: int, one: int, count: int) -> None:
        """to = the lowest bits of one."""

    @abstractmethod
    def shift_left(self, to: int, one: int, count: int) -> None:
        """to = one << count."""

    @abstractmethod
    def shift_right(self, to: int, one: int, count: int) -> None:
        """to = one >> count, without a sign."""

    @abstractmethod
    def branch_here(self, condition: str, one: Register, other: Register, distance: int) -> None:
        """Branch over so many bytes, counted from the branch itself; all it takes is the last instruction."""

    @abstractmethod
    def jump_here(self, distance: int) -> None:
        """Jump over so many bytes, counted from the jump."""

    @abstractmethod
    def branch(self, condition: str, one: Register, other: Register, reach: Reach, far: bool) -> None:
        """Branch to another place, which is out of the reach of a branch where far; an edge."""

    @abstractmethod
    def jump(self, reach: Reach) -> None:
        """Jump to another place; an edge."""

    @abstractmethod
    def call(self, reach: Reach) -> None:
        """Call another place, with the return address in RETURN; an edge."""

    @abstractmethod
    def routine(self, name: str) -> None:
        """Call a routine, with the return address in LINK; an edge."""

    @abstractmethod
    def jump_register(self, register: int) -> None:
        """Jump to the address in a register."""

    @abstractmethod
    def call_register(self, register: int) -> None:
        """Call the address in a register, with the return address in RETURN."""

    @abstractmethod
    def address_of(self, to: int, name: str) -> None:
        """to = the address of something in the image; edges."""

    @abstractmethod
    def address_outside(self, to: int) -> None:
        """to = an address outside of the image; edges."""

    # What follows from it

    def load_record(self, to: Register, name: str, within: int = 0) -> None:
        """to = a field of the record."""
        self.load(to, self.RECORD, OFFSET[name] + within)

    def store_record(self, source: Register, name: str, within: int = 0) -> None:
        """A field of the record = source."""
        self.store(source, self.RECORD, OFFSET[name] + within)

    def skip(self, condition: str, one: Register, other: Register) -> Skip:
        """Begin a branch forward in this code; `land` says where it leads. Returns its label."""
        at = len(self.code)
        self.branch_here(condition, one, other, 0)
        return at, condition, one, other

    def skip_always(self) -> Skip:
        """The same for a jump."""
        at = len(self.code)
        self.jump_here(0)
        return at, "", self.ZERO, self.ZERO

    def land(self, *labels: Skip) -> None:
        """Let branches of this code lead here: the last instruction of each is written anew."""
        end, fields = len(self.code), len(self.bit_fields)
        for at, condition, one, other in labels:
            rest = bytes(self.code[at:])
            del self.code[at:]
            if condition:
                self.branch_here(condition, one, other, end - at)
            else:
                self.jump_here(end - at)
            self.code += rest[len(self.code) - at :]
            del self.bit_fields[fields:]

    def back(self, to: int, condition: str, one: Register, other: Register) -> None:
        """Branch back to a place in this code."""
        self.branch_here(condition, one, other, to - len(self.code))

    def ret(self) -> None:
        """Return from a function."""
        self.jump_register(self.RETURN)
