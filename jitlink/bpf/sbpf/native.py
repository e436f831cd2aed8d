"""What the machines of both native tiers have in common: the interpreter's machine with another engine.

Registers and budget are in the record while native code runs, and in the machine while Python does. Where native
code cannot go on, the interpreter carries the instruction out, and raises the fault that it always raises.
"""

from __future__ import annotations

import ctypes
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any, NoReturn

from jitlink.bpf.sbpf.abi import CALLBACK, Status
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.machine import NativeSyscall, SbpfMachine, Syscall
from jitlink.bpf.sbpf.memory import HEAP_BYTES, REGION_BITS, STACK_START


class NativeMachine(SbpfMachine):
    """Runs a program in native code. The syscalls are those that it was made with.

    Attributes beyond SbpfMachine's: stack_address (of the first frame, in the host's memory).
    """

    def __init__(self, executable: Executable, syscalls: Mapping[str, Syscall], *, heap: int = HEAP_BYTES) -> None:
        """As SbpfMachine."""
        super().__init__(executable, syscalls, heap=heap)
        self._raised: BaseException | None = None
        stack = self.memory.regions[STACK_START >> REGION_BITS]
        assert stack is not None
        self.stack_address = int(stack.array.ctypes.data)
        self._callback = callback_of(self, NativeMachine._syscall)
        self.record.callback = ctypes.cast(self._callback, ctypes.c_void_p).value or 0

    def native_syscalls(self) -> dict[int, int]:
        """The addresses of the syscalls in native code, by number."""
        return {number: each.address for number, each in self.syscalls.items() if isinstance(each, NativeSyscall)}

    @abstractmethod
    def _run_native(self, pc: int) -> None:
        """Run native code from a slot. Afterwards the status of the record says how that went."""

    @abstractmethod
    def _take_over(self) -> int:
        """Find out in which slot native code is, and how many functions are active. Returns the slot."""

    def _untaken(self, pc: int, status: Status) -> int:
        """How many units native code has taken, when it left at a slot, for what has not run."""
        return 0

    def _execute(self, pc: int) -> None:
        self._to_native()
        self.record.status = Status.RUNNING
        try:
            self._run_native(pc)
            if self.record.status:
                self._stop()
        finally:
            self._from_native()

    def _to_native(self) -> None:
        self.record.registers[:] = self.registers
        self.record.budget = self.budget_left

    def _from_native(self) -> None:
        self.registers[:] = self.record.registers
        self._budget = repeat(None, max(self.record.budget, 0))

    def _stop(self) -> NoReturn:
        """Raise what has made native code leave."""
        status = Status(self.record.status)
        self.record.status = Status.RUNNING
        if status is Status.RAISED:
            error, self._raised = self._raised, None
            assert error is not None
            raise error
        pc = self._take_over()
        overdrawn = self.record.budget < 0
        if status in (Status.OUT_OF_BUDGET, Status.FAULT):
            self.record.budget += self._untaken(pc, status)
        self._from_native()
        try:
            if status is Status.OUT_OF_BUDGET:
                self._take_steps(pc)
            if status is Status.SYSCALL_FAILED:
                raise self.out_of_budget() if overdrawn else self.syscall_failed()
            self._step(pc)
        except Exception as error:
            self.locate(error, pc)
            raise
        finally:
            self._to_native()
        raise AssertionError(f"native code could not carry out instruction {pc}, and the interpreter could")

    def _syscall(self) -> None:
        """Carry out the instruction that native code has given away: what it calls back for."""
        pc = self._take_over()
        self._from_native()
        try:
            self._step(pc)
        except Exception as error:
            self.locate(error, pc)
            raise
        finally:
            self._to_native()

    def keep(self, error: BaseException) -> None:
        """Let native code leave, and the exception be raised behind it."""
        self._raised = error
        self.record.status = Status.RAISED


def callback_of(machine: NativeMachine, method: Callable[[Any], None]) -> Any:
    """Make a C function of a method. It belongs to the machine, so it must not keep it alive."""
    reference = weakref.ref(machine)

    def call(record: int) -> None:
        running = reference()
        assert running is not None
        try:
            method(running)
        except BaseException as error:
            # Nothing may pass through the frames of native code.
            running.keep(error)

    return CALLBACK(call)
