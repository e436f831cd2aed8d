"""Reservations and their segments: the bookkeeping that is the same on every platform.

A platform brings a Host (how addresses are reserved and pages come and go) and its own Segment (how
pages turn from writable to their final protection). Reservation sees to it that nothing outside the
range and nothing twice is asked of the host.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_left, insort
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from jitlink.protection import Protection

Policy = Literal["auto", "mprotect", "dual"]

HUGE_PAGE = 2 << 20
"""Bytes that one entry of a page directory maps, with 4 KiB pages on x86-64, AArch64 and RISC-V."""


READ = Protection.READ
READ_WRITE = Protection.READ | Protection.WRITE
READ_EXECUTE = Protection.READ | Protection.EXECUTE


class Segment:
    """Committed pages: written through the working view until sealed, then as their protection says.

    Attributes: address (where the content will be used; a page multiple), size (bytes), protection
    (the final one). A segment that is READ | WRITE stays usable at its address after seal.
    """

    __slots__ = ("_working", "address", "protection", "size")

    def __init__(self, address: int, size: int, protection: Protection, working_address: int) -> None:
        self.address = address
        self.size = size
        self.protection = protection
        self._working: npt.NDArray[np.uint8] | None = _bytes_at(working_address, size)

    @property
    def working(self) -> npt.NDArray[np.uint8]:
        """The pages as uint8[size], to be written; with double mapping not at address.

        The array is worth nothing after seal, decommit or release, where writing to it faults:
        keep no copy. Raises ValueError then.
        """
        if self._working is None:
            raise ValueError(f"the segment at {self.address:#x} has been sealed or given back")
        return self._working

    def seal(self) -> None:
        """Give the pages their final protection and take the working view away; once only.

        Raises MemoryRefused where the host does not allow it; the pages are then not executable.
        """
        if self._working is None:
            raise ValueError(f"the segment at {self.address:#x} has been sealed or given back")
        self._protect()
        self._working = None

    def abandon(self) -> None:
        """Let go of what an unsealed segment holds outside its reservation."""
        self._working = None

    def _protect(self) -> None:
        raise NotImplementedError


class Host(Protocol):
    """What a platform does for a Reservation; every address and size is a multiple of page."""

    @property
    def page(self) -> int:
        """Bytes in a page."""

    def reserve(self, size: int, low: int, high: int, near: int | None) -> int:
        """Reserve addresses without access as jitlink.memory.reserve says, and return the base."""

    def commit(self, address: int, size: int, protection: Protection) -> Segment:
        """Put zero-filled writable pages at reserved addresses."""

    def decommit(self, address: int, size: int) -> None:
        """Free the pages, and leave the addresses reserved without access."""

    def release(self, base: int, size: int) -> None:
        """Give the addresses and everything in them back to the process."""


class Reservation:
    """A range of addresses in which segments are committed; unmapped on exit or release.

    Attributes: base, size (bytes, both page multiples), released.
    """

    def __init__(self, host: Host, base: int, size: int) -> None:
        self.base = base
        self.size = size
        self.released = False
        self._host = host
        self._offsets: list[int] = []
        self._segments: dict[int, Segment] = {}

    def commit(self, offset: int, size: int, protection: Protection) -> Segment:
        """Put zero-filled pages at base + offset, to be written now and protected at seal.

        offset, size: page multiples, inside the range, where nothing is committed.
        protection: READ, READ | WRITE or READ | EXECUTE.

        Raises MemoryRefused where the host has no memory, and ValueError where the arguments break
        the rules above.
        """
        if protection not in (READ, READ_WRITE, READ_EXECUTE):
            raise ValueError(f"{protection!r} is no protection of a segment")
        before, after = self._committed(offset, size)
        if before != after:
            raise ValueError(f"[{offset:#x}, {offset + size:#x}) is committed already")
        segment = self._host.commit(self.base + offset, size, protection)
        insort(self._offsets, offset)
        self._segments[offset] = segment
        return segment

    def decommit(self, offset: int, size: int) -> None:
        """Free the pages of the segments in a range; its addresses may be committed again.

        offset, size: page multiples, inside the range. Segments lie in it wholly or not at all;
        ValueError otherwise. Nothing may still run there or point there.
        """
        first, last = self._committed(offset, size)
        freed = self._offsets[first:last]
        if freed and (freed[0] < offset or self._end(freed[-1]) > offset + size):
            raise ValueError(f"[{offset:#x}, {offset + size:#x}) cuts a segment in two")
        self._host.decommit(self.base + offset, size)
        del self._offsets[first:last]
        for start in freed:
            self._segments.pop(start).abandon()

    def release(self) -> None:
        """Unmap everything. A second call does nothing."""
        if self.released:
            return
        self.released = True
        for segment in self._segments.values():
            segment.abandon()
        self._segments.clear()
        self._offsets.clear()
        self._host.release(self.base, self.size)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "released" if self.released else f"{len(self._segments)} segments"
        return f"<Reservation {self.base:#x} to {self.base + self.size:#x}, {state}>"

    def _committed(self, offset: int, size: int) -> tuple[int, int]:
        """Find the segments that meet a range: first and behind the last, in order of offset."""
        if self.released:
            raise ValueError("the reservation has been released")
        if size <= 0 or offset < 0 or offset + size > self.size or (offset | size) % self._host.page:
            raise ValueError(f"[{offset:#x}, {offset + size:#x}) is not whole pages in {self!r}")
        first = bisect_left(self._offsets, offset)
        if first and self._end(self._offsets[first - 1]) > offset:
            first -= 1
        return first, bisect_left(self._offsets, offset + size, first)

    def _end(self, offset: int) -> int:
        return offset + self._segments[offset].size


def align_up(value: int, alignment: int) -> int:
    """Round up to a multiple of alignment, which is a power of two."""
    return (value + alignment - 1) & -alignment


_memoryview_at = ctypes.pythonapi.PyMemoryView_FromMemory
_memoryview_at.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
_memoryview_at.restype = ctypes.py_object
_PYBUF_WRITE = 0x200


def _bytes_at(address: int, size: int) -> npt.NDArray[np.uint8]:
    # A ctypes array would do as well, but makes a new type for every new size, which takes longer.
    view: Any = _memoryview_at(address, size, _PYBUF_WRITE)
    return np.frombuffer(view, np.uint8)
