"""One set of C programs, compiled for every platform at every level, linked, run, and compared.

Each program returns a hash of what it has computed. The oracle is the same source, compiled for this
machine and linked by zig into a shared library, which the dynamic loader loads.

The programs of one build are compiled in two objects, so that the compiler is started few times and there
is something to link: all of programs/*.c is the first object, programs/other/other.c the second.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
from functools import cache
from pathlib import Path

import pytest

import jitlink
from jitlink.formats.objects import FORMATS
from tests.toolchain import NATIVE_TARGET, link_shared, zig_cc

DIRECTORY = Path(__file__).parent / "programs"
PROGRAMS = sorted(path.stem for path in DIRECTORY.glob("*.c"))
LEVELS = {"O0": ("-O0",), "O2": ("-O2",), "O2-fPIC": ("-O2", "-fPIC")}
SAME_EVERYWHERE = ("-ffp-contract=off", "-fno-strict-aliasing", "-w")
"""A fused multiplication and addition rounds once instead of twice, and not all machines have one."""
NOT_PIC = {"-linux-musl": ("-fno-pic",)}
"""On Linux, code without -fPIC is made for a fixed place; elsewhere a compiler makes no other than for any."""
PLATFORMS = {
    "x86_64-linux-musl": ("x86_64", "elf"),
    "x86_64-macos": ("x86_64", "macho"),
    "x86_64-windows-gnu": ("x86_64", "coff"),
    "aarch64-linux-musl": ("aarch64", "elf"),
    "aarch64-macos": ("aarch64", "macho"),
    "aarch64-windows-gnu": ("aarch64", "coff"),
    "riscv64-linux-musl": ("riscv64", "elf"),
}
"""Targets of zig, with the machine and the object format of each."""
HOST = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


@cache
def sources() -> tuple[str, str]:
    """The text of the two objects, with the header where it is first included."""
    header = (DIRECTORY / "common.h").read_text()
    programs = "\n".join((DIRECTORY / f"{name}.c").read_text() for name in PROGRAMS)
    other = (DIRECTORY / "other" / "other.c").read_text()
    return tuple(header + re.sub(r'#include ".*"', "", text) for text in (programs, other))  # type: ignore[return-value]


def compiled(target: str, level: str) -> list[bytes]:
    flags = (*LEVELS[level], *SAME_EVERYWHERE)
    if "-fPIC" not in flags:
        flags += next((more for system, more in NOT_PIC.items() if target.endswith(system)), ())
    return [zig_cc(source, *flags, target=target) for source in sources()]


@pytest.fixture(scope="module")
def expected():
    """What every program returns when it is built for this machine by ordinary tools."""
    objects = [zig_cc(source, "-O0", "-fPIC", *SAME_EVERYWHERE, target=NATIVE_TARGET) for source in sources()]
    library = ctypes.CDLL(str(link_shared(objects, "-lm")))
    results = {}
    for name in PROGRAMS:
        function = getattr(library, f"check_{name}")
        function.restype = ctypes.c_uint64
        results[name] = function()
    return results


def builds() -> list[tuple[str, str, bool]]:
    """Every platform at every level: in this process where it can run there, and in the emulated CPU."""
    return [
        (target, level, emulated)
        for target, (machine, format) in PLATFORMS.items()
        for level in LEVELS
        for emulated in ((False, True) if runs_here(machine, format) else (True,))
    ]


def runs_here(machine: str, format: str) -> bool:
    """Whether this process can call code of a machine and a format: on AArch64 each system has its own convention."""
    return machine == HOST and (machine != "aarch64" or format == "elf")


def described(build: tuple[str, str, bool]) -> str:
    target, level, emulated = build
    return f"{target}-{level}-{'emulated' if emulated else 'process'}"


@pytest.fixture(scope="module", params=builds(), ids=described)
def build(request):
    """The programs of a build, linked and ready to run."""
    target, level, emulated = request.param
    machine, format = PLATFORMS[target]
    if format not in FORMATS:
        pytest.skip("format not registered")
    if emulated and importlib.util.find_spec("unicorn") is None:
        pytest.skip("unicorn is not installed")
    with jitlink.load(*compiled(target, level), target=machine, emulate=emulated) as library:
        yield library


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_computes_the_same_on_every_platform(build, name, expected):
    """A program that we have linked returns what the native build returns."""
    assert build.function(f"check_{name}", ctypes.c_uint64)() == expected[name]
