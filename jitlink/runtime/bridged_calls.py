"""Functions of ctypes and cffi for code of another calling convention.

They look like those of jitlink.handles, and go in through an entry. A function pointer among the arguments,
of a type that says what it takes, becomes one that the code can call; one that it returns becomes one that
Python can call. Function pointers in structures are left as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jitlink.handles import CffiFunction, guarded_prototype
from jitlink.runtime.bridges import Bridges
from jitlink.runtime.c_signatures import FUNCTION_POINTER, signature_of_cffi, signature_of_ctypes

if TYPE_CHECKING:
    from jitlink.session import Dylib


def ctypes_function(bridges: Bridges, address: int, restype: Any, argtypes: tuple[Any, ...]) -> Any:
    """A function of Microsoft's convention as a ctypes function. Raises UnsupportedInput."""
    kind = signature_of_ctypes(restype, argtypes)
    entry = bridges.to_microsoft(address, kind)
    parameters = tuple(_function_parameter(bridges, each) if _is_typed_pointer(each) else each for each in argtypes)
    returns_function = _is_typed_pointer(restype)
    prototype = guarded_prototype(ctypes.c_void_p if returns_function else restype, parameters)
    function = _counted(prototype, len(argtypes))(entry)
    if returns_function:
        returned = signature_of_ctypes(restype._restype_, tuple(restype._argtypes_))
        function.errcheck = lambda result, *_: restype(bridges.to_microsoft(result or 0, returned))
    return function


def _counted(prototype: Any, count: int) -> Any:
    """A prototype whose functions take so many arguments: ctypes passes further ones on by guess."""
    call = prototype.__call__

    class Counted(prototype):  # type: ignore[misc]
        _flags_, _restype_, _argtypes_ = prototype._flags_, prototype._restype_, prototype._argtypes_

        def __call__(self, *arguments: Any) -> Any:
            if len(arguments) != count:
                raise TypeError(
                    f"this function takes {count} arguments ({len(arguments)} given): its types must all be declared"
                )
            return call(self, *arguments)

    return Counted


def _is_typed_pointer(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, FUNCTION_POINTER) and hasattr(kind, "_argtypes_")


def _function_parameter(bridges: Bridges, prototype: Any) -> Any:
    """A parameter type for functions of a prototype, which are given as those of ctypes."""
    kind = signature_of_ctypes(prototype._restype_, tuple(prototype._argtypes_))

    class FunctionParameter:
        @classmethod
        def from_param(cls, value: Any) -> Any:
            given = prototype.from_param(value)
            address = ctypes.cast(given, ctypes.c_void_p).value or 0
            return ctypes.c_void_p(bridges.from_microsoft(address, kind))

    return FunctionParameter


class BridgedCffiFunction(CffiFunction):
    """A cffi function pointer whose arguments or result are functions too."""

    __slots__ = ("_convert", "_convert_result")

    def __init__(
        self,
        dylib: Dylib,
        name: str,
        pointer: Any,
        ffi: Any,
        convert: dict[int, Callable[[Any], Any]],
        convert_result: Callable[[Any], Any] | None,
    ) -> None:
        """convert: by position, what makes of a function of the caller's one that the code can call."""
        super().__init__(dylib, name, pointer, ffi)
        self._convert = convert
        self._convert_result = convert_result

    def __call__(self, *arguments: Any) -> Any:
        converted = [self._convert[row](each) if row in self._convert else each for row, each in enumerate(arguments)]
        result = super().__call__(*converted)
        return result if self._convert_result is None else self._convert_result(result)


def cffi_function(bridges: Bridges, dylib: Dylib, name: str, c_type: Any, address: int, ffi: Any) -> CffiFunction:
    """A function of Microsoft's convention as a cffi function. Raises UnsupportedInput.

    c_type: of a pointer to the function, as cffi has it or in C.
    """
    kind = ffi.typeof(c_type) if isinstance(c_type, str) else c_type
    pointer = ffi.cast(kind, bridges.to_microsoft(address, signature_of_cffi(kind)))
    convert = {row: _inwards(bridges, ffi, each) for row, each in enumerate(kind.args) if each.kind == "function"}
    returned = _outwards(bridges, ffi, kind.result) if kind.result.kind == "function" else None
    if not convert and returned is None:
        return CffiFunction(dylib, name, pointer, ffi)
    return BridgedCffiFunction(dylib, name, pointer, ffi, convert, returned)


def _inwards(bridges: Bridges, ffi: Any, kind: Any) -> Callable[[Any], Any]:
    """What makes a function of the caller's one that the code can call."""
    wanted = signature_of_cffi(kind)

    def convert(value: Any) -> Any:
        if isinstance(value, CffiFunction):
            value = value.pointer
        if isinstance(value, ffi.CData):
            if ffi.typeof(value) != kind and ffi.typeof(value).cname != "void *":
                raise TypeError(f"a function of type {kind.cname} is needed, not one of type {ffi.typeof(value).cname}")
            address = int(ffi.cast("uintptr_t", value))
            return ffi.cast(kind, bridges.from_microsoft(address, wanted))
        # What is no function pointer, cffi refuses itself.
        return value

    return convert


def _outwards(bridges: Bridges, ffi: Any, kind: Any) -> Callable[[Any], Any]:
    """What makes a function that the code returns one that Python can call."""
    wanted = signature_of_cffi(kind)

    def convert(value: Any) -> Any:
        return ffi.cast(kind, bridges.to_microsoft(int(ffi.cast("uintptr_t", value)), wanted))

    return convert
