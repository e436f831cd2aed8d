"""AArch64: the fields of instructions that relocations fill, shared by the kinds of all object formats.

Every instruction is a little-endian word of 32 bits. The document of each format names the bits of the
value that a field takes; the fields themselves are those of the instruction set: one for branches of each
length, one for ADR and one for ADRP, one for the 12-bit offset of loads and stores of each width.

Two sorts of fields do more than fill in bits. A MOVZ that builds a signed value becomes a MOVN where the
value is negative. And a relaxed instruction is another instruction, with the registers of the first.

Source: Arm Architecture Reference Manual for A-profile (DDI 0487), C4.1 and C6.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jitlink.columns import Buffer, Column, load_records, store_records
from jitlink.fields import Addresses, BitField, Field, Part, bits

WORD = np.dtype("<u4")

# B and BL; B.cond, CBZ, CBNZ and the literal loads; TBZ and TBNZ.
IMM26 = bits((2, 26, 0))
IMM19 = bits((2, 19, 5))
IMM14 = bits((2, 14, 5))
# immlo and immhi: ADR counts bytes, ADRP pages of 4 KiB.
ADR21 = bits((0, 2, 29), (2, 19, 5))
ADRP21 = bits((12, 2, 29), (14, 19, 5))
# The low 12 bits of an address, in ADD and in loads and stores of one byte.
LO12 = bits((0, 12, 10), signed=False)
# The whole scaled offset of an 8-byte load.
LO15_64 = bits((3, 12, 10), signed=False)
# MOVZ, MOVN and MOVK, by the 16 bits of the value that they hold.
MOVW_G0, MOVW_G1, MOVW_G2, MOVW_G3 = (bits((16 * group, 16, 5), signed=False) for group in range(4))


def fills(field: Field, *others: BitField) -> bool:
    """Whether a field fills the same bits of an instruction as one of some others, whatever else it does."""
    return isinstance(field, BitField) and any(field.parts == other.parts for other in others)


@dataclass(frozen=True)
class LowBits(BitField):
    """The low 12 bits of an address, in units of what is moved, as the whole offset of a load or store."""

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write the offsets, whose highest bits are zero."""
        words = load_records(image, positions, self.word)
        store_records(image, positions, words & ~np.uint32(LO12.parts[0].mask))
        super().store(image, positions, values)


# In loads and stores of 2, 4, 8 and 16 bytes.
LO12_16, LO12_32, LO12_64, LO12_128 = (
    LowBits(WORD, (Part(scale, 12 - scale, 10),), signed=False) for scale in (1, 2, 3, 4)
)

MOVZ_NOT_MOVN = np.uint32(1 << 30)
MOVK_NOT_EITHER = np.uint32(1 << 29)


@dataclass(frozen=True)
class SignedMove(BitField):
    """The immediate of a MOVZ or MOVN, whose opcode follows the sign of the value.

    AAELF64: MOVZ with the selected bits of X where X >= 0, else MOVN with their complement. A MOVK keeps
    both its opcode and the bits as they are.
    """

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write opcodes and immediates."""
        words = load_records(image, positions, self.word)
        inverted = (values.view(np.int64) < 0) & ((words & MOVK_NOT_EITHER) == 0)
        keeps = (words & MOVK_NOT_EITHER) != 0
        words = np.where(keeps, words, np.where(inverted, words & ~MOVZ_NOT_MOVN, words | MOVZ_NOT_MOVN))
        store_records(image, positions, words)
        super().store(image, positions, np.where(inverted, ~values, values))

    def __str__(self) -> str:
        return f"{super().__str__()}, MOVZ or MOVN by its sign"


def signed_move(field: BitField) -> SignedMove:
    """Let the opcode of a field of MOVZ follow the sign of the value."""
    return SignedMove(field.word, field.parts, field.signed)


@dataclass(frozen=True)
class Instruction(BitField):
    """A whole instruction in the place of another one.

    Attributes: mnemonic; opcode (the word without registers and immediate); keeps (mask of the bits that
    stay: the registers).
    """

    mnemonic: str = ""
    opcode: int = 0
    keeps: int = 0

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write the opcodes, then the immediates."""
        words = load_records(image, positions, self.word)
        store_records(image, positions, (words & np.uint32(self.keeps)) | np.uint32(self.opcode))
        super().store(image, positions, values)

    def __str__(self) -> str:
        parts = ", ".join(map(str, self.parts))
        return f"{self.mnemonic}: word32{parts}" if parts else self.mnemonic


RD, RN_AND_RD = 0x1F, 0x3FF
NOP = Instruction(WORD, mnemonic="NOP", opcode=0xD503201F)
AS_ADD = Instruction(WORD, LO12.parts, mnemonic="ADD", opcode=0x91000000, keeps=RN_AND_RD)
AS_ADR = Instruction(WORD, ADR21.parts, mnemonic="ADR", opcode=0x10000000, keeps=RD)
AS_MOVZ = Instruction(WORD, mnemonic="MOVZ Xd, #0", opcode=0xD2800000, keeps=RD)
