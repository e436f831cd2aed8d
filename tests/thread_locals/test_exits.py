"""Destructors of thread-local objects run when their thread ends, and closing a dylib does not pull their code away.

Sources: C++ [basic.start.term] (destroyed in the reverse order of construction, before static objects);
Itanium C++ ABI, 3.3.6.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator

import pytest

import jitlink
from jitlink.execution import thread_exits
from tests import toolchain
from tests.thread_locals.programs import NATIVE, NativeThread, on_threads

pytestmark = NATIVE

OBJECTS = """
    extern "C" void note(int what);
    struct Object {
        int id;
        Object(int id) : id(id) { note(id); }
        ~Object() { note(-id); }
    };
    thread_local Object first(1);
    thread_local Object second(2);
    Object whole(100);
    extern "C" int touch(void) { return first.id + second.id; }
    extern "C" int inside(void) { static thread_local Object late(3); return late.id; }
"""
FLAGS = ("-O2", "-fno-exceptions")
NOTE = ctypes.CFUNCTYPE(None, ctypes.c_int)
INT = ctypes.CFUNCTYPE(ctypes.c_int)


class Log:
    """What the objects of one test have noted, by thread."""

    def __init__(self) -> None:
        self.all: list[tuple[int, int]] = []
        self.function = NOTE(lambda what: self.all.append((threading.get_ident(), what)))

    def of(self, thread: int) -> list[int]:
        """What was noted in a thread."""
        return [what for where, what in self.all if where == thread]

    def here(self) -> list[int]:
        """What was noted in this thread."""
        return self.of(threading.get_ident())


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(autouse=True)
def nothing_lingers() -> Iterator[None]:
    """Every test starts and ends without code that lingers."""
    gc.collect()
    thread_exits.unmap_idle()
    assert not thread_exits._lingering
    yield
    thread_exits.unmap_idle()
    assert not thread_exits._lingering


@pytest.fixture(scope="module", params=["zig", "g++"])
def code(request: pytest.FixtureRequest) -> bytes:
    """The objects, compiled."""
    if request.param == "zig":
        return toolchain.zig_cc(OBJECTS, *FLAGS, language="c++")
    toolchain.needs("g++")
    return toolchain.compile_with(OBJECTS, *FLAGS, "-fPIC", compiler="g++")


def opened(session: jitlink.Session, code: bytes, log: Log, name: str = "main") -> jitlink.Dylib:
    """A dylib with the objects, which note in log."""
    dylib = session.dylib(name)
    dylib.link_against({"note": log.function}, jitlink.process())
    return dylib.add(code)


def test_destructors_run_at_thread_exit_in_reverse_order(code: bytes, log: Log) -> None:
    """Each of eight threads constructs its own objects and destroys them, the last one first."""
    with jitlink.Session() as session:
        dylib = opened(session, code, log)
        touch, inside = INT(dylib["touch"].address), INT(dylib["inside"].address)
        idents = on_threads(8, lambda: (threading.get_ident(), touch(), touch(), inside(), inside())[0])
        for ident in set(idents):
            times = idents.count(ident)
            assert log.of(ident) == [1, 2, 3, -3, -2, -1] * times


def test_closing_runs_the_destructors_of_the_closing_thread_before_those_of_static_objects(
    code: bytes, log: Log
) -> None:
    """Once, in reverse order, thread-local objects first; nothing more happens when the thread ends."""

    def body() -> None:
        with jitlink.Session() as session:
            dylib = opened(session, code, log)
            INT(dylib["touch"].address)()
            log.all.append((threading.get_ident(), 0))

    on_threads(1, body)
    assert [what for _, what in log.all] == [100, 1, 2, 0, -2, -1, -100]
    thread_exits.unmap_idle()
    assert not thread_exits._lingering


def test_other_threads_run_their_destructors_after_the_close(code: bytes, log: Log) -> None:
    """The code stays until the last thread that has objects of it has ended; then the next call unmaps it."""
    ready, go_on = threading.Barrier(3), threading.Event()
    idents = []

    def body() -> None:
        idents.append(threading.get_ident())
        touch()
        ready.wait()
        go_on.wait()

    session = jitlink.Session()
    dylib = opened(session, code, log)
    touch = INT(dylib["touch"].address)
    threads = [NativeThread(body) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait()
    session.close()
    assert dylib.closed
    assert log.here() == [100, -100]
    assert len(thread_exits._lingering) == 1
    go_on.set()
    for thread in threads:
        thread.join()
    assert all(log.of(ident) == [1, 2, -2, -1] for ident in idents)
    # Opening anything is enough.
    with jitlink.Session() as another:
        another.dylib()
        assert not thread_exits._lingering


def test_a_dylib_that_lingering_code_calls_lingers_with_it(log: Log) -> None:
    """Destructors of one dylib may call another one of the session, which is closed later than it."""
    helper = toolchain.zig_cc("void note(int); void helped(int what) { note(what); }")
    source = 'extern "C" void helped(int what);' + OBJECTS.replace("note(-id)", "helped(-id)")
    user = toolchain.zig_cc(source, *FLAGS, language="c++")
    ready, go_on = threading.Barrier(2), threading.Event()

    def body() -> None:
        touch()
        ready.wait()
        go_on.wait()

    session = jitlink.Session()
    below = opened(session, helper, log, "below")
    above = session.dylib("above")
    above.link_against(below, {"note": log.function}, jitlink.process())
    above.add(user)
    touch = INT(above["touch"].address)
    thread = NativeThread(body)
    thread.start()
    ready.wait()
    session.close()
    assert len(thread_exits._lingering) == 2
    go_on.set()
    thread.join()
    assert [what for _, what in log.all if what < 0] == [-100, -2, -1]


def test_a_thread_goes_on_with_one_dylib_after_another_was_closed(code: bytes, log: Log) -> None:
    """Destructors of two dylibs in one thread: closing one runs its own and leaves the other's."""
    other = Log()

    def body() -> list[int]:
        with jitlink.Session() as session:
            kept = opened(session, code, other, "kept")
            closed = opened(session, code, log, "closed")
            for dylib in (kept, closed, kept):
                INT(dylib["touch"].address)()
            INT(closed["inside"].address)()
            closed.close()
            return [*log.here(), 0, *other.here()]

    assert on_threads(1, body) == [[100, 1, 2, 3, -3, -2, -1, -100, 0, 100, 1, 2]]
    assert [what for _, what in other.all][3:] == [-2, -1, -100]


