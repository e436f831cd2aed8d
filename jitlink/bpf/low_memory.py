"""Memory below 4 GiB.

struct xdp_md and struct __sk_buff hold the addresses of the packet in 32-bit fields. The kernel's
verifier rewrites each load of such a field into a load of a real pointer; we leave the program as
it is and place the packet where its address fits 32 bits, so that the zero-extended field is the
pointer.

The host is asked for one address after another, first of all for the one behind the last mapping: what is
asked for is small, and every object whose programs run on packets has some. MAP_FIXED_NOREPLACE makes it refuse where
something is mapped already; kernels before 4.17 do not know the flag, take the address as a hint,
and may answer with another place, which is given back.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterator
from functools import cache

from jitlink.errors import MemoryRefused

LIMIT = 1 << 32
FIRST = 1 << 28
STEP = 1 << 20
MAP_FIXED_NOREPLACE = 0x100000
MAP_FAILED = (1 << (8 * ctypes.sizeof(ctypes.c_void_p))) - 1

_first_to_try = FIRST


def map_low(size: int) -> memoryview:
    """Map zeroed memory that ends below 4 GiB; it is unmapped when no view of it is left.

    size: bytes. Returns uint8[size], writable. Raises MemoryRefused when the host gives none: there
    is no room, or its processes have nothing below 4 GiB (macOS).
    """
    global _first_to_try
    rounded = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    for hint in _hints(rounded):
        address = _map_at(hint, rounded)
        if address is not None:
            _first_to_try = address + rounded
            memory = (ctypes.c_ubyte * size).from_address(address)
            weakref.finalize(memory, _libc().munmap, address, rounded)
            return memoryview(memory).cast("B")
    raise MemoryRefused(f"the host gives no {size} bytes of memory below 4 GiB")


def _hints(size: int) -> Iterator[int]:
    if _first_to_try + size <= LIMIT:
        yield _first_to_try
    above = range(-(-_first_to_try // STEP) * STEP, LIMIT - size + 1, STEP)
    yield from above
    yield from range(FIRST, min(above.start, LIMIT - size + 1), STEP)


def _map_at(hint: int, size: int) -> int | None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    address = _libc().mmap(hint, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if address == MAP_FAILED:
        return None
    if address + size <= LIMIT:
        return int(address)
    _libc().munmap(address, size)
    return None


@cache
def _libc() -> ctypes.CDLL:
    if os.name != "posix":
        raise MemoryRefused("memory below 4 GiB needs a POSIX host")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.mmap.restype = ctypes.c_void_p
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc
