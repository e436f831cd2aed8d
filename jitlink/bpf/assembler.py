"""The assembler: text in either syntax to the bytes of a program.

A line is matched against the templates of all forms in both syntaxes at once (template_tree.py). No
syntax need be chosen: nothing is written alike in both and means two things.

A label is a word with a colon, on a line of its own or in front of an instruction, and stands for
the distance to that place. `exit` as a target is the first exit of the program unless there is a
label of that name, as in the bpf_conformance suite. `.insn opcode, dst, src, offset, imm` writes a
slot field by field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jitlink.bpf.assembly_text import AssemblyError, Token, tokenize
from jitlink.bpf.instructions import ByteOrder, encode
from jitlink.bpf.isa import Form
from jitlink.bpf.template_tree import Statement, read_statement

_RANGES = {
    "opcode": (0, 255),
    "dst": (0, 15),
    "src": (0, 15),
    "offset": (-(1 << 15), (1 << 15) - 1),
    "imm": (-(1 << 31), (1 << 32) - 1),
    "next_imm": (-(1 << 31), (1 << 32) - 1),
    "imm64": (-(1 << 63), (1 << 64) - 1),
    "imm_high": (0, 0xFFFF),
    "imm_low": (0, 0xFFFF),
}
"""What an assembler accepts for each field; an immediate may be written signed or unsigned."""

Slot = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Assembly:
    """An assembled program.

    Attributes: code (its bytes), labels (the index of each, in slots), lines (for each slot, the
    number of its line in the text, from 1).
    """

    code: bytes
    labels: dict[str, int]
    lines: list[int]


@dataclass
class _Line:
    """A line of the text: its number, the labels on it, its instruction if any, and its index."""

    number: int
    labels: list[Token]
    tokens: list[Token]
    statement: Statement | None = None
    index: int = 0

    @property
    def form(self) -> Form | None:
        return self.statement.form if self.statement else None

    @property
    def slots(self) -> int:
        if self.statement is None:
            return 0
        return self.form.slots if self.form else 1


def assemble(text: str, *, symbols: Mapping[str, int] | None = None, byteorder: ByteOrder = "little") -> bytes:
    """Assemble a program and return its bytes; arguments and errors are those of read_assembly."""
    return read_assembly(text, symbols=symbols, byteorder=byteorder).code


def read_assembly(text: str, *, symbols: Mapping[str, int] | None = None, byteorder: ByteOrder = "little") -> Assembly:
    """Assemble a program.

    text: lines in LLVM or in mnemonic syntax, mixed at will. symbols: words that stand for numbers,
    such as the names of helpers. Raises AssemblyError, with line and column, at what is wrong first.
    """
    symbols = symbols or {}
    lines = list(_split(text))
    names = _label_names(lines)
    at = 0
    for line in lines:
        if line.tokens[0].sort != "end":
            line.statement = read_statement(line.tokens, line.number, names, symbols)
        line.index = at
        at += line.slots
    labels = {label.text: line.index for line in lines for label in line.labels}
    exits = (line.index for line in lines if line.form and line.form.name == "exit")
    targets = {"exit": next(exits, 0)} | labels
    slots = [slot for line in lines if line.statement for slot in _encode(line, line.statement, targets, symbols)]
    return Assembly(encode(slots, byteorder), labels, [line.number for line in lines for _ in range(line.slots)])


def _split(text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.splitlines(), 1):
        tokens = tokenize(line, number)
        labels = []
        while tokens[0].sort == "word" and tokens[1].text == ":":
            labels.append(tokens[0])
            del tokens[:2]
        if labels or tokens[0].sort != "end":
            yield _Line(number, labels, tokens)


def _label_names(lines: list[_Line]) -> set[str]:
    names: dict[str, int] = {}
    for line in lines:
        for label in line.labels:
            if label.text in names:
                fault = f"the label {label.text} is already on line {names[label.text]}"
                raise AssemblyError(fault, line.number, label.column)
            names[label.text] = line.number
    return set(names)


def _encode(
    line: _Line, statement: Statement, targets: Mapping[str, int], symbols: Mapping[str, int]
) -> Iterator[Slot]:
    form = statement.form
    values = {name: _value(name, line, statement, targets, symbols) for name in statement.operands}
    if form is not None and form.selector is not None:
        values[form.selector[0]] = form.selector[1]
    if "imm_high" in values:
        values["imm"] = values["imm_high"] << 16 | values["imm_low"]
    wide = values.get("imm64")
    if wide is not None:
        values["imm"], values["next_imm"] = wide & 0xFFFF_FFFF, wide >> 32
    opcode = form.opcode if form else values["opcode"]
    yield opcode, values.get("dst", 0), values.get("src", 0), values.get("offset", 0), _signed(values.get("imm", 0))
    if form is not None and form.slots == 2:
        yield 0, 0, 0, 0, _signed(values.get("next_imm", 0))


def _value(name: str, line: _Line, statement: Statement, targets: Mapping[str, int], symbols: Mapping[str, int]) -> int:
    operand, column = statement.operands[name], statement.tokens[name].column
    if isinstance(operand, int):
        value = operand
    elif operand.is_target and operand.text in targets:
        value = targets[operand.text] - line.index - 1
    elif not operand.is_target and operand.text in symbols:
        value = symbols[operand.text]
    else:
        what = "label" if operand.is_target else "symbol"
        raise AssemblyError(f"there is no {what} {operand.text}", line.number, column)
    low, high = _RANGES[name]
    if not low <= value <= high:
        raise AssemblyError(f"{value} does not fit: it must be {low} to {high}", line.number, column)
    return value


def _signed(value: int) -> int:
    """A 32-bit field as the signed number that the encoding holds."""
    return (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
