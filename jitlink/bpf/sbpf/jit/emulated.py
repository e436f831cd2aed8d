"""Running SBPF programs in the machine code of another machine than the host, in an emulated CPU.

As jitlink.bpf.jit.emulated does for BPF: everything that the code may reach is mapped at its address, and nothing
else. Native syscalls are Python functions here, by the address that a NativeSyscall has.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping

from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.emulated import CALLBACK, DATA, Processor
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.sbpf.abi import RECORD_SIZE
from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.jit.machine import JitMachine
from jitlink.bpf.sbpf.machine import Syscall
from jitlink.bpf.sbpf.memory import HEAP_BYTES
from jitlink.protection import Protection


class EmulatedMachine(JitMachine):
    """Runs programs in the machine code of a back end, in an emulated CPU. Attributes: processor."""

    def __init__(
        self,
        executable: Executable,
        syscalls: Mapping[str, Syscall],
        shapes: Shapes,
        *,
        heap: int = HEAP_BYTES,
        hardening: Hardening | None = None,
    ) -> None:
        """As JitMachine. Raises MissingExtra without unicorn."""
        self.processor = Processor(shapes.backend.target)
        super().__init__(executable, syscalls, shapes, heap=heap, hardening=hardening)
        self.record.callback = CALLBACK
        self.processor.functions[CALLBACK] = self._serve
        if self.image is not None:
            routine: ctypes._CFunctionType = self.image.enter  # type: ignore[assignment]
            self._routine = ctypes.cast(routine, ctypes.c_void_p).value or 0
            self.image.enter = self._enter_emulated

    def _enter_emulated(self, record: int, target: int) -> None:
        self.processor.show(self._ranges())
        self.processor.call(self._routine, record, target)

    def _serve(self, arguments: list[int]) -> int:
        """The callback of the record."""
        try:
            self._syscall()
        except BaseException as error:
            self.keep(error)
        return 0

    def _ranges(self) -> Iterator[tuple[int, int, Protection]]:
        yield ctypes.addressof(self.record), RECORD_SIZE, DATA
        for region in filter(None, self.memory.regions):
            if region.size:
                yield region.array.ctypes.data, region.size, DATA if region.writable else Protection.READ
        assert self.image is not None
        yield from self.image.segments
