"""Large buffers of bytes, on huge pages where the system has them.

Of memory that a process has not used before each page costs a fault at its first byte: on Linux, 4 KiB for
one to two microseconds, which is more than reading or linking the bytes takes. A huge page costs about
forty of them and has 512 times the room. NumPy asks for huge pages from 4 MiB on; what a link needs most
is of one to four.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np

from jitlink.columns.rows import Buffer

HUGE_PAGE = 2 << 20
LEAST = HUGE_PAGE // 2
"""Bytes from which on a buffer is worth a huge page, of which at most half is then unused."""
ADVICE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)


def zeroed_buffer(size: int) -> Buffer:
    """Make a buffer of zeroes: uint8[size]. Raises MemoryError."""
    if size < LEAST or ADVICE is None:
        return np.zeros(size, np.uint8)
    whole = -(-size // HUGE_PAGE) * HUGE_PAGE
    try:
        # Addresses for one page more, since nobody aligns them for us; only what is used becomes memory.
        memory = mmap.mmap(-1, whole + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size:#x} bytes: {error.strerror}") from None
    buffer = np.frombuffer(memory, np.uint8)
    start = -buffer.ctypes.data % HUGE_PAGE
    # It is advice: a kernel without huge pages refuses it.
    with suppress(OSError):
        memory.madvise(ADVICE, start, whole)
    return buffer[start : start + size]
