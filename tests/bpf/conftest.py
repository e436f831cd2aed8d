"""Tests that load programs, and name no tier, run once in each: what a program does does not depend on it.

Whoever sets JITLINK_BPF_TIER runs them in that tier alone. What LLVM makes is kept among the other things that pytest
keeps, and not where users have it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.bpf.machines import TIERS

IN_EVERY_TIER = {
    *("test_helpers", "test_helpers_packets", "test_helpers_text", "test_hostile_programs", "test_linking"),
    *("test_loader", "test_observation", "test_program", "test_pytest_plugin"),
}
"""The files, besides those that go through the tiers themselves."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in IN_EVERY_TIER and not os.environ.get("JITLINK_BPF_TIER"):
        metafunc.parametrize("tier_of_programs", TIERS, indirect=True, scope="module")


@pytest.fixture(autouse=True, scope="module")
def tier_of_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let programs run in a tier, where the module is parametrized with one."""
    tier = getattr(request, "param", "")
    with pytest.MonkeyPatch.context() as patch:
        if tier:
            patch.setenv("JITLINK_BPF_TIER", tier)
        yield


@pytest.fixture(autouse=True, scope="session")
def kept_objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let what LLVM makes be kept for the next run of the tests; without pytest's cache for this one."""
    cache = request.config.cache if request.config.pluginmanager.hasplugin("cacheprovider") else None
    directory = cache.mkdir("bpf") if cache is not None else tmp_path_factory.mktemp("bpf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory))
        yield
