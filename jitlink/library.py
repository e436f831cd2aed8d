"""A dylib as a library: its functions and variables by name, typed by debug information or by declarations.

    sqlite = jitlink.load("libsqlite3.a")
    sqlite.cdef("int sqlite3_libversion_number(void);")
    sqlite.sqlite3_libversion_number()
    sqlite["sqlite3_open"].address

    fast = jitlink.load("fast.o")                 compiled with -g: nothing has to be declared
    fast.hypot3(1.0, 2.0, 3.0)

Names are attributes: a function is called, a variable is read and set. Declarations go before debug
information. The library's own attributes are few, and go before a C function of the same name;
`library["close"]` always means the symbol, which can be called too. Names of C++ are written as in the
source: `library["ns::f"]`, `library["ns::f(int)"]`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jitlink.errors import ClosedError, SymbolNotFound
from jitlink.handles import CallableSymbol, Symbol, Variable, cffi_function, closed_error, new_ffi

if TYPE_CHECKING:
    from jitlink.calls.typed import TypedSymbols
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
        self._symbols: TypedSymbols | None = None
        self._functions: set[str] = set()

    @property
    def ffi(self) -> Any:
        """The cffi.FFI of this library: for making C data, and for reading pointers."""
        if self._ffi is None:
            self._ffi = new_ffi()
        return self._ffi

    def cdef(self, declarations: str) -> None:
        """Declare functions, variables and types in C. Raises cffi.CDefError for what cffi cannot read."""
        self.ffi.cdef(declarations)
        # What was typed by debug information until now may have been declared.
        for name in self._functions:
            self.__dict__.pop(name, None)
        self._functions.clear()

    def function(self, name: str, restype: Any = ctypes.c_int, argtypes: tuple[Any, ...] | list[Any] = ()) -> Any:
        """A function by name as a ctypes function of these types. Raises SymbolNotFound."""
        return self.dylib[name].ctypes(restype, *argtypes)

    def new(self, type: str, value: Any = None) -> Any:
        """Make C data of a type that debug information describes, such as "struct point" or "point".

        value: what it holds at first, such as a dict of members. Returns an owning pointer of cffi: its
        members are attributes, and it is passed for a pointer. Raises UntypedSymbol, InputError.
        """
        self.dylib.link()
        return self._typed.new(type, value)

    def __getitem__(self, name: str) -> CallableSymbol:
        """Look up a symbol, or a function of C++ by its name. Raises SymbolNotFound."""
        try:
            return CallableSymbol(self.dylib[name], name, self._function)
        except SymbolNotFound:
            symbols = self._typed.symbols_named(name)
            if not symbols:
                raise
        return self._chosen(name, symbols)

    def _chosen(self, name: str, symbols: list[str]) -> CallableSymbol:
        """The symbol, or the overloads, that a name of C++ means."""
        first = self.dylib[symbols[0]]
        if len(symbols) == 1:
            return CallableSymbol(first, name, self._function)
        from jitlink.calls.overloads import Overloads

        return Overloads(first, name, [self._typed.function(self.dylib[symbol], name) for symbol in symbols])

    def _function(self, symbol: Symbol, shown: str) -> Callable[..., Any]:
        return self._typed.function(symbol, shown).usable

    def __contains__(self, name: str) -> bool:
        return name in self.dylib

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.dylib.closed:
            raise closed_error(self.dylib, name)
        declared = self._declared(name)
        if declared is None:
            found = self._described(name)
            if isinstance(found, Variable):
                return found.get()
        else:
            sort, c_type = declared
            address = self.dylib[name].address
            if sort == "variable":
                return self.ffi.cast(self.ffi.getctype(c_type, "*"), address)[0]
            found = cffi_function(self.dylib, name, c_type, address, self.ffi)
        self._functions.add(name)
        self.__dict__[name] = found
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or name == "dylib" or hasattr(type(self), name):
            object.__setattr__(self, name, value)
            return
        if self.dylib.closed:
            raise closed_error(self.dylib, name)
        declared = self._declared(name)
        described = self._described(name) if declared is None else None
        if isinstance(described, Variable):
            described.set(value)
            return
        if declared is None or declared[0] != "variable":
            raise AttributeError(f"{name} is a function")
        _, c_type = declared
        self.ffi.cast(self.ffi.getctype(c_type, "*"), self.dylib[name].address)[0] = value

    def _described(self, name: str) -> Any:
        """What debug information makes of a name: a function, its overloads, or a Variable.

        Raises UntypedSymbol, and AttributeError where nothing has the name.
        """
        if name in self.dylib:
            return self._typed.find(self.dylib[name]).usable
        symbols = self._typed.symbols_named(name, loosely=True)
        if not symbols:
            raise AttributeError(f"{self.dylib!r} has no symbol {name!r}")
        if len(symbols) == 1:
            return self._typed.find(self.dylib[symbols[0]], name).usable
        return self._chosen(name, symbols)

    @property
    def _typed(self) -> TypedSymbols:
        with self.dylib.session.lock:
            if self._symbols is None:
                from jitlink.calls.typed import TypedSymbols

                self._symbols = TypedSymbols(self.dylib)
            return self._symbols

    def _declared(self, name: str) -> tuple[str, Any] | None:
        """How a name was declared: "function" and its pointer type, or "variable" and its type; None if not.

        cffi keeps declarations for a library that it opens itself. Ours is not one that it could open,
        so they are read from where cffi's own libraries find them.
        """
        if self._ffi is None:
            return None
        declarations = self.ffi._parser._declarations
        for sort in ("function", "variable"):
            if f"{sort} {name}" in declarations:
                with self.ffi._lock:
                    return sort, self.ffi._get_cached_btype(declarations[f"{sort} {name}"][0])
        return None

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
