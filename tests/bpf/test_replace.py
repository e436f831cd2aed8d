"""A function of a program that is replaced while the program is in use."""

from __future__ import annotations

import gc
import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from jitlink import bpf
from jitlink.bpf.jit.images import Image
from jitlink.bpf.llvm_tier.images import LlvmImage
from jitlink.errors import LinkError, UsageError
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
        ("digit", lambda: compiled("u64 other(void); NOINLINE int digit(void *c) { return other(); }"), LinkError),
        ("digit", lambda: b"\x7fELF", LinkError),
    ],
    ids=["no such function", "not in the object", "another map", "undefined", "no object"],
)
def test_a_replacement_that_fails_changes_nothing(program, function, source, error):
    """What cannot be linked into the program is refused, and the program runs as before."""
    with pytest.raises(error):
        program.replace(function, source())
    assert program.run(bytes(20)) == 1011


def test_what_a_new_version_calls_comes_with_it(program):
    """A function that both objects have is the new object's to the new version, and the program's to the rest."""
    source = "static NOINLINE int unchanged(int x) { return x + 3; }"
    digit = "NOINLINE int digit(struct xdp_md *context) { return unchanged(1 + (context->data == 77)); }"
    program.replace("digit", compiled(source + digit))
    assert program.run(bytes(20)) == 1000 + 11 * 4


def test_a_function_that_is_only_declared_is_the_programs(program):
    """A new version calls the program's function of that name, and its newer version once there is one."""
    digit = """
        int unchanged(int x);
        NOINLINE int digit(struct xdp_md *context) { return unchanged(1 + (context->data == 77)) - 998; }
    """
    program.replace("digit", compiled(digit))
    assert program.run(bytes(20)) == 1000 + 11 * 3
    program.replace("unchanged", compiled("NOINLINE int unchanged(int x) { return x + 999; }"))
    assert program.run(bytes(20)) == 999 + 11 * 2


STATE = """
u64 total = 100;
u64 zeroed;
static u64 hidden = 5;
const volatile u64 limit = 40;
const volatile u64 step = 2;
static const char *const words[] = {"abc", "xyz"};
NOINLINE u64 digit(u64 x) { %s }
"""
RUN = """
SEC("xdp") int program(struct xdp_md *context) {
    return digit(context->data_end - context->data) + words[context->data & 1][0] * 0;
}
"""


@cache
def stateful() -> bytes:
    """A program with variables of each sort: it adds up what it is called with."""
    return compiled(STATE % "total += x; zeroed++; hidden += step; return total + limit + hidden;" + RUN)


@pytest.fixture(params=TIERS)
def counter(request):
    """That program in each tier in turn, after a run with 10: total is 110, zeroed 1, hidden 7."""
    program = bpf.load(stateful(), tier=request.param, cache=False)
    assert program.run(bytes(10)) == 110 + 40 + 7
    return program


def replaced(program: bpf.Program, declared: str, body: str) -> None:
    """Replace digit by another body, among other variables."""
    program.replace("digit", compiled(f"{declared}\nNOINLINE u64 digit(u64 x) {{ {body} }}"))


def test_a_global_variable_is_the_programs_with_the_value_that_it_has(counter):
    """A new version finds the program's state under its name, whatever the new object begins it with."""
    replaced(counter, "u64 total = 7; u64 zeroed = 9;", "total += 2 * x; zeroed += 10; return total;")
    assert counter.run(bytes(10)) == 130
    assert counter.globals["total"] == 130
    assert counter.globals["zeroed"] == 11


def test_an_extern_of_the_new_object_is_the_programs_variable(counter):
    """A declaration without a definition means the program's variable, like one with."""
    replaced(counter, "extern u64 total;", "return total + x;")
    assert counter.run(bytes(1)) == 111


def test_a_static_variable_belongs_to_its_version(counter):
    """The new version's static variable begins as its object says; nobody else's is touched."""
    replaced(counter, "static u64 hidden = 50;", "hidden += x; return hidden;")
    assert [counter.run(bytes(10)).retval for _ in range(2)] == [60, 70]
    assert counter.globals["hidden"] == 7
    replaced(counter, "static u64 hidden = 50;", "hidden += x; return hidden;")
    assert counter.run(bytes(10)) == 60


def test_a_new_variable_is_seen_by_python_and_by_later_versions(counter):
    """A global variable that the program lacks is among its globals, and keeps its value for the next version."""
    replaced(counter, "u64 novel = 1000;", "novel += x; return novel;")
    assert counter.run(bytes(10)) == 1010
    assert counter.globals["novel"] == 1010
    counter.globals["novel"] = 2000
    replaced(counter, "u64 novel = 1;", "novel += 2 * x; return novel;")
    assert counter.run(bytes(10)) == 2020
    assert counter.run_many([bytes(1)] * 3).retval.tolist() == [2022, 2024, 2026]
    replaced(counter, "", "return x;")
    assert "novel" not in counter.globals


