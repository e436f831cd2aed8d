"""Entries: how CPython calls functions of plain numbers and text without cffi.

Most functions that are called often take and give numbers. For these a function of CPython's own calling
convention is linked, which takes about half the time of a call through cffi or ctypes (see
jitlink.arches.x86_64_entry). It is asked first; where it says NotImplemented, since an argument is not
exactly an int, a float, a bool or bytes in range, the call goes the longer way, on which all is checked and
converted.

Only for CPython builds whose objects have the usual head of 16 bytes; elsewhere there is no entry, and
all calls go the longer way.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from importlib import import_module
from typing import Any

from jitlink.calls.c_types import CType, Enumeration, Function, Number, Void
from jitlink.calls.results import is_text

ENTRIES = {"x86_64": "jitlink.arches.x86_64_entry"}
"""The module with the code of each machine."""
METH_FASTCALL = 0x80
USUAL_OBJECT, USUAL_FLOAT = 16, 24


class MethodDefinition(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def entry_routines(machine: str, kind: Function) -> Any:
    """The entry of a function as routines (see python_entry); None for a function that gets none."""
    usual = object.__basicsize__ == USUAL_OBJECT and float.__basicsize__ == USUAL_FLOAT
    if machine not in ENTRIES or not usual or platform.python_implementation() != "CPython":
        return None
    module: Any = import_module(ENTRIES[machine])
    parameters = [_value_of(each, module.Value) for _, each in kind.parameters]
    is_void = isinstance(kind.result.plain, Void)
    result = module.Value("void", 0) if is_void else _value_of(kind.result, module.Value)
    if None in parameters or result is None or not module.can_enter(parameters, result):
        return None
    return module.python_entry(parameters, result)


def _value_of(kind: CType, value: Callable[[str, int], Any]) -> Any:
    """What the entry has to know of a parameter or a result; None for a type that takes the longer way."""
    plain = kind.plain
    if isinstance(plain, Enumeration):
        plain = plain.number
    if is_text(kind):
        return value("text", 8)
    if not isinstance(plain, Number):
        return None
    if plain.sort in ("signed", "unsigned"):
        return value(plain.sort, plain.width)
    if (plain.sort == "bool" and plain.width == 1) or (plain.sort == "float" and plain.width in (4, 8)):
        return value(plain.sort, plain.width)
    return None


def builtin_at(name: str, address: int) -> Callable[..., Any]:
    """Make the CPython function whose code is at an address, with the flag METH_FASTCALL."""
    definition = MethodDefinition(name.encode(errors="replace"), address, METH_FASTCALL, None)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    # CPython looks at the definition as long as the function lives, and keeps the second argument as long.
    made: Callable[..., Any] = make(ctypes.addressof(definition), definition, None)
    return made
