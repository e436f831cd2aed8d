"""The machine that runs SBPF programs in one-pass code.

A function that only a computed address leads to, as far as the file says, is interpreted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from jitlink.bpf.jit.abi import SITE_SIZE, SITES
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.jit.images import Image
from jitlink.bpf.sbpf.abi import Status
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.jit.images import image_of
from jitlink.bpf.sbpf.jit.lowering import can_be_lowered
from jitlink.bpf.sbpf.machine import TO_PYTHON, Returned, Syscall
from jitlink.bpf.sbpf.memory import FRAME_SIZE, HEAP_BYTES, STACK_BYTES
from jitlink.bpf.sbpf.native import NativeMachine


class JitMachine(NativeMachine):
    """Runs a program in the machine code of a one-pass back end.

    Attributes beyond those of NativeMachine: image (None of a program that is interpreted: without code, or with
    an instruction inside of another).
    """

    def __init__(
        self,
        executable: Executable,
        syscalls: Mapping[str, Syscall],
        shapes: Shapes,
        *,
        heap: int = HEAP_BYTES,
        hardening: Hardening | None = None,
    ) -> None:
        """As SbpfMachine. shapes: of a back end for SBPF; hardening: None for plain code. Raises LinkError."""
        super().__init__(executable, syscalls, heap=heap)
        self.image: Image | None = None
        self._in_native = False
        self._placed: BaseException | None = None
        self._address = ctypes.addressof(self.record)
        if can_be_lowered(executable):
            self.image = image_of(executable, self.function_of_call, shapes, self.native_syscalls(), hardening)

    def _execute(self, pc: int) -> None:
        if self.image is None:
            self._interpret(pc)
        else:
            super()._execute(pc)

    def _run_native(self, pc: int) -> None:
        assert self.image is not None
        record = self.record
        stack = self.stack_address
        record.stack, record.frame, record.last_frame = stack, stack + FRAME_SIZE, stack + STACK_BYTES
        # Sites keep what holds for one run: the input of another lies elsewhere.
        ctypes.memset(self._address, 0, SITES * SITE_SIZE)
        self._in_native = True
        try:
            self.image.enter(self._address, self.image.base + int(self.image.code.entry[pc]))
        finally:
            self._in_native = False

    def _take_over(self) -> int:
        assert self.image is not None
        self.depth = (self.record.frame - self.stack_address) // FRAME_SIZE
        return self.image.slot_of(self.record.place)

    def _untaken(self, pc: int, status: Status) -> int:
        assert self.image is not None
        slots = self.image.code.slots
        return int(slots.counted[pc]) if status is Status.OUT_OF_BUDGET else slots.rest_of_block(pc)

    def enter(self, target: int, following: int) -> int:
        """Call the function at a slot: for native code, which knows none there, on the interpreter."""
        if not self._in_native:
            return super().enter(target, following)
        self._in_native = False
        try:
            self._take_steps(super().enter(target, TO_PYTHON))
        except Returned:
            return following
        finally:
            self._in_native = True

    def locate(self, error: Exception, pc: int) -> None:
        # An exception that has passed through an interpreted function was there before it comes here.
        if error is not self._placed:
            self._placed = error
            super().locate(error, pc)
