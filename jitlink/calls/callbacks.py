"""Callbacks: Python callables as function pointers of C.

C code may keep a function pointer and call it whenever it likes, also after the call that passed it has
returned; it says nowhere until when. So a callback lives as long as its library: it is freed when that is
closed, and a callable that is passed again gets the callback that it has. To free one earlier, make it
yourself with cffi or ctypes, pass that, and keep it for as long as you see fit.

A callable gets what a typed function would return for the same C types, and its result is converted as an
argument would be. An exception ends the callback with a zero result and surfaces when the typed call
returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jitlink.calls import pending
from jitlink.calls.c_types import Function, Void
from jitlink.calls.foreign_types import ForeignTypes
from jitlink.calls.passing import Passing, passing_of
from jitlink.calls.results import result_converter


class Callbacks:
    """The callbacks of one library."""

    def __init__(self, types: ForeignTypes) -> None:
        self._types = types
        self._made: dict[tuple[int, Function], tuple[Callable[..., Any], Any]] = {}

    def make(self, function: Callable[..., Any], kind: Function) -> Any:
        """The callback for a callable, as a function pointer of a C type."""
        key = id(function), kind
        known = self._made.get(key)
        if known is None:
            # The callable is kept with it, so that its id stays its own.
            known = self._made[key] = (function, self._make(function, kind))
        return known[1]

    def _make(self, function: Callable[..., Any], kind: Function) -> Any:
        name = getattr(function, "__name__", "the callback")
        converters = [result_converter(each, self._types) for _, each in kind.parameters]
        returned: Passing | None = None
        if not isinstance(kind.result.plain, Void):
            returned = passing_of(f"the result of {name}", kind.result, self._types, self.make)

        def call(*values: Any) -> Any:
            arguments = [
                convert(value) if convert else value for convert, value in zip(converters, values, strict=True)
            ]
            result = function(*arguments)
            return returned.convert(result) if returned else None

        def failed(exception: type[BaseException], error: BaseException, trace: Any) -> None:
            pending.keep(error.with_traceback(trace), function)

        return self._types.ffi.callback(self._types.of(kind), call, onerror=failed)

    def clear(self) -> None:
        """Free all of them; C must not call them any more."""
        self._made.clear()
