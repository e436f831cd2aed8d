"""The report of a run: rows with verdicts, printed as a table, as Markdown, or kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import Series
from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).parent.parent
HEADINGS = ("linker", "median", "minimum", "jitlink / it", "by minimum")


@dataclass(frozen=True)
class Unit:
    """What the values of a row are shown in."""

    name: str
    size: float

    def show(self, value: float) -> str:
        """Write a value, in seconds or bytes, with the unit."""
        shown = value / self.size
        return f"{shown:,.{0 if shown >= 1000 else 1 if shown >= 10 else 2 if shown >= 1 else 3}f} {self.name}"


MILLISECONDS = Unit("ms", 1e-3)
MEGABYTES = Unit("MB", 1e6)


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured against it; value is None where there was nothing to compare."""

    claim: str
    limit: float
    value: float | None

    @property
    def reached(self) -> bool:
        """Say whether the value is within the limit."""
        return self.value is not None and self.value <= self.limit

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.claim}: not measured"
        outcome = "reached" if self.reached else f"missed, {self.value / self.limit:.2f} times the limit"
        return f"{self.claim}: {self.value:.3g}, {outcome}"


@dataclass
class Row:
    """One piece of work: ours, the rivals, and what the targets say about it.

    resized: ours at twice or half the work. notes: further facts, a sentence each. skipped: why there
    are no figures.
    """

    name: str
    title: str
    unit: Unit = MILLISECONDS
    ours: Series = field(default_factory=lambda: Series("jitlink"))
    resized: Series | None = None
    rivals: list[Series] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str | None = None

    def all_series(self) -> list[Series]:
        """Everything that was measured, ours first."""
        return [self.ours, *([self.resized] if self.resized else []), *self.rivals]


def lines(row: Row) -> Iterator[tuple[str, ...]]:
    """Write the figures of a row as lines of a table, one for each linker, under HEADINGS."""
    for series in row.all_series():
        if not series.values:
            yield series.label, "failed", "", "", ""
            continue
        ratios = [""] * 2
        if series in row.rivals and row.ours.values:
            ratios = [f"{row.ours.median / series.median:.2f}", f"{row.ours.minimum / series.minimum:.2f}"]
        yield series.label, row.unit.show(series.median), row.unit.show(series.minimum), *ratios


def remarks(row: Row) -> list[str]:
    """Write what the targets and the notes of a row say, and why a linker failed; a sentence each."""
    if row.skipped:
        return [row.skipped]
    failures = [f"{series.label} {series.failure}" for series in row.all_series() if series.failure]
    return [*map(str, row.verdicts), *row.notes, *failures]


def print_row(row: Row, console: Console) -> None:
    """Print a row for a person at a terminal."""
    table = Table(*HEADINGS, title=row.title, title_justify="left", title_style="bold")
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"
    for line in lines(row) if not row.skipped else ():
        table.add_row(*map(Text, line))
    console.print(table if not row.skipped else Text(row.title, "bold"))
    for remark in remarks(row):
        console.print(Text(f"  {remark}"))
    console.print()


def markdown(rows: Sequence[Row]) -> str:
    """Write all rows as tables for docs/performance.md."""
    return "\n".join(chunk for row in rows for chunk in _markdown_row(row))


def _markdown_row(row: Row) -> Iterator[str]:
    yield f"### {row.title}\n"
    if not row.skipped:
        for line in (HEADINGS, ("---", "--:", "--:", "--:", "--:"), *lines(row)):
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        yield ""
    for remark in remarks(row):
        yield f"- {remark}"
    yield ""


def machine() -> dict[str, Any]:
    """Say what the figures were measured on, and of which state of the project."""
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True
    )
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "commit": described.stdout.strip() or "unknown",
    }


def write_json(path: Path, rows: Sequence[Row], machine_facts: dict[str, Any]) -> None:
    """Keep all figures, every single sample included; seconds and bytes."""
    figures = [{**asdict(row), "reached": [verdict.reached for verdict in row.verdicts]} for row in rows]
    path.write_text(json.dumps({"machine": machine_facts, "rows": figures}, indent=1) + "\n")


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in facts if line.startswith("model name")]
    return names[0] if names else platform.machine()
