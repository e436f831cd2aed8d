"""AArch64: the instructions that hold addresses, distances and offsets, and their operands as LLVM has them.

Offsets of loads and stores with an unsigned immediate are counted in units of the access, branches and
literals in instructions, ADRP in pages. The bit of TBZ is one operand, of its two parts.
Source: Arm Architecture Reference Manual, C4.1; LLVM, AArch64InstrFormats.td.
"""

from __future__ import annotations

from jitlink.check.operands.encodings import R, encoding, find, imm, named
from jitlink.check.operands.instruction import Instruction

SIZE = 4
IMM12, IMM9, IMM7 = imm((10, 12, 0)), imm((12, 9, 0), signed=True), imm((15, 7, 0), signed=True)
IMM16, IMM19, IMM26 = imm((5, 16, 0)), imm((5, 19, 0), signed=True), imm((0, 26, 0), signed=True)
IMM14, BIT = imm((5, 14, 0), signed=True), imm((19, 5, 0), (31, 1, 5))
BIT32 = imm((19, 5, 0))
ADR = imm((5, 19, 2), (29, 2, 0), signed=True)
CONDITION, SHIFT12, SHIFT16 = imm((0, 4, 0)), imm((22, 1, 0)), imm((21, 2, 4))
SHIFT, EXTEND_SHIFT = imm((10, 6, 0), (22, 2, 6)), imm((10, 3, 0), (13, 3, 3))
TWELVE = imm((22, 1, 2), (22, 1, 3))
"""The shift of an ADD: 0 or 12."""

# fmt: off
TABLE = [
    # Data processing, immediate.
    encoding("ADR",     "0..1 0000 .... .... .... .... .... ....", R, ADR),
    encoding("ADRP",    "1..1 0000 .... .... .... .... .... ....", R, ADR),
    encoding("ADD/SUB", "...1 0001 0... .... .... .... .... ....", R, R, IMM12, TWELVE),
    encoding("MOVN",    ".001 0010 1... .... .... .... .... ....", R, IMM16, SHIFT16),
    encoding("MOVZ",    ".101 0010 1... .... .... .... .... ....", R, IMM16, SHIFT16),
    encoding("MOVK",    ".111 0010 1... .... .... .... .... ....", R, R, IMM16, SHIFT16),
    encoding("AND/ORR/EOR/ANDS", "...1 0010 0... .... .... .... .... ....", R, R, imm((10, 13, 0))),
    encoding("BFM",     ".011 0011 0... .... .... .... .... ....", R, R, R, imm((16, 6, 0)), imm((10, 6, 0))),
    encoding("SBFM",    ".001 0011 0... .... .... .... .... ....", R, R, imm((16, 6, 0)), imm((10, 6, 0))),
    encoding("UBFM",    ".101 0011 0... .... .... .... .... ....", R, R, imm((16, 6, 0)), imm((10, 6, 0))),
    # Branches.
    encoding("B",       "0001 01.. .... .... .... .... .... ....", IMM26),
    encoding("BL",      "1001 01.. .... .... .... .... .... ....", IMM26),
    encoding("B.cond",  "0101 0100 .... .... .... .... ...0 ....", CONDITION, IMM19),
    encoding("CBZ",     ".011 0100 .... .... .... .... .... ....", R, IMM19),
    encoding("CBNZ",    ".011 0101 .... .... .... .... .... ....", R, IMM19),
    encoding("TBZ/TBNZ W", "0011 011. .... .... .... .... .... ....", R, BIT32, IMM14),
    encoding("TBZ/TBNZ X", "1011 011. .... .... .... .... .... ....", R, BIT, IMM14),
    encoding("BR/BLR/RET", "1101 0110 0..1 1111 0000 00.. ...0 0000", R),
    encoding("SVC/HVC/SMC/BRK/HLT", "1101 0100 ..1. .... .... .... ...0 00..", IMM16),
    encoding("SVC/HVC/SMC", "1101 0100 000. .... .... .... ...0 00..", IMM16),
    encoding("NOP",     "1101 0101 0000 0011 0010 0000 0001 1111"),
    encoding("HINT",    "1101 0101 0000 0011 0010 .... ...1 1111", imm((5, 7, 0))),
    # Loads and stores.
    encoding("LDR literal, LDRSW, PRFM", "..01 1.00 .... .... .... .... .... ....", R, IMM19,
             excluding=["1101 1000 .... .... .... .... .... ...."]),
    encoding("PRFM literal", "1101 1000 .... .... .... .... .... ....", imm((0, 5, 0)), IMM19),
    encoding("PRFM",    "1111 1001 10.. .... .... .... .... ....", imm((0, 5, 0)), R, IMM12),
    encoding("LDR/STR unsigned", "..11 1.01 .... .... .... .... .... ....", R, R, IMM12),
    encoding("PRFUM",   "1111 1000 100. .... .... 00.. .... ....", imm((0, 5, 0)), R, IMM9),
    encoding("LDUR/STUR", "..11 1.00 ..0. .... .... 00.. .... ....", R, R, IMM9),
    encoding("LDTR/STTR", "..11 1000 ..0. .... .... 10.. .... ....", R, R, IMM9),
    encoding("LDR/STR post", "..11 1.00 ..0. .... .... 01.. .... ....", R, R, R, IMM9),
    encoding("LDR/STR pre", "..11 1.00 ..0. .... .... 11.. .... ....", R, R, R, IMM9),
    encoding("LDR/STR register", "..11 1.00 ..1. .... .... 10.. .... ....", R, R, R, imm((15, 1, 0)), imm((12, 1, 0))),
    encoding("LDP/STP offset", "..10 1.01 0... .... .... .... .... ....", R, R, R, IMM7),
    encoding("LDP/STP post", "..10 1.00 1... .... .... .... .... ....", R, R, R, R, IMM7),
    encoding("LDP/STP pre", "..10 1.01 1... .... .... .... .... ....", R, R, R, R, IMM7),
    # Data processing, registers.
    encoding("ADD/SUB shifted", "...0 1011 ..0. .... .... .... .... ....", R, R, R, SHIFT),
    encoding("AND/ORR/... shifted", "...0 1010 .... .... .... .... .... ....", R, R, R, SHIFT),
    encoding("ADD/SUB extended", "...0 1011 001. .... .... .... .... ....", R, R, R, EXTEND_SHIFT),
]
# fmt: on


def decode(code: bytes, address: int) -> Instruction | None:
    """Decode the instruction at the start of code; None for one that nobody knows."""
    if len(code) < SIZE:
        return None
    return find(TABLE, int.from_bytes(code[:SIZE], "little"), SIZE) or named("aarch64", code[:SIZE], address)
