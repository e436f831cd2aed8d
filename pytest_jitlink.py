"""A pytest plugin: BPF programs as fixtures, and the coverage of their source lines.

    @pytest.mark.bpf("firewall.o", program="xdp_main")
    def test_xdp_drops_syn(bpf_program):
        assert bpf_program.run(SYN).action == "XDP_DROP"

The marker takes what jitlink.bpf.load takes; paths are relative to the test's own directory. It may stand
at a function, a class or a module (`pytestmark`). Every test gets a program of its own, with fresh maps.
bpf_object is the loaded object with all its programs.

With --bpf-lcov=FILE, the source lines that the tests have reached are written as an lcov tracefile.

Nothing but pytest is imported before a test asks for a fixture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jitlink.bpf import BpfObject, Program

MARKER = "bpf(*sources, program=None, **options): the BPF object of the test, as for jitlink.bpf.load"
RECORDS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("jitlink", "BPF programs")
    group.addoption("--bpf-lcov", metavar="FILE", help="write which source lines of BPF programs ran, for lcov")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    config.stash[RECORDS] = []
    path = config.getoption("--bpf-lcov")
    if path and not hasattr(config, "workerinput"):
        Path(path).write_text("")


def pytest_unconfigure(config: pytest.Config) -> None:
    path, records = config.getoption("--bpf-lcov"), config.stash.get(RECORDS, [])
    if path and records:
        # Each process of pytest-xdist adds what its own tests have reached.
        with Path(path).open("a") as file:
            file.write("".join(records))


@pytest.fixture
def bpf_object(request: pytest.FixtureRequest) -> Iterator[BpfObject]:
    """The BPF object that the marker bpf names, loaded for this test."""
    from jitlink.bpf import Coverage, load_object

    sources, options = _marked(request)
    options.pop("program", None)
    loaded = load_object(*sources, **options)
    coverage = Coverage() if request.config.getoption("--bpf-lcov") else None
    loaded.machine.hook = coverage
    try:
        yield loaded
    finally:
        if coverage is not None:
            test = re.sub(r"\W", "_", request.node.nodeid)
            records = request.config.stash[RECORDS]
            records += [program.lcov(coverage, test=test) for program in loaded.loaded]
        loaded.close()


@pytest.fixture
def bpf_program(request: pytest.FixtureRequest, bpf_object: BpfObject) -> Program:
    """The BPF program that the marker bpf names, or the only one of its object."""
    name = _marked(request)[1].get("program")
    return bpf_object.only_program() if name is None else bpf_object[name]


def _marked(request: pytest.FixtureRequest) -> tuple[list[Any], dict[str, Any]]:
    """The sources and options of the marker; what is nearest to the test counts."""
    marker = request.node.get_closest_marker("bpf")
    if marker is None or not marker.args:
        raise pytest.UsageError(f"{request.node.nodeid} names no BPF object: @pytest.mark.bpf('object.o')")
    directory = request.path.parent
    sources = [directory / each if isinstance(each, str) else each for each in marker.args]
    return sources, dict(marker.kwargs)
