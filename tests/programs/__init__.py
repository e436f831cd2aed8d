"""C programs that the tests compile, link and run: each file says what it exercises.

A function `long check_NAME(long n)` computes a number from n in a way that needs its subject to work;
any right build of the source gives the same number. Floating-point results are returned as their bits.
No program includes a header, so that every compiler and target can compile it.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from pathlib import Path

import jitlink
from tests import toolchain

ARGUMENTS = (0, 1, 2, 7, 13, 100, 4095, 123_456_789, -5)
CHECK = re.compile(r"^long (check_\w+)\(long", re.MULTILINE)
ALONE = ("pointers.c", "switches.c", "floating.c", "variadic.c", "recursion.c", "arrays.c")
"""Programs of one file; together they are one source file too, since their names are distinct."""


def source(*names: str) -> str:
    """The source text of programs, one behind the other."""
    return "\n".join((Path(__file__).parent / name).read_text() for name in names)


def checks(text: str) -> list[str]:
    """The names of the check functions that a source text defines."""
    return CHECK.findall(text)


def results(library: ctypes.CDLL | jitlink.Library, *texts: str) -> dict[tuple[str, int], int]:
    """What every check function of these source texts gives for every argument."""
    found: dict[tuple[str, int], int] = {}
    for name in [name for text in texts for name in checks(text)]:
        if isinstance(library, jitlink.Library):
            function = library.function(name, ctypes.c_long, [ctypes.c_long])
        else:
            function = getattr(library, name)
            function.restype, function.argtypes = ctypes.c_long, [ctypes.c_long]
        found |= {(name, argument): function(argument) for argument in ARGUMENTS}
    return found


@cache
def native_results(*texts: str) -> dict[tuple[str, int], int]:
    """The same from a shared library that a static linker made."""
    objects = [toolchain.zig_cc(text, "-O1", "-fPIC") for text in texts]
    return results(ctypes.CDLL(str(toolchain.link_shared(objects))), *texts)
