"""The map file of perf: names for the code of a process that is in no file.

perf looks for /tmp/perf-PID.map when a sample lies in memory without a file behind it. Each line is the
start and the size of a function, in hexadecimal, and its name. The file only grows: code that was
unmapped stays listed, and of two functions that were at one address perf sees the later one. It is for
code that stays; see jitlink.runtime.jitdump for code that comes and goes, and for lines.

The name of the file is fixed, in a directory where everybody may write: a symbolic link in its place is
not followed, and a file of somebody else's is not written to. Python writes into the same file, with
`python -X perf`; both append.

Source: Linux, tools/perf/Documentation/jit-interface.txt.
"""

from __future__ import annotations

import os
import re
import stat
import warnings

from jitlink.errors import UsageError
from jitlink.linker import Linked
from jitlink.runtime.functions import named_places
from jitlink.runtime.unwind_chain import UnwindChain

DIRECTORY = "/tmp"
BREAKS = re.compile(rb"[\x00-\x1f]")


class PerfMap:
    """Appends functions to the map file of this process."""

    def __init__(self) -> None:
        """Make the file. Raises UsageError where it cannot be written."""
        try:
            os.close(open_own_file(map_path(), os.O_APPEND))
        except OSError as error:
            raise UsageError(f"the map of perf cannot be written: {error}") from error

    def add(self, owner: object, linked: Linked, chain: UnwindChain | None) -> None:
        """Append the functions of a link."""
        places = named_places(linked.graph, code=True)
        starts, sizes = places.address.tolist(), (places.end - places.address).tolist()
        lines = b"".join(
            b"%x %x %s\n" % (start, size, BREAKS.sub(b"?", name))
            for start, size, name in zip(starts, sizes, places.name, strict=True)
        )
        try:
            # The path is made anew: a child process has a map of its own.
            with open(open_own_file(map_path(), os.O_APPEND), "ab") as file:
                file.write(lines)
        except OSError as error:
            warnings.warn(f"the map of perf lacks functions: {error}", RuntimeWarning, stacklevel=2)

    def remove(self, owner: object) -> None:
        """Do nothing: the format has no way to take functions back."""


def map_path() -> str:
    """The path of this process's map file."""
    return f"{DIRECTORY}/perf-{os.getpid()}.map"


def open_own_file(path: str, flags: int) -> int:
    """Open or make a file for writing that is a regular file of this user. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    status = os.fstat(file)
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise PermissionError(f"{path} belongs to somebody else")
    return file
