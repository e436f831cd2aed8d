"""The pytest plugin: fixtures, the marker, coverage; and that it costs nothing where it is not used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bpf.sources import compiled

ROOT = Path(__file__).parents[2]
SOURCE = """
u64 runs;
SEC("xdp") int drops_odd(struct xdp_md *context)
{
    runs++;
    if (context->data_end - context->data > 1000)
        trace_printk("", 0);
    if ((context->data_end - context->data) & 1)
        return 1;
    return 2;
}
SEC("tc") int other(void *context) { return 0; }
"""
TESTS = """
import pytest

pytestmark = pytest.mark.bpf("made.o", program="drops_odd")

@pytest.mark.parametrize("length", [61, 63])
def test_odd(bpf_program, length):
    assert bpf_program.run(bytes(length)).action == "XDP_DROP"
    assert bpf_program.globals["runs"] == 1, "every test has a program of its own"

@pytest.mark.bpf("made.o")
def test_object(bpf_object):
    assert list(bpf_object) == ["drops_odd", "other"]

@pytest.mark.bpf("made.o", program="other")
def test_nearest_marker_counts(bpf_program, bpf_object):
    assert bpf_program.name == "other"
    assert bpf_program.object is bpf_object
"""


def run_pytest(directory, *arguments):
    """Run pytest with the plugin in a directory that is no part of the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pytest_jitlink", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.fixture
def project(tmp_path):
    """A directory with a compiled object and tests of it."""
    (tmp_path / "made.o").write_bytes(compiled(SOURCE))
    (tmp_path / "test_made.py").write_text(TESTS)
    return tmp_path


def test_fixtures_give_the_program_that_the_marker_names(project):
    """Paths are relative to the test, the nearest marker counts, and the marker is known to --strict-markers."""
    done = run_pytest(project, "--strict-markers")
    assert "4 passed" in done.stdout, done.stdout


def test_a_test_without_a_marker_is_told_so(project):
    """The error names the test and says what to write."""
    (project / "test_made.py").write_text("def test_it(bpf_program): pass")
    done = run_pytest(project)
    assert "test_it names no BPF object: @pytest.mark.bpf('object.o')" in done.stdout


def test_several_programs_need_a_name(project):
    """Without a name the error lists the programs of the object."""
    (project / "test_made.py").write_text("import pytest\n@pytest.mark.bpf('made.o')\ndef test_it(bpf_program): pass")
    assert "the object has drops_odd, other" in run_pytest(project).stdout


def test_coverage_is_written_for_lcov(project):
    """--bpf-lcov leaves records of every test, whose lines that no test reached have the count 0."""
    done = run_pytest(project, "--bpf-lcov=out.info", "-k", "odd")
    assert done.returncode == 0, done.stdout
    text = (project / "out.info").read_text()
    assert text.count("end_of_record") == 2
    assert "FNDA:1,drops_odd" in text
    lines = {row for row in text.splitlines() if row.startswith("DA:")}
    assert any(row.endswith(",0") for row in lines)
    assert any(row.endswith(",1") for row in lines)


def test_the_plugin_loads_nothing_that_is_not_used(tmp_path):
    """A run of pytest that asks for no fixture of the plugin imports neither jitlink nor numpy."""
    (tmp_path / "test_light.py").write_text(
        "import sys\ndef test_light():\n    assert 'jitlink' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = run_pytest(tmp_path)
    assert "1 passed" in done.stdout, done.stdout
