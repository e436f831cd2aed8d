"""Executable memory on macOS. This file has been type-checked but never been run.

Apple silicon allows executable anonymous memory that was written only in mappings made with
MAP_JIT. Their pages are either writable or executable for each thread by itself, and
pthread_jit_write_protect_np switches the calling thread. To keep that switch short, an executable
segment is filled in ordinary memory and copied to its address at seal. MAP_JIT cannot be combined
with MAP_FIXED, so seal frees the reserved addresses and asks for them again as a hint. On Intel,
where nothing of this exists, written memory changes its protection.

A Python with the hardened runtime needs the entitlement com.apple.security.cs.allow-jit; without
it the mapping is refused with EPERM or EINVAL. 64-bit programs have no addresses below 4 GiB
(__PAGEZERO), so a window there is refused. Sources: pthread_jit_write_protect_np(3), Apple's
"Porting just-in-time compilers to Apple silicon", XNU bsd/kern/kern_mman.c.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator

from jitlink.errors import MemoryRefused
from jitlink.memory.gaps import Span, no_gap, plan_gap
from jitlink.memory.segments import READ_EXECUTE, READ_WRITE, Host, Policy, Segment
from jitlink.protection import Protection

PAGE = os.sysconf("SC_PAGE_SIZE")

PROT_NONE, PROT_ALL = 0, 7
MAP_PRIVATE, MAP_FIXED, MAP_NORESERVE, MAP_JIT, MAP_ANON = 0x2, 0x10, 0x40, 0x800, 0x1000
VM_REGION_BASIC_INFO_64, VM_REGION_BASIC_INFO_COUNT_64 = 9, 9
ADDRESSES_ONLY = MAP_PRIVATE | MAP_ANON | MAP_NORESERVE
ATTEMPTS = 16

_libc = ctypes.CDLL(None, use_errno=True)
_mmap, _munmap, _mprotect = _libc.mmap, _libc.munmap, _libc.mprotect
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_mmap.restype = ctypes.c_void_p
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value


class WrittenThenProtected(Segment):
    """Pages that are written where they will be used, and change their protection at seal."""

    __slots__ = ()

    def _protect(self) -> None:
        if self.protection == READ_WRITE:
            return
        if _mprotect(self.address, self.size, self.protection):
            raise _refused("giving pages their final protection", self.size)
        if self.protection == READ_EXECUTE:
            _invalidate_instructions(self.address, self.size)


class CopiedToJitPages(Segment):
    """Pages that are filled in ordinary memory, and copied to a MAP_JIT mapping at seal."""

    __slots__ = ("_staging",)

    def __init__(self, address: int, size: int) -> None:
        self._staging = _mapped(None, size, READ_WRITE, MAP_PRIVATE | MAP_ANON)
        super().__init__(address, size, READ_EXECUTE, self._staging)

    def _protect(self) -> None:
        _munmap(self.address, self.size)
        mapped = _mapped(self.address, self.size, PROT_ALL, MAP_PRIVATE | MAP_ANON | MAP_JIT)
        if mapped != self.address:
            _munmap(mapped, self.size)
            raise MemoryRefused(f"another thread took the addresses at {self.address:#x} while code was mapped there")
        _libc.pthread_jit_write_protect_np(0)
        try:
            ctypes.memmove(self.address, self._staging, self.size)
        finally:
            _libc.pthread_jit_write_protect_np(1)
        _invalidate_instructions(self.address, self.size)
        self.abandon()

    def abandon(self) -> None:
        super().abandon()
        if self._staging:
            _munmap(self._staging, self.size)
            self._staging = 0


class MacHost:
    """Addresses from mmap; executable pages from MAP_JIT where the processor wants it."""

    page = PAGE

    def reserve(self, size: int, low: int, high: int, near: int | None) -> int:
        if near is None:
            base = _mapped(None, size, PROT_NONE, ADDRESSES_ONLY)
            if low <= base and base + size <= high:
                return base
            _munmap(base, size)
        for _ in range(ATTEMPTS):
            taken = list(_taken_ranges())
            top = min(high, max(end for _, end in taken))
            planned = plan_gap(taken, size, low=low, high=top, near=near, alignment=PAGE)
            if planned is None:
                raise no_gap(taken, size, low, top)
            base = _mapped(planned, size, PROT_NONE, ADDRESSES_ONLY)
            if base == planned:
                return base
            _munmap(base, size)
        raise MemoryRefused(f"{ATTEMPTS} free ranges of {size:#x} bytes were found, and other threads took each first")

    def commit(self, address: int, size: int, protection: Protection) -> Segment:
        if protection == READ_EXECUTE and _libc.pthread_jit_write_protect_supported_np():
            return CopiedToJitPages(address, size)
        if _mprotect(address, size, READ_WRITE):
            raise _refused("committing pages", size)
        return WrittenThenProtected(address, size, protection, address)

    def decommit(self, address: int, size: int) -> None:
        _mapped(address, size, PROT_NONE, ADDRESSES_ONLY | MAP_FIXED)

    def release(self, base: int, size: int) -> None:
        if _munmap(base, size):
            raise _refused("unmapping", size)


HOSTS: dict[Policy, Callable[[], Host]] = {"mprotect": MacHost}


def best_policy() -> Policy:
    """There is one way on this platform."""
    return "mprotect"


def _taken_ranges() -> Iterator[Span]:
    """List the regions of this task, as mach_vm_region(9) steps through them."""
    task = ctypes.c_uint.in_dll(_libc, "mach_task_self_")
    address, size = ctypes.c_uint64(0), ctypes.c_uint64(0)
    info = (ctypes.c_int * VM_REGION_BASIC_INFO_COUNT_64)()
    while True:
        count, name = ctypes.c_uint(VM_REGION_BASIC_INFO_COUNT_64), ctypes.c_uint(0)
        if _libc.mach_vm_region(
            task,
            ctypes.byref(address),
            ctypes.byref(size),
            VM_REGION_BASIC_INFO_64,
            info,
            ctypes.byref(count),
            ctypes.byref(name),
        ):
            return
        yield address.value, address.value + size.value
        address.value += size.value


def _mapped(address: int | None, size: int, protection: int, flags: int) -> int:
    mapped: int = _mmap(address, size, protection, flags, -1, 0)
    if mapped == _MAP_FAILED:
        raise _refused("mapping", size)
    return mapped


def _refused(action: str, size: int) -> MemoryRefused:
    return MemoryRefused(
        f"{action}: {size:#x} bytes refused: {os.strerror(ctypes.get_errno())}. "
        "A Python with the hardened runtime needs the entitlement com.apple.security.cs.allow-jit"
    )


def _invalidate_instructions(address: int, size: int) -> None:
    _libc.sys_icache_invalidate(ctypes.c_void_p(address), ctypes.c_size_t(size))
