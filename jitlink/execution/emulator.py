"""An emulated CPU as the place where the code of a session runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jitlink.arches.architecture import Architecture
from jitlink.errors import LinkFailure, UsageError
from jitlink.escaping import escaped
from jitlink.execution.address_space import PAGE
from jitlink.execution.c_types import INT, POINTER, VOID
from jitlink.execution.calls import Value, call
from jitlink.execution.conventions import Convention, convention_of, float_abi
from jitlink.execution.handles import EmulatedFunction, EmulatedLibrary, EmulatedSymbol
from jitlink.execution.libc import CLibrary
from jitlink.execution.machine import Machine
from jitlink.execution.memory import Memory
from jitlink.execution.options import Emulation
from jitlink.execution.outside import GivenNames
from jitlink.execution.residence import FindVariable, Locate
from jitlink.execution.signatures import Signature
from jitlink.execution.thread_locals import EmulatedStorage, EmulatedThread
from jitlink.graph import LinkGraph
from jitlink.linker import Linked
from jitlink.passes.needs import Needs
from jitlink.passes.thread_storage import Variable
from jitlink.resolvers import Process, Resolver, SharedLibrary

POINTER_SIZE = 8


class Emulator:
    """One CPU and one memory for all dylibs of a session; the machine is made for the first of them.

    Attributes: target; options; lock (taken around everything that changes or runs the machine).
    """

    in_process = False

    def __init__(self, target: Architecture, options: Emulation) -> None:
        """Prepare to emulate. Raises UnsupportedInput for a target without a CPU, MissingExtra."""
        self.target = target
        self.options = options
        self._machine = Machine(target.name, options, lambda address: self._locate(address))
        self._locate: Locate = lambda address: None
        self.lock = self._machine.lock
        rules = target.thread_locals
        self._thread = EmulatedThread(self._machine, rules) if rules is not None else None

    def residence(self, locate: Locate) -> EmulatedHome:
        """Make the residence of a dylib."""
        self._locate = locate
        return EmulatedHome(self._machine, self.target, self.options, self._thread)

    def close(self) -> None:
        """Let go of the machine and all its memory."""
        self._machine.close()
        self._locate = lambda address: None


class EmulatedHome:
    """The residence of a dylib in an emulated machine.

    Attributes: machine; convention (of the platform that its objects were compiled for; of ELF until
    something is linked).
    """

    page_size = PAGE

    def __init__(
        self, machine: Machine, target: Architecture, options: Emulation, thread: EmulatedThread | None
    ) -> None:
        self.machine = machine
        self.target = target
        self.convention: Convention = convention_of(target.name, "elf")
        self._library = CLibrary(self, options)
        self._images: dict[int, list[int]] = {}
        self._chosen: int | None = None
        self._functions: dict[tuple[Any, ...], int] = {}
        self._thread = thread
        self._storage: EmulatedStorage | None = None

    @property
    def memory(self) -> Memory:
        """The machine's memory."""
        return self.machine.memory

    @property
    def long_size(self) -> int:
        """Bytes of C's long."""
        return self.convention.long_size

    # Where images are (jitlink.linker.Place)

    def begin(self, graph: LinkGraph) -> None:
        """Learn the platform of what is going to be linked. Raises UnsupportedInput, UsageError."""
        convention = convention_of(self.target.name, graph.format, float_abi(graph))
        if self._images and convention != self.convention:
            raise UsageError(f"the dylib has code for {self.convention.name}, and this is for {convention.name}")
        self.convention = convention

    def choose(self, needs: Needs) -> int:
        """Choose the address of an image. Raises MemoryRefused."""
        self._chosen = self.memory.take(needs.size, needs.alignment, below=needs.ceiling)
        return self._chosen

    def place(self, linked: Linked) -> None:
        """Map the segments, fill them, and let IFUNC resolvers choose. A failure leaves nothing mapped."""
        assert self._chosen is not None
        base, self._chosen = self._chosen, None
        mapped = self._images[base] = []
        try:
            for part in linked.layout.segments:
                size = -(-part.size // PAGE) * PAGE
                if size:
                    start = base + part.offset
                    self.memory.map(start, size, part.protection)
                    mapped.append(start)
                    self.memory.write(start, linked.image[part.offset : part.offset + part.filled].tobytes())
            for slot in linked.resolver_slots:
                resolver = int.from_bytes(self.memory.read(slot, POINTER_SIZE), "little")
                self.memory.write(slot, call(self.machine, self.convention, resolver, POINTER, ()))
        except BaseException:
            self._unmap(base)
            raise
        if self._storage is not None:
            self._storage.keep(linked.thread_block)

    def _unmap(self, base: int) -> None:
        for start in self._images.pop(base):
            self.memory.unmap(start)
        self.memory.give_back(base)

    def give_up(self) -> None:
        """Give back the addresses that a link had chosen which failed."""
        if self._chosen is not None:
            self.memory.give_back(self._chosen)
            self._chosen = None
        if self._storage is not None:
            self._storage.give_up()

    def release(self) -> None:
        """Unmap everything."""
        for base in list(self._images):
            self._unmap(base)
        if self._storage is not None:
            self._storage.release()

    def when_idle(self, unmap: Callable[[], None], lock: threading.RLock) -> None:
        """There are no other threads."""
        unmap()

    # What is outside

    def outside(self) -> Resolver:
        """The C library that is written in Python."""
        return self._library

    def resolver(self, given: Resolver | Mapping[str, Any] | Callable[[str], Any]) -> Resolver:
        """Make a resolver of what the caller gave. Raises TypeError, UsageError."""
        if isinstance(given, Process | SharedLibrary):
            raise UsageError(
                f"{given!r} is code of this machine, and emulated code cannot call it: "
                "give its functions as Python functions, by name"
            )
        if isinstance(given, Mapping):
            return GivenNames(given, self)
        if hasattr(given, "address_of"):
            other = getattr(given, "residence", self)
            if getattr(other, "machine", None) is not self.machine:
                raise UsageError(f"{given!r} is not in the same session, so its code is in another machine")
            resolver: Resolver = given
            return resolver
        if callable(given):
            return GivenNames(given, self)
        raise TypeError(f"{given!r} is no resolver: give a dylib, a mapping or a callable")

    def storage(self, find: FindVariable) -> EmulatedStorage | None:
        """The room about the thread pointer of the machine's one thread."""
        if self._storage is None and self._thread is not None:
            self._storage = EmulatedStorage(self._thread, find)
        return self._storage

    def variable_of(self, resolver: Resolver, name: str) -> Variable | None:
        """Nothing outside is thread-local. Raises LinkFailure for what is there under the name."""
        if resolver.address_of(name) is not None:
            raise LinkFailure(f"{escaped(name)} of {resolver!r} is not thread-local")
        return None

    def refuse_variable(self, resolver: Resolver, name: str, address: int) -> None:
        """Nothing outside is thread-local."""

    def address_of_variable(self, variable: Variable) -> int:
        """The address of the one copy of a variable."""
        assert self._thread is not None
        return self._thread.pointer + (variable.from_thread_pointer or 0)

    def own_name(self, name: str) -> int | None:
        """Code needs nothing here that it does not bring."""
        return None

    def is_function(self, address: int) -> bool:
        """Whether a Python function has this address."""
        return self.machine.is_function(address)

    def datum(self, address: int) -> bytes | None:
        """The bytes of what was allocated at an address, such as the C library's variables; None if nothing."""
        return self.memory.allocated_at(address)

    # Functions, in both directions

    def function_address(self, function: Callable[..., Any], signature: Signature) -> int:
        """Give a Python function an address; the same function gets the same one again. Raises MemoryRefused."""
        key = _identity(function), signature, self.convention
        if key not in self._functions:
            convention, machine = self.convention, self.machine
            name = getattr(function, "__name__", "a Python function")
            self._functions[key] = machine.add_function(
                name, lambda: signature.serve(machine, convention, self, function)
            )
        return self._functions[key]

    def function_at(self, address: int, signature: Signature) -> EmulatedFunction:
        """A callable for code at an address that emulated code has given; good as long as the dylib is open."""
        return EmulatedFunction(self, f"the function at {address:#x}", address, signature)

    def call_from_library(self, address: int, *arguments: int) -> int:
        """Call a function of integers and pointers that returns an int, as qsort does."""
        values = [Value(POINTER, (each % (1 << 64)).to_bytes(POINTER_SIZE, "little")) for each in arguments]
        return int.from_bytes(call(self.machine, self.convention, address, INT, values), "little", signed=True)

    def run_initialisers(self, functions: Sequence[int]) -> None:
        """Call initialisers as glibc does: with argc, argv and envp, of which all are empty."""
        if not functions:
            return
        nothing = self.memory.allocate(POINTER_SIZE)
        pointer = nothing.to_bytes(POINTER_SIZE, "little")
        arguments = [Value(INT, bytes(INT.size)), Value(POINTER, pointer), Value(POINTER, pointer)]
        for function in functions:
            call(self.machine, self.convention, function, VOID, arguments)

    def run_finalisers(self, dso_handle: int | None, functions: Sequence[int]) -> None:
        """Run and forget the atexit handlers, last one first, then call finalisers."""
        self._library.run_exit_handlers()
        for function in functions:
            call(self.machine, self.convention, function, VOID, ())

    # What people hold

    def symbol(self, owner: Any, name: str, address: int, size: int) -> EmulatedSymbol:
        """A handle on a symbol."""
        return EmulatedSymbol(owner, name, address, size)

    def library(self, owner: Any, *, owns_session: bool = False) -> EmulatedLibrary:
        """The functions of a dylib by name."""
        return EmulatedLibrary(owner, owns_session=owns_session)


def _identity(function: Callable[..., Any]) -> Any:
    """What tells a function from others: itself, so that a bound method is the same each time, if it can be hashed."""
    try:
        hash(function)
    except TypeError:
        return id(function)
    return function
