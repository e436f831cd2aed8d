"""The machine that runs programs natively.

It is the interpreter with another engine: the same memory, helpers and limits, and wherever native code
cannot go on, the same steps (jitlink.bpf.jit.leaving). A run with a hook is interpreted as a whole: the hook is
to be called before every instruction.
"""

from __future__ import annotations

import struct
from typing import Any

from jitlink.bpf.contexts import PacketContext
from jitlink.bpf.interpreter import ARGUMENTS, too_deep
from jitlink.bpf.isa import CALL_DEPTH, FRAME_POINTER, TAIL_CALLS
from jitlink.bpf.jit.abi import FRAME_STRIDE, OFFSET, Status
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiled import PLAIN, CompiledCode, Variant
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.leaving import FRESH, LeavingMachine
from jitlink.bpf.machine import DEFAULT_BUDGET, VALUE_MASK, Code
from jitlink.errors import UsageError

_PACK = [struct.Struct(f"={count}Q").pack_into for count in range(ARGUMENTS + 1)]
_REGISTERS_AT, _ARGUMENTS_AT = OFFSET["registers"], OFFSET["registers"] + 8
_OUTCOME = struct.Struct(f"=Q{OFFSET['status'] - _ARGUMENTS_AT}xQ")
"""From the registers on: r0 and the status."""
_RUNNING = int(Status.RUNNING)


class NativeMachine(LeavingMachine):
    """Runs programs in machine code."""

    def __init__(self, shapes: Shapes, plan: Plan, **options: Any) -> None:
        """Make a machine. options: those of Interpreter."""
        super().__init__(shapes, plan, **options)
        self._last: CompiledCode | None = None

    def prepare(self, code: Code, context: type[PacketContext] | None = None) -> None:
        """Compile a program for runs on a sort of context, so that the first one need not."""
        compiled = self.compiled(code)
        if compiled is not None:
            compiled.image(Variant(context=context))

    def run(self, code: Code, *arguments: int, budget: int = DEFAULT_BUDGET) -> int:
        if self.depth:
            raise UsageError("a run is under way on this machine: a helper calls back with call_function")
        compiled = self._last
        if compiled is None or compiled.code is not code:
            compiled = self.compiled(code)
        if compiled is None or self.hook is not None:
            self.interpreting = True
            return super().run(code, *arguments, budget=budget)
        self._last = compiled
        if compiled.natives.used:
            compiled.check_helpers()
        if compiled.counts_runs:
            compiled.count()
        if self.interpreting or budget != self.granted:
            self.grant(budget)
        memory = self.record_bytes
        memory[FRESH] = self.fresh_bytes
        context, sort = self.context, None
        if arguments:
            try:
                _PACK[len(arguments)](memory, _ARGUMENTS_AT, *arguments)
            except (struct.error, IndexError):
                self.set_arguments(arguments)
            if isinstance(context, PacketContext) and context.address == arguments[0]:
                sort = type(context)
        if self._regions_version != self.regions.version:
            self.sync_regions()
        self.code = code
        image = compiled.by_context.get(sort) or compiled.image(Variant(context=sort))
        # As begin does, but a call takes longer than all of it.
        self.running, self.depth, self._tail_calls_left = [(compiled, image)], 1, TAIL_CALLS
        r0: int
        try:
            self._registers_taken = False
            image.enter(self.record_address, image.start)
            r0, status = _OUTCOME.unpack_from(memory, _REGISTERS_AT)
            if status:
                self.stop()
            return r0
        finally:
            self.depth = 0
            if self._frames_shown:
                self.show_frames(0)

    def set_arguments(self, arguments: tuple[int, ...]) -> None:
        """Write r1 and on into the record."""
        if len(arguments) > ARGUMENTS:
            raise UsageError(f"a BPF function takes at most {ARGUMENTS} arguments, not {len(arguments)}")
        values = [int(argument) & VALUE_MASK for argument in arguments]
        _PACK[len(values)](self.record_bytes, _ARGUMENTS_AT, *values)

    def call_function(self, function: int, *arguments: int) -> int:
        self._require_run()
        if self.interpreting:
            return super().call_function(function, *arguments)
        index = self.function_at(function)
        self.store_registers()
        self.set_arguments(arguments)
        self._call(index)
        return self.registers[0]

    def enter(self, target: int, going_on_at: int) -> int:
        """Call the function at target and return going_on_at: for a callx that native code does not do itself."""
        if self.interpreting:
            return super().enter(target, going_on_at)
        self.store_registers()
        self._call(target)
        return going_on_at

    def _call(self, index: int) -> None:
        """Call a function of the running program, with the registers that are in the record."""
        if self.depth == CALL_DEPTH:
            raise too_deep()
        record, code, depth, pc = self.record, self.code, self.depth, self.pc
        kept, frame, may_goto, running = self.registers[6:], record.frame, record.may_goto, len(self.running)
        compiled = self.compiled(code)
        assert compiled is not None
        image = compiled.image(PLAIN, index)
        record.frame = frame + FRAME_STRIDE
        record.registers[FRAME_POINTER] = record.frame
        record.may_goto = self.may_goto_limit
        self.follow_regions()
        self.running.append((compiled, image))
        self.depth = depth + 1
        try:
            image.enter(self.record_address, image.base + int(image.code.entry[index]))
            if record.status:
                self.stop()
        finally:
            self.take_registers()[6:] = kept
            del self.running[running:]
            record.status, record.frame, record.may_goto = _RUNNING, frame, may_goto
            self.code, self.depth, self.pc = code, depth, pc
            self.show_frames(depth)
            self.forget_kept_frames()
