"""Which back end is the host's."""

from __future__ import annotations

import platform
from functools import cache
from importlib import import_module

from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.tiers import has_native_code
from jitlink.errors import UsageError

BACK_ENDS = {
    "x86_64": ("x86_64", "X8664"),
    "amd64": ("x86_64", "X8664"),
    "aarch64": ("aarch64", "AArch64"),
    "arm64": ("aarch64", "AArch64"),
    "riscv64": ("riscv64", "Riscv64"),
}
"""The module of each host's back end and the name in it, by what platform.machine says, in small letters."""


@cache
def host_shapes() -> Shapes:
    """The templates of the host's back end, which all machines of the process share.

    Raises UsageError on a host without one.
    """
    if not has_native_code():
        host = f"{platform.system()} on {platform.machine()}"
        raise UsageError(f"there is no native code for BPF on {host}; use the tier 'interpreter'")
    module, name = BACK_ENDS[platform.machine().lower()]
    return Shapes(getattr(import_module(f"jitlink.bpf.jit.{module}"), name)())
