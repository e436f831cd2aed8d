"""A function of a program that is replaced while the program is in use."""

from __future__ import annotations

import gc
import threading
from functools import cache

import numpy as np
import pytest

from jitlink import bpf
from jitlink.bpf.jit.images import Image
from jitlink.bpf.llvm_tier.images import LlvmImage
from jitlink.errors import LinkError, UnsupportedInput, UsageError
from tests.bpf.machines import needs_native_code
from tests.bpf.sources import compiled

TIERS = [
    "interpreter",
    pytest.param("jit", marks=needs_native_code),
    pytest.param("llvm", marks=needs_native_code),
]
COUNTS = (
    'struct { __uint(type, 2); __type(key, u32); __type(value, u64); __uint(max_entries, %d); } counts SEC(".maps");'
)
MAIN = """
static NOINLINE int unchanged(int x) { return x + 1000; }
SEC("xdp") int program(struct xdp_md *context) { return unchanged(digit(context)) + 10 * digit(context); }
char _license[] SEC("license") = "GPL";
"""
DIGIT = """
NOINLINE int digit(struct xdp_md *context) {
    u32 key = 0;
    u64 *count = map_lookup(&counts, &key);
    if (count) (*count)++;
    return %s;
}
"""


@cache
def whole() -> bytes:
    """A program that calls digit twice, and counts it in a map."""
    return compiled(COUNTS % 1 + DIGIT % "1 + (context->data == 77)" + MAIN)


@cache
def version(number: int, source: str = DIGIT, entries: int = 1) -> bytes:
    """Another digit. It looks at the context, so that no compiler passes by what it returns."""
    return compiled(COUNTS % entries + source % f"{number} + (context->data == 77)")


@pytest.fixture(params=TIERS)
def program(request):
    """The program in each tier in turn."""
    return bpf.load(whole(), tier=request.param, cache=False)


def test_a_replaced_function_is_called_and_maps_keep_their_contents(program):
    """Every call of the function leads to the new version; the map that both use counts on."""
    assert program.run(bytes(20)) == 1011
    program.replace("digit", version(2))
    assert program.run(bytes(20)) == 1022
    program.replace("digit", version(7))
    assert program.run(bytes(20)) == 1077
    assert program.run_many([bytes(20)] * 2).retval.tolist() == [1077, 1077]
    assert program.maps["counts"][0] == 10


def test_the_program_itself_can_be_replaced(program):
    """Whoever runs the program enters the new version of its first function."""
    program.replace("program", compiled('SEC("xdp") int program(struct xdp_md *context) { return 5; }'))
    assert program.run(bytes(20)) == 5


@pytest.mark.parametrize(
    ("function", "source", "error"),
    [
        ("nothing", lambda: version(2), UsageError),
        ("unchanged", lambda: version(2), UsageError),
        ("digit", lambda: version(2, entries=9), UsageError),
        ("digit", lambda: compiled("u64 seen; NOINLINE int digit(void *c) { return seen++; }"), UnsupportedInput),
        ("digit", lambda: compiled("u64 other(void); NOINLINE int digit(void *c) { return other(); }"), LinkError),
        ("digit", lambda: b"\x7fELF", LinkError),
    ],
    ids=["no such function", "not in the object", "another map", "variables", "undefined", "no object"],
)
def test_a_replacement_that_fails_changes_nothing(program, function, source, error):
    """What cannot be linked into the program is refused, and the program runs as before."""
    with pytest.raises(error):
        program.replace(function, source())
    assert program.run(bytes(20)) == 1011


def images() -> int:
    """How many programs are in memory."""
    gc.collect()
    return sum(isinstance(each, Image | LlvmImage) for each in gc.get_objects())


@needs_native_code
@pytest.mark.parametrize(("tier", "times"), [("jit", 1000), ("llvm", 30)])
def test_threads_run_a_program_whose_function_is_replaced(tier, times):
    """Four threads never see a run that is of two versions, never an old version later, and nothing is leaked."""
    program = bpf.load(whole(), tier=tier, cache=False)
    versions = [version(number) for number in range(1, 5)]
    packets = np.zeros((50, 20), np.uint8)
    before = images()
    stop, wrong, latest = threading.Event(), [], [1]
    good = {1000 + 11 * number for number in range(1, 5)}

    def call() -> None:
        runs = 0
        while not stop.is_set() or not runs:
            results = program.run_many(packets).retval.tolist()
            runs += len(results)
            if not set(results) <= good:
                wrong.append(set(results))
        latest.append(program.run_many(packets).retval.tolist()[-1])

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(times):
            program.replace("digit", versions[number % 4])
            assert program.run_many(packets[:1]).retval.tolist() == [1011 + 11 * (number % 4)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert latest[1:] == [1011 + 11 * ((times - 1) % 4)] * 4
    assert images() <= before + 1
