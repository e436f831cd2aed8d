"""<math.h>, by Python's math: results are the host's, which may differ in the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable

from jitlink.execution.libc.provided import LibraryCall, provides

Function = Callable[..., float]
NAN, INFINITY = math.nan, math.inf


def _round_half_away(x: float) -> float:
    return math.copysign(math.floor(abs(x) + 0.5) if abs(x) < 2**52 else abs(x), x)


def _whole(cut: Callable[[float], int]) -> Function:
    """A function to whole numbers that keeps what is none: infinities, and the sign of zero."""
    return lambda x: math.copysign(float(cut(x)), x) if math.isfinite(x) else x


def _fmin(x: float, y: float) -> float:
    """The lesser; -0 is less than 0, which C leaves open."""
    if math.isnan(x) or math.isnan(y):
        return y if math.isnan(x) else x
    return min(x, y, key=lambda value: (value, math.copysign(1, value)))


def _fmax(x: float, y: float) -> float:
    return -_fmin(-x, -y)


def _fdim(x: float, y: float) -> float:
    return NAN if math.isnan(x) or math.isnan(y) else x - y if x > y else 0.0


def _log_of_zero(function: Callable[[float], float]) -> Function:
    return lambda x: -INFINITY if x == 0 else function(x)


def _gamma(x: float) -> float:
    return math.copysign(INFINITY, x) if x == 0 else math.gamma(x)


def _fma(x: float, y: float, z: float) -> float:
    """x * y + z, rounded once."""
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        return x * y + z
    from fractions import Fraction

    exact = Fraction(x) * Fraction(y) + Fraction(z)
    return float(exact) if exact else x * y + z


ONE: dict[str, Function] = {
    **{name: getattr(math, name) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh")},
    **{name: getattr(math, name) for name in ("asinh", "acosh", "atanh", "exp", "expm1", "sqrt", "erf", "erfc")},
    **{name: _log_of_zero(getattr(math, name)) for name in ("log", "log2", "log10")},
    "log1p": lambda x: -INFINITY if x == -1 else math.log1p(x),
    "exp2": lambda x: math.pow(2.0, x),
    "cbrt": math.cbrt,
    "fabs": abs,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "trunc": _whole(math.trunc),
    "rint": _whole(round),
    "nearbyint": _whole(round),
    "roundeven": _whole(round),
    "round": _round_half_away,
    "tgamma": _gamma,
    "lgamma": math.lgamma,
}
TWO: dict[str, Function] = {
    "pow": math.pow,
    "fmod": math.fmod,
    "remainder": math.remainder,
    "atan2": math.atan2,
    "hypot": math.hypot,
    "copysign": math.copysign,
    "nextafter": math.nextafter,
    "fmin": _fmin,
    "fmax": _fmax,
    "fdim": _fdim,
}


def _provide(name: str, function: Function, arguments: int) -> None:
    def run(call: LibraryCall, *values: float) -> float:
        try:
            return function(*values)
        except OverflowError:
            negative = values[0] < 0 and (name == "sinh" or (name == "pow" and values[1] % 2 == 1))
            return -INFINITY if negative else INFINITY
        except (ValueError, ZeroDivisionError):
            return _outside_of_domain(name, values)

    provides(name, types="d " + "d" * arguments)(run)
    provides(f"{name}f", types="f " + "f" * arguments)(run)


def _outside_of_domain(name: str, values: tuple[float, ...]) -> float:
    """What C returns where Python raises ValueError: infinity at a pole, else not a number."""
    x = values[0]
    if name == "pow" and x == 0:
        odd = values[1] % 2 == 1
        return math.copysign(INFINITY, x) if odd else INFINITY
    if name == "atanh" and abs(x) == 1:
        return math.copysign(INFINITY, x)
    if name == "lgamma":
        return INFINITY
    return NAN


for _name, _function in ONE.items():
    _provide(_name, _function, 1)
for _name, _function in TWO.items():
    _provide(_name, _function, 2)
_provide("fma", _fma, 3)


def _ldexp(call: LibraryCall, x: float, exponent: int) -> float:
    try:
        return math.ldexp(x, exponent)
    except OverflowError:
        return math.copysign(INFINITY, x)


provides("ldexp", "scalbn", types="d di")(_ldexp)
provides("ldexpf", "scalbnf", types="f fi")(_ldexp)


def _frexp(call: LibraryCall, x: float, exponent: int) -> float:
    mantissa, power = math.frexp(x)
    call.memory.write(exponent, power.to_bytes(4, "little", signed=True))
    return mantissa


provides("frexp", types="d dp")(_frexp)
provides("frexpf", types="f fp")(_frexp)


@provides("modf", types="d dp")
def modf(call: LibraryCall, x: float, whole: int) -> float:
    """The fraction, with the whole part stored."""
    import struct

    fraction, integral = math.modf(x)
    call.memory.write(whole, struct.pack("<d", integral))
    return fraction


def _rounded(call: LibraryCall, x: float) -> int:
    """What is no number, or too large, becomes the lowest value, as x86-64 has it."""
    return int(_round_half_away(x)) if math.isfinite(x) else -(1 << 63)


def _nearest(call: LibraryCall, x: float) -> int:
    return round(x) if math.isfinite(x) else -(1 << 63)


for _suffix, _kind in (("", "d"), ("f", "f")):
    provides(f"lround{_suffix}", types=f"l {_kind}")(_rounded)
    provides(f"llround{_suffix}", types=f"q {_kind}")(_rounded)
    provides(f"lrint{_suffix}", types=f"l {_kind}")(_nearest)
    provides(f"llrint{_suffix}", types=f"q {_kind}")(_nearest)
