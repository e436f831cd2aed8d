"""Where symbols come from that a link does not define: the process, shared libraries, the caller.

A resolver turns a name into an address, or into None. The process and shared libraries are asked
through the dynamic loader; a mapping or a callable of the caller's serves as well.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

from jitlink.errors import UnreadableInput

FUNCTION: Any = ctypes.CFUNCTYPE(None).__mro__[1]
"""What all ctypes function types have in common."""

STT_FUNC, STT_OBJECT, STT_GNU_IFUNC = 2, 1, 10
RTLD_DL_SYMENT = 1


class Resolver(Protocol):
    """Anything that knows addresses of names."""

    def address_of(self, name: str) -> int | None:
        """The address of a name, or None."""


class Process:
    """The running process: its program and every library that is loaded for all to see."""

    def address_of(self, name: str) -> int | None:
        """The address that dlsym finds, or None."""
        try:
            found: int | None = _dlsym(None, name.encode(errors="surrogateescape"))
        except ValueError:  # a NUL in the name
            return None
        return found

    def __repr__(self) -> str:
        return "<this process>"


class SharedLibrary:
    """A shared library, loaded by the dynamic loader and kept until the process ends."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load it. Raises UnreadableInput with the loader's message."""
        self.path = os.fspath(path)
        try:
            self._library = ctypes.CDLL(self.path)
        except OSError as error:
            raise UnreadableInput(f"the dynamic loader refuses it: {error}", input=self.path) from error

    def address_of(self, name: str) -> int | None:
        """The address that dlsym finds in it or in what it depends on, or None."""
        found: int | None = _dlsym(self._library._handle, name.encode(errors="surrogateescape"))
        return found

    def __repr__(self) -> str:
        return f"<shared library {self.path}>"


class Names:
    """Addresses that the caller gives, as a mapping or as a callable from name to address or None.

    An address may be an integer, or anything that has one: a symbol of a dylib, a ctypes function or
    array, a cffi pointer.
    """

    def __init__(self, given: Mapping[str, Any] | Callable[[str], Any]) -> None:
        self._given = given

    def address_of(self, name: str) -> int | None:
        """The address that the caller gives for a name, or None."""
        value = self.value_of(name)
        return None if value is None else address_of_value(value)

    def value_of(self, name: str) -> Any:
        """What the caller gives for a name, or None."""
        given = self._given
        return given.get(name) if isinstance(given, Mapping) else given(name)

    def __repr__(self) -> str:
        return "<names of the caller>"


def as_resolver(given: Any) -> Resolver:
    """Make a resolver of what link_against was given. Raises TypeError for what cannot be one."""
    if isinstance(given, Mapping):
        return Names(given)
    if hasattr(given, "address_of"):
        resolver: Resolver = given
        return resolver
    if callable(given):
        return Names(given)
    raise TypeError(f"{given!r} is no resolver: give a dylib, a library, a mapping or a callable")


def address_of_value(value: Any) -> int:
    """The address that a value stands for. Raises TypeError for a value that has none."""
    if isinstance(value, int):
        return value
    if hasattr(value, "address"):
        return int(value.address)
    if isinstance(value, FUNCTION):
        return ctypes.cast(value, ctypes.c_void_p).value or 0
    if isinstance(value, ctypes._SimpleCData | ctypes.Array | ctypes.Structure):
        return ctypes.addressof(value)
    if type(value).__module__ == "_cffi_backend":
        import cffi

        return int(cffi.FFI().cast("uintptr_t", value))
    raise TypeError(f"{value!r} has no address")


@cache
def process() -> Process:
    """The running process as a resolver."""
    return Process()


def shared_library(path: str | os.PathLike[str]) -> SharedLibrary:
    """Load a shared library and use it as a resolver. Raises UnreadableInput."""
    return SharedLibrary(path)


class _SymbolInfo(ctypes.Structure):
    """Elf64_Sym."""

    _fields_ = (
        ("name", ctypes.c_uint32),
        ("info", ctypes.c_uint8),
        ("other", ctypes.c_uint8),
        ("section", ctypes.c_uint16),
        ("value", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    )


class _LoaderInfo(ctypes.Structure):
    """Dl_info of <dlfcn.h>."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def is_function(address: int) -> bool:
    """Whether a function of a loaded library starts at an address."""
    symbol = _symbol_at(address)
    return symbol is not None and (symbol.info & 15) in (STT_FUNC, STT_GNU_IFUNC)


def datum(address: int) -> bytes | None:
    """The bytes of the variable of a loaded library that starts at an address, or None."""
    symbol = _symbol_at(address)
    if symbol is None or (symbol.info & 15) != STT_OBJECT or not symbol.size:
        return None
    return ctypes.string_at(address, symbol.size)


def _symbol_at(address: int) -> _SymbolInfo | None:
    """The symbol table entry of what starts at an address, through glibc's dladdr1."""
    if _dladdr1 is None:
        return None
    info, entry = _LoaderInfo(), ctypes.POINTER(_SymbolInfo)()
    if not _dladdr1(address, ctypes.byref(info), ctypes.byref(entry), RTLD_DL_SYMENT):
        return None
    return entry.contents if bool(entry) and info.address == address else None


def _native(name: str, restype: Any, *argtypes: Any) -> Any:
    function = getattr(ctypes.pythonapi, name, None)
    if function is not None:
        function.restype, function.argtypes = restype, argtypes
    return function


_dlsym = _native("dlsym", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_dladdr1 = _native("dladdr1", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
