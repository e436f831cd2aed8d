"""Passing pointers: which memory a Python value stands for, and whether the callee may have it.

A pointer goes to memory that somebody owns: a NumPy array, any other buffer, data of cffi or ctypes. Its
element type must be that of the parameter, it must be contiguous in the order of the language, and
writable unless the parameter says const. What has no memory of its own, such as a list, can be given
where the callee only reads: it is copied, and the copy lives until the call returns.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jitlink.calls.arrays import element_dtype
from jitlink.calls.c_types import Array, CType, Enumeration, Number, Pointer, Record, Void
from jitlink.calls.foreign_types import ForeignTypes
from jitlink.calls.passing import CLOSE, EXACT, LOOSE, Passing, new_data
from jitlink.handles import Symbol

BYREF = type(ctypes.byref(ctypes.c_int()))
TEXT_LINE = """\
if {0}.__class__ is _str: {0} = {0}.encode()
if {0}.__class__ is not _bytes or 0 in {0}: {0} = {1}({0})"""


class PointerPassing(Passing):
    """Pointers to data, and references."""

    def __init__(self, place: str, kind: CType, types: ForeignTypes) -> None:
        super().__init__(place, kind)
        pointer = kind.plain
        assert isinstance(pointer, Pointer)
        self._pointer = pointer
        self._type = types.of(kind)
        self._ffi, self._from_buffer, self._cast = types.ffi, types.ffi.from_buffer, types.ffi.cast
        self._element, self._lengths, self._column_major = _element_of(pointer.target)
        self._bytes_type = types.bytes_array
        self._is_void = isinstance(self._element, Void)
        self._read_only = pointer.target.is_const
        self._copies = self._read_only or pointer.takes_values
        self._is_text = self._read_only and isinstance(self._element, Number) and self._element.sort == "char"
        self._is_bytes = self._is_void or _is_byte(self._element)
        self._dtype = None if self._is_void else element_dtype(self._element)
        # Copies are made of types that are complete; an opaque structure is only passed on.
        self._can_be_made = self._element.size is not None and not isinstance(self._element, Void)
        self._array_type = types.array_of(self._element) if self._can_be_made else None
        if self._is_text:
            self.line = TEXT_LINE

    def convert(self, value: Any) -> Any:
        if value.__class__ is np.ndarray:
            return self._from_array(value)
        if value is None:
            if self._pointer.is_reference:
                raise self.refused("a reference cannot be None")
            return self._ffi.NULL
        if isinstance(value, self._ffi.CData):
            return self._from_data(value)
        if isinstance(value, str | bytes):
            return self._from_bytes(value)
        return self._from_other(value)

    def _from_array(self, array: np.ndarray[Any, Any]) -> Any:
        dtype = array.dtype
        if dtype is not self._dtype and not self._is_element(dtype):
            wanted = "one that NumPy does not have" if self._dtype is None else f"{self._dtype}"
            raise self.refused(f"an array of {dtype} was given, and the element type is {wanted}")
        flags = array.flags
        if not self._read_only and not flags.writeable:
            raise self.refused("the array is read-only, and the function may write to it")
        if self._column_major:
            if not flags.f_contiguous:
                raise self.refused("the array is not contiguous in Fortran's order (numpy.asfortranarray makes it so)")
            array = array.T
        elif not flags.c_contiguous:
            raise self.refused("the array is not contiguous (numpy.ascontiguousarray makes it so)")
        if self._lengths:
            self._check_length(array)
        return (
            self._cast(self._type, self._from_buffer(self._bytes_type, array)) if not array.size else self._view(array)
        )

    def _view(self, array: np.ndarray[Any, Any]) -> Any:
        """The memory of an array as cffi data, which keeps the array alive."""
        if self._array_type is not None:
            return self._from_buffer(self._array_type, array)
        return self._from_buffer(self._bytes_type, array)

    def _is_element(self, dtype: np.dtype[Any]) -> bool:
        if self._is_void:
            return not dtype.hasobject
        if self._is_bytes:
            return dtype.itemsize == 1 and dtype.kind in "iuS"
        return self._dtype is not None and dtype == self._dtype

    def _check_length(self, array: np.ndarray[Any, Any]) -> None:
        known = math.prod(self._lengths)
        if array.size < known:
            raise self.refused(f"the array has {array.size} elements, and {known} are wanted")

    def _from_data(self, data: Any) -> Any:
        """cffi data: a pointer or an array, whose type cffi checks; a structure is passed by its address."""
        kind = self._ffi.typeof(data)
        if kind.kind in ("struct", "union"):
            data = self._ffi.addressof(data)
            kind = self._ffi.typeof(data)
        if kind.kind not in ("pointer", "array", "function"):
            raise self.refused(f"a pointer is wanted, not {kind.cname}")
        if kind is self._type or (kind.kind == "array" and kind.item is self._type.item):
            return data
        if not self._stands_for(kind) and data != self._ffi.NULL:
            raise self.refused(f"{kind.cname} was given")
        return self._cast(self._type, data)

    def _stands_for(self, kind: Any) -> bool:
        """Whether C lets data of another cffi type be passed: void pointers, and bytes for each other."""
        if self._is_void or (kind.kind == "pointer" and kind.item.kind == "void"):
            return True
        is_data = kind.kind != "function" and kind.item.kind == "primitive"
        return self._is_bytes and is_data and bool(self._ffi.sizeof(kind.item) == 1)

    def _from_bytes(self, value: str | bytes) -> Any:
        if self._is_text:
            content = value.encode() if isinstance(value, str) else value
            if 0 in content:
                raise ValueError(f"{self.place} ({self.kind}): the text has a NUL inside, which would end it there")
            return content
        if isinstance(value, bytes) and self._is_bytes:
            if self._read_only:
                return value if not self._is_void else self._from_buffer(self._bytes_type, value)
            raise self.refused("bytes cannot be written to; give a bytearray or an array")
        raise self.not_a(value, "an array, a buffer or a pointer")

    def _from_other(self, value: Any) -> Any:
        if isinstance(value, Symbol) or (self._is_void and isinstance(getattr(value, "address", None), int)):
            return self._cast(self._type, value.address)
        if isinstance(value, BYREF):
            return self._from_array(np.frombuffer(value._obj, np.dtype(type(value._obj))))  # type: ignore[attr-defined]
        if isinstance(value, ctypes._Pointer):
            target = getattr(value, "_type_", None)
            if not self._is_void and not self._is_element(np.dtype(target)):
                raise self.refused(f"a pointer to {target} was given")
            return self._cast(self._type, ctypes.cast(value, ctypes.c_void_p).value or 0)
        if self._is_void and isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < 1 << (8 * self._pointer.width):
                raise OverflowError(f"{self.place} ({self.kind}): {value:#x} is no address")
            return self._cast(self._type, value)
        try:
            view = memoryview(value)
        except TypeError:
            return self._copy_of(value)
        return self._from_array(np.asarray(view))

    def _copy_of(self, value: Any) -> Any:
        """C data with the content of a value that has no memory."""
        if self._copies and self._array_type is not None:
            if isinstance(value, Mapping):
                return new_data(self._ffi, self._array_type, [dict(value)], self)
            if isinstance(value, Sequence):
                return new_data(self._ffi, self._array_type, list(value), self)
            if self._pointer.is_reference and not isinstance(self._element, Record):
                return new_data(self._ffi, self._array_type, [self._plain(value)], self)
        if isinstance(value, Sequence | Mapping):
            raise self.refused("the function may write to it: give an array or a buffer, in which you can see that")
        raise self.not_a(value, "an array, a buffer or a pointer")

    def _plain(self, value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else value

    def fit(self, value: Any) -> int | None:
        if super().fit(value) is None:
            return None
        if value is None or (isinstance(value, str | bytes) and not self._is_text):
            return LOOSE
        if self._is_void or (isinstance(value, Sequence | Mapping) and not isinstance(value, str | bytes)):
            return CLOSE
        return EXACT


def _element_of(kind: CType) -> tuple[CType, list[int], bool]:
    """What a pointer to an array points at in the end, the lengths that are known, and whether by columns."""
    lengths: list[int] = []
    by_columns = False
    plain = kind.plain
    while isinstance(plain, Array):
        # One length that is not known leaves the whole open.
        lengths = [*lengths, plain.length] if plain.length is not None else [0]
        by_columns = plain.column_major
        plain = plain.element.plain
    return plain, lengths if all(lengths) else [], by_columns


def _is_byte(kind: CType) -> bool:
    return (
        isinstance(kind, Number | Enumeration)
        and kind.size == 1
        and not (isinstance(kind, Number) and kind.sort == "bool")
    )
