"""The verifier of SBPF: what a program must be like to be run.

It looks at each instruction by itself, as the one on the chain does: memory and calls by address are checked
while the program runs.

Source: the section Verification of anza-xyz/sbpf, doc/bytecode.md; SIMD-0166, SIMD-0173, SIMD-0174, SIMD-0377.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import SLOT
from jitlink.bpf.sbpf.executable import Executable, Slots
from jitlink.bpf.sbpf.isa import FRAME_POINTER, REGISTERS, Family, Form, forms_of, register_of_callx
from jitlink.bpf.sbpf.targets import second_halves
from jitlink.bpf.verification import Report, Rule, VerificationFault
from jitlink.columns import Rows

FRAME_ALIGNMENT = 64
"""What is added to r10 is a multiple of this."""
SYSCALL, LOCAL = 0, 1
_OPCODES = 256
Mask = npt.NDArray[np.bool_]


def verify(executable: Executable, syscalls: Container[int]) -> Report:
    """Check a program. syscalls: the numbers of those that there are. Returns all faults, by instruction."""
    return Report(sorted(_Verifier(executable, syscalls).faults(), key=lambda fault: fault.index), executable.name)


class _Verifier:
    """The checks, each over all instructions at once."""

    def __init__(self, executable: Executable, syscalls: Container[int]) -> None:
        self.executable = executable
        self.version = executable.version
        self.syscalls = syscalls
        self.code: Slots = executable.slots
        self.forms = forms_of(self.version)
        self.second: Mask = np.zeros(len(self.code), bool)
        self.second[second_halves(executable, self.code)] = True

    def _of(self, *families: Family) -> Rows:
        """The slots of instructions of some families."""
        table = np.zeros(_OPCODES, bool)
        table[[form.opcode for form in self.forms if form is not None and form.family in families]] = True
        return (table[self.code.opcode] & ~self.second).nonzero()[0]

    def _where(self, rows: Rows, bad: Mask, rule: Rule, message: str) -> Iterator[VerificationFault]:
        for pc in rows[bad].tolist():
            yield VerificationFault(pc, rule, message)

    def faults(self) -> Iterator[VerificationFault]:
        """Find all."""
        if not len(self.code) or len(self.executable.text) % SLOT:
            size = len(self.executable.text)
            yield VerificationFault(0, Rule.EMPTY, f"code of {size} bytes is not one or more slots of {SLOT} bytes")
            return
        yield from self._opcodes()
        yield from self._registers()
        yield from self._constants()
        yield from self._jumps()
        yield from self._calls()

    def _opcodes(self) -> Iterator[VerificationFault]:
        known = np.array([form is not None for form in self.forms])
        for pc in (~known[self.code.opcode] & ~self.second).nonzero()[0].tolist():
            opcode = int(self.code.opcode[pc])
            yield VerificationFault(pc, Rule.OPCODE, f"{opcode:#04x} is no opcode of version {self.version}")

    def _registers(self) -> Iterator[VerificationFault]:
        code, rows = self.code, self._of(*Family)
        yield from self._where(rows, code.src[rows] >= REGISTERS, Rule.REGISTER, "there is no such register src")
        yield from self._where(rows, code.dst[rows] >= REGISTERS, Rule.REGISTER, "there is no such register dst")
        writes = np.setdiff1d(rows, self._of(Family.STORE))
        frame = writes[code.dst[writes] == FRAME_POINTER]
        added = np.zeros(len(frame), bool)
        if self.version.adjusts_frame_pointer:
            added = code.opcode[frame] == 0x07
            uneven = added & (code.imm[frame] % FRAME_ALIGNMENT != 0)
            yield from self._where(frame, uneven, Rule.FRAME_POINTER, f"r10 moves by multiples of {FRAME_ALIGNMENT}")
        yield from self._where(frame, ~added, Rule.FRAME_POINTER, "r10 cannot be the destination")

    def _constants(self) -> Iterator[VerificationFault]:
        code = self.code
        wide = self._of(Family.CONSTANT)
        last = wide == len(code) - 1
        yield from self._where(wide, last, Rule.TRUNCATED, "the second half of the constant is missing")
        following = wide[~last] + 1
        bad = code.opcode[following] != 0
        yield from self._where(wide[~last], bad, Rule.TRUNCATED, "the second half of the constant has an opcode")
        orders = self._of(Family.BYTE_ORDER)
        bad = ~np.isin(code.imm[orders], (16, 32, 64))
        yield from self._where(orders, bad, Rule.RESERVED, "a byte order is of 16, 32 or 64 bits")
        for form in self.forms:
            if form is not None and not form.from_register and (form.divides or form.shifts):
                yield from self._operands(form)

    def _operands(self, form: Form) -> Iterator[VerificationFault]:
        rows = ((self.code.opcode == form.opcode) & ~self.second).nonzero()[0]
        imm = self.code.imm[rows]
        if form.divides:
            yield from self._where(rows, imm == 0, Rule.DIVISION, "division by the constant 0")
        else:
            bad = (imm < 0) | (imm >= form.bits)
            yield from self._where(rows, bad, Rule.SHIFT, f"a shift of {form.bits} bits by as many, or by less than 0")

    def _jumps(self) -> Iterator[VerificationFault]:
        rows = self._of(Family.JUMP, Family.BRANCH)
        target = rows + 1 + self.code.offset[rows]
        inside = (target >= 0) & (target < len(self.code))
        yield from self._where(rows, ~inside, Rule.JUMP, "the jump leads out of the code")
        rows, target = rows[inside], target[inside]
        yield from self._where(rows, self.code.opcode[target] == 0, Rule.JUMP, "the jump leads into a constant")

    def _calls(self) -> Iterator[VerificationFault]:
        code = self.code
        for pc in self._of(Family.CALL_REGISTER).tolist():
            number = register_of_callx(self.version, int(code.dst[pc]), int(code.src[pc]), int(code.imm[pc]))
            if not 0 <= number < FRAME_POINTER:
                yield VerificationFault(pc, Rule.REGISTER, "callx takes an address from r0 to r9")
        for pc in self._of(Family.CALL).tolist():
            fault = self._call(pc, int(code.src[pc]), int(code.imm[pc]))
            if fault is not None:
                yield fault

    def _call(self, pc: int, src: int, imm: int) -> VerificationFault | None:
        number = imm & 0xFFFF_FFFF
        if self.version.is_static and src == LOCAL:
            inside = 0 <= pc + 1 + imm < len(self.code)
            return None if inside else VerificationFault(pc, Rule.CALL, "the call leads out of the code")
        if self.version.is_static and src != SYSCALL:
            return VerificationFault(pc, Rule.RESERVED, f"src of a call is 0 or 1, not {src}")
        if number in self.syscalls:
            return None
        if not self.version.is_static and number not in self.executable.syscalls:
            # A function, or what no relocation has given a name: only running it shows that nothing has that number.
            return None
        name = self.executable.syscalls.get(number, f"with the number {number:#x}")
        return VerificationFault(pc, Rule.HELPER, f"there is no syscall {name}")
