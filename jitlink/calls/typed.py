"""The typed symbols of a dylib: functions and variables by name, with the types of their debug information.

The first question about a symbol reads the debug information of the one object that defines it; that of
other objects stays unread. What is found out is kept: per object an index and its types, per symbol the
function that was written for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jitlink.calls.adapters import Adapters
from jitlink.calls.c_types import Array, CType, Function
from jitlink.calls.callbacks import Callbacks
from jitlink.calls.debug_info import debug_info_of
from jitlink.calls.demangling import Demangler, base_of, candidates, means, without_arguments
from jitlink.calls.foreign_types import ForeignTypes
from jitlink.calls.functions import Target, typed_function
from jitlink.calls.passing import Passing, passing_of
from jitlink.calls.pointers import PointerPassing
from jitlink.calls.reading import TypeReader
from jitlink.errors import InputError, UntypedSymbol
from jitlink.handles import Symbol, Variable

if TYPE_CHECKING:
    from jitlink.graph import LinkGraph
    from jitlink.session import Dylib

ADVICE = "declare it with cdef(), or use function()"


@dataclass(frozen=True)
class TypedFunction:
    """A function of C. Attributes: usable (the Python function), kind, passings (one for each parameter)."""

    usable: Callable[..., Any]
    kind: Function
    passings: list[Passing]


@dataclass(frozen=True)
class TypedVariable:
    """A variable of C. Attributes: usable (what reads and sets it), kind."""

    usable: Variable
    kind: CType


class TypedSymbols:
    """What the debug information of a dylib's objects says of its symbols."""

    def __init__(self, dylib: Dylib) -> None:
        self.dylib = dylib
        self.types = ForeignTypes()
        self.callbacks = Callbacks(self.types)
        self.adapters = Adapters(dylib)
        self._readers: dict[tuple[int, int], TypeReader] = {}
        self._functions: dict[str, TypedFunction] = {}
        self._variables: dict[str, TypedVariable] = {}

    def symbols_named(self, name: str, *, loosely: bool = False) -> list[str]:
        """The symbols that a name of C++ means, in a dylib and in its archives; several for overloads.

        loosely: also the last part of a qualified name, if all that have it are of one scope.
        """
        found: dict[str, str] = {}
        for symbol in candidates(name, self.dylib.available()):
            # Constructors and destructors have several symbols of one name.
            found.setdefault(self._demangler.demangle(symbol), symbol)
        exact = [symbol for demangled, symbol in found.items() if means(name, demangled)]
        if exact or not loosely:
            return exact
        inner = {demangled: without_arguments(base_of(demangled)) for demangled in found}
        ending = [demangled for demangled, base in inner.items() if base.endswith(f"::{name}")]
        scopes = {inner[demangled] for demangled in ending}
        return [found[demangled] for demangled in ending] if len(scopes) == 1 else []

    @cached_property
    def _demangler(self) -> Demangler:
        return Demangler(self.dylib.address_of)

    def new(self, name: str, value: Any) -> Any:
        """Make C data of a type by its name, as an owning pointer of cffi. Raises UntypedSymbol, InputError."""
        with self.dylib.session.lock:
            for names in self.dylib.code_names:
                for graph, input in names.inputs():
                    reader = self._reader(graph, input)
                    entry = reader.info.type_entry(name)
                    if entry is not None:
                        return self.types.ffi.new(self.types.pointer_to(reader.type_at(entry)), value)
        raise UntypedSymbol(f"no object of {self.dylib!r} describes a type {name!r}")

    def function(self, symbol: Symbol, shown: str) -> TypedFunction:
        """The typed function of a symbol. Raises UntypedSymbol."""
        found = self.find(symbol, shown)
        if isinstance(found, TypedVariable):
            raise UntypedSymbol(f"{shown} is a variable: {found.kind.declared(shown)}")
        return found

    def find(self, symbol: Symbol, shown: str | None = None) -> TypedFunction | TypedVariable:
        """The typed function or variable of a symbol. shown: its name for people.

        Raises UntypedSymbol where its type is not known, or not one that is served.
        """
        name = symbol.name
        # pyelftools moves about in its sections: one question at a time.
        with self.dylib.session.lock:
            known = self._functions.get(name) or self._variables.get(name)
            if known is None:
                try:
                    known = self._make(symbol, shown or name)
                except InputError as error:
                    raise UntypedSymbol(f"{shown or name} is linked, but {error}; {ADVICE}") from error
        return known

    def _make(self, symbol: Symbol, shown: str) -> TypedFunction | TypedVariable:
        if not self.dylib.session.execution.in_process:
            raise UntypedSymbol(f"{shown} is code for the emulated CPU, which is called by declaration: {ADVICE}")
        place = self._place_of(symbol)
        reader = self._reader(*place) if place else None
        entry = reader.info.entry_of(symbol.name) if reader else None
        if reader is None or entry is None:
            raise UntypedSymbol(f"{shown} is linked, but its type is not known: {ADVICE}")
        try:
            if not reader.calls_as_c(entry):
                raise UntypedSymbol('it has the calling convention of Rust, and is not extern "C"')
            if entry.tag == "DW_TAG_variable":
                return self._make_variable(symbol, reader.variable(entry))
            return self._make_function(symbol, shown, reader.function(entry), reader.info.input)
        except UntypedSymbol as error:
            raise UntypedSymbol(f"{shown} cannot be used by name: {error}; {ADVICE}") from None

    def _make_function(self, symbol: Symbol, shown: str, kind: Function, input: str) -> TypedFunction:
        self.types.of(kind)
        conventions = self.dylib.conventions
        if conventions is not None and conventions.is_code(symbol.address):
            entry, builtin = conventions.typed_entry(symbol.address, self.types.of(kind)), None
        else:
            entry, builtin = self.adapters.ways_into(symbol.name, symbol.address, kind)
        target = Target(self.dylib, shown, symbol.address, entry, builtin, input)
        call, passings = typed_function(target, kind, self.types, self.callbacks.make)
        made = self._functions[symbol.name] = TypedFunction(call, kind, passings)
        return made

    def _make_variable(self, symbol: Symbol, kind: CType) -> TypedVariable:
        pointer = self.types.ffi.cast(self.types.pointer_to(kind), symbol.address)
        plain = kind.plain
        passing = None
        if not isinstance(plain, Array) and not self.types.needs_carrier(kind):
            passing = passing_of(symbol.name, kind, self.types, self.callbacks.make)
        if isinstance(passing, PointerPassing):
            # What it points at would have to outlive this statement, which only data of cffi can.
            passing = None
        constant = f"{symbol.name} is constant: {kind.declared(symbol.name)}" if kind.is_const else None
        variable = Variable(symbol, pointer, passing.convert if passing else None, constant)
        made = self._variables[symbol.name] = TypedVariable(variable, kind)
        return made

    def _place_of(self, symbol: Symbol) -> tuple[LinkGraph, int] | None:
        """The graph and the input that define a symbol."""
        found = (names.input_of(symbol.address) for names in self.dylib.code_names)
        return next((place for place in found if place is not None), None)

    def _reader(self, graph: LinkGraph, input: int) -> TypeReader:
        # The graphs live as long as the dylib, so that their ids stay their own.
        key = id(graph), input
        if key not in self._readers:
            self._readers[key] = TypeReader(debug_info_of(graph, input))
        return self._readers[key]
