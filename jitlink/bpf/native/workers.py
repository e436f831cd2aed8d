"""Machines that run a program on many packets: one for each call, with a stack and a context of its own.

A worker shares the code and the maps of the machine that it is made from, and nothing else. Its memory is a
list of its own, so that what other threads do with theirs cannot move it while native code looks at it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jitlink.bpf.contexts import HEAD_ROOM, FlatContext, PacketContext, SkbContext
from jitlink.bpf.control_flow import forms_where
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.instructions import USES, Instructions
from jitlink.bpf.isa import FRAME_POINTER, Family
from jitlink.bpf.jit.abi import FRAME_STRIDE, STACK_BYTES
from jitlink.bpf.jit.compiled import CompiledCode, Variant
from jitlink.bpf.jit.images import Image
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.llvm_tier.images import LlvmImage
from jitlink.bpf.llvm_tier.machine import LlvmCode, LlvmMachine
from jitlink.bpf.machine import Code
from jitlink.bpf.many import CHUNK, Input, Progress, Words
from jitlink.bpf.native.batch import FRESH_END, FRESH_START, NO_FIELD, Batch, run_batch
from jitlink.bpf.regions import TABLE_COLUMNS, Regions
from jitlink.errors import UsageError

if TYPE_CHECKING:
    from jitlink.bpf.program import Program

_MORE_FRAMES = forms_where(Family.CALL) | forms_where(Family.CONSTANT, operation="code")


@dataclass
class Job:
    """What a worker is to do: packets, fields of the context, budget of each run; and where results go."""

    given: Input
    ctx: dict[str, Any]
    budget: int
    progress: Progress | None
    results: Words
    instructions: Words
    faults: dict[int, BpfFault]


class BatchRuns(NativeMachine):
    """What a worker does beyond the machine that it is one of.

    Attributes: batch (what the loop in machine code works on); job.
    """

    batch: Batch
    job: Job

    def join(self, other: NativeMachine) -> None:
        """Share the memory of another machine, and what it compiles."""
        self._other, self._seen = other, other.regions.version
        self._shared = other.lasting_regions()
        self._made: dict[Code, CompiledCode] = {}
        for region in self._shared:
            self.regions.share(region)

    def compiled(self, code: Code) -> CompiledCode | None:
        """What is compiled of a program: the images are those of the other machine."""
        compiled = self._made.get(code)
        theirs = self._other.compiled(code)
        if compiled is None and theirs is not None:
            compiled = self._made[code] = type(theirs)(self, code)
        if compiled is not None and theirs is not None:
            compiled.images, compiled.by_context = theirs.images, theirs.by_context
            compiled.natives = theirs.natives
        return compiled

    def work(self, program: Program, job: Job) -> None:
        """Do a job. Raises what helpers raise, with a note that says at which packet."""
        self.job = job
        context = self._work_on = self._lay_out(program, program.context_class)
        if isinstance(context, PacketContext):
            self.context, self.packet_bounds = context, context.packet_bounds
        self._granted = self.grant(job.budget)
        total, done = len(job.given), 0
        try:
            while done < total:
                # The program may have been replaced meanwhile, or moved to another tier; its memory is older
                # than its code.
                self.code = program.code
                if self._seen != self._other.regions.version:
                    self._follow()
                ours = self.compiled(self.code)
                assert ours is not None
                ours.check_helpers()
                self._count(total - done)
                sort = program.context_class
                image = ours.by_context.get(sort) or ours.image(Variant(context=sort))
                self._begin(context, image, done, min(done + CHUNK, total))
                self._run_chunk(ours, image, context)
                done = min(done + CHUNK, total)
                if job.progress is not None:
                    job.progress(done, total)
        finally:
            # What is compiled knows its machine.
            self._made.clear()
            self.running.clear()

    def _count(self, packets: int) -> None:
        """Let the program become hot."""
        theirs = self._other.compiled(self.code)
        if isinstance(theirs, LlvmCode) and not theirs.optimised:
            theirs.count(packets)

    def _lay_out(self, program: Program, sort: type[PacketContext] | None) -> PacketContext | FlatContext:
        """Make the context, with room for the longest packet."""
        longest = bytes(self.job.given.longest)
        if sort is None:
            if self.job.ctx:
                raise UsageError(f"{program.name} runs on plain memory, which has no field {next(iter(self.job.ctx))}")
            return FlatContext(self.regions, longest)
        fixed = {"head_room", "tail_room", "metadata", "protocol", "wire_len"} & set(self.job.ctx)
        if fixed:
            raise UsageError(f"{min(fixed)} is not for many packets: it is made from each of them")
        return sort(self.regions, longest, byte_order=program.object.linked.byte_order, **self.job.ctx)

    def _begin(self, context: PacketContext | FlatContext, image: Image, first: int, end: int) -> None:
        """Fill in what the loop works on."""
        job, given = self.job, self.job.given
        self.record.stack_to_clear = stack_words(self.code.instructions)
        self.record.budget = self._granted
        self.set_arguments(context.arguments)
        self._fresh_run = bytes(self.record_bytes[FRESH_START:FRESH_END])
        self._template = bytes(context.region.data) if isinstance(context, PacketContext) else b""
        batch = self.batch = Batch()
        batch.record, batch.enter, batch.target = self.record_address, _address_of(image), image.start
        batch.fresh, batch.template = _bytes_address(self._fresh_run), _bytes_address(self._template)
        batch.packets = given.buffer.ctypes.data
        if given.stride:
            batch.stride = batch.size = given.stride
        else:
            batch.offsets, batch.lengths = given.offset.ctypes.data, given.length.ctypes.data
        batch.first, batch.end = first, end
        batch.results, batch.budget = job.results.ctypes.data, self._granted
        batch.instructions = job.instructions.ctypes.data if self.plan.metered else 0
        batch.end_at = batch.length_at = batch.wire_length_at = batch.protocol_at = NO_FIELD
        if isinstance(context, PacketContext):
            batch.context, batch.context_size = context.address, context.size
            batch.home = context.frame + HEAD_ROOM
            batch.end_at = context.fields["data_end"].offset
            if isinstance(context, SkbContext):
                batch.length_at = context.fields["len"].offset
                batch.wire_length_at, batch.protocol_at = (
                    context.fields[each].offset for each in ("wire_len", "protocol")
                )
        else:
            batch.home, batch.plain = context.region.address, 1
        batch.clear_sites = int(not given.stride and not _is_of_llvm(image))
        self.sync_regions()
        self._find_row(context)

    def _find_row(self, context: PacketContext | FlatContext) -> None:
        """Say where the size of the packet stands in the table of regions."""
        region = context.packet_region if isinstance(context, PacketContext) else context.region
        if region.size:
            row = self.regions.row_of(region)
            self.batch.row = self.record.regions + 8 * (TABLE_COLUMNS * row + 1)

    def _run_chunk(self, ours: CompiledCode, image: Image, context: PacketContext | FlatContext) -> None:
        """Run the packets of a chunk; after each one at which Python was needed the loop begins again."""
        batch, run = self.batch, run_batch()
        while batch.first < batch.end:
            self.begin(ours, image)
            batch.touched = 0
            run(ctypes.addressof(batch))
            if batch.first < batch.end:
                self._finish(context)
        self.depth = 0

    def _finish(self, context: PacketContext | FlatContext) -> None:
        """Note the result of a run at which Python was needed, and make things ready for the next one."""
        batch, job, number = self.batch, self.job, int(self.batch.first)
        self._show_packet(context)
        try:
            if self.record.status:
                self.stop()
            job.results[number] = self.record.registers[0]
        except BpfFault as fault:
            job.faults[number] = fault
        except Exception as error:
            error.add_note(f"at packet {number}")
            raise
        finally:
            self.depth = 0
            self.show_frames(0)
        if self.plan.metered:
            job.instructions[number] = self.instructions
        batch.first = number + 1
        region = context.packet_region if isinstance(context, PacketContext) else context.region
        if region.size:
            self.regions.resize(region, batch.home, job.given.longest)
        self.sync_regions()
        self._find_row(context)

    def _show_packet(self, context: PacketContext | FlatContext) -> None:
        """Let Python see the packet that native code is at."""
        batch = self.batch
        if batch.touched:
            return
        batch.touched = 1
        length = int(self.job.given.length[batch.first])
        if isinstance(context, PacketContext):
            context.meta = context.start = batch.home
            context.end = batch.home + length
            self.regions.resize(context.packet_region, batch.home, length)
        elif length:
            self.regions.resize(context.region, batch.home, length)

    def outside(self) -> None:
        """Carry out the instruction that native code has given away."""
        self._show_packet(self._work_on)
        super().outside()
        if self._seen != self._other.regions.version:
            self._follow()

    def _follow(self) -> None:
        """Take over what has become memory of the programs, such as a record of a ring buffer, and what is none now."""
        self._seen = self._other.regions.version
        theirs, ours = self._other.lasting_regions(), self._shared
        for region in ours:
            if region not in theirs:
                self.regions.withdraw(region)
        for region in theirs:
            if region not in ours:
                self.regions.share(region)
        self._shared = theirs
        self.sync_regions()


class OnePassWorker(BatchRuns):
    """A worker of the one-pass tier."""


class LlvmWorker(BatchRuns, LlvmMachine):
    """A worker of the optimising tier."""


def worker_for(machine: NativeMachine) -> BatchRuns:
    """Make a worker that runs programs as a machine does. Raises MissingExtra where there is no LLVM for the loop."""
    run_batch(machine.kept if isinstance(machine, LlvmMachine) else None)
    regions = Regions()
    made: BatchRuns
    if isinstance(machine, LlvmMachine):
        made = LlvmWorker(machine.shapes, machine.plan, regions=regions, helpers=machine.helpers, kfuncs=machine.kfuncs)
        made.kept, made.most_slots = machine.kept, machine.most_slots
        made.most_inlined = machine.most_inlined
    else:
        made = OnePassWorker(
            machine.shapes, machine.plan, regions=regions, helpers=machine.helpers, kfuncs=machine.kfuncs
        )
    made.maps, made.keeps = machine.maps, machine.keeps
    made.may_goto_limit = machine.may_goto_limit
    made.join(machine)
    return made


def stack_words(code: Instructions) -> int:
    """How many words of the stack a run has to find zeroed: none, where no instruction names r10."""
    names = (USES["dst"][code.form] & (code.dst == FRAME_POINTER)) | (
        USES["src"][code.form] & (code.src == FRAME_POINTER)
    )
    if not names.any():
        return 0
    return (STACK_BYTES if _MORE_FRAMES[code.form].any() else FRAME_STRIDE) // 8


def _address_of(image: Image) -> int:
    """The address of the routine that enters an image."""
    pointer: Any = image.enter
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _bytes_address(content: bytes) -> int:
    """The address of bytes, which must be kept alive meanwhile."""
    return np.frombuffer(content, np.uint8).ctypes.data if content else 0


def _is_of_llvm(image: object) -> bool:
    """Whether an image is one that LLVM has made, which keeps nothing in the record's sites."""
    return isinstance(image, LlvmImage)
