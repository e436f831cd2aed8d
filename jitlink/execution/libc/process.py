"""The end of a program, and what it knows of the world: which is nothing here."""

from __future__ import annotations

import time as clock_of_python

from jitlink.errors import EmulationFault, ProgramExit
from jitlink.execution.libc.provided import LibraryCall, provides

CLOCKS_PER_SECOND = 1_000_000
CLOCKS_PER_SECOND_WINDOWS = 1000
LONG_OF_WINDOWS = 4


@provides("exit", "_exit", "_Exit", "quick_exit", types="v i")
def exit(call: LibraryCall, status: int) -> None:
    """End the program: the call from Python raises ProgramExit. Handlers run when the dylib is closed."""
    raise ProgramExit(status)


@provides("abort", types="v ")
def abort(call: LibraryCall) -> None:
    """End the program as broken."""
    raise EmulationFault("the program has given up")


@provides("__stack_chk_fail", types="v ")
def stack_chk_fail(call: LibraryCall) -> None:
    """The stack protector has found that the stack was overwritten."""
    raise EmulationFault("the function has written over the end of its stack frame")


@provides("__assert_fail", types="v ppup")
def assert_fail(call: LibraryCall, assertion: int, file: int, line: int, function: int) -> None:
    """assert of Linux."""
    _failed(call, assertion, file, line)


@provides("__assert_rtn", types="v ppip")
def assert_rtn(call: LibraryCall, function: int, file: int, line: int, assertion: int) -> None:
    """assert of macOS."""
    _failed(call, assertion, file, line)


@provides("_assert", types="v ppu")
def assert_windows(call: LibraryCall, assertion: int, file: int, line: int) -> None:
    """assert of Windows."""
    _failed(call, assertion, file, line)


def _failed(call: LibraryCall, assertion: int, file: int, line: int) -> None:
    text, name = call.string(assertion), call.string(file)
    shown = text.decode(errors="backslashreplace"), name.decode(errors="backslashreplace")
    raise EmulationFault(f"the assertion {shown[0]} has failed, in {shown[1]}:{line}")


@provides("atexit", types="i p")
def atexit(call: LibraryCall, function: int) -> int:
    """Call a function when the dylib is closed."""
    call.library.add_exit_handler(function, 0)
    return 0


@provides("__cxa_atexit", "__cxa_thread_atexit", "__cxa_thread_atexit_impl", types="i ppp")
def cxa_atexit(call: LibraryCall, function: int, argument: int, dso_handle: int) -> int:
    """Call a function with an argument when the dylib is closed. There is one thread, which ends then."""
    call.library.add_exit_handler(function, argument)
    return 0


@provides("__errno_location", "__error", "_errno", types="p ")
def errno_location(call: LibraryCall) -> int:
    """Where errno is."""
    return call.library.errno


@provides("getenv", "secure_getenv", types="p p")
def getenv(call: LibraryCall, name: int) -> int:
    """There are no environment variables."""
    return 0


@provides("time", "_time64", types="q p")
def time(call: LibraryCall, result: int) -> int:
    """Seconds since 1970."""
    now = int(clock_of_python.time())
    if result:
        call.memory.write(result, now.to_bytes(8, "little"))
    return now


@provides("clock", types="l ")
def clock(call: LibraryCall) -> int:
    """Processor time of this process."""
    windows = call.library.home.long_size == LONG_OF_WINDOWS
    return int(clock_of_python.process_time() * (CLOCKS_PER_SECOND_WINDOWS if windows else CLOCKS_PER_SECOND))
