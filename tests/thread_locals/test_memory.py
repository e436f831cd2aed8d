"""Memory of threads that ended is given back."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

import jitlink
from tests import toolchain
from tests.thread_locals.programs import NATIVE, NativeThread, compiled

pytestmark = NATIVE

QUARTER_MEGABYTE = 1 << 18
SOURCE = f"""
    __thread char block[{QUARTER_MEGABYTE}] = {{1}};
    int fill(void) {{ for (int i = 0; i < {QUARTER_MEGABYTE}; i += 64) block[i]++; return block[0]; }}
"""
THREADS = 1000


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("dialect", ["gnu", "gnu2"])
def test_copies_of_threads_that_ended_are_freed(dialect: str) -> None:
    """A thousand threads fill a quarter of a MiB each, one after the other; the process does not keep it."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(compiled("gcc", SOURCE, "-O2", "-fPIC", f"-mtls-dialect={dialect}"))
        fill = ctypes.CFUNCTYPE(ctypes.c_int)(dylib["fill"].address)
        for round in range(THREADS):
            thread = NativeThread(fill)
            thread.start()
            assert thread.join() == 2
            if round == 20:
                before = resident()
    # All copies together would be 250 MiB.
    assert resident() - before < 30 * QUARTER_MEGABYTE


def test_closing_gives_back_the_copies_of_living_threads() -> None:
    """A dylib after the other in one thread: their blocks do not add up."""
    code = toolchain.zig_cc(SOURCE, "-O2")
    for round in range(200):
        with jitlink.Session() as session:
            assert ctypes.CFUNCTYPE(ctypes.c_int)(session.dylib().add(code)["fill"].address)() == 2
        if round == 20:
            before = resident()
    assert resident() - before < 60 * QUARTER_MEGABYTE


def test_registering_destructors_leaves_no_memory_behind() -> None:
    """What keeps note of destructors is freed when they have run."""
    source = """
        extern "C" void *malloc(unsigned long); extern "C" void free(void *);
        struct Object { void *held; Object() : held(malloc(100000)) {} ~Object() { free(held); } };
        extern "C" int touch(void) { thread_local Object object; return object.held != 0; }
    """
    code = toolchain.zig_cc(source, "-O2", "-fno-exceptions", language="c++")
    with jitlink.Session() as session:
        touch = ctypes.CFUNCTYPE(ctypes.c_int)(session.dylib().add(code)["touch"].address)
        for round in range(THREADS):
            thread = NativeThread(touch)
            thread.start()
            assert thread.join() == 1
            if round == 20:
                before = resident()
    assert resident() - before < 10 * QUARTER_MEGABYTE
