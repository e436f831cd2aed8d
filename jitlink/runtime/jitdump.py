"""jitdump: a record of linked functions, with their code and lines, that perf reads afterwards.

    JITLINK_PERF=dump perf record -k mono python program.py
    perf inject --jit -i perf.data -o perf.jit.data
    perf report -i perf.jit.data

The file is a header and records with times, so that of two functions that were at one address perf knows
which one a sample is in, and it holds their machine code, for `perf annotate`. perf learns of the file
itself by seeing it mapped executable; so its first page is mapped, and never used. Records of lines come
before the function that they describe.

The file is jit-PID.dump in the directory that the environment variable JITDUMPDIR names, else in the
current one. All sessions of a process write to one file.

Source: Linux, tools/perf/Documentation/jitdump-specification.txt, version 1 of the format.
"""

from __future__ import annotations

import atexit
import ctypes
import mmap
import os
import struct
import threading
import time
import warnings
from functools import cache

from jitlink.arches.architecture import Architecture
from jitlink.errors import UsageError
from jitlink.linker import Linked
from jitlink.runtime.functions import named_places
from jitlink.runtime.lines import Lines, read_lines
from jitlink.runtime.perf_map import open_own_file
from jitlink.runtime.unwind_chain import UnwindChain

MAGIC, VERSION = 0x4A695444, 1
HEADER = struct.Struct("=IIIIIIQQ")  # magic, version, size, machine, padding, process, time, flags
PREFIX = struct.Struct("=IIQ")  # record type, size of the record, time
CODE_LOAD = struct.Struct("=IIQQQQ")  # process, thread, address, address again, size of code, number
DEBUG_INFO = struct.Struct("=QQ")  # address, entries
DEBUG_ENTRY = struct.Struct("=QII")  # address, line, discriminator; then the path
JIT_CODE_LOAD, JIT_CODE_DEBUG_INFO, JIT_CODE_CLOSE = 0, 2, 3
DIRECTORY_VARIABLE = "JITDUMPDIR"


class JitDump:
    """Writes the functions of a session into the dump of this process."""

    def __init__(self, target: Architecture) -> None:
        """Make the file. Raises UsageError where it cannot be written."""
        self.machine = target.elf_machine
        try:
            dump_of(os.getpid(), self.machine)
        except OSError as error:
            raise UsageError(f"the jitdump cannot be written: {error}") from error

    def add(self, owner: object, linked: Linked, chain: UnwindChain | None) -> None:
        """Write down the functions of a link, and the lines of inputs whose debug sections were read."""
        places = named_places(linked.graph, code=True)
        inputs = linked.graph.inputs
        described = [number for number, name in enumerate(inputs) if name in linked.debug_sections]
        lines = {number: read_lines(linked.debug_sections[inputs[number]]) for number in described}
        try:
            # A child process has a dump of its own.
            dump = dump_of(os.getpid(), self.machine)
            columns = places.address.tolist(), places.end.tolist(), places.name, places.input.tolist()
            for address, end, name, number in zip(*columns, strict=True):
                dump.write_function(address, end, name, lines.get(number))
            dump.file.flush()
        except OSError as error:
            warnings.warn(f"the jitdump lacks functions: {error}", RuntimeWarning, stacklevel=2)

    def remove(self, owner: object) -> None:
        """Do nothing: what is loaded later at the address says by its time that the old code is gone."""


class Dump:
    """The file of one process."""

    def __init__(self, path: str, machine: int) -> None:
        """Begin the file. Raises OSError."""
        self.path = path
        self.process = os.getpid()
        self.file = os.fdopen(open_own_file(path, os.O_TRUNC), "r+b")
        self.file.write(HEADER.pack(MAGIC, VERSION, HEADER.size, machine, 0, self.process, _now(), 0))
        self.file.flush()
        # This mapping is what perf sees in its own records; nothing reads it.
        self._marker = mmap.mmap(
            self.file.fileno(), HEADER.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC
        )
        self._functions = 0
        atexit.register(self.close)

    def close(self) -> None:
        """End the file. A child process that still has it from its parent leaves it alone."""
        if self.process == os.getpid() and not self.file.closed:
            self._write(JIT_CODE_CLOSE, b"")
            self.file.close()

    def write_function(self, address: int, end: int, name: bytes, lines: Lines | None) -> None:
        """Write a function whose code is in memory, its lines first."""
        entries = lines.between(address, end) if lines else []
        if entries:
            body = DEBUG_INFO.pack(address, len(entries))
            for place, path, line in entries:
                body += DEBUG_ENTRY.pack(place, line, 0) + path.encode(errors="surrogateescape") + b"\0"
            self._write(JIT_CODE_DEBUG_INFO, body)
        code = ctypes.string_at(address, end - address)
        fields = self.process, threading.get_native_id(), address, address, len(code), self._functions
        self._functions += 1
        self._write(JIT_CODE_LOAD, CODE_LOAD.pack(*fields) + name + b"\0" + code)

    def _write(self, kind: int, body: bytes) -> None:
        self.file.write(PREFIX.pack(kind, PREFIX.size + len(body), _now()) + body)


@cache
def dump_of(process: int, machine: int) -> Dump:
    """The dump of a process, begun at the first call. Raises OSError."""
    directory = os.environ.get(DIRECTORY_VARIABLE) or os.curdir
    return Dump(os.path.abspath(os.path.join(directory, f"jit-{process}.dump")), machine)


def _now() -> int:
    """The time as `perf record -k mono` has it."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
