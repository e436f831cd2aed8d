"""Errors from linked code: what is thrown, or raised in a callback, becomes a Python exception of the call."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import jitlink
from jitlink.runtime.unwinding import gcc_unwinder
from tests import toolchain
from tests.calls.test_languages import libstdcxx, rust_library

pytestmark = [
    pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64"),
    pytest.mark.skipif(gcc_unwinder() is None, reason="there is no libgcc_s.so.1"),
]

# No header: zig brings those of another C++ library than the one that is linked against.
CXX = """
namespace std {
    struct exception { virtual ~exception(); virtual const char *what() const noexcept; };
    struct runtime_error : exception { runtime_error(const char *); ~runtime_error();
        const char *what() const noexcept override; char kept[8]; };
    struct logic_error : exception { logic_error(const char *); ~logic_error();
        const char *what() const noexcept override; char kept[8]; };
    int uncaught_exceptions() noexcept;
}
struct Odd { int value; };
struct First { virtual ~First() {} long padding[3]; };
struct Second : First, std::runtime_error { Second() : runtime_error("second") {} };
struct Virtual : virtual std::exception { const char *what() const noexcept override { return "virtual"; } };
struct Deep : Second {};
namespace { struct Local : std::exception { const char *what() const noexcept override { return "local"; } }; }
extern "C" int destroyed;
int destroyed;
struct Cleanup { Cleanup() {} Cleanup(const Cleanup &) {} ~Cleanup() { destroyed++; } };

