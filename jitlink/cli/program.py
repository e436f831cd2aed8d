"""Calling main as the C start files do: exit(main(argc, argv, envp)).

The process is the program's from here on. The exit of the C library, called by the program itself or
after main returns, runs atexit handlers, static destructors and finalisers and flushes stdio; Python
does not come back. So a program that leaves threads running ends as it would have ended by itself, with
its code still mapped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

MAIN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
AT_EXIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
CHANGED_BY_PYTHON = ("SIGINT", "SIGPIPE", "SIGXFSZ")
"""Signals that Python handles or ignores, and that a C program expects as the system has them."""


def run_main(address: int, arguments: Sequence[str], finalise: Callable[[], None]) -> NoReturn:
    """Call main and exit with what it returns.

    address: of a function int (int, char **, char **). arguments: those of main, the program's name
    first. finalise: called when the process exits, after the handlers that the program registers.
    """
    for name in CHANGED_BY_PYTHON:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    c_library = ctypes.CDLL(None)
    at_exit = AT_EXIT(lambda _: finalise())
    # Registered before main runs, so that it runs after what main registers.
    c_library.__cxa_atexit(at_exit, None, None)
    # A program may change its arguments in place, so each one is a buffer of its own.
    buffers = [ctypes.create_string_buffer(os.fsencode(argument)) for argument in arguments]
    argv = (ctypes.c_void_p * (len(buffers) + 1))(*map(ctypes.addressof, buffers), None)
    environment = ctypes.c_void_p.in_dll(c_library, "environ")
    result = MAIN(address)(len(buffers), ctypes.addressof(argv), environment)
    c_library.exit(result)
    raise AssertionError("exit has returned")
