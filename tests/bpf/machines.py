"""Machines of either sort, for tests: MACHINES for what holds in every tier, native_machine for native code."""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import Any

import pytest

from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.jit.x86_64 import X8664
from jitlink.bpf.tiers import default_tier

HAS_NATIVE_CODE = platform.machine() == "x86_64" and os.name == "posix"
needs_native_code = pytest.mark.skipif(not HAS_NATIVE_CODE, reason="there is no back end for this host")


@cache
def shapes(bmi2: bool | None = None) -> Shapes:
    """The templates of the host's back end; bmi2: whether the processor has it, None to ask it."""
    return Shapes(X8664(bmi2))


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


def llvm_machine(*, sandbox: bool = True, metered: bool = True, **options: Any) -> NativeMachine:
    """A machine of its own that runs what LLVM has optimised."""
    from jitlink.bpf.llvm_tier.machine import LlvmMachine

    return LlvmMachine(shapes(), Plan(sandbox=sandbox, metered=metered), **options)


TIERS = [pytest.param("interpreter"), pytest.param("jit", marks=needs_native_code)]
"""The tiers that programs run in, to parametrize tests with."""


def machine_of(tier: str | None = None, **options: Any) -> Interpreter:
    """A machine of a tier, by default of the one that programs are loaded in."""
    return native_machine(**options) if (tier or default_tier()) == "jit" else Interpreter(**options)
