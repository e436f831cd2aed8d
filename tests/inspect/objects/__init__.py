"""Fixed objects of every format, and what the views make of them.

The objects were compiled once from sample.c and are kept, so that another version of a compiler changes
no golden text. `python -m tests.inspect.objects` compiles them anew and writes all texts anew.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
TARGETS = {
    "x86_64-linux": "x86_64-linux-gnu",
    "aarch64-linux": "aarch64-linux-gnu",
    "riscv64-linux": "riscv64-linux-gnu",
    "x86_64-macos": "x86_64-macos",
    "aarch64-macos": "aarch64-macos",
    "x86_64-windows": "x86_64-windows-gnu",
    "aarch64-windows": "aarch64-windows-gnu",
    "bpf": "bpfel-freestanding-none",
}
"""The objects by name, and the target that zig compiles each for."""
FLAGS = ("-O1", "-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-fno-ident", "-g0")


@cache
def sample(name: str) -> bytes:
    """One of the objects."""
    return (HERE / f"{name}.o").read_bytes()
