"""Unwinding: making the frames of linked code known to those who walk the stack.

A C++ exception, a Rust panic, backtrace() and pthread_exit() walk the stack with an **unwinder**, which
looks up the unwind record of each return address. For shared libraries it finds the records through the
dynamic loader; those of linked code have to be registered, before the code runs and until it is unmapped.

Which unwinder that is depends on who throws. The one of GCC (libgcc_s.so.1) serves libstdc++, Rust and
glibc; LLVM's libunwind serves libc++, and may be in the process as a library, or be linked by ourselves
from a static libc++. A stack may hold frames for which each of them is asked, so every chain of records
in a session is registered with every unwinder that the session can see. Each takes a whole chain in one
call and looks at it when the first exception is thrown (libgcc before version 13), or at once.

libgcc_s is loaded for the first link that has unwind records, where it is not in the process already: it
takes a third of a millisecond, once, and NumPy's own libraries have mostly done it. Where it does not
exist and no other unwinder is seen, nothing walks the stack and nothing is registered.

Sources: GCC, libgcc/unwind-dw2-fde.c; LLVM, libunwind/src/libunwind.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from jitlink.errors import UnreadableInput
from jitlink.linker import Definitions
from jitlink.resolvers import Process, Resolver, SharedLibrary
from jitlink.runtime.unwind_chain import UnwindChain

GCC_LIBRARY = "libgcc_s.so.1"
GCC_NAMES = "__register_frame", "__deregister_frame"
# libunwind has the names of GCC too, but takes a single FDE there. These exist since LLVM 13.
LLVM_NAMES = "__unw_add_dynamic_eh_frame_section", "__unw_remove_dynamic_eh_frame_section"
LLVM_RAW_NAMES = tuple(name.encode() for name in LLVM_NAMES)
PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@dataclass(frozen=True)
class Unwinder:
    """Somebody who walks the stack: the addresses of the two functions that tell it of a chain of records."""

    register_address: int
    deregister_address: int

    def register(self, chain: int) -> None:
        """Tell it of the chain at an address."""
        PROTOTYPE(self.register_address)(chain)

    def deregister(self, chain: int) -> None:
        """Make it forget a chain that it was told of."""
        PROTOTYPE(self.deregister_address)(chain)


class Unwinding:
    """The chains of a session and the unwinders that know them. Not for two threads at once."""

    def __init__(self) -> None:
        self._chains: dict[object, list[int]] = {}
        self._unwinders: dict[Unwinder, object | None] = {}

    def add(
        self, owner: object, chain: UnwindChain | None, definitions: Definitions, resolvers: Sequence[Resolver]
    ) -> None:
        """Register the chain of a link of owner, and take note of the unwinders that the link can see.

        definitions: what the link defines, perhaps an unwinder; resolvers: what it was linked against.
        """
        rows = [definitions.find(name, inside=True) for name in LLVM_RAW_NAMES]
        linked = _made_of([None if row is None else int(definitions.address[row]) for row in rows])
        if linked is not None:
            self._meet(linked, owner)
        if chain is None:
            return
        gcc = gcc_unwinder()
        for unwinder in [*([gcc] if gcc else []), *llvm_unwinders(resolvers)]:
            if unwinder not in self._unwinders:
                self._meet(unwinder, None)
        for unwinder in self._unwinders:
            for start in chain.starts:
                unwinder.register(start)
        self._chains.setdefault(owner, []).extend(chain.starts)

    def _meet(self, unwinder: Unwinder, owner: object | None) -> None:
        """Note an unwinder, which owner brought if it is linked code, and register with it what there is."""
        self._unwinders[unwinder] = owner
        for starts in self._chains.values():
            for start in starts:
                unwinder.register(start)

    def remove(self, owner: object) -> None:
        """Deregister the chains of an owner, whose memory is about to go, and forget its unwinder."""
        for unwinder in [each for each, brought_by in self._unwinders.items() if brought_by is owner]:
            del self._unwinders[unwinder]
        for start in self._chains.pop(owner, ()):
            for unwinder in self._unwinders:
                unwinder.deregister(start)


@cache
def gcc_unwinder() -> Unwinder | None:
    """The unwinder of GCC, loaded if it is not in the process; None where it does not exist."""
    try:
        library = SharedLibrary(GCC_LIBRARY)
    except UnreadableInput:
        return None
    return _made_of([library.address_of(name) for name in GCC_NAMES])


def llvm_unwinders(resolvers: Iterable[Resolver]) -> list[Unwinder]:
    """LLVM's libunwind, in as many copies as these resolvers know of."""
    libraries = [each for each in resolvers if isinstance(each, Process | SharedLibrary)]
    found = {each.address_of(LLVM_NAMES[0]): each for each in libraries}
    made = [_made_of([each.address_of(name) for name in LLVM_NAMES]) for address, each in found.items() if address]
    return [each for each in made if each is not None]


def _made_of(addresses: Sequence[int | None]) -> Unwinder | None:
    register, deregister = addresses
    return Unwinder(register, deregister) if register and deregister else None
