"""What the caller decides about an emulated CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

STACK_SIZE = 8 << 20
"""Bytes: what Linux gives the first thread of a program."""


class Output(Protocol):
    """Where a program's output goes: a binary file, or what behaves like one."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""


@dataclass(frozen=True)
class Emulation:
    """How code runs in an emulated CPU.

    Attributes: instruction_limit (of one call from Python, calls that it makes included; None for no
    limit, which is faster: with a limit every jump is counted); stack_size (bytes); stdout and stderr
    (where the C library writes; None for Python's own).
    """

    instruction_limit: int | None = None
    stack_size: int = STACK_SIZE
    stdout: Output | None = None
    stderr: Output | None = None

    def __post_init__(self) -> None:
        if self.instruction_limit is not None and self.instruction_limit < 1:
            raise ValueError(f"instruction_limit is {self.instruction_limit}: it must be positive, or None")
        if self.stack_size < 1:
            raise ValueError(f"stack_size is {self.stack_size}: it must be positive")
