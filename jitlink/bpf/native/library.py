"""The library of helpers in machine code: compiled once on a machine, kept on disk, linked once in a process.

It is loaded when a program first calls one of its helpers. Its code is for any processor of the architecture, so
that nothing but the source of the helpers decides what is kept, and LLVM is not even loaded where something is.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping
from inspect import getsource
from threading import Lock
from typing import Any

from jitlink.bpf.helpers.randomness import SharedRandom
from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.bpf.llvm_tier.images import load_functions
from jitlink.bpf.native import (
    dialect,
    helper_functions,
    layout,
    map_functions,
    ring_functions,
    sequences,
    translator,
)
from jitlink.errors import MissingExtra
from jitlink.llvm import compile_ir
from jitlink.memory import Reservation

SOURCES = (sequences, map_functions, ring_functions, helper_functions)
_U64, _I64, _POINTER = ctypes.c_uint64, ctypes.c_int64, ctypes.c_void_p
TRUSTED = "_trusted"
"""At the end of the name of a helper that checks nothing."""


class Library:
    """The library, linked. Its methods are those of jitlink.bpf.maps.base.Engine, which they carry out.

    Attributes: addresses (of all functions, by name).
    """

    def __init__(self, addresses: Mapping[str, int], pages: Reservation) -> None:
        self.addresses = addresses
        self._pages = pages
        self.find = self._function("find_entry", _I64, _U64, _POINTER)
        self.lookup = self._function("lookup_in_hash", _U64, _U64, _POINTER, _U64)
        self.update = self._function("update_hash", _I64, _U64, _POINTER, _POINTER, _U64, _U64, _U64, _U64)
        self.delete = self._function("delete_from_hash", _I64, _U64, _POINTER)
        self.copy = self._function("copy_from_hash", _I64, _U64, _POINTER, _POINTER, _U64)
        self.keys = self._function("copy_keys", _I64, _U64, _U64, _U64, _POINTER)
        self.append = self._function("append_to_ring", _I64, _U64, _U64)
        self.next_random = self._function("next_random", _U64, _POINTER)

    def _function(self, name: str, result: Any, *parameters: Any) -> Callable[..., int]:
        """A function of the library; calling it lets go of Python's lock."""
        return ctypes.CFUNCTYPE(result, *parameters)(self.addresses[name])

    def helper(self, name: str, *, checked: bool) -> int:
        """The address of a helper. checked: the one that looks at the pointers it is given."""
        address = None if checked else self.addresses.get(name + TRUSTED)
        return address or self.addresses[name]


_LOADED: list[Library | None] = []
_LOADING = Lock()


def library(*, keeps: bool) -> Library | None:
    """Load the library, once in a process; None where it is not on disk and there is no LLVM to compile it.

    keeps: its object may be read from disk, and written there.
    """
    with _LOADING:
        if not _LOADED:
            _LOADED.append(_load(keeps))
        return _LOADED[0]


def _load(keeps: bool) -> Library | None:
    machine = platform.machine()
    try:
        content = _object(machine, ObjectCache() if keeps else None)
    except (MissingExtra, OSError):
        return None
    outside = outside_addresses("sched_yield", "clock_gettime")
    names = [name for module in SOURCES for name in translator.exported_names(module)]
    made = Library(*load_functions(content, dict(zip(names, names, strict=True)), outside))
    SharedRandom.step = made.next_random
    return made


def outside_addresses(*names: str) -> dict[str, int]:
    """The addresses of functions of C, by their names."""
    process = ctypes.CDLL(None)
    return {name: ctypes.cast(getattr(process, name), ctypes.c_void_p).value or 0 for name in names}


def _object(machine: str, kept: ObjectCache | None) -> bytes:
    """The object of the library: what was kept, or what LLVM makes now."""
    key = ""
    if kept is not None:
        key = kept.key([machine, *map(getsource, (*SOURCES, dialect, translator)), repr(_constants())])
        found = kept.get(key)
        if found is not None:
            return found
    made = compile_ir(translator.translate(SOURCES, machine).encode(), "native helpers", triple=_triple())
    if kept is not None:
        kept.put(key, made)
    return made


def _constants() -> list[tuple[str, int]]:
    """The numbers that the sources take from other modules."""
    return sorted((name, int(value)) for name, value in vars(layout).items() if isinstance(value, int))


def _triple() -> str:
    """The name of this machine for LLVM. Raises MissingExtra."""
    try:
        from llvmlite import binding
    except ImportError as error:
        raise MissingExtra("llvmlite", "llvm", "helpers of BPF programs in machine code") from error
    triple: str = binding.get_default_triple()
    return triple
