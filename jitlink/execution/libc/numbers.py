"""<stdlib.h>: numbers in strings, arithmetic, random numbers, sorting and searching."""

from __future__ import annotations

import re
from functools import cmp_to_key

from jitlink.execution.libc.provided import LibraryCall, provides

INTEGER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)(0[xX](?=[0-9a-fA-F]))?([0-9a-zA-Z]*)")
REAL = re.compile(
    rb"[ \t\n\v\f\r]*([+-]?(?:0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?\d+)?"
    rb"|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan))",
    re.IGNORECASE,
)
ANY_BASE, HEXADECIMAL, OCTAL, DECIMAL = 0, 16, 8, 10
OUT_OF_RANGE = 34
"""ERANGE, on all platforms."""
RANDOM_FACTOR, RANDOM_STEP, RANDOM_MOST = 1103515245, 12345, 0x7FFF_FFFF
"""The generator that the C standard gives as an example."""


def _digits_of(text: bytes, base: int) -> tuple[int, int]:
    """The value of the number at the start of a text, and how many bytes it takes; 0 if there is none."""
    found = INTEGER.match(text)
    assert found is not None
    sign, prefix, digits = found[1], found[2], found[3]
    start = found.start(3)
    if prefix and base in (ANY_BASE, HEXADECIMAL):
        base = HEXADECIMAL
    elif prefix:
        # The 0 is a digit then, and in the largest bases the x is one too.
        start, digits = found.start(2), prefix + digits
    elif base == ANY_BASE:
        base = OCTAL if digits.startswith(b"0") else DECIMAL
    count = next((at for at, digit in enumerate(digits) if int(chr(digit), 36) >= base), len(digits))
    if not count:
        return 0, 0
    value = int(digits[:count], base)
    return (-value if sign == b"-" else value), start + count


def _convert(call: LibraryCall, text: int, end: int, base: int, low: int, high: int) -> int:
    """strtol and its kin: cut to a range, which wraps for unsigned types when the number is negative."""
    value, size = _digits_of(call.string(text), base)
    if end:
        call.memory.write(end, (text + size).to_bytes(8, "little"))
    if low == 0 and -high <= value < 0:
        return value
    if not low <= value <= high:
        call.memory.write(call.library.errno, OUT_OF_RANGE.to_bytes(4, "little"))
        return high if low == 0 or value > high else low
    return value


def _long_range(call: LibraryCall, *, signed: bool) -> tuple[int, int]:
    bits = 8 * call.library.home.long_size
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


@provides("strtol", "__isoc23_strtol", types="l ppi")
def strtol(call: LibraryCall, text: int, end: int, base: int) -> int:
    """A long."""
    return _convert(call, text, end, base, *_long_range(call, signed=True))


@provides("strtoul", "__isoc23_strtoul", types="L ppi")
def strtoul(call: LibraryCall, text: int, end: int, base: int) -> int:
    """An unsigned long."""
    return _convert(call, text, end, base, *_long_range(call, signed=False))


@provides("strtoll", "strtoimax", "_strtoi64", "__isoc23_strtoll", types="q ppi")
def strtoll(call: LibraryCall, text: int, end: int, base: int) -> int:
    """A long long."""
    return _convert(call, text, end, base, -(1 << 63), (1 << 63) - 1)


@provides("strtoull", "strtoumax", "_strtoui64", "__isoc23_strtoull", types="Q ppi")
def strtoull(call: LibraryCall, text: int, end: int, base: int) -> int:
    """An unsigned long long."""
    return _convert(call, text, end, base, 0, (1 << 64) - 1)


@provides("atoi", types="i p")
def atoi(call: LibraryCall, text: int) -> int:
    """An int."""
    return _digits_of(call.string(text), DECIMAL)[0]


@provides("atol", types="l p")
def atol(call: LibraryCall, text: int) -> int:
    """A long."""
    return atoi(call, text)


@provides("atoll", types="q p")
def atoll(call: LibraryCall, text: int) -> int:
    """A long long."""
    return atoi(call, text)


@provides("strtod", types="d pp")
def strtod(call: LibraryCall, text: int, end: int) -> float:
    """A double."""
    source = call.string(text)
    found = REAL.match(source)
    if end:
        call.memory.write(end, (text + (found.end() if found else 0)).to_bytes(8, "little"))
    if not found:
        return 0.0
    number = found[1].decode()
    return float.fromhex(number) if "x" in number.lower() else float(number)


@provides("strtof", types="f pp")
def strtof(call: LibraryCall, text: int, end: int) -> float:
    """A float."""
    return strtod(call, text, end)


@provides("atof", types="d p")
def atof(call: LibraryCall, text: int) -> float:
    """A double."""
    return strtod(call, text, 0)


@provides("abs", types="i i")
def absolute(call: LibraryCall, value: int) -> int:
    """Without its sign."""
    return abs(value)


provides("labs", types="l l")(absolute)
provides("llabs", "imaxabs", types="q q")(absolute)


@provides("rand", types="i ")
def rand(call: LibraryCall) -> int:
    """The next random number, up to 32767."""
    call.library.random = (call.library.random * RANDOM_FACTOR + RANDOM_STEP) & RANDOM_MOST
    return call.library.random >> 16 & 0x7FFF


@provides("srand", types="v u")
def srand(call: LibraryCall, seed: int) -> None:
    """Begin the random numbers anew."""
    call.library.random = seed


@provides("qsort", types="v pzzp")
def qsort(call: LibraryCall, base: int, count: int, size: int, compare: int) -> None:
    """Sort by a function of the program. Equal items keep their order, which C does not promise."""
    memory = call.memory
    items = [memory.read(base + row * size, size) for row in range(count)]
    one = memory.allocate(2 * size)
    other = one + size

    def order(first: bytes, second: bytes) -> int:
        memory.write(one, first)
        memory.write(other, second)
        return call.library.home.call_from_library(compare, one, other)

    try:
        items.sort(key=cmp_to_key(order))
    finally:
        memory.free(one)
    memory.write(base, b"".join(items))


@provides("bsearch", types="p ppzzp")
def bsearch(call: LibraryCall, key: int, base: int, count: int, size: int, compare: int) -> int:
    """Find in what is sorted."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        order = call.library.home.call_from_library(compare, key, base + middle * size)
        if not order:
            return base + middle * size
        low, high = (middle + 1, high) if order > 0 else (low, middle)
    return 0
