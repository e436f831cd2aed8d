"""What arithmetic and branches of SBPF do, as one Python expression each.

The expressions are over dst and src as unsigned numbers of the instruction's width. Most are those of BPF
(jitlink.bpf.semantics); here are the ones that BPF does not have, or has otherwise.
"""

from __future__ import annotations

from functools import cache

from jitlink.bpf import semantics as bpf
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.sbpf.isa import Extension, Family, Form

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


@cache
def maker(form: Form) -> bpf.Maker:
    """Compile the maker of an arithmetic form or a branch."""
    if form.family is not Family.ARITHMETIC:
        return bpf.branch_maker(form, bpf.TAKEN[form.operation], f"<SBPF {form.name}>")
    value = f"({VALUES[form.operation]}) & {(1 << form.bits) - 1:#x}"
    if form.result is Extension.SIGN:
        value = f"(({value}) ^ 0x80000000) - 0x80000000 & 0xffffffffffffffff"
    known = {"divisor": divisor, "checked": checked, "quotient": bpf.quotient, "remainder": bpf.remainder}
    return bpf.arithmetic_maker(form, value, f"<SBPF {form.name}>", known)


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
