"""The memory of a BPF program: the regions it may touch, at their real addresses.

A program sees pointers: to its stack, its context, the packet, values of maps. They are addresses
of this process, so that the interpreter and native code see the same numbers and helpers can
follow them. What makes that safe is that an access must lie inside one region of a short list.
Every change makes a new list and a new table, so that whoever reads the old one, native code in another
thread too, reads on undisturbed.

A region is a window onto memory. The window may be moved within the memory that was allocated for
it, since a program can grow and shrink a packet. Between two allocated regions lies at least a
guard of bytes that belong to neither, so that a pointer that runs off one never lands in the next.
"""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from threading import RLock

import numpy as np
import numpy.typing as npt

from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.low_memory import map_low
from jitlink.errors import MemoryRefused, UsageError

GUARD = 4096
"""Bytes behind every allocation that no region may reach."""

TABLE_COLUMNS = 3
ADDRESS_MASK = 0xFFFF_FFFF_FFFF_FFFF


class Region:
    """A run of bytes that a program may read and, if writable, write.

    Attributes: name (for messages), address (of its first byte), size (bytes), writable,
    data (memoryview of uint8[size]; data[0] is the byte at address), of_run (it belongs to one run).

    A region that was removed has size 0, so that an access through a stale pointer fails. The
    interpreter relies on this: it remembers the region that an instruction used last.
    """

    __slots__ = ("_memory", "_memory_address", "address", "data", "name", "of_run", "size", "writable")

    def __init__(self, name: str, address: int, memory: memoryview, *, writable: bool) -> None:
        self.name = name
        self.address = address
        self.size = len(memory)
        self.writable = writable
        self.of_run = False
        self.data = memory
        self._memory = memory
        self._memory_address = address

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.address + self.size

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The bytes of the window as uint8[size], a view that stays valid after the region is gone."""
        return np.frombuffer(self.data, np.uint8)

    @property
    def room(self) -> int:
        """Bytes of memory that the window can be moved in."""
        return len(self._memory)

    def fill(self, start: int, content: bytes | bytearray | memoryview) -> None:
        """Write bytes to a place in the memory, and zeroes to all the rest of it, wherever the window is."""
        memory, end = self._memory, start + len(content)
        memory[:start], memory[start:end], memory[end:] = bytes(start), content, bytes(len(memory) - end)

    def _show(self, address: int, size: int) -> None:
        start = address - self._memory_address
        if start < 0 or size < 0 or start + size > len(self._memory):
            raise UsageError(f"the region {self.name} has no memory for {size} bytes at {address:#x}")
        self.address, self.size = address, size
        self.data = self._memory[start : start + size]

    def __repr__(self) -> str:
        return f"<region {self.name!r} {self.address:#x}..{self.end:#x}{'' if self.writable else ' read-only'}>"


class Regions:
    """All memory that a program may touch: disjoint regions, in order of address.

    Attributes: table (the same as native code reads it: address, size and whether it is writable of each
    region, uint64 each; a change puts another in its place); version (grows with every change of the table).
    """

    def __init__(self) -> None:
        self._order: tuple[list[int], list[Region]] = [], []
        self._last: Region | None = None
        self._changing = RLock()
        self._unused: deque[Region] = deque()
        self.table = array("Q")
        self.version = 0

    def __len__(self) -> int:
        return len(self._order[1])

    def __iter__(self) -> Iterator[Region]:
        return iter(self._order[1])

    def share(self, region: Region) -> None:
        """Add a region that is one of others' regions too. Neither may move it or take it away meanwhile."""
        self._insert(region)

    def row_of(self, region: Region) -> int:
        """The row of the table in which a region stands. Raises UsageError where it is not one of these."""
        return self._position(region)

    def allocate(self, size: int, name: str, *, writable: bool = True, low: bool = False, room: int = 0) -> Region:
        """Add a region of zeroed memory of our own.

        size: bytes; the address is aligned to a page. low places it below 4 GiB, where a pointer
        fits the 32-bit fields of struct xdp_md and struct __sk_buff. writable says what programs
        may do; Python can always write. room: bytes of memory to move the region in, if that is more
        than its size. The memory goes back to the host when the region is removed
        and no view of it is left. Raises MemoryRefused when the host has no such memory.
        """
        if size < 0:
            raise UsageError(f"a region cannot have {size} bytes")
        self._drop_unused()
        room = max(size, room)
        memory = map_low(room + GUARD) if low else _map(room + GUARD)
        address = np.frombuffer(memory, np.uint8).ctypes.data
        region = Region(name, address, memory[:room], writable=writable)
        region._show(address, size)
        return self._insert(region)

    def add(self, name: str, array: npt.NDArray[np.uint8], *, writable: bool = True) -> Region:
        """Add a region over memory that somebody else owns, which is kept alive.

        array: uint8[n], contiguous. Raises UsageError when it overlaps a region, is not contiguous,
        or should be writable and is not.
        """
        if not array.flags.c_contiguous or (writable and not array.flags.writeable):
            raise UsageError(f"the memory of the region {name} is not contiguous, or not writable as it should be")
        return self._insert(Region(name, array.ctypes.data, array.data, writable=writable))

    def resize(self, region: Region, address: int, size: int) -> None:
        """Move the window of a region within its memory, as a packet grows and shrinks.

        address, size: the new window, in bytes. Raises UsageError when the memory does not reach.
        """
        with self._changing:
            position = self._position(region)
            region._show(address, size)
            self._change(position, position + 1, region)

    def remove(self, region: Region) -> None:
        """Take a region away. Pointers to it are invalid from here."""
        self.withdraw(region)
        region.size = 0
        region.data = region._memory = memoryview(b"")

    def withdraw(self, region: Region) -> None:
        """Take a region off the list, and leave its memory to others who list it: it goes with the last of them."""
        with self._changing:
            position = self._position(region)
            self._change(position, position + 1, None)
            if self._last is region:
                self._last = None

    def leave(self, regions: Iterable[Region]) -> None:
        """Withdraw regions with the next allocation: for finalizers, which run anywhere, also amid a change."""
        self._unused.extend(regions)

    def _drop_unused(self) -> None:
        with self._changing:
            while self._unused:
                region = self._unused.popleft()
                if region in self._order[1]:
                    self.withdraw(region)

    def close(self) -> None:
        """Take all regions away."""
        for region in self:
            self.remove(region)

    def find(self, address: int, size: int, write: bool = False) -> Region:
        """Find the region that holds a whole access, in O(log n); the last one found is tried first.

        address: any integer, taken modulo 2**64; size: bytes, at least 1. Raises BpfFault, with the
        address and the nearest region, when no region holds all of it or it may not be written.
        """
        address &= ADDRESS_MASK
        region = self._last
        if region is None or not 0 <= address - region.address <= region.size - size:
            starts, regions = self._order
            position = bisect_right(starts, address) - 1
            region = regions[position] if position >= 0 else None
            if region is None or address + size > region.end:
                raise self._out_of_bounds(address, size, write)
            self._last = region
        if write and not region.writable:
            raise BpfFault(
                FaultKind.READ_ONLY,
                f"write of {_bytes(size)} at {address:#x} in {region.name}, which is read-only",
                address=address,
                size=size,
                nearest=region.name,
            )
        return region

    def nearest(self, address: int) -> Region | None:
        """Find the region whose bytes are closest to an address; None when there are no regions."""
        starts, regions = self._order
        position = bisect_right(starts, address)
        around = regions[max(position - 1, 0) : position + 1]
        return min(around, key=lambda region: max(region.address - address, address - region.end), default=None)

    def _insert(self, region: Region) -> Region:
        with self._changing:
            starts, regions = self._order
            position = bisect_right(starts, region.address)
            for neighbour in regions[max(position - 1, 0) : position + 1]:
                if region.address < neighbour.end and neighbour.address < region.end:
                    raise UsageError(f"the region {region.name} overlaps the region {neighbour.name}")
            self._change(position, position, region)
        return region

    def _change(self, first: int, last: int, region: Region | None) -> None:
        """Put a region, or none, in the place of some, on a list and in a table that are new."""
        starts, regions = self._order
        starts, regions, table = starts.copy(), regions.copy(), self.table[:]
        starts[first:last] = [region.address] if region is not None else []
        regions[first:last] = [region] if region is not None else []
        row = (region.address, region.size, region.writable) if region is not None else ()
        table[TABLE_COLUMNS * first : TABLE_COLUMNS * last] = array("Q", row)
        self._order, self.table = (starts, regions), table
        self.version += 1

    def _position(self, region: Region) -> int:
        starts, regions = self._order
        try:
            return regions.index(region, max(bisect_right(starts, region.address) - 1, 0))
        except ValueError:
            raise UsageError(f"the region {region.name} is not one of these regions") from None

    def _out_of_bounds(self, address: int, size: int, write: bool) -> BpfFault:
        access = f"{'write' if write else 'read'} of {_bytes(size)} at {address:#x}"
        region = self.nearest(address)
        if region is None:
            return BpfFault(FaultKind.OUT_OF_BOUNDS, f"{access}: there is no memory", address=address, size=size)
        return BpfFault(
            FaultKind.OUT_OF_BOUNDS,
            f"{access} is outside the program's memory: {_relation(address, size, region)}",
            address=address,
            size=size,
            nearest=region.name,
        )


def _relation(address: int, size: int, region: Region) -> str:
    whole = f"{region.name} ({_bytes(region.size)} at {region.address:#x})"
    if address >= region.end:
        return f"{_bytes(address - region.end)} past the end of {whole}"
    if address >= region.address:
        return f"it runs {_bytes(address + size - region.end)} over the end of {whole}"
    return f"{_bytes(region.address - address)} before {whole}"


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"


def _map(size: int) -> memoryview:
    try:
        return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except (OSError, OverflowError, ValueError) as error:
        raise MemoryRefused(f"the host gives no {size} bytes of memory: {error}") from None
