"""Numbers as they pass between programs and helpers: registers are unsigned and 64 bits wide."""

from __future__ import annotations

from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.machine import Machine


def u32(value: int) -> int:
    """Take the low 32 bits."""
    return value & 0xFFFF_FFFF


def s32(value: int) -> int:
    """Take the low 32 bits as a signed number."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def s64(value: int) -> int:
    """Read a register as a signed number."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value


def byte_order(machine: Machine) -> ByteOrder:
    """The byte order of the program that runs."""
    return machine.code.instructions.byteorder