extern "C" int thrower(int which) {
    Cleanup guard;
    switch (which) {
        case 1: throw std::runtime_error("too bad");
        case 2: throw 42;
        case 3: throw "some text";
        case 4: throw Odd{1};
        case 5: throw Second();
        case 6: throw Virtual();
        case 7: throw 2.5;
        case 8: throw Cleanup();
        case 9: throw Deep();
        case 10: throw Local();
        case 11: try { throw std::logic_error("again"); } catch (...) { throw; }
        case 12: throw -7L;
        case 13: throw true;
        case 14: throw 'x';
    }
    return which;
}
extern "C" int uncaught() { return std::uncaught_exceptions(); }
extern "C" long double wide(int fail) { if (fail) throw 1; return 1.5L; }
extern "C" double many(double a, double b, double c, double d, double e, double f, double g, double h, double i,
                       int j, int k, int l, int m, int n, int o, int p, int q) {
    if (q == 99) throw q;
    return a + 2*b + 3*c + 4*d + 5*e + 6*f + 7*g + 8*h + 9*i + 10*j + 11*k + 12*l + 13*m + 14*n + 15*o + 16*p + 17*q;
}
struct Large { long part[9]; };
extern "C" Large large(Large l, int fail) { if (fail) throw 1; l.part[8]++; return l; }
extern "C" const char *text(int fail) { if (fail) throw 1; return "text"; }
extern "C" int apply(int (*f)(int), int x) { Cleanup guard; return f(x) + 1; }
extern "C" int twice_applied(int (*f)(int), int x) { return f(x) + f(x); }
static int (*kept)(int);
extern "C" void keep(int (*f)(int)) { kept = f; }
extern "C" int call_kept(int x) { return kept(x); }
extern "C" int catches(int which) { try { return thrower(which); } catch (...) { return -1; } }
"""
THROWN = {
    1: ("std::runtime_error", "too bad"),
    2: ("int", "42"),
    3: ("char const*", "some text"),
    4: ("Odd", ""),
    5: ("Second", "second"),
    6: ("Virtual", "virtual"),
    7: ("double", "2.5"),
    8: ("Cleanup", ""),
    9: ("Deep", "second"),
    10: ("(anonymous namespace)::Local", "local"),
    11: ("std::logic_error", "again"),
    12: ("long", "-7"),
    13: ("bool", "True"),
    14: ("char", "x"),
}
RUST = """
#[no_mangle] pub extern "C-unwind" fn panics(which: i32) -> i32 {
    match which {
        1 => panic!("a literal"),
        2 => panic!("a number: {}", which * 21),
        3 => std::panic::panic_any(7u64),
        4 => std::panic::panic_any((1usize, 2usize)),
        5 => { let values = vec![1]; values[which as usize] }
        _ => which,
    }
}
"""


def zig(*flags: str) -> bytes:
    return toolchain.zig_cc(CXX, *flags, "-std=c++17", language="c++")


def gcc(*flags: str) -> bytes:
    return toolchain.compile_with(CXX, *flags, "-std=c++17", compiler="g++")


def clang(*flags: str) -> bytes:
    return toolchain.compile_with(CXX, *flags, "-std=c++17", compiler="clang++")


WAYS = [(compile, flag) for compile in (zig, gcc, clang) for flag in ("-O0", "-O2")]


@pytest.fixture(params=WAYS, ids=lambda way: way[0].__name__ + way[1])
def cxx(request) -> Iterator[jitlink.Library]:
    """The source in C++, by several compilers, with the C++ library of GCC."""
    compile, optimise = request.param
    with jitlink.load(compile("-g", optimise), link_against=[jitlink.process(), libstdcxx()]) as library:
        yield library


@pytest.mark.parametrize("which", THROWN)
def test_what_is_thrown_becomes_a_python_exception(cxx, which):
    """Type name and message arrive: what() of a std::exception anywhere in the object, numbers, text."""
    with pytest.raises(jitlink.ForeignException) as caught:
        cxx.thrower(which)
    error = caught.value
    assert (error.type_name, error.message, error.language) == (*THROWN[which], "C++")
    assert str(error) == (": ".join(THROWN[which]) if error.message else error.type_name)
    assert not isinstance(error, jitlink.LinkError)
    assert cxx.thrower(0) == 0


def test_destructors_run_and_nothing_is_left(cxx):
    """Every frame is cleaned up, the exception object is destroyed, and no exception counts as under way."""
    for _ in range(50):
        with pytest.raises(jitlink.ForeignException):
            cxx.thrower(8)
    # The guard in the frame, and the object that was thrown.
    assert cxx.destroyed == 100
    assert cxx.uncaught() == 0
    assert cxx.catches(1) == -1


def test_functions_of_any_prototype_are_guarded(cxx):
    """With arguments on the stack, results in the x87, in memory and as text, both ways."""
    assert cxx.wide(0) == 1.5
    arguments = [*map(float, range(9)), *range(8)]
    assert cxx.many(*arguments) == sum((place + 1) * value for place, value in enumerate(arguments))
    large = {"part": list(range(9))}
    assert list(cxx.large(large, 0).part) == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert cxx.text(0) == b"text"
    for failing in (
        lambda: cxx.wide(1),
        lambda: cxx.many(*arguments[:-1], 99),
        lambda: cxx.large(large, 1),
        lambda: cxx.text(1),
    ):
        with pytest.raises(jitlink.ForeignException, match="int: "):
            failing()
    assert cxx.wide(0) == 1.5


def test_an_exception_of_a_callback_surfaces_after_the_call(cxx):
    """The C code sees a zero result and goes on; the typed call raises what the callable raised."""

    def failing(x: int) -> int:
        raise KeyError(x)

    with pytest.raises(KeyError, match="5") as caught:
        cxx.apply(failing, 5)
    assert caught.traceback[-1].name == "failing"
    assert cxx.apply(lambda x: x, 5) == 6
    with pytest.raises(TypeError):
        cxx.apply(lambda x: "no number", 5)
    with pytest.raises(OverflowError):
        cxx.apply(lambda x: 1 << 40, 5)


def test_exceptions_that_are_more_than_the_call_can_raise_go_to_the_hook(cxx, monkeypatch):
    """The first exception of a call is raised; later ones, and those of no typed call, are unraisable."""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda given: unraisable.append(given.exc_value))
    numbers = iter(range(5))

    def failing(x: int) -> int:
        raise ValueError(next(numbers))

    with pytest.raises(ValueError, match="0"):
        cxx.twice_applied(failing, 1)
    assert [str(error) for error in unraisable] == ["1"]
    cxx.keep(failing)
    assert cxx.function("call_kept", ctypes.c_int, [ctypes.c_int])(1) == 0
    assert [str(error) for error in unraisable] == ["1", "2"]
    assert cxx.catches(0) == 0


def test_exceptions_cross_python_between_two_calls(cxx):
    """C++ that calls Python that calls C++ that throws: each call hands the exception on."""

    def calls_again(x: int) -> int:
        return int(cxx.thrower(x))

    with pytest.raises(jitlink.ForeignException, match="too bad"):
        cxx.apply(calls_again, 1)

    def catches(x: int) -> int:
        with pytest.raises(jitlink.ForeignException):
            cxx.thrower(x)
        return 7

    assert cxx.apply(catches, 1) == 8


def test_each_thread_gets_its_own_exception(cxx):
    """Eight threads throw different things at once."""
    wrong: list[object] = []

    def work(which: int) -> None:
        for _ in range(200):
            try:
                cxx.thrower(which)
            except jitlink.ForeignException as error:
                if (error.type_name, error.message) != THROWN[which]:
                    wrong.append(error)
            else:
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_exceptions_pass_through_c_to_the_call():
    """A function of C that is called first, and calls C++ in another object, is guarded as well."""
    c = toolchain.zig_cc("int thrower(int); int through(int x) { return thrower(x) + 1; }", "-g", "-O1")
    with jitlink.load(c, zig("-g"), link_against=[jitlink.process(), libstdcxx()]) as library:
        assert library.through(0) == 1
        with pytest.raises(jitlink.ForeignException, match="too bad"):
            library.through(1)


def test_functions_stay_closed_after_an_exception():
    """Adapters go with their library, and those of other libraries work on."""
    first, second = (jitlink.load(zig("-g"), link_against=[jitlink.process(), libstdcxx()]) for _ in range(2))
    for library in (first, second):
        with pytest.raises(jitlink.ForeignException):
            library.thrower(1)
    thrower = first.thrower
    first.close()
    with pytest.raises(jitlink.ClosedError):
        thrower(1)
    with pytest.raises(jitlink.ForeignException):
        second.thrower(1)
    second.close()


@pytest.mark.parametrize("flags", [["-O"], ["-Copt-level=0"]], ids=["-O", "-O0"])
def test_a_rust_panic_becomes_a_python_exception(flags):
    """The message of panic!() arrives, literal or formatted; a payload of another type has none."""
    compiled = toolchain.compile_with(RUST, "-g", *flags, "-Cprefer-dynamic", compiler="rustc")
    shared = jitlink.shared_library(rust_library())
    messages = {1: "a literal", 2: "a number: 42", 3: "", 4: "", 5: "index out of bounds"}
    with jitlink.load(compiled, link_against=[jitlink.process(), shared]) as library:
        for which, message in messages.items():
            with pytest.raises(jitlink.ForeignException) as caught:
                library.panics(which)
            assert (caught.value.type_name, caught.value.language) == ("panic", "Rust")
            assert caught.value.message.startswith(message)
            assert bool(caught.value.message) == bool(message)
        assert library.panics(0) == 0


@pytest.fixture(scope="module")
def libcxx() -> list[Path]:
    """zig's own C++ library and unwinder as archives, which zig builds when it links C++ the first time."""
    try:
        toolchain.link_shared([zig("-O1")], "-lc++")
    except subprocess.TimeoutExpired:
        pytest.skip("zig takes too long to build its C++ library here")
    made = toolchain._directory() / "zig" / "o"
    found = [next(iter(made.glob(f"*/{name}.a")), None) for name in ("libc++", "libc++abi", "libunwind")]
    if None in found:
        pytest.skip("zig keeps its C++ library elsewhere")
    return [path for path in found if path is not None]


