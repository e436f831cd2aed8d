"""Calling conventions: in which registers and stack slots arguments and results are.

A convention is a rule that goes over the arguments from left to right and says of each where it is. The
same rule serves both directions: to call emulated code from Python, and to find the arguments when
emulated code calls Python.
"""

from __future__ import annotations

from jitlink.errors import UnsupportedInput
from jitlink.execution.conventions.aarch64 import AAPCS64, APPLE_ARM64, WINDOWS_ARM64
from jitlink.execution.conventions.base import Convention, Location, VariableArguments
from jitlink.execution.conventions.riscv64 import LP64, LP64D
from jitlink.execution.conventions.x86_64 import MICROSOFT_X64, SYSTEM_V_X64
from jitlink.graph import LinkGraph

__all__ = ["OF_PLATFORM", "Convention", "Location", "VariableArguments", "convention_of", "float_abi"]

OF_PLATFORM: dict[tuple[str, str, str], Convention] = {
    ("x86_64", "elf", ""): SYSTEM_V_X64,
    ("x86_64", "macho", ""): SYSTEM_V_X64,
    ("x86_64", "coff", ""): MICROSOFT_X64,
    ("aarch64", "elf", ""): AAPCS64,
    ("aarch64", "macho", ""): APPLE_ARM64,
    ("aarch64", "coff", ""): WINDOWS_ARM64,
    ("riscv64", "elf", ""): LP64D,
    ("riscv64", "elf", "soft-float"): LP64,
}
"""By the machine, the format of the objects, and what their headers say of floating-point registers."""

RISCV_FLOAT_ABIS = {0x0: "soft-float", 0x2: "single-float", 0x4: "", 0x6: "quad-float"}
RISCV_FLOAT_ABI_FLAGS = 0x6
FLAGS_AT, FLAGS_SIZE = 48, 4
"""Of e_flags, in the header of a 64-bit ELF file."""


def convention_of(target: str, format: str, float_abi: str = "") -> Convention:
    """The convention of the platform whose objects these are. Raises UnsupportedInput where there is none."""
    found = OF_PLATFORM.get((target, format, float_abi))
    if found is None:
        kind = f"{float_abi} " if float_abi else ""
        raise UnsupportedInput(f"{kind}{format} code for {target} cannot be called in the emulated CPU")
    return found


def float_abi(graph: LinkGraph) -> str:
    """Where code has its floating-point arguments, if that differs from the usual: "soft-float", ...

    All inputs of a graph agree in it. Source: RISC-V ELF psABI, e_flags.
    """
    start, size = graph.place_of_input(1)
    if graph.target.name != "riscv64" or size < FLAGS_AT + FLAGS_SIZE:
        return ""
    header = graph.pool[start + FLAGS_AT : start + FLAGS_AT + FLAGS_SIZE]
    return RISCV_FLOAT_ABIS[int.from_bytes(header.tobytes(), "little") & RISCV_FLOAT_ABI_FLAGS]
