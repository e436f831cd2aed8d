"""AArch64: the relocations of thread-local storage, and what code sequences become in local-exec form.

A thread's block lies above the thread pointer, behind 16 bytes that belong to the C library. The usual
access is by TLS descriptor: `adrp x0; ldr x1, [x0]; add x0, x0; blr x1`, each instruction with a relocation
of its own. Where the block has one distance from the thread pointer it becomes `movz; movk; nop; nop`, and
an initial exec load, `adrp; ldr`, becomes `movz; movk`.

Source: AAELF64, "Relocations for thread-local storage": general dynamic, local dynamic, initial exec, local
exec and descriptors, in the order of their numbers; SYSVABI64 for the code sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jitlink.arches.aarch64_fields import (
    ADR21,
    ADRP21,
    IMM19,
    LO12,
    LO12_16,
    LO12_32,
    LO12_64,
    LO12_128,
    MOVW_G0,
    MOVW_G1,
    MOVW_G2,
    RD,
    signed_move,
)
from jitlink.arches.thread_locals import Codes, LoaderKinds, Relaxation, ThreadLocalRules, always, entry_words
from jitlink.fields import Field, bits
from jitlink.formulas import ANY_VALUE, GOT, TLS, TP, A, Access, Check, Kind, P, S, Value, page, signed, unsigned

SMOVW_G0, SMOVW_G1, SMOVW_G2 = map(signed_move, (MOVW_G0, MOVW_G1, MOVW_G2))
HI12 = bits((12, 12, 10), signed=False)
"""Bits 12 to 23 of a value, in an ADD whose immediate is shifted by 12."""
ALIGNED_8 = Check(0, 0, 8)

GENERAL, LOCAL, OFFSET = Access.GENERAL_DYNAMIC, Access.LOCAL_DYNAMIC, Access.BLOCK_OFFSET
INITIAL, EXEC = Access.INITIAL_EXEC, Access.LOCAL_EXEC
DESCRIPTOR, MARKER = Access.DESCRIPTOR, Access.DESCRIPTOR_CALL

GENERAL_DYNAMIC = "AAELF64, general dynamic TLS"
LOCAL_DYNAMIC = "AAELF64, local dynamic TLS"
INITIAL_EXEC = "AAELF64, initial exec TLS"
LOCAL_EXEC = "AAELF64, local exec TLS"
DESCRIPTORS = "AAELF64, TLS descriptors"


def _entry(what: str) -> Value:
    """The address of a GOT entry: by the time it is computed, the edge points there."""
    return Value(f"G({what})", frozenset("S"), lambda letters: letters["S"])


INDEX, MODULE, DISTANCE = _entry("GTLSIDX(S)"), _entry("GLDM(S)"), _entry("GTPREL(S)")
DESCRIBED = _entry("GTLSDESC(S)")
DTPREL = Value("DTPREL(S + A)", frozenset(("S", "A", "TLS")), (S + A - TLS).of)
TPREL = Value("TPREL(S + A)", frozenset(("S", "A", "TP")), (S + A - TP).of)


def _offsets(start: int, name: str, value: Value, access: Access, source: str) -> list[Kind]:
    """The kinds that hold an offset in three MOVs or two ADDs, or its low bits in a load or store."""
    offsets: list[tuple[str, Field, Check]] = [
        ("MOVW_{}_G2", SMOVW_G2, signed(49)),
        ("MOVW_{}_G1", SMOVW_G1, signed(33)),
        ("MOVW_{}_G1_NC", MOVW_G1, ANY_VALUE),
        ("MOVW_{}_G0", SMOVW_G0, signed(17)),
        ("MOVW_{}_G0_NC", MOVW_G0, ANY_VALUE),
        ("ADD_{}_HI12", HI12, unsigned(24)),
        ("ADD_{}_LO12", LO12, unsigned(12)),
        ("ADD_{}_LO12_NC", LO12, ANY_VALUE),
    ]
    for size, field in ((8, LO12), (16, LO12_16), (32, LO12_32), (64, LO12_64)):
        offsets += _low_bits(size, field)
    prefix, form = name.split()
    return [
        Kind(f"R_AARCH64_{prefix}_{text.format(form)}", start + row, value, field, check, source=source, access=access)
        for row, (text, field, check) in enumerate(offsets)
    ]


def _low_bits(size: int, field: Field) -> list[tuple[str, Field, Check]]:
    """The checked and the unchecked kind of a load or store of that many bits; both demand alignment."""
    align = size // 8
    unchecked = Check(0, 0, align) if align > 1 else ANY_VALUE
    return [(f"LDST{size}_{{}}_LO12", field, unsigned(12, align)), (f"LDST{size}_{{}}_LO12_NC", field, unchecked)]


# Loads and stores of 16 bytes came later, and have numbers at the end.
EXEC_128, DYNAMIC_128 = (
    [
        Kind(f"R_AARCH64_{prefix}_{text.format(form)}", number + row, value, field, check, source=source, access=access)
        for row, (text, field, check) in enumerate(_low_bits(128, LO12_128))
    ]
    for number, prefix, form, value, source, access in (
        (570, "TLSLE", "TPREL", TPREL, LOCAL_EXEC, EXEC),
        (572, "TLSLD", "DTPREL", DTPREL, LOCAL_DYNAMIC, OFFSET),
    )
)

# fmt: off
THREAD_LOCAL_KINDS = [
    Kind("R_AARCH64_TLSGD_ADR_PREL21",          512, INDEX - P,                ADR21,
         signed(21), access=GENERAL, source=GENERAL_DYNAMIC),
    Kind("R_AARCH64_TLSGD_ADR_PAGE21",          513, page(INDEX) - page(P),    ADRP21,
         signed(33), access=GENERAL, source=GENERAL_DYNAMIC),
    Kind("R_AARCH64_TLSGD_ADD_LO12_NC",         514, INDEX,                    LO12,
         access=GENERAL, source=GENERAL_DYNAMIC),
    Kind("R_AARCH64_TLSGD_MOVW_G1",             515, INDEX - GOT,              SMOVW_G1,
         signed(33), access=GENERAL, source=GENERAL_DYNAMIC),
    Kind("R_AARCH64_TLSGD_MOVW_G0_NC",          516, INDEX - GOT,              MOVW_G0,
         access=GENERAL, source=GENERAL_DYNAMIC),
    Kind("R_AARCH64_TLSLD_ADR_PREL21",          517, MODULE - P,               ADR21,
         signed(21), access=LOCAL, source=LOCAL_DYNAMIC),
    Kind("R_AARCH64_TLSLD_ADR_PAGE21",          518, page(MODULE) - page(P),   ADRP21,
         signed(33), access=LOCAL, source=LOCAL_DYNAMIC),
    Kind("R_AARCH64_TLSLD_ADD_LO12_NC",         519, MODULE,                   LO12,
         access=LOCAL, source=LOCAL_DYNAMIC),
    Kind("R_AARCH64_TLSLD_MOVW_G1",             520, MODULE - GOT,             SMOVW_G1,
         signed(33), access=LOCAL, source=LOCAL_DYNAMIC),
    Kind("R_AARCH64_TLSLD_MOVW_G0_NC",          521, MODULE - GOT,             MOVW_G0,
         access=LOCAL, source=LOCAL_DYNAMIC),
    Kind("R_AARCH64_TLSLD_LD_PREL19",           522, MODULE - P,               IMM19,
         signed(21, 4), access=LOCAL, source=LOCAL_DYNAMIC),
    *_offsets(523, "TLSLD DTPREL", DTPREL, OFFSET, LOCAL_DYNAMIC),
    Kind("R_AARCH64_TLSIE_MOVW_GOTTPREL_G1",    539, DISTANCE - GOT,           SMOVW_G1,
         signed(33), access=INITIAL, source=INITIAL_EXEC),
    Kind("R_AARCH64_TLSIE_MOVW_GOTTPREL_G0_NC", 540, DISTANCE - GOT,           MOVW_G0,
         access=INITIAL, source=INITIAL_EXEC),
    Kind("R_AARCH64_TLSIE_ADR_GOTTPREL_PAGE21", 541, page(DISTANCE) - page(P), ADRP21,
         signed(33), access=INITIAL, source=INITIAL_EXEC),
    Kind("R_AARCH64_TLSIE_LD64_GOTTPREL_LO12_NC",542, DISTANCE,                 LO12_64,
         ALIGNED_8, access=INITIAL, source=INITIAL_EXEC),
    Kind("R_AARCH64_TLSIE_LD_GOTTPREL_PREL19",  543, DISTANCE - P,             IMM19,
         signed(21, 4), access=INITIAL, source=INITIAL_EXEC),
    *_offsets(544, "TLSLE TPREL", TPREL, EXEC, LOCAL_EXEC),
    Kind("R_AARCH64_TLSDESC_LD_PREL19",         560, DESCRIBED - P,            IMM19,
         signed(21, 4), access=DESCRIPTOR, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_ADR_PREL21",        561, DESCRIBED - P,            ADR21,
         signed(21), access=DESCRIPTOR, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_ADR_PAGE21",        562, page(DESCRIBED) - page(P),ADRP21,
         signed(33), access=DESCRIPTOR, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_LD64_LO12",         563, DESCRIBED,                LO12_64,
         ALIGNED_8, access=DESCRIPTOR, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_ADD_LO12",          564, DESCRIBED,                LO12,
         access=DESCRIPTOR, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_OFF_G1",            565, DESCRIBED - GOT,          SMOVW_G1,
         signed(33), access=DESCRIPTOR, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_OFF_G0_NC",         566, DESCRIBED - GOT,          MOVW_G0,
         access=DESCRIPTOR, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_LDR",                567, access=MARKER, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_ADD",                568, access=MARKER, source=DESCRIPTORS),
    Kind("R_AARCH64_TLSDESC_CALL",               569, access=MARKER, source=DESCRIPTORS),
    *EXEC_128,
    *DYNAMIC_128,
    # The words of GOT entries.
    *entry_words(),
]
# fmt: on
"""The rows, for the table of the architecture (jitlink.arches.aarch64)."""

MOVZ_LSL_16, MOVK, NOP = 0xD2A00000, 0xF2800000, 0xD503201F
ANY_INSTRUCTION = bytes(4)


def _to_move(opcode: int, register: int | None = None) -> Callable[[Codes], Codes]:
    """Make another instruction with the same destination register, or with one that is given."""

    def rewrite(codes: Codes) -> Codes:
        kept = codes.view("<u4") & np.uint32(RD) if register is None else np.full((len(codes), 1), register, "<u4")
        return (kept | np.uint32(opcode)).astype("<u4").view(np.uint8)

    return rewrite


def _instruction(kind: str, rewrite: Callable[[Codes], Codes], becomes: str = "") -> Relaxation:
    """An instruction that its relocation alone tells."""
    return Relaxation(f"R_AARCH64_{kind}", 0, ANY_INSTRUCTION, ANY_INSTRUCTION, rewrite, becomes)


UPPER, LOWER = "R_AARCH64_TLSLE_MOVW_TPREL_G1", "R_AARCH64_TLSLE_MOVW_TPREL_G0_NC"
NOTHING = always(NOP.to_bytes(4, "little"))

THREAD_LOCALS = ThreadLocalRules(
    below=False,
    reserved=16,
    loader=LoaderKinds(module=1028, from_thread_pointer=1030, descriptor=1031),
    relaxations=(
        # What a descriptor's function returns is in x0, whatever registers the sequence has used.
        _instruction("TLSDESC_ADR_PAGE21", _to_move(MOVZ_LSL_16, 0), UPPER),
        _instruction("TLSDESC_LD64_LO12", _to_move(MOVK, 0), LOWER),
        _instruction("TLSDESC_ADD_LO12", NOTHING),
        _instruction("TLSDESC_CALL", NOTHING),
        _instruction("TLSIE_ADR_GOTTPREL_PAGE21", _to_move(MOVZ_LSL_16), UPPER),
        _instruction("TLSIE_LD64_GOTTPREL_LO12_NC", _to_move(MOVK), LOWER),
    ),
)
