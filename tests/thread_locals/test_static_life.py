"""Whole programs with static and thread-local life: C++ with its library, Rust with its, and Fortran.

What they print or return is compared with the same source as a shared library, or with the order that
C++ demands ([basic.start.dynamic], [basic.start.term]).
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

import jitlink
from tests import toolchain
from tests.thread_locals.programs import NATIVE, NativeThread, on_threads

pytestmark = NATIVE

NOTE = ctypes.CFUNCTYPE(None, ctypes.c_int)

ORDERED = """
    extern "C" void note(int);
    struct Object {{ int id; Object(int id) : id(id) {{ note(id); }} ~Object() {{ note(-id); }} }};
    static Object one({n}1);
    Object &on_first_use{n}() {{ static Object object({n}3); return object; }}
    static Object two({n}2);
    extern "C" int use{n}(void) {{ return on_first_use{n}().id; }}
"""
STREAMS = """
    #include <iostream>
    #include <sstream>
    #include <stdexcept>
    #include <string>
    #include <vector>
    #include <map>
    #include <thread>

    thread_local std::map<std::string, int> counts;
    static std::vector<std::string> words = {"three", "one", "two", "one"};

    static void count() { for (auto &word : words) counts[word] += word.size(); }

    extern "C" int described(char *to, int size) {
        std::ostringstream text;
        try {
            count();
            std::thread([&] { count(); for (auto &each : counts) text << each.first << each.second << ' '; }).join();
            text << counts.at("two") << ' ';
            counts.at("four");
        } catch (const std::out_of_range &) {
            text << "caught";
        }
        std::cout << "" << std::flush;
        return (int)text.str().copy(to, size - 1);
    }
"""
RUST = """
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    static DROPPED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    struct Noted(BTreeMap<u64, u64>);
    impl Drop for Noted { fn drop(&mut self) { DROPPED.lock().unwrap().push(self.0.values().sum()); } }
    thread_local! { static OWN: RefCell<Noted> = RefCell::new(Noted(BTreeMap::new())); }
    fn fill(n: u64) -> u64 {
        OWN.with(|own| { for i in 0..n { own.borrow_mut().0.insert(i, i); } own.borrow().0.len() as u64 })
    }
    #[no_mangle] pub extern "C" fn threads(n: u64) -> u64 {
        let all: Vec<_> = (1..=n).map(|i| std::thread::spawn(move || fill(i))).collect();
        all.into_iter().map(|each| each.join().unwrap()).sum()
    }
    #[no_mangle] pub extern "C" fn dropped() -> u64 { DROPPED.lock().unwrap().iter().sum() }
    #[no_mangle] pub extern "C" fn caught(x: i32) -> i32 {
        std::panic::set_hook(Box::new(|_| {}));
        std::panic::catch_unwind(|| { if x > 2 { panic!("too much: {}", x) } x }).unwrap_or(-1)
    }
"""
FORTRAN = """
    module counted
        use iso_c_binding
        implicit none
        integer(c_int), save :: total = 5
        !$omp threadprivate(total)
    contains
        function add(by) bind(c)
            integer(c_int), value :: by
            integer(c_int) :: add
            total = total + by
            add = total
        end function
    end module
"""


def test_static_objects_live_in_order() -> None:
    """Constructed in the order of the objects and of their sources, on first use where local; destroyed in reverse."""
    noted: list[int] = []
    note = NOTE(noted.append)
    flags = "-O2", "-fno-exceptions", "-fno-threadsafe-statics"
    objects = [toolchain.zig_cc(ORDERED.format(n=n), *flags, language="c++") for n in (1, 2)]
    with jitlink.Session() as session:
        dylib = session.dylib().link_against({"note": note}, jitlink.process()).add(*objects)
        use = [ctypes.CFUNCTYPE(ctypes.c_int)(dylib[name].address) for name in ("use2", "use1", "use2")]
        assert noted == [11, 12, 21, 22]
        assert [each() for each in use] == [23, 13, 23]
        constructed = noted.copy()
        assert constructed == [11, 12, 21, 22, 23, 13]
    assert noted == [*constructed, *(-each for each in reversed(constructed))]


def description(function: int) -> str:
    """What described() of STREAMS says."""
    text = ctypes.create_string_buffer(200)
    size = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int)(function)(text, len(text))
    return text.raw[:size].decode()


def cxx_library() -> list[Path]:
    """zig's own C++ library and unwinder as archives, which zig builds when it links C++ the first time."""
    toolchain.link_shared([toolchain.zig_cc("int main() { return 0; }", language="c++")], "-lc++")
    made = toolchain._directory() / "zig" / "o"
    found = [next(iter(made.glob(f"*/{name}.a")), None) for name in ("libc++", "libc++abi", "libunwind")]
    if None in found:
        pytest.skip("zig keeps its C++ library elsewhere")
    return [path for path in found if path is not None]


