"""Jumps, branches and returns in LLVM IR: which label of the function leads to which block of the program."""

from __future__ import annotations

from jitlink.bpf.isa import Form
from jitlink.bpf.llvm_tier.bodies import Body, Program
from jitlink.bpf.llvm_tier.choices import RESULTS, Choices
from jitlink.bpf.llvm_tier.loops import Loop
from jitlink.bpf.llvm_tier.operations import CONDITIONS
from jitlink.bpf.llvm_tier.values import Values


class Control(Values):
    """Where control goes from the block that is being written."""

    def __init__(self, program: Program, body: Body, choices: Choices) -> None:
        super().__init__(program, body, choices)
        self._lead = body.entry
        self._loops: dict[int, Loop] = {}
        self._fast: Loop | None = None
        self._exits: list[tuple[str, int, int]] = []

    def _way(self, target: int, lead: int | None = None) -> str:
        """The label of a block, for a jump from the block at lead (by default the one being written)."""
        lead = self._lead if lead is None else lead
        if self._fast is not None:
            if target in (self._fast.lead, self._fast.latch):
                return f"L{lead}.next"
            self._exits.append((f"L{lead}.out{len(self._exits)}", target, lead))
            return self._exits[-1][0]
        loop = self._loops.get(target)
        return f"b{target}" if loop is None or lead in (loop.lead, loop.latch) else f"L{target}.enter"

    def _jump(self, slot: int, shape: Form) -> bool:
        if not self.program.stays[slot]:
            self._fault(slot)
            return False
        self._flush()
        self._add(f"br label %{self._way(self.program.target[slot])}")
        return False

    def _branch(self, slot: int, shape: Form) -> bool:
        program = self.program
        number = self._new()
        taken = f"%u{number}"
        if shape.operation == "may_goto":
            rounds = self._set("load i64, ptr %Rounds")
            left = self._set(f"sub i64 {rounds}, 1")
            self._add(f"store i64 {left}, ptr %Rounds", f"{taken} = icmp slt i64 {left}, 0")
        else:
            self._condition(slot, shape, taken)
        self._flush()
        following = self._way(program.following(slot))
        if program.stays[slot]:
            self._add(f"br i1 {taken}, label %{self._way(program.target[slot])}, label %{following}")
            return False
        self._add(f"br i1 {taken}, label %x{number}, label %{following}", f"x{number}:")
        self._fault(slot)
        return False

    def _condition(self, slot: int, shape: Form, name: str) -> None:
        bits, program = shape.bits, self.program
        first = self._operand(program.dst[slot], bits)
        second = self._operand(program.src[slot], bits) if shape.from_register else str(program.imm[slot])
        if shape.operation == "jset":
            self._add(f"{name} = icmp ne i{bits} {self._set(f'and i{bits} {first}, {second}')}, 0")
        else:
            self._add(f"{name} = icmp {CONDITIONS[shape.operation]} i{bits} {first}, {second}")

    def _exit(self, slot: int, shape: Form) -> bool:
        self._return([self._get(register) for register in range(RESULTS)])
        return False

    def _return(self, values: list[str]) -> None:
        """Give registers back, and the budget."""
        if self.choices.metered:
            values = [*values, self._set("load i64, ptr %Budget")]
        made = "poison"
        for position, value in enumerate(values):
            made = self._set(f"insertvalue {self.choices.result} {made}, i64 {value}, {position}")
        made = self._set(f"insertvalue {self.choices.result} {made}, i1 false, {len(values)}")
        self._add(f"ret {self.choices.result} {made}")
