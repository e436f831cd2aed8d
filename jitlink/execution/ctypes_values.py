"""Carriers for types of ctypes."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from jitlink.errors import UsageError
from jitlink.execution.borrowed import Loan
from jitlink.execution.c_types import POINTER, CType, Kind, aggregate, array, integer
from jitlink.execution.signatures import Signature
from jitlink.execution.values import (
    Carrier,
    Packed,
    Pointer,
    VoidCarrier,
    World,
    pack_address,
    pack_function,
    pack_pointer,
)

SIMPLE: Any = ctypes.c_int.__mro__[1]
POINTER_TYPE: Any = ctypes.POINTER(ctypes.c_int).__mro__[1]
FUNCTION_TYPE: Any = ctypes.CFUNCTYPE(None).__mro__[1]
SIGNED, UNSIGNED, FLOATING, POINTERS = "bhilqc", "?BHILQ", "fd", "PzZO"
"""Codes of ctypes' simple types."""
BYREF = type(ctypes.byref(ctypes.c_int()))
SMALLEST_PROMOTED = 4


@cache
def carrier_of(declared: Any) -> Carrier:
    """The carrier of a ctypes type; None is void. Raises UsageError for one that cannot cross."""
    if declared is None:
        return VoidCarrier()
    if isinstance(declared, type):
        if issubclass(declared, FUNCTION_TYPE):
            return FunctionCarrier(declared)
        if issubclass(declared, POINTER_TYPE):
            return PointerCarrier(declared)
        if issubclass(declared, SIMPLE):
            code: str = getattr(declared, "_type_")  # noqa: B009 - mypy knows no such attribute of a type
            if code in POINTERS:
                return PointerCarrier(declared)
            return ScalarCarrier(declared)
        if issubclass(declared, ctypes.Structure | ctypes.Union):
            return AggregateCarrier(declared)
    raise UsageError(f"{declared!r} is no type of ctypes that can be passed to emulated code")


@cache
def c_type_of(declared: Any) -> CType:
    """The C type of a ctypes type. Raises UsageError."""
    if issubclass(declared, SIMPLE):
        return _simple(declared)
    if issubclass(declared, POINTER_TYPE | FUNCTION_TYPE):
        return POINTER
    if issubclass(declared, ctypes.Array):
        return array(c_type_of(declared._type_), declared._length_)
    if declared.__base__.__name__.startswith("BigEndian"):
        raise UsageError(f"{declared.__name__} is big-endian, and the emulated machines are not")
    fields = getattr(declared, "_fields_", ())
    members = [(getattr(declared, field[0]).offset, c_type_of(field[1])) for field in fields]
    base = declared.__base__
    if base not in (ctypes.Structure, ctypes.Union) and ctypes.sizeof(base):
        members.insert(0, (0, c_type_of(base)))
    return aggregate(ctypes.sizeof(declared), ctypes.alignment(declared), members)


def _simple(declared: Any) -> CType:
    code, size = declared._type_, ctypes.sizeof(declared)
    if code in FLOATING:
        return CType(Kind.FLOATING, size, size)
    if code in SIGNED or code in UNSIGNED:
        return integer(size, signed=code in SIGNED)
    if code in POINTERS:
        return POINTER
    raise UsageError(f"{declared.__name__} differs between machines, and cannot be passed to emulated code")


class ScalarCarrier:
    """Integers, characters and floating-point numbers."""

    def __init__(self, declared: Any) -> None:
        self.declared = declared
        self.c_type = c_type_of(declared)

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """As ctypes would: integers are cut to their size."""
        held = value if isinstance(value, self.declared) else self.declared(_index(value))
        return bytes(held)

    def unpack(self, raw: bytes, world: World) -> Any:
        """A Python value, or an instance of a class that was derived from the simple type."""
        held = self.declared.from_buffer_copy(raw)
        return held.value if self.declared.__base__ is SIMPLE else held


def _index(value: Any) -> Any:
    """A NumPy scalar as the number that ctypes takes."""
    return value.item() if hasattr(value, "item") and not isinstance(value, SIMPLE) else value


class AggregateCarrier:
    """Structures and unions, by value."""

    def __init__(self, declared: Any) -> None:
        self.declared = declared
        self.c_type = c_type_of(declared)

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """The bytes of an instance. Pointers in it are taken as addresses of emulated memory."""
        if not isinstance(value, self.declared):
            raise TypeError(f"expected {self.declared.__name__}, not {type(value).__name__}")
        return bytes(value)

    def unpack(self, raw: bytes, world: World) -> Any:
        """An instance of its own."""
        return self.declared.from_buffer_copy(raw)


