"""What all tests share: where compiled objects are kept, what a test needs, how many examples it tries.

Environment: JITLINK_MUTATIONS=N is how many examples each mutation test tries (those that take the
hypothesis profile "mutations"); CI makes hypothesis choose the same examples every time;
JITLINK_REQUIRE_TOOLS is explained in toolchain.py.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests import toolchain

EXAMPLES = 50
MUTATIONS = 100

# No deadlines anywhere: a slow machine is not a wrong answer.
settings.register_profile("default", max_examples=EXAMPLES, deadline=None)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
settings.register_profile("mutations", max_examples=int(os.environ.get("JITLINK_MUTATIONS", MUTATIONS)))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): programs, and static libraries (lib*.a), that the test uses")
    # Without it (-p no:cacheprovider) the toolchain keeps its results only for as long as the run lasts.
    if config.pluginmanager.hasplugin("cacheprovider") and config.cache is not None:
        toolchain.keep_in(config.cache.mkdir("toolchain"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if name.endswith(".a"):
                toolchain.needs_library(name)
            else:
                toolchain.needs(name)
