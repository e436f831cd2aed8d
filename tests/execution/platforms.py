"""The platforms whose code the tests run in the emulated CPU, and objects and libraries for them."""

from __future__ import annotations

from typing import Any

import jitlink
from jitlink.execution.handles import EmulatedLibrary
from tests.toolchain import zig_cc

PLATFORMS = {
    "x86_64-linux-gnu": "x86_64",
    "x86_64-macos": "x86_64",
    "x86_64-windows-gnu": "x86_64",
    "aarch64-linux-gnu": "aarch64",
    "aarch64-macos": "aarch64",
    "aarch64-windows-gnu": "aarch64",
    "riscv64-linux-gnu": "riscv64",
}
"""The targets of zig, and the machine of each."""
MACHINES = ("x86_64-linux-gnu", "aarch64-linux-gnu", "riscv64-linux-gnu")
"""One target for each machine."""
LIMIT = 300_000
"""Instructions: a test of code that does not end fails instead of hanging."""


def emulated(source: str, platform: str, *flags: str, **options: Any) -> EmulatedLibrary:
    """Compile C for a platform and load it into the emulated CPU."""
    return load(zig_cc(source, *(flags or ("-O1",)), target=platform), platform, **options)


def load(content: bytes, platform: str, **options: Any) -> EmulatedLibrary:
    """Load an object for a platform into the emulated CPU."""
    options.setdefault("emulate", jitlink.Emulation(instruction_limit=LIMIT))
    library = jitlink.load(content, target=PLATFORMS[platform], **options)
    assert isinstance(library, EmulatedLibrary)
    return library
