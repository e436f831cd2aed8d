"""The reference interpreter: plain, checked at every step, and exactly right.

A program is translated once: every instruction becomes a step, a closure over its operands that
carries the instruction out on the list of registers and returns the index of the next one. The run
loop then is

    for _ in budget:
        pc = steps[pc](registers)

where budget is an iterator that ends when the instructions are used up. A function that a helper
calls back into takes from the same iterator, and so one budget holds for all. Leaving the loop is
rare and done by exceptions: the last function has returned, another program takes over, or a fault.
A step hook has a loop of its own, so that it costs nothing where there is none.

A call of a program-local function does not nest the loop: it pushes what must come back (r6 to r9,
the place to go on, the count of may_goto) and moves r10 to the stack of the next frame. Each frame
is a region of 512 bytes that exists only while its function is active; the callee can follow a
pointer into its caller's stack, and a pointer into a stack that is gone faults.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from itertools import repeat
from operator import length_hint
from typing import NoReturn
from weakref import WeakKeyDictionary

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.isa import CALL_DEPTH, FRAME_POINTER, STACK_SIZE, TAIL_CALLS
from jitlink.bpf.machine import DEFAULT_BUDGET, POISON, VALUE_MASK, Code, Helper, Machine
from jitlink.bpf.observation import Hook
from jitlink.bpf.regions import Region, Regions
from jitlink.bpf.semantics import Step
from jitlink.bpf.translation import translate
from jitlink.errors import UsageError

MAY_GOTO_LIMIT = 1 << 20
"""How often may_goto falls through in one activation of a function before it jumps. The kernel
lets a loop go on for 8 Mi rounds or a quarter of a second; a program may rely on neither."""

ARGUMENTS = 5
FRAME_STRIDE = 2 * STACK_SIZE
_TO_PYTHON = -1
_CLOBBERED = [POISON] * 5

Frame = tuple[Code, int, list[int], int]
"""A caller that waits: its program, where it goes on, its r6 to r10, its may_goto count."""


class Returned(BaseException):
    """The function that Python called has returned."""


class Entered(BaseException):
    """The run goes on in another program. Helpers that catch Exception must not stop this."""

    def __init__(self, code: Code, pc: int) -> None:
        self.code = code
        self.pc = pc


class Interpreter(Machine):
    """Runs programs instruction by instruction.

    Attributes beyond Machine's: hook (called before every instruction with the machine, or None;
    looked at when a run starts); may_goto_limit.
    """

    def __init__(
        self,
        *,
        regions: Regions | None = None,
        helpers: MutableMapping[int, Helper] | None = None,
        kfuncs: MutableMapping[int, Helper] | None = None,
        hook: Hook | None = None,
        may_goto_limit: int = MAY_GOTO_LIMIT,
    ) -> None:
        super().__init__(regions=regions, helpers=helpers, kfuncs=kfuncs)
        self.hook = hook
        self.may_goto_limit = may_goto_limit
        self._steps: WeakKeyDictionary[Code, list[Step]] = WeakKeyDictionary()
        self._budget: Iterator[None] = iter(())
        self._budget_at_start = 0
        self._frames: list[Frame] = []
        self._may_goto_left = 0
        self._tail_calls_left = 0
        self._stack_frames = _make_stack(self.regions)

    @property
    def budget_left(self) -> int:
        return length_hint(self._budget)

    @property
    def instructions(self) -> int:
        return self._budget_at_start - self.budget_left

    def run(self, code: Code, *arguments: int, budget: int = DEFAULT_BUDGET) -> int:
        if self.depth:
            raise UsageError("a run is under way on this machine: a helper calls back with call_function")
        self._budget, self._budget_at_start = repeat(None, budget), budget
        self._tail_calls_left = TAIL_CALLS
        self._clear_stack()
        self.registers[:] = [0] * len(self.registers)
        self.code = code
        return self._call_from_python(0, arguments)

    def call_function(self, function: int, *arguments: int) -> int:
        self._require_run()
        return self._call_from_python(self.function_at(function), arguments)

    def tail_call(self, code: Code) -> bool:
        self._require_run()
        if not self._tail_calls_left:
            return False
        self._tail_calls_left -= 1
        self.registers[2:6] = _CLOBBERED[:4]
        self._may_goto_left = self.may_goto_limit
        raise Entered(code, 0)

    def close(self) -> None:
        """Take the stack out of the memory of the program."""
        for region in self._stack_frames:
            self.regions.remove(region)

    def call_helper(self, pc: int, helper: Helper) -> None:
        """Call a helper for the instruction at pc: r1 to r5 in, r0 out."""
        r = self.registers
        self.pc = pc
        r[0] = int(helper(self, r[1], r[2], r[3], r[4], r[5])) & VALUE_MASK
        r[1:6] = _CLOBBERED

    def enter(self, target: int, going_on_at: int) -> int:
        """Call the function at target, which returns to going_on_at. Returns target."""
        depth = self.depth
        if depth == CALL_DEPTH:
            raise too_deep()
        self._frames.append((self.code, going_on_at, self.registers[6:], self._may_goto_left))
        frame = self._stack_frames[depth]
        frame.size = STACK_SIZE
        self.registers[FRAME_POINTER] = frame.end
        self.depth = depth + 1
        self._may_goto_left = self.may_goto_limit
        return target

    def leave(self) -> int:
        """Return from a function. Returns the index where its caller goes on."""
        self.depth -= 1
        self._stack_frames[self.depth].size = 0
        code, going_on_at, self.registers[6:], self._may_goto_left = self._frames.pop()
        if going_on_at == _TO_PYTHON:
            self.code = code
            raise Returned
        if code is not self.code:
            raise Entered(code, going_on_at)
        return going_on_at

    def loop_again(self) -> bool:
        """Count one round of a may_goto loop; False when it must end."""
        self._may_goto_left -= 1
        return self._may_goto_left >= 0

    def out_of_budget(self) -> BpfFault:
        """Make the fault of a run that has taken as many instructions as it may."""
        limit = f"the program has used up its budget of {self._budget_at_start} instructions"
        return BpfFault(FaultKind.BUDGET, limit)

    def _require_run(self) -> None:
        if not self.depth:
            raise UsageError("no run is under way on this machine: only helpers can call its functions")

    def _call_from_python(self, target: int, arguments: tuple[int, ...]) -> int:
        if len(arguments) > ARGUMENTS:
            raise UsageError(f"a BPF function takes at most {ARGUMENTS} arguments, not {len(arguments)}")
        depth = self.depth
        try:
            self.enter(target, _TO_PYTHON)
            for number, argument in enumerate(arguments, 1):
                self.registers[number] = int(argument) & VALUE_MASK
            self._execute(target)
        finally:
            self._unwind(depth)
        return self.registers[0]

    def _execute(self, pc: int) -> None:
        """Run the current program from pc until the function that Python called has returned."""
        while True:
            try:
                self._take_steps(self._steps_of(self.code), pc)
            except Returned:
                return
            except Entered as entered:
                self.code, pc = entered.code, entered.pc

    def _take_steps(self, steps: list[Step], pc: int) -> NoReturn:
        """Run one program until something leaves it."""
        registers, hook = self.registers, self.hook
        try:
            if hook is None:
                for _ in self._budget:
                    pc = steps[pc](registers)
            else:
                for _ in self._budget:
                    self.pc = pc
                    hook(self)
                    pc = steps[pc](registers)
            raise self.out_of_budget()
        except BpfFault as fault:
            fault.locate(pc, self.code.line(pc), self.code.name)
            raise
        except Exception as error:
            error.add_note(f"while BPF ran {place_text(self.code, pc)}")
            raise

    def _steps_of(self, code: Code) -> list[Step]:
        steps = self._steps.get(code)
        if steps is None:
            steps = self._steps[code] = translate(code, self)
        return steps

    def _unwind(self, depth: int) -> None:
        """Forget the functions above a depth, which a fault or an exception has ended."""
        for frame in self._stack_frames[depth : self.depth]:
            frame.size = 0
        if len(self._frames) > depth:
            self.code, _, self.registers[6:], self._may_goto_left = self._frames[depth]
            del self._frames[depth:]
        self.depth = depth

    def _clear_stack(self) -> None:
        for frame in self._stack_frames:
            frame.data[:] = bytes(STACK_SIZE)


def _make_stack(regions: Regions) -> list[Region]:
    """One region for each frame, in one allocation with gaps between them; size 0 until it is active."""
    whole = regions.allocate(FRAME_STRIDE * CALL_DEPTH, "stack")
    memory = whole.array
    regions.remove(whole)
    frames = []
    for number in range(CALL_DEPTH):
        top = (number + 1) * FRAME_STRIDE
        frames.append(regions.add(f"stack frame {number}", memory[top - STACK_SIZE : top]))
        frames[-1].size = 0
    return frames


def too_deep() -> BpfFault:
    """Make the fault of a call when all functions that may be active are."""
    return BpfFault(FaultKind.CALL_DEPTH, f"the call would be the function number {CALL_DEPTH + 1} that is active")


def place_text(code: Code, pc: int) -> str:
    """Say where a program is, for the note on an exception that passes through it."""
    line = code.line(pc)
    return f"{code.name or 'the program'} at instruction {pc}{f' ({line})' if line else ''}"
