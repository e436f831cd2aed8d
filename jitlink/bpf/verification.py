"""What a verifier says about a program: a report of all that it found.

A verifier does not stop at the first fault. It returns a report, which is empty for a good program
and otherwise names every fault with its instruction and source line. Who wants an exception gets
one from the report. The report is the same whichever verifier wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from jitlink.errors import SHOWN_AT_MOST, LinkError


class Rule(StrEnum):
    """The rules that a program can break, as they are named in reports."""

    EMPTY = "empty program"
    OPCODE = "unknown opcode"
    UNSUPPORTED = "unsupported instruction"
    REGISTER = "unknown register"
    RESERVED = "reserved field"
    TRUNCATED = "truncated constant"
    FRAME_POINTER = "write to r10"
    DIVISION = "division by zero"
    SHIFT = "shift range"
    JUMP = "jump target"
    FUNCTION = "function boundary"
    FALLS_OFF = "missing exit"
    UNREACHABLE = "unreachable code"
    CALL = "call target"
    HELPER = "unknown helper"
    STACK = "stack access"
    MAP = "map reference"


@dataclass(frozen=True)
class VerificationFault:
    """One breach of one rule.

    Attributes: index (of the instruction, in slots); rule; message (a sentence without its place);
    line (the source line, where it is known); warning (the program can run all the same: the ISA
    says what happens, and only the Linux kernel would refuse it).
    """

    index: int
    rule: Rule
    message: str
    line: str | None = None
    warning: bool = False

    def __str__(self) -> str:
        line = f" ({self.line})" if self.line else ""
        return f"instruction {self.index}{line}: {'warning: ' if self.warning else ''}{self.message} [{self.rule}]"


@dataclass(frozen=True)
class Report:
    """All faults of a program, by instruction. Attributes: faults; name (of the program)."""

    faults: list[VerificationFault]
    name: str = ""

    @property
    def ok(self) -> bool:
        """Whether the program may run: it has no fault but warnings."""
        return all(fault.warning for fault in self.faults)

    @property
    def errors(self) -> list[VerificationFault]:
        """The faults that keep the program from running."""
        return [fault for fault in self.faults if not fault.warning]

    def __iter__(self) -> Iterator[VerificationFault]:
        return iter(self.faults)

    def raise_if_failed(self) -> None:
        """Raise VerificationFailed unless the program may run."""
        if not self.ok:
            raise VerificationFailed(self)

    def __str__(self) -> str:
        name = self.name or "the program"
        if not self.faults:
            return f"{name} has no faults"
        return "\n".join([f"{name} has {_count(len(self.faults))}:", *(f"  {fault}" for fault in self.faults)])


class VerificationFailed(LinkError):
    """A program breaks rules that it must keep to be run. Attributes: report."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        errors = self.report.errors
        lines = [f"  {fault}" for fault in errors[:SHOWN_AT_MOST]]
        if len(errors) > SHOWN_AT_MOST:
            lines.append(f"  and {len(errors) - SHOWN_AT_MOST} more")
        return "\n".join([f"{self.report.name or 'the program'} has {_count(len(errors))}:", *lines])


def _count(faults: int) -> str:
    return "a fault" if faults == 1 else f"{faults} faults"
