"""The tiers that SBPF programs are tested on, and what a run in one comes to."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from jitlink.bpf import BpfFault, sbpf
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.sbpf.jit.emulated import EmulatedMachine
from jitlink.bpf.sbpf.jit.load_store import TranslatingAArch64, TranslatingRiscv64
from jitlink.bpf.sbpf.machine import SbpfMachine
from jitlink.bpf.sbpf.memory import STACK_START
from jitlink.bpf.sbpf.program import Program
from jitlink.bpf.sbpf.reader import read_executable
from jitlink.bpf.sbpf.syscalls import SYSCALLS, ProgramAborted
from tests.bpf.machines import needs_native_code

TIERS = [pytest.param("interpreter"), pytest.param("jit", marks=needs_native_code), pytest.param("llvm")]
"""To parametrize tests with."""
BACK_ENDS: dict[str, Any] = {"aarch64": TranslatingAArch64, "riscv64": TranslatingRiscv64}


def seen(machine: SbpfMachine, *registers: int) -> int:
    """A syscall that says in the log what it sees, uses units, and changes memory."""
    machine.consume(registers[0] & 31)
    machine.log.append(f"{registers} {machine.registers} {machine.depth} {machine.pc} {machine.budget_left}")
    machine.write(STACK_START + 8 * (registers[1] & 15), registers[2].to_bytes(8, "little"))
    return sum(registers)


OWN_SYSCALLS = SYSCALLS | {"sol_set_return_data": seen}


@cache
def _emulated_shapes(target: str) -> Shapes:
    return Shapes(BACK_ENDS[target]())


def machine_of(tier: str, file: bytes, seed: int = 0) -> Any:
    """A machine with a program that need not be verified.

    tier: one of TIERS, or of BACK_ENDS for an emulated CPU, and " hardened" behind it; seed: of the randomness.
    """
    if tier.partition(" ")[0] in BACK_ENDS:
        hardening = Hardening(seed) if tier.endswith("hardened") else None
        shapes = _emulated_shapes(tier.partition(" ")[0])
        return EmulatedMachine(read_executable(file, "(bytes)"), OWN_SYSCALLS, shapes, hardening=hardening)
    options: dict[str, Any] = {"hardened": True, "seed": seed} if tier.endswith("hardened") else {}
    tier = tier.partition(" ")[0]
    return sbpf.load(file, tier=tier, verify=False, syscalls=OWN_SYSCALLS, cache=False, **options).machine


def outcome(machine: SbpfMachine, data: bytes, arguments: list[int], budget: int) -> Any:
    """All that a run comes to; of a run that ends well r6 to r10 mean nothing."""
    program, kept = Program(machine.executable, machine), 11
    end: Any
    try:
        result = program.run(data, *arguments, budget=budget)
        end, kept = (result.r0, result.data), 6
    except BpfFault as fault:
        end = (fault.kind, fault.pc, fault.address, fault.size, str(fault))
    except ProgramAborted as error:
        end = (error.message, error.__notes__)
    memory = [bytes(region.data) for region in machine.memory.regions if region is not None]
    return end, machine.used, machine.registers[:kept], machine.log, memory
