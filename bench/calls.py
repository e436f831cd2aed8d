"""What it costs to call linked code, to reach its thread-locals, and to register its unwind records.

    python bench/calls.py [--rounds N] [--calls N]

Three tables. **Calls**: functions that do next to nothing, compiled once with -O2 -g, called (a) by their
debug information, (b) by ctypes with argtypes and restype set, (c) by cffi, from declarations; (b) and (c)
from a shared library that the same compiler made of the same source. They take turns, and the median of
the rounds is shown, less what an empty loop takes. **Thread-locals**: a loop over a thread-local counter in
linked code, and the same code in a shared library. **Unwinding**: what the link of libcrypto.a spends on
its unwind records, checking them and registering them, of the whole.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from timeit import Timer
from typing import Any

import cffi
import numpy as np
from drivers import load_process_libraries
from inputs import library
from rich.console import Console
from rich.table import Table

import jitlink
from jitlink.runtime import unwind_chain

SOURCE = """
typedef struct { int x; double y; } pair;
int add(int a, int b) { return a + b; }
double sum3(double a, double b, double c) { return a + b + c; }
long first(const char *text) { return text[0]; }
double weigh(pair p, double by) { return (p.x + p.y) * by; }
double at(const double *values, long n) { return values[n]; }
void nothing(void) {}
"""
DECLARATIONS = """
typedef struct { int x; double y; } pair;
int add(int, int);
double sum3(double, double, double);
long first(const char *);
double weigh(pair, double);
double at(const double *, long);
void nothing(void);
"""
THREAD_LOCAL = """
static _Thread_local long counter;
/* A call for each step, or else the compiler looks the address up once. */
__attribute__((noinline)) static long add_to_counter(long by) { return counter += by; }
long count(long n) { long last = 0; for (long i = 0; i < n; i++) last = add_to_counter(i); return last; }
"""
STEPS = 1_000_000
"""Of the loop over a thread-local."""


class Pair(ctypes.Structure):
    """The structure of the source."""

    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))


def compiler() -> list[str]:
    """A C compiler of the machine, or zig's."""
    found = next((name for name in ("gcc", "clang", "cc") if shutil.which(name)), None)
    return [found] if found else [sys.executable, "-m", "ziglang", "cc"]


@contextmanager
def compiled(source: str, *flags: str) -> Iterator[tuple[Path, Path]]:
    """Compile a source to an object, and link that to a shared library."""
    with tempfile.TemporaryDirectory() as directory:
        text, made, shared = (Path(directory, name) for name in ("source.c", "source.o", "source.so"))
        text.write_text(source)
        subprocess.run([*compiler(), "-O2", "-g", "-fPIC", *flags, "-c", "-o", made, text], check=True)
        subprocess.run([*compiler(), "-shared", "-o", shared, made], check=True)
        yield made, shared


