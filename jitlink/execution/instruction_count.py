"""Counting the instructions that emulated code takes, so that a loop without end has one."""

from __future__ import annotations

from typing import Any

from jitlink.execution.cpus import Cpu
from jitlink.execution.memory import Memory

ARM_INSTRUCTION = 4
"""Bytes of every instruction of AArch64."""


class InstructionCount:
    """Counts the instructions of a call, block by block, and stops the CPU before the block that is too much.

    A block is code without a jump; unicorn tells of each before it runs. Attributes: spent.
    """

    def __init__(self, engine: Any, memory: Memory, cpu: Cpu, limit: int | None) -> None:
        self.limit = limit
        self.left = limit or 0
        self.spent = False
        self._memory = memory
        self._cpu = cpu
        self._decoder: Any = None
        self._in_block: dict[tuple[int, int], int] = {}
        if limit is not None:
            import unicorn

            engine.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
            memory.code_readers.append(self._in_block.clear)

    def _on_block(self, engine: Any, address: int, size: int, user: Any) -> None:
        key = address, size
        count = self._in_block.get(key)
        if count is None:
            count = self._in_block[key] = self._instructions(address, size)
        self.left -= count
        if self.left < 0:
            self.spent = True
            engine.emu_stop()

    def _instructions(self, address: int, size: int) -> int:
        if self._cpu.link == "lr":
            return size // ARM_INSTRUCTION
        if self._decoder is None:
            self._decoder = self._cpu.disassembler()
        return sum(1 for _ in self._decoder.disasm_lite(self._memory.read(address, size), address))

    def reset(self) -> None:
        """Begin again: the call from Python is over."""
        self.left = self.limit or 0
        self.spent = False

    @property
    def message(self) -> str:
        """What the error says."""
        return f"the call has taken more than {self.limit} instructions"
