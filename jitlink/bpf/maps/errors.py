"""What goes wrong with an element of a map, with the kernel's error numbers.

In the kernel an operation on a map answers with a negative errno, to a program as r0, to user space
through the bpf() system call. Programs get the same numbers here; Python gets an exception that is an
OSError with that errno. A key that is not there is also a KeyError, as a mapping raises.
"""

from __future__ import annotations

import os
from errno import E2BIG, EEXIST, EINVAL, ENOENT, ENOSPC

from jitlink.errors import UsageError

_MEANINGS = {
    E2BIG: "the map is full, or the index is past its end",
    EEXIST: "the element exists, and the flags ask for a new one",
    EINVAL: "maps of this type, or the flags, do not allow it",
    ENOENT: "there is no such element",
    ENOSPC: "the map is full",
}


class MapError(UsageError, OSError):
    """An operation on a map that the kernel would refuse. Attributes: errno, strerror."""

    def __str__(self) -> str:
        return str(self.strerror)


class MissingKey(MapError, KeyError):
    """The map has no element with this key (ENOENT)."""


def map_error(code: int, map: str, doing: str, why: str = "") -> MapError:
    """Make the exception for a negative errno. code: the errno, positive."""
    text = f"map {map}: {doing}: {why or _MEANINGS.get(code) or os.strerror(code)}"
    return MissingKey(code, text) if code == ENOENT else MapError(code, text)
