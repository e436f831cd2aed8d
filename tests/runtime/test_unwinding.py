"""Exceptions, panics and backtraces pass through linked code as through a shared library."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jitlink
from jitlink.runtime.unwinding import gcc_unwinder
from tests import toolchain

pytestmark = [
    pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64"),
    pytest.mark.skipif(gcc_unwinder() is None, reason="there is no libgcc_s.so.1"),
]

THROW_AND_CATCH = """
extern "C" int caught(int x) {
    try { if (x > 2) throw x; return 0; } catch (int value) { return value + 1; }
}
"""
THROWER = """
struct Cleanup { ~Cleanup(); };
extern "C" int cleaned;
int cleaned;
Cleanup::~Cleanup() { cleaned++; }
struct Odd { int value; virtual ~Odd() {} };
struct VeryOdd : Odd {};
void thrower(int x) { Cleanup here; VeryOdd odd; odd.value = x; throw odd; }
"""
CATCHER = """
struct Odd { int value; virtual ~Odd(); };
void thrower(int);
extern "C" int catcher(int x) {
    try { thrower(x); } catch (const Odd &odd) { return odd.value * 2; }
    return -1;
}
"""
THROUGH_QSORT = """
extern "C" void qsort(void *, unsigned long, unsigned long, int (*)(const void *, const void *));
static int compare(const void *, const void *) { throw 48; }
extern "C" int sorted() {
    int values[3] = {3, 1, 2};
    try { qsort(values, 3, sizeof(int), compare); } catch (int value) { return value; }
    return -1;
}
"""
BACKTRACE = """
int backtrace(void **, int);
__attribute__((noinline)) int inner(void **frames, int size) { int n = backtrace(frames, size); return n + (n > size); }
__attribute__((noinline)) int outer(void **frames, int size) { int n = inner(frames, size); return n + (n > size); }
"""
# Stands for LLVM's libunwind: it has the same two functions, and notes what it is told.
LIBUNWIND = """
unsigned long chains[16]; int count;
void __unw_add_dynamic_eh_frame_section(unsigned long chain) { chains[count++] = chain; }
void __unw_remove_dynamic_eh_frame_section(unsigned long chain) {
    for (int i = 0; i < count; i++) if (chains[i] == chain) { chains[i] = chains[--count]; return; }
    __builtin_trap();
}
"""
PLAIN = "int plain(void) { return 48; }"
PANIC = """
#[no_mangle]
pub extern "C" fn caught(x: i32) -> i32 {
    std::panic::set_hook(Box::new(|_| {}));
    match std::panic::catch_unwind(|| { if x > 2 { panic!("too much"); } x }) { Ok(value) => value, Err(_) => -1 }
}
"""


@pytest.fixture
def dylib() -> Iterator[jitlink.Dylib]:
    """A dylib that sees this process and the C++ library of GCC."""
    try:
        library = jitlink.shared_library("libstdc++.so.6")
    except jitlink.UnreadableInput:
        pytest.skip("there is no libstdc++.so.6")
    with jitlink.Session() as session:
        yield session.dylib("test").link_against(jitlink.process(), library)


def zig_cpp(source: str, *flags: str) -> bytes:
    return toolchain.zig_cc(source, "-O1", *flags, language="c++")


def gcc_cpp(source: str, *flags: str) -> bytes:
    return toolchain.compile_with(source, "-O1", *flags, compiler="g++")


COMPILERS = [pytest.param(zig_cpp, id="zig"), pytest.param(gcc_cpp, id="g++")]


@pytest.mark.parametrize("compiled", COMPILERS)
def test_exception_is_thrown_and_caught_in_one_function(dylib, compiled):
    """What try throws, catch gets."""
    caught = dylib.add(compiled(THROW_AND_CATCH))["caught"].ctypes(ctypes.c_int, ctypes.c_int)
    assert [caught(x) for x in (1, 3, 7)] == [0, 4, 8]


@pytest.mark.parametrize("flags", [["-fPIC"], ["-fno-pic", "-mcmodel=large"]], ids=["pic", "large"])
def test_exception_is_caught_whatever_the_encoding_of_pointers(dylib, flags):
    """Encodings of personality routine and handlers differ with the code model: relative, indirect, absolute."""
    caught = dylib.add(gcc_cpp(THROW_AND_CATCH, *flags))["caught"].ctypes(ctypes.c_int, ctypes.c_int)
    assert caught(3) == 4


@pytest.mark.parametrize("compiled", COMPILERS)
def test_exception_crosses_linked_objects(dylib, compiled):
    """One object throws a class, another catches its base; destructors run on the way."""
    dylib.add(compiled(THROWER), compiled(CATCHER))
    assert dylib["catcher"].ctypes(ctypes.c_int, ctypes.c_int)(24) == 48
    assert ctypes.c_int.from_address(dylib["cleaned"].address).value == 1


def test_exception_crosses_links_and_dylibs(dylib):
    """Thrower and catcher are linked at different times, into different dylibs of one session."""
    dylib.add(gcc_cpp(THROWER)).link()
    other = dylib.session.dylib("other").link_against(dylib, jitlink.process(), *dylib._against)
    other.add(gcc_cpp(CATCHER))
    assert other["catcher"].ctypes(ctypes.c_int, ctypes.c_int)(5) == 10


@pytest.mark.parametrize("compiled", COMPILERS)
def test_exception_passes_through_frames_of_libc(dylib, compiled):
    """A callback of qsort throws to the caller of qsort."""
    assert dylib.add(compiled(THROUGH_QSORT))["sorted"].ctypes()() == 48


def test_exception_leaves_an_initialiser_that_catches_it(dylib):
    """Records are registered before the first initialiser runs, and until the last finaliser has run."""
    source = THROW_AND_CATCH + (
        "struct Life { int born; int *died; Life() : born(caught(47)), died(nullptr) {}"
        " ~Life() { *died = caught(23); } };\n"
        "Life life;\n"
        'extern "C" int born(int *died) { life.died = died; return life.born; }\n'
    )
    died = ctypes.c_int()
    born = dylib.add(gcc_cpp(source))["born"].ctypes(ctypes.c_int, ctypes.c_void_p)
    assert born(ctypes.addressof(died)) == 48
    dylib.close()
    assert died.value == 24


def test_backtrace_goes_through_linked_frames(dylib):
    """backtrace() of libc walks both linked functions and on into the caller, in code without frame pointers."""
    dylib.add(toolchain.zig_cc(BACKTRACE, "-O1", "-fomit-frame-pointer"))
    frames = (ctypes.c_void_p * 64)()
    count = dylib["outer"].ctypes(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(frames, 64)
    found = [frame or 0 for frame in frames[:count]]
    for depth, name in enumerate(["inner", "outer"]):
        symbol = dylib[name]
        assert symbol.address < found[depth] <= symbol.address + symbol.size
    assert count > 4


def test_records_of_dropped_functions_are_passed_over(dylib):
    """Of two copies of an inline function one is dropped; exceptions still find the one that is kept."""
    inline = "inline int __attribute__((noinline)) shared(int x) { if (x > 1) throw x; return 0; }\n"
    one = inline + 'extern "C" int one(int x) { try { return shared(x); } catch (int v) { return v + 1; } }\n'
    two = inline + 'extern "C" int two(int x) { try { return shared(x); } catch (int v) { return v + 2; } }\n'
    dylib.add(gcc_cpp(one), gcc_cpp(two))
    assert [dylib[name].ctypes(ctypes.c_int, ctypes.c_int)(10) for name in ("one", "two")] == [11, 12]


def test_records_of_stripped_functions_are_passed_over(dylib):
    """A function that dead strip drops leaves an emptied record before that of the one that is kept."""
    dropped = 'extern "C" int dropped() { try { throw 1; } catch (int v) { return v; } }\n'
    dylib.add(gcc_cpp(dropped + THROW_AND_CATCH, "-ffunction-sections"), dead_strip=True, exports=["caught"])
    assert dylib["caught"].ctypes(ctypes.c_int, ctypes.c_int)(5) == 6


def test_closed_code_is_forgotten_by_the_unwinder(dylib):
    """After a close, exceptions of other dylibs are thrown and caught: no record is left that points nowhere."""
    caught = gcc_cpp(THROW_AND_CATCH)
    for number in range(20):
        each = dylib.session.dylib(f"number {number}").link_against(*dylib._against)
        assert each.add(caught)["caught"].ctypes(ctypes.c_int, ctypes.c_int)(number + 3) == number + 4
        each.close()
    assert dylib.add(caught)["caught"].ctypes(ctypes.c_int, ctypes.c_int)(3) == 4


def test_failed_link_registers_nothing(dylib):
    """A link that fails leaves the unwinder as it was: what is linked before and after can throw."""
    with pytest.raises(jitlink.UndefinedSymbols):
        dylib.add(gcc_cpp(CATCHER)).link()
    assert not dylib.session.unwinding._chains
    dylib.add(gcc_cpp(THROWER))
    assert dylib["catcher"].ctypes(ctypes.c_int, ctypes.c_int)(3) == 6


def told(count: int, chains: int) -> list[int]:
    """The chains that the stand-in for libunwind knows now."""
    return list((ctypes.c_uint64 * ctypes.c_int.from_address(count).value).from_address(chains))


def test_libunwind_in_a_library_is_told_of_whole_chains():
    """LLVM's unwinder, seen through what a dylib is linked against, gets every chain, and loses it at the close."""
    library = jitlink.shared_library(toolchain.link_shared([toolchain.zig_cc(LIBUNWIND, "-O1")]))
    count, chains = (library.address_of(name) or 0 for name in ("count", "chains"))
    with jitlink.Session() as session:
        for name in "ab":
            dylib = session.dylib(name).link_against(jitlink.process(), library)
            dylib.add(toolchain.zig_cc(PLAIN, "-O1")).link()
        assert len(told(count, chains)) == 2
        session.dylib("a").close()
        (chain,) = told(count, chains)
        # A chain begins with a CIE: a length, and a CIE pointer of zero (LSB 10.6.1.1).
        assert ctypes.c_uint32.from_address(chain).value > 0
        assert ctypes.c_uint32.from_address(chain + 4).value == 0
    assert told(count, chains) == []


