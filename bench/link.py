"""The link benchmark: this project against every other linker that the machine has.

    python bench/link.py [--rows NAME ...] [--runs N] [--json FILE] [--markdown FILE]

Every row is measured in one run on the same inputs. The time of jitlink is the whole way, in a warm
process whose session exists: read the files, resolve, lay out (without dead strip), map, fix up,
protect, until the code can be called. The first link in a fresh process is given apart. What
is measured of each rival is said in rivals.py, and how the linkers take turns in measure.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from child import Failed
from generated_sources import library
from inputs import NotAvailable, Work, compiler_version, functions, member, whole_library
from measure import Series, in_fresh_processes, take_turns
from report import MEGABYTES, Row, Verdict, machine, markdown, print_row, write_json
from rich.console import Console
from rivals import LlvmJitlink, Runner, all_rivals, image_runner, jitlink_runner, llvm_jitlinks

FRESH_PROCESSES = 5
SMALL_LINKS = 100
"""Links in a row that make one turn of the smallest work, which takes less than a millisecond."""

FORMAT_LIMIT = 1.5
"""Of the time for a relocation of ELF, what one of another format may take."""

GROWTH_LIMIT = 2.3
"""How much longer twice the work may take."""


def libcrypto(runs: int) -> Row:
    """All of libcrypto.a against everyone."""
    return against_everyone("libcrypto", whole_library("libcrypto.a"), runs, limit=0.30, aim=0.20)


def libsqlite3(runs: int) -> Row:
    """All of libsqlite3.a against everyone."""
    return against_everyone("libsqlite3", whole_library("libsqlite3.a"), runs, limit=0.35)


def sections(runs: int) -> Row:
    """8,000 functions in sections of their own, and growth to 16,000."""
    more = functions(16_000, own_sections=True)
    return against_everyone("sections", functions(8_000, own_sections=True), runs, limit=0.30, twice=more)


def plain(runs: int) -> Row:
    """8,000 functions in one section, and growth to 16,000."""
    more = functions(16_000, own_sections=False)
    return against_everyone("plain", functions(8_000, own_sections=False), runs, limit=0.30, twice=more)


def many_sections(runs: int) -> Row:
    """100,000 sections (50,000 functions, 50,000 data), and growth from 50,000 sections."""
    half = functions(25_000, own_sections=True)
    return against_everyone("many-sections", functions(50_000, own_sections=True), runs, limit=0.30, half=half)


def small(runs: int) -> Row:
    """One small object and the lookup of one symbol, in a warm process."""
    work = member("libz.a", "adler32.o", "adler32")
    row = measured("small", work, runs, repetitions=SMALL_LINKS)
    row.verdicts = [ratio_to_fastest(row, "LLJIT", 1.0, "LLJIT through llvmlite")]
    return row


def memory(runs: int) -> Row:
    """Peak memory of a process that links all of libcrypto.a, against llvm-jitlink's."""
    work = whole_library("libcrypto.a")
    ours = jitlink_runner(work)
    rivals = [LlvmJitlink(program, label, work) for label, program in llvm_jitlinks().items()]
    row = Row("memory", f"peak memory, {work.name}", MEGABYTES, ours=peaks(ours, runs))
    row.rivals = [peaks(rival, runs) for rival in rivals]
    row.verdicts = [ratio_to_fastest(row, "llvm-jitlink", 1.0, "the leanest llvm-jitlink's")]
    if row.ours.values:
        above = row.ours.median - ours.memory_at_start
        row.notes = [
            f"of ours, {MEGABYTES.show(ours.memory_at_start)} are there after import jitlink, the link adds "
            f"{MEGABYTES.show(above)}"
        ]
    return row


def imports(runs: int) -> Row:
    """`import jitlink` and the linker that it loads when it is used, against `import numpy`, in fresh processes."""
    ours, loaded, numpy = Series("import jitlink"), Series("from jitlink import Session"), Series("import numpy")
    for _ in range(2 * runs + 1):
        for series in (ours, loaded, numpy):
            sample_import(series)
    verdicts = [
        Verdict(f"`{each.label}` more than numpy alone, in ms, at most 25", 25.0, (each.median - numpy.median) * 1e3)
        for each in (ours, loaded)
        if each.values and numpy.values
    ]
    return Row("import", "import", ours=ours, rivals=[loaded, numpy], verdicts=verdicts)


def macho(runs: int) -> Row:
    """A library of Mach-O objects for x86-64, against the same sources as ELF objects."""
    return against_elf("macho", "x86_64-macos", runs, jitlink_runner)


def macho_arm64(runs: int) -> Row:
    """A library of Mach-O objects for arm64 as an image, against the same sources as ELF objects for x86-64."""
    return against_elf("macho-arm64", "aarch64-macos", runs, image_runner)


def coff(runs: int) -> Row:
    """A library of COFF objects for x86-64, against the same sources as ELF objects."""
    return against_elf("coff", "x86_64-windows-gnu", runs, jitlink_runner)


def coff_arm64(runs: int) -> Row:
    """A library of COFF objects for ARM64 as an image, against the same sources as ELF objects for x86-64."""
    return against_elf("coff-arm64", "aarch64-windows-gnu", runs, image_runner)


