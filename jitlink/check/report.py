"""What became of the rules."""

from __future__ import annotations

from dataclasses import dataclass

from jitlink.check.rules import Rule


@dataclass(frozen=True)
class Failure:
    """A rule that does not hold.

    Attributes: rule; left and right (both values, None where the rule could not be evaluated); reason (why
    it could not be, or "").
    """

    rule: Rule
    left: int | None = None
    right: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"line {self.rule.line}: {self.rule.text}: {self.reason}"
        return f"line {self.rule.line}: {self.rule.text} is false: {self.left:#x} is not {self.right:#x}"


@dataclass(frozen=True)
class Report:
    """All rules of a run. Attributes: rules (how many there were); failures."""

    rules: int
    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        """Whether all rules hold."""
        return not self.failures
