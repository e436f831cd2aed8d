"""The instructions of each version of SBPF: one row an opcode.

SBPF has the slots of BPF and most of its instructions; what is different:

    32-bit add, sub and mul extend the sign of their result, except in version 2
    mov32 from a register extends the sign in version 2
    sub of a constant takes dst from the constant in version 2
    a division by zero, and a signed one that overflows, is a fault
    version 2 has a class of products, quotients and remainders, and encodes memory access otherwise

Sources: doc/bytecode.md of anza-xyz/sbpf; SIMD-0173, SIMD-0174 and SIMD-0377.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from jitlink.bpf.isa import CONDITIONS, SIZES
from jitlink.bpf.sbpf.versions import Version

REGISTERS = 11
FRAME_POINTER = 10


class Family(StrEnum):
    """What sort of thing an instruction does."""

    ARITHMETIC = "arithmetic"
    BYTE_ORDER = "byte order"
    CONSTANT = "constant"
    LOAD = "load"
    STORE = "store"
    JUMP = "jump"
    BRANCH = "branch"
    CALL = "call"
    CALL_REGISTER = "call register"
    EXIT = "exit"


class Extension(StrEnum):
    """How a constant, or a result, of 32 bits becomes one of 64."""

    ZERO = "zero"
    SIGN = "sign"


@dataclass(frozen=True)
class Form:
    """An instruction.

    Attributes: name; opcode; family, operation (of that family); bits (width it works in); from_register
    (the second operand is src, else the immediate); result (how 32 bits of it are extended); constant (how
    the immediate is, where the width is 64).
    """

    name: str
    opcode: int
    family: Family
    operation: str
    bits: int = 64
    from_register: bool = False
    result: Extension = Extension.ZERO
    constant: Extension = Extension.SIGN

    @property
    def divides(self) -> bool:
        """Whether it is a quotient or a remainder."""
        return self.family is Family.ARITHMETIC and self.operation in DIVISIONS

    @property
    def shifts(self) -> bool:
        """Whether it is a shift."""
        return self.family is Family.ARITHMETIC and self.operation in ("lsh", "rsh", "arsh")


# fmt: off
ARITHMETIC = (  # code (bits 4 to 7 of the opcode), operation, whether 32 bits of the result are signed
    (0x0, "add", True), (0x1, "sub", True), (0x2, "mul", True), (0x3, "div", False), (0x4, "or", False),
    (0x5, "and", False), (0x6, "lsh", False), (0x7, "rsh", False), (0x8, "neg", False), (0x9, "mod", False),
    (0xA, "xor", False), (0xB, "mov", False), (0xC, "arsh", False),
)
PRODUCTS = (  # SIMD-0174: opcode, name, operation, bits, constant
    (0x36, "uhmul64", "uhmul", 64, Extension.ZERO), (0x46, "udiv32", "div",  32, Extension.ZERO),
    (0x56, "udiv64",  "div",   64, Extension.ZERO), (0x66, "urem32", "mod",  32, Extension.ZERO),
    (0x76, "urem64",  "mod",   64, Extension.ZERO), (0x86, "lmul32", "mul",  32, Extension.SIGN),
    (0x96, "lmul64",  "mul",   64, Extension.SIGN), (0xB6, "shmul64", "shmul", 64, Extension.SIGN),
    (0xC6, "sdiv32",  "sdiv",  32, Extension.SIGN), (0xD6, "sdiv64", "sdiv", 64, Extension.SIGN),
    (0xE6, "srem32",  "smod",  32, Extension.SIGN), (0xF6, "srem64", "smod", 64, Extension.SIGN),
)
MEMORY_OF_V2 = {  # SIMD-0173: the upper half of the opcodes, by size
    "b": 0x20, "h": 0x30, "w": 0x80, "dw": 0x90,
}
# fmt: on
DIVISIONS = ("div", "mod", "sdiv", "smod")
REPLACED = ("mul", "div", "mod", "neg")
"""The operations that version 2 has in its own class, or not at all."""
REGISTER = 0x8
"""The bit of an opcode that says that the second operand is src."""


@cache
def forms_of(version: Version) -> tuple[Form | None, ...]:
    """The instruction of each opcode, None where there is none."""
    table: list[Form | None] = [None] * 256
    for form in (*_arithmetic(version), *_memory(version), *_control(version)):
        assert table[form.opcode] is None
        table[form.opcode] = form
    return tuple(table)


def _arithmetic(version: Version) -> Iterator[Form]:
    second = version.has_products
    for bits, klass in ((32, 0x04), (64, 0x07)):
        for code, operation, signed in ARITHMETIC:
            if second and operation in REPLACED:
                continue
            extends = signed and not second and bits == 32
            form = Form(
                f"{operation}{bits}",
                code << 4 | klass,
                Family.ARITHMETIC,
                operation,
                bits,
                result=Extension.SIGN if extends else Extension.ZERO,
            )
            yield replace(form, operation="rsub") if second and operation == "sub" else form
            if operation != "neg":
                from_register = replace(form, opcode=form.opcode | REGISTER, from_register=True)
                extends_move = second and operation == "mov" and bits == 32
                yield replace(from_register, result=Extension.SIGN) if extends_move else from_register
    if second:
        yield Form("hor64", 0xF7, Family.ARITHMETIC, "hor")
        for opcode, name, operation, bits, constant in PRODUCTS:
            form = Form(name, opcode, Family.ARITHMETIC, operation, bits, constant=constant)
            yield form
            yield replace(form, opcode=opcode | REGISTER, from_register=True)
    else:
        yield Form("le", 0xD4, Family.BYTE_ORDER, "le")
        yield Form("lddw", 0x18, Family.CONSTANT, "lddw")
    yield Form("be", 0xDC, Family.BYTE_ORDER, "be")


def _memory(version: Version) -> Iterator[Form]:
    for name, bits, code in SIZES:
        load, store, store_register = 0x61 | code, 0x62 | code, 0x63 | code
        if version.has_products:
            upper = MEMORY_OF_V2[name]
            load, store, store_register = upper | 0xC, upper | 0x7, upper | 0xF
        yield Form(f"ldx{name}", load, Family.LOAD, "load", bits, from_register=True)
        yield Form(f"st{name}", store, Family.STORE, "store", bits)
        yield Form(f"stx{name}", store_register, Family.STORE, "store", bits, from_register=True)


def _control(version: Version) -> Iterator[Form]:
    for bits, klass in ((64, 0x05), (32, 0x06)):
        if bits == 32 and not version.has_short_conditions:
            continue
        for condition in CONDITIONS:
            name = f"{condition.name}{'32' if bits == 32 else ''}"
            form = Form(name, condition.code << 4 | klass, Family.BRANCH, condition.name, bits)
            yield form
            yield replace(form, opcode=form.opcode | REGISTER, from_register=True)
    yield Form("ja", 0x05, Family.JUMP, "ja")
    yield Form("call", 0x85, Family.CALL, "call")
    yield Form("callx", 0x8D, Family.CALL_REGISTER, "callx")
    yield Form("exit", 0x95, Family.EXIT, "exit")


def register_of_callx(version: Version, dst: int, src: int, imm: int) -> int:
    """The number of the register that holds the address to call; it may be none that there is."""
    if version.has_products:
        return src
    return dst if version.is_static else imm
