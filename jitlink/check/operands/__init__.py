"""Operands of instructions, in the order and with the values that LLVM gives them.

LLVM's disassemblers make an MCInst of an instruction, whose operands are those of its table of
instructions: results first, then what is read, an operand that is both read and written twice, each field
of a memory operand by itself. Rules count them so. Immediates are as they are encoded: a branch of
AArch64 in instructions, one of x86-64 in bytes from the next instruction.
"""

from __future__ import annotations

from importlib import import_module

from jitlink.check.grammar import RuleError
from jitlink.check.operands.instruction import Instruction

__all__ = ["Instruction", "decode"]

MACHINES = ("x86_64", "aarch64", "riscv64")


def decode(target: str, code: bytes, address: int) -> Instruction:
    """Decode the instruction at the start of code. Raises RuleError for one that is not known."""
    if target not in MACHINES:
        raise RuleError(f"instructions of {target} are not decoded, only those of {', '.join(MACHINES)}")
    instruction: Instruction | None = import_module(f"jitlink.check.operands.{target}").decode(code, address)
    if instruction is None:
        raise RuleError(f"the instruction at {address:#x} ({code[:8].hex(' ')} ...) is none whose operands are known")
    return instruction
