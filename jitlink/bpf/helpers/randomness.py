"""The random numbers of bpf_get_prandom_u32: a generator whose state is one number in memory.

So helpers in machine code and Python take turns with one sequence, and a seed decides all of it. The generator
is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the state grows by
GAMMA, and a number is made of it by mixing. Machine code adds in one step, so that threads never get the same number.

No program can rely on which numbers the kernel's generator gives. They are not for cryptography, there or here.
"""

from __future__ import annotations

import random
import secrets
from array import array
from collections.abc import Callable
from typing import Any, ClassVar

GAMMA = 0x9E37_79B9_7F4A_7C15
MIX_1, MIX_2 = 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB
MASK = 0xFFFF_FFFF_FFFF_FFFF
BITS = 64


class SharedRandom(random.Random):
    """A generator as Python's, with a state that machine code can use as well.

    Attributes: address (of the state); step (of all generators: what adds GAMMA to a state in machine code, and
    returns what it was, once there is such code; or None).
    """

    step: ClassVar[Callable[[int], int] | None] = None

    def __init__(self, seed: Any = None) -> None:
        self._state = array("Q", [0])
        self.address = self._state.buffer_info()[0]
        self.seed(seed)

    def seed(self, a: Any = None, version: int = 2) -> None:
        """Begin a sequence: a as for random.Random, which makes a state of it; without one nobody knows it."""
        self._state[0] = secrets.randbits(BITS) if a is None else random.Random(a).getrandbits(BITS)
        self.gauss_next = None

    def _next(self) -> int:
        """The next number of 64 bits."""
        step = SharedRandom.step
        if step is not None:
            mixed = step(self.address) + GAMMA & MASK
        else:
            mixed = self._state[0] = self._state[0] + GAMMA & MASK
        mixed = (mixed ^ mixed >> 30) * MIX_1 & MASK
        mixed = (mixed ^ mixed >> 27) * MIX_2 & MASK
        return mixed ^ mixed >> 31

    def getrandbits(self, k: int) -> int:
        """A number of k bits."""
        if k < 0:
            raise ValueError("number of bits must be non-negative")
        words = -(-k // BITS)
        made = 0
        for _ in range(words):
            made = made << BITS | self._next()
        return made >> words * BITS - k

    def random(self) -> float:
        """A number from 0 to below 1, a multiple of 2**-53."""
        return float((self._next() >> 11) * 2.0**-53)

    def getstate(self) -> tuple[Any, ...]:
        """All that decides the sequence from here on."""
        return (self._state[0], self.gauss_next)

    def setstate(self, state: tuple[Any, ...]) -> None:
        """Go back to where getstate was called."""
        self._state[0], self.gauss_next = state
