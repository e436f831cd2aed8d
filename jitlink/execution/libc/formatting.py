"""printf's formats: flags, width, precision, length and conversion (C11 7.21.6.1)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from jitlink.errors import EmulationFault
from jitlink.execution.c_types import DOUBLE, INT, POINTER, CType, integer
from jitlink.execution.conventions import VariableArguments
from jitlink.execution.libc.provided import unpacked

DIRECTIVE = re.compile(
    rb"%(?P<flags>[-+ #0']*)(?P<width>\*|\d*)(?:\.(?P<precision>\*|\d*))?"
    rb"(?P<length>hh|h|ll|l|j|z|t|q|L|I64|I32|I)?(?P<conversion>.)",
    re.DOTALL,
)
SIZES = {"hh": 1, "h": 2, "ll": 8, "j": 8, "z": 8, "t": 8, "q": 8, "I64": 8, "I32": 4, "I": 8, "": 4}
"""Of integers by length; l is the platform's."""
WIDEST = 1 << 20
"""Characters of padding, or digits, that one directive may ask for."""


@dataclass
class Source:
    """Where a format takes its arguments from.

    Attributes: arguments; long_size (bytes of C's long); string (reads one, of at most so many bytes);
    count_written (stores what %n stores).
    """

    arguments: VariableArguments
    long_size: int
    string: Callable[[int, int | None], bytes]
    store: Callable[[int, bytes], None]

    def take(self, c_type: CType) -> int | float:
        """The next argument."""
        return unpacked(c_type, self.arguments.next(c_type))

    def take_integer(self, size: int, *, signed: bool) -> int:
        """The next integer, which was promoted to an int if it was smaller."""
        value = int(self.take(integer(max(size, INT.size), signed=signed)))
        # Cut to the size that the length says, and sign it again.
        return int.from_bytes((value % (1 << 8 * size)).to_bytes(size, "little"), "little", signed=signed)


def formatted(text: bytes, source: Source) -> bytes:
    """Write out a format. Raises EmulationFault for a directive that we do not know."""
    written = bytearray()
    end = 0
    for found in DIRECTIVE.finditer(text):
        if found.start() < end:
            continue
        written += text[end : found.start()]
        end = found.end()
        if found["conversion"] == b"%":
            written += b"%"
        elif found["conversion"] == b"n":
            size = _size(found, source)
            source.store(int(source.take(POINTER)), len(written).to_bytes(size, "little"))
        else:
            written += _directive(found, source)
    if b"%" in text[end:]:
        raise EmulationFault(f"a format ends inside of a directive: {text[-20:]!r}")
    return bytes(written) + text[end:]


def _size(found: re.Match[bytes], source: Source) -> int:
    length = (found["length"] or b"").decode()
    return source.long_size if length == "l" else SIZES.get(length, INT.size)


def _number(text: bytes | None, source: Source) -> int | None:
    """A width or a precision, which may be an argument."""
    if text is None:
        return None
    value = source.take_integer(4, signed=True) if text == b"*" else int(text or b"0")
    if abs(value) > WIDEST:
        raise EmulationFault(f"a format asks for {value} characters")
    return value


def _directive(found: re.Match[bytes], source: Source) -> bytes:
    flags = set(found["flags"].decode())
    width = _number(found["width"], source) or 0
    if width < 0:
        flags.add("-")
    precision = _number(found["precision"], source)
    if precision is not None and precision < 0:
        precision = None
    conversion = found["conversion"].decode("latin-1")
    if conversion in "diuoxX":
        sign, digits = _integer(conversion, found, flags, precision, source)
        return _padded(sign, digits, abs(width), flags if precision is None else flags - {"0"})
    if conversion in "eEfFgGaA":
        if found["length"] == b"L" and source.long_size == POINTER.size:
            raise EmulationFault("a long double in a format, whose size differs between machines")
        sign, digits = _floating(conversion, float(source.take(DOUBLE)), flags, precision)
        finite = any(digit.isdigit() for digit in digits)
        return _padded(sign, digits, abs(width), flags if finite else flags - {"0"})
    if conversion == "c":
        return _padded("", chr(source.take_integer(1, signed=False)), abs(width), flags - {"0"})
    if conversion == "s":
        address = int(source.take(POINTER))
        text = source.string(address, precision) if address else b"(null)"[:precision]
        return _padded("", text.decode("latin-1"), abs(width), flags - {"0"})
    if conversion == "p":
        return _padded("", f"{int(source.take(POINTER)):#x}", abs(width), flags - {"0"})
    raise EmulationFault(f"a format has the directive {found[0]!r}, which is not provided")


