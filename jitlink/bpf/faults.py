"""Run-time faults: why a BPF program was stopped.

The kernel proves before it runs a program that nothing can go wrong, so its interpreter checks
nothing. We run programs that nobody has proved, and so every access, call and jump is checked
while it happens. What breaks a rule stops the program with a BpfFault. It is not a LinkError: the
link was sound, and a test may well expect the fault.

Inner code knows only a part of the facts: memory knows the address, the run loop knows the
instruction. Each adds what it knows while the fault passes, and the text is made here.
"""

from __future__ import annotations

from enum import StrEnum


class FaultKind(StrEnum):
    """What rule a program broke."""

    OUT_OF_BOUNDS = "out of bounds"
    READ_ONLY = "read-only memory"
    MISALIGNED_ATOMIC = "misaligned atomic"
    CALL_DEPTH = "call depth"
    BUDGET = "instruction budget"
    UNKNOWN_HELPER = "unknown helper"
    BAD_CALL = "bad call target"
    BAD_JUMP = "bad jump target"
    BAD_INSTRUCTION = "bad instruction"
    UNRESOLVED = "unresolved reference"
    NO_PACKET = "no packet"
    DIVISION = "division"


class BpfFault(Exception):
    """A program was stopped: it broke a rule of the machine at one of its instructions.

    Attributes: kind; detail (the rule and what broke it, a sentence without its place);
    pc (index of the instruction in 8-byte slots, None while unknown); line (its source line, where
    the program has a line table); program (its name, where it has one); address and size (bytes of
    the access, for the kinds that concern memory); nearest (name of the closest region).
    """

    def __init__(
        self,
        kind: FaultKind,
        detail: str,
        *,
        address: int | None = None,
        size: int | None = None,
        nearest: str | None = None,
    ) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.address = address
        self.size = size
        self.nearest = nearest
        self.pc: int | None = None
        self.line: str | None = None
        self.program: str | None = None

    def locate(self, pc: int, line: str | None, program: str | None) -> None:
        """Add the place to a fault that has none yet; the innermost place stays."""
        if self.pc is None:
            self.pc, self.line, self.program = pc, line, program

    def __str__(self) -> str:
        if self.pc is None:
            return self.detail
        program = f"{self.program}: " if self.program else ""
        line = f" ({self.line})" if self.line else ""
        return f"{program}instruction {self.pc}{line}: {self.detail}"


def helper_name(number: int) -> str:
    """What the kernel calls a helper, for messages; a number that the kernel does not have is named as such."""
    # The package of the helpers stands on the machine, and only a message needs this one of its tables.
    from jitlink.bpf.helpers.names import kernel_name

    return kernel_name(number)
