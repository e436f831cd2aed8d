"""Python's memory, lent to emulated code for the time of a call.

Emulated code cannot see Python's memory. A buffer that is passed to it (bytes, a NumPy array, an array or
structure of ctypes or cffi) is copied in before the call, and back out after it unless it is read-only.
Buffers that overlap are copied as one, so that the code sees them overlap. Pointers inside of a buffer are
not followed: they are Python's addresses, and mean nothing there.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from jitlink.execution.memory import Memory

ALIGNMENT = 64
"""Of the copy; where a buffer lies within that many bytes is kept, for code that asks for aligned data."""


class Borrowed(NamedTuple):
    """A place in Python's memory, by its address."""

    address: int


class Buffer(NamedTuple):
    """Memory of Python's: address, size in bytes, whether it is copied back, and what keeps it alive."""

    address: int
    size: int
    writable: bool
    owner: object


class Loan:
    """The buffers of one call."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._buffers: list[Buffer] = []
        self._copies: list[tuple[range, int]] = []

    def add(self, buffer: Buffer) -> Borrowed:
        """Lend a buffer."""
        self._buffers.append(buffer)
        return Borrowed(buffer.address)

    def copy_in(self) -> None:
        """Copy all buffers into emulated memory. Raises MemoryRefused."""
        for host in _merged(self._buffers):
            skew = host.start % ALIGNMENT
            copy = self._memory.allocate(len(host) + skew, ALIGNMENT) + skew
            self._copies.append((host, copy))
            self._memory.write(copy, ctypes.string_at(host.start, len(host)))

    def address_of(self, borrowed: Borrowed) -> int:
        """Where a place is in emulated memory."""
        # A buffer of no bytes lies at the end of itself.
        at = borrowed.address
        return next(copy + at - host.start for host, copy in self._copies if _holds(host, at))

    def give_back(self) -> None:
        """Copy what is writable back, and free the copies."""
        for buffer in self._buffers:
            if buffer.writable and buffer.size:
                content = self._memory.read(self.address_of(Borrowed(buffer.address)), buffer.size)
                ctypes.memmove(buffer.address, content, buffer.size)
        for host, copy in self._copies:
            self._memory.free(copy - host.start % ALIGNMENT)
        self._copies.clear()


def _holds(host: range, address: int) -> bool:
    return address in host or (not host and address == host.start)


def _merged(buffers: list[Buffer]) -> list[range]:
    """The ranges of buffers, those that overlap as one."""
    merged: list[range] = []
    for start, end in sorted((buffer.address, buffer.address + buffer.size) for buffer in buffers):
        if merged and start < merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(end, merged[-1].stop))
        elif not merged or range(start, end) != merged[-1]:
            merged.append(range(start, end))
    return merged


def buffer_of(value: Any) -> Buffer | None:
    """The memory of bytes, or of anything else with the buffer protocol; None for what has none.

    bytes come with the NUL that Python keeps behind them. Raises TypeError for a buffer with gaps.
    """
    if isinstance(value, bytes):
        address: int = ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p).value or 0
        return Buffer(address, len(value) + 1, False, value)
    try:
        view = memoryview(value)
    except TypeError:
        return None
    if not view.c_contiguous:
        raise TypeError("a buffer with gaps, or not in C order, cannot be passed as a pointer")
    if not view.nbytes:
        return Buffer(id(value), 0, False, value)
    items = np.frombuffer(value, np.uint8) if view.format == "B" else np.frombuffer(view.cast("B"), np.uint8)
    address = items.__array_interface__["data"][0]
    return Buffer(address, view.nbytes, not view.readonly, (value, items))


def item_size(value: Any) -> int:
    """Bytes of an item of a buffer; 1 for a buffer of plain bytes, and for what is no buffer."""
    try:
        return memoryview(value).itemsize
    except TypeError:
        return 1
