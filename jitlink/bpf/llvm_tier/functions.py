"""A function of a BPF program as LLVM IR: its head, its blocks, and the second versions of its loops.

It is an internal function that takes r0 to r9 and gives r0 to r5 back, since a callee sees what its caller
has left in registers and the other way round; what nobody reads LLVM drops. What is written for an instruction is
in the modules of its sort: arithmetic, accesses, calls, control.
"""

from __future__ import annotations

from collections.abc import Callable

from jitlink.bpf.isa import REGISTERS, Family, Form
from jitlink.bpf.jit.abi import Status
from jitlink.bpf.llvm_tier.arithmetic import Arithmetic
from jitlink.bpf.llvm_tier.bodies import Body, Program
from jitlink.bpf.llvm_tier.calls import Calls
from jitlink.bpf.llvm_tier.choices import Choices, record_field
from jitlink.bpf.llvm_tier.loops import Loop
from jitlink.bpf.llvm_tier.rounds import Rounds
from jitlink.bpf.llvm_tier.values import UNLIKELY

NOWHERE = -2
"""In the place of the block that a function is entered from."""


class FunctionWriter(Arithmetic, Calls, Rounds):
    """One function in the making. Attributes: lines (of its text); attributes (number of their group in the module)."""

    def __init__(self, program: Program, body: Body, choices: Choices, outside: set[int], attributes: int = 0) -> None:
        super().__init__(program, body, choices, outside)
        self.attributes = attributes
        self._loops = self._find_loops()
        self._emit: dict[Family, Callable[[int, Form], bool]] = {
            Family.ARITHMETIC: self._arithmetic,
            Family.BYTE_ORDER: self._byte_order,
            Family.CONSTANT: self._constant,
            Family.LOAD: self._load,
            Family.STORE: self._store,
            Family.ATOMIC: self._atomic,
            Family.JUMP: self._jump,
            Family.BRANCH: self._branch,
            Family.CALL: self._call,
            Family.PACKET: self._packet,
            Family.EXIT: self._exit,
        }

    def write(self) -> str:
        """Write the function."""
        choices = self.choices
        for lead, block in self.body.blocks.items():
            self._block(lead, block)
            if lead in self._loops:
                self._loop(self._loops[lead], block)
        self._write_ends()
        head = f"define internal fastcc {choices.result} @f{self.body.entry}({', '.join(choices.parameters)})"
        start = f"br label %{self._way(self.body.entry, NOWHERE)}"
        return "\n".join([f"{head} #{self.attributes} {{", "start:", *self._variables(), start, *self.lines, "}"])

    def _variables(self) -> list[str]:
        """What the function keeps from block to block, each with the value that it begins with."""
        begins = {f"%R{number}": f"%r{number}" for number in self._registers()} | {"%Rounds": "%rounds"}
        if self.choices.metered:
            begins["%Budget"] = "%budget"
        for site, sizes in self._sites.items():
            begins |= dict.fromkeys([f"%{site}", *(f"%{site}n{size}" for size in sizes)], "0")
        for loop in self._loops.values():
            begins |= dict.fromkeys([f"%I{loop.lead}", *(name for pair in loop.kept for name in pair)], "0")
        places = [f"%P{number} = {record_field('registers', 8 * number)}" for number in range(REGISTERS)]
        set_first = [f"{name} = alloca i64\nstore i64 {value}, ptr {name}" for name, value in begins.items()]
        return [*places, *set_first, "%Place = alloca i64", "%Status = alloca i64"]

    def _block(self, lead: int, block: list[int]) -> None:
        self._value.clear()
        self._narrow.clear()
        self._dirty.clear()
        self._lead = lead
        self._add(f"b{lead}:")
        if self.choices.metered:
            self._meter(lead, block)
        self._carry_out(block)

    def _carry_out(self, block: list[int]) -> None:
        """Write the instructions of a block, and where it leads."""
        for slot in block:
            shape = self.program.shape(slot)
            if shape.family is Family.NONE:
                self._fault(slot)
                return
            if not self._emit[shape.family](slot, shape):
                return
        self._flush()
        self._add(f"br label %{self._way(self.program.following(block[-1]))}")

    def _loop(self, loop: Loop, block: list[int]) -> None:
        """Write the second version of a loop, which has no checks and no meter."""
        lead = loop.lead
        self._value.clear()
        self._narrow.clear()
        self._add(f"L{lead}.enter:")
        rounds = self._rounds(loop)
        self._add(f"store i64 0, ptr %I{lead}", f"br label %L{lead}.again", f"L{lead}.again:")
        self._value.clear()
        self._narrow.clear()
        self._add(f"%L{lead}.i = load i64, ptr %I{lead}", f"%L{lead}.goes = icmp ult i64 %L{lead}.i, {rounds}")
        self._add(f"br i1 %L{lead}.goes, label %L{lead}.round, label %L{lead}.done", f"L{lead}.round:")
        self._fast, self._exits = loop, []
        self._carry_out(block)
        self._fast = None
        self._add(f"L{lead}.next:", f"%L{lead}.j = add i64 %L{lead}.i, 1", f"store i64 %L{lead}.j, ptr %I{lead}")
        self._add(f"br label %L{lead}.again", f"L{lead}.done:")
        self._account(loop, 0)
        self._add(f"br label %b{lead}")
        for label, target, _ in self._exits:
            self._add(f"{label}:")
            self._account(loop, self.program.counted[lead])
            self._add(f"br label %{self._way(target)}")

    def _meter(self, lead: int, block: list[int]) -> None:
        """Take the block from the budget, or leave with what the interpreter reads to carry out a part of it."""
        number = self._new()
        left = self._set("load i64, ptr %Budget")
        self._add(f"%m{number} = sub i64 {left}, {self.program.counted[lead]}")
        self._add(f"store i64 %m{number}, ptr %Budget", f"%o{number} = icmp slt i64 %m{number}, 0")
        self._add(f"br i1 %o{number}, label %x{number}, label %y{number}, {UNLIKELY}", f"x{number}:")
        self._leave(lead, Status.OUT_OF_BUDGET, self._exposed(block[:-1]))
        self._value.clear()
        self._narrow.clear()
        self._add(f"y{number}:")

    def _exposed(self, block: list[int]) -> list[int]:
        """The registers that a block reads before it writes them; r0 counts as read."""
        read: set[int] = {0}
        written: set[int] = set()
        for slot in block:
            shape = self.program.shape(slot)
            fields = {"dst": self.program.dst[slot], "src": self.program.src[slot]}
            read |= {fields[name] for name in shape.reads} - written
            written |= {fields[name] for name in shape.writes}
        return sorted(read)
