"""AArch64: the relocation kinds of Mach-O, which calls the machine arm64.

Instructions have no addend: an ADDEND relocation before theirs gives one. PAGEOFF12 belongs into an ADD or
into a load or store of any width, and the instruction says by how much its offset is scaled.

Source: <mach-o/arm64/reloc.h>; the instructions from the Arm Architecture Reference Manual (DDI 0487), C4.1.
"""

from __future__ import annotations

from jitlink.arches.aarch64_fields import ADRP21, IMM26, LO12, LO12_16, LO12_32, LO12_64, LO12_128
from jitlink.arches.macho import MachORules
from jitlink.fields import WORD32, WORD64
from jitlink.formulas import GOT, A, B, Check, G, Kind, P, S, Through, kinds_of, page, signed, unsigned

RELOC_H = "<mach-o/arm64/reloc.h>"
SLOT = Through.GOT_ENTRY
RELAX = Through.RELAXABLE_GOT_ENTRY
BRANCH = Through.BRANCH
AUTHENTICATED = (
    "a pointer that is signed when it is loaded, of code for arm64e; nothing signs pointers here: compile for arm64"
)


def _aligned(to: int) -> Check:
    """Allow every multiple of a power of two."""
    return Check(0, 0, to)


# fmt: off
ROWS = [
    #    name                            number  value               field     check
    Kind("UNSIGNED",                     0,  S + A,                  WORD64),
    Kind("UNSIGNED, 4 bytes",            0,  S + A,                  WORD32,   unsigned(32)),
    Kind("SUBTRACTOR",                   1),
    Kind("BRANCH26",                     2,  S + A - P,              IMM26,    signed(28, 4), BRANCH),
    Kind("PAGE21",                       3,  page(S + A) - page(P),  ADRP21,   signed(33)),
    Kind("PAGEOFF12",                    4,  S + A,                  LO12),
    Kind("PAGEOFF12, 2 bytes",           -1, S + A,                  LO12_16,  _aligned(2)),
    Kind("PAGEOFF12, 4 bytes",           -1, S + A,                  LO12_32,  _aligned(4)),
    Kind("PAGEOFF12, 8 bytes",           -1, S + A,                  LO12_64,  _aligned(8)),
    Kind("PAGEOFF12, 16 bytes",          -1, S + A,                  LO12_128, _aligned(16)),
    Kind("GOT_LOAD_PAGE21",              5,  page(G + GOT) - page(P), ADRP21,  signed(33), RELAX),
    Kind("GOT_LOAD_PAGEOFF12",           6,  G + GOT,                LO12_64,  _aligned(8), RELAX),
    Kind("POINTER_TO_GOT",               7,  G + GOT + A - P,        WORD32,   signed(32), SLOT),
    Kind("POINTER_TO_GOT, 8 bytes",      7,  G + GOT + A,            WORD64,   through=SLOT),
    # The address of a descriptor of a thread-local variable: see jitlink.passes.thread_descriptors.
    Kind("TLVP_LOAD_PAGE21",             8,  page(G + GOT) - page(P), ADRP21,  signed(33), SLOT),
    Kind("TLVP_LOAD_PAGEOFF12",          9,  G + GOT,                LO12_64,  _aligned(8), SLOT),
    Kind("ADDEND",                       10),
    Kind("AUTHENTICATED_POINTER",        11, reason=AUTHENTICATED),
    # What a pair of SUBTRACTOR and UNSIGNED becomes.
    Kind("SUBTRACTOR, 8 bytes",           -1, S + A - B,             WORD64),
    Kind("SUBTRACTOR, 4 bytes",           -1, S + A - B,             WORD32,   signed(32)),
    Kind("SUBTRACTOR of here, 8 bytes",   -1, S + A - P,             WORD64),
    Kind("SUBTRACTOR of here, 4 bytes",   -1, S + A - P,             WORD32,   signed(32)),
    Kind("SUBTRACTOR from here, 8 bytes", -1, P + A - S,             WORD64),
    Kind("SUBTRACTOR from here, 4 bytes", -1, P + A - S,             WORD32,   signed(32)),
]
# fmt: on

MACHO_KINDS = kinds_of(ROWS, "ARM64_RELOC_", "macho", RELOC_H)
"""The rows with the names of the header."""

# Mask and bits of instructions whose immediate is 0, as far as they matter here.
ADRP = ((0x9FFFFFE0, 0x90000000),)
LDR_OF_8_BYTES = ((0xFFFFFC00, 0xF9400000),)
B_OR_BL = ((0x7FFFFFFF, 0x14000000),)
ADD_OR_BYTE = ((0x7FFFFC00, 0x11000000), (0xFB3FFC00, 0x39000000))
LOADS_AND_STORES = {16: (0xFF800000, 0x3D800000), 2: (0xFB000000, 0x79000000), 4: (0xFB000000, 0xB9000000),
                    8: (0xFB000000, 0xF9000000)}  # fmt: skip
NO_OFFSET = ((0x003FFC00, 0),)

RULES = MachORules(
    cpu_type=0x0100000C,
    unsigned=0,
    subtractor=1,
    addend=10,
    takes_addend=(2, 3, 4),
    bias={},
    distance={8: "ARM64_RELOC_SUBTRACTOR of here, 8 bytes", 4: "ARM64_RELOC_SUBTRACTOR of here, 4 bytes"},
    distance_to_here={8: "ARM64_RELOC_SUBTRACTOR from here, 8 bytes", 4: "ARM64_RELOC_SUBTRACTOR from here, 4 bytes"},
    difference={8: "ARM64_RELOC_SUBTRACTOR, 8 bytes", 4: "ARM64_RELOC_SUBTRACTOR, 4 bytes"},
    pointer={8: "ARM64_RELOC_UNSIGNED", 4: "ARM64_RELOC_UNSIGNED, 4 bytes"},
    second_symbol="ARM64_RELOC_SUBTRACTOR",
    personality="ARM64_RELOC_POINTER_TO_GOT",
    by_instruction={
        "ARM64_RELOC_PAGEOFF12": tuple(
            (*form, f"ARM64_RELOC_PAGEOFF12, {width} bytes") for width, form in LOADS_AND_STORES.items()
        )
    },
    instructions={
        "ARM64_RELOC_BRANCH26": (B_OR_BL, "a B or BL whose field is 0"),
        "ARM64_RELOC_PAGE21": (ADRP, "an ADRP whose field is 0"),
        "ARM64_RELOC_GOT_LOAD_PAGE21": (ADRP, "an ADRP whose field is 0"),
        "ARM64_RELOC_GOT_LOAD_PAGEOFF12": (LDR_OF_8_BYTES, "an 8-byte LDR whose field is 0"),
        "ARM64_RELOC_TLVP_LOAD_PAGE21": (ADRP, "an ADRP whose field is 0"),
        "ARM64_RELOC_TLVP_LOAD_PAGEOFF12": (LDR_OF_8_BYTES, "an 8-byte LDR whose field is 0"),
        "ARM64_RELOC_PAGEOFF12": (ADD_OR_BYTE, "an ADD, a load or a store whose field is 0"),
        **{
            f"ARM64_RELOC_PAGEOFF12, {width} bytes": (NO_OFFSET, "a load or store whose field is 0")
            for width in LOADS_AND_STORES
        },
    },
)
