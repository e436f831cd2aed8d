"""Passing arguments: from Python values to what cffi takes for a C type, checked before anything is called.

Each parameter has a Passing, which is chosen once, when the function is first asked for. It has a line of
Python for the usual value, which is put into the code of the typed function, and a method for all others.
What does not fit is a TypeError that names the parameter, or an OverflowError for a number out of range.

| parameter | accepts |
| --- | --- |
| integers, enumerations | int, IntEnum, NumPy integers, anything with __index__ |
| float, double, long double | numbers that float() takes, but no text |
| _Bool | bool, 0 and 1 |
| char | one byte, one ASCII character, or an integer |
| struct, union by value | cffi data of the type; a dict or a sequence of members |
| const char * | bytes, str (as UTF-8), without NUL; None; what other pointers accept |
| T * | cffi data, NumPy arrays and other buffers of T, contiguous, writable unless const T; None |
| const T * | also a sequence or a dict, of which a copy is passed |
| void * | any of these; an integer as an address |
| function pointers | callables; symbols; functions of ctypes and cffi; None |
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jitlink.calls.arrays import element_dtype
from jitlink.calls.c_types import CType, Enumeration, Function, Number, Pointer, Record
from jitlink.calls.foreign_types import ForeignTypes
from jitlink.errors import UntypedSymbol

EXACT, CLOSE, LOOSE = 0, 1, 2
"""How well a value fits a parameter, for the choice among overloads."""

CallbackMaker = Callable[[Callable[..., Any], Function], Any]


class Passing:
    """How values are passed for one parameter.

    Attributes: place (the function and the parameter, for errors); kind; line (Python that converts the
    usual values of a variable {0} and leaves others to {1}, the convert method; empty if cffi converts).
    """

    line = "{0} = {1}({0})"

    def __init__(self, place: str, kind: CType) -> None:
        self.place = place
        self.kind = kind

    def convert(self, value: Any) -> Any:
        """What cffi takes for a value. Raises TypeError, OverflowError, ValueError."""
        return value

    def fit(self, value: Any) -> int | None:
        """How well a value fits: EXACT, CLOSE or LOOSE; None if it does not."""
        try:
            self.convert(value)
        except (TypeError, OverflowError, ValueError):
            return None
        return LOOSE

    def refused(self, reason: str) -> TypeError:
        """Make the error for a value that does not fit."""
        return TypeError(f"{self.place} ({self.kind}): {reason}")

    def not_a(self, value: Any, wanted: str) -> TypeError:
        """Make the error for a value of another type."""
        return self.refused(f"{wanted} is wanted, not {type(value).__name__}")


class IntegerPassing(Passing):
    """Integers and enumerations; cffi checks the range."""

    line = "if {0}.__class__ is not _int: {0} = {1}({0})"

    def convert(self, value: Any) -> Any:
        try:
            return operator.index(value)
        except TypeError:
            raise self.not_a(value, "an integer") from None

    def fit(self, value: Any) -> int | None:
        if not hasattr(type(value), "__index__"):
            return None
        number = self.kind.plain.number if isinstance(self.kind.plain, Enumeration) else self.kind.plain
        assert isinstance(number, Number)
        bits = number.width * 8 - (number.sort == "signed")
        low = -(1 << bits) if number.sort == "signed" else 0
        if not low <= operator.index(value) < 1 << bits:
            return None
        if isinstance(value, np.generic):
            return EXACT if value.dtype == element_dtype(number) else CLOSE
        if isinstance(value, bool | np.bool_):
            return LOOSE
        # An int is an int where that holds it, else the next larger one.
        return EXACT if number.width == 4 and number.sort == "signed" else CLOSE if number.width == 8 else LOOSE


class FloatPassing(Passing):
    """Floating-point numbers."""

    line = "if {0}.__class__ is not _float: {0} = {1}({0})"

    def convert(self, value: Any) -> Any:
        if isinstance(value, str | bytes | bytearray | np.ndarray):
            raise self.not_a(value, "a number")
        try:
            return float(value)
        except TypeError:
            raise self.not_a(value, "a number") from None

    def fit(self, value: Any) -> int | None:
        number = self.kind.plain
        if isinstance(value, np.floating):
            return EXACT if value.dtype == element_dtype(number) else CLOSE
        if isinstance(value, float):
            return EXACT if number.size == 8 else CLOSE
        return LOOSE if super().fit(value) is not None else None


class ComplexPassing(Passing):
    """Complex numbers, as a carrier of two parts."""

    def __init__(self, place: str, kind: CType, types: ForeignTypes) -> None:
        super().__init__(place, kind)
        self._new, self._pointer = types.ffi.new, types.pointer_to(kind)
        self._cast, self._carrier = types.ffi.cast, types.carrier_pointer(kind)

    def convert(self, value: Any) -> Any:
        if isinstance(value, str | bytes | bytearray | np.ndarray):
            raise self.not_a(value, "a number")
        try:
            data = self._new(self._pointer, complex(value))
        except TypeError:
            raise self.not_a(value, "a number") from None
        return self._cast(self._carrier, data)[0]

    def fit(self, value: Any) -> int | None:
        if isinstance(value, complex | np.complexfloating):
            return EXACT
        return super().fit(value)


class BoolPassing(Passing):
    """Truth values."""

    line = "if {0}.__class__ is not _bool: {0} = {1}({0})"

    def convert(self, value: Any) -> Any:
        if isinstance(value, np.bool_):
            return bool(value)
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        raise self.not_a(value, "a bool")

    def fit(self, value: Any) -> int | None:
        return EXACT if isinstance(value, bool | np.bool_) else super().fit(value)


class CharacterPassing(Passing):
    """A char of C: one byte, or one ASCII character, or a number; and Unicode characters."""

    def __init__(self, place: str, kind: CType) -> None:
        super().__init__(place, kind)
        number = kind.plain
        assert isinstance(number, Number)
        self.is_byte = number.sort == "char"
        self.is_number = number.sort == "character" and number.width == 1
        self.limit = 1 << (8 * number.width)

    def convert(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) == 1:
            if not self.is_byte:
                return ord(value) if self.is_number else value
            if value.isascii():
                return value.encode()
        if isinstance(value, bytes) and len(value) == 1 and (self.is_byte or self.is_number):
            return value if self.is_byte else value[0]
        if hasattr(type(value), "__index__") and not isinstance(value, bool):
            number = operator.index(value)
            if self.is_byte and -128 <= number < 256:
                return bytes([number & 0xFF])
            if not self.is_byte and 0 <= number < min(self.limit, 0x110000):
                return number if self.is_number else chr(number)
            raise OverflowError(f"{self.place} ({self.kind}): {number} does not fit")
        raise self.not_a(value, "one character")

    def fit(self, value: Any) -> int | None:
        fits = super().fit(value) is not None
        return (EXACT if isinstance(value, str | bytes) else LOOSE) if fits else None


class RecordPassing(Passing):
    """Structures and unions by value."""

    def __init__(self, place: str, kind: CType, types: ForeignTypes) -> None:
        super().__init__(place, kind)
        self._type, self._pointer = types.of(kind), types.pointer_to(kind)
        self._ffi = types.ffi
        self._carrier = types.carrier_pointer(kind) if types.needs_carrier(kind) else None
        if self._carrier is None:
            # cffi looks at the type of its own data.
            self.line = "if not _isinstance({0}, _CData): {0} = {1}({0})"

    def convert(self, value: Any) -> Any:
        data = self._data_of(value)
        if self._carrier is not None:
            return self._ffi.cast(self._carrier, self._ffi.addressof(data))[0]
        return data

    def _data_of(self, value: Any) -> Any:
        if isinstance(value, self._ffi.CData):
            if self._ffi.typeof(value) is not self._type:
                raise self.refused(f"it is wanted, not {self._ffi.typeof(value).cname}")
            return value
        if not isinstance(value, Mapping | Sequence) or isinstance(value, str | bytes | bytearray):
            raise self.not_a(value, "data of the type, a dict or a sequence")
        return new_data(self._ffi, self._pointer, value, self)[0]

    def fit(self, value: Any) -> int | None:
        fits = super().fit(value) is not None
        return (EXACT if isinstance(value, self._ffi.CData) else LOOSE) if fits else None


def new_data(ffi: Any, pointer: Any, value: Any, passing: Passing) -> Any:
    """Make C data from a Python value; what cffi refuses is a TypeError."""
    try:
        return ffi.new(pointer, dict(value) if isinstance(value, Mapping) else value)
    except KeyError as error:
        raise passing.refused(f"there is no member {error.args[0]!r}") from None
    except (TypeError, IndexError, ValueError) as error:
        raise passing.refused(str(error)) from None


class FunctionPassing(Passing):
    """Pointers to functions."""

    def __init__(self, place: str, kind: CType, types: ForeignTypes, make_callback: CallbackMaker) -> None:
        super().__init__(place, kind)
        pointer = kind.plain
        assert isinstance(pointer, Pointer)
        function = pointer.target.plain
        assert isinstance(function, Function)
        self._function = function
        self._type = types.of(kind)
        self._ffi = types.ffi
        self._make_callback = make_callback

    def convert(self, value: Any) -> Any:
        if value is None:
            return self._ffi.NULL
        if isinstance(value, self._ffi.CData):
            kind = self._ffi.typeof(value)
            if kind is self._type or kind.kind == "function" or value == self._ffi.NULL:
                return self._ffi.cast(self._type, value)
            raise self.refused(f"a function is wanted, not {kind.cname}")
        address = _address_of_function(value)
        if address is not None:
            return self._ffi.cast(self._type, address)
        if not callable(value):
            raise self.not_a(value, "a callable")
        return self._make_callback(value, self._function)

    def fit(self, value: Any) -> int | None:
        if callable(value) or value is None:
            return EXACT
        return LOOSE if isinstance(value, self._ffi.CData) and super().fit(value) is not None else None


def _address_of_function(value: Any) -> int | None:
    """The address of what is a function of C already: a symbol, a typed function, one of ctypes."""
    if isinstance(value, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        return ctypes.cast(value, ctypes.c_void_p).value or 0
    address = getattr(value, "address", None)
    return address if isinstance(address, int) else None


def passing_of(place: str, kind: CType, types: ForeignTypes, make_callback: CallbackMaker) -> Passing:
    """Choose how values are passed for a parameter of a C type. Raises UntypedSymbol where they are not."""
    from jitlink.calls.pointers import PointerPassing

    plain = kind.plain
    if isinstance(plain, Enumeration):
        return IntegerPassing(place, kind)
    if isinstance(plain, Number):
        return _number_passing(place, kind, plain, types)
    if isinstance(plain, Record):
        return RecordPassing(place, kind, types)
    if isinstance(plain, Pointer) and isinstance(plain.target.plain, Function):
        return FunctionPassing(place, kind, types, make_callback)
    if not isinstance(plain, Pointer):
        raise UntypedSymbol(f"a value of the type {kind} cannot be passed")
    return PointerPassing(place, kind, types)


def _number_passing(place: str, kind: CType, number: Number, types: ForeignTypes) -> Passing:
    if number.sort == "complex":
        return ComplexPassing(place, kind, types)
    if number.sort == "float":
        return FloatPassing(place, kind)
    if number.sort == "bool" and number.width == 1:
        return BoolPassing(place, kind)
    if number.sort in ("char", "character"):
        return CharacterPassing(place, kind)
    return IntegerPassing(place, kind)
