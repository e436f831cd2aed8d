"""Functions in the language of native helpers (jitlink.bpf.native.dialect) that use all of it."""

from __future__ import annotations

from jitlink.bpf.native.dialect import (
    MASK,
    acquire,
    clear,
    copy,
    exported,
    fence_acquire,
    fence_release,
    fetch_add,
    inlined,
    loose8,
    loose16,
    loose32,
    loose64,
    pause,
    release,
    release32,
    swap_if,
    u8,
    u32,
    u64,
)

LIMIT = 1000


@inlined
def helper_of(one: int, other: int) -> int:
    """A function that is called by others."""
    return one * 3 + other & MASK


@exported
def arithmetic(one: int, other: int) -> int:
    """Every operator."""
    total = (one + other) & MASK
    total = (total - (one ^ other)) & MASK
    total ^= one * other & MASK
    total |= one >> other % 64
    total = (total + (one << other % 64)) & MASK
    if other:
        total = (total + one // other - one % other) & MASK
    return total + helper_of(one, other) & MASK


@exported
def conditions(one: int, other: int) -> int:
    """Comparisons, short circuits, choices, and a call in a condition that is not always made."""
    made = 0
    if one < other and other <= LIMIT:
        made |= 1
    elif one == other or one > LIMIT:
        made |= 2
    else:
        made |= 4
    if not (one >= other and one != 5):
        made |= 8
    if other and one // other > 3:
        made |= 16
    made += (one > other) * 32
    return made + 64 if (one < 10 if other else one > 10) else made


@exported
def loops(one: int, other: int) -> int:
    """Loops of all sorts, with ways out."""
    total = 0
    for number in range(one % 20):
        if number == 3:
            continue
        if number == other % 17:
            break
        total += number
    for number in range(other % 5, 9):
        total += number * number
    count = one % 50
    while True:
        if count == 0:
            break
        count -= 1
        if count % 7 == 5:
            continue
        total += count
    while total > 500:
        total //= 2
    return total


@exported
def memory(one: int, at: int) -> int:
    """Memory of all sizes, aligned or not; every single step."""
    loose64[at + 3] = one
    loose32[at + 13] = one & 0xFFFF_FFFF
    loose16[at + 19] = one & 0xFFFF
    loose8[at + 23] = one & 0xFF
    u64[at + 24] = loose32[at + 3] + loose16[at + 14] + loose8[at + 20]
    u32[at + 32] = u8[at + 24]
    u32[at + 32] += u32[at + 28]
    u8[at + 37] = loose8[at + 3]
    copy(at + 40, at + 3, 16)
    copy(at + 41, at + 40, 12)
    clear(at + 58, one % 5)
    was = swap_if(at + 64, 7, one)
    again = swap_if(at + 64, 8, 0)
    release(at + 72, fetch_add(at + 24, 5))
    fence_release()
    release32(at + 80, u32[at + 24])
    fence_acquire()
    pause()
    return acquire(at + 72) + was * 2 + again & MASK


@exported
def nothing(at: int, value: int) -> None:
    """A function that returns nothing, here or there."""
    if value == 1:
        return
    u64[at] = value


@exported
def early(one: int, other: int) -> int:
    """Code behind a return is not reached."""
    if one:
        return other
        one += 1  # type: ignore[unreachable]
    return one
