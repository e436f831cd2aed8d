"""Large buffers are zeroes, their own, writable to the last byte, and aligned for huge pages."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from jitlink.columns import zeroed_buffer
from jitlink.columns.buffers import HUGE_PAGE, LEAST


@pytest.mark.parametrize("size", [0, 1, LEAST - 1, LEAST, HUGE_PAGE, HUGE_PAGE + 1, 5 * HUGE_PAGE - 3])
def test_a_buffer_is_zeroes_and_can_be_written(size: int) -> None:
    """On either side of the size from which huge pages are asked for."""
    buffer = zeroed_buffer(size)
    assert (buffer.dtype, buffer.shape) == (np.dtype(np.uint8), (size,))
    assert not buffer.any()
    buffer[:] = 0xA5
    assert np.count_nonzero(buffer == 0xA5) == size


def test_buffers_are_apart_and_zero_again() -> None:
    """What one holds shows in no other one, nor in one that gets its memory later."""
    first, second = zeroed_buffer(LEAST), zeroed_buffer(LEAST)
    first[:] = 1
    assert not second.any()
    del first
    assert not zeroed_buffer(LEAST).any()


def test_a_part_keeps_the_memory() -> None:
    """A view of a part can be used when nobody holds the whole any more."""
    part = zeroed_buffer(3 * HUGE_PAGE)[HUGE_PAGE : HUGE_PAGE + 10]
    part[:] = 7
    gc.collect()
    zeroed_buffer(3 * HUGE_PAGE)[:] = 9
    assert part.tolist() == [7] * 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked for on Linux")
def test_a_large_buffer_starts_at_a_huge_page() -> None:
    """A huge page lies at a multiple of its size."""
    assert zeroed_buffer(LEAST).ctypes.data % HUGE_PAGE == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_goes_back_with_the_buffer() -> None:
    """A hundred buffers one after the other take the memory of one."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    zeroed_buffer(4 * HUGE_PAGE)[:] = 1
    before = resident()
    for _ in range(100):
        zeroed_buffer(4 * HUGE_PAGE)[:] = 1
    assert resident() - before < 4 * HUGE_PAGE // 4096


def test_a_buffer_beyond_all_memory_is_a_memory_error() -> None:
    """So that who asks for it can say for what."""
    with pytest.raises(MemoryError):
        zeroed_buffer(1 << 62)