def test_libunwind_that_is_linked_itself_is_told_of_everything():
    """A libunwind from a static library gets its own chain, those of earlier links and those of other dylibs."""
    with jitlink.Session() as session:
        first, second, third = (session.dylib(name) for name in ("first", "second", "third"))
        first.add(toolchain.zig_cc(PLAIN, "-O1")).link()
        second.add(toolchain.zig_cc(LIBUNWIND, "-O1"))
        places = second["count"].address, second["chains"].address
        assert len(told(*places)) == 2
        third.add(toolchain.zig_cc(PLAIN, "-O1")).link()
        assert len(told(*places)) == 3
        first.close()
        assert len(told(*places)) == 2
        second.close()
        # Nobody calls into the unwinder that is gone.
        third.close()


def test_rust_panic_is_caught():
    """catch_unwind in linked Rust code catches a panic that Rust's shared standard library throws."""
    compiled = toolchain.compile_with(PANIC, "-O", "-Cprefer-dynamic", compiler="rustc")
    sysroot = subprocess.run(["rustc", "--print=sysroot"], capture_output=True, text=True, timeout=60, check=True)
    libraries = list(Path(sysroot.stdout.strip()).rglob("rustlib/x86_64-unknown-linux-gnu/lib/libstd-*.so"))
    if len(libraries) != 1:
        pytest.skip("rustc has no shared standard library")
    with jitlink.Session() as session:
        dylib = session.dylib("panic").link_against(jitlink.process(), jitlink.shared_library(libraries[0]))
        caught = dylib.add(compiled)["caught"].ctypes(ctypes.c_int, ctypes.c_int)
        # Rust counts panics by thread, and one that has left a typed call in another test is never ended.
        with ThreadPoolExecutor(1) as thread:
            assert list(thread.map(caught, [2, 3])) == [2, -1]