def test_a_constant_is_the_programs_unless_its_content_has_changed(counter):
    """A setting that Python has changed stays changed; a constant of another value is the new version's own."""
    counter.globals["limit"] = 77
    replaced(counter, "const volatile u64 limit = 40; const volatile u64 step = 3;", "return limit + 1000 * step;")
    assert counter.run(bytes(10)) == 3077
    assert counter.globals["step"] == 2


def test_data_of_a_new_version_may_hold_addresses(counter):
    """Strings, tables of pointers to them, and pointers to variables of the program are laid out and relocated."""
    declared = """
        extern u64 total;
        static const char *names[] = {"alpha", "beta"};
        static u64 *const places[] = {&total, &total};
    """
    body = "return names[x & 1][1] + 1000 * *places[x & 1];"
    replaced(counter, declared.replace("names", "volatile names").replace("places", "volatile places"), body)
    assert counter.run(bytes(11)) == ord("e") + 1000 * 110


@pytest.mark.parametrize(
    ("declared", "body", "message"),
    [
        ("u32 total;", "return total++;", "total of the new object has 4 bytes, and in the program it has 8"),
        ("const volatile u64 total = 100;", "return total;", "total of the new object is read-only"),
        ("u64 limit;", "return limit++;", "limit of the new object is writable"),
        ("u64 f(u64); u64 (*volatile p)(u64) = f; u64 f(u64 x) { return x; }", "return p(x);", "address of a function"),
    ],
    ids=["size", "read-only", "writable", "function"],
)
def test_a_variable_that_means_something_else_is_refused(counter, declared, body, message):
    """The error names the variable and what differs; the program and its memory are as before."""
    gc.collect()
    regions = len(counter.object.regions)
    with pytest.raises(LinkError, match=message):
        replaced(counter, declared, body)
    assert counter.run(bytes(10)) == 120 + 40 + 9
    assert len(counter.object.regions) <= regions + 2


def images() -> int:
    """How many programs are in memory."""
    gc.collect()
    return sum(isinstance(each, Image | LlvmImage) for each in gc.get_objects())


def wait_for_compilers() -> None:
    """Wait for LLVM to end what it does beside the program."""
    for thread in threading.enumerate():
        if thread.name.startswith("jitlink: LLVM"):
            thread.join()


def mappings() -> int:
    """How many pieces the memory of the process is mapped in."""
    return len(Path("/proc/self/maps").read_text().splitlines())


RACE = """
u64 runs;
static volatile u64 table[4] = {{ {0}, {0}, {0}, {0} }};
NOINLINE u64 digit(u64 x) {{
    u32 key = 0;
    u64 *count = map_lookup(&counts, &key);
    if (count) __sync_fetch_and_add(count, 1);
    __sync_fetch_and_add(&runs, 1);
    return table[x & 3];
}}
"""
RACER = """
SEC("xdp") int program(struct xdp_md *context) {
    u64 size = context->data_end - context->data;
    return digit(size) * 100 + digit(size + 1);
}
"""


@needs_native_code
@pytest.mark.parametrize("tier", ["jit", "llvm", "auto"])
def test_threads_run_a_program_whose_function_is_replaced(tier, tmp_path, monkeypatch):
    """Four threads never see a run that is of two versions, nor an old version later. No run is lost to the counters
    in a map and in a variable, and neither code nor memory of old versions stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    versions = [compiled(COUNTS % 1 + RACE.format(number)) for number in range(1, 5)]
    program = bpf.load(compiled(COUNTS % 1 + RACE.format(1) + RACER), tier=tier)
    packets = np.zeros((100, 20), np.uint8)
    seen: set[int] = set()
    counted: list[int] = []

    def call(stop: threading.Event, latest: list[int]) -> None:
        while not stop.wait(0.003):
            results = program.run_many(packets).retval
            seen.update(results.tolist())
            counted.append(len(results))
        latest.extend(program.run_many(packets[:1]).retval.tolist())
        counted.append(1)

    def replace(number: int) -> None:
        program.replace("digit", versions[number % 4])
        assert program.run_many(packets[:1]).retval.tolist() == [101 * (1 + number % 4)]
        counted.append(1)

    def race(times: int) -> None:
        stop, latest = threading.Event(), list[int]()
        threads = [threading.Thread(target=call, args=(stop, latest)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in range(times):
                replace(number)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert latest == [101 * (1 + (times - 1) % 4)] * 4
        wait_for_compilers()
        gc.collect()
        replace(0)

    race(8)
    before = images(), mappings(), len(program.object.regions)
    race(1000)
    after = images(), mappings(), len(program.object.regions)
    assert seen <= {101, 202, 303, 404}
    assert program.globals["runs"] == program.maps["counts"][0] == 2 * sum(counted)
    # Beside the newest code there may be that of the version before, in either form.
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 100
    assert after[2] <= before[2] + 4
