"""Signatures of functions from what people write their types in: ctypes, cffi, C declarations.

A signature is what a bridge between calling conventions needs (jitlink.arches.x86_64_conventions). Structures
by value, complex and long double have no place in one: they are refused by name.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

from jitlink.arches.x86_64_conventions import Signature
from jitlink.errors import UnsupportedInput, UsageError

POINTER = "Q"
BY_SIZE = {1: "bB", 2: "hH", 4: "iI", 8: "qQ"}
# The codes of ctypes' simple types that are no integers.
CTYPES_CODES = {
    "f": "f",
    "d": "d",
    "?": "B",
    "c": "B",
    "u": "I",
    "P": POINTER,
    "z": POINTER,
    "Z": POINTER,
    "O": POINTER,
}
FUNCTION_POINTER: Any = ctypes.CFUNCTYPE(None).__mro__[1]
# cffi tells a C long from other integers by its name.
WINDOWS_LONGS = {"long": "l", "unsigned long": "L"}


@cache
def signature_of_ctypes(restype: Any, argtypes: tuple[Any, ...]) -> Signature:
    """The signature of a ctypes function type. Raises UnsupportedInput for types that no register holds."""
    parameters = "".join(letter_of_ctypes(each) for each in argtypes)
    return Signature("v" if restype is None else letter_of_ctypes(restype), parameters)


def letter_of_ctypes(kind: Any) -> str:
    """The letter of a ctypes type."""
    if isinstance(kind, type) and issubclass(kind, ctypes._Pointer | FUNCTION_POINTER):
        return POINTER
    if isinstance(kind, type) and issubclass(kind, ctypes._SimpleCData):
        code = str(kind._type_)  # type: ignore[attr-defined]
        if code in CTYPES_CODES:
            return CTYPES_CODES[code]
        if code != "g":
            unsigned = code.isupper()
            return BY_SIZE[ctypes.sizeof(kind)][unsigned]
    elif hasattr(kind, "from_param") and not issubclass(kind, ctypes.Structure | ctypes.Union | ctypes.Array):
        # Converters such as numpy.ctypeslib.ndpointer give addresses.
        return POINTER
    raise _refused(getattr(kind, "__name__", repr(kind)))


def signature_of_cffi(kind: Any) -> Signature:
    """The signature of a cffi function type (of a pointer or a declared function). Raises UnsupportedInput."""
    if kind.ellipsis:
        hint = "Declare the function without the ellipsis, with the types that you call it with"
        raise UnsupportedInput(f"{kind.cname} is called by another convention, which needs all types", hint=hint)
    return Signature(letter_of_cffi(kind.result), "".join(letter_of_cffi(each) for each in kind.args))


def letter_of_cffi(kind: Any) -> str:
    """The letter of a cffi type."""
    if kind.kind == "void":
        return "v"
    if kind.kind in ("pointer", "function"):
        return POINTER
    if kind.kind == "enum":
        return "I" if "unsigned" in _enum_base(kind) else "i"
    if kind.kind == "primitive":
        name = str(kind.cname)
        if name in WINDOWS_LONGS:
            return WINDOWS_LONGS[name]
        if name in ("float", "double"):
            return name[0]
        size = _size_of(name)
        if "complex" not in name.lower() and name != "long double" and size in BY_SIZE:
            return BY_SIZE[size][_is_unsigned(name)]
    raise _refused(kind.cname)


@cache
def _size_of(name: str) -> int:
    return int(_ffi().sizeof(name))


@cache
def _is_unsigned(name: str) -> bool:
    return name == "_Bool" or (name != "char" and int(_ffi().cast(name, -1)) > 0)


def _enum_base(kind: Any) -> str:
    return "unsigned int" if min(kind.relements.values(), default=0) >= 0 else "int"


@cache
def _ffi() -> Any:
    import cffi

    return cffi.FFI()


def declared_signatures(declarations: str) -> dict[str, Signature]:
    """The signatures of functions that are declared in C, by name. Raises UsageError for what cffi cannot read."""
    import cffi

    ffi = cffi.FFI()
    try:
        ffi.cdef(declarations)
        found = {}
        for key, (declared, _) in ffi._parser._declarations.items():
            sort, _, name = key.partition(" ")
            if sort == "function":
                with ffi._lock:
                    kind = ffi._get_cached_btype(declared)
                found[name] = signature_of_cffi(kind)
    except (cffi.CDefError, cffi.FFIError) as error:
        raise UsageError(f"the declarations cannot be read: {error}") from error
    return found


def signature_of_value(value: Any) -> Signature | None:
    """The signature of a function that a caller gives: one of ctypes or cffi that has its types, else None."""
    if isinstance(value, FUNCTION_POINTER):
        argtypes: Sequence[Any] | None = getattr(value, "argtypes", None)
        return None if argtypes is None else signature_of_ctypes(value.restype, tuple(argtypes))
    if type(value).__module__ == "_cffi_backend":
        kind = _ffi().typeof(value)
        if kind.kind == "pointer" and kind.item.kind == "function":
            kind = kind.item
        return signature_of_cffi(kind) if kind.kind == "function" else None
    return None


def _refused(name: str) -> UnsupportedInput:
    return UnsupportedInput(
        f"{name} cannot be passed by value between calling conventions",
        hint="Pass a pointer to it instead",
    )
