"""AAELF64's relocation tables once more, transcribed for the tests and computed with Python's integers.

A row says what AAELF64 (2024Q3, "Relocation") says of a relocation: the operation, the interval that the
result is checked against, the alignment that it must have, and the instruction that the relocation is for,
with what its immediate must be. Immediates are decoded here from the encodings of the Arm ARM (DDI 0487,
C6.2), and not by the linker's own fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

WORD = 1 << 32


def low(value: int, bits: int) -> int:
    """The lowest bits of a value."""
    return value & (1 << bits) - 1


def sign_extended(value: int, bits: int) -> int:
    """A field of some bits as two's complement."""
    return low(value, bits) - (1 << bits if value >> bits - 1 & 1 else 0)


def page(address: int) -> int:
    """Page(expr): the 4 KiB page of an address."""
    return address & ~0xFFF


# Decoders: what the immediate of an instruction stands for.


def adr(word: int) -> int:
    return sign_extended((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)


def adrp(word: int) -> int:
    return adr(word) << 12


def imm26(word: int) -> int:
    return sign_extended(word, 26) << 2


def imm19(word: int) -> int:
    return sign_extended(word >> 5, 19) << 2


def imm14(word: int) -> int:
    return sign_extended(word >> 5, 14) << 2


def offset12(scale: int) -> Callable[[int], int]:
    """The unsigned offset of a load or store of 1 << scale bytes; that of an ADD for scale 0."""
    return lambda word: (word >> 10 & 0xFFF) << scale


def moved(word: int) -> int:
    """What a MOVZ or MOVN leaves in its register; what a MOVK puts in."""
    shift, value = 16 * (word >> 21 & 3), word >> 5 & 0xFFFF
    return ~(value << shift) if word >> 29 & 3 == 0 else value << shift


# Instructions, each with immediates of all ones, so that a bit that is left standing is seen.

TBZ, B_EQ, B, BL = 0x3607FFE3, 0x54FFFFE0, 0x17FFFFFF, 0x97FFFFFF
ADR, ADRP, ADD = 0x70FFFFE5, 0xF0FFFFE5, 0x913FFCA5
LDR_LITERAL = 0x58FFFFE7
LDRB, LDRH, LDR_W, LDR_X, LDR_Q = 0x397FFCA5, 0x795FFCA5, 0xB95FFCA5, 0xF95FFCA5, 0x3DDFFCA5
MOVZ, MOVN, MOVK = 0xD29FFFE9, 0x929FFFE9, 0xF29FFFE9


@dataclass(frozen=True)
class Letters:
    """What the operations of AAELF64 are made of; slot is G(GDAT(S))."""

    S: int
    A: int
    P: int
    GOT: int
    slot: int


Operation = Callable[[Letters], int]
Interval = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """One relocation.

    Attributes: name; number; operation; interval (half open; None where there is no check); align (of the
    result); instruction (before), or None for data of size bytes; decode and expected (the immediate, and
    what it must be for a result).
    """

    name: str
    number: int
    operation: Operation
    interval: Interval | None = None
    align: int = 1
    instruction: int | None = None
    decode: Callable[[int], int] = lambda word: word
    expected: Callable[[int], int] = lambda value: value
    size: int = 4
    made_for_got: bool = field(default=False)


def signed(bits: int) -> Interval:
    return -(1 << bits - 1), 1 << bits - 1


def both(bits: int) -> Interval:
    return -(1 << bits - 1), 1 << bits


def absolute(v: Letters) -> int:
    return v.S + v.A


def relative(v: Letters) -> int:
    return v.S + v.A - v.P


def page_relative(v: Letters) -> int:
    return page(v.S + v.A) - page(v.P)


def data(name: str, number: int, operation: Operation, size: int, interval: Interval | None = None) -> Row:
    return Row(f"R_AARCH64_{name}", number, operation, interval, size=size, expected=lambda value: low(value, 8 * size))


def pages(name: str, number: int, operation: Operation, interval: Interval | None, *, got: bool = False) -> Row:
    return Row(
        f"R_AARCH64_{name}",
        number,
        operation,
        interval,
        1,
        ADRP,
        adrp,
        lambda value: sign_extended(value >> 12, 21) << 12,
        made_for_got=got,
    )


def offset(name: str, number: int, operation: Operation, scale: int, instruction: int, *, got: bool = False) -> Row:
    name = f"R_AARCH64_{name}"
    expected = lambda value: low(value, 12)  # noqa: E731
    return Row(name, number, operation, None, 1 << scale, instruction, offset12(scale), expected, made_for_got=got)


def branch(name: str, number: int, bits: int, instruction: int, decode: Callable[[int], int]) -> Row:
    return Row(f"R_AARCH64_{name}", number, relative, signed(bits), 4, instruction, decode)


def group(name: str, first: int, operation: Operation, *, unsigned: bool = False, got: bool = False) -> list[Row]:
    """G0, G0_NC, G1, ... G3 of a group: checked ones for MOVZ and MOVN, the others for MOVK."""
    rows = []
    for number in range(7):
        part, unchecked = divmod(number, 2)
        bits = 16 * (part + 1)
        checked = unchecked == 0 and part < 3
        limits = (0, 1 << bits) if unsigned else (-(1 << bits), 1 << bits)
        shift = 16 * part

        def kept(value: int, shift: int = shift) -> int:
            return (value >> shift & 0xFFFF) << shift

        def signed_part(value: int, kept: Callable[[int], int] = kept) -> int:
            return ~kept(~value) if value < 0 else kept(value)

        rows.append(
            Row(
                f"R_AARCH64_MOVW_{name}_G{part}{'_NC' * unchecked}",
                first + number,
                operation,
                limits if checked else None,
                1,
                (MOVK if unchecked else MOVZ) | part << 21,
                moved,
                kept if unsigned or unchecked else signed_part,
                made_for_got=got,
            )
        )
    return rows


SABS = [
    Row(row.name.replace("PREL", "SABS"), number, absolute, row.interval, 1, row.instruction, moved, row.expected)
    for number, row in zip((270, 271, 272), group("PREL", 287, relative)[::2], strict=False)
]
ROWS = [
    data("ABS64", 257, absolute, 8),
    data("ABS32", 258, absolute, 4, both(32)),
    data("ABS16", 259, absolute, 2, both(16)),
    data("PREL64", 260, relative, 8),
    data("PREL32", 261, relative, 4, both(32)),
    data("PREL16", 262, relative, 2, both(16)),
    data("PLT32", 314, relative, 4, signed(32)),
    *group("UABS", 263, absolute, unsigned=True),
    *SABS,
    Row("R_AARCH64_LD_PREL_LO19", 273, relative, signed(21), 4, LDR_LITERAL, imm19),
    Row("R_AARCH64_ADR_PREL_LO21", 274, relative, signed(21), 1, ADR, adr),
    pages("ADR_PREL_PG_HI21", 275, page_relative, signed(33)),
    pages("ADR_PREL_PG_HI21_NC", 276, page_relative, None),
    offset("ADD_ABS_LO12_NC", 277, absolute, 0, ADD),
    offset("LDST8_ABS_LO12_NC", 278, absolute, 0, LDRB),
    offset("LDST16_ABS_LO12_NC", 284, absolute, 1, LDRH),
    offset("LDST32_ABS_LO12_NC", 285, absolute, 2, LDR_W),
    offset("LDST64_ABS_LO12_NC", 286, absolute, 3, LDR_X),
    offset("LDST128_ABS_LO12_NC", 299, absolute, 4, LDR_Q),
    branch("TSTBR14", 279, 16, TBZ, imm14),
    branch("CONDBR19", 280, 21, B_EQ, imm19),
    branch("JUMP26", 282, 28, B, imm26),
    branch("CALL26", 283, 28, BL, imm26),
    *group("PREL", 287, relative),
    *group("GOTOFF", 300, lambda v: v.slot - v.GOT, got=True),
    data("GOTREL64", 307, lambda v: v.S + v.A - v.GOT, 8),
    data("GOTREL32", 308, lambda v: v.S + v.A - v.GOT, 4, signed(32)),
    Row(
        "R_AARCH64_GOTPCREL32",
        315,
        lambda v: v.slot - v.P + v.A,
        signed(32),
        expected=lambda value: low(value, 32),
        made_for_got=True,
    ),
    Row("R_AARCH64_GOT_LD_PREL19", 309, lambda v: v.slot - v.P, signed(21), 4, LDR_LITERAL, imm19, made_for_got=True),
    Row(
        "R_AARCH64_LD64_GOTOFF_LO15",
        310,
        lambda v: v.slot - v.GOT,
        (0, 1 << 15),
        8,
        LDR_X | 0xFFF << 10,
        offset12(3),
        made_for_got=True,
    ),
    pages("ADR_GOT_PAGE", 311, lambda v: page(v.slot) - page(v.P), signed(33), got=True),
    offset("LD64_GOT_LO12_NC", 312, lambda v: v.slot, 3, LDR_X, got=True),
    Row(
        "R_AARCH64_LD64_GOTPAGE_LO15",
        313,
        lambda v: v.slot - page(v.GOT),
        (0, 1 << 15),
        8,
        LDR_X | 0xFFF << 10,
        offset12(3),
        made_for_got=True,
    ),
]
