"""Handles on linked symbols: addresses, and functions of ctypes and cffi that know when their code is gone."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

from jitlink.errors import ClosedError, MissingExtra

if TYPE_CHECKING:
    from jitlink.session import Dylib


class Symbol:
    """A symbol of a dylib. Its address raises ClosedError once the dylib is closed.

    Attributes: dylib, name, size (bytes, as its object says).
    """

    __slots__ = ("_address", "dylib", "name", "size")

    def __init__(self, dylib: Dylib, name: str, address: int, size: int) -> None:
        self.dylib = dylib
        self.name = name
        self.size = size
        self._address = address

    @property
    def address(self) -> int:
        """Where it is. Raises ClosedError when its dylib is closed."""
        require_open(self.dylib, self.name)
        return self._address

    def ctypes(self, restype: Any = ctypes.c_int, *argtypes: Any) -> Any:
        """The symbol as a ctypes function of these types, which raises ClosedError after the close.

        It can be passed on as a callback. Raises ClosedError.
        """
        function = guarded_prototype(restype, argtypes)(self.address)
        function.owner, function.symbol_name = self.dylib, self.name
        return function

    def cffi(self, declaration: str) -> CffiFunction:
        """The symbol as a cffi function of a C type, such as "int(*)(int, char *)". Raises ClosedError."""
        ffi = new_ffi()
        return CffiFunction(self.dylib, self.name, ffi.cast(declaration, self.address), ffi)

    def add_to_llvmlite(self, name: str | None = None) -> None:
        """Make the symbol known to llvmlite's JIT, under its own or another name.

        LLVM keeps the address: code that uses it must not run after the dylib is closed.
        """
        try:
            from llvmlite import binding
        except ImportError as error:
            raise MissingExtra("llvmlite", "llvm", "registering a symbol with llvmlite") from error
        binding.add_symbol(name or self.name, self.address)

    def __int__(self) -> int:
        return self.address

    def __repr__(self) -> str:
        where = "closed" if self.dylib.closed else f"at {self._address:#x}"
        return f"<symbol {self.name!r} {where}>"


class CffiFunction:
    """A cffi function pointer that raises ClosedError once its code is gone.

    Attributes: pointer (the cffi pointer itself, for passing on), name.
    """

    __slots__ = ("_dylib", "_ffi", "name", "pointer")

    def __init__(self, dylib: Dylib, name: str, pointer: Any, ffi: Any) -> None:
        self._dylib = dylib
        self._ffi = ffi
        self.name = name
        self.pointer = pointer

    def __call__(self, *arguments: Any) -> Any:
        if self._dylib.closed:
            raise closed_error(self._dylib, self.name)
        return self.pointer(*arguments)

    def __repr__(self) -> str:
        return f"<function {self.name!r}: {self._ffi.typeof(self.pointer).cname}>"


@cache
def guarded_prototype(restype: Any, argtypes: tuple[Any, ...]) -> Any:
    """Make the ctypes function type whose functions refuse to be called after their dylib was closed."""
    prototype = ctypes.CFUNCTYPE(restype, *argtypes)
    call = prototype.__call__

    class Guarded(prototype):  # type: ignore[misc, valid-type]
        # The base class takes these for its own when it is declared again.
        _flags_, _restype_, _argtypes_ = prototype._flags_, prototype._restype_, prototype._argtypes_
        owner: Dylib | None = None
        symbol_name = ""

        def __call__(self, *arguments: Any) -> Any:
            if self.owner is not None and self.owner.closed:
                raise closed_error(self.owner, self.symbol_name)
            return call(self, *arguments)

    return Guarded


def require_open(dylib: Dylib, name: str) -> None:
    """Raise ClosedError if the dylib of a symbol is closed."""
    if dylib.closed:
        raise closed_error(dylib, name)


def closed_error(dylib: Dylib, name: str) -> ClosedError:
    """Make the error for a symbol whose code is gone."""
    return ClosedError(f"{name} is gone: dylib {dylib.name!r} is closed")


def new_ffi() -> Any:
    """Make a cffi.FFI, imported when the first one is made."""
    import cffi

    return cffi.FFI()