def against_elf(name: str, target: str, runs: int, runner: Callable[[Work, str], Runner]) -> Row:
    """Measure the generated library in another format; judge it by the time of a relocation in ELF on x86-64."""
    work, elf = library(target), library("x86_64-linux-gnu")
    ours, theirs = take_turns([runner(work, "jitlink"), runner(elf, "jitlink, as ELF for x86-64")], runs)
    counts = [relocations(each) for each in (work, elf)]
    row = Row(name, work.name, ours=ours, rivals=[theirs])
    value = None
    if ours.values and theirs.values:
        value = (ours.median / counts[0]) / (theirs.median / counts[1])
    row.verdicts = [Verdict(f"at most {FORMAT_LIMIT} of ELF's time for a relocation", FORMAT_LIMIT, value)]
    row.notes = [f"{counts[0]:,} relocations, against {counts[1]:,} in ELF"]
    return row


def relocations(work: Work) -> int:
    """Count the relocations that a link of a work applies."""
    import jitlink

    graph = jitlink.read(work.given)
    return int(graph.blocks.live[graph.edges.block[1:]].sum())


ROWS: dict[str, Callable[[int], Row]] = {
    "libcrypto": libcrypto,
    "libsqlite3": libsqlite3,
    "sections": sections,
    "plain": plain,
    "many-sections": many_sections,
    "small": small,
    "memory": memory,
    "import": imports,
    "macho": macho,
    "macho-arm64": macho_arm64,
    "coff": coff,
    "coff-arm64": coff_arm64,
}


def against_everyone(
    name: str,
    work: Work,
    runs: int,
    *,
    limit: float,
    aim: float | None = None,
    twice: Work | None = None,
    half: Work | None = None,
) -> Row:
    """Measure a work against all rivals; judge it by the fastest llvm-jitlink, and by its growth."""
    label = f"jitlink, {'twice' if twice else 'half'} as much"
    row = measured(name, work, runs, twice or half, label=label)
    row.verdicts = [ratio_to_fastest(row, "llvm-jitlink", limit, "the fastest llvm-jitlink")]
    if aim is not None:
        row.verdicts.append(ratio_to_fastest(row, "llvm-jitlink", aim, "it is the aim"))
    if row.resized is not None:
        row.verdicts.append(growth(row.ours, row.resized) if twice else growth(row.resized, row.ours))
    return row


def measured(
    name: str, work: Work, runs: int, resized: Work | None = None, *, label: str = "", repetitions: int = 1
) -> Row:
    """Measure ours, ours at the resized work under a label, and all rivals, in turns."""
    ours = jitlink_runner(work)
    others = [jitlink_runner(resized, label)] if resized is not None else []
    series = take_turns([ours, *others, *all_rivals(work)], runs, repetitions)
    row = Row(name, work.name, ours=series[0], resized=series[1] if others else None, rivals=series[1 + len(others) :])
    fresh = in_fresh_processes(ours, FRESH_PROCESSES)
    if fresh.values:
        row.notes = [f"first link in a fresh process: {row.unit.show(fresh.median)}"]
    return row


def ratio_to_fastest(row: Row, named: str, limit: float, shown: str) -> Verdict:
    """Judge ours by the lowest median of the rivals whose label begins with a name."""
    medians = [series.median for series in row.rivals if series.values and series.label.startswith(named)]
    value = row.ours.median / min(medians) if medians and row.ours.values else None
    return Verdict(f"at most {limit:.2f} of {shown}", limit, value)


def growth(smaller: Series, larger: Series) -> Verdict:
    """Judge how the time grows when the work doubles."""
    value = larger.median / smaller.median if smaller.values and larger.values else None
    return Verdict(f"at most {GROWTH_LIMIT} times for twice the work", GROWTH_LIMIT, value)


def peaks(runner: Runner, runs: int) -> Series:
    """Measure the peak memory of that many fresh processes."""
    series = Series(runner.label)
    try:
        series.values = [float(runner.peak()) for _ in range(runs)]
    except Failed as failed:
        series.failure = str(failed)
    return series


def sample_import(series: Series) -> None:
    """Add the time of one import in a fresh process, as seen from inside, without starting Python."""
    code = f"from time import perf_counter as t; a = t(); {series.label}; print(t() - a)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        series.failure = done.stderr.strip().splitlines()[-1]
    else:
        series.values.append(float(done.stdout))


def run_row(name: str, runs: int) -> Row:
    """Measure one row; one that this machine cannot measure says why."""
    try:
        return ROWS[name](runs)
    except NotAvailable as reason:
        return Row(name, name, skipped=str(reason))


def main() -> None:
    """Measure the rows asked for and report them."""
    parser = argparse.ArgumentParser(description="Measure jitlink against every other linker of this machine.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--runs", type=int, default=7, help="turns of each linker in a row (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here as Markdown")
    options = parser.parse_args()

    console = Console()
    facts = machine() | {"compiler": compiler_version()}
    console.print(", ".join(f"{what} {value}" for what, value in facts.items()), soft_wrap=True)
    rows = []
    for name in options.rows:
        rows.append(run_row(name, options.runs))
        print_row(rows[-1], console)
    if options.json:
        write_json(options.json, rows, facts)
    if options.markdown:
        options.markdown.write_text(markdown(rows))


if __name__ == "__main__":
    main()
