"""Functions that compilers call of themselves: those of compiler-rt and libgcc, and stack probes."""

from __future__ import annotations

from collections.abc import Callable

from jitlink.errors import EmulationFault
from jitlink.execution.libc.provided import LibraryCall, provides


@provides("__chkstk", "___chkstk_ms", "__chkstk_ms", "___chkstk_darwin", "__chkstk_darwin", types="v ")
def probe_stack(call: LibraryCall) -> None:
    """Touch the pages of a large frame. All of the stack is there, and no register may change."""


@provides("__main", types="v ")
def main_of_mingw(call: LibraryCall) -> None:
    """Run constructors, which the linker has seen to."""


def _quotient(x: int, y: int) -> int:
    """Rounded towards zero, as C divides."""
    if y == 0:
        raise EmulationFault("a division by zero")
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def _remainder(x: int, y: int) -> int:
    return x - y * _quotient(x, y)


Arithmetic = Callable[[int, int], int]
WIDTHS = (("si", 32, "i", "u"), ("di", 64, "q", "Q"), ("ti", 128, "x", "X"))
"""The suffix of a width in these names (half, single and double words of old), bits, letters."""


def _provide_arithmetic(name: str, of: Arithmetic, letter: str) -> None:
    provides(name, types=f"{letter} {letter}{letter}")(lambda call, x, y: of(x, y))


def _provide_shift(name: str, of: Arithmetic, letter: str) -> None:
    provides(name, types=f"{letter} {letter}i")(lambda call, x, count: of(x, count))


def _provide_count(name: str, of: Callable[[int], int], letter: str) -> None:
    provides(name, types=f"i {letter}")(lambda call, x: of(x))


def _leading_zeroes_of(bits: int) -> Callable[[int], int]:
    return lambda x: bits - x.bit_length()


for _suffix, _bits, _signed, _unsigned in WIDTHS:
    _provide_arithmetic(f"__mul{_suffix}3", lambda x, y: x * y, _signed)
    _provide_arithmetic(f"__div{_suffix}3", _quotient, _signed)
    _provide_arithmetic(f"__mod{_suffix}3", _remainder, _signed)
    _provide_arithmetic(f"__udiv{_suffix}3", _quotient, _unsigned)
    _provide_arithmetic(f"__umod{_suffix}3", _remainder, _unsigned)
    _provide_shift(f"__ashl{_suffix}3", lambda x, count: x << count, _unsigned)
    _provide_shift(f"__lshr{_suffix}3", lambda x, count: x >> count, _unsigned)
    _provide_shift(f"__ashr{_suffix}3", lambda x, count: x >> count, _signed)
    _provide_count(f"__popcount{_suffix}2", lambda x: x.bit_count(), _unsigned)
    _provide_count(f"__parity{_suffix}2", lambda x: x.bit_count() & 1, _unsigned)
    _provide_count(f"__ctz{_suffix}2", lambda x: (x & -x).bit_length() - 1, _unsigned)
    _provide_count(f"__ffs{_suffix}2", lambda x: (x & -x).bit_length(), _unsigned)
    _provide_count(f"__clz{_suffix}2", _leading_zeroes_of(_bits), _unsigned)


def _to_integer(bits: int, *, signed: bool) -> Callable[[LibraryCall, float], int]:
    """A conversion that stops at the ends of its range."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def convert(call: LibraryCall, x: float) -> int:
        if x != x:
            return 0
        return low if x <= low else high if x >= high else int(x)

    return convert


def _to_floating(call: LibraryCall, x: int) -> float:
    return float(x)


for _suffix, _bits, _signed, _unsigned in WIDTHS[1:]:
    for _kind, _letter in (("sf", "f"), ("df", "d")):
        provides(f"__fix{_kind}{_suffix}", types=f"{_signed} {_letter}")(_to_integer(_bits, signed=True))
        provides(f"__fixuns{_kind}{_suffix}", types=f"{_unsigned} {_letter}")(_to_integer(_bits, signed=False))
        provides(f"__float{_suffix}{_kind}", types=f"{_letter} {_signed}")(_to_floating)
        provides(f"__floatun{_suffix}{_kind}", types=f"{_letter} {_unsigned}")(_to_floating)


@provides("__powidf2", types="d di")
def powidf2(call: LibraryCall, x: float, exponent: int) -> float:
    """x to a whole power."""
    try:
        return float(x**exponent)
    except ZeroDivisionError:
        return float("inf")
    except OverflowError:
        return float("-inf") if x < 0 and exponent % 2 else float("inf")


provides("__powisf2", types="f fi")(powidf2)
