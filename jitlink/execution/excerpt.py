"""The code around a fault, disassembled."""

from __future__ import annotations

from jitlink.errors import EmulationFault, MissingExtra
from jitlink.execution.cpus import Cpu
from jitlink.execution.memory import Memory
from jitlink.protection import Protection

SHOWN_BEFORE, SHOWN_AFTER = 4, 2
"""Instructions around the one at fault."""
LONGEST_INSTRUCTION = 16
FARTHEST_START = 1 << 20
"""Bytes of a function that are decoded to find where instructions begin."""


def excerpt(memory: Memory, cpu: Cpu, start: int, address: int) -> list[str]:
    """Disassemble around an address; the line of the address is marked with an arrow.

    start: where the function begins, from which on instructions are told apart; address itself if that
    is not known. Returns no lines where there is no code, or no disassembler.
    """
    if not memory.protection_of(address) & Protection.EXECUTE:
        return []
    if not 0 <= address - start <= FARTHEST_START:
        start = address
    try:
        decoder = cpu.disassembler()
        code = _read(memory, start, address + LONGEST_INSTRUCTION * SHOWN_AFTER)
    except (MissingExtra, EmulationFault):
        return []
    lines: list[str] = []
    behind = 0
    for at, size, mnemonic, operands in decoder.disasm_lite(code, start):
        mark = ">" if at <= address < at + size else " "
        lines.append(f"  {mark} {at:#x}  {mnemonic} {operands}".rstrip())
        behind += at > address
        if behind == SHOWN_AFTER:
            break
    return lines[-(SHOWN_BEFORE + 1 + behind) :]


def _read(memory: Memory, start: int, end: int) -> bytes:
    """Read up to the end of what is mapped."""
    for last in range(end, max(start, end - LONGEST_INSTRUCTION * SHOWN_AFTER), -1):
        if memory.protection_of(last - 1):
            return memory.read(start, last - start)
    return memory.read(start, end - start)