def _padded(prefix: str, digits: str, width: int, flags: set[str]) -> bytes:
    """Fill up to a width: behind, with zeroes between prefix and digits, or in front."""
    if "-" in flags:
        text = (prefix + digits).ljust(width)
    elif "0" in flags:
        text = prefix + digits.rjust(width - len(prefix), "0")
    else:
        text = (prefix + digits).rjust(width)
    return text.encode("latin-1")


def _sign(negative: bool, flags: set[str]) -> str:
    return "-" if negative else "+" if "+" in flags else " " if " " in flags else ""


def _integer(
    conversion: str, found: re.Match[bytes], flags: set[str], precision: int | None, source: Source
) -> tuple[str, str]:
    """Prefix and digits of an integer."""
    value = source.take_integer(_size(found, source), signed=conversion in "di")
    digits = format(abs(value), {"o": "o", "x": "x", "X": "X"}.get(conversion, "d"))
    if precision == 0 and value == 0:
        digits = ""
    digits = digits.rjust(precision or 0, "0")
    if conversion in "di":
        return _sign(value < 0, flags), digits
    if "#" in flags and conversion == "o" and not digits.startswith("0"):
        digits = "0" + digits
    prefix = f"0{conversion}" if "#" in flags and conversion in "xX" and value else ""
    return prefix, digits


def _floating(conversion: str, value: float, flags: set[str], precision: int | None) -> tuple[str, str]:
    """Sign and digits of a floating-point number; 0x belongs to the sign."""
    sign = _sign(math.copysign(1.0, value) < 0, flags)
    magnitude = abs(value)
    if not math.isfinite(value):
        name = "nan" if math.isnan(value) else "inf"
        return sign, name.upper() if conversion.isupper() else name
    if conversion in "aA":
        digits = _hexadecimal(magnitude, precision, "#" in flags)
        return (f"{sign}0X", digits.upper()) if conversion == "A" else (f"{sign}0x", digits)
    # Python rounds exactly, as glibc does; its g without a precision means another thing than C's.
    alternate = "#" if "#" in flags else ""
    return sign, f"%{alternate}.{6 if precision is None else precision}{conversion}" % magnitude


def _hexadecimal(magnitude: float, precision: int | None, point: bool) -> str:
    """A hexadecimal floating-point number without its 0x."""
    mantissa, exponent = math.frexp(magnitude)
    # One binary digit before the point, as glibc writes normal numbers.
    mantissa, exponent = (mantissa * 2, exponent - 1) if magnitude else (0.0, 0)
    fraction_bits = 52
    scaled = int(mantissa * (1 << fraction_bits))
    if precision is None:
        digits = f"{scaled & (1 << fraction_bits) - 1:013x}".rstrip("0")
    elif precision * 4 >= fraction_bits:
        digits = f"{scaled & (1 << fraction_bits) - 1:013x}".ljust(precision, "0")
    else:
        dropped = fraction_bits - 4 * precision
        scaled = round(scaled / (1 << dropped))
        digits = f"{scaled & (1 << 4 * precision) - 1:0{precision}x}" if precision else ""
        scaled <<= dropped
    dot = "." if digits or point else ""
    return f"{scaled >> fraction_bits}{dot}{digits}p{exponent:+d}"
