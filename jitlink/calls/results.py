"""Results: from what cffi gives for a C type to Python values.

| result | Python |
| --- | --- |
| integers, enumerations | int |
| _Bool | bool |
| char | bytes of length 1 |
| float, double, long double | float |
| complex | complex |
| const char * | bytes, copied; None for NULL |
| other pointers, char * too | cffi data; a null pointer is false |
| struct, union | cffi data with members as attributes |
| void | None |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jitlink.calls.c_types import CType, Number, Pointer
from jitlink.calls.foreign_types import ForeignTypes


def result_converter(kind: CType, types: ForeignTypes) -> Callable[[Any], Any] | None:
    """What makes a Python value of what cffi gives for a C type; None where cffi's is the one."""
    plain = kind.plain
    if is_text(kind):
        string = types.ffi.string
        return lambda value: string(value) if value else None
    if isinstance(plain, Number) and plain.sort == "float" and plain.width == 16:
        return float
    if types.needs_carrier(kind):
        return _from_carrier(kind, types)
    return None


def is_text(kind: CType) -> bool:
    """Whether a type is const char *: text that is only read, and not the caller's to free."""
    plain = kind.plain
    if not isinstance(plain, Pointer) or not plain.target.is_const:
        return False
    target = plain.target.plain
    return isinstance(target, Number) and target.sort == "char"


def _from_carrier(kind: CType, types: ForeignTypes) -> Callable[[Any], Any]:
    new, cast = types.ffi.new, types.ffi.cast
    pointer, carrier = types.pointer_to(kind), types.carrier_pointer(kind)

    def convert(value: Any) -> Any:
        data = new(pointer)
        cast(carrier, data)[0] = value
        return data[0]

    return convert
