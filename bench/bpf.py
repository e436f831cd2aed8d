"""BPF: how fast programs run in each tier, and how long it takes to load and compile them.

    python bench/bpf.py [--runs N]

The programs of bench/bpf_programs.c run natively (clang -O2, else zig -O2) and as BPF, in one go and on the
same data; a figure is the time over the native one. Operations of a hash map are stated by the round of a loop.

Packets are those of run_many, in a second of one core's time. DPDK's machine, where it is installed, loads and runs
what its verifier takes beside ours.

Compiling is everything from decoded instructions to code that can be called, of straight code with as many
branches and accesses as clang's has; by LLVM it is everything from bytes on, also of the object below.

Loading is everything from the bytes of an object to a program that can be run: reading, types (BTF),
linking, maps, verification. The object is made here by zig: 4,000 instructions in functions that the
program calls, and 20 maps. The first run of a program translates it, and is stated apart.

The interpreter's speed is that of four loops of different make-up, in instructions a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import thread_time

from bpf_native import (
    build,
    print_compiling,
    print_llvm_compiling,
    print_many,
    print_maps,
    print_programs,
    print_runs,
)
from bpf_rivals import print_rivals
from rich.console import Console
from rich.table import Table

from jitlink import bpf

MAPS = 20
FUNCTIONS = 40
ROUNDS = 100_000
BUDGET = 1 << 40

LOOPS = {
    "arithmetic": """
        r0 = 1
        r1 = {rounds}
    again:
        r0 *= 3
        r0 += r1
        r0 ^= 255
        r0 >>= 1
        r1 += -1
        if r1 != 0 goto again
        exit
    """,
    "memory": """
        r1 = {rounds}
        *(u64 *)(r10 - 8) = r1
    again:
        r2 = *(u64 *)(r10 - 8)
        r2 += -1
        *(u64 *)(r10 - 8) = r2
        if r2 != 0 goto again
        r0 = 0
        exit
    """,
    "32 bits": """
        w0 = 1
        w1 = {rounds}
    again:
        w0 *= 5
        w0 += w1
        w1 += -1
        if w1 != 0 goto again
        exit
    """,
    "calls": """
        r6 = {rounds}
    again:
        r1 = r6
        call local callee
        r6 += -1
        if r6 != 0 goto again
        exit
    callee:
        r0 = r1
        exit
    """,
}


def source() -> str:
    """C of an XDP program with MAPS maps and about 4,000 instructions in FUNCTIONS functions."""
    lines = [
        "typedef unsigned int u32; typedef unsigned long long u64;",
        "static void *(*const lookup)(void *, const void *) = (void *)1;",
        "struct value { u64 packets, bytes; };",
    ]
    lines += [
        "struct { int (*type)[1]; u32 *key; struct value *value; int (*max_entries)[1024]; } "
        f'map{number} __attribute__((section(".maps"), used));'
        for number in range(MAPS)
    ]
    calls = []
    for number in range(FUNCTIONS):
        steps = "".join(f" x = x * {step + 3} ^ (x >> {step % 13 + 1});" for step in range(number, number + 22))
        lines.append(
            f"__attribute__((noinline)) u64 f{number}(u64 x) {{{steps} u32 key = x & 1023;"
            f" struct value *value = lookup(&map{number % MAPS}, &key);"
            " if (value) { value->packets++; value->bytes += x; } return x; }"
        )
        calls.append(f"x = f{number}(x);")
    lines.append(
        '__attribute__((section("xdp"), used)) int program(u32 *context)'
        f" {{ u64 x = context[1] - context[0]; {' '.join(calls)} return x & 1; }}"
    )
    return "\n".join(lines)


def compiled() -> bytes:
    """Compile the object."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "made.c")
        path.write_text(source())
        flags = ("-target", "bpfel-freestanding", "-mcpu=v3", "-O2", "-g", "-fno-sanitize=undefined")
        subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", *flags, "-c", "made.c", "-o", "made.o"], cwd=name, check=True
        )
        return Path(name, "made.o").read_bytes()


def timed(action: Callable[[], object], runs: int) -> float:
    """The median of the seconds of processor time that an action takes."""
    samples = []
    for _ in range(runs):
        start = thread_time()
        action()
        samples.append(thread_time() - start)
    return median(samples)


def print_loading(console: Console, runs: int, content: bytes) -> None:
    """Print how long the steps of loading an object take."""
    program = bpf.load(content)
    slots = len(program.instructions)
    table = Table("loading", "median, ms")
    table.add_row(f"an object of {slots:,} instruction slots and {MAPS} maps", f"{1e3 * loading(content, runs):.2f}")
    table.add_row("  of which: read and link", f"{1e3 * timed(lambda: bpf.link(content), runs):.2f}")
    table.add_row("  of which: verify", f"{1e3 * timed(program.verify, runs):.2f}")
    start = thread_time()
    program.run(bytes(60))
    table.add_row("the first run, which translates the program", f"{1e3 * (thread_time() - start):.2f}")
    table.add_row("a run after that", f"{1e3 * timed(lambda: program.run(bytes(60)), runs):.3f}")
    console.print(table)


def loading(content: bytes, runs: int) -> float:
    """The median of the seconds from bytes to a program, each closed before the next."""
    samples = []
    for _ in range(runs):
        start = thread_time()
        program = bpf.load(content)
        samples.append(thread_time() - start)
        program.object.close()
    return median(samples)


def print_speed(console: Console, runs: int) -> None:
    """Print how many instructions a second the interpreter runs."""
    table = Table("loop", "million instructions a second")
    for name, text in LOOPS.items():
        program = bpf.load(bpf.assemble(text.format(rounds=ROUNDS)), tier="interpreter")
        seconds = timed(lambda program=program: program.run(budget=BUDGET), runs)  # type: ignore[misc]
        table.add_row(name, f"{program.run(budget=BUDGET).instructions / seconds / 1e6:.2f}")
    console.print(table)


def main() -> None:
    """Measure loading and running."""
    parser = argparse.ArgumentParser(description="Measure how BPF programs load and run.")
    parser.add_argument("--runs", type=int, default=15, help="samples of each figure (default: %(default)s)")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200)
    with tempfile.TemporaryDirectory() as directory:
        library, machine_code = build(Path(directory))
    print_programs(console, options.runs, library, machine_code)
    print_maps(console, options.runs, library, machine_code)
    print_compiling(console, options.runs)
    content = compiled()
    print_llvm_compiling(console, min(options.runs, 3), content)
    print_runs(console, options.runs)
    print_many(console, options.runs)
    print_rivals(console, options.runs, library)
    print_loading(console, options.runs, content)
    print_speed(console, min(options.runs, 5))


if __name__ == "__main__":
    main()