Contender = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function, and what it is called with."""


def contenders(linked: jitlink.Library, shared: Path) -> dict[str, dict[str, Contender]]:
    """The functions of each row: by debug information, by ctypes, by cffi."""
    native = ctypes.CDLL(str(shared))
    number, text = ctypes.c_double, ctypes.c_char_p
    array = np.ctypeslib.ndpointer(np.float64, flags="C")
    for name, restype, argtypes in (
        ("add", ctypes.c_int, (ctypes.c_int, ctypes.c_int)),
        ("sum3", number, (number, number, number)),
        ("first", ctypes.c_long, (text,)),
        ("weigh", number, (Pair, number)),
        ("at", number, (array, ctypes.c_long)),
        ("nothing", None, ()),
    ):
        function = getattr(native, name)
        function.restype, function.argtypes = restype, argtypes
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    by_cffi = ffi.dlopen(str(shared))
    values = np.arange(10.0)
    pair, from_buffer, doubles = ffi.new("pair *", (1, 2.5))[0], ffi.from_buffer, ffi.typeof("double[]")
    at = by_cffi.at

    def at_by_cffi(values: Any, n: int) -> Any:
        return at(from_buffer(doubles, values), n)

    rows: dict[str, tuple[str, tuple[Any, ...]]] = {
        "int (int, int)": ("add", (1, 2)),
        "double (double, double, double)": ("sum3", (1.0, 2.0, 3.0)),
        "long (const char *), bytes": ("first", (b"hello",)),
        "double (const double *, long), array": ("at", (values, 3)),
        "double (struct, double)": ("weigh", ()),
        "void (void)": ("nothing", ()),
    }
    found: dict[str, dict[str, Contender]] = {}
    for row, (name, arguments) in rows.items():
        found[row] = {
            "jitlink": (getattr(linked, name), arguments or ()),
            "ctypes": (getattr(native, name), arguments),
            "cffi": (at_by_cffi if name == "at" else getattr(by_cffi, name), arguments),
        }
    weigh = found["double (struct, double)"]
    for label, structure in (("jitlink", linked.new("pair", (1, 2.5))[0]), ("ctypes", Pair(1, 2.5)), ("cffi", pair)):
        weigh[label] = (weigh[label][0], (structure, 2.0))
    return found


def timer_of(contender: Contender) -> Timer:
    """A timer of calls with constant arguments that are held in variables."""
    function, arguments = contender
    names = [f"a{number}" for number in range(len(arguments))]
    return Timer(f"f({', '.join(names)})", globals={"f": function, **dict(zip(names, arguments, strict=True))})


def measure_calls(rounds: int, calls: int, console: Console) -> None:
    """Print the median cost of a call, for each function and contender."""
    table = Table("function", "jitlink", "ctypes", "cffi", "of ctypes", title="a call, ns")
    empty = Timer("pass")
    with compiled(SOURCE) as (made, shared), jitlink.load(made) as linked:
        for row, each in contenders(linked, shared).items():
            timers = {label: timer_of(contender) for label, contender in each.items()}
            samples: dict[str, list[float]] = {label: [] for label in timers}
            for _ in range(rounds):
                idle = empty.timeit(calls)
                for label, timer in timers.items():
                    samples[label].append((timer.timeit(calls) - idle) / calls)
            medians = {label: median(values) * 1e9 for label, values in samples.items()}
            ratio = medians["jitlink"] / medians["ctypes"]
            table.add_row(row, *(f"{medians[label]:.0f}" for label in timers), f"{ratio:.2f}")
    console.print(table)


def measure_thread_locals(rounds: int, console: Console) -> None:
    """Print what a step of a loop over a thread-local costs, in linked code and in a shared library."""
    table = Table("model", "linked, ns", "shared library, ns", "ratio", title="a thread-local, read and written")
    for model, flags in (
        ("general dynamic", ("-ftls-model=global-dynamic",)),
        ("local dynamic", ("-ftls-model=local-dynamic",)),
        ("initial exec", ("-ftls-model=initial-exec",)),
    ):
        with compiled(THREAD_LOCAL, *flags) as (made, shared):
            try:
                linked = jitlink.load(made)
            except jitlink.LinkError as error:
                table.add_row(model, "not linked", "", str(error).partition("\n")[0][:60])
                continue
            with linked:
                prototype = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)
                functions = [linked.function("count", ctypes.c_long, [ctypes.c_long])]
                functions.append(prototype(("count", ctypes.CDLL(str(shared)))))
                samples: list[list[float]] = [[], []]
                for _ in range(rounds):
                    for function, values in zip(functions, samples, strict=True):
                        start = perf_counter()
                        function(STEPS)
                        values.append((perf_counter() - start) / STEPS)
                # A loop over one word in memory has a fast and a slow mode, which come and go: the best is shown.
                own, other = (min(values) * 1e9 for values in samples)
                table.add_row(model, f"{own:.2f}", f"{other:.2f}", f"{own / other:.2f}")
    console.print(table)


def measure_unwinding(rounds: int, console: Console) -> None:
    """Print what unwind records cost in the link of libcrypto.a."""
    load_process_libraries()
    samples: dict[str, list[float]] = {"check": [], "register": [], "link": []}
    check = unwind_chain.unwind_chain
    with jitlink.Session() as session:
        register = session.unwinding.add

        def timed(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                start = perf_counter()
                result = function(*arguments)
                samples[label].append(perf_counter() - start)
                return result

            return call

        sys.modules["jitlink.session"].unwind_chain = timed("check", check)  # type: ignore[attr-defined]
        session.unwinding.add = timed("register", register)  # type: ignore[method-assign]
        for _ in range(rounds + 1):
            dylib = session.dylib("unwinding")
            start = perf_counter()
            dylib.add(str(library("libcrypto.a")), whole_archive=True, dead_strip=False).link()
            samples["link"].append(perf_counter() - start)
            dylib.close()
    sys.modules["jitlink.session"].unwind_chain = check  # type: ignore[attr-defined]
    whole = median(samples["link"][1:])
    table = Table("part of the link of libcrypto.a", "median, ms", "share", title="unwind records")
    for label, name in (
        ("check", "checking the records"),
        ("register", "registering them"),
        ("link", "the whole link"),
    ):
        taken = median(samples[label][1:])
        table.add_row(name, f"{taken * 1e3:.2f}", f"{taken / whole:.1%}")
    console.print(table)


def main() -> None:
    """Measure calls, thread-locals and unwinding."""
    parser = argparse.ArgumentParser(description="Show what it costs to call linked code.")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=50_000, help="calls in a turn (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    measure_calls(options.rounds, options.calls, console)
    measure_thread_locals(options.rounds, console)
    measure_unwinding(options.rounds, console)


if __name__ == "__main__":
    main()
