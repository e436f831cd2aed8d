"""What arithmetic and branches do, as one Python expression each.

The expressions say what RFC 9669 sections 4.1 and 4.3 say, over dst and src as unsigned numbers of
the instruction's width. Python integers are unbounded, so a result that leaves the width is cut to
it. A signed reading of x is `(x ^ sign) - sign`, where sign is the highest bit of the width, and
two numbers compare as signed when `x ^ sign` and `y ^ sign` compare as unsigned.

From an expression and a form the interpreter makes a *maker*: a function that takes the operands of
one instruction and returns a closure over them. The closure takes the registers, carries out the
instruction and returns the index of the next one. A maker is compiled once for its form, when the
first program needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

from jitlink.bpf.isa import FORMS, Family, Form

Step = Callable[[list[int]], int]
"""A closure that carries out one instruction on the registers and returns the index of the next."""

# fmt: off
VALUES = {  # operation: the new value of dst
    "add":     "dst + src",
    "sub":     "dst - src",
    "mul":     "dst * src",
    "div":     "dst // src if src else 0",
    "sdiv":    "quotient((dst ^ sign) - sign, (src ^ sign) - sign) if src else 0",
    "or":      "dst | src",
    "and":     "dst & src",
    "lsh":     "dst << (src & (bits - 1))",
    "rsh":     "dst >> (src & (bits - 1))",
    "neg":     "-dst",
    "mod":     "dst % src if src else dst",
    "smod":    "remainder((dst ^ sign) - sign, (src ^ sign) - sign) if src else dst",
    "xor":     "dst ^ src",
    "mov":     "src",
    "movsx8":  "(src & 0xff ^ 0x80) - 0x80",
    "movsx16": "(src & 0xffff ^ 0x8000) - 0x8000",
    "movsx32": "(src & 0xffffffff ^ 0x80000000) - 0x80000000",
    "arsh":    "(dst ^ sign) - sign >> (src & (bits - 1))",
}

STAYS_IN_WIDTH = frozenset({"div", "or", "and", "rsh", "mod", "xor", "mov"})
"""The operations whose result cannot leave the width of their operands."""

TAKEN = {  # operation: whether the branch is taken
    "jeq":  "dst == src",
    "jgt":  "dst > src",
    "jge":  "dst >= src",
    "jset": "dst & src",
    "jne":  "dst != src",
    "jsgt": "(dst ^ sign) > (src ^ sign)",
    "jsge": "(dst ^ sign) >= (src ^ sign)",
    "jlt":  "dst < src",
    "jle":  "dst <= src",
    "jslt": "(dst ^ sign) < (src ^ sign)",
    "jsle": "(dst ^ sign) <= (src ^ sign)",
}
# fmt: on

_ARITHMETIC = """
def make(d, s, k, following, target):
    def {name}(r):
        r[d] = {expression}
        return following
    return {name}
"""

_BRANCH = """
def make(d, s, k, following, target):
    def {name}(r):
        return target if {expression} else following
    return {name}
"""

Maker = Callable[[int, int, int, int, int], Step]
"""Takes dst and src (register numbers), the immediate as an unsigned number of the form's width, and the indices
of the following instruction and of the branch target."""


class Operands(Protocol):
    """What of a form its maker depends on, beside the expression: see jitlink.bpf.isa.Form."""

    @property
    def name(self) -> str: ...
    @property
    def bits(self) -> int: ...
    @property
    def from_register(self) -> bool: ...


@cache
def maker(number: int) -> Maker:
    """Compile the maker of an arithmetic form or a branch. number: row of FORMS."""
    form = FORMS[number]
    known = {"quotient": quotient, "remainder": remainder}
    if form.family is not Family.ARITHMETIC:
        return branch_maker(form, TAKEN[form.operation], f"<BPF {form.name}>")
    value = VALUES[form.operation]
    if form.operation not in STAYS_IN_WIDTH:
        value = f"({value}) & {_mask(form):#x}"
    return arithmetic_maker(form, value, f"<BPF {form.name}>", known)


def arithmetic_maker(form: Operands, value: str, place: str, known: Mapping[str, Any]) -> Maker:
    """Compile the maker of a form that gives dst a value. place: for tracebacks; known: names that value may use."""
    return _compiled(_ARITHMETIC, form, value, place, known)


def branch_maker(form: Operands, taken: str, place: str) -> Maker:
    """Compile the maker of a form that leads to its target where taken is true. place: for tracebacks."""
    return _compiled(_BRANCH, form, taken, place, {})


def _compiled(template: str, form: Operands, expression: str, place: str, known: Mapping[str, Any]) -> Maker:
    source = template.format(name=form.name, expression=_over_registers(expression, form))
    names: dict[str, Maker] = {}
    # The text comes from tables of operations, and holds nothing of any program.
    exec(compile(source, place, "exec"), dict(known), names)
    return names["make"]


def quotient(dividend: int, divisor: int) -> int:
    """Divide and truncate toward zero, as s/ does; Python's // rounds down."""
    result = abs(dividend) // abs(divisor)
    return result if (dividend < 0) == (divisor < 0) else -result


def remainder(dividend: int, divisor: int) -> int:
    """The remainder of truncating division: it has the sign of the dividend, as s% does."""
    result = abs(dividend) % abs(divisor)
    return -result if dividend < 0 else result


def _over_registers(expression: str, form: Operands) -> str:
    registers = {"dst": "r[d]", "src": "r[s]" if form.from_register else "k"}
    if form.bits == 32:
        registers = {name: f"({text} & 0xffffffff)" if text != "k" else text for name, text in registers.items()}
    numbers = {"bits": str(form.bits), "sign": hex(1 << (form.bits - 1))}
    return re.sub(r"\b(dst|src|bits|sign)\b", lambda word: (registers | numbers)[word[0]], expression)


def _mask(form: Form) -> int:
    return (1 << form.bits) - 1
