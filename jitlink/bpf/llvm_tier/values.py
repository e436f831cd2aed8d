"""The text of a function in LLVM IR, and what registers hold where it is being written.

Each register has a place on LLVM's stack (alloca), read once in a block and written at its end, which LLVM turns
into SSA values. Between the two a register is the name of a value. Values of 32 bits are kept under their own
names beside the wide ones.

**Leaving.** The last element of a function's result says that the program has left (jitlink.bpf.jit.abi): then
everybody returns at once, and what matters is in the record. Before it leaves, code stores the registers
that the interpreter reads when it carries the instruction out. The rest, which is the same everywhere, is written once
for a function, at the label stop; LLVM's time depends on how much there is of it. The place that it leaves from is a
number: `@places` plus the slot plus 1; which number `@places` is, the linker says.
"""

from __future__ import annotations

from collections.abc import Callable

from jitlink.bpf.isa import FRAME_POINTER, REGISTERS
from jitlink.bpf.jit.abi import Status
from jitlink.bpf.llvm_tier.bodies import Body, Program
from jitlink.bpf.llvm_tier.choices import LOCALS, RESULTS, Choices, record_field

UNLIKELY, LIKELY = "!prof !0", "!prof !1"
"""What is said of a branch: that it goes to its first label hardly ever, or nearly always."""


class Values:
    """A function in the making. Attributes: program; body; choices; lines (of its text)."""

    def __init__(self, program: Program, body: Body, choices: Choices) -> None:
        self.program = program
        self.body = body
        self.choices = choices
        self.lines: list[str] = []
        self._count = 0
        self._value: dict[int, str] = {}
        self._narrow: dict[str, str] = {}
        self._dirty: set[int] = set()
        self._symbol_of: dict[str, str] = {}

    def _add(self, *lines: str) -> None:
        self.lines += lines

    def _new(self) -> int:
        self._count += 1
        return self._count

    def _set(self, line: str) -> str:
        """Add an instruction; returns the name of its result."""
        name = f"%t{self._new()}"
        self.lines.append(f"{name} = {line}")
        return name

    def _get(self, register: int) -> str:
        """The value of a register."""
        if register == FRAME_POINTER and self.choices.frame_is_known:
            return "%frame"
        value = self._value.get(register)
        if value is None:
            value = self._value[register] = self._set(f"load i64, ptr %R{register}")
        return value

    def _put(self, register: int, value: str) -> None:
        self._value[register] = value
        self._dirty.add(register)

    def _get_narrow(self, register: int) -> str:
        """The low 32 bits of a register."""
        value = self._get(register)
        narrow = self._narrow.get(value)
        if narrow is None:
            narrow = self._narrow[value] = self._set(f"trunc i64 {value} to i32")
        return narrow

    def _put_narrow(self, register: int, value: str) -> None:
        wide = self._set(f"zext i32 {value} to i64")
        self._narrow[wide] = value
        self._put(register, wide)

    def _operand(self, register: int, bits: int) -> str:
        return self._get(register) if bits == 64 else self._get_narrow(register)

    def _give(self, register: int, value: str, bits: int) -> None:
        if bits == 64:
            self._put(register, value)
        else:
            self._put_narrow(register, value)

    def _cut(self, register: int, bits: int) -> str:
        """The low bits of a register."""
        if bits == 64:
            return self._get(register)
        return self._get_narrow(register) if bits == 32 else self._set(f"trunc i64 {self._get(register)} to i{bits}")

    def _flush(self) -> None:
        """Write the registers that have changed to their places."""
        for register in sorted(self._dirty):
            self._add(f"store i64 {self._value[register]}, ptr %R{register}")
        self._dirty.clear()

    def _reload(self, first: int = 0) -> None:
        """Forget values of registers, which are in their places now."""
        for register in range(first, REGISTERS):
            self._value.pop(register, None)

    def _in_cold_block(self, write: Callable[[], None]) -> None:
        """Write a block that does not come back: what it has made of registers does not hold behind it."""
        value, narrow = self._value.copy(), self._narrow.copy()
        write()
        self._value, self._narrow = value, narrow

    def _registers(self) -> range:
        return range(LOCALS + (not self.choices.frame_is_known))

    def _stored(self, count: int) -> list[str]:
        """The first registers as they are in the record."""
        return [self._set(f"load i64, ptr %P{register}") for register in range(count)]

    def _store_registers(self, registers: list[int]) -> None:
        for register in registers:
            self._add(f"store i64 {self._get(register)}, ptr %P{register}")

    def _place(self, slot: int) -> str:
        """The number that an instruction is left by."""
        return self._set(f"add i64 ptrtoint (ptr @places to i64), {slot + 1}")

    def _store_state(self, place: str) -> None:
        """Store what the machine looks at besides registers."""
        self._add(f"store i64 {place}, ptr {self._set(record_field('place'))}")
        self._add(f"store i64 %frame, ptr {self._set(record_field('frame'))}")
        if self.choices.metered:
            budget = self._set("load i64, ptr %Budget")
            self._add(f"store i64 {budget}, ptr {self._set(record_field('budget'))}")

    def _take_budget(self) -> None:
        if self.choices.metered:
            budget = self._set(f"load i64, ptr {self._set(record_field('budget'))}")
            self._add(f"store i64 {budget}, ptr %Budget")

    def _leave(self, slot: int, status: Status, registers: list[int]) -> None:
        """Leave at an instruction; the current block of IR ends."""
        self._store_registers(registers)
        self._add(f"store i64 {slot + 1}, ptr %Place", f"store i64 {int(status)}, ptr %Status", "br label %stop")

    def _write_ends(self) -> None:
        """Write what all places that the function can be left from lead to."""
        self._add("stop:")
        place = self._set(f"add i64 {self._set('load i64, ptr %Place')}, ptrtoint (ptr @places to i64)")
        status = self._set("load i64, ptr %Status")
        self._store_state(place)
        self._add(f"store i64 {status}, ptr {self._set(record_field('status'))}", "br label %left", "left:")
        self._add(f"ret {self.choices.result} {{ {'i64 poison, ' * (RESULTS + self.choices.metered)}i1 true }}")

    def _fault(self, slot: int) -> None:
        shape = self.program.shape(slot)
        fields = {"dst": self.program.dst[slot], "src": self.program.src[slot]}
        self._leave(slot, Status.FAULT, sorted({0} | {fields[name] for name in shape.reads}))
