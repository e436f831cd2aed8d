"""The memory of an emulated machine, as Python reads and writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.errors import ClosedError, EmulationFault
from jitlink.execution.address_space import PAGE, AddressSpace
from jitlink.execution.cpus import unicorn_module
from jitlink.execution.heap import ALIGNMENT, Heap
from jitlink.protection import Protection

LONGEST_STRING = 1 << 24
"""Bytes up to which the NUL of a string is looked for."""
DATA = Protection.READ | Protection.WRITE


class Memory:
    """Bytes at addresses. Python may read and write all that is mapped, whatever its protection.

    Attributes: code_readers (called when code is changed or unmapped, for those who keep what they read of it).
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._space = AddressSpace()
        self._protected: dict[int, tuple[int, Protection]] = {}
        self._heap = Heap(self._grow)
        self.code_readers: list[Callable[[], None]] = []

    # For everybody

    def read(self, address: int, size: int) -> bytes:
        """Read bytes. Raises EmulationFault where they are not all mapped."""
        if size == 0:
            return b""
        try:
            return bytes(self._engine.mem_read(address, size))
        except self.error as error:
            raise self._unmapped("read", address, size) from error

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes. Raises EmulationFault where they are not all mapped."""
        data = bytes(data)
        if not data:
            return
        try:
            self._engine.mem_write(address, data)
        except self.error as error:
            raise self._unmapped("write", address, len(data)) from error
        if self._is_code(address):
            self._forget_code()

    def read_string(self, address: int, limit: int = LONGEST_STRING) -> bytes:
        """Read up to a NUL, which is left out, or up to limit bytes. Raises EmulationFault."""
        found = b""
        while len(found) < limit:
            # To the end of the page: what is behind it may not be mapped.
            at = address + len(found)
            part = self.read(at, min(PAGE - at % PAGE, limit - len(found)))
            head, end, _ = part.partition(b"\0")
            found += head
            if end:
                return found
        if limit == LONGEST_STRING:
            raise EmulationFault(f"the string at {address:#x} does not end within {limit:#x} bytes")
        return found

    def array(self, address: int, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """Copy count items at an address into a NumPy array. Raises EmulationFault."""
        kind = np.dtype(dtype)
        return np.frombuffer(bytearray(self.read(address, kind.itemsize * count)), kind, count)

    def store_array(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy the items of a NumPy array, in C order, to an address. Raises EmulationFault."""
        self.write(address, array.tobytes())

    def allocate(self, size: int, alignment: int = ALIGNMENT) -> int:
        """Allocate bytes of zeroes on the heap, as malloc does. Raises MemoryRefused."""
        address = self._heap.allocate(size, alignment)
        self.write(address, bytes(size))
        return address

    def free(self, address: int) -> None:
        """Free what was allocated, here or by malloc. Raises EmulationFault for what is not allocated."""
        self._heap.free(address)

    def allocated_size(self, address: int) -> int:
        """The bytes that were allocated at an address. Raises EmulationFault where there are none."""
        return self._heap.size_of(address)

    def allocated_at(self, address: int) -> bytes | None:
        """The bytes that were allocated at an address, or None."""
        size = self._heap.sizes.get(address)
        return None if size is None else self.read(address, size)

    # For the machine

    def take(self, size: int, alignment: int = PAGE, *, below: int = 0) -> int:
        """Choose addresses, without mapping them. Raises MemoryRefused."""
        return self._space.take(size, alignment, below=below)

    def give_back(self, address: int) -> None:
        """Let go of addresses that were taken."""
        self._space.give_back(address)

    def map(self, address: int, size: int, protection: Protection) -> None:
        """Map zeroes. address and size are multiples of the page size."""
        self._engine.mem_map(address, size, int(protection))
        self._protected[address] = (size, protection)

    def unmap(self, address: int) -> None:
        """Unmap what was mapped at an address."""
        size, protection = self._protected.pop(address)
        self._engine.mem_unmap(address, size)
        if protection & Protection.EXECUTE:
            self._forget_code()

    def _forget_code(self) -> None:
        """Let nobody go by what was there before: what the CPU has translated, and what others have read."""
        self._engine.ctl_flush_tb()
        for forget in self.code_readers:
            forget()

    def protection_of(self, address: int) -> Protection:
        """What may be done at an address; NONE where nothing is mapped."""
        for start, (size, protection) in self._protected.items():
            if start <= address < start + size:
                return protection
        return Protection.NONE

    def close(self) -> None:
        """Let go of the memory: who still holds it gets ClosedError."""
        self._engine = _Gone()
        self._protected.clear()

    def _is_code(self, address: int) -> bool:
        return bool(self.protection_of(address) & Protection.EXECUTE)

    def _grow(self, size: int) -> int:
        size = -(-size // PAGE) * PAGE
        address = self.take(size)
        self.map(address, size, DATA)
        return address

    @property
    def error(self) -> Any:
        """What the engine raises."""
        return unicorn_module().UcError

    def _unmapped(self, verb: str, address: int, size: int) -> EmulationFault:
        return EmulationFault(f"a {verb} of {size} bytes at {address:#x}, which is not all mapped")

    def __repr__(self) -> str:
        return f"<memory of an emulated CPU, {sum(size for size, _ in self._protected.values()):#x} bytes mapped>"


class _Gone:
    """The engine of a memory that is no more."""

    def __getattr__(self, name: str) -> Any:
        raise ClosedError("the emulated memory is gone: its session is closed")
