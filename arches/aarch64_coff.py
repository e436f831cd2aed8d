"""AArch64: the relocation kinds of COFF objects for ARM64.

The fields are those of the instructions. Two things are COFF's own. An ADRP holds its addend in bytes until
it is relocated, and a distance in pages after. And one number stands for loads and stores of all sizes,
whose offset counts in units of what they move: the instruction decides which of five rows is meant.

Source: Microsoft PE Format specification, "ARM64 Processors".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.arches.aarch64_fields import ADR21, ADRP21, IMM14, IMM19, IMM26, LO12
from jitlink.columns import Buffer, Column, Rows, load_records, store_records
from jitlink.fields import WORD16, WORD32, WORD64, Addresses, BitField, Part, bits
from jitlink.formulas import (
    IMAGE_BASE,
    SECTION,
    SECTION_NUMBER,
    A,
    Check,
    Kind,
    P,
    S,
    Through,
    kinds_of,
    page,
    signed,
    unsigned,
)

PE_FORMAT = "PE Format, ARM64 Processors"
BRANCH = Through.BRANCH
MANAGED = "it refers to the metadata of the common language runtime"


@dataclass(frozen=True)
class PageOfBytes(BitField):
    """The immediate of an ADRP whose addend is in bytes."""

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """Read the addend as an ADR would have it."""
        return ADR21.load(image, positions)


@dataclass(frozen=True)
class ScaledOffset(BitField):
    """The whole 12-bit offset of a load or store, in units of what it moves.

    The addend may fill all of it; of the finished offset in a page only the lower bits can be other than zero.
    """

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """Read the addend, in bytes."""
        return LO12.load(image, positions) << self.parts[0].value

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write the offsets in their page."""
        words = load_records(image, positions, self.word)
        store_records(image, positions, words & ~np.uint32(LO12.parts[0].mask))
        super().store(image, positions, values)


def _scaled(scale: int) -> ScaledOffset:
    return ScaledOffset(LO12.word, (Part(scale, PAGE_BITS - scale, LO12.parts[0].word),), signed=False)


PAGE_BITS = 12
ADRP = PageOfBytes(ADRP21.word, ADRP21.parts)
HIGH12 = bits((12, 12, 10), signed=False)
SCALES = (LO12, *map(_scaled, range(1, 5)))
PAGEOFFSET_12L, SECREL_LOW12L = "IMAGE_REL_ARM64_PAGEOFFSET_12L", "IMAGE_REL_ARM64_SECREL_LOW12L"


# fmt: off
ROWS = [
    #    name              number  value                  field   check
    Kind("ABSOLUTE",       0),
    Kind("ADDR32",         1,      S + A,                 WORD32, unsigned(32)),
    Kind("ADDR32NB",       2,      S + A - IMAGE_BASE,    WORD32, unsigned(32)),
    Kind("BRANCH26",       3,      S + A - P,             IMM26,  signed(28, align=4), BRANCH),
    Kind("PAGEBASE_REL21", 4,      page(S + A) - page(P), ADRP,   signed(33)),
    Kind("REL21",          5,      S + A - P,             ADR21,  signed(21)),
    Kind("PAGEOFFSET_12A", 6,      S + A,                 LO12),
    Kind("PAGEOFFSET_12L", 7,      S + A,                 LO12),
    Kind("SECREL",         8,      S + A - SECTION,       WORD32, unsigned(32)),
    Kind("SECREL_LOW12A",  9,      S + A - SECTION,       LO12),
    Kind("SECREL_HIGH12A", 10,     S + A - SECTION,       HIGH12, unsigned(24)),
    Kind("SECREL_LOW12L",  11,     S + A - SECTION,       LO12),
    Kind("TOKEN",          12,     reason=MANAGED),
    Kind("SECTION",        13,     SECTION_NUMBER + A,    WORD16, unsigned(16)),
    Kind("ADDR64",         14,     S + A,                 WORD64),
    Kind("BRANCH19",       15,     S + A - P,             IMM19,  signed(21, align=4), BRANCH),
    Kind("BRANCH14",       16,     S + A - P,             IMM14,  signed(16, align=4), BRANCH),
    Kind("REL32",          17,     S + A - (P + 4),       WORD32, signed(32)),
    # Loads and stores of more than one byte, by the bytes that they move.
    *(
        Kind(f"{name}, {1 << scale} bytes", -1, value, SCALES[scale], Check(0, 0, 1 << scale))
        for name, value in (("PAGEOFFSET_12L", S + A), ("SECREL_LOW12L", S + A - SECTION))
        for scale in range(1, len(SCALES))
    ),
]
# fmt: on

COFF_KINDS = kinds_of(ROWS, "IMAGE_REL_ARM64_", "coff", PE_FORMAT)
"""The rows with the names of the specification."""

INSTRUCTION = np.dtype("<u4")
OF_VECTOR_128 = 0x0480_0000
"""In a load or store of this many bits: a vector register, and the upper half of the opcode (DDI 0487, C4.1.94)."""


def scales_at(pool: Buffer, positions: Rows) -> Rows:
    """The logarithm of how many bytes the load or store at each position moves: int64[n].

    Its two highest bits have it, but for vector registers of 16 bytes, which share those of one byte.
    """
    word = load_records(pool, positions, INSTRUCTION).astype(np.int64)
    scale: Rows = word >> 30
    scale[((word & OF_VECTOR_128) == OF_VECTOR_128) & (scale == 0)] = 4
    return scale
