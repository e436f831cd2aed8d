"""Programs with thread-local variables, and what runs them on threads."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests import toolchain

NATIVE = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

COUNTERS = """
    struct record { long first; char name[24]; double last; };
    __thread int counter = 40;
    __thread long zero;
    static __thread int hidden_in_file = 7;
    __thread struct record record = {1, "initialised", 2.5};
    static __thread char large[500];
    int target_of_pointer = 5;
    __thread int *pointer = &target_of_pointer;
    __thread __attribute__((aligned(64))) int aligned = 64;

    int bump(int by) { counter += by; return counter + hidden_in_file++; }
    long count(void) { return zero++; }
    long touched(int index) { large[index] += index; return large[index] + (long)record.last + record.name[3]; }
    int through_pointer(void) { return ++*pointer - *pointer + (pointer == &target_of_pointer); }
    int is_aligned(void) { return (unsigned long)&aligned % 64 == 0 ? aligned++ : -1; }
    int *where(void) { return &counter; }
"""
FUNCTIONS = {
    "bump": (ctypes.c_int, ctypes.c_int),
    "count": (ctypes.c_long,),
    "touched": (ctypes.c_long, ctypes.c_int),
    "through_pointer": (ctypes.c_int,),
    "is_aligned": (ctypes.c_int,),
}
MODELS = ("global-dynamic", "local-dynamic", "initial-exec", "local-exec")
CALLS = [("bump", 3), ("bump", 1), ("count",), ("count",), ("touched", 5), ("touched", 5), ("touched", 499)]
CALLS += [("through_pointer",), ("is_aligned",), ("is_aligned",)]
THREADS = 8
C_LIBRARY = ctypes.CDLL(None)


def compiled(compiler: str, source: str, *flags: str) -> bytes:
    """Compile C with zig or with a compiler of the machine."""
    if compiler == "zig":
        return toolchain.zig_cc(source, *flags)
    toolchain.needs(compiler)
    return toolchain.compile_with(source, *flags, compiler=compiler)


def functions_at(address_of: Callable[[str], int]) -> dict[str, Any]:
    """The functions of COUNTERS, given where each one is."""
    return {name: ctypes.CFUNCTYPE(*types)(address_of(name)) for name, types in FUNCTIONS.items()}


def transcript(functions: dict[str, Any]) -> list[int]:
    """Call the functions as CALLS says, and note the results."""
    return [functions[str(name)](*arguments) for name, *arguments in CALLS]


class NativeThread:
    """A thread of the C library. Joining one waits for its destructors too, as Thread.join() of Python does not."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._run = run
        self._start = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(self._body)
        self._thread = ctypes.c_ulong()

    def _body(self, argument: int | None) -> None:
        try:
            self.result = self._run()
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        """Start it."""
        assert C_LIBRARY.pthread_create(ctypes.byref(self._thread), None, self._start, None) == 0

    def join(self) -> Any:
        """Wait until it has ended; returns what it gave. Raises what it raised."""
        assert C_LIBRARY.pthread_join(self._thread, None) == 0
        if self.error is not None:
            raise self.error
        return self.result


def on_threads(count: int, run: Callable[[], Any]) -> list[Any]:
    """Run something on many threads at once, all alive until all have run; returns what each one gave."""
    everybody = threading.Barrier(count)

    def body() -> Any:
        everybody.wait()
        try:
            return run()
        finally:
            everybody.wait()

    threads = [NativeThread(body) for _ in range(count)]
    for thread in threads:
        thread.start()
    return [thread.join() for thread in threads]
