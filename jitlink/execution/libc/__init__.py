"""A small C library for emulated code, written in Python.

Functions are looked up by their C names when something refers to them, and get an address then. What is
there: memory and strings, malloc and its family, the printf family, characters, numbers, sorting,
mathematics, exit handlers, and the functions that compilers call without being asked to.
"""

from __future__ import annotations

from jitlink.execution.libc.library import CLibrary

__all__ = ["CLibrary"]
