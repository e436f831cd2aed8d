"""The machine that an SBPF program runs on, and its interpreter.

A syscall in Python is a function `syscall(machine, r1, r2, r3, r4, r5) -> int`, as a helper of BPF is: its result
becomes r0, r1 to r5 stay as they are, and through the machine it reads and writes memory and charges units.
A syscall in native code is NativeSyscall(address), see jitlink.bpf.sbpf.abi.

Every instruction costs one unit of the budget, and so does a wide constant; a syscall charges what it likes with
consume. A run that has none left stops.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, repeat
from operator import length_hint
from typing import NoReturn

import numpy as np

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.instructions import SLOT
from jitlink.bpf.sbpf.abi import NATIVE_SYSCALL, TRANSLATE, Record, Status, Window
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.hashes import hash_of_name
from jitlink.bpf.sbpf.isa import FRAME_POINTER, REGISTERS
from jitlink.bpf.sbpf.memory import (
    CALL_DEPTH,
    FRAME_SIZE,
    HEAP_BYTES,
    HEAP_START,
    INPUT_START,
    LARGEST_HEAP,
    REGIONS,
    STACK_BYTES,
    STACK_START,
    Memory,
    Region,
    zeroed,
)
from jitlink.bpf.sbpf.translation import Translation
from jitlink.bpf.semantics import Step
from jitlink.errors import UsageError

DEFAULT_BUDGET = 1_400_000
"""Units of a run unless it is told otherwise: what a transaction of Solana may use at most."""
MOST_BUDGET = (1 << 63) - 1
"""What can be counted; a larger budget is cut to it."""
VALUE_MASK = 0xFFFF_FFFF_FFFF_FFFF
ARGUMENTS = 5
LOCAL_CALL = 1
"""What src says in a call of a function in version 3."""
TO_PYTHON = -1
"""Where a function that Python has called returns to."""


@dataclass(frozen=True)
class NativeSyscall:
    """A syscall in native code. Attributes: address (of its C function in this process)."""

    address: int


Syscall = Callable[..., int] | NativeSyscall


class Returned(BaseException):
    """The function that Python called has returned."""


class SbpfMachine:
    """Registers, memory and syscalls of a program, and the interpreter of its instructions.

    Attributes, for syscalls: registers (r0 to r10, unsigned); memory; executable; syscalls (by number); pc (slot
    of the instruction that called); depth (active functions); log (texts that syscalls have written).
    """

    def __init__(self, executable: Executable, syscalls: Mapping[str, Syscall], *, heap: int = HEAP_BYTES) -> None:
        """syscalls: by name; heap: bytes. Raises UsageError for a heap of another size, or names with one number."""
        if not 0 <= heap <= LARGEST_HEAP:
            raise UsageError(f"a heap has 0 to {LARGEST_HEAP} bytes, not {heap}")
        self.executable = executable
        self.syscalls = _by_number(syscalls)
        self._names = {hash_of_name(name): name for name in syscalls} | executable.syscalls
        self.memory = Memory(
            Region("program", executable.data_address, executable.data, writable=False),
            Region("stack", STACK_START, zeroed(STACK_BYTES), True, gapped=executable.version.has_gaps),
            Region("heap", HEAP_START, zeroed(heap), True),
            Region("input", INPUT_START, zeroed(0), True),
        )
        self._shown: list[Region | None] = [None] * REGIONS
        self.registers = [0] * REGISTERS
        self.pc = 0
        self.depth = 0
        self.log: list[str] = []
        self.record = Record()
        self._budget: Iterator[None] = iter(())
        self._budget_at_start = 0
        self._frames: list[tuple[int, list[int]]] = []
        self._translation: Translation | None = None
        self._steps: dict[int, Step] = {}
        self._slots = len(executable.slots)
        self._translate = _translator(self.memory)
        self.record.translate = ctypes.cast(self._translate, ctypes.c_void_p).value or 0
        self.record.text = executable.text_address

    @property
    def budget_left(self) -> int:
        """How many units the run may still use."""
        return length_hint(self._budget)

    @property
    def used(self) -> int:
        """How many units the run has used, or used."""
        return self._budget_at_start - self.budget_left

    # What syscalls may do

    def read(self, address: int, size: int) -> bytes:
        """Copy bytes out of the program's memory. Raises BpfFault outside of it."""
        return self.memory.read(address, size)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes into the program's memory. Raises BpfFault outside of it or if it is read-only."""
        self.memory.write(address, data)

    def consume(self, units: int) -> None:
        """Charge units. Raises BpfFault, and takes all that there are, where they do not suffice."""
        wanted = max(units, 0)
        left = self.budget_left
        self._take(min(wanted, left))
        if wanted > left:
            raise self.out_of_budget()

    def _take(self, units: int) -> None:
        deque(islice(self._budget, units), maxlen=0)

    # Runs

    def run(self, data: bytes | bytearray | memoryview = b"", *arguments: int, budget: int = DEFAULT_BUDGET) -> int:
        """Run the program from its entry and return r0.

        data: the input, which the program may change; it is at INPUT_START, and r1 is that unless arguments
        say otherwise. arguments: r1 and on, at most 5. budget: units. Stack and heap begin zeroed. Raises
        BpfFault, what a syscall raises, and UsageError while a run is under way.
        """
        if self.depth:
            raise UsageError("a run is under way on this machine")
        if len(arguments) > ARGUMENTS:
            raise UsageError(f"a program takes at most {ARGUMENTS} arguments, not {len(arguments)}")
        self._prepare(data, arguments, min(max(budget, 0), MOST_BUDGET))
        try:
            self._execute(self.executable.entry)
        finally:
            self.depth = 0
            self._frames.clear()
        return self.registers[0]

    def _prepare(self, data: bytes | bytearray | memoryview, arguments: tuple[int, ...], budget: int) -> None:
        self.memory.put(Region("input", INPUT_START, np.frombuffer(bytearray(data), np.uint8), True))
        for region in self.memory.regions:
            if region is not None and region.name in ("stack", "heap"):
                region.array[:] = 0
        self._show_memory()
        registers = [0] * REGISTERS
        registers[1 : 1 + max(len(arguments), 1)] = [each & VALUE_MASK for each in arguments] or [INPUT_START]
        first = FRAME_SIZE if self.executable.version.moves_frames else STACK_BYTES
        registers[FRAME_POINTER] = STACK_START + first
        self.registers[:] = registers
        self._budget, self._budget_at_start = repeat(None, budget), budget
        self.log = []
        self.depth = 1

    def _show_memory(self) -> None:
        """Write the regions into the record that are not there yet."""
        for number, region in enumerate(self.memory.regions):
            if region is self._shown[number]:
                continue
            self._shown[number] = region
            readable = _window(region)
            self.record.readable[number] = readable
            self.record.writable[number] = readable if region is not None and region.writable else Window()

    @property
    def input(self) -> bytes:
        """The input as it is now."""
        region = self.memory.regions[INPUT_START >> 32]
        return b"" if region is None else bytes(region.data)

    def _execute(self, pc: int) -> None:
        """Run from a slot until the function that Python called has returned."""
        self._interpret(pc)

    def _interpret(self, pc: int) -> None:
        """Do so on the interpreter."""
        try:
            self._take_steps(pc)
        except Returned:
            return

    def _make_step(self, pc: int) -> Step:
        if self._translation is None:
            self._translation = Translation(self)
        step = self._steps[pc] = self._translation.step(pc)
        return step

    def _step(self, pc: int) -> None:
        """Carry out one instruction, without a charge."""
        (self._steps.get(pc) or self._make_step(pc))(self.registers)

    def _take_steps(self, pc: int) -> NoReturn:
        find, make, registers = self._steps.get, self._make_step, self.registers
        try:
            for _ in self._budget:
                # A program is translated as far as it runs.
                pc = (find(pc) or make(pc))(registers)
            raise self.out_of_budget()
        except Exception as error:
            self.locate(error, pc)
            raise

    def locate(self, error: Exception, pc: int) -> None:
        """Add to an exception that leaves the program where it was."""
        name = self.function_name(pc)
        if isinstance(error, BpfFault):
            error.locate(pc, None, name)
        else:
            error.add_note(f"while SBPF ran {name} at instruction {pc}")

    # What steps do

    def enter(self, target: int, following: int) -> int:
        """Call the function at a slot, which returns to following. Returns target."""
        if self.depth == CALL_DEPTH:
            raise BpfFault(
                FaultKind.CALL_DEPTH, f"the call would be the function number {CALL_DEPTH + 1} that is active"
            )
        registers = self.registers
        self._frames.append((following, registers[6:]))
        version = self.executable.version
        if version.moves_frames:
            registers[FRAME_POINTER] = registers[FRAME_POINTER] + FRAME_SIZE * (1 + version.has_gaps) & VALUE_MASK
        self.depth += 1
        return target

    def leave(self) -> int:
        """Return from a function. Returns the slot where its caller goes on."""
        self.depth -= 1
        if not self._frames:
            raise Returned
        following, self.registers[6:] = self._frames.pop()
        if following == TO_PYTHON:
            raise Returned
        return following

    def call_syscall(self, pc: int, syscall: Syscall) -> None:
        """Call a syscall for the instruction at pc: r1 to r5 in, r0 out."""
        r = self.registers
        self.pc = pc
        if isinstance(syscall, NativeSyscall):
            r[0] = self._call_native(syscall)
        else:
            r[0] = int(syscall(self, r[1], r[2], r[3], r[4], r[5])) & VALUE_MASK

    def _call_native(self, syscall: NativeSyscall) -> int:
        record, left = self.record, self.budget_left
        record.budget, record.status = left, Status.RUNNING
        result = int(NATIVE_SYSCALL(syscall.address)(*self.registers[1:6], ctypes.byref(record)))
        failed, after = record.status != Status.RUNNING, record.budget
        record.status = Status.RUNNING
        self.consume(left - after)
        if failed:
            raise self.syscall_failed()
        return result

    def slot_at(self, address: int) -> int:
        """The slot of an address that callx is to call. Raises BpfFault where it is outside of the code."""
        slot = (address - self.executable.text_address & VALUE_MASK) // SLOT
        if self.depth == CALL_DEPTH or slot < self._slots:
            return slot
        raise BpfFault(FaultKind.BAD_CALL, f"call of {address:#x}, which is outside of the code")

    def function_of_call(self, pc: int, src: int, imm: int) -> int | None:
        """The slot of the function that a call names, None where it names none: then it is of a syscall."""
        if self.executable.version.is_static:
            return pc + 1 + imm if src == LOCAL_CALL else None
        number = imm & 0xFFFF_FFFF
        return None if number in self.syscalls else self.executable.functions.get(number)

    # Names, for messages

    def function_name(self, pc: int) -> str:
        """The name of the function that a slot lies in, or of the input."""
        starts = [start for start in self.executable.names if start <= pc]
        return self.executable.names[max(starts)] if starts else self.executable.name

    def name_of_syscall(self, number: int) -> str:
        """What to call a syscall, or function, that there is not."""
        name = self._names.get(number)
        return f"syscall {name}" if name else f"syscall or function with the number {number:#x}"

    def out_of_budget(self) -> BpfFault:
        """Make the fault of a run that has used up its budget."""
        return BpfFault(FaultKind.BUDGET, f"the program has used up its budget of {self._budget_at_start} units")

    def syscall_failed(self) -> BpfFault:
        """Make the fault of a native syscall that says so."""
        return BpfFault(FaultKind.BAD_CALL, "the native syscall has failed")


def _by_number(syscalls: Mapping[str, Syscall]) -> dict[int, Syscall]:
    numbers: dict[int, str] = {}
    for name in syscalls:
        other = numbers.setdefault(hash_of_name(name), name)
        if other != name:
            raise UsageError(f"the syscalls {other} and {name} have one number")
    return {number: syscalls[name] for number, name in numbers.items()}


def _window(region: Region | None) -> Window:
    if region is None or not region.size:
        return Window()
    return Window(region.address & 0xFFFF_FFFF, region.size, region.array.ctypes.data, region.gapped)


def _translator(memory: Memory) -> ctypes._FuncPointer:
    """Make the C function that native syscalls translate addresses with."""

    def translate(record: int, address: int, size: int, write: int) -> int:
        try:
            region, at = memory.translate(address, size, bool(write))
        except BpfFault:
            return 0
        return int(region.array.ctypes.data) + at

    return TRANSLATE(translate)
