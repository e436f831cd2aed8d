"""The BPF examples: their tests pass as their READMEs say, and their objects are what their sources compile to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import toolchain
from tests.bpf.machines import TIERS

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("bpf_*"))


def run_tests(directory, tier=""):
    """Run `python -m pytest` in a directory, with the plugin that an installation brings; in a tier by its name."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pytest_jitlink", "-p", "no:cacheprovider"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JITLINK_BPF_TIER": tier},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.name)
def example(request, tmp_path):
    """A copy of an example, outside of the checkout."""
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


def test_there_are_three():
    """A firewall, a counter and a rate limiter, each with source, object, tests and README."""
    assert [path.name for path in EXAMPLES] == ["bpf_rate_limiter", "bpf_tc_counter", "bpf_xdp_firewall"]
    for path in EXAMPLES:
        suffixes = {file.suffix for file in path.iterdir() if file.is_file()}
        assert {".c", ".o", ".py", ".md"} <= suffixes


@pytest.mark.parametrize("tier", TIERS)
def test_an_example_passes_with_its_object(example, tier):
    """The tests pass with the compiled object that ships, without a compiler, in every tier."""
    run_tests(example, tier)


@pytest.mark.parametrize("flags", [("-O2", "-mcpu=v1"), ("-O2", "-mcpu=v4"), ("-O1", "-mcpu=v3")], ids=" ".join)
def test_an_example_passes_when_it_is_compiled_here(example, flags):
    """The tests pass with what the C source compiles to, at several levels and versions of the instruction set."""
    (source,) = example.glob("*.c")
    machine_code = toolchain.zig_cc(source.read_text(), "-g", *flags, target="bpfel-freestanding")
    source.with_suffix(".o").write_bytes(machine_code)
    run_tests(example)


@pytest.mark.parametrize("compiler", ["clang", "clang-22"])
def test_an_example_passes_when_clang_compiles_it(example, compiler):
    """The tests pass with the object of another compiler."""
    (source,) = example.glob("*.c")
    flags = ("--target=bpf", "-O2", "-g", "-mcpu=v3")
    source.with_suffix(".o").write_bytes(toolchain.compile_with(source.read_text(), *flags, compiler=compiler))
    run_tests(example)
