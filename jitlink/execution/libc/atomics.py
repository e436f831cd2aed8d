"""Out-of-line atomics of AArch64: __aarch64_ldadd4_acq_rel and its many kin.

Compilers call them where they do not know whether the processor has atomic instructions. There is one
thread here, so that all is atomic, and the memory order in the name says nothing.
Source: LLVM's compiler-rt, lib/builtins/aarch64/lse.S.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from jitlink.execution.libc.provided import LibraryCall, Provided

if TYPE_CHECKING:
    from jitlink.execution.libc.library import CLibrary

NAME = re.compile(r"__aarch64_(cas|swp|ldadd|ldclr|ldeor|ldset)(1|2|4|8|16)_(relax|acq|rel|acq_rel|sync)")
CHANGE: dict[str, Callable[[int, int], int]] = {
    "swp": lambda old, new: new,
    "ldadd": lambda old, value: old + value,
    "ldclr": lambda old, value: old & ~value,
    "ldeor": lambda old, value: old ^ value,
    "ldset": lambda old, value: old | value,
}
LETTER = {1: "b", 2: "h", 4: "u", 8: "Q", 16: "X"}


def atomic_function(name: str, library: CLibrary) -> Callable[[], None] | None:
    """What serves a call of one of these functions; None for any other name."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    size = int(found[2])
    letter = LETTER[size]
    if found[1] == "cas":
        provided = Provided(partial(_compare_and_swap, size), f"{letter} {letter}{letter}p")
    else:
        provided = Provided(partial(_change, size, CHANGE[found[1]]), f"{letter} {letter}p")
    return partial(provided.serve, library)


def _load(call: LibraryCall, at: int, size: int) -> int:
    return int.from_bytes(call.memory.read(at, size), "little")


def _compare_and_swap(size: int, call: LibraryCall, expected: int, new: int, at: int) -> int:
    old = _load(call, at, size)
    if old == expected:
        call.memory.write(at, new.to_bytes(size, "little"))
    return old


def _change(size: int, of: Callable[[int, int], int], call: LibraryCall, value: int, at: int) -> int:
    old = _load(call, at, size)
    call.memory.write(at, (of(old, value) % (1 << 8 * size)).to_bytes(size, "little"))
    return old
