"""C++ names: which symbols a name means that somebody writes as in the source.

The Itanium ABI writes every identifier of a name as its length and its letters: in `_ZN2ns5twiceEi` one
sees `5twice`. So the symbols that may be meant are found by a search for that text, and only these few are
demangled, by `__cxa_demangle` of a C++ library: the one that the code itself is linked with, or libstdc++.

A name may be given as deep as one likes: `f`, `ns::f`, `ns::f(int)`, `ns::twice<int>`. Without a parameter
list it means all overloads.

Source: Itanium C++ ABI 5.1 (External Names), and 3.4 (Demangler API).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable
from functools import cache

from jitlink.errors import UnreadableInput, UsageError
from jitlink.resolvers import shared_library

FUNCTION = "__cxa_demangle"
GCC_LIBRARY = "libstdc++.so.6"
PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
LONGEST = 1 << 16
"""Bytes of a mangled name that are given to the demangler: what it makes of one may be far longer."""
LAST_IDENTIFIER = re.compile(r"([A-Za-z_]\w*)\s*$")

Find = Callable[[str], int | None]


class Demangler:
    """Turns symbols of C++ into names. Raises UsageError where there is no C++ library that could."""

    def __init__(self, find: Find) -> None:
        """find: the address of a name for the code in question, or None."""
        address = find(FUNCTION) or _from_gcc()
        if not address:
            raise UsageError(f"names of C++ need {FUNCTION}: install libstdc++, or link against a C++ library")
        self._function = PROTOTYPE(address)
        self._known: dict[str, str] = {}

    def demangle(self, symbol: str) -> str:
        """The name that a symbol, or the name of a type, stands for; itself if it is none of C++."""
        known = self._known.get(symbol)
        if known is None:
            known = self._known[symbol] = self._demangled(symbol)
        return known

    def _demangled(self, symbol: str) -> str:
        raw = symbol.encode(errors="surrogateescape")
        status = ctypes.c_int()
        made = self._function(raw, None, None, ctypes.addressof(status)) if len(raw) < LONGEST else None
        if not made:
            return symbol
        try:
            return ctypes.string_at(made).decode(errors="replace")
        finally:
            _free(made)


def candidates(name: str, symbols: Iterable[str]) -> list[str]:
    """The symbols of C++ that may be meant by a name, as seen without demangling them."""
    found = LAST_IDENTIFIER.search(base_of(name).partition("<")[0])
    # Operators and conversions have no identifier: then all may be.
    part = f"{len(found[1])}{found[1]}" if found and "operator" not in name else ""
    return [symbol for symbol in symbols if symbol.startswith("_Z") and part in symbol]


def means(wanted: str, demangled: str) -> bool:
    """Whether a name, as somebody writes it, means a function of this demangled name."""
    if _spaceless(wanted) == _spaceless(demangled):
        return True
    base = base_of(demangled)
    if "(" in wanted and "operator" not in wanted:
        # The demangler gives the result type of templates too.
        return _spaceless(demangled).endswith(_spaceless(wanted)) and _spaceless(base_of(wanted)) in (
            _spaceless(base),
            _spaceless(without_arguments(base)),
        )
    return _spaceless(wanted) in (_spaceless(base), _spaceless(without_arguments(base)))


def base_of(demangled: str) -> str:
    """A demangled name without result type and parameter list: ns::twice<int> of int ns::twice<int>(int)."""
    end = _parameters_at(demangled)
    name = demangled[:end]
    depth = 0
    for at in range(len(name) - 1, -1, -1):
        depth += (name[at] in ">)") - (name[at] in "<(")
        if name[at] == " " and depth == 0 and "operator" not in name[:at].rpartition("::")[2]:
            return name[at + 1 :]
    return name


def _parameters_at(demangled: str) -> int:
    """Where the parameter list starts: the last parenthesis that no other encloses."""
    text = demangled
    for suffix in (" const", " volatile", " &", " &&", " noexcept"):
        text = text.removesuffix(suffix)
    depth = 0
    if text.endswith(")"):
        for at in range(len(text) - 1, -1, -1):
            depth += (text[at] == ")") - (text[at] == "(")
            if depth == 0:
                return at
    return len(text)


def without_arguments(name: str) -> str:
    """A name without the template arguments at its end."""
    if name.endswith(">") and "operator" not in name:
        depth = 0
        for at in range(len(name) - 1, -1, -1):
            depth += (name[at] == ">") - (name[at] == "<")
            if depth == 0:
                return name[:at]
    return name


def _spaceless(name: str) -> str:
    return name.replace(" ", "")


@cache
def _from_gcc() -> int | None:
    try:
        return shared_library(GCC_LIBRARY).address_of(FUNCTION)
    except UnreadableInput:
        return None


def _free(address: int) -> None:
    function = ctypes.pythonapi.free
    function.argtypes, function.restype = (ctypes.c_void_p,), None
    function(address)
