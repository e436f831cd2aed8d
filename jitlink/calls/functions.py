"""Typed functions: a Python function for each C function, written once for its prototype.

    def hypot3(x, y, z):
        if dylib.closed: closed()
        if x.__class__ is not float: x = convert_0(x)
        ...
        result = call(x, y, z)
        if waiting: raise_waiting()
        return result

All decisions about types are made when the function is written, so that a call costs little more than
that of cffi. It is a real Python function: inspect.signature and help() show the C prototype, arguments may
be given by name, and a wrong number of them is refused by Python itself.

Names from debug information become parts of the source. Only ASCII identifiers are let in, and no keywords;
anything else is called argument_1, argument_2, ...
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitlink.calls import pending
from jitlink.calls.c_types import Function, Void
from jitlink.calls.foreign_types import ForeignTypes
from jitlink.calls.passing import CallbackMaker, Passing, passing_of
from jitlink.calls.results import is_text, result_converter
from jitlink.handles import closed_error

if TYPE_CHECKING:
    from jitlink.session import Dylib


@dataclass(frozen=True)
class Target:
    """What is called.

    Attributes: dylib (which owns it); name (as people know it); address (of the function); entry (where a
    call goes in: the function itself, or an adapter in front of it); builtin (a function of CPython that
    serves the usual arguments and returns NotImplemented for others, or None); input (the object that defines it).
    """

    dylib: Dylib
    name: str
    address: int
    entry: int
    builtin: Callable[..., Any] | None
    input: str


def typed_function(
    target: Target, kind: Function, types: ForeignTypes, make_callback: CallbackMaker
) -> tuple[Callable[..., Any], list[Passing]]:
    """Write the typed function of a target, and how its arguments are passed.

    Raises UntypedSymbol for types that are not served, and MalformedInput.
    """
    pointer = types.ffi.cast(types.of(kind), target.entry)
    names = parameter_names(kind)
    passings = [
        passing_of(f"{target.name}() argument {name!r}", each, types, make_callback)
        for name, (_, each) in zip(names, kind.parameters, strict=True)
    ]
    function = _written(target, names, passings, pointer, kind, types)
    function.__name__ = function.__qualname__ = target.name
    function.__module__ = target.dylib.name
    function.__doc__ = f"{kind.declared(target.name)}\n\nFrom {target.input}."
    function.__signature__ = signature_of(kind, names)  # type: ignore[attr-defined]
    function.address = target.address  # type: ignore[attr-defined]
    function.pointer = types.ffi.cast(types.of(kind), target.address)  # type: ignore[attr-defined]
    return function, passings


def parameter_names(kind: Function) -> list[str]:
    """Names for the parameters that Python can use, each once."""
    names: list[str] = []
    for number, (name, _) in enumerate(kind.parameters, 1):
        usable = name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")
        names.append(name if usable and name not in names else f"argument_{number}")
    return names


def signature_of(kind: Function, names: list[str]) -> inspect.Signature:
    """The prototype as Python shows it: the C types are the annotations."""
    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str(each))
        for name, (_, each) in zip(names, kind.parameters, strict=True)
    ]
    return inspect.Signature(parameters, return_annotation=str(kind.result))


def _written(
    target: Target, names: list[str], passings: list[Passing], pointer: Any, kind: Function, types: ForeignTypes
) -> Callable[..., Any]:
    """Write the source of a typed function, and run it with what it refers to."""
    # No parameter begins with an underscore; but one may be called str.
    scope: dict[str, Any] = {
        **{f"_{each.__name__}": each for each in (int, float, bool, str, bytes, isinstance)},
        "_NotImplemented": NotImplemented,
        "_dylib": target.dylib,
        "_call": pointer,
        "_CData": types.ffi.CData,
        "_waiting": pending.waiting,
        "_raise_waiting": pending.raise_waiting,
    }

    def closed() -> None:
        raise closed_error(target.dylib, target.name)

    scope["_closed"] = closed
    lines = []
    for number, (name, passing) in enumerate(zip(names, passings, strict=True)):
        if passing.line:
            scope[f"_convert_{number}"] = passing.convert
            lines += passing.line.format(name, f"_convert_{number}").splitlines()
    lines.append(f"_result = _call({', '.join(names)})")
    lines += _result_lines(kind, types, scope)
    if target.builtin is not None:
        scope["_builtin"] = target.builtin
        longer = [f" {line}" for line in lines]
        lines = [f"_result = _builtin({', '.join(names)})", "if _result is _NotImplemented:", *longer]
    lines = ["if _dylib.closed: _closed()", *lines, "if _waiting: _raise_waiting()", "return _result"]
    # The globals of the function are its closure: one dictionary for each function.
    body = "\n ".join(lines)
    source = f"def typed({', '.join(names)}):\n {body}\n"
    exec(compile(source, pending.TYPED_CALL, "exec"), scope)
    function: Callable[..., Any] = scope.pop("typed")
    return function


def _result_lines(kind: Function, types: ForeignTypes, scope: dict[str, Any]) -> list[str]:
    """Lines that make a Python value of what cffi has given. After an exception that is zero, and serves."""
    if isinstance(kind.result.plain, Void):
        return []
    convert = result_converter(kind.result, types)
    if convert is None:
        return []
    if is_text(kind.result):
        scope["_string"] = types.ffi.string
        return ["_result = _string(_result) if _result else None"]
    scope["_from"] = convert
    return ["_result = _from(_result)"]
