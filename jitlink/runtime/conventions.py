"""Calls across conventions: code from COFF objects in a process that calls by System V's convention.

Three ways cross the border, and each needs the types of the function:

    Python calls the code       a function of ctypes or cffi goes in through an entry (jitlink.runtime.bridges)
    the code calls the process  references are aimed at entries when it is linked (jitlink.passes.conventions)
    function pointers           become entries where their types are known: as arguments and results of functions
                                of ctypes and cffi, and in qsort, bsearch and atexit

What is known of the types of functions outside: those of the C library from a table, those that the caller
gives as functions of ctypes or cffi from themselves, all others from `typed`. A function of which nothing is
known is refused when the code is linked: a call would pass arguments in the wrong registers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jitlink.arches.x86_64_conventions import Signature, signature
from jitlink.errors import UnsupportedInput
from jitlink.handles import CffiFunction, Symbol
from jitlink.passes.conventions import Crossing
from jitlink.resolvers import Names, Process, Resolver, SharedLibrary, datum, process
from jitlink.runtime.bridged_calls import cffi_function, ctypes_function
from jitlink.runtime.bridges import Bridges
from jitlink.runtime.c_signatures import FUNCTION_POINTER, declared_signatures, signature_of_cffi, signature_of_value
from jitlink.runtime.libc_signatures import RENAMED, signatures
from jitlink.runtime.windows_names import WindowsNames

if TYPE_CHECKING:
    from jitlink.session import Dylib

NO_ARGUMENTS = signature("->v")


class Typed:
    """A resolver whose functions have types.

    Attributes: inner (the resolver that has the addresses).
    """

    def __init__(self, inner: Resolver, declarations: str) -> None:
        self.inner = inner
        self._signatures = declared_signatures(declarations)

    def address_of(self, name: str) -> int | None:
        """The address that the inner resolver has for a name, or None."""
        return address_in(self.inner, name)

    def signature_of(self, name: str) -> Signature | None:
        """The signature that was declared for a name, or None."""
        return self._signatures.get(name)

    def __repr__(self) -> str:
        return f"{self.inner!r}, typed"


def typed(resolver: Resolver, declarations: str) -> Typed:
    """Say what types the functions of a library, a dylib or the process have, in C.

    For code of another calling convention than theirs, as that of COFF objects is on Linux; all other code
    passes arguments alike whatever is declared. Raises UsageError for what cffi cannot read, UnsupportedInput
    for functions that take or return structures by value.
    """
    return Typed(resolver, declarations)


def address_in(resolver: Resolver, name: str) -> int | None:
    """The address of a name for those who link against a resolver, which may be a dylib."""
    exported = getattr(resolver, "exported_address_of", resolver.address_of)
    found: int | None = exported(name)
    return found


class Conventions:
    """What the code of one dylib needs for calls across conventions.

    Attributes: bridges; names (functions that only Microsoft's C library has); active (whether it is code of
    Microsoft's convention that is being linked).
    """

    def __init__(self, dylib: Dylib) -> None:
        self._dylib = dylib
        self.bridges = Bridges(dylib)
        self.names = WindowsNames(self.bridges.to_microsoft)
        self._code: list[range] = []
        self.active = False

    def placed(self, code: list[range]) -> None:
        """Remember where code of Microsoft's convention is."""
        self._code += code

    def is_code(self, address: int) -> bool:
        """Whether code of Microsoft's convention is at an address."""
        return any(address in each for each in self._code)

    def own_name(self, name: str) -> int | None:
        """The address of a function that the process has under another name or not at all, or None."""
        inner = (each.inner if isinstance(each, Typed) else each for each in self._dylib.resolvers)
        if not self.active or not any(isinstance(each, Process) for each in inner):
            return None
        found = self.names.find(name)
        return found[0] if found else process().address_of(RENAMED[name]) if name in RENAMED else None

    def crossing(self, name: str, address: int) -> Crossing | None:
        """How code of Microsoft's convention calls a function outside; None for data and its own kind."""
        if self._dylib.session.is_microsoft(address):
            return None
        if self._dylib.own_address_of(name) is not None:
            return self._of_linked_code(address)
        resolver = self._resolver_of(name)
        if isinstance(resolver, Names):
            return self._given(resolver, name, address)
        if isinstance(resolver, Typed):
            declared = resolver.signature_of(name)
            if declared is not None:
                return Crossing(address, declared)
            resolver = resolver.inner
        if resolver is None or isinstance(resolver, Process | SharedLibrary):
            return self._of_library(resolver, name, address)
        return self._of_linked_code(address)

    def _of_linked_code(self, address: int) -> Crossing | None:
        """Something of another dylib, or of an earlier link: its data has no convention, its functions no types."""
        return Crossing(address, None) if self._dylib.session.is_code(address) else None

    def _given(self, resolver: Names, name: str, address: int) -> Crossing | None:
        """What the caller gives: a number is taken as it is, a function has its own convention."""
        value = resolver.value_of(name)
        if isinstance(value, int) or not _is_function(value):
            return None
        return Crossing(address, signature_of_value(value))

    def _of_library(self, resolver: Resolver | None, name: str, address: int) -> Crossing | None:
        """A function of a library: one of the C library is known by its name, unless it is another of that name."""
        of_process = process().address_of(name)
        if resolver is None or of_process == address or of_process is None:
            written = self.names.find(name)
            if written is not None:
                return Crossing(*written)
            known = signatures().get(RENAMED.get(name, name))
            if known is not None and (resolver is None or of_process == address):
                return Crossing(address, known)
        return None if datum(address) is not None else Crossing(address, None)

    def _resolver_of(self, name: str) -> Resolver | None:
        """What the dylib is linked against that has a name, or None."""
        resolvers = self._dylib.resolvers
        return next((each for each in resolvers if address_in(each, name) is not None), None)

    def callable(self, functions: Sequence[int]) -> list[int]:
        """Where this process can call functions without arguments; those of its own convention stay."""
        return [self.bridges.to_microsoft(each, NO_ARGUMENTS) if self.is_code(each) else each for each in functions]

    def ctypes_function(self, address: int, restype: Any, argtypes: tuple[Any, ...]) -> Any:
        """A function of the code as a ctypes function of these types. Raises UnsupportedInput."""
        return ctypes_function(self.bridges, address, restype, argtypes)

    def cffi_function(self, name: str, c_type: Any, address: int, ffi: Any) -> CffiFunction:
        """A function of the code as a cffi function of this type. Raises UnsupportedInput."""
        return cffi_function(self.bridges, self._dylib, name, c_type, address, ffi)

    def typed_entry(self, address: int, kind: Any) -> int:
        """Where a typed call of a function of the code goes in. kind: the function type as cffi has it.

        Raises UnsupportedInput: callbacks of typed calls are made for the convention of this process.
        """
        if any(each.kind == "function" for each in (*kind.args, kind.result)):
            raise UnsupportedInput("it takes or returns a function of another calling convention")
        return self.bridges.to_microsoft(address, signature_of_cffi(kind))

    def exit_handlers(self) -> list[int]:
        """The handlers that the code has registered with atexit, to be called in this order, once."""
        handlers, self.names.exit_handlers[:] = self.names.exit_handlers[::-1], []
        return handlers


def crossing_into_microsoft(dylib: Dylib, name: str, address: int) -> Crossing | None:
    """How other code calls a function of Microsoft's convention; None for anything else."""
    if not dylib.session.is_microsoft(address):
        return None
    resolver = None
    if dylib.own_address_of(name) is None:
        resolver = next((each for each in dylib.resolvers if address_in(each, name) is not None), None)
    if isinstance(resolver, Names) and isinstance(resolver.value_of(name), int):
        return None
    declared = resolver.signature_of(name) if isinstance(resolver, Typed) else None
    return Crossing(address, declared, to_microsoft=True)


def _is_function(value: object) -> bool:
    """Whether a value that the caller gives for a name is a function of ctypes or cffi, or a symbol."""
    if isinstance(value, Symbol):
        return value.dylib.session.is_code(value.address)
    if type(value).__module__ == "_cffi_backend":
        import cffi

        return str(cffi.FFI().typeof(value).kind) == "function"
    return isinstance(value, FUNCTION_POINTER)


def applies(target_name: str) -> bool:
    """Whether COFF code for a machine follows another convention than this process does."""
    return target_name == "x86_64" and os.name != "nt"
