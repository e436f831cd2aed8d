"""x86-64: the relocation kinds of COFF objects.

The addend lies in the field, and a relative field counts from its end, or from the end of an instruction
that goes on behind it: REL32_1 is for one with an immediate of one byte. Assemblers of LLVM write REL32 with
an addend instead.

Source: Microsoft PE Format specification, "x64 Processors".
"""

from __future__ import annotations

from jitlink.fields import WORD16, WORD32, WORD64, bits
from jitlink.formulas import (
    IMAGE_BASE,
    SECTION,
    SECTION_NUMBER,
    A,
    Kind,
    P,
    S,
    kinds_of,
    signed,
    unsigned,
)

PE_FORMAT = "PE Format, x64 Processors"
MANAGED = "it refers to the metadata of the common language runtime"
SPAN = "it serves span-dependent values of assemblers, which compilers do not write"

SEVEN_BITS = bits((0, 7, 0), word="u1", signed=False)


# fmt: off
ROWS = [
    #    name        number  value               field       check
    Kind("ABSOLUTE", 0),
    Kind("ADDR64",   1,      S + A,              WORD64),
    Kind("ADDR32",   2,      S + A,              WORD32,     unsigned(32)),
    Kind("ADDR32NB", 3,      S + A - IMAGE_BASE, WORD32,     unsigned(32)),
    Kind("REL32",    4,      S + A - (P + 4),    WORD32,     signed(32)),
    Kind("REL32_1",  5,      S + A - (P + 5),    WORD32,     signed(32)),
    Kind("REL32_2",  6,      S + A - (P + 6),    WORD32,     signed(32)),
    Kind("REL32_3",  7,      S + A - (P + 7),    WORD32,     signed(32)),
    Kind("REL32_4",  8,      S + A - (P + 8),    WORD32,     signed(32)),
    Kind("REL32_5",  9,      S + A - (P + 9),    WORD32,     signed(32)),
    Kind("SECTION",  10,     SECTION_NUMBER + A, WORD16,     unsigned(16)),
    Kind("SECREL",   11,     S + A - SECTION,    WORD32,     unsigned(32)),
    Kind("SECREL7",  12,     S + A - SECTION,    SEVEN_BITS, unsigned(7)),
    Kind("TOKEN",    13,     reason=MANAGED),
    Kind("SREL32",   14,     reason=SPAN),
    Kind("PAIR",     15,     reason=SPAN),
    Kind("SSPAN32",  16,     reason=SPAN),
]
# fmt: on

KINDS = kinds_of(ROWS, "IMAGE_REL_AMD64_", "coff", PE_FORMAT)
"""The rows with the names of the specification."""

REL32 = "IMAGE_REL_AMD64_REL32"
PC_RELATIVE = (REL32, *(f"{REL32}_{distance}" for distance in range(1, 6)))
"""The kinds that may be out of reach of their target."""
ADDR32, ADDR32NB = "IMAGE_REL_AMD64_ADDR32", "IMAGE_REL_AMD64_ADDR32NB"
ABSOLUTE = {ADDR32: 1 << 31}
"""Windows has its programs below 2 GiB where they use this kind, since most fields of it are sign-extended."""
