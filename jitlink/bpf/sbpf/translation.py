"""From the slots of an SBPF program to the steps of its interpreter, as jitlink.bpf.translation does for BPF."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from jitlink.bpf import steps
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.sbpf.isa import REGISTERS, Family, Form, forms_of, register_of_callx
from jitlink.bpf.sbpf.memory import Memory
from jitlink.bpf.sbpf.semantics import constant_of, maker
from jitlink.bpf.semantics import Step

if TYPE_CHECKING:
    from jitlink.bpf.sbpf.machine import SbpfMachine

LAYOUTS = {8: Struct("<B"), 16: Struct("<H"), 32: Struct("<I"), 64: Struct("<Q")}
SYSCALL = 0
"""What src says in a call of a syscall in version 3."""


class Translation:
    """Makes the steps of a machine's program, of each slot and of the place behind the last."""

    def __init__(self, machine: SbpfMachine) -> None:
        self.machine = machine
        self.version = machine.executable.version
        self.forms = forms_of(self.version)
        slots = machine.executable.slots
        self.slots = len(slots)
        self.rows = [column.tolist() for column in (slots.opcode, slots.dst, slots.src, slots.offset, slots.imm)]

    def step(self, pc: int) -> Step:
        """Make the step of a slot. Never raises: what is wrong is the fault of the instruction that is reached."""
        if pc == self.slots:
            return steps.refuse(FaultKind.BAD_JUMP, "the program runs off its end")
        opcode, d, s, offset, imm = (column[pc] for column in self.rows)
        form, following = self.forms[opcode], pc + 1
        if form is None or d >= REGISTERS or s >= REGISTERS:
            return steps.refuse(FaultKind.BAD_INSTRUCTION, f"opcode {opcode:#04x} with r{d} and r{s} is no instruction")
        memory = self.machine.memory
        match form.family:
            case Family.ARITHMETIC:
                return maker(form)(d, s, constant_of(form, imm), following, following)
            case Family.BYTE_ORDER:
                if imm not in (16, 32, 64):
                    return steps.refuse(FaultKind.BAD_INSTRUCTION, f"there is no {form.name} of {imm} bits")
                return steps.convert(form.operation, imm, "little", d, following)
            case Family.CONSTANT:
                return self._constant(pc, d, imm)
            case Family.LOAD:
                return _load(memory, form.bits, d, s, offset, following)
            case Family.STORE:
                return _store(memory, form, d, s if form.from_register else imm, offset, following)
            case Family.JUMP:
                return steps.jump(following + offset) if self._inside(following + offset) else self._astray()
            case Family.BRANCH:
                # A branch astray is the fault of the place behind the end, and only where it is taken.
                target = following + offset if self._inside(following + offset) else self.slots
                return maker(form)(d, s, constant_of(form, imm), following, target)
            case Family.CALL:
                return self._call(pc, s, imm)
            case Family.CALL_REGISTER:
                return self._call_register(pc, d, s, imm)
            case _:
                leave = self.machine.leave
                return lambda r: leave()

    def _inside(self, pc: int) -> bool:
        return 0 <= pc < self.slots

    def _astray(self) -> Step:
        return steps.refuse(FaultKind.BAD_JUMP, "the jump leads out of the program")

    def _constant(self, pc: int, d: int, imm: int) -> Step:
        if pc + 1 >= self.slots:
            return steps.refuse(FaultKind.BAD_INSTRUCTION, "the second half of the constant is missing")
        value = (self.rows[4][pc + 1] & 0xFFFF_FFFF) << 32 | imm & 0xFFFF_FFFF
        return steps.constant(d, value, pc + 2)

    def _call(self, pc: int, s: int, imm: int) -> Step:
        following, number = pc + 1, imm & 0xFFFF_FFFF
        enter, target = self.machine.enter, self.machine.function_of_call(pc, s, imm)
        if target is not None:
            return (lambda r: enter(target, following)) if self._inside(target) else self._astray()
        syscalls, call_syscall, named = self.machine.syscalls, self.machine.call_syscall, self.machine.name_of_syscall
        if self.version.is_static and s != SYSCALL:
            return steps.refuse(FaultKind.BAD_INSTRUCTION, f"a call with {s} in src is no instruction")

        def call(r: list[int]) -> int:
            syscall = syscalls.get(number)
            if syscall is None:
                raise BpfFault(FaultKind.UNKNOWN_HELPER, f"there is no {named(number)}")
            call_syscall(pc, syscall)
            return following

        return call

    def _call_register(self, pc: int, d: int, s: int, imm: int) -> Step:
        number = register_of_callx(self.version, d, s, imm)
        if not 0 <= number < REGISTERS:
            return steps.refuse(FaultKind.BAD_INSTRUCTION, f"callx names r{number}, which there is not")
        enter, slot_at, following = self.machine.enter, self.machine.slot_at, pc + 1

        def call(r: list[int]) -> int:
            target = r[number]
            return enter(slot_at(target), following)

        return call


def _load(memory: Memory, bits: int, d: int, s: int, offset: int, following: int) -> Step:
    """dst = *(size *)(src + offset)."""
    translate, size, unpack = memory.translate, bits // 8, LAYOUTS[bits].unpack_from

    def load(r: list[int]) -> int:
        region, at = translate(r[s] + offset, size)
        r[d] = unpack(region.data, at)[0]
        return following

    return load


def _store(memory: Memory, form: Form, d: int, value: int, offset: int, following: int) -> Step:
    """*(size *)(dst + offset) = src or the immediate. value: number of the register, or the immediate."""
    translate, size, pack = memory.translate, form.bits // 8, LAYOUTS[form.bits].pack_into
    mask, from_register = (1 << form.bits) - 1, form.from_register

    def store(r: list[int]) -> int:
        region, at = translate(r[d] + offset, size, True)
        pack(region.data, at, (r[value] if from_register else value) & mask)
        return following

    return store
