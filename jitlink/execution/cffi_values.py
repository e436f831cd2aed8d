"""Carriers for types of cffi."""

from __future__ import annotations

from typing import Any

from jitlink.errors import UsageError
from jitlink.execution.borrowed import Buffer, Loan
from jitlink.execution.c_types import POINTER, CType, Kind, aggregate, array, integer
from jitlink.execution.ctypes_values import undeclared as undeclared_by_ctypes
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

LONGS = ("long", "unsigned long")
DIFFERENT = ("long double", "wchar_t", "char16_t", "char32_t")
"""Types that are not the same on all machines, or not to Python."""
FLOATING = ("float", "double")


class CffiTypes:
    """Makes carriers for the types of one cffi.FFI.

    long_size: bytes of the platform's long; cffi knows only that of this process.
    """

    def __init__(self, ffi: Any, long_size: int) -> None:
        self.ffi = ffi
        self.long_size = long_size
        self._carriers: dict[Any, Carrier] = {}
        self._signatures: dict[Any, Signature] = {}

    def carrier_of(self, declared: Any) -> Carrier:
        """The carrier of a type, the same at every call. Raises UsageError for one that cannot cross."""
        if declared not in self._carriers:
            self._carriers[declared] = self._make_carrier(declared)
        return self._carriers[declared]

    def _make_carrier(self, declared: Any) -> Carrier:
        if declared.kind == "void":
            return VoidCarrier()
        if declared.kind in ("primitive", "enum"):
            return ScalarCarrier(self, declared)
        if declared.kind in ("struct", "union", "array"):
            return AggregateCarrier(self, declared)
        if declared.kind == "pointer":
            return PointerCarrier(self, declared)
        if declared.kind == "function":
            return FunctionCarrier(self, declared)
        raise UsageError(f"{declared.cname} cannot be passed to emulated code")

    def c_type_of(self, declared: Any, *, inside: bool = False) -> CType:
        """The C type of a type; inside: of a structure, which cffi has laid out. Raises UsageError."""
        if declared.kind in ("pointer", "function"):
            return POINTER
        if declared.kind in ("primitive", "enum"):
            return self._scalar(declared, inside)
        if declared.kind == "array":
            if declared.length is None:
                raise UsageError(f"{declared.cname} has no length")
            return array(self.c_type_of(declared.item, inside=True), declared.length)
        if declared.fields is None:
            raise UsageError(f"{declared.cname} is declared without its members")
        members = [(field.offset, self.c_type_of(field.type, inside=True)) for _, field in declared.fields]
        return aggregate(self.ffi.sizeof(declared), self.ffi.alignof(declared), members)

    def _scalar(self, declared: Any, inside: bool) -> CType:
        name, size = declared.cname, self.ffi.sizeof(declared)
        if name in DIFFERENT or "_Complex" in name:
            raise UsageError(f"{name} differs between machines, and cannot be passed to emulated code")
        if name in FLOATING:
            return CType(Kind.FLOATING, size, size)
        if name in LONGS:
            if inside and size != self.long_size:
                raise UsageError(f"{name} has {self.long_size} bytes on this platform: declare the member as int32_t")
            size = self.long_size
        return integer(size, signed=_is_signed(self.ffi, declared))

    def signature_of(self, declared: Any) -> Signature:
        """The signature of a function type, the same at every call. Raises UsageError."""
        if declared not in self._signatures:
            arguments = tuple(self.carrier_of(each) for each in declared.args)
            more = self._undeclared if declared.ellipsis else None
            self._signatures[declared] = Signature(
                self.carrier_of(declared.result), arguments, bool(declared.ellipsis), more
            )
        return self._signatures[declared]

    def _undeclared(self, value: Any) -> Carrier:
        if isinstance(value, self.ffi.CData):
            declared = self.ffi.typeof(value)
            if declared.kind == "primitive" and declared.cname in ("float", "double"):
                return self.carrier_of(self.ffi.typeof("double"))
            if declared.kind in ("primitive", "enum") and self.ffi.sizeof(declared) < self.ffi.sizeof("int"):
                return self.carrier_of(self.ffi.typeof("int"))
            return self.carrier_of(self.ffi.typeof("void *") if declared.kind == "array" else declared)
        return undeclared_by_ctypes(value)


def _is_signed(ffi: Any, declared: Any) -> bool:
    return declared.cname not in ("_Bool", "char") and int(ffi.cast(declared, -1)) < 0


