"""Entries and adapters: the machine code between Python and linked functions."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from capstone import CS_ARCH_X86, CS_MODE_64, Cs

import jitlink
from jitlink.arches.x86_64_calls import exception_adapter
from jitlink.arches.x86_64_entry import Value, can_enter, python_entry
from jitlink.calls import entries
from jitlink.runtime.unwinding import gcc_unwinder
from tests import toolchain
from tests.calls import sources

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

VALUES = [Value(sort, width) for sort in ("signed", "unsigned") for width in (1, 2, 4, 8)]
VALUES += [Value("float", 4), Value("float", 8), Value("bool", 1), Value("text", 8)]

REGISTERS = """
double mixed(int a, double b, long c, float d, unsigned char e, double f, short g, double h, unsigned long i, float j,
             double k, double l, double m, _Bool n) {
    return a + 2*b + 3*c + 4*d + 5*e + 6*f + 7*g + 8*h + 9*i + 10*j + 11*k + 12*l + 13*m + 14*n;
}
int too_many(int a, int b, int c, int d, int e, int f, int g) { return a + b + c + d + e + f + 10 * g; }
int none(void) { return 42; }
void nothing(int x) { (void)x; }
int backtrace(void **, int);
int frames(void) { void *found[64]; int n = backtrace(found, 64); return n + (n > 64); }
"""
FORCED_UNWIND = """
#include <pthread.h>
int cleaned;
static void clean(void *x) { cleaned++; }
int leave(int really) {
    pthread_cleanup_push(clean, 0);
    if (really) pthread_exit((void *)7);
    pthread_cleanup_pop(0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def library() -> Iterator[jitlink.Library]:
    with jitlink.load(toolchain.zig_cc(REGISTERS, "-g", "-O1"), sources.zig("-g", "-O1")) as library:
        yield library


def builtin_of(function):
    """The function of CPython that serves the usual arguments of a typed function, or None."""
    return function.__globals__.get("_builtin")


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value.sort} {value.width}")
def test_the_code_of_an_entry_is_whole_instructions(value):
    """Every byte belongs to an instruction, all jumps stay inside, and the last one is a return."""
    routine, _ = python_entry([value, value], value)
    instructions = list(Cs(CS_ARCH_X86, CS_MODE_64).disasm(routine.content, 0))
    assert sum(each.size for each in instructions) == len(routine.content)
    starts = {each.address for each in instructions}
    jumps = [int(each.op_str, 16) for each in instructions if each.mnemonic.startswith("j")]
    assert jumps
    assert set(jumps) <= starts
    assert instructions[-1].mnemonic == "ret"


@pytest.mark.parametrize("stack", [0, 8, 16, 256, 4096])
def test_the_code_of_an_adapter_is_whole_instructions(stack):
    """The landing pad starts at an instruction; the personality routine ends in a return."""
    code = exception_adapter(stack, x87_result=bool(stack))
    for routine in (code.adapter, code.personality):
        instructions = list(Cs(CS_ARCH_X86, CS_MODE_64).disasm(routine.content, 0))
        assert sum(each.size for each in instructions) == len(routine.content)
        assert instructions[-1].mnemonic == "ret"
        jumps = [int(each.op_str, 16) for each in instructions if each.mnemonic.startswith("j")]
        assert set(jumps) <= {each.address for each in instructions}
    assert code.landing in {each.address for each in Cs(CS_ARCH_X86, CS_MODE_64).disasm(code.adapter.content, 0)}


def test_functions_of_numbers_and_text_have_an_entry(library):
    """Those with pointers, structures and more arguments than registers go the longer way."""
    having = {name for name in ("add", "hypot3", "length", "greeting", "negation", "none", "nothing", "i8", "mixed",
                                "next_colour", "total", "weigh", "make_pair", "next_char", "f80", "too_many", "apply")
              if builtin_of(getattr(library, name))}  # fmt: skip
    assert having == {
        "add",
        "hypot3",
        "length",
        "greeting",
        "negation",
        "none",
        "nothing",
        "i8",
        "mixed",
        "next_colour",
    }


def test_an_entry_serves_exact_values_and_leaves_all_others(library):
    """An int, a float, a bool or bytes in range are served; anything else is answered with NotImplemented."""
    add, twice, negation, length = (builtin_of(getattr(library, name)) for name in ("add", "f64", "negation", "length"))
    assert (add(2, -3), twice(1.5), negation(True), negation(False), length(b"hello")) == (-1, 3.0, False, True, 5)
    for refused in (
        add(1),
        add(1, 2, 3),
        add(1.0, 2),
        add(True, 2),
        add(1 << 31, 0),
        add(-(1 << 31) - 1, 0),
        add(1 << 100, 0),
        twice(1),
        twice("1"),
        negation(1),
        negation(None),
        length("hello"),
        length(b"a\0b"),
        length(None),
        length(bytearray(b"x")),
    ):
        assert refused is NotImplemented


@pytest.mark.parametrize("name", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
def test_an_entry_knows_the_range_of_each_width(library, name):
    """Both ends go through, one beyond does not; the upper half of unsigned long takes the longer way."""
    entry = builtin_of(getattr(library, name))
    bits, unsigned = int(name[1:]), name[0] == "u"
    low = 0 if unsigned else -(1 << bits - 1)
    high = low + (1 << bits) - 1
    assert [entry(low), entry(low - 1), entry(high + 1)] == [low, NotImplemented, NotImplemented]
    assert entry(high) == (NotImplemented if name == "u64" else high)
    assert getattr(library, name)(high) == high


def test_all_registers_of_arguments_are_filled(library):
    """Six general and eight vector registers, of mixed widths and signs."""
    values = [-1, 0.5, -(1 << 40), 1.5, 255, 2.5, -32768, 3.5, 1 << 60, 4.5, 5.5, 6.5, 7.5, True]
    assert builtin_of(library.mixed)(*values) == library.mixed(*map(float_or_same, values))
    native = sum((place + 1) * value for place, value in enumerate(values))
    assert library.mixed(*values) == pytest.approx(native, rel=1e-12)
    assert library.too_many(1, 2, 3, 4, 5, 6, 7) == 91


def float_or_same(value):
    """An equal value of another type, which takes the longer way."""
    import numpy as np

    return np.float64(value) if isinstance(value, float) else np.int64(value) if type(value) is int else value


def test_more_arguments_than_registers_get_no_entry():
    """Six general and eight vector registers are all there are."""
    integer, number = Value("signed", 4), Value("float", 8)
    assert can_enter([integer] * 6 + [number] * 8, integer)
    assert not can_enter([integer] * 7, integer)
    assert not can_enter([number] * 9, integer)


def test_the_longer_way_gives_the_same(monkeypatch):
    """Where CPython is built otherwise there are no entries, and all results are the same."""
    monkeypatch.setattr(entries, "USUAL_OBJECT", 0)
    with jitlink.load(sources.zig("-g", "-O1")) as library:
        assert builtin_of(library.add) is None
        assert (library.add(2, -3), library.f64(1.5), library.negation(True), library.length("é")) == (
            -1,
            3.0,
            False,
            2,
        )
        with pytest.raises(OverflowError):
            library.add(1 << 31, 0)


def test_references_are_balanced(library):
    """A hundred thousand calls leave the reference counts of None and NotImplemented as they were."""
    before = sys.getrefcount(NotImplemented), sys.getrefcount(None)
    entry = builtin_of(library.nothing)
    for _ in range(100_000):
        entry(1)
        entry(1.0)
    after = sys.getrefcount(NotImplemented), sys.getrefcount(None)
    assert all(abs(one - other) < 1000 for one, other in zip(before, after, strict=True))


def test_the_lock_is_released_while_code_runs(library):
    """Another thread runs Python while a typed call sleeps."""
    source = "int usleep(unsigned); int nap(int ms) { return usleep(ms * 1000); }"
    with jitlink.load(toolchain.zig_cc(source, "-g")) as napping:
        ran: list[int] = []
        assert builtin_of(napping.nap)
        thread = threading.Thread(target=lambda: napping.nap(300))
        thread.start()
        while thread.is_alive() and len(ran) < 1000:
            ran.append(1)
        assert thread.is_alive()
        thread.join()
    assert len(ran) == 1000


@pytest.mark.skipif(gcc_unwinder() is None, reason="there is no libgcc_s.so.1")
def test_the_stack_can_be_walked_through_adapter_and_entry(library):
    """backtrace() in linked code finds its way into CPython: both have unwind records."""
    assert library.frames() > 5


@pytest.mark.skipif(gcc_unwinder() is None, reason="there is no libgcc_s.so.1")
def test_a_forced_unwind_is_let_through():
    """pthread_exit under an adapter ends the thread and runs cleanups: it is no exception."""
    compiled = toolchain.zig_cc(FORCED_UNWIND, "-g", "-O1", "-fexceptions")
    program = f"""
import sys, ctypes
sys.path[:0] = {sys.path!r}
import jitlink
library = jitlink.load({compiled!r}, link_against=[jitlink.process(), jitlink.shared_library("libgcc_s.so.1")])
assert library.leave(0) == 0
helper = library.dylib.helper()
(adapter,) = [helper[name].address for name in helper.symbols() if name.startswith("leave (typed call")]
thread, result = ctypes.c_ulong(), ctypes.c_void_p()
ctypes.pythonapi.pthread_create(ctypes.byref(thread), None, ctypes.c_void_p(adapter), ctypes.c_void_p(1))
ctypes.pythonapi.pthread_join(thread, ctypes.byref(result))
assert (result.value, library.cleaned) == (7, 1), (result.value, library.cleaned)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_adapters_go_with_their_library():
    """The memory of the helper dylib is given back at the close; functions raise before they reach it."""
    library = jitlink.load(sources.zig("-g"))
    add = library.add
    assert add(1, 2) == 3
    helper = library.dylib.helper()
    states = [helper.closed]
    library.close()
    assert [*states, helper.closed] == [False, True]
    with pytest.raises(jitlink.ClosedError):
        add(1, 2)


def test_symbols_of_the_code_itself_do_not_replace_those_of_python():
    """Code that has a function PyLong_FromLong of its own is called with CPython's all the same."""
    source = "long PyLong_FromLong(long x) { return -x; } int PyErr_Clear(int x) { return x; }"
    with jitlink.load(toolchain.zig_cc(source, "-g")) as library:
        assert library.PyLong_FromLong(5) == -5
        assert library.PyErr_Clear(7) == 7
        assert ctypes.c_long(library.PyLong_FromLong(-6)).value == 6
