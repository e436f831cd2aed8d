"""Writing the IR of a function: registers, fields of the record, and leaving.

Registers are variables of the function, which LLVM makes values of; the record has them where the function is
entered, where it calls, and where it leaves.
"""

from __future__ import annotations

from jitlink.bpf.sbpf.abi import OFFSET, Status
from jitlink.bpf.sbpf.isa import Extension


class Values:
    """Writes pieces of IR. Attributes: lines; rest (how many instructions follow in the basic block)."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names = 0
        self.rest = 0

    def add(self, line: str) -> None:
        """Write an instruction."""
        self.lines.append(f"  {line}")

    def label(self, name: str) -> None:
        """Begin a block."""
        self.lines.append(f"{name}:")

    def new(self, expression: str) -> str:
        """Write an instruction with a result, and return its name."""
        self.names += 1
        self.add(f"%t{self.names} = {expression}")
        return f"%t{self.names}"

    def fresh_label(self) -> str:
        """Make a name for a block."""
        self.names += 1
        return f"l{self.names}"

    def load(self, place: str) -> str:
        """Load 64 bits."""
        return self.new(f"load i64, ptr {place}")

    def at(self, name: str, within: int = 0) -> str:
        """The address of a field of the record."""
        return self.new(f"getelementptr i8, ptr %record, i64 {OFFSET[name] + within}")

    def get(self, name: str) -> str:
        """Load a field of the record."""
        return self.load(self.at(name))

    def put(self, name: str, value: str | int) -> None:
        """Store to a field of the record."""
        self.add(f"store i64 {value}, ptr {self.at(name)}")

    def load_registers(self, registers: range) -> None:
        """Take registers and the budget from the record."""
        for number in registers:
            self.add(f"store i64 {self.load(self.at('registers', 8 * number))}, ptr %r{number}")
        self.add(f"store i64 {self.get('budget')}, ptr %budget")

    def store_registers(self, registers: range) -> None:
        """Store registers and the budget to the record."""
        for number in registers:
            value = self.load(f"%r{number}")
            self.add(f"store i64 {value}, ptr {self.at('registers', 8 * number)}")
        self.put("budget", self.load("%budget"))

    def store_variables(self, *names: str) -> None:
        """Store variables of the function to the fields of those names."""
        for name in names:
            self.put(name, self.load(f"%{name}"))

    def leave(self, pc: int, status: Status) -> None:
        """Leave."""
        self.add(f"store i64 {pc}, ptr %place")
        self.add(f"store i64 {int(status)}, ptr %status")
        self.add("br label %leave")

    def fault(self, pc: int) -> None:
        """Leave at an instruction that faults, and give back what follows it in its block."""
        if self.rest:
            left = self.new(f"add i64 {self.load('%budget')}, {self.rest}")
            self.add(f"store i64 {left}, ptr %budget")
        self.leave(pc, Status.FAULT)

    def fault_if(self, condition: str, pc: int) -> None:
        """Leave if a condition holds."""
        bad, good = self.fresh_label(), self.fresh_label()
        self.add(f"br i1 {condition}, label %{bad}, label %{good}")
        self.label(bad)
        self.fault(pc)
        self.label(good)

    # Values of fewer bits

    def cut(self, value: str, bits: int) -> str:
        """The low bits of a value of 64."""
        return value if bits == 64 else self.new(f"trunc i64 {value} to i{bits}")

    def set(self, register: int, value: str, bits: int, extension: Extension) -> None:
        """Set a register to a value of some bits."""
        if bits < 64:
            value = self.new(f"{'s' if extension is Extension.SIGN else 'z'}ext i{bits} {value} to i64")
        self.add(f"store i64 {value}, ptr %r{register}")