class PointerCarrier:
    """Pointers to data, and strings."""

    c_type = POINTER

    def __init__(self, declared: Any) -> None:
        self.declared = declared
        self.is_string = declared is ctypes.c_char_p
        item = getattr(declared, "_type_", None)
        self.item_type = item if isinstance(item, type) else None
        if getattr(declared, "_type_", "") == "Z":
            raise UsageError("wide characters differ between machines: pass a buffer as a c_void_p")

    @property
    def item(self) -> Carrier | None:
        """The carrier of what is pointed at, if it is declared and can be read by itself."""
        try:
            return carrier_of(self.item_type) if self.item_type is not None else None
        except UsageError:
            return None

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """A pointer of anything that has memory or an address."""
        if hasattr(self.declared, "_dtype_"):
            # A type of numpy.ctypeslib.ndpointer checks its arrays.
            self.declared.from_param(value)
        if isinstance(value, ctypes.c_char_p | ctypes.c_void_p):
            return _held_pointer(value)
        if isinstance(value, BYREF):
            value = getattr(value, "_obj")  # noqa: B009 - mypy knows no such attribute
        elif isinstance(value, POINTER_TYPE):
            value = value.contents if value else None
        elif isinstance(value, FUNCTION_TYPE):
            raise TypeError("a function for a pointer to data: declare the argument as a function type")
        item = c_type_of(self.item_type) if self.item_type is not None else None
        packed = pack_pointer(value, item, loan)
        if packed is None:
            raise TypeError(f"a {type(value).__name__} cannot be passed as {self.declared.__name__}")
        return packed

    def unpack(self, raw: bytes, world: World) -> Any:
        """bytes for a string, None for a null pointer, an integer for void *, else a Pointer."""
        address = int.from_bytes(raw, "little")
        if not address:
            return None
        if self.is_string:
            return world.memory.read_string(address)
        return Pointer(address, world, self.item)


def _held_pointer(value: Any) -> Packed:
    """A pointer that ctypes holds: it is one of Python's, of which nobody knows how far it reaches."""
    if value.value is None:
        return pack_address(0)
    raise TypeError("how much memory is behind the pointer is not known: pass bytes, an array or byref()")


class FunctionCarrier:
    """Pointers to functions."""

    c_type = POINTER

    def __init__(self, declared: Any) -> None:
        self.declared = declared

    @property
    def signature(self) -> Signature:
        """Of the functions."""
        return signature_of(self.declared._restype_, self.declared._argtypes_)

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """The address of emulated code, or of a Python function, which is given one."""
        return pack_function(value, world, lambda: self.signature)

    def unpack(self, raw: bytes, world: World) -> Any:
        """A callable, or None for a null pointer."""
        address = int.from_bytes(raw, "little")
        return world.function_at(address, self.signature) if address else None


def undeclared(value: Any) -> Carrier:
    """The carrier of an argument without a declared type, after C's promotions. Raises TypeError."""
    if isinstance(value, SIMPLE):
        declared: Any = type(value)
        if issubclass(declared, ctypes.c_float):
            return _Promoted(ctypes.c_double)
        if declared._type_ in SIGNED + UNSIGNED and ctypes.sizeof(declared) < SMALLEST_PROMOTED:
            return _Promoted(ctypes.c_int)
        return carrier_of(declared)
    if isinstance(value, ctypes.Structure | ctypes.Union):
        return carrier_of(type(value))
    value = _index(value)
    if isinstance(value, float):
        return carrier_of(ctypes.c_double)
    if isinstance(value, int) and not isinstance(value, Pointer):
        return carrier_of(ctypes.c_int if -(1 << 31) <= value < 1 << 31 else ctypes.c_int64)
    return carrier_of(ctypes.c_void_p)


class _Promoted(ScalarCarrier):
    """A scalar that an ellipsis widens."""

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """The value in its wider type."""
        held = value.value
        return super().pack(held[0] if isinstance(held, bytes) else held, world, loan)


def signature_of(restype: Any, argtypes: Any) -> Signature:
    """The signature of ctypes types, the same at every call. Raises UsageError."""
    return _signature(restype, tuple(argtypes))


@cache
def _signature(restype: Any, argtypes: tuple[Any, ...]) -> Signature:
    arguments = tuple(carrier_of(declared) for declared in argtypes)
    return Signature(carrier_of(restype), arguments, undeclared=undeclared)
