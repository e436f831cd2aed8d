"""Loaded SBPF programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jitlink.bpf.sbpf.executable import Executable
from jitlink.bpf.sbpf.hashes import hash_of_name
from jitlink.bpf.sbpf.machine import DEFAULT_BUDGET, SbpfMachine, Syscall
from jitlink.bpf.sbpf.memory import HEAP_BYTES
from jitlink.bpf.sbpf.reader import read_executable
from jitlink.bpf.sbpf.syscalls import SYSCALLS
from jitlink.bpf.sbpf.verifier import verify as check
from jitlink.bpf.sbpf.versions import Version
from jitlink.bpf.tiers import default_tier, has_native_code
from jitlink.bpf.verification import Report
from jitlink.errors import UnreadableInput, UsageError

Source = str | os.PathLike[str] | bytes | bytearray | memoryview


@dataclass(frozen=True)
class Options:
    """What a machine can be asked for.

    Attributes: heap (bytes); hardened; seed (of the randomness of hardening, None for one that nobody knows); cache
    (keep what LLVM makes on disk).
    """

    heap: int = HEAP_BYTES
    hardened: bool = False
    seed: int | None = None
    cache: bool = True


MakeMachine = Callable[[Executable, Mapping[str, Syscall], Options], SbpfMachine]


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


def _interpreter(executable: Executable, syscalls: Mapping[str, Syscall], options: Options) -> SbpfMachine:
    _refuse_hardened("interpreter", options)
    return SbpfMachine(executable, syscalls, heap=options.heap)


def _refuse_hardened(tier: str, options: Options) -> None:
    if options.hardened:
        raise UsageError(f"the tier {tier!r} has no hardened code; the tier 'jit' has")


def _jit(executable: Executable, syscalls: Mapping[str, Syscall], options: Options) -> SbpfMachine:
    # The compiler is loaded by those who use it.
    from jitlink.bpf.jit.hardening import Hardening
    from jitlink.bpf.sbpf.jit.hosts import host_shapes
    from jitlink.bpf.sbpf.jit.machine import JitMachine

    hardening = Hardening(options.seed) if options.hardened else None
    return JitMachine(executable, syscalls, host_shapes(), heap=options.heap, hardening=hardening)


def _llvm(executable: Executable, syscalls: Mapping[str, Syscall], options: Options) -> SbpfMachine:
    from jitlink.bpf.llvm_tier.cache import ObjectCache
    from jitlink.bpf.sbpf.llvm.machine import LlvmMachine

    _refuse_hardened("llvm", options)
    if len(executable.slots) > LARGEST_FOR_LLVM and has_native_code():
        return _jit(executable, syscalls, options)
    return LlvmMachine(executable, syscalls, heap=options.heap, kept=ObjectCache() if options.cache else None)


TIERS: dict[str, MakeMachine] = {"interpreter": _interpreter, "jit": _jit, "llvm": _llvm}
LARGEST_FOR_LLVM = 4096
"""Slots of a program up to which LLVM compiles it, in a second or two. Larger ones are compiled in one pass."""
AUTO = "auto"
"""A tier that BPF has and SBPF has not: where it is asked for by the environment, programs run in one-pass code."""


def load(
    source: Source,
    *,
    syscalls: Mapping[str, Syscall] | None = None,
    tier: str | None = None,
    heap: int = HEAP_BYTES,
    verify: bool = True,
    hardened: bool = False,
    seed: int | None = None,
    cache: bool = True,
) -> Program:
    """Load an SBPF executable.

    source: a path, or the bytes of the file. syscalls: by name; they go before those of
    jitlink.bpf.sbpf.syscalls. tier: "interpreter", "jit" for machine code made in one pass, "llvm" for code that
    LLVM has optimised; without one it is that of BPF programs (jitlink.bpf.tiers). heap: bytes, at most 256 KiB.
    verify: whether the program is checked. hardened, seed: as for BPF, in the tier "jit" alone. cache: whether what
    LLVM makes is kept on disk. Raises LinkError: for bad input, for syscalls that there are not and all else that
    the verifier finds (VerificationFailed).
    """
    executable = read_executable(*_content(source))
    known = SYSCALLS | dict(syscalls or {})
    if verify:
        # Also what is to be compiled is checked before.
        check(executable, {hash_of_name(name) for name in known}).raise_if_failed()
    machine = _tier_named(tier)(executable, known, Options(heap, hardened, seed, cache))
    return Program(executable, machine)


def _tier_named(name: str | None) -> MakeMachine:
    chosen = name or default_tier()
    if name is None and chosen == AUTO:
        chosen = "jit"
    if chosen not in TIERS:
        raise UsageError(f"there is no tier {chosen!r}; there is {', '.join(TIERS)}")
    return TIERS[chosen]


def _content(source: Source) -> tuple[bytes | bytearray | memoryview, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        return source, "(bytes)"
    path = Path(source)
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise UnreadableInput(error.strerror or str(error), input=str(path)) from error
