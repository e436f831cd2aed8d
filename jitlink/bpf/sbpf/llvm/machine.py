"""The machine that runs SBPF programs in machine code that LLVM has optimised.

LLVM compiles a program (jitlink.bpf.sbpf.llvm.modules), and the project's own linker maps what it makes.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from typing import Any

from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.bpf.llvm_tier.objects import object_of
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.llvm.functions import Code
from jitlink.bpf.sbpf.llvm.modules import module_of
from jitlink.bpf.sbpf.machine import TO_PYTHON, Returned, Syscall
from jitlink.bpf.sbpf.memory import FRAME_SIZE, HEAP_BYTES
from jitlink.bpf.sbpf.native import NativeMachine, callback_of
from jitlink.session import Session

ENTER = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)


class LlvmMachine(NativeMachine):
    """Runs a program in the machine code of LLVM."""

    def __init__(
        self,
        executable: Executable,
        syscalls: Mapping[str, Syscall],
        *,
        heap: int = HEAP_BYTES,
        kept: ObjectCache | None = None,
    ) -> None:
        """As SbpfMachine. kept: where objects are kept, None for nowhere. Raises MissingExtra without llvmlite."""
        super().__init__(executable, syscalls, heap=heap)
        self._enter: Any = None
        # Kept as long as native code may call it.
        self._call_slot = callback_of(self, LlvmMachine._interpret_function)
        self.record.call_slot = ctypes.cast(self._call_slot, ctypes.c_void_p).value or 0
        if len(executable.slots):
            self._compile(kept)

    def _compile(self, kept: ObjectCache | None) -> None:
        natives = self.native_syscalls()
        text, is_small = module_of(Code(self.executable, self.function_of_call), natives)
        session = Session()
        dylib = session.dylib("sbpf")
        dylib.add(object_of(text, kept, None if is_small else ()))
        dylib.link_against({f"syscall_{number}": address for number, address in natives.items()})
        self._enter = ENTER(dylib["enter"].address)
        weakref.finalize(self, session.close)

    def _run_native(self, pc: int) -> None:
        self.record.depth, self.record.frame = self.depth, self.stack_address + FRAME_SIZE
        self._enter(ctypes.addressof(self.record))

    def _take_over(self) -> int:
        self.depth = int(self.record.depth)
        return int(self.record.place)

    def _interpret_function(self) -> None:
        """Run the function at the record's target, which has no native code, on the interpreter."""
        self._from_native()
        self.depth = int(self.record.depth)
        self._frames.append((TO_PYTHON, self.registers[6:]))
        try:
            self._take_steps(int(self.record.target))
        except Returned:
            return
        finally:
            self._to_native()
