"""Sessions and dylibs: linked code with a lifetime.

A **session** owns everything that is linked in it. A **dylib** is a set of inputs that are linked into
one address range and see each other's symbols, like a shared library; what it does not define itself it
looks up in what it is linked against, in order: other dylibs, shared libraries, this process, names that
the caller gives.

Adding an object reads it, so that bad input is refused at once. Linking happens when the first symbol is
looked up, or when `link` is called; members of archives are linked when something asks for what they
define. A link that fails changes nothing: the inputs wait, and another attempt may follow.

Closing a session, or a dylib, runs the finalisers of its code and unmaps it. Handles then raise
ClosedError. A session that is never closed keeps its code mapped; finalisers run when Python exits.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jitlink.arches import host_architecture
from jitlink.arches.architecture import Architecture
from jitlink.errors import ClosedError, SymbolNotFound, UnsupportedInput
from jitlink.graph import LinkGraph
from jitlink.inputs import Inputs, Source, collect
from jitlink.joining import join
from jitlink.linker import Definitions, Options, Trace, UserPass, link
from jitlink.memory import Policy
from jitlink.passes.debug import DebugSections
from jitlink.passes.linker_symbols import DSO_HANDLE
from jitlink.passes.members import returning_members, take_members
from jitlink.placement import Images
from jitlink.resolvers import Names, Resolver, as_resolver, datum, is_function, process
from jitlink.runtime.observers import Profiler, observers
from jitlink.runtime.symbolize import Location
from jitlink.runtime.symbolize import Names as CodeNames
from jitlink.runtime.unwind_chain import unwind_chain
from jitlink.runtime.unwinding import Unwinding

if TYPE_CHECKING:
    from jitlink.handles import Symbol
    from jitlink.library import Library

INITIALISER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
FINALISER = ctypes.CFUNCTYPE(None)


class Session:
    """An owner of dylibs. Closing it closes them, the last one first."""

    def __init__(
        self, *, memory: Policy = "auto", debugger: bool | None = None, profiler: Profiler | None = None
    ) -> None:
        """Open a session.

        memory: how written memory is made executable, see jitlink.memory. debugger: tell GDB and LLDB of
        linked functions; by default as the environment variable JITLINK_DEBUG says. profiler: tell perf
        of them by its "map" or by a "dump", or "none"; by default as JITLINK_PERF says. Raises
        UnsupportedInput on a machine that we do not link for.
        """
        target = host_architecture()
        if target is None:
            raise UnsupportedInput(f"code for this machine ({os.uname().machine}) cannot be linked yet")
        self.target: Architecture = target
        self.memory: Policy = memory
        self.closed = False
        self.lock = threading.RLock()
        self.unwinding = Unwinding()
        self.observers = observers(target, debugger, profiler)
        self._dylibs: dict[str, Dylib] = {}
        atexit.register(self._finish)

    def dylib(self, name: str = "main") -> Dylib:
        """Get the dylib of a name, made at the first call. Raises ClosedError."""
        with self.lock:
            if self.closed:
                raise ClosedError("the session is closed")
            if name not in self._dylibs:
                self._dylibs[name] = Dylib(self, name)
            return self._dylibs[name]

    @property
    def dylibs(self) -> list[Dylib]:
        """The dylibs that are open, in the order in which they were made."""
        return list(self._dylibs.values())

    def symbolize(self, address: int) -> Location | None:
        """Say what an address in linked code belongs to: symbol, offset, object, and file and line.

        None if no symbol of an open dylib covers it. File and line need debug=True when the object is added.
        """
        with self.lock:
            found = (names.locate(address) for dylib in self.dylibs for names in dylib.code_names)
            return next((location for location in found if location is not None), None)

    def forget(self, dylib: Dylib) -> None:
        """Let go of a dylib that has been closed."""
        if self._dylibs.get(dylib.name) is dylib:
            del self._dylibs[dylib.name]

    def close(self) -> None:
        """Run the finalisers of all dylibs and unmap them; a second call does nothing."""
        with self.lock:
            if not self.closed:
                for dylib in reversed(self.dylibs):
                    dylib.close()
                self.closed = True
                atexit.unregister(self._finish)

    def _finish(self) -> None:
        """Run finalisers when Python exits; the code stays mapped, since other threads may still be in it."""
        for dylib in reversed(self.dylibs):
            dylib.finalise()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else ", ".join(self._dylibs) or "empty"
        return f"<session: {state}>"


class _Waiting:
    """A link graph that waits to be linked, made at once so that bad input is refused at once.

    A link changes its graph. So the graph is our own, a copy of what the caller holds, and after a link
    that failed it is made again.
    """

    def __init__(self, make: Callable[[], LinkGraph]) -> None:
        self._make = make
        self._graph: LinkGraph | None = make()

    def take(self) -> LinkGraph:
        """The graph, to be changed."""
        graph, self._graph = self._graph, None
        return self._make() if graph is None else graph


class Dylib:
    """Inputs that are linked together, and what they define.

    Attributes: session, name, closed, debug_sections (relocated, of each input by name, where asked for),
    code_names (what the addresses of each link belong to).
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self.closed = False
        self._images = Images(session.memory)
        self._against: list[Resolver] = [process()]
        self._pending: list[_Waiting] = []
        self._libraries: list[Inputs] = []
        self._options = Options()
        self._dead_strip: bool | None = None
        self._linked: list[Definitions] = []
        self._finalisers: list[int] = []
        self.debug_sections: DebugSections = {}
        self.code_names: list[CodeNames] = []

    # Inputs

    def add(
        self,
        *sources: Source,
        whole_archive: bool = False,
        dead_strip: bool | None = None,
        exports: Sequence[str] | None = None,
        copy_data: Sequence[str] = (),
        debug: bool = False,
        passes: Mapping[str, Sequence[UserPass]] | None = None,
        trace: Trace | None = None,
    ) -> Dylib:
        """Add inputs: paths, bytes or link graphs of objects, archives, LLVM IR.

        whole_archive: take all members of archives, and not only those that are needed. dead_strip: drop
        what no export needs; by default for members that are taken from archives. exports: the names
        that can be looked up, all of default visibility if None. copy_data: variables of libraries that
        are copied into the dylib, for code that reaches for them with 32 bits. debug: read and relocate
        the debug sections too, which are then in debug_sections. passes: functions that are called with
        the link graph, by stage (see jitlink.linker.STAGES). trace: called with the name and the seconds
        of each step of the link.

        The keywords hold for the next link, with all that was added until then. Raises InputError;
        then nothing was added.
        """
        with self.session.lock:
            self._require_open()
            inputs = collect(sources, whole_archive=whole_archive)
            waiting = [_Waiting(partial(join, [graph])) for graph in inputs.graphs]
            if inputs.objects:
                waiting.append(_Waiting(partial(inputs.read, inputs.objects, self.session.target, everything=debug)))
            if inputs.libraries:
                self._libraries.append(inputs)
            self._pending += waiting
            self._options = Options(
                exports=exports if exports is not None else self._options.exports,
                dead_strip=self._strips(dead_strip),
                copy_data=[*self._options.copy_data, *copy_data],
                debug=debug or self._options.debug,
                passes={**self._options.passes, **(passes or {})},
                trace=trace or self._options.trace,
            )
        return self

    def _strips(self, asked: bool | None) -> bool:
        """Whether the next link drops what no export needs: as was last asked, else if there are archives."""
        if asked is not None:
            self._dead_strip = asked
        return bool(self._libraries) if self._dead_strip is None else self._dead_strip

    def link_against(self, *resolvers: Resolver | Mapping[str, Any] | Callable[[str], Any]) -> Dylib:
        """Say where symbols come from that the dylib does not define, in order of search.

        resolvers: dylibs, process(), shared libraries, mappings from name to address, callables from
        name to address or None. Until the first call it is the process; a call replaces that.
        """
        with self.session.lock:
            self._require_open()
            self._against = [as_resolver(each) for each in resolvers]
        return self

    # Linking

    def link(self, *wanted: str) -> None:
        """Link what was added, with the archive members that define wanted or that others ask for.

        Raises LinkFailure; then nothing is mapped and what was added still waits.
        """
        with self.session.lock:
            self._require_open()
            roots = [*wanted, *(self._options.exports or ())]
            with returning_members(self._libraries):
                graphs = [each.take() for each in self._pending]
                graphs += self._members(graphs, roots)
                if graphs:
                    self._link(join(graphs) if len(graphs) > 1 else graphs[0])

    def _members(self, graphs: Sequence[LinkGraph], roots: Sequence[str]) -> list[LinkGraph]:
        """Take the members of archives that are needed, and those that these need."""
        if not self._libraries:
            return []
        defined = {name for definitions in self._linked for name in definitions.names()}
        names = [root.encode(errors="surrogateescape") for root in roots]
        everything = self._options.debug
        return take_members(self._libraries, graphs, names, defined, self.session.target, everything=everything)

    def _link(self, graph: LinkGraph) -> None:
        try:
            linked = link(graph, self, self._images, self._options)
            chain = unwind_chain(linked)
            self._images.place(linked)
        except BaseException:
            self._images.give_up()
            raise
        definitions = linked.definitions()
        self._linked.append(definitions)
        self._pending = []
        self._options = Options(
            exports=self._options.exports, dead_strip=self._options.dead_strip, debug=self._options.debug
        )
        self.debug_sections |= linked.debug_sections
        self.code_names.append(CodeNames(linked.graph, linked.base, linked.layout.size, linked.debug_sections))
        self._finalisers = linked.cycle.finalisers + self._finalisers
        # Initialisers may throw, and a debugger may want to stop in them.
        self.session.unwinding.add(self, chain, definitions, self._against)
        for observer in self.session.observers:
            observer.add(self, linked, chain)
        if linked.cycle.initialisers:
            _run_initialisers(linked.cycle.initialisers)

    # What a link sees of the world (jitlink.linker.Surroundings)

    def address_of(self, name: str) -> int | None:
        """The address of a name: in this dylib, or in what it is linked against; None if nowhere."""
        own = self.own_address_of(name)
        if own is not None:
            return own
        for resolver in self._against:
            address = resolver.exported_address_of(name) if isinstance(resolver, Dylib) else resolver.address_of(name)
            if address is not None:
                return address
        return None

    def own_address_of(self, name: str) -> int | None:
        """The address of a name that this dylib has defined, hidden or not; None if it has not."""
        raw = name.encode(errors="surrogateescape")
        for definitions in self._linked:
            row = definitions.find(raw, inside=True)
            if row is not None:
                return int(definitions.address[row])
        return None

    def hidden_address_of(self, name: str) -> int | None:
        """The address of a name that other dylibs and libraries may not define: an own one, or one of the caller's."""
        own = self.own_address_of(name)
        if own is not None:
            return own
        given = (each.address_of(name) for each in self._against if isinstance(each, Names))
        return next((address for address in given if address is not None), None)

    def exported_address_of(self, name: str) -> int | None:
        """The address of a name for other dylibs; what waits to be linked is linked for it."""
        found = self._find(name)
        return int(found[0].address[found[1]]) if found else None

    def is_function(self, address: int) -> bool:
        """Whether a function of some library starts at an address outside of the link."""
        return is_function(address)

    def datum(self, address: int) -> bytes | None:
        """The bytes of the variable at an address outside of the link."""
        return datum(address)

    # Lookup

    def __getitem__(self, name: str) -> Symbol:
        """Look up a symbol that the dylib exports, and link what it needs. Raises SymbolNotFound."""
        from jitlink.handles import Symbol

        found = self._find(name)
        if found is None:
            raise SymbolNotFound(name, f"dylib {self.name!r}")
        definitions, row = found
        return Symbol(self, name, int(definitions.address[row]), int(definitions.size[row]))

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def _find(self, name: str) -> tuple[Definitions, int] | None:
        with self.session.lock:
            self._require_open()
            if self._pending:
                self.link()
            found = self._find_linked(name)
            if found is None and self._libraries and self._may_export(name):
                self.link(name)
                found = self._find_linked(name)
            return found

    def _find_linked(self, name: str) -> tuple[Definitions, int] | None:
        if not self._may_export(name):
            return None
        raw = name.encode(errors="surrogateescape")
        for definitions in self._linked:
            row = definitions.find(raw)
            if row is not None:
                return definitions, row
        return None

    def _may_export(self, name: str) -> bool:
        exports = self._options.exports
        return exports is None or name in exports

    def symbols(self) -> Iterator[str]:
        """The names that are linked and exported."""
        for definitions in self._linked:
            for name in definitions.exported_names():
                text = name.decode(errors="surrogateescape")
                if self._may_export(text):
                    yield text

    @property
    def library(self) -> Library:
        """The dylib as a library whose functions are called by name."""
        from jitlink.library import Library

        return Library(self)

    # The end

    def finalise(self) -> None:
        """Run atexit handlers and finalisers, once."""
        handle = self.own_address_of(DSO_HANDLE)
        if handle is not None:
            _cxa_finalize(handle)
        finalisers, self._finalisers = self._finalisers, []
        for function in finalisers:
            FINALISER(function)()

    def close(self) -> None:
        """Run the finalisers, unmap everything, and make all handles raise; a second call does nothing."""
        with self.session.lock:
            if not self.closed:
                self.finalise()
                self.closed = True
                for observer in self.session.observers:
                    observer.remove(self)
                self.session.unwinding.remove(self)
                self._images.release()
                self._linked.clear()
                self.code_names.clear()
                self._pending.clear()
                self._libraries.clear()
                self.session.forget(self)

    def _require_open(self) -> None:
        if self.closed:
            raise ClosedError(f"dylib {self.name!r} is closed")

    def __repr__(self) -> str:
        return f"<dylib {self.name!r}{', closed' if self.closed else ''}>"


def _run_initialisers(functions: list[int]) -> None:
    """Call initialisers as glibc does, with the arguments of main."""
    argv = _arguments_of_main()
    environment = ctypes.c_void_p.in_dll(ctypes.pythonapi, "environ").value
    for function in functions:
        INITIALISER(function)(len(argv) - 1, ctypes.addressof(argv), environment)


@cache
def _arguments_of_main() -> ctypes.Array[ctypes.c_char_p]:
    """argv, kept for good: initialisers remember it, as that of Rust's standard library does."""
    arguments = [os.fsencode(argument) for argument in sys.argv]
    return (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)


def _cxa_finalize(handle: int) -> None:
    """Run and forget the atexit handlers that were registered with a __dso_handle (Itanium C++ ABI 3.3.6)."""
    finalize = ctypes.pythonapi.__cxa_finalize
    finalize.argtypes, finalize.restype = (ctypes.c_void_p,), None
    finalize(handle)
