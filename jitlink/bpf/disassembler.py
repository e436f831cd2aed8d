"""The disassembler: a program as text in either syntax.

The text is what the assembler reads, and gives the same bytes again, whatever the bytes are: a slot
that no form describes, a reserved field that is not zero, half a wide constant are written field by
field with `.insn`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import FIELDS, SELECTS, USES, WIDE, ByteOrder, Instructions, decode
from jitlink.bpf.isa import REGISTERS
from jitlink.bpf.syntax import RAW_DIRECTIVE, RAW_FIELDS, SLOT, Syntax, templates

COMMENT_COLUMN = 40
"""Where comments begin, unless an instruction is longer."""


def disassemble(
    program: bytes | bytearray | memoryview | Instructions,
    syntax: Syntax = "llvm",
    *,
    byteorder: ByteOrder = "little",
    labels: Mapping[int, str] | None = None,
    comments: Callable[[int], str | None] | None = None,
) -> str:
    """Write a program as assembly, one instruction a line.

    program: its bytes, or decoded; byteorder: of the bytes. labels: names for indices, written in
    front of the instruction and used by jumps to it. comments: a comment for an instruction by its
    index, or None; of its lines each is written behind a `#`. Raises MalformedInput when the bytes
    are not whole slots.
    """
    code = program if isinstance(program, Instructions) else decode(program, byteorder)
    names = labels or {}
    rows: list[str] = []
    for index, text in instruction_texts(code, syntax, names):
        if index in names:
            rows.append(f"{names[index]}:")
        rows.append(_commented(f"    {text}" if names else text, comments(index) if comments else None))
    if len(code) in names:
        rows.append(f"{names[len(code)]}:")
    return "".join(f"{row}\n" for row in rows)


def instruction_texts(
    code: Instructions, syntax: Syntax = "llvm", labels: Mapping[int, str] | None = None
) -> Iterator[tuple[int, str]]:
    """Write each instruction of a program: its index and its text. A wide constant is one line."""
    described = _described(code).tolist()
    second = code.is_second.tolist()
    for index in range(len(code)):
        if second[index] and described[index - 1]:
            continue
        yield index, _text(code, index, syntax, labels or {}) if described[index] else _raw(code, index)


def _described(code: Instructions) -> npt.NDArray[np.bool_]:
    """Mark the instructions that their form describes wholly: no field holds more than it may."""
    described: npt.NDArray[np.bool_] = code.form != 0
    for field in FIELDS:
        value = code.field(field)
        described &= USES[field][code.form] | SELECTS[field][code.form] | (value == 0)
        if field in ("dst", "src"):
            described &= ~USES[field][code.form] | (value < REGISTERS)
    wide = code.opcode == WIDE
    blank = (code.opcode | code.dst | code.src | code.offset) == 0
    # The slot that follows a wide constant belongs to it: its fields are as bad as its own.
    next_blank = np.concatenate((blank[1:] & code.is_second[1:], [False]))
    next_unused = np.concatenate((code.imm[1:] == 0, [False]))
    whole: npt.NDArray[np.bool_] = ~wide | next_blank & (USES["next_imm"][code.form] | next_unused)
    return described & whole


def _text(code: Instructions, index: int, syntax: Syntax, labels: Mapping[int, str]) -> str:
    template = templates(int(code.form[index]), syntax)[0]

    def operand(slot: re.Match[str]) -> str:
        sort, field = slot[1], slot[2]
        value = _value(code, index, field)
        match sort:
            case "r" | "w" | "%r":
                return f"{sort}{value}"
            case "hex":
                return f"{value & 0xFFFF_FFFF_FFFF_FFFF:#x}"
            case "to":
                return labels.get(index + 1 + value, f"{value:+d}")
            case "spaced":
                return f" {'-' if value < 0 else '+'} {abs(value)}"
            case "tight":
                return f"{value:+d}" if value else ""
            case _:
                return str(value)

    return SLOT.sub(operand, template)


def _value(code: Instructions, index: int, field: str) -> int:
    match field:
        case "r0":
            return 0
        case "imm64":
            return int(code.constant.view(np.int64)[index])
        case "next_imm":
            return int(code.imm[index + 1])
        case "imm_high":
            return int(code.imm[index]) >> 16 & 0xFFFF
        case "imm_low":
            return int(code.imm[index]) & 0xFFFF
        case _:
            return int(code.field(field)[index])


def _raw(code: Instructions, index: int) -> str:
    opcode, *rest = (int(code.field(field)[index]) for field in RAW_FIELDS)
    return f"{RAW_DIRECTIVE} {opcode:#04x}, {', '.join(map(str, rest))}"


def _commented(text: str, comment: str | None) -> str:
    if not comment:
        return text
    first, *more = comment.splitlines()
    rows = [f"{text:<{COMMENT_COLUMN}} # {first}", *(f"{'':<{COMMENT_COLUMN}} # {line}" for line in more)]
    return "\n".join(rows)
