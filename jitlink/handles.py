"""Handles on linked symbols: addresses, and functions of ctypes and cffi that know when their code is gone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
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

        It can be passed on as a callback. Raises ClosedError, and UnsupportedInput for types that cannot be
        passed to code of another calling convention.
        """
        conventions = self.dylib.conventions
        if conventions is not None and conventions.is_code(self.address):
            function = conventions.ctypes_function(self.address, restype, argtypes)
            function.owner, function.symbol_name = self.dylib, self.name
            return function
        function = guarded_prototype(restype, argtypes)(self.address)
        function.owner, function.symbol_name = self.dylib, self.name
        return function

    def cffi(self, declaration: str) -> CffiFunction:
        """The symbol as a cffi function of a C type, such as "int(*)(int, char *)". Raises ClosedError."""
        return cffi_function(self.dylib, self.name, declaration, self.address, new_ffi())

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


class CallableSymbol(Symbol):
    """A symbol of a library: a function can be called where debug information gives its type.

    Attributes: shown (its name for people).
    """

    __slots__ = ("_typed", "shown")

    def __init__(self, symbol: Symbol, shown: str, typed: Callable[[Symbol, str], Callable[..., Any]]) -> None:
        """typed: finds the typed function of a symbol with that name for people."""
        super().__init__(symbol.dylib, symbol.name, symbol._address, symbol.size)
        self.shown = shown
        self._typed = typed

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function. Raises UntypedSymbol where its type is not known, TypeError for wrong arguments."""
        return self._typed(self, self.shown)(*arguments, **named)


class Variable:
    """A variable of linked code, as cffi data."""

    __slots__ = ("_constant", "_convert", "_pointer", "_symbol")

    def __init__(
        self, symbol: Symbol, pointer: Any, convert: Callable[[Any], Any] | None, constant: str | None
    ) -> None:
        """pointer: to it, of its type. convert: checks what is assigned. constant: why it cannot be, or None."""
        self._symbol = symbol
        self._pointer = pointer
        self._convert = convert
        self._constant = constant

    def get(self) -> Any:
        """Its value now; an array or a structure as cffi data that shows the memory itself."""
        require_open(self._symbol.dylib, self._symbol.name)
        return self._pointer[0]

    def set(self, value: Any) -> None:
        """Change it for the code. Raises AttributeError for a constant, TypeError for what does not fit."""
        require_open(self._symbol.dylib, self._symbol.name)
        if self._constant is not None:
            raise AttributeError(self._constant)
        self._pointer[0] = value if self._convert is None else self._convert(value)


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


def cffi_function(dylib: Dylib, name: str, c_type: Any, address: int, ffi: Any) -> CffiFunction:
    """The function at an address as a cffi function. c_type: of a pointer to it, as cffi has it or in C.

    Raises UnsupportedInput for types that cannot be passed to code of another calling convention.
    """
    conventions = dylib.conventions
    if conventions is not None and conventions.is_code(address):
        return conventions.cffi_function(name, c_type, address, ffi)
    return CffiFunction(dylib, name, ffi.cast(c_type, address), ffi)


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
