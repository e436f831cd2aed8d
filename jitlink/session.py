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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jitlink.arches.architecture import Architecture
from jitlink.errors import ClosedError, LinkFailure, SymbolNotFound
from jitlink.escaping import escaped
from jitlink.execution import Emulation, execution_of
from jitlink.graph import LinkGraph
from jitlink.inputs import Source
from jitlink.joining import join
from jitlink.linker import Definitions, Trace, UserPass, link
from jitlink.memory import Policy
from jitlink.passes.debug import DebugSections
from jitlink.passes.linker_symbols import DSO_HANDLE
from jitlink.passes.members import returning_members
from jitlink.passes.thread_storage import Variable
from jitlink.resolvers import Names, Resolver
from jitlink.runtime.observers import Profiler, observers
from jitlink.runtime.symbolize import Location
from jitlink.runtime.symbolize import Names as CodeNames
from jitlink.runtime.unwind_chain import unwind_chain
from jitlink.runtime.unwinding import Unwinding
from jitlink.waiting import Waiting

if TYPE_CHECKING:
    from jitlink.handles import Symbol
    from jitlink.library import Library
    from jitlink.passes.conventions import FindCrossing
    from jitlink.runtime.conventions import Conventions


class Session:
    """An owner of dylibs. Closing it closes them, the last one first."""

    def __init__(
        self,
        *,
        target: str | None = None,
        emulate: bool | Emulation = False,
        memory: Policy = "auto",
        debugger: bool | None = None,
        profiler: Profiler | None = None,
    ) -> None:
        """Open a session.

        target: the machine whose code is linked, by default the host's; code for another one runs in an
        emulated CPU (see jitlink.execution). emulate: use that for the host's machine too; a
        jitlink.Emulation says how. memory: how written memory is made executable, see jitlink.memory.
        debugger: tell GDB and LLDB of linked functions; by default as the environment variable
        JITLINK_DEBUG says. profiler: tell perf of them by its "map" or by a "dump", or "none"; by default
        as JITLINK_PERF says. Raises UnsupportedInput for a machine that we do not link for, MissingExtra
        where the emulator is not installed.
        """
        self.execution = execution_of(target, emulate, memory)
        self.target: Architecture = self.execution.target
        self.closed = False
        self.lock = self.execution.lock
        self.unwinding = Unwinding()
        self.observers = observers(self.target, debugger, profiler) if self.execution.in_process else []
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

    def is_microsoft(self, address: int) -> bool:
        """Whether code at an address follows Microsoft's calling convention in a process that follows another."""
        found = (dylib.conventions for dylib in self.dylibs)
        return any(conventions is not None and conventions.is_code(address) for conventions in found)

    def is_code(self, address: int) -> bool:
        """Whether an address is in code that was linked in this session."""
        return any(address in code for dylib in self.dylibs for code in dylib._code)

    def forget(self, dylib: Dylib) -> None:
        """Let go of a dylib that has been closed."""
        if self._dylibs.get(dylib.name) is dylib:
            del self._dylibs[dylib.name]

    def close(self) -> None:
        """Run the finalisers of all dylibs and unmap them; a second call does nothing."""
        with self.lock:
            if not self.closed:
                # All of it, also where emulated finalisers raise.
                with ExitStack() as stack:
                    stack.callback(atexit.unregister, self._finish)
                    stack.callback(setattr, self, "closed", True)
                    stack.callback(self.execution.close)
                    for dylib in self.dylibs:
                        stack.callback(dylib.close)

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


