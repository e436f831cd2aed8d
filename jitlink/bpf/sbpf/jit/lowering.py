"""From the instructions of SBPF to those of BPF, which the back ends have machine code for.

Most are the same. The others are a form of BPF with something in front of it or behind:

    before   a negation, so that `dst = imm - dst` is an addition. Or a wide constant into the spare register of the
             host, which then stands for src: where BPF extends the sign of an immediate and SBPF does not, and
             where there is no form with an immediate.
    guard    leaves where a division has no result.
    kind     of the piece that carries the instruction out: a form, or what only back ends for SBPF have.
    after    extends the sign of the 32 bits of dst.

What can only fault has form 0. One slot more than the program has stands for the place behind its end, where
branches that lead astray go.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import Instructions
from jitlink.bpf.isa import FORM_NUMBER, FORMS
from jitlink.bpf.jit.backend import Kind
from jitlink.bpf.jit.program import BRANCHES, Slots, slots_of
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.executable import Slots as SbpfSlots
from jitlink.bpf.sbpf.isa import REGISTERS, Extension, Family, Form, forms_of, register_of_callx
from jitlink.bpf.sbpf.targets import SYSCALL, TargetOf, constants_of, second_halves, starts_of, targets_of
from jitlink.bpf.sbpf.versions import Version
from jitlink.columns import Rows

Mask = npt.NDArray[np.bool_]
LOW = 0xFFFF_FFFF
OPCODES = 256
CONSTANT, LOCAL_CALL, CALLX = (FORM_NUMBER[name] for name in ("lddw", "call_local", "callx"))
EXTEND, JUMP, UPPER_HALF = (FORM_NUMBER[name] for name in ("movsx32_64", "ja", "or64_reg"))
BYTE_ORDER_BITS = (16, 32, 64)


class Lowering(NamedTuple):
    """What an instruction becomes, as far as its opcode says: columns of Lowered, and form (of BPF)."""

    form: int
    kind: int = 0
    before: int = 0
    guard: int = 0
    narrow: int = 0
    extends: int = 0
    unsigned: int = 0
    """An immediate, of 64 bits, has no sign."""


@dataclass(frozen=True)
class Lowered:
    """A program in terms of BPF. Every column has a row for each slot of `slots`.

    slots (where before is CONSTANT, slots.code.constant is what goes to the spare register); kind (of the piece
    that carries a slot out, 0 for that of its form); before (a form, or 0); guard (a kind, or 0); narrow (the guard
    is of 32 bits); extends (the sign of the result is extended).
    """

    slots: Slots
    kind: Rows
    before: Rows
    guard: Rows
    narrow: Mask
    extends: Mask


def can_be_lowered(executable: Executable) -> bool:
    """Whether there is code, and no second half of a wide constant can be taken for an instruction.

    So it is in every program that the verifier has nothing against.
    """
    code = executable.slots
    return len(code) > 0 and not code.opcode[second_halves(executable, code)].any()


def lower(executable: Executable, target_of: TargetOf) -> Lowered:
    """Lower a program that can be."""
    return _Lowerer(executable, target_of).lower()


@cache
def _table(version: Version) -> npt.NDArray[np.int64]:
    """What each opcode becomes: int64[fields of Lowering, opcodes]."""
    table = np.zeros((len(Lowering._fields), OPCODES), np.int64)
    for form in forms_of(version):
        if form is not None:
            table[:, form.opcode] = _lowering_of(form)
    return table


def _lowering_of(form: Form) -> Lowering:
    match form.family:
        case Family.ARITHMETIC:
            return _arithmetic(form)
        case Family.LOAD | Family.STORE:
            size = {8: "b", 16: "h", 32: "w", 64: "dw"}[form.bits]
            name = "ldx" if form.family is Family.LOAD else "stx" if form.from_register else "st"
            return Lowering(FORM_NUMBER[name + size])
        case Family.BRANCH:
            return Lowering(FORM_NUMBER[f"{form.operation}{'32' if form.bits == 32 else ''}_{_operand(form)}"])
        case Family.BYTE_ORDER:
            # One of those for 16, 32 and 64 bits, as the immediate says.
            return Lowering(FORM_NUMBER[f"{form.operation}16"])
        case family:
            names = {Family.CONSTANT: "lddw", Family.JUMP: "ja", Family.CALL: "call_helper"}
            return Lowering(FORM_NUMBER[names.get(family) or form.name])


def _operand(form: Form) -> str:
    return "reg" if form.from_register else "imm"


def _arithmetic(form: Form) -> Lowering:
    name, bits = form.operation, form.bits
    extends = form.result is Extension.SIGN
    if form.divides:
        guard = Kind.SIGNED_DIVISOR if name in ("sdiv", "smod") else Kind.DIVISOR
        unsigned = form.constant is Extension.ZERO and bits == 64
        return Lowering(
            FORM_NUMBER[f"{name}{bits}_{_operand(form)}"], guard=guard, narrow=bits == 32, unsigned=unsigned
        )
    match name:
        case "neg":
            return Lowering(FORM_NUMBER[f"neg{bits}"], extends=extends)
        case "mov" if extends:
            return Lowering(EXTEND)
        case "rsub":
            return Lowering(FORM_NUMBER[f"add{bits}_imm"], before=FORM_NUMBER[f"neg{bits}"])
        case "hor":
            return Lowering(FORM_NUMBER["or64_reg"], before=CONSTANT)
        case "uhmul" | "shmul":
            kind = Kind.HIGH_PRODUCT if name == "uhmul" else Kind.SIGNED_HIGH_PRODUCT
            before = 0 if form.from_register else CONSTANT
            return Lowering(FORM_NUMBER["mul64_reg"], kind=kind, before=before, unsigned=name == "uhmul")
        case _:
            return Lowering(FORM_NUMBER[f"{name}{bits}_{_operand(form)}"], extends=extends)


_WITH_REGISTER = np.array([FORM_NUMBER.get(form.name.replace("_imm", "_reg"), 0) for form in FORMS], np.int64)
"""For forms with an immediate those with a register instead."""
_HAS_IMMEDIATE = np.array([form.name.endswith("_imm") for form in FORMS])
_SHIFT_MASK = np.array(
    [form.bits - 1 if form.operation in ("lsh", "rsh", "arsh") and not form.from_register else -1 for form in FORMS]
)


class _Lowerer:
    """Lowers one program."""

    def __init__(self, executable: Executable, target_of: TargetOf) -> None:
        self.executable = executable
        self.target_of = target_of
        self.code: SbpfSlots = executable.slots
        self.form, self.kind, self.before, self.guard, self.narrow, self.extends, self.unsigned = _table(
            executable.version
        )[:, self.code.opcode]
        self.dst, self.offset, self.imm = self.code.dst.copy(), self.code.offset.copy(), self.code.imm.copy()
        self.constant = self.imm.copy()

    def lower(self) -> Lowered:
        """Do all steps, in order."""
        second = second_halves(self.executable, self.code)
        self.constant[second - 1] = constants_of(self.code, second - 1)
        self.form[second] = 0
        # A wide constant whose second half is missing.
        self.form[-1:][self.form[-1:] == CONSTANT] = 0
        self._byte_orders()
        self._divisions()
        self._spare_constants()
        self._jumps()
        self._register_calls()
        targets = self._calls()
        self.form[(self.code.dst >= REGISTERS) | (self.code.src >= REGISTERS)] = 0
        masked = (_SHIFT_MASK[self.form] >= 0).nonzero()[0]
        self.imm[masked] &= _SHIFT_MASK[self.form[masked]]
        for column in (self.kind, self.before, self.guard, self.extends):
            column[self.form == 0] = 0
        return self._lowered(second, starts_of(self.executable, self.code, targets))

    def _byte_orders(self) -> None:
        for name in ("le", "be"):
            rows = (self.form == FORM_NUMBER[f"{name}16"]).nonzero()[0]
            self.form[rows] = 0
            for bits in BYTE_ORDER_BITS:
                self.form[rows[self.imm[rows] == bits]] = FORM_NUMBER[f"{name}{bits}"]

    def _divisions(self) -> None:
        """Divisions by immediates: by 0 there is no result, most need no guard, some take the spare register."""
        rows = ((self.guard > 0) & _HAS_IMMEDIATE[self.form]).nonzero()[0]
        imm, form = self.imm[rows], self.form[rows]
        may_overflow = (self.guard[rows] == Kind.SIGNED_DIVISOR) & (imm == -1)
        self.guard[rows[~may_overflow]] = 0
        takes_spare = may_overflow | (self.unsigned[rows] > 0) & (imm < 0)
        self.before[rows[takes_spare]] = CONSTANT
        self.form[rows] = np.where(imm == 0, 0, np.where(takes_spare, _WITH_REGISTER[form], form))

    def _spare_constants(self) -> None:
        """What goes to the spare register: the immediate, with its sign or without, or as the upper half."""
        spare = self.before == CONSTANT
        self.constant[spare & (self.unsigned > 0)] &= LOW
        self.constant[spare & (self.form == UPPER_HALF)] <<= LOW.bit_length()

    def _jumps(self) -> None:
        """A jump that leads astray cannot be carried out; a branch leads to the place behind the end."""
        slots = len(self.form)
        jump, branch = self.form == JUMP, BRANCHES[self.form]
        target = np.arange(slots) + 1 + self.offset
        astray = (target < 0) | (target >= slots)
        self.form[astray & jump] = 0
        rows = (astray & branch).nonzero()[0]
        self.offset[rows] = slots - rows - 1

    def _register_calls(self) -> None:
        """The register whose address is called goes to dst."""
        version, code = self.executable.version, self.code
        for pc in (self.form == CALLX).nonzero()[0].tolist():
            number = register_of_callx(version, int(code.dst[pc]), int(code.src[pc]), int(code.imm[pc]))
            if 0 <= number < REGISTERS:
                self.dst[pc] = number
            else:
                self.form[pc] = 0

    def _calls(self) -> Rows:
        """Calls of functions become calls at a distance. Returns what targets_of does of all calls."""
        calls, targets = targets_of(self.executable, self.code, self.target_of)
        local = targets != SYSCALL
        pc, target = calls[local], targets[local]
        self.form[pc] = np.where(self.form[pc] == 0, 0, np.where(target < len(self.form), LOCAL_CALL, 0))
        self.imm[pc] = target - pc - 1
        return targets

    def _lowered(self, second: Rows, starts: Rows) -> Lowered:
        is_second = np.zeros(len(self.form) + 1, bool)
        is_second[second] = True
        code = Instructions(
            form=_longer(self.form),
            opcode=_longer(self.code.opcode),
            dst=_longer(self.dst),
            src=_longer(self.code.src),
            offset=_longer(self.offset),
            imm=_longer(self.imm),
            constant=_longer(self.constant).view(np.uint64),
            is_second=is_second,
            byteorder="little",
        )
        # Slots have one row more than the code, for a place behind its end that nothing leads to.
        kind, before, guard, narrow, extends = (
            _longer(_longer(column)) for column in (self.kind, self.before, self.guard, self.narrow, self.extends)
        )
        return Lowered(slots_of(code, starts), kind, before, guard, narrow > 0, extends > 0)


def _longer(column: Rows) -> Rows:
    return np.append(column, np.int64(0))
