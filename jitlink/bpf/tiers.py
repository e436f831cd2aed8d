"""Tiers: the ways in which a program can be run.

A tier has a machine, on which all programs of one object run, and makes programs ready for it. The
interpreter is the reference; what any other tier does is what it does.

    interpreter   carries out instruction by instruction
    jit           machine code, made in one pass (jitlink.bpf.jit)
    llvm          machine code, optimised by LLVM (jitlink.bpf.llvm_tier)
    auto          jit, and llvm for programs that are run often

Without a choice it is the one named in the environment variable JITLINK_BPF_TIER; else jit on hosts that have
a back end, and the interpreter on others.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Protocol

from jitlink.bpf.contexts import PacketContext
from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.machine import Code, Helper
from jitlink.bpf.maps import Maps
from jitlink.errors import UsageError


@dataclass(frozen=True)
class TierOptions:
    """What a native tier can be asked for.

    Attributes: sandbox (check every access that is not proved to be good); meter (count instructions, and
    stop at the budget); hardened; seed (of the randomness of hardening, None for one that nobody knows);
    cache (keep what LLVM makes on disk).
    """

    sandbox: bool = True
    meter: bool = True
    hardened: bool = False
    seed: int | None = None
    cache: bool = True


class Tier(Protocol):
    """Runs the programs of one object, which share memory and helpers."""

    name: str
    machine: Interpreter

    def compile(self, program: Code, context: type[PacketContext] | None) -> None:
        """Make a program ready to run on a sort of context. Raises LinkError for one that the tier cannot run."""


class InterpreterTier:
    """Runs programs on the interpreter, which translates them when they run first."""

    name = "interpreter"

    def __init__(self, options: TierOptions, maps: Maps, helpers: MutableMapping[int, Helper]) -> None:
        self.machine = Interpreter(regions=maps.regions, helpers=helpers)

    def compile(self, program: Code, context: type[PacketContext] | None) -> None:
        """Nothing: any program can be interpreted."""


class JitTier:
    """Runs programs in the machine code of a one-pass back end."""

    name = "jit"

    def __init__(self, options: TierOptions, maps: Maps, helpers: MutableMapping[int, Helper]) -> None:
        # The compiler is loaded by those who use it.
        from jitlink.bpf.jit.compiler import Plan
        from jitlink.bpf.jit.hardening import Hardening
        from jitlink.bpf.jit.hosts import host_shapes
        from jitlink.bpf.jit.machine import NativeMachine

        hardening = Hardening(options.seed) if options.hardened else None
        plan = Plan(sandbox=options.sandbox, metered=options.meter, hardening=hardening)
        self.machine: Interpreter
        self.machine = self._native = NativeMachine(host_shapes(), plan, regions=maps.regions, helpers=helpers)
        self._native.maps, self._native.keeps = maps.by_address, options.cache

    def compile(self, program: Code, context: type[PacketContext] | None) -> None:
        """Make machine code of a program."""
        self._native.prepare(program, context)


class LlvmTier:
    """Runs programs in machine code that LLVM has optimised: from the first run, or once they are run often."""

    name = "llvm"
    hot_after: int | None = None

    def __init__(self, options: TierOptions, maps: Maps, helpers: MutableMapping[int, Helper]) -> None:
        from jitlink.bpf.jit.compiler import Plan
        from jitlink.bpf.jit.hosts import host_shapes
        from jitlink.bpf.llvm_tier.cache import ObjectCache
        from jitlink.bpf.llvm_tier.machine import LlvmMachine

        if options.hardened:
            raise UsageError(f"the tier {self.name!r} has no hardened code; the tier 'jit' has")
        plan = Plan(sandbox=options.sandbox, metered=options.meter)
        kept = ObjectCache() if options.cache else None
        self.machine: Interpreter
        self.machine = self._native = LlvmMachine(
            host_shapes(), plan, regions=maps.regions, helpers=helpers, kept=kept, hot_after=self.hot_after
        )
        self._native.maps, self._native.keeps = maps.by_address, options.cache

    def compile(self, program: Code, context: type[PacketContext] | None) -> None:
        """Make machine code of a program."""
        self._native.prepare(program, context)


class AutoTier(LlvmTier):
    """Runs programs in one-pass code, and in LLVM's from when they have been run a number of times."""

    name = "auto"
    hot_after = 100


MakeTier = Callable[[TierOptions, Maps, MutableMapping[int, Helper]], Tier]
TIERS: dict[str, MakeTier] = {"interpreter": InterpreterTier, "jit": JitTier, "llvm": LlvmTier, "auto": AutoTier}
NATIVE_HOSTS = ("x86_64", "AMD64", "aarch64", "arm64", "riscv64")
"""The hosts that have a back end, as platform.machine names them."""


def default_tier() -> str:
    """The tier that programs run in unless another is asked for."""
    chosen = os.environ.get("JITLINK_BPF_TIER", "")
    if chosen:
        return chosen
    return "jit" if has_native_code() else "interpreter"


def has_native_code() -> bool:
    """Whether there is a back end for this host. Windows has none: C functions take their arguments elsewhere."""
    return platform.machine() in NATIVE_HOSTS and os.name == "posix"


def tier_named(name: str | None, options: TierOptions, maps: Maps, helpers: MutableMapping[int, Helper]) -> Tier:
    """Make a tier for an object; None for the default one. Raises UsageError for one that there is not."""
    name = name or default_tier()
    if name in TIERS:
        return TIERS[name](options, maps, helpers)
    raise UsageError(f"there is no tier {name!r}; there is {', '.join(TIERS)}")
