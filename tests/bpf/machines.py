"""Machines of either sort, for tests: MACHINES for what holds in every tier, native_machine for native code."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import pytest

from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.jit.hosts import host_shapes
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.jit.x86_64 import X8664
from jitlink.bpf.tiers import AutoTier, default_tier, has_native_code

needs_native_code = pytest.mark.skipif(not has_native_code(), reason="there is no back end for this host")
IS_X86_64 = platform.machine() == "x86_64"
needs_x86_64 = pytest.mark.skipif(not IS_X86_64, reason="what is looked at is the machine code of x86-64")
needs_llvm = pytest.mark.skipif(not find_spec("llvmlite"), reason="llvmlite is not installed")


@cache
def shapes(bmi2: bool | None = None) -> Shapes:
    """The templates of the host's back end; bmi2: whether a processor of x86-64 has it, None to ask it."""
    return Shapes(X8664(bmi2)) if IS_X86_64 else host_shapes()


def native_machine(
    *,
    sandbox: bool = True,
    metered: bool = True,
    hardening: Hardening | None = None,
    bmi2: bool | None = None,
    **options: Any,
) -> NativeMachine:
    """A machine of its own."""
    return NativeMachine(shapes(bmi2), Plan(sandbox=sandbox, metered=metered, hardening=hardening), **options)


def llvm_machine(
    *, sandbox: bool = True, metered: bool = True, most_inlined: int | None = None, **options: Any
) -> NativeMachine:
    """A machine of its own that runs what LLVM has optimised; most_inlined: see LlvmMachine."""
    from jitlink.bpf.llvm_tier.machine import LlvmMachine

    machine = LlvmMachine(shapes(), Plan(sandbox=sandbox, metered=metered), **options)
    if most_inlined is not None:
        machine.most_inlined = most_inlined
    return machine


TIERS = [
    pytest.param("interpreter"),
    pytest.param("jit", marks=needs_native_code),
    pytest.param("llvm", marks=[needs_native_code, needs_llvm]),
]
"""The tiers that programs run in, to parametrize tests with."""
MACHINES: dict[str, Callable[..., Interpreter]] = {
    "interpreter": Interpreter,
    "jit": native_machine,
    "llvm": llvm_machine,
    "auto": partial(llvm_machine, hot_after=AutoTier.hot_after),
}


def machine_of(tier: str | None = None, **options: Any) -> Interpreter:
    """A machine of a tier, by default of the one that programs are loaded in."""
    return MACHINES[tier or default_tier()](**options)
