"""What arithmetic and branches of SBPF do, as one Python expression each.

The expressions are over dst and src as unsigned numbers of the instruction's width. Most are those of BPF
(jitlink.bpf.semantics); here are the ones that BPF does not have, or has otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from jitlink.bpf import semantics as bpf
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.sbpf.isa import Extension, Family, Form
from jitlink.bpf.semantics import Step

# fmt: off
VALUES = bpf.VALUES | {
    "div":   "dst // divisor(src)",
    "mod":   "dst % divisor(src)",
    "sdiv":  "quotient(*checked((dst ^ sign) - sign, (src ^ sign) - sign, sign))",
    "smod":  "remainder(*checked((dst ^ sign) - sign, (src ^ sign) - sign, sign))",
    "rsub":  "src - dst",
    "hor":   "dst | src << 32",
    "uhmul": "dst * src >> 64",
    "shmul": "((dst ^ sign) - sign) * ((src ^ sign) - sign) >> 64",
}
# fmt: on

_ARITHMETIC = """
def make(d, s, k, following, target):
    def {name}(r):
        r[d] = {value}
        return following
    return {name}
"""
_BRANCH = """
def make(d, s, k, following, target):
    def {name}(r):
        return target if {taken} else following
    return {name}
"""


@cache
def maker(form: Form) -> Callable[[int, int, int, int, int], Step]:
    """Compile the maker of an arithmetic form or a branch, which takes what jitlink.bpf.semantics.maker's takes."""
    if form.family is Family.ARITHMETIC:
        value = f"({VALUES[form.operation]}) & {(1 << form.bits) - 1:#x}"
        if form.result is Extension.SIGN:
            value = f"(({value}) ^ 0x80000000) - 0x80000000 & 0xffffffffffffffff"
        source = _ARITHMETIC.format(name=form.name, value=_over_registers(value, form))
    else:
        source = _BRANCH.format(name=form.name, taken=_over_registers(bpf.TAKEN[form.operation], form))
    names: dict[str, Callable[..., Step]] = {}
    known = {"divisor": divisor, "checked": checked, "quotient": bpf.quotient, "remainder": bpf.remainder}
    # The text comes from the tables above and holds nothing of any program.
    exec(compile(source, f"<SBPF {form.name}>", "exec"), known, names)
    return names["make"]


def constant_of(form: Form, imm: int) -> int:
    """The immediate of an arithmetic form or a branch, as an unsigned number of its width."""
    if form.operation == "hor" or form.constant is Extension.ZERO:
        return imm & 0xFFFF_FFFF
    return imm & (1 << form.bits) - 1


def divisor(value: int) -> int:
    """Give a divisor back. Raises BpfFault for 0."""
    if not value:
        raise BpfFault(FaultKind.DIVISION, "division by zero")
    return value


def checked(dividend: int, by: int, sign: int) -> tuple[int, int]:
    """Give the operands of a signed division back. Raises BpfFault where there is no result."""
    if by == -1 and dividend == -sign:
        raise BpfFault(FaultKind.DIVISION, "a signed division overflows")
    return dividend, divisor(by)


def _over_registers(expression: str, form: Form) -> str:
    registers = {"dst": "r[d]", "src": "r[s]" if form.from_register else "k"}
    if form.bits == 32:
        registers = {name: f"({text} & 0xffffffff)" if text != "k" else text for name, text in registers.items()}
    numbers = {"bits": str(form.bits), "sign": hex(1 << (form.bits - 1))}
    return re.sub(r"\b(dst|src|bits|sign)\b", lambda word: (registers | numbers)[word[0]], expression)
