"""The machines that we link for. Each file reads like its ABI document; this one finds them by name."""

from __future__ import annotations

import platform
from importlib import import_module

from jitlink.arches.architecture import Architecture

FILE_OF = {
    "x86_64": ("x86_64", "X86_64"),
    "amd64": ("x86_64", "X86_64"),
    "aarch64": ("aarch64", "AARCH64"),
    "arm64": ("aarch64", "AARCH64"),
    "riscv64": ("riscv64", "RISCV64"),
    "bpf": ("bpf", "BPF"),
    "bpfel": ("bpf", "BPF"),
    "bpfeb": ("bpf", "BPF_BIG_ENDIAN"),
}
"""The module and the name in it of each architecture, under the names that platforms give it."""

NAME_OF_ELF_MACHINE = {
    (62, "little"): "x86_64",
    (183, "little"): "aarch64",
    (243, "little"): "riscv64",
    (247, "little"): "bpf",
    (247, "big"): "bpfeb",
}
"""By e_machine and the byte order of the object."""


def architecture(name: str) -> Architecture:
    """Find an architecture by name, such as "x86_64". Raises KeyError when there is none."""
    module, declared = FILE_OF[name.lower()]
    found: Architecture = getattr(import_module(f"jitlink.arches.{module}"), declared)
    return found


def host_architecture() -> Architecture | None:
    """The architecture of the running process, or None if we do not link for it."""
    name = platform.machine().lower()
    return architecture(name) if name in FILE_OF else None
