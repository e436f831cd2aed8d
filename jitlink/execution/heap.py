"""The heap of an emulated machine: malloc and its family, kept in Python.

What is allocated is remembered outside of the emulated memory, so that emulated code cannot damage it,
and a pointer that was never allocated, or was freed before, is noticed.
"""

from __future__ import annotations

from collections.abc import Callable

from jitlink.errors import EmulationFault

ALIGNMENT = 16
CHUNK = 1 << 20
"""Bytes that are mapped at a time."""


class Heap:
    """Allocates from chunks.

    Attributes: sizes (the bytes that were asked for, of each address that is allocated).
    """

    def __init__(self, grow: Callable[[int], int]) -> None:
        """grow: maps that many bytes and returns their address, or raises MemoryRefused."""
        self._grow = grow
        self.sizes: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}
        self._next = self._end = 0

    def allocate(self, size: int, alignment: int = ALIGNMENT) -> int:
        """Allocate bytes; what they hold is not said. Raises MemoryRefused."""
        rounded = max(-(-size // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
        free = self._free.get(rounded)
        reused = free.pop() if free and alignment <= ALIGNMENT else None
        address = self._carve(rounded, max(alignment, ALIGNMENT)) if reused is None else reused
        self.sizes[address] = size
        return address

    def _carve(self, size: int, alignment: int) -> int:
        address = -(-self._next // alignment) * alignment
        if address + size > self._end:
            chunk = max(CHUNK, size + alignment)
            self._next = self._grow(chunk)
            self._end = self._next + chunk
            address = -(-self._next // alignment) * alignment
        self._next = address + size
        return address

    def size_of(self, address: int) -> int:
        """The bytes that were asked for at an address. Raises EmulationFault if none are allocated there."""
        if address not in self.sizes:
            raise EmulationFault(f"{address:#x} is not allocated: it never was, or it was freed before")
        return self.sizes[address]

    def free(self, address: int) -> None:
        """Free what was allocated at an address; 0 is none. Raises EmulationFault."""
        if address:
            size = self.size_of(address)
            del self.sizes[address]
            self._free.setdefault(max(-(-size // ALIGNMENT) * ALIGNMENT, ALIGNMENT), []).append(address)
