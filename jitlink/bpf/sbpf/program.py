"""Loaded SBPF programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.machine import DEFAULT_BUDGET, SbpfMachine, Syscall
from jitlink.bpf.sbpf.memory import HEAP_BYTES
from jitlink.bpf.sbpf.reader import read_executable
from jitlink.bpf.sbpf.syscalls import SYSCALLS
from jitlink.bpf.sbpf.verifier import verify as check
from jitlink.bpf.sbpf.versions import Version
from jitlink.bpf.verification import Report
from jitlink.errors import UnreadableInput, UsageError

Source = str | os.PathLike[str] | bytes | bytearray | memoryview
MakeMachine = Callable[[Executable, Mapping[str, Syscall], int], SbpfMachine]


@dataclass(frozen=True)
class Result:
    """What a run came to. Attributes: r0; data (the input as it is now); units (used); log (texts by syscalls)."""

    r0: int
    data: bytes
    units: int
    log: list[str]

    def __int__(self) -> int:
        return self.r0


class Program:
    """A loaded program. Attributes: executable; machine (on which it runs, one run at a time)."""

    def __init__(self, executable: Executable, machine: SbpfMachine) -> None:
        self.executable = executable
        self.machine = machine

    @property
    def name(self) -> str:
        """The name of its input."""
        return self.executable.name

    @property
    def version(self) -> Version:
        """The version of SBPF that it is for."""
        return self.executable.version

    def run(self, data: bytes | bytearray | memoryview = b"", *arguments: int, budget: int = DEFAULT_BUDGET) -> Result:
        """Run the program on an input, of which it changes a copy.

        arguments: r1 and on, at most 5; without any, r1 is the address of the input. budget: compute units.
        Raises BpfFault, and what a syscall raises.
        """
        r0 = self.machine.run(data, *arguments, budget=budget)
        return Result(r0, self.machine.input, self.machine.used, self.machine.log)

    def verify(self) -> Report:
        """Check the program. Returns all faults that it has."""
        return check(self.executable, self.machine.syscalls)

    def __repr__(self) -> str:
        return f"<SBPF program {self.name!r}: version {self.version}, {len(self.executable.slots)} slots>"


def _interpreter(executable: Executable, syscalls: Mapping[str, Syscall], heap: int) -> SbpfMachine:
    return SbpfMachine(executable, syscalls, heap=heap)


def _native(executable: Executable, syscalls: Mapping[str, Syscall], heap: int) -> SbpfMachine:
    # The compiler is loaded by those who use it.
    from jitlink.bpf.sbpf.native import NativeMachine

    return NativeMachine(executable, syscalls, heap=heap)


TIERS: dict[str, MakeMachine] = {"interpreter": _interpreter, "llvm": _native}


def load(
    source: Source,
    *,
    syscalls: Mapping[str, Syscall] | None = None,
    tier: str = "interpreter",
    heap: int = HEAP_BYTES,
    verify: bool = True,
) -> Program:
    """Load an SBPF executable.

    source: a path, or the bytes of the file. syscalls: by name; they go before those of
    jitlink.bpf.sbpf.syscalls. tier: "interpreter", or "llvm" for native code. heap: bytes, at most 256 KiB.
    verify: whether the program is checked. Raises LinkError: for bad input, for syscalls that there are not
    and all else that the verifier finds (VerificationFailed).
    """
    if tier not in TIERS:
        raise UsageError(f"there is no tier {tier!r}; there is {', '.join(TIERS)}")
    executable = read_executable(*_content(source))
    machine = TIERS[tier](executable, SYSCALLS | dict(syscalls or {}), heap)
    program = Program(executable, machine)
    if verify:
        program.verify().raise_if_failed()
    return program


def _content(source: Source) -> tuple[bytes | bytearray | memoryview, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        return source, "(bytes)"
    path = Path(source)
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise UnreadableInput(error.strerror or str(error), input=str(path)) from error
