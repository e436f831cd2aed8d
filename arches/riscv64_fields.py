"""Where RISC-V puts the bits of a value: the immediates of its instruction formats, and words that add up.

The immediates are scrambled, so that the sign is always bit 31 and registers stay where they are; each
format is a list of bit ranges. What has no such list is a field of its own:

UpperField       a 32-bit value takes two instructions. The second one adds a signed 12-bit number, so the
                 first one has to hold the upper 20 bits of the value *plus 0x800*.
Accumulated      ADD and SUB relocations change the word that is there, and several of them meet in one
                 word: the distance between two labels is `ADD32 end; SUB32 start`.
Uleb128Field     a number in as many bytes as the assembler has reserved for it.

Source: RISC-V ELF psABI, Relocations (Field Symbols); the RISC-V Instruction Set Manual,
volume I, sections 2.3 (Immediate Encoding Variants) and 16.2 (Compressed Instruction Formats).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Column, accumulate, load_records, store_records
from jitlink.fields import NO_FIELD, Addresses, BitField, Field, bits
from jitlink.formulas import Check

LOW_12 = np.uint64(0xFFF)
ROUNDING = np.uint64(0x800)
LONGEST_ULEB128 = 10
"""Bytes of a number of 64 bits."""


@dataclass(frozen=True)
class UpperField(BitField):
    """Bits from 12 on of the value plus 0x800; bits below 12, where the field has any, are the value's own."""

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write both halves of each value."""
        upper = (values + ROUNDING) & ~LOW_12
        super().store(image, positions, upper | (values & LOW_12))

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """Add up what the two instructions would compute."""
        value = super().load(image, positions)
        return value - ((value & 0x800) << 1)

    def __str__(self) -> str:
        return super().__str__().replace("value", "(value + 0x800)", 1)


@dataclass(frozen=True)
class RewritingField(Field):
    """A field of an instruction that is made another one beside it.

    inner: the field. cleared, set_bits: masks over the word. becomes: the mnemonic.
    """

    inner: Field = NO_FIELD
    cleared: int = 0
    set_bits: int = 0
    becomes: str = ""

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Rewrite the instructions and write their immediates."""
        words = load_records(image, positions, self.word)
        words &= self.word.type(~self.cleared & (1 << 8 * self.size) - 1)
        words |= self.word.type(self.set_bits)
        store_records(image, positions, words)
        self.inner.store(image, positions, values)

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """Read back what the field holds."""
        return self.inner.load(image, positions)

    def __str__(self) -> str:
        return f"{self.inner}; becomes {self.becomes}"


@dataclass(frozen=True)
class Accumulated(Field):
    """A word that values are added to or taken from, several of them to the same word.

    negative: values are taken off. width: how many of the word's low bits take part.
    """

    negative: bool = False
    width: int = 64

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Add up what goes to each word, and change each word once."""
        places, which = np.unique(positions, return_inverse=True)
        sums = np.zeros(len(places), np.uint64)
        accumulate(sums, which, values)
        before = load_records(image, places, self.word).astype(np.uint64)
        after = before - sums if self.negative else before + sums
        mask = np.uint64((1 << self.width) - 1)
        store_records(image, places, ((before & ~mask) | (after & mask)).astype(self.word))

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """The word is what the formula calls V, and no addend."""
        return np.zeros(len(positions), np.int64)

    def __str__(self) -> str:
        return f"word{min(self.width, 8 * self.size)} {'-' if self.negative else '+'}= value"


@dataclass(frozen=True)
class Uleb128Field(Field):
    """A ULEB128 number that keeps its length: every byte but the last goes on having its high bit set."""

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write seven bits to a byte. The values must fit the bytes that are there: see uleb128_lengths."""
        lengths = uleb128_lengths(image, positions)
        for digit in range(LONGEST_ULEB128):
            rows = (lengths > digit).nonzero()[0]
            places = positions[rows] + digit
            septets = (values[rows] >> np.uint64(7 * digit)).astype(np.uint8) & np.uint8(0x7F)
            image[places] = (image[places] & 0x80) | septets

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """The number is a place to write to, and no addend."""
        return np.zeros(len(positions), np.int64)

    def __str__(self) -> str:
        return "ULEB128"


def uleb128_lengths(image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
    """Measure the ULEB128 numbers at positions of an image, in bytes: int64[n].

    A number that goes on after LONGEST_ULEB128 bytes, or past the end of the image, is taken to end there.
    """
    lengths = np.ones(len(positions), np.int64)
    going_on = np.ones(len(positions), np.bool_)
    for digit in range(LONGEST_ULEB128 - 1):
        places = np.minimum(positions + digit, len(image) - 1)
        going_on &= (image[places] >= 0x80) & (positions + digit + 1 < len(image))
        lengths += going_on
    return lengths


def rounded(width: int) -> Check:
    """Allow what an upper part of that width and a signed 12-bit lower part can make up together."""
    return Check(-(1 << width - 1) - 0x800, (1 << width - 1) - 0x800)


def _upper(field: BitField) -> UpperField:
    return UpperField(field.word, field.parts, field.signed)


# Lowest bit of the value, width, lowest bit of the instruction.
I_TYPE = bits((0, 12, 20))
S_TYPE = bits((5, 7, 25), (0, 5, 7))
B_TYPE = bits((12, 1, 31), (5, 6, 25), (1, 4, 8), (11, 1, 7))
J_TYPE = bits((20, 1, 31), (1, 10, 21), (11, 1, 20), (12, 8, 12))
U_TYPE = _upper(bits((12, 20, 12)))
U_AND_I_TYPE = _upper(bits((12, 20, 12), (0, 12, 52), word="<u8"))
CB_TYPE = bits((8, 1, 12), (3, 2, 10), (6, 2, 5), (1, 2, 3), (5, 1, 2), word="<u2")
CJ_TYPE = bits((11, 1, 12), (4, 1, 11), (8, 2, 9), (10, 1, 8), (6, 1, 7), (7, 1, 6), (1, 3, 3), (5, 1, 2), word="<u2")
CI_TYPE = _upper(bits((17, 1, 12), (12, 5, 2), word="<u2"))
WORD6 = bits((0, 6, 0), word="<u1", signed=False)

OPCODE, LUI = 0x7F, 0x37
OPCODE_AND_FUNCT3, ADDI = 0x707F, 0x13
LOAD_AS_ADDI = RewritingField(I_TYPE.word, I_TYPE, OPCODE_AND_FUNCT3, ADDI, "addi")
AUIPC_AS_LUI = RewritingField(U_TYPE.word, U_TYPE, OPCODE, LUI, "lui")

ADD8, ADD16, ADD32, ADD64 = (Accumulated(np.dtype(f"<u{size}"), width=8 * size) for size in (1, 2, 4, 8))
SUB8, SUB16, SUB32, SUB64 = (replace(field, negative=True) for field in (ADD8, ADD16, ADD32, ADD64))
SUB6 = replace(SUB8, width=6)
ULEB128 = Uleb128Field(np.dtype("u1"))
