"""Which back end is the host's."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib import import_module

from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.tiers import has_native_code
from jitlink.errors import UsageError

MACHINE_OF_HOST = {"amd64": "x86_64", "arm64": "aarch64"}
"""Other names that platform.machine has for a machine, in small letters."""
BACK_ENDS = {
    "x86_64": ("jitlink.bpf.jit.x86_64", "X8664"),
    "aarch64": ("jitlink.bpf.jit.aarch64", "AArch64"),
    "riscv64": ("jitlink.bpf.jit.riscv64", "Riscv64"),
}
"""The module of each machine's back end, and the name in it."""


@cache
def host_shapes() -> Shapes:
    """The templates of the host's back end, which all machines of the process share.

    Raises UsageError on a host without one.
    """
    return shapes_for_host(BACK_ENDS, "BPF")


def shapes_for_host(back_ends: Mapping[str, tuple[str, str]], shown: str) -> Shapes:
    """Make the templates of the back end that a table has for the host. shown: what it compiles, for UsageError."""
    machine = platform.machine().lower()
    if not has_native_code():
        host = f"{platform.system()} on {platform.machine()}"
        raise UsageError(f"there is no native code for {shown} on {host}; use the tier 'interpreter'")
    module, name = back_ends[MACHINE_OF_HOST.get(machine, machine)]
    return Shapes(getattr(import_module(module), name)())
