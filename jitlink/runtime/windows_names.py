"""Functions of Microsoft's C library that this process has not, or has in another way.

Most of what Windows code calls is in the C library of the process, and only called by another convention
(jitlink.runtime.libc_signatures). Written in Python here is what takes functions of the code as arguments
(qsort, bsearch, atexit), what takes a variable number of arguments (the printf and scanf families), and what
only Microsoft's library has: the standard streams by number, and the common core of its printf family.

Source: Microsoft C runtime library reference; its header corecrt_stdio_config.h for the core.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from jitlink.arches.x86_64_conventions import Signature, signature
from jitlink.runtime.windows_formats import arguments_at, printing, scanning, slots_for

WORD = ctypes.c_uint64
TYPES: dict[str, Any] = {"Q": WORD, "q": ctypes.c_int64, "i": ctypes.c_int, "I": ctypes.c_uint, ".": WORD, "v": None}
COMPARE = signature("pp->i")
HANDLER = signature("->v")
END = -1
STREAMS = ("stdin", "stdout", "stderr")
LEGACY_TERMINATION, STANDARD_SNPRINTF = 1, 2
"""Options of the core: what happens where the buffer is too short."""
NO_LIMIT = (1 << 64) - 1

ToHost = Callable[[int, Signature], int]
"""From the address of a function of Windows code to one that this process can call."""


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


@cache
def _function(name: str, kind: str) -> Any:
    """A function of the C library, with its types."""
    wanted = signature(kind)
    function = _libc()[name]
    function.restype = TYPES[wanted.result]
    function.argtypes = [TYPES[letter] for letter in wanted.parameters]
    return function


class WindowsNames:
    """The functions for the code of one dylib.

    Attributes: exit_handlers (addresses that this process can call, in the order of their registration).
    """

    def __init__(self, to_host: ToHost) -> None:
        self.exit_handlers: list[int] = []
        self._to_host = to_host
        self._made: dict[str, tuple[Any, Signature]] = {}

    def find(self, name: str) -> tuple[int, Signature] | None:
        """The address of a function by name, and its signature; None if it is none of these."""
        if name not in self._made:
            kind_and_function = self._function(name)
            if kind_and_function is None:
                return None
            kind, function = kind_and_function
            prototype = ctypes.CFUNCTYPE(TYPES[kind.result], *(TYPES[letter] for letter in kind.parameters))
            self._made[name] = prototype(function), kind
        made, kind = self._made[name]
        return ctypes.cast(made, ctypes.c_void_p).value or 0, kind

    def _function(self, name: str) -> tuple[Signature, Callable[..., Any]] | None:
        if name in PRINTERS:
            kind, make = PRINTERS[name]
            return signature(kind), make
        taken: dict[str, tuple[str, Callable[..., Any]]]
        taken = {"qsort": ("pQQp->v", self._qsort), "bsearch": ("ppQQp->p", self._bsearch)}
        taken |= dict.fromkeys(("atexit", "_onexit", "_crt_atexit"), ("p->i", self._atexit))
        if name in taken:
            return signature(taken[name][0]), taken[name][1]
        return None

    def _qsort(self, base: int, count: int, size: int, compare: int) -> None:
        _function("qsort", "pQQp->v")(base, count, size, self._to_host(compare, COMPARE))

    def _bsearch(self, key: int, base: int, count: int, size: int, compare: int) -> int:
        found: int = _function("bsearch", "ppQQp->p")(key, base, count, size, self._to_host(compare, COMPARE))
        return found

    def _atexit(self, function: int) -> int:
        self.exit_handlers.append(self._to_host(function, HANDLER))
        return 0


def _vfprintf(stream: int, text: int, slots: int) -> int:
    format = printing(ctypes.string_at(text))
    at, kept = slots_for(format, slots)
    arguments = arguments_at(at)
    written: int = _function("vfprintf", "ppp->i")(stream, _address(format.text), ctypes.addressof(arguments))
    del kept
    return written


def _vsnprintf(buffer: int, size: int, text: int, slots: int) -> int:
    format = printing(ctypes.string_at(text))
    at, kept = slots_for(format, slots)
    arguments = arguments_at(at)
    parameters = (buffer, min(size, (1 << 63) - 1), _address(format.text), ctypes.addressof(arguments))
    written: int = _function("vsnprintf", "pQpp->i")(*parameters)
    del kept
    return written


def _old_vsnprintf(buffer: int, size: int, text: int, slots: int) -> int:
    """Microsoft's own: where the buffer is too short it is filled without an end, and the result is negative."""
    written = _vsnprintf(0, 0, text, slots)
    whole = ctypes.create_string_buffer(written + 1)
    _vsnprintf(ctypes.addressof(whole), written + 1, text, slots)
    if buffer and size:
        ctypes.memmove(buffer, whole, min(size, written + 1))
    return written if written <= size else END


