"""Names that the caller gives to emulated code: addresses of the machine, and Python functions."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_origin

from jitlink.errors import UsageError
from jitlink.execution.cffi_values import CffiTypes
from jitlink.execution.ctypes_values import FUNCTION_TYPE, signature_of
from jitlink.execution.signatures import Signature
from jitlink.resolvers import Names

if TYPE_CHECKING:
    from jitlink.execution.emulator import EmulatedHome

PLAIN_TYPES: dict[Any, Any] = {
    int: ctypes.c_int,
    float: ctypes.c_double,
    bool: ctypes.c_bool,
    bytes: ctypes.c_char_p,
    None: None,
}
"""What an annotation with a type of Python's own stands for."""


class GivenNames(Names):
    """Addresses and functions by name, as a mapping or as a callable from name to one of them or None.

    A Python function is declared by annotations: types of ctypes, or int, float, bool, bytes and None for
    C's int, double, _Bool, const char * and void, or Annotated[int, ctypes.c_int64] and the like. Or it is
    wrapped in a type of ctypes or in ffi.callback, as for code of this process.
    """

    def __init__(self, given: Mapping[str, Any] | Callable[[str], Any], home: EmulatedHome) -> None:
        super().__init__(given)
        self._home = home

    def address_of(self, name: str) -> int | None:
        """The address that the caller gives for a name, or None. Raises TypeError, UsageError."""
        given = self._given
        value = given.get(name) if isinstance(given, Mapping) else given(name)
        if value is None or isinstance(value, int):
            return value
        address = getattr(value, "address", None)
        if isinstance(address, int):
            return address
        function, signature = _declared(name, value, self._home.long_size)
        return self._home.function_address(function, signature)


def _declared(name: str, value: Any, long_size: int) -> tuple[Callable[..., Any], Signature]:
    """A callable and how it was declared."""
    if isinstance(value, FUNCTION_TYPE):
        prototype = type(value)
        return value, signature_of(prototype._restype_, prototype._argtypes_)
    if type(value).__module__ == "_cffi_backend":
        import cffi

        ffi = cffi.FFI()
        kind = ffi.typeof(value)
        if kind.kind == "function":
            return value, CffiTypes(ffi, long_size).signature_of(kind)
    if callable(value):
        return value, _annotated(name, value)
    raise UsageError(
        f"{name}: {type(value).__name__} is in Python's memory, which emulated code cannot reach: "
        "allocate it in the library's memory, and give the address"
    )


def _annotated(name: str, function: Callable[..., Any]) -> Signature:
    """The signature that annotations declare. Raises UsageError where one is missing."""
    try:
        declared = inspect.signature(function, eval_str=True)
    except (ValueError, NameError) as error:
        raise UsageError(f"{name}: what the Python function takes cannot be told: {error}") from None
    kinds = [parameter.annotation for parameter in declared.parameters.values()]
    for kind in (*kinds, declared.return_annotation):
        if kind is inspect.Signature.empty:
            raise UsageError(
                f"{name}: the Python function does not declare its types: annotate it "
                "(def f(x: ctypes.c_int) -> ctypes.c_int), or wrap it in ctypes.CFUNCTYPE(...)"
            )
    return signature_of(_plain(declared.return_annotation), tuple(map(_plain, kinds)))


def _plain(kind: Any) -> Any:
    """The ctypes type that an annotation stands for."""
    if get_origin(kind) is Annotated:
        kind = kind.__metadata__[0]
    return PLAIN_TYPES.get(kind, kind) if isinstance(kind, Hashable) else kind
