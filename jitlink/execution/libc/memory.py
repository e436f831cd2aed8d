"""<string.h>'s memory functions, and malloc and its family."""

from __future__ import annotations

from jitlink.errors import MemoryRefused
from jitlink.execution.libc.provided import LibraryCall, provides


@provides("memcpy", "memmove", "__memcpy_chk", "__memmove_chk", "__aeabi_memcpy", types="p ppz")
def memmove(call: LibraryCall, to: int, source: int, size: int) -> int:
    """Copy; also what overlaps."""
    call.memory.write(to, call.memory.read(source, size))
    return to


@provides("mempcpy", types="p ppz")
def mempcpy(call: LibraryCall, to: int, source: int, size: int) -> int:
    """Copy, and return the end."""
    return memmove(call, to, source, size) + size


@provides("memset", "__memset_chk", types="p piz")
def memset(call: LibraryCall, to: int, byte: int, size: int) -> int:
    """Fill."""
    call.memory.write(to, bytes([byte & 0xFF]) * size)
    return to


@provides("bzero", "__bzero", types="v pz")
def bzero(call: LibraryCall, to: int, size: int) -> None:
    """Fill with zeroes."""
    call.memory.write(to, bytes(size))


def _pattern_of(width: int) -> None:
    """macOS: fill with a pattern of a width, the last copy of which may be cut."""

    @provides(f"memset_pattern{width}", types="v ppz")
    def memset_pattern(call: LibraryCall, to: int, pattern: int, size: int) -> None:
        once = call.memory.read(pattern, width)
        call.memory.write(to, (once * (size // width + 1))[:size])


for _width in (4, 8, 16):
    _pattern_of(_width)


@provides("memcmp", "bcmp", types="i ppz")
def memcmp(call: LibraryCall, one: int, other: int, size: int) -> int:
    """Compare."""
    first, second = call.memory.read(one, size), call.memory.read(other, size)
    return (first > second) - (first < second)


@provides("memchr", types="p piz")
def memchr(call: LibraryCall, at: int, byte: int, size: int) -> int:
    """Find a byte. Reads to the byte only, as C11 promises: what is behind it may not be mapped."""
    for offset in range(size):
        if call.memory.read(at + offset, 1)[0] == byte & 0xFF:
            return at + offset
    return 0


@provides("malloc", types="p z")
def malloc(call: LibraryCall, size: int) -> int:
    """Allocate; null where there is no memory."""
    return aligned(call, size)


@provides("calloc", types="p zz")
def calloc(call: LibraryCall, count: int, size: int) -> int:
    """Allocate zeroes."""
    return aligned(call, count * size)


@provides("aligned_alloc", "memalign", types="p zz")
def aligned_alloc(call: LibraryCall, alignment: int, size: int) -> int:
    """Allocate at a multiple of a power of two."""
    return aligned(call, size, alignment)


def aligned(call: LibraryCall, size: int, alignment: int = 16) -> int:
    """Allocate zeroes, or return null."""
    try:
        return call.memory.allocate(size, max(alignment, 16))
    except MemoryRefused:
        return 0


@provides("posix_memalign", types="i pzz")
def posix_memalign(call: LibraryCall, result: int, alignment: int, size: int) -> int:
    """Allocate, and store where."""
    out_of_memory = 12
    address = aligned(call, size, alignment)
    if not address:
        return out_of_memory
    call.memory.write(result, address.to_bytes(8, "little"))
    return 0


@provides("realloc", types="p pz")
def realloc(call: LibraryCall, old: int, size: int) -> int:
    """Allocate anew, with what was there."""
    new = aligned(call, size)
    if new and old:
        call.memory.write(new, call.memory.read(old, min(size, call.memory.allocated_size(old))))
        call.memory.free(old)
    return new


@provides("free", "cfree", types="v p")
def free(call: LibraryCall, address: int) -> None:
    """Free."""
    call.memory.free(address)


@provides("malloc_usable_size", "malloc_size", "_msize", types="z p")
def malloc_usable_size(call: LibraryCall, address: int) -> int:
    """How much was asked for."""
    return call.memory.allocated_size(address) if address else 0
