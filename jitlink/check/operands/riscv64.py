"""RISC-V: the base instructions with immediates, and the compressed ones, with their operands as LLVM has them.

Distances and offsets are in bytes; LUI and AUIPC hold 20 bits, unsigned. An operand of C.ADDI and its kin
that is read and written counts twice.
Source: The RISC-V Instruction Set Manual, Volume I; LLVM, RISCVInstrInfo.td and RISCVInstrInfoC.td.
"""

from __future__ import annotations

from jitlink.check.operands.encodings import R, encoding, find, imm, named
from jitlink.check.operands.instruction import Instruction

WORD, HALF = 4, 2
COMPRESSED = 3
"""Where both lowest bits are set, the instruction has four bytes."""
I = imm((20, 12, 0), signed=True)  # noqa: E741 - the manual's name of the format
S = imm((7, 5, 0), (25, 7, 5), signed=True)
B = imm((8, 4, 1), (25, 6, 5), (7, 1, 11), (31, 1, 12), signed=True)
U = imm((12, 20, 0))
J = imm((21, 10, 1), (20, 1, 11), (12, 8, 12), (31, 1, 20), signed=True)
SHAMT, SHAMT32, CSR, UIMM = imm((20, 6, 0)), imm((20, 5, 0)), imm((20, 12, 0)), imm((15, 5, 0))
PREDECESSOR, SUCCESSOR, ROUNDING = imm((24, 4, 0)), imm((20, 4, 0)), imm((12, 3, 0))

CI = imm((2, 5, 0), (12, 1, 5), signed=True)
CI_UNSIGNED = imm((2, 5, 0), (12, 1, 5))
CJ = imm((3, 3, 1), (11, 1, 4), (2, 1, 5), (7, 1, 6), (6, 1, 7), (9, 2, 8), (8, 1, 10), (12, 1, 11), signed=True)
CB = imm((3, 2, 1), (10, 2, 3), (2, 1, 5), (5, 2, 6), (12, 1, 8), signed=True)
LW, LD = imm((6, 1, 2), (10, 3, 3), (5, 1, 6)), imm((10, 3, 3), (5, 2, 6))
LWSP, LDSP = imm((4, 3, 2), (12, 1, 5), (2, 2, 6)), imm((5, 2, 3), (12, 1, 5), (2, 3, 6))
SWSP, SDSP = imm((9, 4, 2), (7, 2, 6)), imm((10, 3, 3), (7, 3, 6))
ADDI4SPN = imm((6, 1, 2), (5, 1, 3), (11, 2, 4), (7, 4, 6))
ADDI16SP = imm((6, 1, 4), (2, 1, 5), (5, 1, 6), (3, 2, 7), (12, 1, 9), signed=True)
C_LUI = imm((2, 5, 0), *((12, 1, bit) for bit in range(5, 20)))
"""Five bits and a sign, which fills up the twenty bits of LUI."""

