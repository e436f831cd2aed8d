"""Instructions of fixed layout, as tables: which bits are fixed, and where each operand stands.

    Encoding("ADRP", "1..10000........................", R, imm((5, 19, 2), (29, 2, 0), signed=True))

reads: where the bits are like this, the operands are a register and an immediate that is put together from
19 bits at bit 5, which are bits 2 and up of the value, and 2 bits at bit 29, which are its lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from jitlink.check.operands.instruction import Instruction


@dataclass(frozen=True)
class Immediate:
    """An operand that is a number.

    Attributes: parts (lowest bit in the instruction, width, lowest bit in the value); signed; constant
    (the value of one that no bits stand for).
    """

    parts: tuple[tuple[int, int, int], ...]
    signed: bool = False
    constant: int | None = None

    def of(self, word: int) -> int:
        """The value in an instruction."""
        if self.constant is not None:
            return self.constant
        value = 0
        for at, width, to in self.parts:
            value |= (word >> at & (1 << width) - 1) << to
        top = max(to + width for _, width, to in self.parts)
        return value - (1 << top) if self.signed and value >> top - 1 else value


R = None
"""A register."""
Operand = Immediate | None


def imm(*parts: tuple[int, int, int], signed: bool = False) -> Immediate:
    """An immediate that is put together from parts."""
    return Immediate(parts, signed)


def always(value: int) -> Immediate:
    """An operand that is the same in every instruction of its sort."""
    return Immediate((), constant=value)


@dataclass(frozen=True)
class Encoding:
    """A sort of instruction.

    Attributes: name (LLVM's, or of a group of them); pattern (a character for each bit, highest first: 0, 1,
    or "." for any; spaces are for people); operands; excluding (patterns of other sorts among them).
    """

    name: str
    pattern: str
    operands: tuple[Operand, ...]
    excluding: tuple[str, ...] = ()

    @cached_property
    def _fixed(self) -> tuple[int, int]:
        return _mask_and_value(self.pattern)

    def matches(self, word: int) -> bool:
        """Whether an instruction is of this sort."""
        mask, value = self._fixed
        if word & mask != value:
            return False
        return all(word & mask != value for mask, value in map(_mask_and_value, self.excluding))

    def decode(self, word: int, size: int) -> Instruction:
        """The operands of an instruction of this sort."""
        values = tuple(operand.of(word) if operand is not None else None for operand in self.operands)
        return Instruction(size, self.name, values)


def _mask_and_value(pattern: str) -> tuple[int, int]:
    bits = pattern.replace(" ", "")
    mask = int("".join("0" if bit == "." else "1" for bit in bits), 2)
    return mask, int(bits.replace(".", "0"), 2)


def encoding(name: str, pattern: str, *operands: Operand, excluding: Sequence[str] = ()) -> Encoding:
    """Make a row of a table."""
    return Encoding(name, pattern, operands, tuple(excluding))


def find(table: Sequence[Encoding], word: int, size: int) -> Instruction | None:
    """Decode by the first row that fits; None where none does."""
    found = next((row for row in table if row.matches(word)), None)
    return found.decode(word, size) if found is not None else None


@cache
def _decoder(target: str) -> Any:
    import capstone

    if target == "aarch64":
        return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    return capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)


def named(target: str, code: bytes, address: int) -> Instruction | None:
    """An instruction of which capstone knows the name and the size, and nobody the numbers of its operands."""
    found = next(_decoder(target).disasm_lite(code, address, 1), None)
    return Instruction(found[1], f"{found[2]} {found[3]}".strip(), None) if found else None
