"""The C library of a dylib in an emulated machine: from names to addresses, and what it remembers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from jitlink.execution.c_types import POINTER, VOID
from jitlink.execution.calls import Value, call
from jitlink.execution.libc import (
    characters,
    compiler,
    cplusplus,
    mathematics,
    memory,
    numbers,
    output,
    process,
    strings,
)
from jitlink.execution.libc.atomics import atomic_function
from jitlink.execution.libc.provided import FUNCTIONS
from jitlink.execution.options import Emulation, Output

if TYPE_CHECKING:
    from jitlink.execution.emulator import EmulatedHome

PARTS = (characters, compiler, cplusplus, mathematics, memory, numbers, output, process, strings)
"""Each adds its functions to FUNCTIONS when it is loaded."""
POINTER_SIZE = 8
STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2, "__stdinp": 0, "__stdoutp": 1, "__stderrp": 2}
"""Variables that hold a FILE *; those with two underscores are macOS's."""
GUARD = 0x0A0D_00FF_5AA5_C300
"""What the stack protector compares: it has a NUL in it, so that no string copies over it."""
VARIABLES = {"__stack_chk_guard": GUARD, "environ": 0, "_environ": 0, "_fltused": 0, "__security_cookie": GUARD}
VARIABLES |= dict.fromkeys(cplusplus.TABLES, 0)
STREAM_SIZE = 16


class CLibrary:
    """What a dylib of emulated code sees of C's library. A resolver of names.

    Attributes: home (the dylib's residence); streams (addresses of stdin, stdout and stderr); errno
    (address); random (state of rand); cursor (where strtok goes on).
    """

    def __init__(self, home: EmulatedHome, options: Emulation) -> None:
        self.home = home
        self.random = 1
        self.cursor = 0
        self._options = options
        self._addresses: dict[tuple[str, str], int] = {}
        self._variables: dict[str, int] = {}
        self._streams: list[int] = []
        self._errno = 0
        self._handlers: list[tuple[int, int]] = []

    def address_of(self, name: str) -> int | None:
        """The address of a function or variable by its C name, or None."""
        # macOS says by a suffix which of two behaviours is meant: ours is one.
        name = name.partition("$")[0] or name
        if name in STREAMS or name in VARIABLES:
            return self._variable(name)
        provided = FUNCTIONS.get(name)
        serve: Callable[[], None] | None = partial(provided.serve, self) if provided else atomic_function(name, self)
        if serve is None:
            return None
        # A function of another convention finds its arguments elsewhere.
        key = name, self.home.convention.name
        if key not in self._addresses:
            self._addresses[key] = self.home.machine.add_function(name, serve)
        return self._addresses[key]

    def _variable(self, name: str) -> int:
        if name not in self._variables:
            value = self.streams[STREAMS[name]] if name in STREAMS else VARIABLES[name]
            address = self.home.memory.allocate(cplusplus.TABLE_SIZE)
            self.home.memory.write(address, value.to_bytes(POINTER_SIZE, "little"))
            self._variables[name] = address
        return self._variables[name]

    @property
    def streams(self) -> list[int]:
        """The addresses of stdin, stdout and stderr, which hold nothing but are different."""
        if not self._streams:
            self._streams = [self.home.memory.allocate(STREAM_SIZE) for _ in range(3)]
        return self._streams

    @property
    def errno(self) -> int:
        """The address of errno."""
        if not self._errno:
            self._errno = self.home.memory.allocate(POINTER_SIZE)
        return self._errno

    def write(self, stream: int, data: bytes) -> None:
        """Write to a stream, by its address; what is no stream of ours is stdout."""
        is_error = len(self._streams) > 2 and stream == self._streams[2]
        chosen: Output | None = self._options.stderr if is_error else self._options.stdout
        if chosen is not None:
            chosen.write(data)
            return
        python = sys.stderr if is_error else sys.stdout
        binary = getattr(python, "buffer", None)
        if binary is None:
            python.write(data.decode(errors="backslashreplace"))
        else:
            python.flush()
            binary.write(data)
            binary.flush()

    def add_exit_handler(self, function: int, argument: int) -> None:
        """Remember a function to be called when the dylib is closed."""
        self._handlers.append((function, argument))

    def run_exit_handlers(self) -> None:
        """Call the handlers, last one first, with those that they add; each is called once."""
        while self._handlers:
            function, argument = self._handlers.pop()
            value = Value(POINTER, argument.to_bytes(POINTER_SIZE, "little"))
            call(self.home.machine, self.home.convention, function, VOID, [value])

    def __repr__(self) -> str:
        return "<the C library of an emulated CPU>"
