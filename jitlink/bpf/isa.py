"""The BPF instruction set as data.

An instruction fills a slot of 8 bytes: an opcode, two registers (dst and src, four bits each), a
16-bit offset and a 32-bit immediate. The opcode alone does not always say what the instruction
does: 0x3f divides unsigned when its offset is 0 and signed when it is 1; 0xdb is one of a dozen
atomic operations, told apart by the immediate. So the unit here is the *form*: an opcode together
with, where RFC 9669 says so, the value of one more field, the selector.

FORMS lists every form once. Each row says what the form is called, which fields are operands (all
others are zero, or the selector), what it reads and writes, and what its effect is in the notation
of the RFC. The assembler, the disassembler, the verifier, the interpreter and native back ends all
read these rows. Form 0 is the null form: an encoding that nobody defines.

Sources: RFC 9669, in particular appendix A; for load_acquire, store_release, may_goto,
addr_space_cast and gotox, which are younger than the RFC, the Linux kernel's verifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

REGISTERS = 11
FRAME_POINTER = 10
STACK_SIZE = 512
"""Bytes of stack of one function call."""
CALL_DEPTH = 8
"""How many functions can be active at once, the first one included."""
TAIL_CALLS = 33
"""How many tail calls one run can make (MAX_TAIL_CALL_CNT)."""


class Family(StrEnum):
    """What sort of thing a form does; the operation says which of its sort."""

    NONE = "none"
    ARITHMETIC = "arithmetic"
    BYTE_ORDER = "byte order"
    CONSTANT = "constant"
    PACKET = "packet"
    LOAD = "load"
    STORE = "store"
    ATOMIC = "atomic"
    JUMP = "jump"
    BRANCH = "branch"
    CALL = "call"
    EXIT = "exit"


class Group(StrEnum):
    """The conformance groups of RFC 9669 section 2.4, and what is outside of them."""

    BASE32 = "base32"
    BASE64 = "base64"
    DIVMUL32 = "divmul32"
    DIVMUL64 = "divmul64"
    ATOMIC32 = "atomic32"
    ATOMIC64 = "atomic64"
    PACKET = "packet"
    LINUX = "linux"


@dataclass(frozen=True)
class Form:
    """One form of an instruction.

    Attributes: name (unique); family, operation (of that family), bits (width it works in);
    opcode; selector (field and value that set the form apart from others of its opcode);
    operands (the fields that carry operands); reads, writes (fields that name a register which is
    read, written); effect (in the notation of the RFC); group; section (of RFC 9669, or "Linux");
    refused (why we do not run it, or "").
    """

    name: str
    opcode: int
    family: Family
    operation: str
    bits: int
    operands: frozenset[str]
    effect: str
    group: Group
    section: str
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    selector: tuple[str, int] | None = None
    refused: str = ""

    @property
    def from_register(self) -> bool:
        """Whether the second operand is a register, not the immediate."""
        return "src" in self.operands

    @property
    def slots(self) -> int:
        """How many 8-byte slots it takes."""
        return 2 if self.family is Family.CONSTANT else 1


class Operation(NamedTuple):
    """An arithmetic operation or a condition: its code (bits 4 to 7 of the opcode) and its names."""

    code: int
    name: str
    symbol: str
    """As LLVM writes it."""
    effect: str
    selector: int = 0
    """The value of the offset field, for the operations that come in two sorts."""


# fmt: off
ARITHMETIC = (  # RFC 9669 section 4.1, table 9
    Operation(0x0, "add",  "+=",   "dst += src"),
    Operation(0x1, "sub",  "-=",   "dst -= src"),
    Operation(0x2, "mul",  "*=",   "dst *= src"),
    Operation(0x3, "div",  "/=",   "dst = (src != 0) ? (dst / src) : 0"),
    Operation(0x3, "sdiv", "s/=",  "dst = (src == 0) ? 0 : ((src == -1 && dst == MIN) ? MIN : (dst s/ src))", 1),
    Operation(0x4, "or",   "|=",   "dst |= src"),
    Operation(0x5, "and",  "&=",   "dst &= src"),
    Operation(0x6, "lsh",  "<<=",  "dst <<= (src & mask)"),
    Operation(0x7, "rsh",  ">>=",  "dst >>= (src & mask)"),
    Operation(0x9, "mod",  "%=",   "dst = (src != 0) ? (dst % src) : dst"),
    Operation(0x9, "smod", "s%=",  "dst = (src == 0) ? dst : ((src == -1 && dst == MIN) ? 0 : (dst s% src))", 1),
    Operation(0xA, "xor",  "^=",   "dst ^= src"),
    Operation(0xB, "mov",  "=",    "dst = src"),
    Operation(0xC, "arsh", "s>>=", "dst s>>= (src & mask)"),
)

CONDITIONS = (  # RFC 9669 section 4.3, table 14
    Operation(0x1, "jeq",  "==",  "PC += offset if dst == src"),
    Operation(0x2, "jgt",  ">",   "PC += offset if dst > src"),
    Operation(0x3, "jge",  ">=",  "PC += offset if dst >= src"),
    Operation(0x4, "jset", "&",   "PC += offset if dst & src"),
    Operation(0x5, "jne",  "!=",  "PC += offset if dst != src"),
    Operation(0x6, "jsgt", "s>",  "PC += offset if dst s> src"),
    Operation(0x7, "jsge", "s>=", "PC += offset if dst s>= src"),
    Operation(0xA, "jlt",  "<",   "PC += offset if dst < src"),
    Operation(0xB, "jle",  "<=",  "PC += offset if dst <= src"),
    Operation(0xC, "jslt", "s<",  "PC += offset if dst s< src"),
    Operation(0xD, "jsle", "s<=", "PC += offset if dst s<= src"),
)

ATOMICS = (  # RFC 9669 section 5.3, tables 20 and 21; the code is the whole immediate
    Operation(0x00, "add",       "+=",  "*(uN *)(dst + offset) += src"),
    Operation(0x40, "or",        "|=",  "*(uN *)(dst + offset) |= src"),
    Operation(0x50, "and",       "&=",  "*(uN *)(dst + offset) &= src"),
    Operation(0xA0, "xor",       "^=",  "*(uN *)(dst + offset) ^= src"),
    Operation(0x01, "fetch_add", "add", "src = atomic_fetch_add((uN *)(dst + offset), src)"),
    Operation(0x41, "fetch_or",  "or",  "src = atomic_fetch_or((uN *)(dst + offset), src)"),
    Operation(0x51, "fetch_and", "and", "src = atomic_fetch_and((uN *)(dst + offset), src)"),
    Operation(0xA1, "fetch_xor", "xor", "src = atomic_fetch_xor((uN *)(dst + offset), src)"),
    Operation(0xE1, "xchg",      "",    "src = xchg((uN *)(dst + offset), src)"),
    Operation(0xF1, "cmpxchg",   "",    "R0 = cmpxchg((uN *)(dst + offset), R0, src)"),
)

SIZES = (  # RFC 9669 section 5, table 17: name, bits, code
    ("w", 32, 0x00),
    ("h", 16, 0x08),
    ("b", 8, 0x10),
    ("dw", 64, 0x18),
)

CONSTANTS = (  # RFC 9669 section 5.4, table 22: value of src, name, effect, whether next_imm is used
    (0, "",              "dst = (next_imm << 32) | imm",               True),
    (1, "map_fd",        "dst = map_by_fd(imm)",                       False),
    (2, "map_fd_value",  "dst = map_val(map_by_fd(imm)) + next_imm",   True),
    (3, "variable",      "dst = var_addr(imm)",                        False),
    (4, "code",          "dst = code_addr(imm)",                       False),
    (5, "map_idx",       "dst = map_by_idx(imm)",                      False),
    (6, "map_idx_value", "dst = map_val(map_by_idx(imm)) + next_imm",  True),
)

CALLS = (  # RFC 9669 section 4.3.1 and 4.3.2: value of src, operation, effect
    (0, "helper", "call helper function imm"),
    (1, "local",  "call PC += imm"),
    (2, "kfunc",  "call helper function by BTF id imm"),
)
# fmt: on

_DST, _SRC = frozenset({"dst"}), frozenset({"src"})
_BOTH = _DST | _SRC


def _arithmetic() -> Iterator[Form]:
    for bits, klass in ((32, 0x04), (64, 0x07)):
        for operation in ARITHMETIC:
            multiplies = operation.name in ("mul", "div", "sdiv", "mod", "smod")
            group = Group(f"{'divmul' if multiplies else 'base'}{bits}")
            # The offset tells the signed division from the unsigned one, and a plain move of a
            # register from one that extends the sign.
            selected = operation.code in (0x3, 0x9, 0xB)
            selector = ("offset", operation.selector) if selected else None
            reads_dst = frozenset() if operation.name == "mov" else _DST
            for source, flag in (("imm", 0x00), ("reg", 0x08)):
                operands = frozenset({"dst", "imm" if source == "imm" else "src"})
                yield Form(
                    f"{operation.name}{bits}_{source}",
                    operation.code << 4 | flag | klass,
                    Family.ARITHMETIC,
                    operation.name,
                    bits,
                    operands,
                    operation.effect.replace("src", source) if source == "imm" else operation.effect,
                    group,
                    "4.1",
                    reads=reads_dst | (operands & _SRC),
                    writes=_DST,
                    selector=selector,
                )
        for narrow in (8, 16, 32)[: 2 if bits == 32 else 3]:
            yield Form(
                f"movsx{narrow}_{bits}",
                0xB8 | klass,
                Family.ARITHMETIC,
                f"movsx{narrow}",
                bits,
                _BOTH,
                f"dst = (s{narrow})src",
                Group(f"base{bits}"),
                "4.1",
                reads=_SRC,
                writes=_DST,
                selector=("offset", narrow),
            )
        yield Form(
            f"neg{bits}",
            0x80 | klass,
            Family.ARITHMETIC,
            "neg",
            bits,
            _DST,
            "dst = -dst",
            Group(f"base{bits}"),
            "4.1",
            reads=_DST,
            writes=_DST,
        )
    yield Form(
        "addr_space_cast",
        0xBF,
        Family.ARITHMETIC,
        "addr_space_cast",
        64,
        _BOTH | {"imm"},
        "dst = addr_space_cast(src, imm >> 16, imm & 0xffff)",
        Group.LINUX,
        "Linux",
        reads=_SRC,
        writes=_DST,
        selector=("offset", 1),
        refused="it needs a BPF arena, which we do not have",
    )


def _byte_order() -> Iterator[Form]:
    for name, opcode in (("le", 0xD4), ("be", 0xDC), ("bswap", 0xD7)):
        for bits in (16, 32, 64):
            yield Form(
                f"{name}{bits}",
                opcode,
                Family.BYTE_ORDER,
                name,
                bits,
                _DST,
                f"dst = {name}{bits}(dst)",
                Group.BASE64 if bits == 64 else Group.BASE32,
                "4.2",
                reads=_DST,
                writes=_DST,
                selector=("imm", bits),
            )


def _constants() -> Iterator[Form]:
    for value, name, effect, uses_next in CONSTANTS:
        yield Form(
            f"lddw_{name}" if name else "lddw",
            0x18,
            Family.CONSTANT,
            name or "value",
            64,
            frozenset({"dst", "imm", "next_imm"} if uses_next else {"dst", "imm"}),
            effect,
            Group.BASE64,
            "5.4",
            writes=_DST,
            selector=("src", value),
        )


def _memory() -> Iterator[Form]:
    for name, bits, code in SIZES:
        group = Group.BASE64 if bits == 64 else Group.BASE32
        loaded, stored = _BOTH | {"offset"}, _DST | {"offset", "imm"}
        load, store = f"*(u{bits} *)(src + offset)", f"*(u{bits} *)(dst + offset)"
        # fmt: off
        yield Form(f"ldx{name}", 0x61 | code, Family.LOAD, "load", bits, loaded, f"dst = {load}", group, "5.1",
                   reads=_SRC, writes=_DST)
        yield Form(f"st{name}", 0x62 | code, Family.STORE, "store", bits, stored, f"{store} = imm", group, "5.1",
                   reads=_DST)
        yield Form(f"stx{name}", 0x63 | code, Family.STORE, "store", bits, loaded, f"{store} = src", group, "5.1",
                   reads=_BOTH)
        yield Form(f"load_acquire{bits}", 0xC3 | code, Family.ATOMIC, "load_acquire", bits, loaded,
                   f"dst = load_acquire((u{bits} *)(src + offset))", Group.LINUX, "Linux",
                   reads=_SRC, writes=_DST, selector=("imm", 0x100))
        yield Form(f"store_release{bits}", 0xC3 | code, Family.ATOMIC, "store_release", bits, loaded,
                   f"store_release((u{bits} *)(dst + offset), src)", Group.LINUX, "Linux",
                   reads=_BOTH, selector=("imm", 0x110))
        if bits < 64:
            yield Form(f"ldxs{name}", 0x81 | code, Family.LOAD, "load_signed", bits, loaded,
                       f"dst = {load.replace('u', 's', 1)}", Group.BASE32, "5.2", reads=_SRC, writes=_DST)
            yield Form(f"ldabs{name}", 0x20 | code, Family.PACKET, "absolute", bits, frozenset({"imm"}),
                       f"R0 = *(be{bits} *)packet[imm]", Group.PACKET, "5.5")
            yield Form(f"ldind{name}", 0x40 | code, Family.PACKET, "indirect", bits, _SRC | {"imm"},
                       f"R0 = *(be{bits} *)packet[src + imm]", Group.PACKET, "5.5", reads=_SRC)
        # fmt: on


def _atomics() -> Iterator[Form]:
    for bits, opcode in ((32, 0xC3), (64, 0xDB)):
        for operation in ATOMICS:
            fetches = operation.code & 1 and operation.name != "cmpxchg"
            yield Form(
                f"atomic_{operation.name}{bits}",
                opcode,
                Family.ATOMIC,
                operation.name,
                bits,
                _BOTH | {"offset"},
                operation.effect.replace("uN", f"u{bits}"),
                Group(f"atomic{bits}"),
                "5.3",
                reads=_BOTH,
                writes=_SRC if fetches else frozenset(),
                selector=("imm", operation.code),
            )


def _control() -> Iterator[Form]:
    for bits, klass, suffix in ((64, 0x05, ""), (32, 0x06, "32")):
        for operation in CONDITIONS:
            for source, flag in (("imm", 0x00), ("reg", 0x08)):
                operands = frozenset({"dst", "imm" if source == "imm" else "src"})
                yield Form(
                    f"{operation.name}{suffix}_{source}",
                    operation.code << 4 | flag | klass,
                    Family.BRANCH,
                    operation.name,
                    bits,
                    operands | {"offset"},
                    operation.effect.replace("src", "imm") if source == "imm" else operation.effect,
                    Group(f"base{bits}"),
                    "4.3",
                    reads=_DST | (operands & _SRC),
                )
    # fmt: off
    yield Form("ja", 0x05, Family.JUMP, "ja", 64, frozenset({"offset"}), "PC += offset", Group.BASE32, "4.3")
    yield Form("ja32", 0x06, Family.JUMP, "ja", 32, frozenset({"imm"}), "PC += imm", Group.BASE32, "4.3")
    yield Form("may_goto", 0xE5, Family.BRANCH, "may_goto", 64, frozenset({"offset"}),
               "PC += offset if the loop has run long enough", Group.LINUX, "Linux")
    yield Form("gotox", 0x0D, Family.JUMP, "gotox", 64, _DST, "PC = dst", Group.LINUX, "Linux", reads=_DST,
               refused="it needs a map of instruction addresses, which we do not have")
    for value, name, effect in CALLS:
        yield Form(f"call_{name}", 0x85, Family.CALL, name, 64, frozenset({"imm"}), effect, Group.BASE32, "4.3",
                   selector=("src", value))
    yield Form("callx", 0x8D, Family.CALL, "register", 64, _DST, "call function at dst", Group.LINUX, "4.3", reads=_DST)
    yield Form("exit", 0x95, Family.EXIT, "exit", 64, frozenset(), "return", Group.BASE32, "4.3")
    # fmt: on


UNKNOWN = Form("unknown", -1, Family.NONE, "unknown", 64, frozenset(), "undefined", Group.LINUX, "")

FORMS: tuple[Form, ...] = (
    UNKNOWN,
    *_arithmetic(),
    *_byte_order(),
    *_constants(),
    *_memory(),
    *_atomics(),
    *_control(),
)
"""Every form, once; the position of a form is its number in decoded columns."""

FORM_NUMBER: dict[str, int] = {form.name: number for number, form in enumerate(FORMS)}
