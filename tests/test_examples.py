"""The examples: each runs as a program, without a warning, and prints what its text promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOT_PROGRAMS = {"c_compiler.py"}


def run(name):
    """Run an example in a process of its own; returns its output."""
    result = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_smallest_jit():
    """Six bytes of machine code return 48."""
    assert run("smallest_jit.py") == "answer() = 48\n"


def test_c_from_python():
    """1*4 + 2*5 + 3*6 is 32, ten times that after the variable was set, and structs go both ways."""
    assert run("c_from_python.py") == "dot = 32.0\ndot, scaled = 320.0\nmiddle = (1.0, 4.0)\n"


def test_llvm_ir():
    """2*16 - 3*4 + 5 is 25."""
    assert run("llvm_ir.py") == "2 x^2 - 3 x + 5 at 4 = 25.0\n"


@pytest.mark.needs("libsqlite3.a")
def test_archive():
    """SQLite counts the rows and adds up the squares: n (n + 1) (2 n + 1) / 6 for n = 10,000."""
    version, rows, total = run("archive.py").splitlines()
    assert version.startswith("SQLite 3.")
    assert rows == "rows = 10000"
    assert total == f"total = {10_000 * 10_001 * 20_001 // 6}"


def test_callbacks():
    """C sorts by a Python function and hands each value to another."""
    assert run("callbacks.py") == "visited, sorted by last digit: [31, 91, 12, 22, 15]\n"


def test_count_calls():
    """fibonacci(20) takes 2 F(21) - 1 calls, the first from Python, and one addition for each that has two more."""
    calls = 2 * 10_946 - 1
    result, additions, recursion = run("count_calls.py").splitlines()
    assert result == "fibonacci(20) = 6765"
    assert additions == f"calls_of_add = {(calls - 1) // 2}"
    assert recursion == f"calls_of_fibonacci = {calls - 1}"


def test_image():
    """The map shows the image at its base; the emulated processor computes 39 + 3 with its bytes."""
    pytest.importorskip("unicorn", reason="unicorn is not installed")
    output = run("image.py")
    assert output.startswith("image at 0x10000000, ")
    assert output.endswith("next(39) = 42\n")


def test_every_example_is_run_here():
    """An example that no test runs would rot."""
    programs = {path.name for path in EXAMPLES.glob("*.py")} - NOT_PROGRAMS
    source = Path(__file__).read_text()
    assert {name for name in programs if f'run("{name}")' not in source} == set()
