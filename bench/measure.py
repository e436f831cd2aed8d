"""Taking turns: how times are measured on a machine that is never quiet.

Every contender links once unmeasured (files come into the page cache, processes start). Then they
take turns, A B C A B C, so that a slow minute of the machine falls on all of them. The median is
what is compared; the minimum says how much of it was noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from time import monotonic

from child import Failed
from rivals import Runner

BUDGET = 20.0
"""Seconds that a contender may take up in one row; a slow one has fewer samples, but at least one."""


@dataclass
class Series:
    """What was measured of one contender: values in seconds or bytes, or how it failed."""

    label: str
    values: list[float] = field(default_factory=list)
    first: float | None = None
    failure: str | None = None

    @property
    def median(self) -> float:
        """The middle of the values."""
        return median(self.values)

    @property
    def minimum(self) -> float:
        """The lowest of the values."""
        return min(self.values)


def take_turns(runners: Sequence[Runner], rounds: int, repetitions: int = 1) -> list[Series]:
    """Measure all runners in turns; one series for each, in order.

    A round takes repetitions samples of each runner. Everything started is ended.
    """
    all_series = [Series(runner.label) for runner in runners]
    spent = [0.0] * len(runners)
    for turn in range(rounds + 1):
        for number, (runner, series) in enumerate(zip(runners, all_series, strict=True)):
            if series.failure is None and spent[number] < BUDGET:
                start = monotonic()
                _sample(runner, series, repetitions, warm_up=turn == 0)
                spent[number] += monotonic() - start
    for runner, series in zip(runners, all_series, strict=True):
        runner.close()
        if not series.values and series.first is not None:
            series.values = [series.first]
    return all_series


def _sample(runner: Runner, series: Series, repetitions: int, *, warm_up: bool) -> None:
    try:
        if warm_up:
            series.first = runner.warm_up()
        else:
            series.values += runner.sample(repetitions)
    except Failed as failed:
        series.values = []
        series.first = None
        series.failure = str(failed)


def in_fresh_processes(runner: Runner, processes: int) -> Series:
    """Measure the first link of a process, in that many processes."""
    series = Series(f"{runner.label}, first link")
    for _ in range(processes):
        _sample(runner, series, 1, warm_up=False)
        runner.close()
        if series.failure is not None:
            break
    return series
