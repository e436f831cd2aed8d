"""The templates of all forms as one tree, and reading a line by walking down it.

Each node knows which literal tokens and which sorts of operands can come next. The leaf names the
form. Where a token fits a literal it is the literal; otherwise the sort of the token decides.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from jitlink.bpf.assembly_text import AssemblyError, Token, tokenize
from jitlink.bpf.isa import FORMS, REGISTERS, Form
from jitlink.bpf.syntax import RAW_DIRECTIVE, RAW_FIELDS, SLOT, templates

SHOWN_AT_MOST = 8
"""How many ways to go on an error lists."""


class Reference(NamedTuple):
    """A word that stands for a number: a label, whose distance is meant, or a symbol."""

    text: str
    is_target: bool


Operand = int | Reference

_SORTS = {
    "r": "r",
    "%r": "r",
    "w": "w",
    "number": "number",
    "hex": "number",
    "to": "target",
    "spaced": "displacement",
    "tight": "displacement",
}
"""From the sort of a slot in a template to the sort of operand that is read there."""

_DESCRIPTIONS = {
    "r": "a register r0 to r10",
    "w": "a register w0 to w10",
    "number": "a number",
    "target": "a label or a distance",
    "displacement": "a displacement",
}


@dataclass
class Node:
    """A place in a line.

    Attributes: literals, operands (what can come next, by text and by sort); fields, form (where the
    line can end here: the field of each operand, and the form, which is None for the raw directive).
    """

    literals: dict[str, Node] = field(default_factory=dict)
    operands: dict[str, Node] = field(default_factory=dict)
    fields: tuple[str, ...] | None = None
    form: Form | None = None

    def expected(self) -> str:
        """What can come next, in words."""
        ways = [f"'{text}'" for text in self.literals]
        ways += [_DESCRIPTIONS[sort] for sort in self.operands]
        if self.fields is not None:
            ways.append("the end of the line")
        if len(ways) > SHOWN_AT_MOST:
            return "an instruction" if self is template_tree() else f"{', '.join(ways[:SHOWN_AT_MOST])} or the like"
        return " or ".join(ways)


@dataclass(frozen=True)
class Statement:
    """An instruction as it was read.

    Attributes: form (None for the raw directive); operands, tokens (for each field its operand, and
    the token where it began).
    """

    form: Form | None
    operands: dict[str, Operand]
    tokens: dict[str, Token]


@cache
def template_tree() -> Node:
    """The tree of all templates in both syntaxes."""
    root = Node()
    for number, form in enumerate(FORMS):
        if number:
            for template in (*templates(number, "llvm"), *templates(number, "mnemonic")):
                _plant(root, template, form)
    _plant(root, f"{RAW_DIRECTIVE} " + ", ".join(f"{{number:{field}}}" for field in RAW_FIELDS), None)
    return root


def read_statement(tokens: list[Token], line: int, labels: Container[str], symbols: Container[str]) -> Statement:
    """Read the tokens of one instruction, which end with the end of the line.

    labels, symbols: the words that stand for targets and for numbers. Raises AssemblyError.
    """
    node, values, at = template_tree(), list[tuple[Token, Operand]](), 0
    while True:
        if "displacement" in node.operands:
            token = tokens[at]
            at, distance = _displacement(tokens, at, line)
            values.append((token, distance))
            node = node.operands["displacement"]
            continue
        token, sort = tokens[at], _operand_sort(tokens, at, node, labels, symbols)
        if sort == "literal":
            node, at = node.literals[token.text], at + 1
        elif sort:
            at, value = _operand(tokens, at, sort, line)
            values.append((token, value))
            node = node.operands[sort]
        elif token.sort == "end" and node.fields is not None:
            return _statement(node.form, node.fields, values, line)
        else:
            raise AssemblyError(f"expected {node.expected()}, found {token}", line, token.column)


def _plant(root: Node, template: str, form: Form | None) -> None:
    node, fields = root, []
    for token in tokenize(template, 0)[:-1]:
        if token.sort == "slot":
            found = SLOT.fullmatch(token.text)
            assert found
            fields.append(found[2])
            node = node.operands.setdefault(_SORTS[found[1]], Node())
        else:
            node = node.literals.setdefault(token.text, Node())
    # Where two forms are written alike the first one planted is meant.
    if node.fields is None:
        node.form, node.fields = form, tuple(fields)


def _operand_sort(
    tokens: list[Token], at: int, node: Node, labels: Container[str], symbols: Container[str]
) -> str | None:
    """How to go on from a node at a token: "literal", a sort of operand, or None."""
    token = tokens[at]
    signs_number = token.text in ("+", "-") and tokens[at + 1].sort == "number"
    if token.text in node.literals and not (signs_number and ("number" in node.operands or "target" in node.operands)):
        return "literal"
    if token.sort == "register":
        letter = token.text.lstrip("%")[0]
        return letter if letter in node.operands else None
    if token.sort == "number" or signs_number:
        return next((sort for sort in ("number", "target") if sort in node.operands), None)
    if token.sort == "word":
        is_symbol = token.text in symbols and token.text not in labels
        order = ("number", "target") if is_symbol else ("target", "number")
        return next((sort for sort in order if sort in node.operands), None)
    return None


def _operand(tokens: list[Token], at: int, sort: str, line: int) -> tuple[int, Operand]:
    token = tokens[at]
    if sort in ("r", "w"):
        number = int(token.text.lstrip("%")[1:])
        if number >= REGISTERS:
            fault = f"{token.text} is no register: there are {sort}0 to {sort}{REGISTERS - 1}"
            raise AssemblyError(fault, line, token.column)
        return at + 1, number
    if token.sort == "word":
        return at + 1, Reference(token.text, sort == "target")
    return _signed_number(tokens, at)


def _displacement(tokens: list[Token], at: int, line: int) -> tuple[int, int]:
    sign = tokens[at].text
    if sign not in ("+", "-"):
        return at, 0
    # Compilers before LLVM 10 write `r10 + -8`.
    signed_twice = sign == "+" and tokens[at + 1].text == "-"
    if tokens[at + 1 + signed_twice].sort != "number":
        raise AssemblyError(f"expected a number, found {tokens[at + 1]}", line, tokens[at + 1].column)
    return _signed_number(tokens, at + signed_twice)


def _signed_number(tokens: list[Token], at: int) -> tuple[int, int]:
    sign = {"+": 1, "-": -1}.get(tokens[at].text)
    if sign is not None:
        at += 1
    text = tokens[at].text
    value = int(text, 16) if text[:2] in ("0x", "0X") else _decimal(text)
    return at + 1, (sign or 1) * value


def _decimal(digits: str) -> int:
    # No field holds more than 20 digits; int() refuses thousands of them with an error of its own.
    return int(digits[-30:]) if len(digits) <= 30 else 10**30


def _statement(form: Form | None, fields: tuple[str, ...], values: list[tuple[Token, Operand]], line: int) -> Statement:
    operands: dict[str, Operand] = {}
    tokens: dict[str, Token] = {}
    for name, (token, value) in zip(fields, values, strict=True):
        if operands.setdefault(name, value) != value:
            raise AssemblyError(f"expected {tokens[name]} again, found {token}", line, token.column)
        if name == "r0" and value != 0:
            raise AssemblyError(f"expected register 0, found {token}", line, token.column)
        tokens.setdefault(name, token)
    operands.pop("r0", None)
    return Statement(form, operands, tokens)