def test_rust_thread_locals_are_dropped_at_thread_exit() -> None:
    """thread_local! registers with __cxa_thread_atexit_impl; the drop runs in the thread, after the close too."""
    toolchain.needs("rustc")
    source = """
        #![no_std]
        use core::panic::PanicInfo;
        #[panic_handler] fn panic(_: &PanicInfo) -> ! { loop {} }
        extern "C" {
            fn note(what: i32);
            fn __cxa_thread_atexit_impl(f: extern "C" fn(*mut u8), object: *mut u8, handle: *const u8) -> i32;
            static __dso_handle: u8;
        }
        extern "C" fn drop_it(object: *mut u8) { unsafe { note(-(object as usize as i32)) } }
        #[no_mangle] pub extern "C" fn register(what: i32) -> i32 {
            unsafe { __cxa_thread_atexit_impl(drop_it, what as usize as *mut u8, &__dso_handle) }
        }
    """
    code = toolchain.compile_with(source, "--crate-type=lib", "--emit=obj", "-Cpanic=abort", "-O", compiler="rustc")
    log = Log()
    with jitlink.Session() as session:
        dylib = opened(session, code, log)
        register = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(dylib["register"].address)
        assert on_threads(1, lambda: [register(4), register(8), *log.here()]) == [[0, 0]]
        assert [what for _, what in log.all] == [-8, -4]
