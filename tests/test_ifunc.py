"""Indirect functions (STT_GNU_IFUNC): the resolver chooses, and everybody sees the one that it chose.

Source: the GNU gABI supplement, "STT_GNU_IFUNC": the value of the symbol is the function whose result
is the address to be used; a function has one address, wherever it is taken.
"""

from __future__ import annotations

import ctypes

import pytest

import jitlink
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

SOURCE = """
    static long forward(long a, long b) { return a - b; }
    static long backward(long a, long b) { return b - a; }
    typedef long operation(long, long);
    static operation *volatile choice = backward;  /* else clang runs the resolver when it compiles */
    static operation *choose(void) { return choice; }
    long difference(long a, long b) __attribute__((ifunc("choose")));

    operation *in_data = difference;
    operation *const table[3] = {forward, difference, backward};
    operation *taken(void) { return difference; }
    long called(long a, long b) { return difference(a, b); }
    __attribute__((noinline)) long tail_called(long a, long b) { return difference(a + 1, b); }
    int all_equal(void) { return taken() == in_data && in_data == table[1] && in_data != 0; }
"""
OTHER = """
    long difference(long, long);
    long called_from_outside(long a, long b) { return difference(a, b) * 2; }
    long (*taken_outside(void))(long, long) { return difference; }
    long (*outside_data)(long, long) = difference;
"""
LONGS = [ctypes.c_long, ctypes.c_long]


VARIANTS = [("zig", "-O2"), ("zig", "-O0", "-fno-plt")]
VARIANTS += [
    (compiler, "-O2", position, model)
    for compiler in ("gcc", "clang")
    for position in ("-fPIC", "-fPIE", "-fno-pic")
    for model in ("-mcmodel=small", "-mcmodel=large")
]


def compiled(compiler: str, flags: list[str], text: str) -> bytes:
    if compiler == "zig":
        return toolchain.zig_cc(text, *flags)
    return toolchain.compile_with(text, *flags, compiler=compiler)


@pytest.fixture(params=VARIANTS, ids=" ".join)
def library(request):
    """Both objects, linked."""
    compiler, *flags = request.param
    with jitlink.load(*(compiled(compiler, flags, text) for text in (SOURCE, OTHER))) as library:
        yield library


def test_a_call_reaches_the_chosen_function(library):
    """Calls, in the same object, from another one and at a function's end, run what the resolver chose."""
    assert library.function("called", ctypes.c_long, LONGS)(2, 10) == 8
    assert library.function("tail_called", ctypes.c_long, LONGS)(2, 10) == 7
    assert library.function("called_from_outside", ctypes.c_long, LONGS)(2, 10) == 16


def test_the_address_is_callable_and_the_same_everywhere(library):
    """Its address in code, in data and in another object is one address, and calls the chosen function."""
    assert library.function("all_equal")() == 1
    addresses = {library.function(name, ctypes.c_void_p)() for name in ("taken", "taken_outside")}
    addresses |= {ctypes.c_void_p.from_address(library[name].address).value for name in ("in_data", "outside_data")}
    assert len(addresses) == 1
    assert ctypes.CFUNCTYPE(ctypes.c_long, *LONGS)(addresses.pop())(1, 5) == 4


def test_a_lookup_finds_a_function_to_call(library):
    """Looked up by name, it is the chosen function and not its resolver."""
    assert library.function("difference", ctypes.c_long, LONGS)(3, 10) == 7


def test_a_resolver_may_use_data_and_other_functions():
    """A resolver runs when data is in place: it reads a table, calls through a pointer, and libc."""
    source = """
        unsigned long strlen(const char *);
        static long one(void) { return 1; }
        static long four(void) { return 4; }
        static long (*const choices[])(void) = {one, four};
        static const char *word = "word";
        static int is_long(void) { return strlen(word) == 4; }
        static int (*volatile test)(void) = is_long;
        static long (*choose(void))(void) { return choices[test()]; }
        long chosen(void) __attribute__((ifunc("choose")));
        long run(void) { return chosen(); }
    """
    with jitlink.load(toolchain.zig_cc(source, "-O1")) as library:
        assert library.function("run", ctypes.c_long)() == 4


def test_an_initialiser_may_call_an_indirect_function():
    """Resolvers run before initialisers."""
    source = """
        static long seven(void) { return 7; }
        static long (*choose(void))(void) { return seven; }
        long chosen(void) __attribute__((ifunc("choose")));
        long seen;
        __attribute__((constructor)) static void begin(void) { seen = chosen(); }
    """
    with jitlink.load(toolchain.zig_cc(source)) as library:
        assert ctypes.c_long.from_address(library["seen"].address).value == 7


def test_another_dylib_calls_the_chosen_function():
    """An exported indirect function is a function to dylibs that are linked against its own."""
    with jitlink.Session() as session:
        first = session.dylib("first").add(toolchain.zig_cc(SOURCE, "-O2"))
        second = session.dylib("second").link_against(first).add(toolchain.zig_cc(OTHER, "-O2"))
        assert second.library.function("called_from_outside", ctypes.c_long, LONGS)(2, 10) == 16
        address = second.library.function("taken_outside", ctypes.c_void_p)()
        assert address == first["difference"].address == first.library.function("taken", ctypes.c_void_p)()


def test_an_image_refuses_an_indirect_function():
    """An image that is not mapped cannot run a resolver, and says so."""
    with pytest.raises(jitlink.LinkFailure, match="STT_GNU_IFUNC"):
        jitlink.link(toolchain.zig_cc(SOURCE, "-O2"), base=0x1000_0000)
