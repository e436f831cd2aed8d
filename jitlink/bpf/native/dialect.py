"""The language that native helpers are written in: Python functions over numbers of 64 bits and memory.

A helper in machine code is a function such as

    @exported
    def get_smp_processor_id(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
        return u64[world_of(record) + CPU]

in a module of its own. The translator (translator.py) makes LLVM IR of such modules, and what is not in this
description it refuses:

- values are unsigned numbers of 64 bits; operators are + - * // % & | ^ << >> and the comparisons, without a sign;
- `and`, `or`, `not` and `a if c else b` are conditions and choices; a number is true where it is not 0;
- statements are assignments to names and to memory, if, while, for over range, break, continue, return, and calls;
- constants of the module are numbers; functions of the same modules are called by their names.

Memory is indexed by an address. u64, u32 and u8 are for what several threads look at: the address is a multiple of
the size, and each access is a single one, in no order (LLVM's monotonic). loose64 and so on are for the
rest: any address.

The functions below are what the machine can do besides. In Python they do the same, one thread at a time, so that
a helper can be run as Python to see what its machine code should do. There a result that may leave 64 bits has to be
cut to them with `& MASK`, which machine code does anyway.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])
MASK = 0xFFFF_FFFF_FFFF_FFFF
EXPORTED, INLINED = "exported", "inlined"


class Memory:
    """Memory as numbers of one size. Attributes: size (bytes); shared (other threads look at it)."""

    def __init__(self, size: int, *, shared: bool = False) -> None:
        self.size = size
        self.shared = shared
        self._type = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}[size]

    def __getitem__(self, address: int) -> int:
        return int(self._type.from_address(address).value)

    def __setitem__(self, address: int, value: int) -> None:
        self._type.from_address(address).value = value


u64, u32, u8 = (Memory(size, shared=True) for size in (8, 4, 1))
loose64, loose32, loose16, loose8 = (Memory(size) for size in (8, 4, 2, 1))


def exported(function: Function) -> Function:
    """Mark a function that is called from outside: it follows C."""
    setattr(function, EXPORTED, function.__module__)
    return function


def inlined(function: Function) -> Function:
    """Mark a function that becomes a part of its callers, so that constants that they pass decide what is left."""
    return function


def acquire(address: int) -> int:
    """Read 8 bytes; what is accessed behind it in the text is accessed after it."""
    return u64[address]


def release(address: int, value: int) -> None:
    """Write 8 bytes; what is accessed before it in the text is accessed before it."""
    u64[address] = value


def release32(address: int, value: int) -> None:
    """The same with 4 bytes."""
    u32[address] = value


def fence_acquire() -> None:
    """What is accessed behind it comes after what was read before it."""


def fence_release() -> None:
    """What is written behind it comes after what was accessed before it."""


def swap_if(address: int, old: int, new: int) -> int:
    """Write 8 bytes if they are as expected, in one step. Returns whether they were."""
    was = u64[address] == old
    if was:
        u64[address] = new
    return int(was)


def fetch_add(address: int, amount: int) -> int:
    """Add to 8 bytes in one step. Returns what they were."""
    old = u64[address]
    u64[address] = old + amount
    return old


def copy(to: int, source: int, size: int) -> None:
    """Copy memory, as memmove does."""
    ctypes.memmove(to, source, size)


def clear(to: int, size: int) -> None:
    """Fill memory with zero bytes."""
    ctypes.memset(to, 0, size)


def pause() -> None:
    """Let the processor know that this thread waits in a loop."""


def sched_yield() -> None:
    """Let another thread run."""
    os.sched_yield()


def clock_gettime(number: int, to: int) -> None:
    """Read a clock of the system into a struct timespec."""
    loose64[to], loose64[to + 8] = divmod(time.clock_gettime_ns(number), 10**9)
