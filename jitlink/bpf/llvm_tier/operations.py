"""Arithmetic and conditions of BPF as LLVM IR.

Each operation is a few lines over the operands {a} and {b} and the type {t}; {n} stands for a number that
makes names unique. LLVM leaves open what the RFC defines (division by zero, shifts beyond the width), so
such operands are kept away from its instructions. Source: RFC 9669, section 4.1.
"""

from __future__ import annotations

_SAFE = "%z{n} = icmp eq {t} {b}, 0\n%d{n} = select i1 %z{n}, {t} 1, {t} {b}\n"
_SAFE_SIGNED = (
    "%z{n} = icmp eq {t} {b}, 0\n%m{n} = icmp eq {t} {b}, -1\n%s{n} = or i1 %z{n}, %m{n}\n"
    "%d{n} = select i1 %s{n}, {t} 1, {t} {b}\n"
)
# fmt: off
LINES: dict[str, str] = {  # operation: its lines; the result is %v{n}
    "add":  "%v{n} = add {t} {a}, {b}",
    "sub":  "%v{n} = sub {t} {a}, {b}",
    "mul":  "%v{n} = mul {t} {a}, {b}",
    "or":   "%v{n} = or {t} {a}, {b}",
    "and":  "%v{n} = and {t} {a}, {b}",
    "xor":  "%v{n} = xor {t} {a}, {b}",
    "lsh":  "%d{n} = and {t} {b}, {mask}\n%v{n} = shl {t} {a}, %d{n}",
    "rsh":  "%d{n} = and {t} {b}, {mask}\n%v{n} = lshr {t} {a}, %d{n}",
    "arsh": "%d{n} = and {t} {b}, {mask}\n%v{n} = ashr {t} {a}, %d{n}",
    "neg":  "%v{n} = sub {t} 0, {a}",
    "div":  _SAFE + "%q{n} = udiv {t} {a}, %d{n}\n%v{n} = select i1 %z{n}, {t} 0, {t} %q{n}",
    "mod":  _SAFE + "%q{n} = urem {t} {a}, %d{n}\n%v{n} = select i1 %z{n}, {t} {a}, {t} %q{n}",
    "sdiv": _SAFE_SIGNED + "%q{n} = sdiv {t} {a}, %d{n}\n%g{n} = sub {t} 0, {a}\n"
            "%e{n} = select i1 %m{n}, {t} %g{n}, {t} %q{n}\n%v{n} = select i1 %z{n}, {t} 0, {t} %e{n}",
    "smod": _SAFE_SIGNED + "%q{n} = srem {t} {a}, %d{n}\n%e{n} = select i1 %m{n}, {t} 0, {t} %q{n}\n"
            "%v{n} = select i1 %z{n}, {t} {a}, {t} %e{n}",
}

CONDITIONS: dict[str, str] = {  # operation: the predicate of icmp
    "jeq": "eq", "jne": "ne", "jgt": "ugt", "jge": "uge", "jlt": "ult", "jle": "ule",
    "jsgt": "sgt", "jsge": "sge", "jslt": "slt", "jsle": "sle",
}

ATOMICS: dict[str, str] = {  # operation: that of atomicrmw
    "add": "add", "or": "or", "and": "and", "xor": "xor", "xchg": "xchg",
    "fetch_add": "add", "fetch_or": "or", "fetch_and": "and", "fetch_xor": "xor",
}
# fmt: on