# fmt: off
WORDS = [
    encoding("LUI",    ".... .... .... .... .... .... .011 0111", R, U),
    encoding("AUIPC",  ".... .... .... .... .... .... .001 0111", R, U),
    encoding("JAL",    ".... .... .... .... .... .... .110 1111", R, J),
    encoding("JALR",   ".... .... .... .... .000 .... .110 0111", R, R, I),
    encoding("BRANCH", ".... .... .... .... .... .... .110 0011", R, R, B),
    encoding("LOAD",   ".... .... .... .... .... .... .000 0011", R, R, I),
    encoding("STORE",  ".... .... .... .... .... .... .010 0011", R, R, S),
    encoding("FLOAD",  ".... .... .... .... .01. .... .000 0111", R, R, I),
    encoding("FSTORE", ".... .... .... .... .01. .... .010 0111", R, R, S),
    encoding("SLLI",   "0000 00.. .... .... .001 .... .001 0011", R, R, SHAMT),
    encoding("SRLI/SRAI", "0.00 00.. .... .... .101 .... .001 0011", R, R, SHAMT),
    encoding("SLLIW",  "0000 000. .... .... .001 .... .001 1011", R, R, SHAMT32),
    encoding("SRLIW/SRAIW", "0.00 000. .... .... .101 .... .001 1011", R, R, SHAMT32),
    encoding("OP-IMM", ".... .... .... .... .... .... .001 0011", R, R, I,
             excluding=[".... .... .... .... ..01 .... .001 0011"]),
    encoding("ADDIW",  ".... .... .... .... .000 .... .001 1011", R, R, I),
    encoding("OP",     "0.00 000. .... .... .... .... .011 .011", R, R, R),
    encoding("MUL/DIV", "0000 001. .... .... .... .... .011 .011", R, R, R),
    encoding("CSRRWI/CSRRSI/CSRRCI", ".... .... .... .... .1.. .... .111 0011", R, CSR, UIMM),
    encoding("CSRRW/CSRRS/CSRRC", ".... .... .... .... .0.. .... .111 0011", R, CSR, R,
             excluding=[".... .... .... .... .000 .... .111 0011"]),
    encoding("FENCE",  "0000 .... .... .... .000 .... .000 1111", PREDECESSOR, SUCCESSOR),
    encoding("ECALL/EBREAK", "0000 0000 000. 0000 0000 0000 0111 0011"),
]
HALVES = [
    encoding("C.ADDI4SPN", "000. .... .... ..00", R, R, ADDI4SPN, excluding=["0000 0000 000. ..00"]),
    encoding("C.FLD",   "001. .... .... ..00", R, R, LD),
    encoding("C.LW",    "010. .... .... ..00", R, R, LW),
    encoding("C.LD",    "011. .... .... ..00", R, R, LD),
    encoding("C.FSD",   "101. .... .... ..00", R, R, LD),
    encoding("C.SW",    "110. .... .... ..00", R, R, LW),
    encoding("C.SD",    "111. .... .... ..00", R, R, LD),
    encoding("C.NOP",   "0000 0000 0000 0001"),
    encoding("C.ADDI",  "000. .... .... ..01", R, R, CI),
    encoding("C.ADDIW", "001. .... .... ..01", R, R, CI),
    encoding("C.LI",    "010. .... .... ..01", R, CI),
    encoding("C.ADDI16SP", "011. 0001 0... ..01", R, R, ADDI16SP),
    encoding("C.LUI",   "011. .... .... ..01", R, C_LUI),
    encoding("C.SRLI/C.SRAI", "100. 0... .... ..01", R, R, CI_UNSIGNED),
    encoding("C.ANDI",  "100. 10.. .... ..01", R, R, CI),
    encoding("C.SUB/C.XOR/C.OR/C.AND/...", "100. 11.. .... ..01", R, R, R),
    encoding("C.J",     "101. .... .... ..01", CJ),
    encoding("C.BEQZ/C.BNEZ", "11.. .... .... ..01", R, CB),
    encoding("C.SLLI",  "000. .... .... ..10", R, R, CI_UNSIGNED),
    encoding("C.FLDSP", "001. .... .... ..10", R, R, LDSP),
    encoding("C.LWSP",  "010. .... .... ..10", R, R, LWSP),
    encoding("C.LDSP",  "011. .... .... ..10", R, R, LDSP),
    encoding("C.EBREAK", "1001 0000 0000 0010"),
    encoding("C.JR/C.JALR", "100. .... .000 0010", R),
    encoding("C.MV",    "1000 .... .... ..10", R, R),
    encoding("C.ADD",   "1001 .... .... ..10", R, R, R),
    encoding("C.FSDSP", "101. .... .... ..10", R, R, SDSP),
    encoding("C.SWSP",  "110. .... .... ..10", R, R, SWSP),
    encoding("C.SDSP",  "111. .... .... ..10", R, R, SDSP),
]
# fmt: on


def decode(code: bytes, address: int) -> Instruction | None:
    """Decode the instruction at the start of code; None for one that nobody knows."""
    size = WORD if code[:1] and code[0] & COMPRESSED == COMPRESSED else HALF
    if len(code) < size:
        return None
    word = int.from_bytes(code[:size], "little")
    return find(WORDS if size == WORD else HALVES, word, size) or named("riscv64", code[:size], address)
