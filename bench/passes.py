"""Where the time of a link goes, by pass.

    python bench/passes.py [FILE ...] [--runs N]

Links the files (all members of archives; libcrypto.a if none is given) several times in this process
and prints the median of each step. `read` is everything until the link graph stands; the steps after it
are those that jitlink.linker names to its trace, in order; `rest` is what it does not name: placing
the image, protecting it, noting the definitions, running initialisers.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

from drivers import load_process_libraries
from inputs import library
from rich.console import Console
from rich.table import Table

import jitlink


def steps_of_a_link(session: jitlink.Session, files: list[str]) -> dict[str, float]:
    """Link once; give the seconds of each step, in order."""
    steps: dict[str, float] = {"read": 0.0}

    def note(step: str, seconds: float) -> None:
        steps[step] = steps.get(step, 0.0) + seconds

    dylib = session.dylib("passes")
    start = perf_counter()
    dylib.add(*files, whole_archive=True, dead_strip=False, trace=note)
    steps["read"] = perf_counter() - start
    dylib.link()
    total = perf_counter() - start
    steps["rest"] = total - sum(steps.values())
    dylib.close()
    return steps


def print_steps(samples: list[dict[str, float]], console: Console) -> None:
    """Print the median of each step, and its share."""
    medians = {step: median(sample[step] for sample in samples) for step in samples[0]}
    total = median(sum(sample.values()) for sample in samples)
    table = Table("step", "median, ms", "share")
    for step, seconds in {**medians, "the whole link": total}.items():
        table.add_row(step, f"{seconds * 1e3:.3f}", f"{seconds / total:.0%}")
    console.print(table)


def main() -> None:
    """Profile a link by pass."""
    parser = argparse.ArgumentParser(description="Show where the time of a link goes, by pass.")
    parser.add_argument("files", nargs="*", help="objects and archives (default: libcrypto.a of this machine)")
    parser.add_argument("--runs", type=int, default=15, help="links that are timed (default: %(default)s)")
    options = parser.parse_args()
    files = options.files or [str(library("libcrypto.a"))]
    load_process_libraries()
    with jitlink.Session() as session:
        steps_of_a_link(session, files)
        samples = [steps_of_a_link(session, files) for _ in range(options.runs)]
    print_steps(samples, Console())


if __name__ == "__main__":
    main()
