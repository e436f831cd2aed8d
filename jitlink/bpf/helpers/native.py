"""Helpers that are C functions: given by users in the place of functions in Python, and run without Python.

    library = jitlink.load("helpers.o")
    program = bpf.load("filter.o", helpers={200: bpf.NativeHelper(library["score"])})

The function takes r1 to r5 and returns r0, all of them uint64_t; it may take fewer. In native code the call costs a
few nanoseconds, and neither Python nor its lock has a part in it, so that the function can be called by several
threads at once. What it does with the pointers that it is given nobody checks: it is trusted as the host's
own code is. Its library must not be closed while programs are run.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from jitlink.bpf.machine import VALUE_MASK, Machine

_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5)


class HasAddress(Protocol):
    """What has an address: a symbol of a linked library."""

    @property
    def address(self) -> int:
        """The address."""


class NativeHelper:
    """A C function as a helper, which the interpreter calls through ctypes.

    Attributes: address; function (what was given, kept as long as the helper is).
    """

    def __init__(self, function: int | HasAddress) -> None:
        """Make a helper of a function: a symbol of a linked library, or an address, whose code is then the caller's
        to keep."""
        self.function = function
        self.address = function if isinstance(function, int) else function.address
        self.__name__: str = getattr(function, "name", f"{self.address:#x}")
        self._call: Any = _FUNCTION(self.address)

    def __call__(self, machine: Machine, *registers: int) -> int:
        result: int = self._call(*(register & VALUE_MASK for register in registers))
        return result

    def __repr__(self) -> str:
        return f"<native helper {self.__name__!r} at {self.address:#x}>"
