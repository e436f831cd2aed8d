"""Handles on emulated code and data: what people hold of a dylib that runs in an emulated CPU."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, cast

from jitlink.errors import UsageError
from jitlink.execution.borrowed import Borrowed, Loan
from jitlink.execution.cffi_values import CffiTypes
from jitlink.execution.ctypes_values import signature_of
from jitlink.execution.memory import Memory
from jitlink.execution.signatures import Signature
from jitlink.handles import Symbol, closed_error, new_ffi
from jitlink.library import Library

if TYPE_CHECKING:
    from jitlink.execution.emulator import EmulatedHome


class EmulatedFunction:
    """A function that runs in the emulated CPU when it is called. Raises ClosedError once its code is gone.

    Attributes: name.
    """

    __slots__ = ("_address", "_home", "_owner", "_signature", "name")

    def __init__(self, home: EmulatedHome, name: str, address: int, signature: Signature, owner: Any = None) -> None:
        """Make a function of an address. owner: the dylib, or None where that is not known."""
        self._home = home
        self._address = address
        self._signature = signature
        self._owner = owner
        self.name = name

    def __call__(self, *arguments: Any) -> Any:
        self._require_open()
        home = self._home
        with home.machine.lock:
            return self._signature.call(home.machine, home.convention, home, self._address, arguments)

    @property
    def address(self) -> int:
        """Where it is in the emulated memory. Raises ClosedError."""
        self._require_open()
        return self._address

    def _require_open(self) -> None:
        if self._owner is not None and self._owner.closed:
            raise closed_error(self._owner, self.name)

    def __repr__(self) -> str:
        return f"<emulated function {self.name!r} at {self._address:#x}>"


class EmulatedSymbol(Symbol):
    """A symbol of a dylib that runs in the emulated CPU; its address is one of the emulated memory."""

    __slots__ = ()

    @property
    def _home(self) -> EmulatedHome:
        home: Any = self.dylib.residence
        return cast("EmulatedHome", home)

    def ctypes(self, restype: Any = ctypes.c_int, *argtypes: Any) -> EmulatedFunction:
        """The symbol as a function of these types of ctypes. Raises ClosedError, UsageError."""
        return self._function(signature_of(restype, argtypes))

    def cffi(self, declaration: str) -> Any:
        """The symbol as a function of a C type, such as "int(*)(int, char *)". Raises ClosedError, UsageError."""
        ffi = new_ffi()
        types = CffiTypes(ffi, self._home.long_size)
        declared = ffi.typeof(declaration)
        if declared.kind == "pointer":
            declared = declared.item
        if declared.kind != "function":
            raise UsageError(f"{declaration!r} is no type of a function")
        return self._function(types.signature_of(declared))

    def _function(self, signature: Signature) -> EmulatedFunction:
        return EmulatedFunction(self._home, self.name, self.address, signature, self.dylib)

    def add_to_llvmlite(self, name: str | None = None) -> None:
        """Refuse: code of this process cannot call emulated code. Raises UsageError."""
        raise UsageError(f"{self.name} runs in an emulated CPU: code of this process cannot call it")


class EmulatedLibrary(Library):
    """Functions and variables of a dylib that runs in the emulated CPU, under their names."""

    _made_types: CffiTypes | None = None

    @property
    def memory(self) -> Memory:
        """The emulated memory: to read, to write, and to allocate. Raises ClosedError."""
        if self.dylib.closed:
            raise closed_error(self.dylib, "the memory")
        memory: Memory = self._home.memory
        return memory

    @property
    def _home(self) -> Any:
        return self.dylib.residence

    @property
    def _types(self) -> CffiTypes:
        """The types of this library's declarations, by the platform of its code."""
        if self._made_types is None or self._made_types.long_size != self._home.long_size:
            self._made_types = CffiTypes(self.ffi, self._home.long_size)
        return self._made_types

    def __enter__(self) -> EmulatedLibrary:
        super().__enter__()
        return self

    def __getitem__(self, name: str) -> Any:
        """Look up a symbol. Raises SymbolNotFound."""
        return self.dylib[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.dylib.closed:
            raise closed_error(self.dylib, name)
        sort, declared = self._declaration_of(name)
        symbol, types = self.dylib[name], self._types
        if sort == "variable":
            carrier = types.carrier_of(declared)
            return carrier.unpack(self.memory.read(symbol.address, carrier.c_type.size), self._home)
        function = EmulatedFunction(self._home, name, symbol.address, types.signature_of(declared), self.dylib)
        self.__dict__[name] = function
        return function

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or name == "dylib" or hasattr(type(self), name):
            object.__setattr__(self, name, value)
            return
        sort, declared = self._declaration_of(name)
        if sort != "variable":
            raise AttributeError(f"{name} is a function")
        carrier = self._types.carrier_of(declared)
        packed = carrier.pack(value, self._home, Loan(self.memory))
        if isinstance(packed, Borrowed):
            raise TypeError(f"{name} would point at Python's memory: allocate what it points at in the library's")
        self.memory.write(self.dylib[name].address, packed)

    def _declaration_of(self, name: str) -> tuple[str, Any]:
        """How cdef has declared a name. Raises AttributeError."""
        declared = self._declared(name)
        if declared is None:
            known = name in self.dylib
            advice = "is linked, but its type is not known here: declare it with cdef(), or use function()"
            raise AttributeError(f"{name} {advice}" if known else f"{self.dylib!r} has no symbol {name!r}")
        return declared

    def new(self, type: str, value: Any = None) -> Any:
        """Refuse: debug information is not read for emulated code. Raises UsageError."""
        raise UsageError(f"{type!r} of an emulated library: make C data with ffi.new(), after a cdef()")