def test_streams_exceptions_and_threads_of_a_static_cxx_library() -> None:
    """iostream, containers, a thread with thread-local maps, and a caught exception, all of libc++ linked here."""
    code = toolchain.zig_cc(STREAMS, "-O2", language="c++")
    library = ctypes.CDLL(str(toolchain.link_shared([code], "-lc++")))
    wanted = description(ctypes.cast(library.described, ctypes.c_void_p).value or 0)
    assert wanted == "one6 three5 two3 3 caught"
    with jitlink.Session() as session:
        described = session.dylib().add(code, *cxx_library())["described"].address
        assert [description(described) for _ in range(2)] == [wanted, wanted.replace("3 caught", "6 caught")]
        assert on_threads(4, lambda: description(described)) == [wanted] * 4


def test_the_same_with_the_cxx_library_of_gcc() -> None:
    """The same source with g++ and its shared library."""
    toolchain.needs("g++")
    code = toolchain.compile_with(STREAMS, "-O2", compiler="g++", language="c++")
    with jitlink.Session() as session:
        dylib = session.dylib().link_against(jitlink.process(), jitlink.shared_library("libstdc++.so.6"))
        described = dylib.add(code)["described"].address
        assert on_threads(4, lambda: description(described)) == ["one6 three5 two3 3 caught"] * 4


def test_a_rust_library_with_collections_threads_and_a_caught_panic(tmp_path: Path) -> None:
    """A staticlib with all of Rust's standard library: its thread-locals are dropped in each of eight threads."""
    toolchain.needs("rustc")
    (tmp_path / "source.rs").write_text(RUST)
    command = ["rustc", "-O", "--crate-type=staticlib", "-o", "library.a", "source.rs"]
    subprocess.run(command, check=True, capture_output=True, timeout=toolchain.STEP_TIMEOUT, cwd=tmp_path)
    with jitlink.Session() as session:
        dylib = session.dylib().link_against(jitlink.process(), jitlink.shared_library("libgcc_s.so.1"))
        dylib.add(tmp_path / "library.a")
        threads = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(dylib["threads"].address)
        dropped = ctypes.CFUNCTYPE(ctypes.c_uint64)(dylib["dropped"].address)
        caught = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(dylib["caught"].address)
        assert threads(8) == sum(range(9))
        assert dropped() == sum(sum(range(n)) for n in range(1, 9))
        assert [caught(x) for x in (1, 2, 3)] == [1, 2, -1]


def test_threadprivate_variables_of_fortran() -> None:
    """A module variable that OpenMP makes private to each thread keeps its initial value for each."""
    code = toolchain.compile_with(FORTRAN, "-O2", "-fopenmp", compiler="gfortran")
    with jitlink.Session() as session:
        add = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(session.dylib().add(code)["add"].address)
        assert on_threads(8, lambda: [add(1), add(10)]) == [[6, 16]] * 8


def test_thread_local_objects_of_a_library_without_exceptions_die_with_their_thread() -> None:
    """A thread-local container of libstdc++ frees what it holds: glibc calls the destructor through our code."""
    toolchain.needs("g++")
    source = """
        #include <vector>
        static int alive;
        struct Held { Held() { alive++; } Held(const Held &) { alive++; } ~Held() { alive--; } };
        extern "C" int hold(int n) { thread_local std::vector<Held> held; held.resize(n); return alive; }
        extern "C" int living(void) { return alive; }
    """
    code = toolchain.compile_with(source, "-O2", "-fPIC", compiler="g++", language="c++")
    with jitlink.Session() as session:
        dylib = session.dylib().link_against(jitlink.process(), jitlink.shared_library("libstdc++.so.6")).add(code)
        hold = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(dylib["hold"].address)
        living = ctypes.CFUNCTYPE(ctypes.c_int)(dylib["living"].address)
        thread = NativeThread(lambda: hold(100))
        thread.start()
        assert thread.join() == 100
        assert living() == 0
