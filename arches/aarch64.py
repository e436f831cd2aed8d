"""AArch64: relocation kinds, the stub and the veneers, and the relaxation of address pairs.

Most addresses take two instructions: ADRP, which reaches 4 GiB and finds the page of 4 KiB, and an ADD, a
load or a store that holds the low 12 bits. A branch reaches 128 MiB, a conditional one 1 MiB, and one that
tests a bit 32 KiB; what lies beyond is reached through a veneer (jitlink.passes.veneers).

Source: ELF for the Arm 64-bit Architecture (AAELF64), 2024Q3, chapter "Relocation", whose tables the rows
follow in their order. Relocations with _NC in their names are not to be checked for overflow there; all
others are. Where AAELF64 says that a linker should check an alignment, we do, and so for branches, of
which it says that all offsets are multiples of 4. GDAT(S) has no addend since 2024Q3, except in GOTPCREL32,
where it counts from the entry.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jitlink.arches.aarch64_coff import COFF_KINDS
from jitlink.arches.aarch64_fields import (
    ADR21,
    ADRP21,
    AS_ADD,
    AS_ADR,
    AS_MOVZ,
    IMM14,
    IMM19,
    IMM26,
    LO12,
    LO12_16,
    LO12_32,
    LO12_64,
    LO12_128,
    LO15_64,
    MOVW_G0,
    MOVW_G1,
    MOVW_G2,
    MOVW_G3,
    NOP,
    fills,
    signed_move,
)
from jitlink.arches.aarch64_macho import MACHO_KINDS
from jitlink.arches.aarch64_refused import REFUSED_KINDS
from jitlink.arches.aarch64_relaxation import AddressPairs
from jitlink.arches.aarch64_support import SUPPORT
from jitlink.arches.aarch64_thread_locals import THREAD_LOCAL_KINDS, THREAD_LOCALS
from jitlink.arches.architecture import Architecture, Near, Stub
from jitlink.columns import Rows
from jitlink.fields import WORD16, WORD32, WORD64, BitField
from jitlink.formulas import (
    GOT,
    A,
    Check,
    Kind,
    KindTable,
    P,
    S,
    Through,
    Value,
    either,
    page,
    signed,
    unsigned,
)
from jitlink.graph import LinkGraph

DATA = "AAELF64, data relocations"
GROUP = "AAELF64, group relocations"
PC_RELATIVE = "AAELF64, PC-relative addresses"
CONTROL = "AAELF64, control-flow instructions"
GOT_GROUP = "AAELF64, GOT-relative group relocations"
GOT_DATA = "AAELF64, GOT-relative data relocations"
GOT_CODE = "AAELF64, GOT-relative instructions"
OPTIMIZATION = "AAELF64, relocation optimization"
CALL_AND_JUMP = "AAELF64, call and jump relocations"

SLOT = Through.GOT_ENTRY
RELAX = Through.RELAXABLE_GOT_ENTRY
BRANCH = Through.BRANCH

# By the time a formula is computed, the edge points at the entry.
ENTRY = Value("G(GDAT(S))", frozenset("S"), lambda letters: letters["S"])
SMOVW_G0, SMOVW_G1, SMOVW_G2, SMOVW_G3 = map(signed_move, (MOVW_G0, MOVW_G1, MOVW_G2, MOVW_G3))


def aligned(to: int) -> Check:
    """Allow every multiple of a power of two."""
    return Check(0, 0, to)


# fmt: off
ELF_KINDS = [
    #    name                             number  value              field    check
    Kind("R_AARCH64_NONE",                0),
    Kind("R_AARCH64_NONE, withdrawn",     256),
    Kind("R_AARCH64_ABS64",               257, S + A,                WORD64,   source=DATA),
    Kind("R_AARCH64_ABS32",               258, S + A,                WORD32,   either(32), source=DATA),
    Kind("R_AARCH64_ABS16",               259, S + A,                WORD16,   either(16), source=DATA),
    Kind("R_AARCH64_PREL64",              260, S + A - P,            WORD64,   source=DATA),
    Kind("R_AARCH64_PREL32",              261, S + A - P,            WORD32,   either(32), source=DATA),
    Kind("R_AARCH64_PREL16",              262, S + A - P,            WORD16,   either(16), source=DATA),
    Kind("R_AARCH64_PLT32",               314, S + A - P,            WORD32,   signed(32), BRANCH, source=DATA),
    Kind("R_AARCH64_MOVW_UABS_G0",        263, S + A,                MOVW_G0,  unsigned(16), source=GROUP),
    Kind("R_AARCH64_MOVW_UABS_G0_NC",     264, S + A,                MOVW_G0,  source=GROUP),
    Kind("R_AARCH64_MOVW_UABS_G1",        265, S + A,                MOVW_G1,  unsigned(32), source=GROUP),
    Kind("R_AARCH64_MOVW_UABS_G1_NC",     266, S + A,                MOVW_G1,  source=GROUP),
    Kind("R_AARCH64_MOVW_UABS_G2",        267, S + A,                MOVW_G2,  unsigned(48), source=GROUP),
    Kind("R_AARCH64_MOVW_UABS_G2_NC",     268, S + A,                MOVW_G2,  source=GROUP),
    Kind("R_AARCH64_MOVW_UABS_G3",        269, S + A,                MOVW_G3,  source=GROUP),
    Kind("R_AARCH64_MOVW_SABS_G0",        270, S + A,                SMOVW_G0, signed(17), source=GROUP),
    Kind("R_AARCH64_MOVW_SABS_G1",        271, S + A,                SMOVW_G1, signed(33), source=GROUP),
    Kind("R_AARCH64_MOVW_SABS_G2",        272, S + A,                SMOVW_G2, signed(49), source=GROUP),
    Kind("R_AARCH64_LD_PREL_LO19",        273, S + A - P,            IMM19,    signed(21, 4), source=PC_RELATIVE),
    Kind("R_AARCH64_ADR_PREL_LO21",       274, S + A - P,            ADR21,    signed(21), source=PC_RELATIVE),
    Kind("R_AARCH64_ADR_PREL_PG_HI21",    275, page(S + A) - page(P), ADRP21,  signed(33), source=PC_RELATIVE),
    Kind("R_AARCH64_ADR_PREL_PG_HI21_NC", 276, page(S + A) - page(P), ADRP21,  source=PC_RELATIVE),
    Kind("R_AARCH64_ADD_ABS_LO12_NC",     277, S + A,                LO12,     source=PC_RELATIVE),
    Kind("R_AARCH64_LDST8_ABS_LO12_NC",   278, S + A,                LO12,     source=PC_RELATIVE),
    Kind("R_AARCH64_LDST16_ABS_LO12_NC",  284, S + A,                LO12_16,  aligned(2), source=PC_RELATIVE),
    Kind("R_AARCH64_LDST32_ABS_LO12_NC",  285, S + A,                LO12_32,  aligned(4), source=PC_RELATIVE),
    Kind("R_AARCH64_LDST64_ABS_LO12_NC",  286, S + A,                LO12_64,  aligned(8), source=PC_RELATIVE),
    Kind("R_AARCH64_LDST128_ABS_LO12_NC", 299, S + A,                LO12_128, aligned(16), source=PC_RELATIVE),
    Kind("R_AARCH64_TSTBR14",             279, S + A - P,            IMM14,    signed(16, 4), BRANCH, source=CONTROL),
    Kind("R_AARCH64_CONDBR19",            280, S + A - P,            IMM19,    signed(21, 4), BRANCH, source=CONTROL),
    Kind("R_AARCH64_JUMP26",              282, S + A - P,            IMM26,    signed(28, 4), BRANCH, source=CONTROL),
    Kind("R_AARCH64_CALL26",              283, S + A - P,            IMM26,    signed(28, 4), BRANCH, source=CONTROL),
    Kind("R_AARCH64_MOVW_PREL_G0",        287, S + A - P,            SMOVW_G0, signed(17), source=GROUP),
    Kind("R_AARCH64_MOVW_PREL_G0_NC",     288, S + A - P,            MOVW_G0,  source=GROUP),
    Kind("R_AARCH64_MOVW_PREL_G1",        289, S + A - P,            SMOVW_G1, signed(33), source=GROUP),
    Kind("R_AARCH64_MOVW_PREL_G1_NC",     290, S + A - P,            MOVW_G1,  source=GROUP),
    Kind("R_AARCH64_MOVW_PREL_G2",        291, S + A - P,            SMOVW_G2, signed(49), source=GROUP),
    Kind("R_AARCH64_MOVW_PREL_G2_NC",     292, S + A - P,            MOVW_G2,  source=GROUP),
    Kind("R_AARCH64_MOVW_PREL_G3",        293, S + A - P,            SMOVW_G3, source=GROUP),
    Kind("R_AARCH64_MOVW_GOTOFF_G0",      300, ENTRY - GOT,          SMOVW_G0, signed(17), SLOT, source=GOT_GROUP),
    Kind("R_AARCH64_MOVW_GOTOFF_G0_NC",   301, ENTRY - GOT,          MOVW_G0,  through=SLOT, source=GOT_GROUP),
    Kind("R_AARCH64_MOVW_GOTOFF_G1",      302, ENTRY - GOT,          SMOVW_G1, signed(33), SLOT, source=GOT_GROUP),
    Kind("R_AARCH64_MOVW_GOTOFF_G1_NC",   303, ENTRY - GOT,          MOVW_G1,  through=SLOT, source=GOT_GROUP),
    Kind("R_AARCH64_MOVW_GOTOFF_G2",      304, ENTRY - GOT,          SMOVW_G2, signed(49), SLOT, source=GOT_GROUP),
    Kind("R_AARCH64_MOVW_GOTOFF_G2_NC",   305, ENTRY - GOT,          MOVW_G2,  through=SLOT, source=GOT_GROUP),
    Kind("R_AARCH64_MOVW_GOTOFF_G3",      306, ENTRY - GOT,          SMOVW_G3, through=SLOT, source=GOT_GROUP),
    Kind("R_AARCH64_GOTREL64",            307, S + A - GOT,          WORD64,   source=GOT_DATA),
    Kind("R_AARCH64_GOTREL32",            308, S + A - GOT,          WORD32,   signed(32), source=GOT_DATA),
    Kind("R_AARCH64_GOTPCREL32",          315, ENTRY - P + A,        WORD32,   signed(32), SLOT, source=GOT_DATA),
    Kind("R_AARCH64_GOT_LD_PREL19",       309, ENTRY - P,            IMM19,    signed(21, 4), SLOT, source=GOT_CODE),
    Kind("R_AARCH64_LD64_GOTOFF_LO15",    310, ENTRY - GOT,          LO15_64,  unsigned(15, 8), SLOT, source=GOT_CODE),
    Kind("R_AARCH64_ADR_GOT_PAGE",        311, page(ENTRY) - page(P), ADRP21,  signed(33), RELAX, source=GOT_CODE),
    Kind("R_AARCH64_LD64_GOT_LO12_NC",    312, ENTRY,                LO12_64,  aligned(8), RELAX, source=GOT_CODE),
    Kind("R_AARCH64_LD64_GOTPAGE_LO15",   313, ENTRY - page(GOT),    LO15_64,  unsigned(15, 8), SLOT, source=GOT_CODE),
    *THREAD_LOCAL_KINDS,
    *REFUSED_KINDS,
]
MADE_KINDS = [
    # An ADRP and LDR that load an address from the GOT become an ADRP and ADD that compute it.
    Kind("GOT page, to page",             -1,  page(S + A) - page(P), ADRP21,  signed(33), source=OPTIMIZATION),
    Kind("GOT load, to add",              -1,  S + A,                AS_ADD,   source=OPTIMIZATION),
    # An ADRP and ADD become an ADR.
    Kind("page, to nop",                  -1,  field=NOP,            source=OPTIMIZATION),
    Kind("add, to adr",                   -1,  S + A - P,            AS_ADR,   signed(21), source=OPTIMIZATION),
    # What becomes of a weak symbol that nothing defines: a call of it does nothing, and its address is 0.
    Kind("call of nothing, to nop",       -1,  field=NOP,            source=CALL_AND_JUMP),
    Kind("page of nothing, to mov",       -1,  page(S + A),          AS_MOVZ,  unsigned(12), source=OPTIMIZATION),
    # A GOT entry that the linker fills with what the IFUNC resolver at S returns.
    Kind("IFUNC resolver",                -1,  S + A,                WORD64),
]
# fmt: on

KINDS = KindTable([*ELF_KINDS, *MACHO_KINDS, *COFF_KINDS, *MADE_KINDS])
"""Row 0 is R_AARCH64_NONE of ELF: it does nothing in any format."""

PAIRS = AddressPairs(KINDS)


def is_branch(graph: LinkGraph, rows: Rows) -> Near:
    """No kind leaves it open whether it is a branch: bool[rows], all false."""
    return np.zeros(len(rows), np.bool_)


def _code(*instructions: int) -> bytes:
    return b"".join(instruction.to_bytes(4, "little") for instruction in instructions)


BTI_C, ADRP_X16, BR_X16, B = 0xD503245F, 0x90000010, 0xD61F0200, 0x14000000
LDR_X16_X16, ADD_X16_X16 = 0xF9400210, 0x91000210

# A pointer to a function may be a pointer to its stub: the landing pad is for pages where BTI is enforced,
# and does nothing elsewhere. Veneers are reached by direct branches only, which need none.
STUB = Stub(
    _code(BTI_C, ADRP_X16, LDR_X16_X16, BR_X16),
    16,
    ((4, "R_AARCH64_ADR_PREL_PG_HI21", 0), (8, "R_AARCH64_LDST64_ABS_LO12_NC", 0)),
)
VENEER = Stub(
    _code(ADRP_X16, ADD_X16_X16, BR_X16),
    4,
    ((0, "R_AARCH64_ADR_PREL_PG_HI21", 0), (4, "R_AARCH64_ADD_ABS_LO12_NC", 0)),
)
# AAELF64 lets a linker change registers at B and BL, and says nothing of that at conditional branches.
STEP = Stub(_code(B), 4, ((0, "R_AARCH64_JUMP26", 0),), changes_registers=False)

REACH = (1 << 32) - (1 << 20)
"""Of ADRP, less what the addend and the rounding to pages may add."""


def _names(wanted: Callable[[Kind], bool]) -> tuple[str, ...]:
    return tuple(kind.name for kind in KINDS if kind.number >= 0 and not kind.reason and wanted(kind))


# Told by what a kind does, so that the kinds of every object format are among them.
BRANCHES = _names(lambda kind: kind.through == BRANCH and isinstance(kind.field, BitField))
REACHES = {
    name: min(-check.low, check.high)
    for name in _names(lambda kind: "P" in kind.value.letters)
    if 0 < -(check := KINDS[KINDS.by_name[name]].check).low < REACH
}
HOLDS_ADDRESS = _names(lambda kind: kind.field == WORD32 and kind.value.letters == {"S", "A"})
HOLDS_DISTANCE = _names(
    lambda kind: (
        kind.through == Through.DIRECT
        and "P" in kind.value.letters
        and (kind.field == WORD32 or fills(kind.field, ADR21, ADRP21))
    )
)

AARCH64 = Architecture(
    name="aarch64",
    elf_machine=183,
    kinds=KINDS,
    pointer="R_AARCH64_ABS64",
    resolver_pointer="IFUNC resolver",
    stub=STUB,
    reach=REACH,
    reaches=REACHES,
    absolute=dict.fromkeys((*HOLDS_ADDRESS, "R_AARCH64_MOVW_UABS_G1", "R_AARCH64_MOVW_SABS_G1"), 1 << 32),
    pc_relative=HOLDS_DISTANCE,
    is_branch=is_branch,
    relax=PAIRS.relax,
    shorten=PAIRS.shorten,
    veneers={name: VENEER if KINDS[KINDS.by_name[name]].field == IMM26 else STEP for name in BRANCHES},
    of_nothing={
        "R_AARCH64_CALL26": "call of nothing, to nop",
        "R_AARCH64_ADR_PREL_PG_HI21": "page of nothing, to mov",
        "R_AARCH64_ADR_PREL_PG_HI21_NC": "page of nothing, to mov",
    },
    # UDF #0: an instruction that is never defined.
    trap=0,
    large_section_flag=0,
    support=SUPPORT,
    thread_locals=THREAD_LOCALS,
)
