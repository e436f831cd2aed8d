"""How instructions are written: one template for each form and each syntax.

There are two ways to write BPF assembly. LLVM's reads like C, `r0 = *(u32 *)(r1 + 4)`; the mnemonic
one of uBPF and of the bpf_conformance suite reads like other assemblers, `ldxw %r0, [%r1+4]`. A
template is the text of the instruction with slots for its operands. The assembler cuts a template
into tokens and looks for them, the disassembler fills the slots in, and so they cannot disagree.

A slot is {sort:field}. Sorts: r and w (a register, 64 or 32 bits wide; %r the same with a percent
sign), number (an immediate), hex (an immediate that is written in hexadecimal), spaced and tight
(a displacement, which may be absent, written ` + 4` and `+4`), to (a branch target: a distance or a
label). Fields: those of the instruction; imm64 for a wide immediate; imm_high and imm_low for the
halves of imm; r0 for a register that must be r0 (or w0) and is not encoded. A field that stands
twice must be given the same value twice.

The first template of a form is the one that the disassembler writes; the others are read only.
References of a wide constant, and the sorts of calls, which LLVM leaves out, are written in the
notation of RFC 9669 with the number of the map, variable or function.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from jitlink.bpf.isa import ARITHMETIC, ATOMICS, CONDITIONS, FORMS, Family, Form

Syntax = Literal["llvm", "mnemonic"]

SLOT = re.compile(r"\{(\w+|%r):(\w+)\}")

_SYMBOLS = {operation.name: operation.symbol for operation in (*ARITHMETIC, *CONDITIONS)}
_ATOMIC_SYMBOLS = {operation.name: operation.symbol for operation in ATOMICS}
_SIZE_LETTER = {8: "b", 16: "h", 32: "w", 64: "dw"}

_REFERENCES = {
    "map_fd": "map_by_fd({number:imm})",
    "map_fd_value": "map_val(map_by_fd({number:imm})) + {number:next_imm}",
    "variable": "var_addr({number:imm})",
    "code": "code_addr({to:imm})",
    "map_idx": "map_by_idx({number:imm})",
    "map_idx_value": "map_val(map_by_idx({number:imm})) + {number:next_imm}",
}

RAW_DIRECTIVE = ".insn"
"""Writes a slot field by field, for what no form describes."""
RAW_FIELDS = ("opcode", "dst", "src", "offset", "imm")


@cache
def templates(number: int, syntax: Syntax) -> tuple[str, ...]:
    """The templates of a form, the one to write first. number: row of FORMS, not 0."""
    return (_llvm if syntax == "llvm" else _mnemonic)(FORMS[number])


def _llvm(form: Form) -> tuple[str, ...]:
    r = "w" if form.bits <= 32 else "r"
    dst, src, size = f"{{{r}:dst}}", f"{{{r}:src}}", f"u{form.bits} *"
    at_src, at_dst = f"({size})({{r:src}}{{spaced:offset}})", f"({size})({{r:dst}}{{spaced:offset}})"
    at = "({r:dst}{spaced:offset})"
    operand = src if form.from_register else "{number:imm}"
    name = form.operation
    match form.family:
        case Family.ARITHMETIC if name == "neg":
            return (f"{dst} = -{dst}",)
        case Family.ARITHMETIC if name.startswith("movsx"):
            return (f"{dst} = (s{name.removeprefix('movsx')}){src}",)
        case Family.ARITHMETIC if name == "addr_space_cast":
            return ("{r:dst} = addr_space_cast({r:src}, {number:imm_high}, {number:imm_low})",)
        case Family.ARITHMETIC:
            return (f"{dst} {_SYMBOLS[name]} {operand}",)
        case Family.BYTE_ORDER:
            return (f"{{r:dst}} = {form.name} {{r:dst}}",)
        case Family.CONSTANT if name == "value":
            return ("{r:dst} = {number:imm64} ll",)
        case Family.CONSTANT:
            return (f"{{r:dst}} = {_REFERENCES[name]}",)
        case Family.PACKET:
            place = "{r:src}{tight:imm}" if form.from_register else "{number:imm}"
            return (f"{{r:r0}} = *({size})skb[{place}]",)
        case Family.LOAD if name == "load_signed":
            return (f"{{r:dst}} = *{at_src.replace('u', 's', 1)}",)
        case Family.LOAD:
            # LLVM writes the w register for a narrow load from CPU version 3 on, and means the same.
            return (f"{{r:dst}} = *{at_src}", *([f"{{w:dst}} = *{at_src}"] if form.bits < 64 else []))
        case Family.STORE if form.from_register:
            return (f"*{at_dst} = {{r:src}}", *([f"*{at_dst} = {{w:src}}"] if form.bits < 64 else []))
        case Family.STORE:
            return (f"*{at_dst} = {{number:imm}}",)
        case Family.ATOMIC if name == "load_acquire":
            return (f"{dst} = load_acquire({at_src})",)
        case Family.ATOMIC if name == "store_release":
            return (f"store_release({at_dst}, {src})",)
        case Family.ATOMIC if name == "xchg":
            return (f"{src} = xchg{'32' if form.bits == 32 else ''}_{form.bits}{at.replace(')', f', {src})')}",)
        case Family.ATOMIC if name == "cmpxchg":
            r0, name = f"{{{r}:r0}}", f"cmpxchg{'32' if form.bits == 32 else ''}_{form.bits}"
            return (f"{r0} = {name}{at.replace(')', f', {r0}, {src})')}",)
        case Family.ATOMIC if name.startswith("fetch_"):
            return (f"{src} = atomic_{name}({at_dst}, {src})",)
        case Family.ATOMIC:
            line = f"lock *{at_dst} {_ATOMIC_SYMBOLS[name]} "
            return (line + src, *([line + "{r:src}"] if form.bits == 32 else []))
        case Family.BRANCH if name == "may_goto":
            return ("may_goto {to:offset}",)
        case Family.BRANCH:
            return (f"if {dst} {_SYMBOLS[name]} {operand} goto {{to:offset}}",)
        case Family.JUMP:
            return ({"ja": "goto {to:offset}", "ja32": "gotol {to:imm}", "gotox": "gotox {r:dst}"}[form.name],)
        case Family.CALL:
            return _call(form, "{r:dst}")
        case _:
            return ("exit",)


def _mnemonic(form: Form) -> tuple[str, ...]:
    dst, src = "{%r:dst}", "{%r:src}"
    at_src, at_dst = "[{%r:src}{tight:offset}]", "[{%r:dst}{tight:offset}]"
    operand = src if form.from_register else "{number:imm}"
    name, letter = form.operation, _SIZE_LETTER[form.bits]
    suffix = "32" if form.bits == 32 else ""
    match form.family:
        case Family.ARITHMETIC if name == "neg":
            return _both_widths(form, "neg", dst)
        case Family.ARITHMETIC if name.startswith("movsx"):
            return (f"{name}{form.bits} {dst}, {src}",)
        case Family.ARITHMETIC if name == "addr_space_cast":
            return (f"addr_space_cast {dst}, {src}, {{number:imm_high}}, {{number:imm_low}}",)
        case Family.ARITHMETIC:
            return _both_widths(form, name, f"{dst}, {operand}")
        case Family.BYTE_ORDER:
            return (f"{form.name.replace('bswap', 'swap')} {dst}", *([f"{form.name} {dst}"] if name == "bswap" else []))
        case Family.CONSTANT if name == "value":
            return (f"lddw {dst}, {{hex:imm64}}",)
        case Family.CONSTANT:
            return (f"lddw {dst}, {_REFERENCES[name]}",)
        case Family.PACKET:
            return (f"{form.name} {src}, {{number:imm}}" if form.from_register else f"{form.name} {{number:imm}}",)
        case Family.LOAD:
            return (f"{form.name} {dst}, {at_src}",)
        case Family.STORE:
            return (f"{form.name} {at_dst}, {operand}",)
        case Family.ATOMIC if name == "load_acquire":
            return (f"load_acquire_{letter} {dst}, {at_src}",)
        case Family.ATOMIC if name == "store_release":
            return (f"store_release_{letter} {at_dst}, {src}",)
        case Family.ATOMIC:
            fetch = "fetch " if name.startswith("fetch_") else ""
            return (f"lock {fetch}{name.removeprefix('fetch_')}{suffix} {at_dst}, {src}",)
        case Family.BRANCH if name == "may_goto":
            return ("may_goto {to:offset}",)
        case Family.BRANCH:
            return (f"{name}{suffix} {dst}, {operand}, {{to:offset}}",)
        case Family.JUMP:
            return ({"ja": "ja {to:offset}", "ja32": "ja32 {to:imm}", "gotox": f"gotox {dst}"}[form.name],)
        case Family.CALL:
            return _call(form, dst)
        case _:
            return ("exit",)


def _both_widths(form: Form, name: str, operands: str) -> tuple[str, ...]:
    """64 bits are the ones without a suffix; the suffix is read all the same."""
    return (f"{name}32 {operands}",) if form.bits == 32 else (f"{name} {operands}", f"{name}64 {operands}")


def _call(form: Form, register: str) -> tuple[str, ...]:
    match form.operation:
        case "helper":
            return ("call {number:imm}", "call helper {number:imm}")
        case "local":
            return ("call local {to:imm}", "call {to:imm}")
        case "kfunc":
            return ("call runtime {number:imm}",)
        case _:
            return (f"callx {register}", f"call {register}", f"call helper {register}")
