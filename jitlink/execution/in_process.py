"""Code of this process: its memory, its symbols, its calls."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jitlink.arches.architecture import Architecture
from jitlink.errors import LinkFailure, UnsupportedInput
from jitlink.escaping import escaped
from jitlink.execution.residence import FindVariable, Locate
from jitlink.execution.thread_exits import ThreadExits, unmap_idle, unmap_when_idle
from jitlink.graph import LinkGraph
from jitlink.handles import Symbol
from jitlink.library import Library
from jitlink.linker import Linked
from jitlink.memory import Policy
from jitlink.passes.thread_storage import Variable
from jitlink.placement import Images
from jitlink.resolvers import Process, Resolver, SharedLibrary, as_resolver, datum, is_function, process
from jitlink.runtime.thread_locals import (
    GET_ADDRESS,
    LoaderStorage,
    address_in_this_thread,
    get_address_function,
    is_variable,
    variable_at,
)

INITIALISER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
FINALISER = ctypes.CFUNCTYPE(None)
SYSTEM_OF_FORMAT = {"macho": "darwin", "coff": "win32"}
"""Where objects of a format are at home, as sys.platform names it."""


@dataclass(frozen=True)
class InProcess:
    """This process as the place where code runs."""

    target: Architecture
    memory: Policy
    lock: threading.RLock = field(default_factory=threading.RLock)
    in_process = True

    def residence(self, locate: Locate) -> Home:
        """Make the residence of a dylib; what goes wrong in it ends the process, so locate is of no use."""
        return Home(self.memory, self.target)

    def close(self) -> None:
        """There is nothing beside the residences."""


def refuse_other_convention(machine: str, format: str, system: str) -> None:
    """Refuse objects of Apple and Microsoft for AArch64 in a process of another system. Raises UnsupportedInput.

    Both pass variable arguments otherwise than AAPCS64 (on the stack; floating ones in general registers), Apple
    packs what lies on the stack, and Microsoft keeps x18 for itself. On x86-64 Apple follows System V, and calls from
    and to Microsoft's code are bridged (jitlink.runtime.conventions).
    """
    home = SYSTEM_OF_FORMAT.get(format, system)
    if machine == "aarch64" and home != system:
        owner = {"darwin": "Apple", "win32": "Microsoft"}[home]
        raise UnsupportedInput(
            f"{owner}'s calling convention for AArch64 is not that of this process",
            hint="Run the code in the emulated CPU, with emulate=True",
        )


class Home(Images):
    """The residence of a dylib in this process."""

    def __init__(self, policy: Policy, target: Architecture) -> None:
        super().__init__(policy)
        self._target = target
        self._storage: LoaderStorage | None = None
        self._exits = ThreadExits(target)
        unmap_idle()

    def begin(self, graph: LinkGraph) -> None:
        """Refuse code that calls by another convention than this process does. Raises UnsupportedInput."""
        refuse_other_convention(self._target.name, graph.format, sys.platform)

    def outside(self) -> Resolver:
        """The process: its program and the libraries that are loaded for all to see."""
        return process()

    def resolver(self, given: Resolver | Mapping[str, Any] | Callable[[str], Any]) -> Resolver:
        """Make a resolver of what the caller gave. Raises TypeError."""
        return as_resolver(given)

    def storage(self, find: FindVariable) -> LoaderStorage:
        """The dynamic loader."""
        if self._storage is None:
            self._storage = LoaderStorage(self._target, find)
        return self._storage

    def variable_of(self, resolver: Resolver, name: str) -> Variable | None:
        """The thread-local variable that a library or the process has under a name, or None. Raises LinkFailure."""
        address = resolver.address_of(name)
        variable = None if address is None else variable_at(self._target, address)
        if address is not None and variable is None:
            raise LinkFailure(f"{escaped(name)} of {resolver!r} is not thread-local")
        return variable

    def refuse_variable(self, resolver: Resolver, name: str, address: int) -> None:
        """Raise LinkFailure if what a library has under a name is thread-local, and asked for as if it were not."""
        if isinstance(resolver, Process | SharedLibrary) and is_variable(self._target, address):
            raise LinkFailure(f"{escaped(name)} of {resolver!r} is thread-local, and not where it is referred to")

    def address_of_variable(self, variable: Variable) -> int:
        """The address of the calling thread's copy of a thread-local variable."""
        return address_in_this_thread(self._target, variable)

    def own_name(self, name: str) -> int | None:
        """The loader's function that finds thread-locals; what registers the destructors of such objects."""
        return get_address_function() if name == GET_ADDRESS else self._exits.address_of(name)

    def place(self, linked: Linked) -> None:
        """Put a finished image into memory; then the threads' blocks stay too."""
        super().place(linked)
        if self._storage is not None:
            self._storage.keep()

    def give_up(self) -> None:
        """Give back what a link that failed had taken."""
        super().give_up()
        if self._storage is not None:
            self._storage.give_up()

    def when_idle(self, unmap: Callable[[], None], lock: threading.RLock) -> None:
        """Call unmap when no thread has destructors of thread-local objects in the code."""
        unmap_when_idle(self._exits, unmap, lock)

    def release(self) -> None:
        """Unmap everything, and take the blocks from all threads."""
        super().release()
        if self._storage is not None:
            self._storage.release()

    def is_function(self, address: int) -> bool:
        """Whether a function of some library starts at an address."""
        return is_function(address)

    def datum(self, address: int) -> bytes | None:
        """The bytes of the variable of some library at an address, or None."""
        return datum(address)

    def run_initialisers(self, functions: Sequence[int]) -> None:
        """Call initialisers as glibc does, with the arguments of main."""
        if not functions:
            return
        argv = _arguments_of_main()
        environment = ctypes.c_void_p.in_dll(ctypes.pythonapi, "environ").value
        for function in functions:
            INITIALISER(function)(len(argv) - 1, ctypes.addressof(argv), environment)

    def run_finalisers(self, dso_handle: int | None, functions: Sequence[int]) -> None:
        """Run the calling thread's destructors of thread-locals, then atexit handlers, then finalisers."""
        self._exits.finish_thread()
        if dso_handle is not None:
            _cxa_finalize(dso_handle)
        for function in functions:
            FINALISER(function)()

    def symbol(self, owner: Any, name: str, address: int, size: int) -> Symbol:
        """A handle on a symbol."""
        return Symbol(owner, name, address, size)

    def library(self, owner: Any, *, owns_session: bool = False) -> Library:
        """The functions of a dylib by name."""
        return Library(owner, owns_session=owns_session)


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
