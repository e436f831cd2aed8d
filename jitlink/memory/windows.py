"""Executable memory on Windows. This file has been type-checked but never been run.

VirtualAlloc reserves addresses (MEM_RESERVE, at multiples of 64 KiB) and commits zero-filled pages
in them (MEM_COMMIT); VirtualProtect gives them their final protection, and FlushInstructionCache
makes written instructions visible. A process with Arbitrary Code Guard (the mitigation
ProhibitDynamicCode) may not make memory executable; VirtualProtect then fails with
ERROR_DYNAMIC_CODE_BLOCKED (1655), and there is no other way. There is no fork.

Source: Microsoft's reference of memoryapi.h and processthreadsapi.h.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

from jitlink.errors import MemoryRefused
from jitlink.memory.gaps import Span, no_gap, plan_gap
from jitlink.memory.segments import READ_EXECUTE, READ_WRITE, Host, Policy, Segment
from jitlink.protection import Protection

assert sys.platform == "win32"

PAGE = mmap.PAGESIZE
GRANULARITY = mmap.ALLOCATIONGRANULARITY
MEM_COMMIT, MEM_RESERVE, MEM_DECOMMIT, MEM_RELEASE, MEM_FREE = 0x1000, 0x2000, 0x4000, 0x8000, 0x10000
PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE, PAGE_EXECUTE_READ = 0x01, 0x02, 0x04, 0x20
ERROR_INVALID_ADDRESS = 487
ATTEMPTS = 16


class MemoryBasicInformation(ctypes.Structure):
    """MEMORY_BASIC_INFORMATION: what VirtualQuery says of a run of pages."""

    _fields_ = (
        ("base_address", ctypes.c_void_p),
        ("allocation_base", ctypes.c_void_p),
        ("allocation_protect", ctypes.c_uint32),
        ("partition_id", ctypes.c_uint16),
        ("region_size", ctypes.c_size_t),
        ("state", ctypes.c_uint32),
        ("protect", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
    )


_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_alloc, _free, _change = _kernel32.VirtualAlloc, _kernel32.VirtualFree, _kernel32.VirtualProtect
_query, _flush, _this_process = (
    _kernel32.VirtualQuery,
    _kernel32.FlushInstructionCache,
    _kernel32.GetCurrentProcess,
)
_alloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32]
_alloc.restype = ctypes.c_void_p
_free.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32]
_change.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)]
_query.argtypes = [ctypes.c_void_p, ctypes.POINTER(MemoryBasicInformation), ctypes.c_size_t]
_query.restype = ctypes.c_size_t
_flush.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_this_process.restype = ctypes.c_void_p


class WrittenThenProtected(Segment):
    """Pages that are written where they will be used, and change their protection at seal."""

    __slots__ = ()

    def _protect(self) -> None:
        if self.protection == READ_WRITE:
            return
        final = PAGE_EXECUTE_READ if self.protection == READ_EXECUTE else PAGE_READONLY
        if not _change(self.address, self.size, final, ctypes.byref(ctypes.c_uint32())):
            raise _refused("giving pages their final protection", self.size)
        if self.protection == READ_EXECUTE:
            _flush(_this_process(), self.address, self.size)


class WindowsHost:
    """Addresses and pages from VirtualAlloc."""

    page = PAGE

    def reserve(self, size: int, low: int, high: int, near: int | None) -> int:
        if near is None:
            base: int | None = _alloc(None, size, MEM_RESERVE, PAGE_NOACCESS)
            if base is None:
                raise _refused("reserving addresses", size)
            if low <= base and base + size <= high:
                return base
            self.release(base, size)
        for _ in range(ATTEMPTS):
            taken, top = _taken_ranges()
            low, high = max(low, GRANULARITY), min(high, top)
            planned = plan_gap(taken, size, low=low, high=high, near=near, alignment=GRANULARITY)
            if planned is None:
                raise no_gap(taken, size, low, high)
            if _alloc(planned, size, MEM_RESERVE, PAGE_NOACCESS):
                return planned
            if ctypes.get_last_error() != ERROR_INVALID_ADDRESS:
                raise _refused(f"reserving addresses at {planned:#x}", size)
        raise MemoryRefused(f"{ATTEMPTS} free ranges of {size:#x} bytes were found, and other threads took each first")

    def commit(self, address: int, size: int, protection: Protection) -> Segment:
        if not _alloc(address, size, MEM_COMMIT, PAGE_READWRITE):
            raise _refused("committing pages", size)
        return WrittenThenProtected(address, size, protection, address)

    def decommit(self, address: int, size: int) -> None:
        if not _free(address, size, MEM_DECOMMIT):
            raise _refused("decommitting pages", size)

    def release(self, base: int, size: int) -> None:
        # MEM_RELEASE frees the whole of what one call reserved, and wants 0 for its size.
        if not _free(base, 0, MEM_RELEASE):
            raise _refused("releasing addresses", size)


HOSTS: dict[Policy, Callable[[], Host]] = {"mprotect": WindowsHost}


def best_policy() -> Policy:
    """There is one way on this platform."""
    return "mprotect"


def _taken_ranges() -> tuple[list[Span], int]:
    """List what is reserved or committed, and the end of the addresses a process can have."""
    taken = []
    address = 0
    info = MemoryBasicInformation()
    while _query(address, ctypes.byref(info), ctypes.sizeof(info)):
        end = address + info.region_size
        if info.state != MEM_FREE:
            taken.append((address, end))
        address = end
    return taken, address


def _refused(action: str, size: int) -> MemoryRefused:
    number = ctypes.get_last_error()
    return MemoryRefused(f"{action}: {size:#x} bytes refused: {ctypes.FormatError(number)} (error {number})")
