"""A decoded instruction."""

from __future__ import annotations

from dataclasses import dataclass

from jitlink.check.grammar import RuleError


@dataclass(frozen=True)
class Instruction:
    """An instruction.

    Attributes: size (bytes); text (for messages); operands (the value of each, None where it is a register;
    None as a whole where the operands of such an instruction are not known).
    """

    size: int
    text: str
    operands: tuple[int | None, ...] | None

    def immediate(self, index: int) -> int:
        """The value of an operand. Raises RuleError where there is none, or it is no immediate."""
        if self.operands is None:
            raise RuleError(f"how LLVM numbers the operands of {self.text} is not known here")
        if index >= len(self.operands):
            raise RuleError(f"{self.text} has {len(self.operands)} operands, of which {index} is none")
        value = self.operands[index]
        if value is None:
            raise RuleError(f"operand {index} of {self.text} is not an immediate")
        return value