def test_exceptions_of_a_static_cxx_library_arrive(libcxx):
    """libc++ and LLVM's libunwind, linked as archives: the same answers, from another runtime and unwinder."""
    with jitlink.load(zig("-g", "-O1"), *libcxx) as library:
        for which, (type_name, message) in THROWN.items():
            with pytest.raises(jitlink.ForeignException) as caught:
                library.thrower(which)
            assert (caught.value.type_name, caught.value.message) == (type_name, message)
        assert library.uncaught() == 0
        assert library.catches(1) == -1
        assert library.thrower(0) == 0


def test_panics_of_a_static_rust_library_arrive(tmp_path):
    """A staticlib with all of Rust's standard library in it: collections, threads, and a panic that leaves."""
    source = """
        use std::collections::HashMap;
        #[no_mangle] pub extern "C-unwind" fn looked_up(x: i32) -> i32 {
            let found: HashMap<i32, i32> = (0..3).map(|n| (n, n * 10)).collect();
            match found.get(&x) { Some(value) => *value, None => panic!("no {}", x) }
        }
        #[no_mangle] pub extern "C" fn on_threads(n: u64) -> u64 {
            let all: Vec<_> = (0..n).map(|i| std::thread::spawn(move || i * 2)).collect();
            all.into_iter().map(|each| each.join().unwrap()).sum()
        }
    """
    toolchain.needs("rustc")
    (tmp_path / "source.rs").write_text(source)
    archive = tmp_path / "library.a"
    command = ["rustc", "-g", "-O", "--crate-type=staticlib", "-o", str(archive), str(tmp_path / "source.rs")]
    subprocess.run(command, check=True, capture_output=True, timeout=toolchain.STEP_TIMEOUT)
    unwinder = jitlink.shared_library("libgcc_s.so.1")
    with jitlink.load(archive, link_against=[jitlink.process(), unwinder]) as library:
        assert [library.looked_up(x) for x in range(3)] == [0, 10, 20]
        assert library.on_threads(8) == 56
        with pytest.raises(jitlink.ForeignException, match="panic: no 7"):
            library.looked_up(7)
