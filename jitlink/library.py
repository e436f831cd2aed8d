"""A dylib as a library: its functions and variables by name, typed by C declarations.

    sqlite = jitlink.load("libsqlite3.a")
    sqlite.cdef("int sqlite3_libversion_number(void);")
    sqlite.sqlite3_libversion_number()
    sqlite["sqlite3_open"].address

Declared names are attributes: a function is called, a variable is read and set. The library's own
attributes are few, and go before a C function of the same name; `library["close"]` always means the
symbol.
"""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jitlink.errors import ClosedError
from jitlink.handles import CffiFunction, Symbol, closed_error, new_ffi

if TYPE_CHECKING:
    from jitlink.session import Dylib


class Library:
    """Functions and variables of a dylib, under their names.

    Attributes: dylib; ffi (the cffi.FFI that holds the declarations).
    """

    def __init__(self, dylib: Dylib, *, owns_session: bool = False) -> None:
        """View a dylib as a library. owns_session: close the whole session with it."""
        self.dylib = dylib
        self._owns_session = owns_session
        self._ffi: Any = None

    @property
    def ffi(self) -> Any:
        """The cffi.FFI of this library: for making C data, and for reading pointers."""
        if self._ffi is None:
            self._ffi = new_ffi()
        return self._ffi

    def cdef(self, declarations: str) -> None:
        """Declare functions, variables and types in C. Raises cffi.CDefError for what cffi cannot read."""
        self.ffi.cdef(declarations)

    def function(self, name: str, restype: Any = ctypes.c_int, argtypes: tuple[Any, ...] | list[Any] = ()) -> Any:
        """A function by name as a ctypes function of these types. Raises SymbolNotFound."""
        return self.dylib[name].ctypes(restype, *argtypes)

    def __getitem__(self, name: str) -> Symbol:
        return self.dylib[name]

    def __contains__(self, name: str) -> bool:
        return name in self.dylib

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.dylib.closed:
            raise closed_error(self.dylib, name)
        sort, c_type = self._declared(name)
        address = self.dylib[name].address
        if sort == "variable":
            pointer = self.ffi.cast(self.ffi.getctype(c_type, "*"), address)
            return pointer[0]
        function = CffiFunction(self.dylib, name, self.ffi.cast(c_type, address), self.ffi)
        self.__dict__[name] = function
        return function

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or name == "dylib" or self.__dict__.get("_ffi") is None:
            object.__setattr__(self, name, value)
            return
        sort, c_type = self._declared(name)
        if sort != "variable":
            raise AttributeError(f"{name} is a function")
        self.ffi.cast(self.ffi.getctype(c_type, "*"), self.dylib[name].address)[0] = value

    def _declared(self, name: str) -> tuple[str, Any]:
        """How a name was declared: "function" and its pointer type, or "variable" and its type.

        cffi keeps declarations for a library that it opens itself. Ours is not one that it could open,
        so they are read from where cffi's own libraries find them.
        """
        declarations = self.ffi._parser._declarations
        for sort in ("function", "variable"):
            if f"{sort} {name}" in declarations:
                with self.ffi._lock:
                    return sort, self.ffi._get_cached_btype(declarations[f"{sort} {name}"][0])
        if name in self.dylib:
            raise AttributeError(
                f"{name} is linked, but its type is not known: declare it with cdef(), or use function()"
            )
        raise AttributeError(f"{self.dylib!r} has no symbol {name!r}")

    def close(self) -> None:
        """Run the finalisers and unmap the code; functions then raise ClosedError."""
        if self._owns_session:
            self.dylib.session.close()
        else:
            self.dylib.close()

    def __enter__(self) -> Library:
        if self.dylib.closed:
            raise ClosedError(f"{self.dylib!r} cannot be entered again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self.dylib.symbols()]

    def __repr__(self) -> str:
        return f"<library {self.dylib.name!r}{', closed' if self.dylib.closed else ''}>"
