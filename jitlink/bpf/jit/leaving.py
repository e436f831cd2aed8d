"""What happens when native code leaves: the interpreter takes over, from the instruction that it left at.

Native code says no more than the place in itself that it leaves from (jitlink.bpf.jit.abi). From that follow the
program and the instruction. The machine takes over registers, frames and what is left of the budget, and lets the
interpreter carry the instruction out, so that a fault is the one that it always raises. An instruction that is
given to the outside (a helper in Python) is carried out in the same way, and native code goes on behind it.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar, NoReturn
from weakref import ref

from jitlink.bpf.contexts import PacketContext
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.interpreter import MAY_GOTO_LIMIT, Entered, Interpreter, Returned, place_text
from jitlink.bpf.isa import FRAME_POINTER, REGISTERS, STACK_SIZE, TAIL_CALLS
from jitlink.bpf.jit.abi import FRAME_STRIDE, OFFSET, SITE_SIZE, SITES, STACK_BYTES, Record, Status
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiled import CompiledCode, Variant
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.images import Image
from jitlink.bpf.machine import Code, Helper
from jitlink.bpf.maps import Map
from jitlink.bpf.observation import Hook
from jitlink.bpf.regions import TABLE_COLUMNS, Region, Regions
from jitlink.errors import UsageError

MOST_BUDGET = (1 << 63) - 1
"""What the meter can count; a larger budget is cut to it."""
FRESH = slice(OFFSET["registers"], OFFSET["regions"])
"""The part of the record that every run begins anew."""
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_REGISTERS, _REGISTERS_AT = struct.Struct(f"={REGISTERS}Q"), OFFSET["registers"]
_RUNNING, _RAISED, _OUT_OF_BUDGET = int(Status.RUNNING), int(Status.RAISED), int(Status.OUT_OF_BUDGET)


class LeavingMachine(Interpreter):
    """The interpreter's side of a machine that runs programs natively: it goes on where native code leaves.

    Attributes beyond Interpreter's: shapes (of the back end); plan (what code is to be like); record, with
    record_address and record_bytes (memoryview of uint8); maps (by address, for proofs: none of them may be taken
    away while the machine is used); keeps (objects of machine code may be kept on disk).
    For those who build on it: code_class (what it makes of programs); fresh_bytes (what is at FRESH of the record
    when a run begins); running (what the run is in, the innermost last: programs with their images); interpreting
    (the run that is under way, or was the last, is interpreted); granted (the budget of native runs).
    """

    code_class: type[CompiledCode] = CompiledCode
    calls_host_code: ClassVar[bool] = True
    """Whether code of the machine can call functions of this process."""

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
        self.record, self._fresh = Record(), Record()
        self.record_address = ctypes.addressof(self.record)
        self.record_bytes = memoryview(self.record).cast("B")
        self.fresh_bytes = memoryview(self._fresh).cast("B")[FRESH]
        super().__init__(regions=regions, helpers=helpers, kfuncs=kfuncs, hook=hook, may_goto_limit=may_goto_limit)
        self.shapes = shapes
        self.plan = plan
        self.maps: Mapping[int, Map] = {}
        self.keeps = False
        self.interpreting, self.granted = True, 0
        self.running: list[tuple[CompiledCode, Image]] = []
        self._raised: BaseException | None = None
        self._frames_shown = 0
        self._regions_version = -1
        self._callback = _callback_of(self)
        self._set_up_record()

    def _set_up_record(self) -> None:
        record = self._fresh
        stack = self._stack_frames[0].address + STACK_SIZE - FRAME_STRIDE
        record.stack = stack
        record.frame = stack + FRAME_STRIDE
        record.last_frame = stack + STACK_BYTES
        record.stack_to_clear = STACK_BYTES // 8
        record.registers[FRAME_POINTER] = record.frame
        self.record_bytes[FRESH] = self.fresh_bytes
        self.record.callback = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    @property
    def may_goto_limit(self) -> int:
        """How often may_goto falls through in one activation of a function before it jumps."""
        return int(self.record.may_goto_limit)

    @may_goto_limit.setter
    def may_goto_limit(self, limit: int) -> None:
        for record in (self.record, self._fresh):
            record.may_goto = record.may_goto_limit = limit

    # What helpers see

    @property
    def registers(self) -> list[int]:
        """r0 to r10; those that a run has left are taken out of the record when somebody asks."""
        if not self._registers_taken:
            self._registers_taken = True
            self._registers[:] = _REGISTERS.unpack_from(self.record_bytes, _REGISTERS_AT)
        return self._registers

    @registers.setter
    def registers(self, registers: list[int]) -> None:
        self._registers = registers

    @property
    def budget_left(self) -> int:
        return super().budget_left if self.interpreting else max(int(self.record.budget), 0)

    @property
    def instructions(self) -> int:
        if self.interpreting:
            return super().instructions
        left: int = self.record.budget
        return self._budget_at_start - left if left > 0 else self._budget_at_start

    def lasting_regions(self) -> list[Region]:
        """The memory that does not belong to one run: of maps and variables."""
        return [region for region in self.regions if not region.of_run and region not in self._stack_frames]

    # Programs

    def compiled(self, code: Code) -> CompiledCode | None:
        """What was made of a program; None for one without instructions, which is interpreted."""
        made: CompiledCode | None = code.made.get(self)
        if made is None and len(code.instructions):
            made = code.made[self] = self.code_class(self, code)
        return made

    def context_at(self, address: int) -> type[PacketContext] | None:
        """The sort of the context of the run, if that is where it is."""
        context = self.context
        return type(context) if isinstance(context, PacketContext) and context.address == address else None

    def grant(self, budget: int) -> int:
        """Say how many instructions native runs may take each; returns how many the meter can count of them."""
        self.interpreting, self.granted = False, budget
        self._budget_at_start = self._fresh.budget = granted = min(max(budget, 0), MOST_BUDGET)
        return granted

    def begin(self, compiled: CompiledCode, image: Image) -> None:
        """Say that a native run begins, in an image of a program."""
        self.running = [(compiled, image)]
        self.depth = 1
        self._tail_calls_left = TAIL_CALLS

    def leave(self) -> int:
        """Return from the active function, for an instruction that is carried out for native code."""
        if self.interpreting:
            return super().leave()
        raise Returned

    # What native code gives to the outside

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
            self.continue_in(entered.code)
        except BaseException as error:
            self._locate(error, pc)
            self._raised, status = error, _RAISED
            if self.plan.metered:
                record.budget += image.code.slots.rest_of_block(pc)
        self.store_registers()
        record.status = status
        self.follow_regions()

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
        careful = compiled.image(variant._replace(maps=False))
        self.running.append((compiled, careful))
        self.record.target = careful.base + int(careful.code.entry[slot])

    def continue_in(self, code: Code) -> None:
        """Let native code go on with another program, in the frame of the function that it leaves."""
        compiled = self.compiled(code)
        if compiled is None:
            raise UsageError("a tail call of a program without instructions")
        frame = self.registers[FRAME_POINTER] == self.record.frame
        image = compiled.image(Variant(frame, self.context_at(self.registers[1])))
        self.running.append((compiled, image))
        self.record.may_goto = self.may_goto_limit
        self.record.target = image.start

    # Where native code has stopped

    def stop(self) -> NoReturn:
        """Raise what has made native code leave."""
        status = self.record.status
        self.record.status = _RUNNING
        # The functions that have kept frames end here, and not by a return.
        self.forget_kept_frames()
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
                record.budget += slots.rest_of_block(pc)
            compiled.step(pc)(self.registers)
        except Exception as error:
            self._locate(error, pc)
            raise
        finally:
            self.store_registers()
        raise AssertionError(f"native code could not carry out what the interpreter did: {place_text(self.code, pc)}")

    def _take_over(self) -> tuple[CompiledCode, Image, int]:
        """Find out where native code is, and take over its registers. Returns program, image and slot."""
        record = self.record
        place = record.place
        compiled, image = next(pair for pair in reversed(self.running) if pair[1].base < place <= pair[1].end)
        pc = image.slot_of(place)
        self.take_registers()
        self.code, self.pc = compiled.code, pc
        self.depth = (record.frame - record.stack) // FRAME_STRIDE
        self.show_frames(self.depth)
        return compiled, image, pc

    def _locate(self, error: BaseException, pc: int) -> None:
        """Add to an exception that leaves a program where it was."""
        if isinstance(error, BpfFault):
            error.locate(pc, self.code.line(pc), self.code.name)
        elif isinstance(error, Exception):
            error.add_note(f"while BPF ran {place_text(self.code, pc)}")

    # What both look at

    def take_registers(self) -> list[int]:
        """Read the registers out of the record, and return them to be changed."""
        self._registers_taken = False
        return self.registers

    def store_registers(self) -> None:
        """Write the registers into the record."""
        _REGISTERS.pack_into(self.record_bytes, _REGISTERS_AT, *self.registers)

    def show_frames(self, depth: int) -> None:
        """Let the frames of the active functions be memory for helpers too, and no others."""
        shown = self._frames_shown
        if shown != depth:
            for number in range(min(shown, depth), max(shown, depth)):
                self._stack_frames[number].size = STACK_SIZE if number < depth else 0
            self._frames_shown = depth

    def follow_regions(self) -> None:
        """Tell native code that memory was added, moved or removed, if it was."""
        if self._regions_version != self.regions.version:
            self.sync_regions()

    def sync_regions(self) -> None:
        """Tell native code which memory there is."""
        # Other threads put another table in the place of this one, which native code may be reading.
        self._regions_version, table = self.regions.version, self.regions.table
        self._table = table
        self.record.regions, length = table.buffer_info()
        self.record.region_count = length // TABLE_COLUMNS
        self._forget_sites()

    def forget_kept_frames(self) -> None:
        """Forget where memory was found last, if that may have been the stack of a function that has ended."""
        if self.record.stack_kept:
            self._forget_sites()

    def _forget_sites(self) -> None:
        ctypes.memset(self.record_address, 0, SITES * SITE_SIZE)
        self.record.stack_kept = 0


def _callback_of(machine: LeavingMachine) -> Any:
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
