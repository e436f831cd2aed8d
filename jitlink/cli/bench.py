"""`jitlink bench`: how long links take on this machine, on inputs that LLVM makes here; no compiler is needed.

The project's own benchmarks, against other linkers, are in bench/ of its repository; results that those
have written with --json can be drawn here.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.table import Table

COUNTS = (1, 100, 1_000, 2_000, 4_000)
"""Functions in the objects that are linked."""
RUNS = 7


@click.command("bench")
@click.option(
    "--from", "results", type=click.Path(exists=True), metavar="PATH", help="Draw results instead of measuring."
)
@click.option("--plot", type=click.Path(), metavar="PATH", help="Draw the table as a picture (.png, .svg, .pdf).")
@click.option("--json", "as_json", type=click.Path(), metavar="PATH", help="Keep all figures.")
@click.option("--runs", default=RUNS, show_default=True, help="How often each link is measured.")
def command(results: str | None, plot: str | None, as_json: str | None, runs: int) -> None:
    """Measure links of generated code, from bytes until it can be called."""
    if results is not None:
        if plot is None:
            raise click.UsageError("--from needs --plot")
        from jitlink.inspect.plots import draw, read_results

        draw(read_results(results), plot)
        return
    rows = list(_measured(max(runs, 1)))
    _print(rows)
    if as_json:
        with open(as_json, "w") as file:
            json.dump({"rows": rows}, file, indent=1)
    if plot:
        from jitlink.inspect.plots import Bars, draw

        title = "a link, from bytes until it can be called (median)"
        values = [(f"jitlink, {row['title']}", statistics.median(row["ours"]["values"]) * 1e3) for row in rows]
        draw([Bars(title, "ms", values)], plot)


def _measured(runs: int) -> Iterator[dict[str, Any]]:
    """Link objects of rising size, each several times, in the form of the project's other results."""
    from jitlink.llvm import compile_ir

    for count in COUNTS:
        content = compile_ir(_program(count).encode(), "bench.ll")
        values = [_seconds(content) for _ in range(runs + 1)][1:]
        yield {
            "title": f"{count:,} function{'s' if count > 1 else ''}",
            "unit": {"name": "ms", "size": 1e-3},
            "ours": {"label": "jitlink", "values": values},
            "rivals": [],
        }


def _program(count: int) -> str:
    """IR of functions that each call the one before and read a variable of their own."""
    first = "define i64 @f0(i64 %x) { ret i64 %x }"
    return "\n".join([first, *map(_function, range(1, count))])


def _function(number: int) -> str:
    return (
        f"@v{number} = global i64 {number}\n"
        f"define i64 @f{number}(i64 %x) {{\n"
        f"  %own = load i64, ptr @v{number}\n"
        f"  %sum = add i64 %x, %own\n"
        f"  %result = call i64 @f{number - 1}(i64 %sum)\n"
        f"  ret i64 %result\n}}"
    )


def _seconds(content: bytes) -> float:
    import jitlink

    start = time.perf_counter()
    library = jitlink.load(content)
    taken = time.perf_counter() - start
    library.close()
    return taken


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("work", "median", "minimum", title="jitlink, from bytes until it can be called", title_justify="left")
    for row in rows:
        values = row["ours"]["values"]
        table.add_row(row["title"], f"{statistics.median(values) * 1e3:.2f} ms", f"{min(values) * 1e3:.2f} ms")
    Console().print(table)
