"""The machine that runs programs natively.

It is the interpreter with another engine: the same memory, helpers and limits, and wherever native code
cannot go on, the same steps. When it leaves, the machine looks up the instruction by the place in the code,
takes over the registers, and carries the instruction out on the interpreter, which raises the fault that it
always raises. An instruction that is given to the outside (a helper in Python) is carried out in the same
way, and native code goes on behind it.

A run with a hook is interpreted as a whole: the hook is to be called before every instruction.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn
from weakref import ref

import numpy as np

from jitlink.bpf.contexts import PacketContext
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.interpreter import (
    ARGUMENTS,
    MAY_GOTO_LIMIT,
    Entered,
    Interpreter,
    Returned,
    place_text,
    too_deep,
)
from jitlink.bpf.isa import CALL_DEPTH, FRAME_POINTER, REGISTERS, STACK_SIZE, TAIL_CALLS
from jitlink.bpf.jit.abi import FRAME_STRIDE, OFFSET, SITE_SIZE, SITES, STACK_BYTES, Record, Status
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiler import Plan, compile_slots
from jitlink.bpf.jit.hardening import start_in_page
from jitlink.bpf.jit.images import Image, load_image
from jitlink.bpf.jit.program import slots_of
from jitlink.bpf.jit.proofs import Granted, prove
from jitlink.bpf.machine import DEFAULT_BUDGET, VALUE_MASK, Code, Helper
from jitlink.bpf.maps import Map
from jitlink.bpf.observation import Hook
from jitlink.bpf.regions import TABLE_COLUMNS, Region, Regions
from jitlink.bpf.semantics import Step
from jitlink.bpf.translation import steps_of
from jitlink.errors import UsageError
from jitlink.memory import page_size

MOST_BUDGET = (1 << 63) - 1
"""What the meter can count; a larger budget is cut to it."""
_REGISTERS = struct.Struct(f"={REGISTERS}Q")
_WORD, _SIGNED = struct.Struct("=Q"), struct.Struct("=q")
_ARGUMENTS = [struct.Struct(f"={count}Q") for count in range(ARGUMENTS + 1)]
_REGISTERS_AT, _ARGUMENTS_AT, _BUDGET_AT = OFFSET["registers"], OFFSET["registers"] + 8, OFFSET["budget"]
_STATUS_AT = OFFSET["status"]
_RUNNING, _RAISED, _OUT_OF_BUDGET = int(Status.RUNNING), int(Status.RAISED), int(Status.OUT_OF_BUDGET)
_FRESH = slice(OFFSET["registers"], OFFSET["regions"])
"""The part of the record that every run begins anew."""
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@dataclass(frozen=True)
class Variant:
    """Which code of a program, by what it takes for granted.

    Attributes: frame (r10 is the end of the active frame when it is entered); context (of what sort the
    context is that r1 points to at the start, None where r1 may be anything); maps (what map_lookup_elem
    returns is a value of the map, or 0).
    """

    frame: bool = True
    context: type[PacketContext] | None = None
    maps: bool = True


PLAIN = Variant()


class CompiledCode:
    """What the machine has made of one program: images, and steps for what they leave to the interpreter.

    A program has an image for each variant that was asked for, mostly one. by_context: those of the usual
    variants, which differ in nothing but the context.
    """

    def __init__(self, machine: NativeMachine, code: Code) -> None:
        self.machine = machine
        self.code = code
        self.images: dict[Variant, Image] = {}
        self.by_context: dict[type[PacketContext] | None, Image] = {}
        self._step: Callable[[int], Step] | None = None

    def step(self, pc: int) -> Step:
        """Make the step of a slot."""
        if self._step is None:
            self._step = steps_of(self.code, self.machine)
        return self._step(pc)

    def image(self, variant: Variant, function: int = 0) -> Image:
        """The image of a variant. function: a slot where it can be entered by a call from outside, if not 0."""
        image = self.images.get(variant)
        if image is None or (function and function not in image.functions):
            entries = {*(image.functions if image else ()), *([function] if function else ())}
            image = self.images[variant] = self._compile(variant, entries)
            if variant.frame and variant.maps:
                self.by_context[variant.context] = image
        return image

    def _compile(self, variant: Variant, entries: set[int]) -> Image:
        machine, code = self.machine, self.code
        plan, backend = machine.plan, machine.shapes.backend
        slots = slots_of(code.instructions, np.array(sorted(entries), np.int64))
        frame = variant.frame and not slots.moves_frame_pointer
        plan = replace(plan, swapped=code.instructions.byteorder != backend.byteorder, frame_is_known=frame)
        proof = prove(slots, Granted(frame, variant.context, machine.maps if variant.maps else {}))
        start = start_in_page(plan.hardening.randomness(), page_size()) if plan.hardening else 0
        made = compile_slots(slots, machine.shapes, plan, proof.good)
        return load_image(made, backend, code.name, proof.lookups, start)


class NativeMachine(Interpreter):
    """Runs programs in machine code.

    Attributes beyond Interpreter's: shapes (of the back end); plan (what code is to be like); record; maps (by
    address, for proofs: none of them may be taken away while the machine is used).
    """

    def __init__(
        self,
        shapes: Shapes,
        plan: Plan,
        *,
        regions: Regions | None = None,
        helpers: MutableMapping[int, Helper] | None = None,
        kfuncs: MutableMapping[int, Helper] | None = None,
        hook: Hook | None = None,
        may_goto_limit: int = MAY_GOTO_LIMIT,
    ) -> None:
        self._registers_taken = True
        self.record = Record()
        self._memory = memoryview(self.record).cast("B")
        super().__init__(regions=regions, helpers=helpers, kfuncs=kfuncs, hook=hook, may_goto_limit=may_goto_limit)
        self.shapes = shapes
        self.plan = plan
        self.maps: Mapping[int, Map] = {}
        self._interpreting = True
        self._last: CompiledCode | None = None
        self._running: list[tuple[CompiledCode, Image]] = []
        self._raised: BaseException | None = None
        self._frames_shown = 0
        self._regions_version = -1
        self._address = ctypes.addressof(self.record)
        self._callback = _callback_of(self)
        self._set_up_record()

    def _set_up_record(self) -> None:
        record = self.record
        stack = self._stack_frames[0].address + STACK_SIZE - FRAME_STRIDE
        record.stack = stack
        record.frame = stack + FRAME_STRIDE
        record.last_frame = stack + STACK_BYTES
        record.stack_to_clear = STACK_BYTES // 8
        record.registers[FRAME_POINTER] = record.frame
        record.callback = ctypes.cast(self._callback, ctypes.c_void_p).value or 0
        self._fresh = bytes(self._memory[_FRESH])

    @property
    def may_goto_limit(self) -> int:
        """How often may_goto falls through in one activation of a function before it jumps."""
        return int(self.record.may_goto_limit)

    @may_goto_limit.setter
    def may_goto_limit(self, limit: int) -> None:
        self.record.may_goto = self.record.may_goto_limit = limit
        self._fresh = bytes(self._memory[_FRESH])

    # What helpers see

    @property
    def registers(self) -> list[int]:
        """r0 to r10; those that a run has left are taken out of the record when somebody asks."""
        if not self._registers_taken:
            self._registers_taken = True
            self._registers[:] = _REGISTERS.unpack_from(self._memory, _REGISTERS_AT)
        return self._registers

    @registers.setter
    def registers(self, registers: list[int]) -> None:
        self._registers = registers

    @property
    def budget_left(self) -> int:
        return super().budget_left if self._interpreting else max(int(self.record.budget), 0)

    @property
    def instructions(self) -> int:
        if self._interpreting:
            return super().instructions
        return self._budget_at_start - max(int(_SIGNED.unpack_from(self._memory, _BUDGET_AT)[0]), 0)

    def lasting_regions(self) -> list[Region]:
        """The memory that does not belong to one run: of maps and variables."""
        return [region for region in self.regions if not region.of_run and region not in self._stack_frames]

    # Runs

    def prepare(self, code: Code, context: type[PacketContext] | None = None) -> None:
        """Compile a program for runs on a sort of context, so that the first one need not."""
        compiled = self._compiled_code(code)
        if compiled is not None:
            compiled.image(Variant(context=context))

    def _compiled_code(self, code: Code) -> CompiledCode | None:
        """What was compiled of a program; None for one without instructions, which is interpreted."""
        compiled: CompiledCode | None = code.made.get(self)
        if compiled is None and len(code.instructions):
            compiled = code.made[self] = CompiledCode(self, code)
        return compiled

    def _context_at(self, address: int) -> type[PacketContext] | None:
        """The sort of the context of the run, if that is where it is."""
        context = self.context
        return type(context) if isinstance(context, PacketContext) and context.address == address else None

    def run(self, code: Code, *arguments: int, budget: int = DEFAULT_BUDGET) -> int:
        if self.depth:
            raise UsageError("a run is under way on this machine: a helper calls back with call_function")
        compiled = self._last if self._last is not None and self._last.code is code else self._compiled_code(code)
        if compiled is None or self.hook is not None:
            self._interpreting = True
            return super().run(code, *arguments, budget=budget)
        self._last = compiled
        self._interpreting = False
        self._budget_at_start = budget = min(max(budget, 0), MOST_BUDGET)
        self._tail_calls_left = TAIL_CALLS
        memory = self._memory
        memory[_FRESH] = self._fresh
        _SIGNED.pack_into(memory, _BUDGET_AT, budget)
        if arguments:
            self._set_arguments(arguments)
        if self._regions_version != self.regions.version:
            self._sync_regions()
        self.code = code
        sort = self._context_at(arguments[0]) if arguments else None
        image = compiled.by_context.get(sort) or compiled.image(Variant(context=sort))
        self._running = [(compiled, image)]
        self.depth = 1
        try:
            self._registers_taken = False
            image.enter(self._address, image.start)
            if _WORD.unpack_from(memory, _STATUS_AT)[0]:
                self._stop()
            return int(_WORD.unpack_from(memory, _REGISTERS_AT)[0])
        finally:
            self.depth = 0
            if self._frames_shown:
                self._show_frames(0)

    def _set_arguments(self, arguments: tuple[int, ...]) -> None:
        """Write r1 and on into the record."""
        if len(arguments) > ARGUMENTS:
            raise UsageError(f"a BPF function takes at most {ARGUMENTS} arguments, not {len(arguments)}")
        layout = _ARGUMENTS[len(arguments)]
        try:
            layout.pack_into(self._memory, _ARGUMENTS_AT, *arguments)
        except struct.error:
            # Not all of them are unsigned numbers of 64 bits, as they nearly always are.
            layout.pack_into(self._memory, _ARGUMENTS_AT, *(int(argument) & VALUE_MASK for argument in arguments))

    def call_function(self, function: int, *arguments: int) -> int:
        self._require_run()
        if self._interpreting:
            return super().call_function(function, *arguments)
        index = self.function_at(function)
        self._store_registers()
        self._set_arguments(arguments)
        self._call(index)
        return self.registers[0]

    def enter(self, target: int, going_on_at: int) -> int:
        """Call the function at target and return going_on_at: for a callx that native code does not do itself."""
        if self._interpreting:
            return super().enter(target, going_on_at)
        self._store_registers()
        self._call(target)
        return going_on_at

    def leave(self) -> int:
        """Return from the active function, for an instruction that is carried out for native code."""
        if self._interpreting:
            return super().leave()
        raise Returned

    def _call(self, index: int) -> None:
        """Call a function of the running program, with the registers that are in the record."""
        if self.depth == CALL_DEPTH:
            raise too_deep()
        record, code, depth, pc = self.record, self.code, self.depth, self.pc
        kept, frame, may_goto, running = self.registers[6:], record.frame, record.may_goto, len(self._running)
        compiled = self._compiled_code(code)
        assert compiled is not None
        image = compiled.image(PLAIN, index)
        record.frame = frame + FRAME_STRIDE
        record.registers[FRAME_POINTER] = record.frame
        record.may_goto = self.may_goto_limit
        if self._regions_version != self.regions.version:
            self._sync_regions()
        self._running.append((compiled, image))
        self.depth = depth + 1
        try:
            image.enter(self._address, image.base + int(image.code.entry[index]))
            if record.status:
                self._stop()
        finally:
            self._take_registers()[6:] = kept
            del self._running[running:]
            record.status, record.frame, record.may_goto = _RUNNING, frame, may_goto
            self.code, self.depth, self.pc = code, depth, pc
            self._show_frames(depth)
            if record.stack_kept:
                self._forget_sites()

    # What native code leaves to us

    def outside(self) -> None:
        """Carry out the instruction that native code has given away; say in the record how it goes on."""
        record = self.record
        compiled, image, pc = self._take_over()
        status = _RUNNING
        try:
            compiled.step(pc)(self.registers)
            if pc in image.lookups and not self._is_value(image.lookups[pc]):
                status = int(Status.CONTINUE)
                self._doubt(compiled, image, pc + 1)
        except Returned:
            status = int(Status.RETURN)
        except Entered as entered:
            status = int(Status.CONTINUE)
            self._continue(entered.code)
        except BaseException as error:
            self._locate(error, pc)
            self._raised, status = error, _RAISED
            if self.plan.metered:
                record.budget += int(image.code.slots.rest[pc])
        self._store_registers()
        record.status = status
        if self._regions_version != self.regions.version:
            self._sync_regions()

    def give_up(self, error: BaseException) -> None:
        """Let native code leave, and the exception be raised behind it."""
        self._raised = error
        self.record.status = _RAISED

    def _is_value(self, expected: tuple[int, int]) -> bool:
        """Whether a lookup has returned what proofs take for granted: 0 or a value."""
        value = self.registers[0]
        return not value or expected[0] <= value <= expected[1]

    def _doubt(self, compiled: CompiledCode, image: Image, slot: int) -> None:
        """Let native code go on in an image that does not believe in lookups."""
        variant = next(variant for variant, each in compiled.images.items() if each is image)
        careful = compiled.image(replace(variant, maps=False))
        self._running.append((compiled, careful))
        self.record.target = careful.base + int(careful.code.entry[slot])

    def _take_over(self) -> tuple[CompiledCode, Image, int]:
        """Find out where native code is, and take over its registers. Returns program, image and slot."""
        record = self.record
        place = record.place
        compiled, image = next(pair for pair in reversed(self._running) if pair[1].base < place <= pair[1].end)
        pc = image.slot_of(place)
        self._take_registers()
        self.code, self.pc = compiled.code, pc
        self.depth = (record.frame - record.stack) // FRAME_STRIDE
        self._show_frames(self.depth)
        return compiled, image, pc

    def _continue(self, code: Code) -> None:
        """Let native code go on with another program, in the frame of the function that it leaves."""
        compiled = self._compiled_code(code)
        if compiled is None:
            raise UsageError("a tail call of a program without instructions")
        frame = self.registers[FRAME_POINTER] == self.record.frame
        image = compiled.image(Variant(frame, self._context_at(self.registers[1])))
        self._running.append((compiled, image))
        self.record.may_goto = self.may_goto_limit
        self.record.target = image.start

    def _stop(self) -> NoReturn:
        """Raise what has made native code leave."""
        status = self.record.status
        self.record.status = _RUNNING
        if self.record.stack_kept:
            # The functions that have such frames end here, and not by a return.
            self._forget_sites()
        if status == _RAISED:
            error, self._raised = self._raised, None
            assert error is not None
            raise error
        compiled, image, pc = self._take_over()
        slots, record = image.code.slots, self.record
        try:
            if status == _OUT_OF_BUDGET:
                # The block's instructions were taken from the budget, and none of them has run.
                record.budget += int(slots.counted[pc])
                while record.budget > 0:
                    record.budget -= 1
                    pc = compiled.step(pc)(self.registers)
                raise self.out_of_budget()
            if self.plan.metered:
                record.budget += int(slots.rest[pc])
            compiled.step(pc)(self.registers)
        except Exception as error:
            self._locate(error, pc)
            raise
        finally:
            self._store_registers()
        raise AssertionError(f"native code could not carry out what the interpreter did: {place_text(self.code, pc)}")

    def _locate(self, error: BaseException, pc: int) -> None:
        """Add to an exception that leaves a program where it was."""
        if isinstance(error, BpfFault):
            error.locate(pc, self.code.line(pc), self.code.name)
        elif isinstance(error, Exception):
            error.add_note(f"while BPF ran {place_text(self.code, pc)}")

    # What both look at

    def _take_registers(self) -> list[int]:
        self._registers_taken = False
        return self.registers

    def _store_registers(self) -> None:
        _REGISTERS.pack_into(self._memory, _REGISTERS_AT, *self.registers)

    def _show_frames(self, depth: int) -> None:
        """Let the frames of the active functions be memory for helpers too, and no others."""
        shown = self._frames_shown
        if shown != depth:
            for number in range(min(shown, depth), max(shown, depth)):
                self._stack_frames[number].size = STACK_SIZE if number < depth else 0
            self._frames_shown = depth

    def _sync_regions(self) -> None:
        """Take in that memory was added, moved or removed."""
        table = self.regions.table
        self.record.regions, length = table.buffer_info()
        self.record.region_count = length // TABLE_COLUMNS
        self._regions_version = self.regions.version
        self._forget_sites()

    def _forget_sites(self) -> None:
        ctypes.memset(self._address, 0, SITES * SITE_SIZE)
        self.record.stack_kept = 0


def _callback_of(machine: NativeMachine) -> Any:
    """Make the C function that native code calls. It belongs to the machine, so it must not keep it alive."""
    reference = ref(machine)

    def callback(record: int) -> None:
        running = reference()
        assert running is not None
        try:
            running.outside()
        except BaseException as error:
            # Nothing may pass through the frames of native code, not even an interrupt between two lines.
            running.give_up(error)

    return CALLBACK(callback)
