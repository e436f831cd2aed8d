"""RISC-V, 64 bits: relocation kinds, the stub, and the relaxation of GOT loads.

Source: RISC-V ABIs Specification (the RISC-V ELF psABI), version 1.0 and the relocations that were
ratified since, chapters ELF Object Files (Relocations) and Linker Relaxation. The checks are those that
keep the value that the program sees equal to the value computed; the psABI names none.

An address takes two instructions here, and they are two relocations. How the parts of a pair find each
other is in riscv64_pairs; how code is made shorter, in riscv64_relaxation.

The rows stand in the order in which they are applied, which matters where several meet in one word: what
sets a word comes before what adds to it.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture, Stub
from jitlink.arches.riscv64_fields import (
    ADD8,
    ADD16,
    ADD32,
    ADD64,
    AUIPC_AS_LUI,
    B_TYPE,
    CB_TYPE,
    CI_TYPE,
    CJ_TYPE,
    I_TYPE,
    J_TYPE,
    LOAD_AS_ADDI,
    S_TYPE,
    SUB6,
    SUB8,
    SUB16,
    SUB32,
    SUB64,
    U_AND_I_TYPE,
    U_TYPE,
    ULEB128,
    WORD6,
    rounded,
)
from jitlink.arches.riscv64_pairs import OF_NOTHING, relax_got_loads, settle_pairs
from jitlink.arches.riscv64_relaxation import find_relaxations, prepare
from jitlink.arches.riscv64_support import SUPPORT
from jitlink.arches.riscv64_thread_locals import OF_UPPER, THREAD_LOCAL_KINDS, THREAD_LOCALS
from jitlink.columns import Rows
from jitlink.fields import WORD8, WORD16, WORD32, WORD64
from jitlink.formulas import GOT, A, G, Kind, KindTable, P, S, Through, either, signed
from jitlink.graph import LinkGraph

PSABI = "RISC-V ELF psABI, Relocations"
SLOT = Through.GOT_ENTRY
RELAX = Through.RELAXABLE_GOT_ENTRY
BRANCH = Through.BRANCH

DYNAMIC = "it belongs into executables and shared objects, not into relocatable ones"
RESERVED = "the psABI has withdrawn it; compile with a toolchain from after 2023"
VENDOR = "what it means is up to a vendor, and no vendor's relocations are linked"

# fmt: off
KINDS = KindTable([
    #    name                        number  value            field         check
    Kind("R_RISCV_NONE",             0),
    Kind("R_RISCV_32",               1,      S + A,           WORD32,       either(32), source=PSABI),
    Kind("R_RISCV_64",               2,      S + A,           WORD64,       source=PSABI),
    Kind("R_RISCV_RELATIVE",         3,      reason=DYNAMIC),
    Kind("R_RISCV_COPY",             4,      reason=DYNAMIC),
    Kind("R_RISCV_JUMP_SLOT",        5,      reason=DYNAMIC),
    Kind("R_RISCV_BRANCH",           16,     S + A - P,       B_TYPE,       signed(13, align=2), source=PSABI),
    Kind("R_RISCV_JAL",              17,     S + A - P,       J_TYPE,       signed(21, align=2), BRANCH, source=PSABI),
    Kind("R_RISCV_CALL",             18,     S + A - P,       U_AND_I_TYPE, rounded(32), BRANCH, source=PSABI),
    Kind("R_RISCV_CALL_PLT",         19,     S + A - P,       U_AND_I_TYPE, rounded(32), BRANCH, source=PSABI),
    Kind("R_RISCV_GOT_HI20",         20,     G + GOT + A - P, U_TYPE,       rounded(32), RELAX, source=PSABI),
    Kind("R_RISCV_PCREL_HI20",       23,     S + A - P,       U_TYPE,       rounded(32), source=PSABI),
    Kind("R_RISCV_PCREL_LO12_I",     24,     OF_UPPER,        I_TYPE,       source=PSABI),
    Kind("R_RISCV_PCREL_LO12_S",     25,     OF_UPPER,        S_TYPE,       source=PSABI),
    Kind("R_RISCV_HI20",             26,     S + A,           U_TYPE,       rounded(32), source=PSABI),
    Kind("R_RISCV_LO12_I",           27,     S + A,           I_TYPE,       source=PSABI),
    Kind("R_RISCV_LO12_S",           28,     S + A,           S_TYPE,       source=PSABI),
    Kind("R_RISCV_RVC_BRANCH",       44,     S + A - P,       CB_TYPE,      signed(9, align=2), source=PSABI),
    Kind("R_RISCV_RVC_JUMP",         45,     S + A - P,       CJ_TYPE,      signed(12, align=2), source=PSABI),
    # What follows marks code that may be made shorter: see riscv64_relaxation.
    Kind("R_RISCV_ALIGN",            43,     source=PSABI),
    Kind("R_RISCV_RELAX",            51,     source=PSABI),
    Kind("R_RISCV_32_PCREL",         57,     S + A - P,       WORD32,       signed(32), source=PSABI),
    Kind("R_RISCV_PLT32",            59,     S + A - P,       WORD32,       signed(32), BRANCH, source=PSABI),
    Kind("R_RISCV_GOT32_PCREL",      41,     G + GOT + A - P, WORD32,       signed(32), SLOT, source=PSABI),
    # Distances between labels, put together in one word. Only the whole distance has to fit.
    Kind("R_RISCV_SET6",             53,     S + A,           WORD6,        source=PSABI),
    Kind("R_RISCV_SET8",             54,     S + A,           WORD8,        source=PSABI),
    Kind("R_RISCV_SET16",            55,     S + A,           WORD16,       source=PSABI),
    Kind("R_RISCV_SET32",            56,     S + A,           WORD32,       source=PSABI),
    Kind("R_RISCV_ADD8",             33,     S + A,           ADD8,         source=PSABI),
    Kind("R_RISCV_ADD16",            34,     S + A,           ADD16,        source=PSABI),
    Kind("R_RISCV_ADD32",            35,     S + A,           ADD32,        source=PSABI),
    Kind("R_RISCV_ADD64",            36,     S + A,           ADD64,        source=PSABI),
    Kind("R_RISCV_SUB6",             52,     S + A,           SUB6,         source=PSABI),
    Kind("R_RISCV_SUB8",             37,     S + A,           SUB8,         source=PSABI),
    Kind("R_RISCV_SUB16",            38,     S + A,           SUB16,        source=PSABI),
    Kind("R_RISCV_SUB32",            39,     S + A,           SUB32,        source=PSABI),
    Kind("R_RISCV_SUB64",            40,     S + A,           SUB64,        source=PSABI),
    # The two are one: the second one's value is taken off the first one's addend (riscv64_pairs).
    Kind("R_RISCV_SET_ULEB128",      60,     S + A,           ULEB128,      source=PSABI),
    Kind("R_RISCV_SUB_ULEB128",      61,     S + A,           ULEB128,      source=PSABI),
    *THREAD_LOCAL_KINDS,
    Kind("R_RISCV_TLS_DTPMOD32",     6,      reason=DYNAMIC),
    Kind("R_RISCV_TLS_DTPMOD64",     7,      reason=DYNAMIC),
    Kind("R_RISCV_TLS_TPREL32",      10,     reason=DYNAMIC),
    Kind("R_RISCV_TLS_TPREL64",      11,     reason=DYNAMIC),
    Kind("R_RISCV_TLSDESC",          12,     reason=DYNAMIC),
    # What is left is not for relocatable objects, or not for everybody.
    Kind("R_RISCV_GNU_VTENTRY",      42,     reason=RESERVED),
    Kind("R_RISCV_RVC_LUI",          46,     reason=RESERVED),
    Kind("R_RISCV_GPREL_I",          47,     reason=RESERVED),
    Kind("R_RISCV_GPREL_S",          48,     reason=RESERVED),
    Kind("R_RISCV_TPREL_I",          49,     reason=RESERVED),
    Kind("R_RISCV_TPREL_S",          50,     reason=RESERVED),
    Kind("R_RISCV_IRELATIVE",        58,     reason=DYNAMIC),
    Kind("R_RISCV_VENDOR",           191,    reason=VENDOR),
    *(Kind(f"R_RISCV_CUSTOM{number}", number, reason=VENDOR) for number in range(192, 256)),
    # The lower parts of pairs, once they have the target and the addend of their upper part.
    Kind("PCREL_LO12_I, paired",     -1,     S + A - P,       I_TYPE),
    Kind("PCREL_LO12_S, paired",     -1,     S + A - P,       S_TYPE),
    # The load of a GOT entry, and what becomes of it when the address is computed instead.
    Kind("PCREL_LO12_I, ld to addi", -1,     OF_UPPER,        LOAD_AS_ADDI),
    Kind("PCREL_LO12_I, ld to addi, paired", -1, S + A - P,   LOAD_AS_ADDI),
    # The address 0 of a weak symbol that nothing defines is out of reach of auipc; lui reaches it.
    Kind(OF_NOTHING,                 -1,     S + A,           AUIPC_AS_LUI, rounded(32)),
    # A lui that fits the compressed form.
    Kind("HI20, c.lui",              -1,     S + A,           CI_TYPE,      rounded(18)),
    # A GOT entry that the linker fills with what the IFUNC resolver at S returns.
    Kind("IFUNC resolver",           -1,     S + A,           WORD64),
])
# fmt: on


def is_branch(graph: LinkGraph, rows: Rows) -> npt.NDArray[np.bool_]:
    """No kind leaves it open whether it is a call: bool[rows], all false."""
    return np.zeros(len(rows), np.bool_)


RISCV64 = Architecture(
    name="riscv64",
    elf_machine=243,
    kinds=KINDS,
    pointer="R_RISCV_64",
    resolver_pointer="IFUNC resolver",
    # auipc t3; ld t3; jr t3. The addend of the lower part makes up for its place, one instruction on.
    stub=Stub(
        struct.pack("<3I", 0x00000E17, 0x000E3E03, 0x000E0067),
        4,
        ((0, "R_RISCV_PCREL_HI20", 0), (4, "PCREL_LO12_I, paired", 4)),
    ),
    # Of auipc and its lower part, less what the addend and the rounding of the upper part may take.
    reach=(1 << 31) - (1 << 12),
    absolute={"R_RISCV_32": 1 << 32, "R_RISCV_HI20": (1 << 31) - 0x800},
    pc_relative=("R_RISCV_PCREL_HI20", "R_RISCV_32_PCREL"),
    is_branch=is_branch,
    relax=relax_got_loads,
    # An instruction of two zero bytes is never defined.
    trap=0,
    large_section_flag=0,
    support=SUPPORT,
    thread_locals=THREAD_LOCALS,
    # A jal that was written as such, to a function outside: calls reach further.
    reaches={"R_RISCV_JAL": 1 << 20},
    of_nothing={"R_RISCV_PCREL_HI20": OF_NOTHING},
    addressed_branches=("R_RISCV_CALL", "R_RISCV_CALL_PLT", "R_RISCV_JAL"),
    prepare=prepare,
    find_relaxations=find_relaxations,
    settle_pairs=settle_pairs,
)
