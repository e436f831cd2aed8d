"""Many packets at once: one call, a loop in machine code, arrays of results.

    results = program.run_many(packets)
    (results.retval == XDP_DROP).sum()

Each packet is run as by program.run: from a fresh context, with registers and stack at zero, and the same budget.
Each call has a record, a stack and a context of its own, so any number of threads can run one program at
once; they share its maps, as CPUs do. Python's lock is let go of while native code runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jitlink.bpf.captures import is_capture, packets_of
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.machine import DEFAULT_BUDGET
from jitlink.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from jitlink.bpf.program import Program

Packets = Sequence[bytes] | npt.NDArray[np.uint8] | str | os.PathLike[str] | bytes
Progress = Callable[[int, int], None]
CHUNK = 1 << 16
"""How many packets are run between two reports of progress."""
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Results:
    """What the runs came to, in the order of the packets.

    Attributes: retval (uint32[packets] of packet programs, else uint64[packets]); r0, instructions (uint64[packets];
    without a meter the second is 0); faults (by the number of the packet; its retval is 0).
    """

    retval: npt.NDArray[np.unsignedinteger[Any]]
    r0: Words
    instructions: Words
    faults: dict[int, BpfFault] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.r0)


@dataclass(frozen=True)
class Input:
    """Packets in one buffer: packet k is length[k] bytes from offset[k] on, or, with a stride, from k * stride on.

    stride: also the length of each; there are no offsets then, since the memory of a million would cost more than
    to run a short program on each. 0 where lengths differ.
    """

    buffer: npt.NDArray[np.uint8]
    offset: Words
    length: Words
    stride: int = 0

    def __len__(self) -> int:
        return len(self.length)

    @cached_property
    def longest(self) -> int:
        """The length of the longest packet, in bytes."""
        return self.stride or int(self.length.max())

    def packet(self, number: int) -> bytes:
        """The bytes of one packet."""
        start = number * self.stride if self.stride else int(self.offset[number])
        return self.buffer[start : start + int(self.length[number])].tobytes()


def gather(packets: Packets) -> Input:
    """Put packets into one buffer.

    packets: uint8[packets, size]; a sequence of bytes; or a capture (pcap), as a path or as bytes. Raises UsageError
    for an array of another shape, InputError for a bad capture.
    """
    if isinstance(packets, np.ndarray):
        if packets.ndim != 2 or packets.dtype != np.uint8:
            raise UsageError(f"packets are an array uint8[packets, size], not {packets.dtype}{list(packets.shape)}")
        count, size = packets.shape
        whole = np.ascontiguousarray(packets).reshape(-1)
        if not size:
            return Input(whole, np.zeros(count, np.uint64), np.zeros(count, np.uint64))
        return Input(whole, np.zeros(0, np.uint64), np.broadcast_to(np.uint64(size), count), size)
    if isinstance(packets, (str, os.PathLike, bytes)):
        data = packets if isinstance(packets, bytes) else Path(packets).read_bytes()
        if isinstance(packets, bytes) and not is_capture(data):
            raise UsageError("packets are a sequence of bytes, an array or a capture, and not bytes")
        begins, lengths = packets_of(data, "(capture)" if isinstance(packets, bytes) else str(packets))
        return Input(np.frombuffer(data, np.uint8), np.array(begins, np.uint64), np.array(lengths, np.uint64))
    parts = [bytes(packet) for packet in packets]
    length = np.array([len(part) for part in parts], np.uint64)
    offset = np.zeros(len(parts), np.uint64)
    np.cumsum(length[:-1], out=offset[1:])
    return Input(np.frombuffer(b"".join(parts), np.uint8), offset, length)


def run_many(
    program: Program,
    packets: Packets,
    *,
    ctx: Mapping[str, Any] | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Results:
    """Run a program on each of many packets; see Program.run_many."""
    given = gather(packets)
    count = len(given)
    results = np.zeros(count, np.uint64)
    instructions = np.zeros(count, np.uint64)
    faults: dict[int, BpfFault] = {}
    worker = _worker_of(program)
    if worker is None:
        _one_by_one(program, given, dict(ctx or {}), budget, progress, results, instructions, faults)
    elif count:
        from jitlink.bpf.native.workers import Job

        worker.work(program, Job(given, dict(ctx or {}), budget, progress, results, instructions, faults))
    narrow = program.context_class is not None
    return Results(results.astype(np.uint32) if narrow else results, results, instructions, faults)


def _worker_of(program: Program) -> Any:
    """Make a machine that runs batches; None where there is no native code, or no LLVM to compile the loop."""
    from jitlink.bpf.jit.machine import NativeMachine

    machine = program.object.machine
    swapped = program.instructions.byteorder != ("little" if np.little_endian else "big")
    if not isinstance(machine, NativeMachine) or machine.hook is not None or swapped:
        return None
    from jitlink.bpf.native.workers import worker_for

    try:
        return worker_for(machine)
    except MissingExtra:
        return None


def _one_by_one(
    program: Program,
    given: Input,
    ctx: dict[str, Any],
    budget: int,
    progress: Progress | None,
    results: Words,
    instructions: Words,
    faults: dict[int, BpfFault],
) -> None:
    """Run packets through program.run."""
    machine = program.object.machine
    for number in range(len(given)):
        try:
            found = program.run(given.packet(number), ctx=ctx, budget=budget)
            results[number] = found.r0
        except BpfFault as fault:
            faults[number] = fault
        instructions[number] = machine.instructions
        if progress is not None and ((number + 1) % CHUNK == 0 or number + 1 == len(given)):
            progress(number + 1, len(given))
