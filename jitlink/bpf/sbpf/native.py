"""The machine that runs SBPF programs in native code: the interpreter's machine with another engine.

LLVM compiles a program (jitlink.bpf.sbpf.native_code), and the project's own linker maps what it makes. Where
native code cannot go on, the interpreter carries the instruction out, and raises the fault that it always raises.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from itertools import repeat
from typing import Any, NoReturn

from jitlink.bpf.llvm_tier.objects import object_of
from jitlink.bpf.sbpf.abi import CALLBACK, Status
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.functions import Code
from jitlink.bpf.sbpf.machine import TO_PYTHON, NativeSyscall, Returned, SbpfMachine, Syscall
from jitlink.bpf.sbpf.memory import HEAP_BYTES
from jitlink.bpf.sbpf.native_code import module_of
from jitlink.session import Session

ENTER = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)


class NativeMachine(SbpfMachine):
    """Runs a program in native code. The syscalls are those that it was made with."""

    def __init__(self, executable: Executable, syscalls: Mapping[str, Syscall], *, heap: int = HEAP_BYTES) -> None:
        """As SbpfMachine. Raises MissingExtra where there is no llvmlite."""
        super().__init__(executable, syscalls, heap=heap)
        self._raised: BaseException | None = None
        self._enter: Any = None
        # Kept as long as native code may call them.
        self._callbacks = [_callback(self, NativeMachine._syscall), _callback(self, NativeMachine._interpret)]
        self.record.callback, self.record.call_slot = (
            ctypes.cast(each, ctypes.c_void_p).value for each in self._callbacks
        )
        if len(executable.slots):
            self._compile()

    def _compile(self) -> None:
        natives = {number: each.address for number, each in self.syscalls.items() if isinstance(each, NativeSyscall)}
        text = module_of(Code(self.executable, self.function_of_call), natives)
        session = Session()
        dylib = session.dylib("sbpf")
        dylib.add(object_of(text, None))
        dylib.link_against({f"syscall_{number}": address for number, address in natives.items()})
        self._enter = ENTER(dylib["enter"].address)
        weakref.finalize(self, session.close)

    def _execute(self, pc: int) -> None:
        record = self.record
        self._to_native()
        record.status, record.depth = Status.RUNNING, self.depth
        try:
            if self._enter(ctypes.addressof(record)):
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
        status, pc = self.record.status, int(self.record.place)
        if status == Status.RAISED:
            error, self._raised = self._raised, None
            assert error is not None
            raise error
        self._from_native()
        self.depth = int(self.record.depth)
        try:
            if status == Status.OUT_OF_BUDGET:
                self._take_steps(pc)
            if status == Status.OVERDRAWN:
                raise self.out_of_budget()
            if status == Status.SYSCALL_FAILED:
                raise self.syscall_failed()
            self._step(pc)
        except Exception as error:
            self.locate(error, pc)
            raise
        finally:
            self._to_native()
        raise AssertionError(f"native code could not carry out instruction {pc}, and the interpreter could")

    # What native code calls

    def _syscall(self) -> None:
        """Call the syscall in Python that the instruction at place names."""
        self._from_native()
        self.depth = int(self.record.depth)
        pc = int(self.record.place)
        try:
            self._step(pc)
        except Exception as error:
            self.locate(error, pc)
            raise
        finally:
            self._to_native()

    def _interpret(self) -> None:
        """Run a function that has no native code on the interpreter."""
        self._from_native()
        self.depth = int(self.record.depth)
        self._frames.append((TO_PYTHON, self.registers[6:]))
        try:
            self._take_steps(int(self.record.target))
        except Returned:
            return
        finally:
            self._to_native()

    def keep(self, error: BaseException) -> None:
        """Let native code leave, and the exception be raised behind it."""
        self._raised = error
        self.record.status = Status.RAISED


def _callback(machine: NativeMachine, method: Any) -> Any:
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
