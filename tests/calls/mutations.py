"""Damaged debug information: what must come of it.

The debug sections of real objects are damaged a little, byte by byte and word by word. Then everything is
asked that a library would ask: all symbols are looked up, their types are read and made into types of
cffi, and the typed functions are written. Nothing is called. Each question must end in an answer, or in an
UntypedSymbol or MalformedInput that names the place; and linking must not notice any of it.

    python -m tests.calls.mutations 3000 [seed]
"""

from __future__ import annotations

import ctypes
import io
import random
import sys
from collections import Counter
from functools import cache
from shutil import which

from elftools.elf.elffile import ELFFile

import jitlink
from jitlink.calls.typed import TypedSymbols
from tests import toolchain
from tests.calls import sources
from tests.mutations import DAMAGES_AT_MOST, INTERESTING, run_campaign

ANYWHERE = ctypes.cast(ctypes.pythonapi.strlen, ctypes.c_void_p).value or 0
"""An address in a library for all names that an object asks for; nothing is called."""

CXX = """
#include <stdexcept>
namespace ns { struct K { int x; virtual int get(int) const; K(int); ~K(); }; int K::get(int y) const { return x + y; }
K::K(int v) : x(v) {} K::~K() {}
template <class T> T twice(T x) { return x + x; } template double twice<double>(double); }
extern "C" int thrower(ns::K *k, const ns::K &r) { throw std::runtime_error("x"); }
"""
FORTRAN = """
subroutine axpy(n, a, x, y) bind(c)
  use iso_c_binding
  integer(c_int), value :: n
  real(c_double), intent(in) :: a, x(n)
  real(c_double), intent(inout) :: y(*)
  y(1:n) = y(1:n) + a * x(1:n)
end subroutine
"""


@cache
def seeds() -> dict[str, bytes]:
    """Objects with sound debug information, by name."""
    made = {f"zig DWARF {version}": sources.zig(f"-gdwarf-{version}", "-O1") for version in (4, 5)}
    made["zig C++"] = toolchain.zig_cc(CXX, "-g", "-O1", language="c++")
    if which("gcc"):
        made |= {f"gcc DWARF {v}": sources.with_compiler("gcc")(f"-gdwarf-{v}", "-O1") for v in (4, 5)}
    if which("gfortran"):
        made["gfortran"] = toolchain.compile_with(FORTRAN, "-g", "-O1", compiler="gfortran")
    return made


def debug_places(content: bytes) -> list[tuple[int, int]]:
    """Where the debug sections of an object are: start and size of each."""
    sections = ELFFile(io.BytesIO(content)).iter_sections()
    return [
        (each["sh_offset"], each["sh_size"]) for each in sections if each.name.startswith(".debug_") and each["sh_size"]
    ]


def damaged(content: bytes, choices: random.Random) -> bytes:
    """Damage the debug sections of a sound object in a few places, the smaller ones as often as the large."""
    buffer = bytearray(content)
    places = debug_places(content)
    for _ in range(choices.randint(1, DAMAGES_AT_MOST)):
        start, size = choices.choice(places)
        at = start + choices.randrange(size)
        match choices.randrange(4):
            case 0:
                buffer[at] ^= 1 << choices.randrange(8)
            case 1:
                buffer[at] = choices.choice((0, 1, 0x7F, 0x80, 0xFF, choices.randrange(256)))
            case 2:
                width = min(choices.choice((2, 4, 8)), start + size - at)
                buffer[at : at + width] = (choices.choice(INTERESTING) % (1 << 8 * width)).to_bytes(width, "little")
            case 3:
                # A piece of the section in the place of another one: references to other entries, and the like.
                width = min(choices.randint(1, 32), start + size - at)
                other = start + choices.randrange(size - width + 1)
                buffer[at : at + width] = buffer[other : other + width]
    return bytes(buffer)


def ask_everything(content: bytes) -> Counter[str]:
    """Link an object, and ask for the type of each of its symbols; says how often that ended in what."""
    outcomes: Counter[str] = Counter()
    with jitlink.load(content, define=lambda name: ANYWHERE) as library:
        symbols = TypedSymbols(library.dylib)
        # How a call goes in does not depend on the debug information but for the types.
        symbols.adapters.ways_into = lambda name, address, kind: (address, None)  # type: ignore[method-assign]
        for name in library.dylib.symbols():
            try:
                str(symbols.find(library.dylib[name]).kind)
                outcomes["typed"] += 1
            except jitlink.UntypedSymbol as error:
                outcomes[f"refused: {type(error.__cause__).__name__}"] += 1
    return outcomes


def main(count: int, seed: int) -> int:
    """Ask count damaged objects. Prints how they ended; returns 1 if any ended otherwise than it may."""

    def ask_one(number: int, content: bytes, choices: random.Random) -> str:
        outcomes = ask_everything(damaged(content, choices))
        return " and ".join(sorted(outcomes))

    return run_campaign(count, seed, seeds(), ask_one)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
