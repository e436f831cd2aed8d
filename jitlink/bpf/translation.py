"""From the columns of a program to the steps of the interpreter.

A step is made for every slot, also for those that must not be reached: a second half of a wide
constant, an encoding that nobody defines, the place behind the last instruction. Reaching one of
them is a fault with a reason. A jump out of the program is the fault of the jump itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jitlink.bpf import steps
from jitlink.bpf.faults import BpfFault, FaultKind, helper_name
from jitlink.bpf.instructions import SLOT
from jitlink.bpf.isa import FORMS, Family, Form
from jitlink.bpf.machine import FUNCTION_BASE, POISON, VALUE_MASK, Code
from jitlink.bpf.semantics import Step, maker

if TYPE_CHECKING:
    from jitlink.bpf.interpreter import Interpreter

MISSING_FUNCTION = 2_002_000_000
EXPLAINED = {
    0xBAD2310: "a CO-RE relocation of this instruction did not find its target",
    MISSING_FUNCTION: "this is a call of a weak function outside of the program, which nobody has given",
}
"""Helper numbers that a loader writes to mark an instruction as unusable (libbpf's are these)."""


def translate(code: Code, machine: Interpreter) -> list[Step]:
    """Make the steps of a program: one for each slot, and one behind the end.

    Never raises for what is wrong in the program: that is the fault of the instruction reached.
    """
    translation = _Translation(code, machine)
    return [translation.step(pc) for pc in range(translation.slots + 1)]


def steps_of(code: Code, machine: Interpreter) -> Callable[[int], Step]:
    """Make a function that makes single steps of a program, for who needs few: from the index of its slot."""
    return _Translation(code, machine).step


class _Translation:
    """The makers of steps for one program on one machine, by family."""

    def __init__(self, code: Code, machine: Interpreter) -> None:
        self.machine = machine
        self.code = code
        self.byteorder = code.instructions.byteorder
        self.slots = len(code.instructions)
        columns = code.instructions
        self.rows = [
            columns.form.tolist(),
            columns.dst.tolist(),
            columns.src.tolist(),
            columns.offset.tolist(),
            columns.imm.tolist(),
            columns.constant.tolist(),
        ]

    def step(self, pc: int) -> Step:
        """Make the step of a slot, or of the place behind the last one."""
        if pc == self.slots:
            return steps.refuse(FaultKind.BAD_JUMP, "the program runs off its end")
        form, d, s, offset, imm, constant = (column[pc] for column in self.rows)
        return self._step(pc, form, d, s, offset, imm, constant)

    def _step(self, pc: int, number: int, d: int, s: int, offset: int, imm: int, constant: int) -> Step:
        form = FORMS[number]
        fault = self._undefined(pc, form, d, s)
        if fault:
            return steps.refuse(FaultKind.BAD_INSTRUCTION, fault)
        regions, order, bits, following = self.machine.regions, self.byteorder, form.bits, pc + 1
        match form.family:
            case Family.ARITHMETIC:
                return maker(number)(d, s, _operand(form, imm), following, following)
            case Family.BRANCH:
                return self._branch(number, d, s, imm, following, following + offset)
            case Family.JUMP:
                return self._jump(following + (imm if bits == 32 else offset))
            case Family.LOAD:
                return steps.load(regions, order, bits, form.operation == "load_signed", d, s, offset, following)
            case Family.STORE if form.from_register:
                return steps.store(regions, order, bits, d, s, offset, following)
            case Family.STORE:
                return steps.store_constant(regions, order, bits, d, imm, offset, following)
            case Family.ATOMIC:
                return steps.atomic(regions, order, form.operation, bits, d, s, offset, following)
            case Family.BYTE_ORDER:
                return steps.convert(form.operation, bits, order, d, following)
            case Family.CONSTANT:
                return self._constant(pc, form, d, imm, constant)
            case Family.PACKET:
                return self._packet(form, s, imm, following)
            case Family.CALL:
                return self._call(pc, form, d, imm)
            case _:
                return self._exit()

    def _undefined(self, pc: int, form: Form, d: int, s: int) -> str | None:
        columns = self.code.instructions
        if columns.is_second[pc]:
            return "the program jumps into the middle of a wide constant"
        if form.family is Family.NONE:
            return f"nobody defines an instruction with opcode {columns.opcode[pc]:#04x} and these fields"
        if form.refused:
            return f"{form.name} is not supported: {form.refused}"
        for field, register in (("dst", d), ("src", s)):
            if field in form.operands and register > 10:
                return f"there is no register r{register}"
        if form.family is Family.CONSTANT and pc + 1 == self.slots:
            return "the program ends in the middle of a wide constant"
        return None

    def _branch(self, number: int, d: int, s: int, imm: int, following: int, target: int) -> Step:
        form = FORMS[number]
        # A target of -1 stands for all places outside of the program.
        reached = target if 0 <= target < self.slots else -1
        if form.operation == "may_goto":
            step = self._may_goto(following, reached)
        else:
            step = maker(number)(d, s, _operand(form, imm), following, reached)
        return step if reached >= 0 else self._checked(step, target)

    def _checked(self, step: Step, target: int) -> Step:
        leaves = self._jump(target)

        def branch(r: list[int]) -> int:
            following = step(r)
            return following if following >= 0 else leaves(r)

        return branch

    def _jump(self, target: int) -> Step:
        if 0 <= target < self.slots:
            return steps.jump(target)
        return steps.refuse(FaultKind.BAD_JUMP, f"jump to {target}, outside of the program's {self.slots} slots")

    def _may_goto(self, following: int, target: int) -> Step:
        again = self.machine.loop_again
        return lambda r: following if again() else target

    def _constant(self, pc: int, form: Form, d: int, imm: int, value: int) -> Step:
        if form.operation == "value":
            return steps.constant(d, value, pc + 2)
        if form.operation == "code":
            return steps.constant(d, FUNCTION_BASE + SLOT * (pc + 1 + imm) & VALUE_MASK, pc + 2)
        return steps.refuse(FaultKind.UNRESOLVED, f"the reference {form.effect.replace('imm', str(imm))} is unresolved")

    def _packet(self, form: Form, s: int, imm: int, following: int) -> Step:
        machine, size, indirect = self.machine, form.bits // 8, form.from_register

        def load_packet(r: list[int]) -> int:
            if machine.packet_bounds is None:
                raise BpfFault(FaultKind.NO_PACKET, f"{form.name} without a packet")
            start, end = machine.packet_bounds(r[6])
            position = imm + r[s] if indirect else imm
            # The position is a signed 32-bit number. Outside of the packet the function ends with
            # r0 = 0; so do the kernel's negative positions, which reach into its own headers.
            position = (position & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
            if position < 0 or start + position + size > end:
                r[0] = 0
                return machine.leave()
            r[0] = int.from_bytes(machine.read(start + position, size), "big")
            r[1:6] = [POISON] * 5
            return following

        return load_packet

    def _call(self, pc: int, form: Form, d: int, imm: int) -> Step:
        following = pc + 1
        match form.operation:
            case "local":
                enter, target = self.machine.enter, following + imm
                return (lambda r: enter(target, following)) if 0 <= target < self.slots else self._jump(target)
            case "register":
                return self._call_register(pc, d)
            case _:
                return self._call_helper(pc, form.operation, imm & 0xFFFF_FFFF)

    def _call_helper(self, pc: int, kind: str, number: int) -> Step:
        table = self.machine.helpers if kind == "helper" else self.machine.kfuncs
        call_helper, following = self.machine.call_helper, pc + 1

        def call(r: list[int]) -> int:
            helper = table.get(number)
            if helper is None:
                missing = helper_name(number) if kind == "helper" else f"kfunc with the BTF id {number}"
                raise BpfFault(FaultKind.UNKNOWN_HELPER, EXPLAINED.get(number, f"there is no {missing}"))
            call_helper(pc, helper)
            return following

        return call

    def _call_register(self, pc: int, d: int) -> Step:
        """callx: a function of the program by its pointer, or a helper by its number."""
        machine, following = self.machine, pc + 1

        def call(r: list[int]) -> int:
            helper = machine.helpers.get(r[d])
            if helper is None:
                return machine.enter(machine.function_at(r[d]), following)
            machine.call_helper(pc, helper)
            return following

        return call

    def _exit(self) -> Step:
        leave = self.machine.leave
        return lambda r: leave()


def _operand(form: Form, imm: int) -> int:
    """The immediate, sign-extended to the width of the form and read as unsigned."""
    return imm & (1 << form.bits) - 1
