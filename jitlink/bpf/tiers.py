"""Tiers: the ways in which a program can be run.

A tier compiles the code of a program once and gives a callable for its runs. The interpreter is the
reference; native tiers are to come, and take their place in TIERS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.machine import Code
from jitlink.errors import UsageError


class Run(Protocol):
    """Runs a compiled program: with r1 and on as arguments and a budget of instructions; returns r0."""

    def __call__(self, *arguments: int, budget: int) -> int: ...


class Tier(Protocol):
    """Turns the code of programs into something that can be called.

    A tier belongs to the machine of one object, whose programs share memory and helpers.
    """

    name: str

    def compile(self, program: Code) -> Run:
        """Make a program ready to run. Raises LinkError for one that the tier cannot run."""


class InterpreterTier:
    """Runs programs on the interpreter, which translates them when they run first."""

    name = "interpreter"

    def __init__(self, machine: Interpreter) -> None:
        self.machine = machine

    def compile(self, program: Code) -> Run:
        """Make a callable that runs the program."""

        def run(*arguments: int, budget: int) -> int:
            return self.machine.run(program, *arguments, budget=budget)

        return run


TIERS: dict[str, Callable[[Interpreter], Tier]] = {"interpreter": InterpreterTier}
PLANNED = ("jit", "llvm")


def tier_named(name: str, machine: Interpreter) -> Tier:
    """Make the tier of a name for a machine. Raises UsageError for one that there is not."""
    if name in TIERS:
        return TIERS[name](machine)
    known = ", ".join(TIERS)
    if name in PLANNED:
        raise UsageError(f"the tier {name!r} compiles to native code and is not there yet; there is {known}")
    raise UsageError(f"there is no tier {name!r}; there is {known}")