def _common_vsprintf(options: int, buffer: int, size: int, text: int, _locale: int, slots: int) -> int:
    if options & STANDARD_SNPRINTF or size == NO_LIMIT or not buffer:
        return _vsnprintf(buffer, size, text, slots)
    if options & LEGACY_TERMINATION:
        return _old_vsnprintf(buffer, size, text, slots)
    written = _vsnprintf(buffer, size, text, slots)
    return written if written < size else END


def _vsscanf(source: int, text: int, slots: int) -> int:
    return _scan("vsscanf", source, text, slots)


def _vfscanf(stream: int, text: int, slots: int) -> int:
    return _scan("vfscanf", stream, text, slots)


def _scan(name: str, source: int, text: int, slots: int) -> int:
    format = scanning(ctypes.string_at(text))
    if format is None:
        return END
    arguments = arguments_at(slots)
    found: int = _function(name, "ppp->i")(source, _address(format), ctypes.addressof(arguments))
    return found


def _address(text: bytes) -> int:
    """The address of a text that others keep: cached formats live long enough."""
    return ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value or 0


def _stream(number: int) -> int:
    """A standard stream by its number."""
    if number >= len(STREAMS):
        return 0
    return WORD.in_dll(_libc(), STREAMS[number]).value


PRINTERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "printf": ("p.->i", lambda text, slots: _vfprintf(_stream(1), text, slots)),
    "vprintf": ("pp->i", lambda text, slots: _vfprintf(_stream(1), text, slots)),
    "fprintf": ("pp.->i", _vfprintf),
    "vfprintf": ("ppp->i", _vfprintf),
    "sprintf": ("pp.->i", lambda buffer, text, slots: _vsnprintf(buffer, NO_LIMIT, text, slots)),
    "vsprintf": ("ppp->i", lambda buffer, text, slots: _vsnprintf(buffer, NO_LIMIT, text, slots)),
    "snprintf": ("pQp.->i", _vsnprintf),
    "vsnprintf": ("pQpp->i", _vsnprintf),
    "_snprintf": ("pQp.->i", _old_vsnprintf),
    "_vsnprintf": ("pQpp->i", _old_vsnprintf),
    "scanf": ("p.->i", lambda text, slots: _vfscanf(_stream(0), text, slots)),
    "fscanf": ("pp.->i", _vfscanf),
    "sscanf": ("pp.->i", _vsscanf),
    "vsscanf": ("ppp->i", _vsscanf),
    "vfscanf": ("ppp->i", _vfscanf),
    "__acrt_iob_func": ("I->p", _stream),
    "__stdio_common_vfprintf": (
        "Qpppp->i",
        lambda options, stream, text, locale, slots: _vfprintf(stream, text, slots),
    ),
    "__stdio_common_vsprintf": ("QpQppp->i", _common_vsprintf),
    "__stdio_common_vsscanf": (
        "QpQppp->i",
        lambda options, source, size, text, locale, slots: _vsscanf(source, text, slots),
    ),
    "__stdio_common_vfscanf": (
        "Qpppp->i",
        lambda options, stream, text, locale, slots: _vfscanf(stream, text, slots),
    ),
}
"""Functions by name, with their signatures."""
