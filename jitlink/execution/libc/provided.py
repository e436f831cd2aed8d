"""How a function of the C library is declared: its names, and a signature in letters.

    @provides("memcpy", "__memcpy_chk", types="p ppz")
    def memcpy(call: LibraryCall, to: int, source: int, size: int) -> int:

The first letter is the result, the others are the arguments; "." at the end is an ellipsis.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jitlink.execution.c_types import DOUBLE, FLOAT, INT, POINTER, VOID, CType, integer
from jitlink.execution.calls import IncomingCall

if TYPE_CHECKING:
    from jitlink.execution.libc.library import CLibrary
    from jitlink.execution.memory import Memory

Run = TypeVar("Run", bound=Callable[..., Any])

LETTERS = {
    "v": VOID,
    "b": integer(1, signed=False),
    "h": integer(2, signed=False),
    "i": INT,
    "u": integer(4, signed=False),
    "q": integer(8, signed=True),
    "Q": integer(8, signed=False),
    "p": POINTER,
    "z": POINTER,
    "f": FLOAT,
    "d": DOUBLE,
    "x": CType(INT.kind, 16, 16, signed=True),
    "X": CType(INT.kind, 16, 16, signed=False),
}
"""Also l and L, long and unsigned long, whose size is the platform's."""


@dataclass(frozen=True)
class Provided:
    """A function of the library. Attributes: run; types."""

    run: Callable[..., Any]
    types: str

    def serve(self, library: CLibrary) -> None:
        """Answer a call."""
        convention = library.home.convention
        letters = self.types.replace(" ", "").rstrip(".")
        result, *arguments = [_type_of(letter, convention.long_size) for letter in letters]
        incoming = IncomingCall(library.home.machine, convention, result, variadic=self.types.endswith("."))
        values = [unpacked(c_type, incoming.argument(c_type)) for c_type in arguments]
        returned = self.run(LibraryCall(library, incoming), *values)
        incoming.finish(packed(result, returned))


class LibraryCall:
    """What a function of the library may use. Attributes: library; memory; incoming (for further arguments)."""

    __slots__ = ("incoming", "library")

    def __init__(self, library: CLibrary, incoming: IncomingCall) -> None:
        self.library = library
        self.incoming = incoming

    @property
    def memory(self) -> Memory:
        """The machine's memory."""
        return self.library.home.memory

    def string(self, address: int) -> bytes:
        """Read a string."""
        return self.memory.read_string(address)


FUNCTIONS: dict[str, Provided] = {}
"""All functions by name."""


def provides(*names: str, types: str) -> Callable[[Run], Run]:
    """Declare a function of the library."""

    def declare(run: Run) -> Run:
        for name in names:
            FUNCTIONS[name] = Provided(run, types)
        return run

    return declare


def _type_of(letter: str, long_size: int) -> CType:
    if letter in "lL":
        return integer(long_size, signed=letter == "l")
    return LETTERS[letter]


def unpacked(c_type: CType, raw: bytes) -> int | float:
    """A scalar as a Python number."""
    if c_type in (FLOAT, DOUBLE):
        value: float = struct.unpack("<f" if c_type is FLOAT else "<d", raw)[0]
        return value
    return int.from_bytes(raw, "little", signed=c_type.signed)


def packed(c_type: CType, value: float | None) -> bytes:
    """A Python number as a scalar; integers are cut to its size."""
    if c_type in (FLOAT, DOUBLE):
        return _floating(c_type, float(value or 0))
    return (int(value or 0) & (1 << 8 * c_type.size) - 1).to_bytes(c_type.size, "little")


def _floating(c_type: CType, value: float) -> bytes:
    try:
        return struct.pack("<f" if c_type is FLOAT else "<d", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))