class ScalarCarrier:
    """Integers, characters, floating-point numbers and enumerations."""

    def __init__(self, types: CffiTypes, declared: Any) -> None:
        self.ffi, self.declared = types.ffi, declared
        self.c_type = types.c_type_of(declared)
        # Where the platform's long is shorter, values are held in one that is as short.
        if self.c_type.size != self.ffi.sizeof(declared):
            self.declared = self.ffi.typeof("int32_t" if self.c_type.signed else "uint32_t")

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """As cffi would. Raises OverflowError for what does not fit."""
        if hasattr(value, "item") and not isinstance(value, self.ffi.CData):
            value = value.item()
        return bytes(self.ffi.buffer(self.ffi.new(self.ffi.getctype(self.declared, "*"), value)))

    def unpack(self, raw: bytes, world: World) -> Any:
        """A Python value."""
        return self.ffi.from_buffer(self.ffi.getctype(self.declared, "[1]"), raw)[0]


class AggregateCarrier:
    """Structures, unions, and arrays that are variables."""

    def __init__(self, types: CffiTypes, declared: Any) -> None:
        self.ffi, self.declared = types.ffi, declared
        self.c_type = types.c_type_of(declared)

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """The bytes of a value, or of what initialises one. Pointers in it are emulated addresses."""
        holder = self.ffi.new(self._holder_type(), value) if self._is_array else self.ffi.new(self._holder_type())
        if not self._is_array:
            holder[0] = value
        return bytes(self.ffi.buffer(holder))

    def unpack(self, raw: bytes, world: World) -> Any:
        """A copy of its own."""
        holder = self.ffi.new(self._holder_type())
        self.ffi.buffer(holder)[:] = raw
        return holder if self._is_array else holder[0]

    @property
    def _is_array(self) -> bool:
        return bool(self.declared.kind == "array")

    def _holder_type(self) -> Any:
        return self.declared if self._is_array else self.ffi.getctype(self.declared, "*")


class PointerCarrier:
    """Pointers to data."""

    c_type = POINTER

    def __init__(self, types: CffiTypes, declared: Any) -> None:
        self.types, self.ffi, self.declared = types, types.ffi, declared

    @property
    def item(self) -> Carrier | None:
        """The carrier of what is pointed at, if it can be read by itself."""
        try:
            return None if self.declared.item.kind == "void" else self.types.carrier_of(self.declared.item)
        except UsageError:
            return None

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """A pointer of anything that has memory or an address."""
        if isinstance(value, self.ffi.CData):
            return self._lend(value, loan)
        if isinstance(value, list | tuple) and self.declared.item.kind != "void":
            return self._lend(self.ffi.new(self.ffi.getctype(self.declared.item, "[]"), value), loan)
        packed = pack_pointer(value, self.item.c_type if self.item else None, loan)
        if packed is None:
            raise TypeError(f"a {type(value).__name__} cannot be passed as {self.declared.cname}")
        return packed

    def _lend(self, value: Any, loan: Loan) -> Packed:
        """Lend an array, or the one item that ffi.new() has made."""
        kind = self.ffi.typeof(value).kind
        if value == self.ffi.NULL:
            return pack_address(0)
        if kind == "pointer" and " owning " not in repr(value):
            raise TypeError("how much memory is behind the pointer is not known: pass the array itself")
        if kind not in ("pointer", "array"):
            raise TypeError(f"{self.ffi.typeof(value).cname} cannot be passed as {self.declared.cname}")
        data = self.ffi.buffer(value)
        return loan.add(Buffer(int(self.ffi.cast("uintptr_t", value)), len(data), True, value))

    def unpack(self, raw: bytes, world: World) -> Any:
        """A Pointer, also where it is null."""
        return Pointer(int.from_bytes(raw, "little"), world, self.item)


class FunctionCarrier:
    """Pointers to functions."""

    c_type = POINTER

    def __init__(self, types: CffiTypes, declared: Any) -> None:
        self.types, self.declared = types, declared

    def pack(self, value: Any, world: World, loan: Loan) -> Packed:
        """The address of emulated code, or of a Python function, which is given one."""
        return pack_function(value, world, lambda: self.types.signature_of(self.declared))

    def unpack(self, raw: bytes, world: World) -> Any:
        """A callable, or None for a null pointer."""
        address = int.from_bytes(raw, "little")
        return world.function_at(address, self.types.signature_of(self.declared)) if address else None
