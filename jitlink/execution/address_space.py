"""The addresses of an emulated machine: which are in use, and where there is room.

    0x0010_0000   functions that are Python: nothing is mapped there, and reaching one stops the CPU
    0x0100_0000   images, heap and stack, in the order in which they are asked for
    0x8000_0000   what does not fit below, for code that does not mind

All is low, so that code of every model can reach all of it: addresses of 32 bits, 2 GiB either way of
x86-64 and RISC-V, and where there is not much of it 128 MiB for a branch of AArch64.
"""

from __future__ import annotations

from bisect import insort

from jitlink.errors import MemoryRefused

PAGE = 4096
PYTHON_FUNCTIONS = 0x0010_0000
LOWEST = 0x0100_0000
LOW_END = 0x8000_0000
HIGHEST = 1 << 46
"""One past what is given out, within the 47 bits that programs have on the smallest of the machines."""
MOST_MAPPED = 4 << 30
"""Bytes that a machine maps at the most: they are the host's memory in the end."""


class AddressSpace:
    """Gives out ranges of addresses; first fit, with a page left free behind each."""

    def __init__(self) -> None:
        self._used: list[tuple[int, int]] = []
        self._mapped = 0

    def take(self, size: int, alignment: int = PAGE, *, below: int = 0) -> int:
        """Take a range. size: bytes; below: one past the highest address it may have, 0 for none.

        Raises MemoryRefused where there is no room.
        """
        size = -(-size // PAGE) * PAGE
        if self._mapped + size > MOST_MAPPED:
            raise MemoryRefused(
                f"the emulated machine has {MOST_MAPPED:#x} bytes of memory, and {size:#x} more are needed"
            )
        for low, high in ((LOWEST, LOW_END), (LOW_END, HIGHEST)):
            start = self._first_gap(size, max(alignment, PAGE), low, min(high, below or high))
            if start is not None:
                insort(self._used, (start, start + size))
                self._mapped += size
                return start
        where = f" below {below:#x}" if below else ""
        raise MemoryRefused(f"the emulated machine has no {size:#x} bytes{where} left")

    def _first_gap(self, size: int, alignment: int, low: int, high: int) -> int | None:
        start = -(-low // alignment) * alignment
        for used_start, used_end in self._used:
            if start + size + PAGE <= used_start:
                break
            if used_end + PAGE > start:
                start = -(-(used_end + PAGE) // alignment) * alignment
        return start if start + size <= high else None

    def give_back(self, start: int) -> None:
        """Let go of the range that was taken at an address."""
        row = next(row for row, used in enumerate(self._used) if used[0] == start)
        self._mapped -= self._used[row][1] - start
        del self._used[row]
