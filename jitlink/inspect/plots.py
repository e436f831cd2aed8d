"""Pictures of benchmark results, by matplotlib (the extra `plot`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from statistics import median
from typing import Any

from jitlink.errors import MissingExtra, UsageError

OURS, THEIRS = "#2463a8", "#b0b7c0"


@dataclass(frozen=True)
class Bars:
    """One comparison: a title, the unit, and what each contestant took, ours first."""

    title: str
    unit: str
    values: list[tuple[str, float]]


def read_results(path: str | PathLike[str]) -> list[Bars]:
    """Read what bench/link.py --json or `jitlink bench --json` has written. Raises UsageError for anything else."""
    try:
        rows = json.loads(Path(path).read_text())["rows"]
        return [bars for row in rows if (bars := _bars(row)) is not None]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} does not hold results of a benchmark: {error}") from error


def _bars(row: dict[str, Any]) -> Bars | None:
    size = float(row["unit"]["size"])
    series = [row["ours"], *([row["resized"]] if row.get("resized") else []), *row["rivals"]]
    values = [(each["label"], median(each["values"]) / size) for each in series if each["values"]]
    return Bars(row["title"], row["unit"]["name"], values) if values else None


def draw(comparisons: list[Bars], path: str | PathLike[str]) -> None:
    """Draw comparisons as bars, one picture below the other. path: its suffix says the format, as .png or .svg.

    Raises MissingExtra, and UsageError where there is nothing to draw or no such format.
    """
    if not comparisons:
        raise UsageError("there are no results to draw")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", "drawing results") from error
    heights = [len(bars.values) + 1.5 for bars in comparisons]
    figure = Figure(figsize=(9, 0.32 * sum(heights) + 0.5), layout="constrained")
    panels = figure.subplots(len(comparisons), 1, squeeze=False, height_ratios=heights)
    for bars, panel in zip(comparisons, panels[:, 0], strict=True):
        _draw_bars(bars, panel)
    try:
        figure.savefig(path, dpi=150)
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: {error}") from error


def _draw_bars(bars: Bars, panel: Any) -> None:
    labels = [label for label, _ in bars.values]
    values = [value for _, value in bars.values]
    colours = [OURS if label.startswith("jitlink") else THEIRS for label in labels]
    places = range(len(values))
    drawn = panel.barh(places, values, color=colours)
    panel.bar_label(drawn, [f" {value:,.3g} {bars.unit}" for value in values], fontsize=8)
    # Labels are names of programs and versions; a dollar sign would start a formula.
    panel.set_yticks(places, [label.replace("$", r"\$") for label in labels], fontsize=8)
    panel.invert_yaxis()
    panel.set_title(bars.title.replace("$", r"\$"), loc="left", fontsize=9)
    panel.set_xlim(0, max(values) * 1.2 or 1)
    panel.tick_params(axis="x", labelsize=7)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
