"""Destructors of thread-local objects: they run when their thread ends, and their code stays until then.

A dylib may be closed while other threads have objects of it whose destructors are still to run. A thread
that closes a dylib runs its own destructors at once, newest first. Where other threads have some, the dylib
is closed for everybody who looks at it, its finalisers have run, but its code stays in memory until the
last of those threads has ended; then the next dylib that is opened or closed takes it away.

What registers and runs the destructors is machine code (arches/x86_64_thread_exit.py), linked once for the
process. On machines that have no such code the C library's own function is used, which knows nothing of
dylibs.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from jitlink.arches import architecture
from jitlink.arches.architecture import Architecture
from jitlink.arches.thread_locals import AT_THREAD_EXIT, COUNTER, FINISH_THREAD, NEWEST_EXIT
from jitlink.graph import LinkGraph, Purpose, SymbolKind
from jitlink.linker import Options, link
from jitlink.passes.thread_storage import Variable
from jitlink.placement import Images
from jitlink.protection import Protection
from jitlink.resolvers import process
from jitlink.runtime.thread_locals import GET_ADDRESS, LoaderStorage, get_address_function

REGISTER = "__cxa_thread_atexit_impl"
FINISH = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class ThreadExits:
    """The destructors of a dylib's thread-local objects."""

    def __init__(self, target: Architecture) -> None:
        self._target = target
        self._counter: Any = None

    def address_of(self, name: str) -> int | None:
        """The address of a name that the dylib's own __cxa_thread_atexit refers to, or None."""
        if name not in (AT_THREAD_EXIT, COUNTER):
            return None
        code = _code(self._target.name)
        if code is None:
            return None
        if self._counter is None:
            self._counter = ctypes.c_int64(0)
        return code.register if name == AT_THREAD_EXIT else ctypes.addressof(self._counter)

    def finish_thread(self) -> None:
        """Run the destructors that the calling thread has registered, newest first."""
        code = _code(self._target.name) if self.pending else None
        if code is not None:
            FINISH(code.finish)(ctypes.addressof(self._counter))

    @property
    def pending(self) -> bool:
        """Whether any thread has destructors to run."""
        return self._counter is not None and self._counter.value > 0


@dataclass(frozen=True)
class _Code:
    """Addresses of the functions, and their memory, which stays for good."""

    register: int
    finish: int
    images: Images
    storage: LoaderStorage


@cache
def _code(machine: str) -> _Code | None:
    """Link the functions; None where there are none for this machine, or the C library calls no destructors."""
    target = architecture(machine)
    rules = target.thread_locals
    if rules is None or not rules.exit_code or process().address_of(REGISTER) is None:
        return None
    graph = LinkGraph(target, name="(thread exits)")
    text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
    storage_section = graph.add_section(".tbss", Protection.READ, purpose=Purpose.TLS)
    symbols = {
        NEWEST_EXIT: graph.add_symbol(
            NEWEST_EXIT, graph.add_block(storage_section, 8, alignment=8), kind=SymbolKind.TLS
        )
    }
    for name, routine in rules.exit_code.items():
        symbols[name] = graph.add_symbol(name, graph.add_block(text, routine.content), kind=SymbolKind.FUNCTION)
    for name, routine in rules.exit_code.items():
        block = int(graph.symbols.block[symbols[name]])
        for offset, kind, target_name, addend in routine.edges:
            if target_name not in symbols:
                symbols[target_name] = graph.add_symbol(target_name)
            graph.add_edge(block, offset, kind, symbols[target_name], addend)
    images, storage = Images("auto"), LoaderStorage(target, _nothing_outside)
    linked = link(graph, _Process(), images, Options(), storage)
    images.place(linked)
    storage.keep()
    definitions = linked.definitions()
    register, finish = (definitions.find(name.encode()) or 0 for name in (AT_THREAD_EXIT, FINISH_THREAD))
    return _Code(int(definitions.address[register]), int(definitions.address[finish]), images, storage)


def _nothing_outside(name: str, inside: bool) -> Variable | None:
    return None


class _Process:
    """What the functions see of the world: the C library."""

    def address_of(self, name: str) -> int | None:
        """The address of a function of the C library, or of the loader's, which not every lookup finds."""
        return get_address_function() if name == GET_ADDRESS else process().address_of(name)

    def own_address_of(self, name: str) -> int | None:
        """Nothing was linked before."""
        return None

    def hidden_address_of(self, name: str) -> int | None:
        """Nothing is hidden."""
        return None

    def is_function(self, address: int) -> bool:
        """All that the functions refer to is."""
        return True

    def datum(self, address: int) -> bytes | None:
        """The functions refer to no data."""
        return None


@dataclass(frozen=True)
class _Lingering:
    """Closed code that threads still have destructors in."""

    exits: ThreadExits
    unmap: Callable[[], None]
    lock: threading.RLock


_lingering: list[_Lingering] = []
_changing = threading.Lock()


def unmap_when_idle(exits: ThreadExits, unmap: Callable[[], None], lock: threading.RLock) -> None:
    """Unmap code when no thread has destructors in it any more: now, or when a later call finds that to be so.

    lock: to be held while unmap runs, as it is now.
    """
    unmap_idle()
    with _changing:
        # Code that lingers may call that of dylibs of its session which are closed after it.
        lingers = exits.pending or any(each.lock is lock for each in _lingering)
        if lingers:
            _lingering.append(_Lingering(exits, unmap, lock))
    if not lingers:
        unmap()


def unmap_idle() -> None:
    """Unmap the closed code whose threads have ended by now."""
    if not _lingering:
        return
    with _changing:
        needed: list[threading.RLock] = []
        for each in list(_lingering):
            # Another session that is busy just now is left for the next time: two might wait for each other.
            if each.exits.pending or each.lock in needed or not each.lock.acquire(blocking=False):
                needed.append(each.lock)
                continue
            try:
                _lingering.remove(each)
                each.unmap()
            finally:
                each.lock.release()
