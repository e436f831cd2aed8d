"""Where linked code runs: in this process, or in an emulated CPU.

A session has one **execution**, and each of its dylibs a **residence** in it: memory for its images, the
world outside that its code sees, and what it takes to run its initialisers and its functions. In this
process that is pages, the symbols of the process, and calls. For a machine that is not ours it is a CPU
of unicorn with memory of its own, a small C library that is written in Python, and calls by the rules of
the platform that the object was compiled for.

    jitlink.load("kernel_arm64.o", target="aarch64")                      emulated, where the host is no AArch64
    jitlink.load("fast.o", emulate=jitlink.Emulation(instruction_limit=1_000_000))
"""

from __future__ import annotations

import os

from jitlink.arches import FILE_OF, architecture, host_architecture
from jitlink.arches.architecture import Architecture
from jitlink.errors import UnsupportedInput
from jitlink.execution.options import Emulation
from jitlink.execution.residence import Execution, Residence
from jitlink.memory import Policy

__all__ = ["Emulation", "Execution", "Residence", "execution_of"]


def execution_of(target: str | None, emulate: bool | Emulation, memory: Policy) -> Execution:
    """Choose where the code of a session runs.

    target: the machine, by default the host's. emulate: run it in an emulated CPU also where the host could.
    memory: see jitlink.memory; of no account in the emulated CPU. Raises UnsupportedInput for a machine
    that we do not link for or cannot emulate, MissingExtra where unicorn is not installed.
    """
    host = host_architecture()
    wanted = host if target is None else _architecture(target)
    if wanted is None:
        raise UnsupportedInput(f"code for this machine ({os.uname().machine}) cannot be linked yet")
    if emulate is False and wanted is host:
        from jitlink.execution.in_process import InProcess

        return InProcess(wanted, memory)
    from jitlink.execution.emulator import Emulator

    return Emulator(wanted, emulate if isinstance(emulate, Emulation) else Emulation())


def _architecture(name: str) -> Architecture:
    try:
        return architecture(name)
    except KeyError:
        raise UnsupportedInput(f"there is no target {name!r}", hint=f"There are {', '.join(sorted(FILE_OF))}") from None
