"""Which back end is the host's, for SBPF."""

from __future__ import annotations

from functools import cache

from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.hosts import shapes_for_host

BACK_ENDS = {
    "x86_64": ("jitlink.bpf.sbpf.jit.x86_64", "TranslatingX8664"),
    "aarch64": ("jitlink.bpf.sbpf.jit.load_store", "TranslatingAArch64"),
    "riscv64": ("jitlink.bpf.sbpf.jit.load_store", "TranslatingRiscv64"),
}
"""The module of each machine's back end, and the name in it."""


@cache
def host_shapes() -> Shapes:
    """The templates of the host's back end, which all programs of the process share.

    Raises UsageError on a host without one.
    """
    return shapes_for_host(BACK_ENDS, "SBPF")
