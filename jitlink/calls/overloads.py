"""Overloads: functions of one name, of which the arguments choose one.

Each parameter says how well a value fits (see jitlink.calls.passing). Of the functions that take all
arguments, the one is called whose fits are best in sum; where two are equally good, nobody can know which
was meant, and the full name of one has to be given, such as library["ns::f(long)"].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jitlink.calls.typed import TypedFunction
from jitlink.errors import UsageError
from jitlink.handles import CallableSymbol, Symbol


class Overloads(CallableSymbol):
    """Functions of one name, and several symbols. Attributes: functions (each callable by itself)."""

    __slots__ = ("_overloads", "functions")

    def __init__(self, first: Symbol, shown: str, functions: Sequence[TypedFunction]) -> None:
        """first: one of the symbols; shown: the name that all of them have."""
        super().__init__(first, shown, self._chosen_by_nobody)
        self.functions = [each.usable for each in functions]
        self._overloads = functions

    @property
    def address(self) -> int:
        """Which of them is meant is not known. Raises UsageError."""
        raise UsageError(f"{self.shown} is the name of {len(self.functions)} functions: ask for one by its full name")

    def _chosen_by_nobody(self, symbol: Symbol, shown: str) -> Callable[..., Any]:
        return self.__call__

    def prototypes(self) -> list[str]:
        """The C prototypes of all of them."""
        return [each.kind.declared(self.shown) for each in self._overloads]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function that the arguments fit best. Raises TypeError where none or several do."""
        found: list[tuple[int, TypedFunction]] = []
        for each in self._overloads:
            fit = fit_of(each, arguments, named)
            if fit is not None:
                found.append((fit, each))
        given = ", ".join([type(value).__name__ for value in arguments] + [f"{name}=..." for name in named])
        if not found:
            raise TypeError("\n".join([f"no {self.shown} takes ({given}):", *self.prototypes()]))
        best = min(fit for fit, _ in found)
        chosen = [each for fit, each in found if fit == best]
        if len(chosen) > 1:
            several = "\n".join(each.kind.declared(self.shown) for each in chosen)
            raise TypeError(f"{self.shown}({given}) may be any of these; ask for one by its full name:\n{several}")
        return chosen[0].usable(*arguments, **named)

    def __repr__(self) -> str:
        return f"<overloads {self.shown}: {'; '.join(self.prototypes())}>"


def fit_of(function: TypedFunction, arguments: Sequence[Any], named: dict[str, Any]) -> int | None:
    """How well arguments fit a function, the lower the better; None if they do not."""
    try:
        bound = inspect.signature(function.usable).bind(*arguments, **named)
    except TypeError:
        return None
    total = 0
    for value, passing in zip(bound.arguments.values(), function.passings, strict=True):
        fit = passing.fit(value)
        if fit is None:
            return None
        total += fit
    return total