class Dylib:
    """Inputs that are linked together, and what they define.

    Attributes: session, name, closed, residence (where its code is), debug_sections (relocated, of each
    input by name, where asked for), code_names (what the addresses of each link belong to).
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self.closed = False
        self.residence = session.execution.residence(session.symbolize)
        self._against: list[Resolver] = [self.outside]
        self._waiting = Waiting(session.target)
        self._linked: list[Definitions] = []
        self._finalisers: list[int] = []
        self._helper: Dylib | None = None
        self._code: list[range] = []
        # Made when code of another calling convention is linked.
        self.conventions: Conventions | None = None
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
        relax: bool | None = None,
        passes: Mapping[str, Sequence[UserPass]] | None = None,
        trace: Trace | None = None,
    ) -> Dylib:
        """Add inputs: paths, bytes or link graphs of objects, archives, LLVM IR.

        whole_archive: take all members of archives, and not only those that are needed. dead_strip: drop
        what no export needs; by default for members that are taken from archives. exports: the names
        that can be looked up, all of default visibility if None. copy_data: variables of libraries that
        are copied into the dylib, for code that reaches for them with 32 bits. debug: read and relocate
        the debug sections too, which are then in debug_sections. relax: rewrite GOT loads of what is near,
        and make code shorter where its compiler has marked it for that (RISC-V); so it is done by default.
        passes: functions that are called with the link graph, by stage (see jitlink.linker.STAGES).
        trace: called with the name and the seconds of each step of the link.

        The keywords hold for the next link, with all that was added until then. Raises InputError;
        then nothing was added.
        """
        with self.session.lock:
            self._require_open()
            self._waiting.add(
                sources,
                whole_archive=whole_archive,
                dead_strip=dead_strip,
                exports=exports,
                copy_data=copy_data,
                debug=debug,
                relax=relax,
                passes=passes,
                trace=trace,
            )
        return self

    def link_against(self, *resolvers: Resolver | Mapping[str, Any] | Callable[[str], Any]) -> Dylib:
        """Say where symbols come from that the dylib does not define, in order of search.

        resolvers: dylibs, process(), shared libraries, mappings from name to address, callables from
        name to address or None. Until the first call it is `outside`; a call replaces that.
        """
        with self.session.lock:
            self._require_open()
            self._against = [self.residence.resolver(each) for each in resolvers]
        return self

    @property
    def resolvers(self) -> list[Resolver]:
        """What the dylib is linked against, in order of search."""
        return list(self._against)

    @property
    def outside(self) -> Resolver:
        """The process, or the C library of the emulated CPU that the code runs in."""
        return self.residence.outside()

    # Linking

    def link(self, *wanted: str) -> None:
        """Link what was added, with the archive members that define wanted or that others ask for.

        Raises LinkFailure; then nothing is mapped and what was added still waits.
        """
        with self.session.lock:
            self._require_open()
            with returning_members(self._waiting.libraries):
                graphs = self._waiting.take(wanted, self._own_names)
                if graphs:
                    self._link(join(graphs) if len(graphs) > 1 else graphs[0])

    def _own_names(self) -> set[bytes]:
        """The names that this dylib has defined, hidden ones too."""
        return {name for definitions in self._linked for name in definitions.names()}

    def _link(self, graph: LinkGraph) -> None:
        try:
            self.residence.begin(graph)
            options = replace(self._waiting.options, crossing=self._crossing(graph))
            linked = link(graph, self, self.residence, options, self.residence.storage(self._find_variable))
            chain = unwind_chain(linked)
            self.residence.place(linked)
        except BaseException:
            self.residence.give_up()
            raise
        code = linked.code()
        self._code += code
        if self.conventions is not None and linked.graph.format == "coff":
            self.conventions.placed(code)
        definitions = linked.definitions()
        self._linked.append(definitions)
        self._waiting.linked()
        self.debug_sections |= linked.debug_sections
        self.code_names.append(CodeNames(linked.graph, linked.base, linked.layout.size, linked.debug_sections))
        self._finalisers = linked.cycle.finalisers + self._finalisers
        # Initialisers may throw, and a debugger may want to stop in them.
        if self.session.execution.in_process:
            self.session.unwinding.add(self, chain, definitions, self._against)
        for observer in self.session.observers:
            observer.add(self, linked, chain)
        self.residence.run_initialisers(self._callable(linked.cycle.initialisers))

    def _crossing(self, graph: LinkGraph) -> FindCrossing | None:
        """How the code of a graph calls functions outside that follow another convention; None if all are alike."""
        if not self.session.execution.in_process:
            return None
        if graph.format == "coff" and self.conventions is None:
            from jitlink.runtime.conventions import Conventions, applies

            self.conventions = Conventions(self) if applies(self.session.target.name) else None
        if self.conventions is not None:
            self.conventions.active = graph.format == "coff"
        if graph.format == "coff":
            return None if self.conventions is None else self.conventions.crossing
        others = any(isinstance(getattr(each, "inner", each), Dylib) for each in self._against)
        if self.conventions is None and not others:
            return None
        from jitlink.runtime.conventions import crossing_into_microsoft

        return partial(crossing_into_microsoft, self)

    def _callable(self, functions: list[int]) -> list[int]:
        """Where functions without arguments can be called from here."""
        return functions if self.conventions is None else self.conventions.callable(functions)

    # What a link sees of the world (jitlink.linker.Surroundings)

    def address_of(self, name: str) -> int | None:
        """The address of a name: in this dylib, or in what it is linked against; None if nowhere."""
        own = self.own_address_of(name)
        if own is not None:
            return own
        for resolver in self._against:
            if isinstance(resolver, Dylib):
                address = resolver.exported_address_of(name)
            elif (address := resolver.address_of(name)) is not None:
                self.residence.refuse_variable(resolver, name, address)
            if address is not None:
                return address
        found = self.residence.own_name(name)
        return found if found is not None or self.conventions is None else self.conventions.own_name(name)

    def own_address_of(self, name: str) -> int | None:
        """The address of a name that this dylib has defined, hidden or not; None if it has not."""
        found = self._find_own(name)
        return self._address(name, *found) if found else None

    def _find_own(self, name: str) -> tuple[Definitions, int] | None:
        raw = name.encode(errors="surrogateescape")
        rows = ((definitions, definitions.find(raw, inside=True)) for definitions in self._linked)
        return next(((definitions, row) for definitions, row in rows if row is not None), None)

    def _address(self, name: str, definitions: Definitions, row: int) -> int:
        """The one address of a symbol. Raises LinkFailure for a thread-local, which has one in each thread."""
        if definitions.variable(row) is not None:
            raise LinkFailure(f"{escaped(name)} of {self!r} is thread-local, and not where it is referred to")
        return int(definitions.address[row])

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
        return self._address(name, *found) if found else None

    def _find_variable(self, name: str, inside: bool) -> Variable | None:
        """The thread-local variable of a name, in this dylib or what it is linked against; None if nowhere.

        inside: only in this dylib. Raises LinkFailure where the name is something else.
        """
        found = self._find_own(name)
        if found is not None:
            return self._variable(name, *found)
        for resolver in () if inside else self._against:
            if isinstance(resolver, Dylib):
                found = resolver._find(name)
                variable = resolver._variable(name, *found) if found else None
            else:
                variable = self.residence.variable_of(resolver, name)
            if variable is not None:
                return variable
        return None

    def _variable(self, name: str, definitions: Definitions, row: int) -> Variable:
        variable = definitions.variable(row)
        if variable is None:
            raise LinkFailure(f"{escaped(name)} of {self!r} is not thread-local")
        return variable

    def is_function(self, address: int) -> bool:
        """Whether a function of some library starts at an address outside of the link."""
        return self.residence.is_function(address)

    def datum(self, address: int) -> bytes | None:
        """The bytes of the variable at an address outside of the link."""
        return self.residence.datum(address)

    # Lookup

    def __getitem__(self, name: str) -> Symbol:
        """Look up a symbol that the dylib exports, and link what it needs. Raises SymbolNotFound."""
        found = self._find(name)
        if found is None:
            raise SymbolNotFound(name, f"dylib {self.name!r}")
        definitions, row = found
        variable = definitions.variable(row)
        address = int(definitions.address[row]) if variable is None else self.residence.address_of_variable(variable)
        return self.residence.symbol(self, name, address, int(definitions.size[row]))

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def _find(self, name: str) -> tuple[Definitions, int] | None:
        with self.session.lock:
            self._require_open()
            if self._waiting:
                self.link()
            found = self._find_linked(name)
            if found is None and self._waiting.libraries and self._waiting.exports(name):
                self.link(name)
                found = self._find_linked(name)
            return found

    def _find_linked(self, name: str) -> tuple[Definitions, int] | None:
        if not self._waiting.exports(name):
            return None
        raw = name.encode(errors="surrogateescape")
        for definitions in self._linked:
            row = definitions.find(raw)
            if row is not None:
                return definitions, row
        return None

    def symbols(self) -> Iterator[str]:
        """The names that are linked and exported."""
        for definitions in self._linked:
            for name in definitions.exported_names():
                text = name.decode(errors="surrogateescape")
                if self._waiting.exports(text):
                    yield text

    def available(self) -> Iterator[str]:
        """The names that are exported, and those that archives would give if they were asked for."""
        yield from self.symbols()
        for inputs in self._waiting.libraries:
            for library in inputs.libraries:
                for name in library.index(self.session.target):
                    text = name.decode(errors="surrogateescape")
                    if self._waiting.exports(text):
                        yield text

    @property
    def library(self) -> Library:
        """The dylib as a library whose functions are called by name."""
        return self.residence.library(self)

    def helper(self) -> Dylib:
        """A dylib for code that we put between this one and its callers; it is closed with it."""
        if self._helper is None:
            self._helper = Dylib(self.session, f"{self.name} (calls)")
        return self._helper

    # The end

    def finalise(self) -> None:
        """Run atexit handlers and finalisers, once."""
        finalisers, self._finalisers = self._callable(self._finalisers), []
        if self.conventions is not None:
            finalisers = self.conventions.exit_handlers() + finalisers
        self.residence.run_finalisers(self.own_address_of(DSO_HANDLE), finalisers)

    def close(self) -> None:
        """Run the finalisers, unmap everything, and make all handles raise; a second call does nothing."""
        with self.session.lock:
            if self.closed:
                return
            try:
                self.finalise()
            finally:
                self.closed = True
                if self._helper is not None:
                    self._helper.close()
                for observer in self.session.observers:
                    observer.remove(self)
                self.residence.when_idle(self._unmap, self.session.lock)
                self._linked.clear()
                self.code_names.clear()
                self._waiting.clear()
                self.session.forget(self)

    def _unmap(self) -> None:
        """Let go of the code, which no thread is in."""
        self.session.unwinding.remove(self)
        self.residence.release()

    def _require_open(self) -> None:
        if self.closed:
            raise ClosedError(f"dylib {self.name!r} is closed")

    def __repr__(self) -> str:
        return f"<dylib {self.name!r}{', closed' if self.closed else ''}>"
