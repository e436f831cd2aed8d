"""Watching a run: traces, coverage, and coverage by source line as an lcov file.

Each watcher is a step hook: a callable that the interpreter calls with the machine before every
instruction. Give one to Interpreter(hook=...), or several through together().
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitlink.bpf.machine import Code, Machine

Hook = Callable[[Machine], object]
"""Called before every instruction; machine.code and machine.pc say which one is next."""


def together(*hooks: Hook) -> Hook:
    """Make one hook of several, called in this order."""

    def call_each(machine: Machine) -> None:
        for hook in hooks:
            hook(machine)

    return call_each


@dataclass
class Trace:
    """A hook that writes down what ran: program, index of the instruction, registers before it.

    Attributes: steps; limit (how many steps to keep, the first ones; a run has millions).
    """

    limit: int = 1_000_000
    steps: list[tuple[Code, int, tuple[int, ...]]] = field(default_factory=list)

    def __call__(self, machine: Machine) -> None:
        if len(self.steps) < self.limit:
            self.steps.append((machine.code, machine.pc, tuple(machine.registers)))


class Coverage:
    """A hook that counts how often every instruction of every program ran, over any number of runs."""

    def __init__(self) -> None:
        self._counts: dict[Code, list[int]] = {}

    def __call__(self, machine: Machine) -> None:
        counts = self._counts.get(machine.code)
        if counts is None:
            # One place more than there are instructions: a program may run off its end.
            counts = self._counts[machine.code] = [0] * (len(machine.code.instructions) + 1)
        counts[machine.pc] += 1

    @property
    def programs(self) -> list[Code]:
        """The programs that ran, in the order in which they ran first."""
        return list(self._counts)

    def counts(self, code: Code) -> npt.NDArray[np.int64]:
        """How often each instruction ran: int64[slots]; all 0 for a program that never ran."""
        slots = len(code.instructions)
        return np.array(self._counts.get(code, [0] * slots)[:slots], np.int64)


Line = tuple[str, int]
"""A source file and a line in it, from 1."""


def lcov(
    counts: npt.NDArray[np.int64],
    code: Code,
    line_of: Callable[[int], Line | None],
    *,
    functions: Iterable[tuple[str, int]] = (),
    test: str = "",
) -> str:
    """Write coverage as an lcov tracefile, one record for each source file.

    counts: int64[slots]; line_of: from the index of an instruction to its file and line, or None;
    functions: name and index of the first instruction of each function; test: the test's name.
    A line has run as often as the instruction of it that ran most.
    Source: the section FILES of geninfo(1).
    """
    is_second = code.instructions.is_second
    hits: dict[str, dict[int, int]] = {}
    for index in (~is_second).nonzero()[0].tolist():
        place = line_of(index)
        if place:
            lines = hits.setdefault(place[0], {})
            lines[place[1]] = max(lines.get(place[1], 0), int(counts[index]))
    named: dict[str, list[tuple[str, int, int]]] = {}
    for name, index in functions:
        place = line_of(index)
        if place:
            named.setdefault(place[0], []).append((name, place[1], int(counts[index])))
    return "".join(_record(test, file, named.get(file, []), lines) for file, lines in sorted(hits.items()))


def _record(test: str, file: str, functions: list[tuple[str, int, int]], lines: dict[int, int]) -> str:
    rows = [f"TN:{test}", f"SF:{file}"]
    rows += [f"FN:{line},{name}" for name, line, _ in functions]
    rows += [f"FNDA:{count},{name}" for name, _, count in functions]
    if functions:
        rows += [f"FNF:{len(functions)}", f"FNH:{sum(count > 0 for *_, count in functions)}"]
    rows += [f"DA:{line},{count}" for line, count in sorted(lines.items())]
    rows += [f"LF:{len(lines)}", f"LH:{sum(count > 0 for count in lines.values())}", "end_of_record"]
    return "\n".join(rows) + "\n"
