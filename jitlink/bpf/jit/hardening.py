"""Hardening: keeping whoever writes a program from choosing what bytes the machine code has, and where.

A JIT compiler turns chosen constants into bytes on an executable page; whoever can make the processor jump
into the middle of an instruction has then written code. So no constant of the program is in hardened code:
each is hidden by an exclusive or with a key of its own, and put together when the code runs. Padding at
random places and a random start in the page keep the addresses of everything else from being known.
What no code uses traps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows

PADDED_ONE_IN = 8
"""Of how many instructions one has padding in front of it."""
START_UNIT = 32
"""What the distance of code from the start of its page is a multiple of."""


@dataclass(frozen=True)
class Hardening:
    """How a program is to be hardened. seed: of the randomness, so that a compilation can be repeated; None for
    one that nobody knows."""

    seed: int | None = None

    def randomness(self) -> np.random.Generator:
        """Make the source of random numbers of one compilation."""
        return np.random.default_rng(self.seed)


def keys(random: np.random.Generator, wide: npt.NDArray[np.bool_]) -> Rows:
    """Draw a key for each piece: int64[pieces], 64 bits where wide, else a signed number of 32 bits, never 0."""
    drawn = random.integers(1, 1 << 63, len(wide), np.int64)
    narrow = (drawn & 0xFFFF_FFFE | 1).astype(np.uint32).view(np.int32).astype(np.int64)
    return np.where(wide, drawn, narrow)


def padding(random: np.random.Generator, slots: int, sizes: tuple[int, ...]) -> Rows:
    """Draw the size of the padding in front of each slot, 0 for most: int64[slots]."""
    padded = random.integers(0, PADDED_ONE_IN, slots) == 0
    return np.where(padded, np.array(sizes, np.int64)[random.integers(0, len(sizes), slots)], 0)


def start_in_page(random: np.random.Generator, page_size: int) -> int:
    """Draw how many bytes lie between the start of the page and the code."""
    return int(random.integers(0, page_size // START_UNIT)) * START_UNIT
