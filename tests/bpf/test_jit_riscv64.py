"""RISC-V, 64 bits: programs in the emulated CPU, and natively on such a host, do what the interpreter does.

JITLINK_MUTATIONS=N is how many programs each test of random ones tries.
"""

from __future__ import annotations

import struct

import pytest

from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.riscv64 import Riscv64
from tests.bpf import load_store_claims as claims

pytest.importorskip("unicorn", reason="the emulated CPU is unicorn")

SHAPES = Shapes(Riscv64())
make = claims.maker(SHAPES)


@pytest.mark.parametrize("machine", claims.places("riscv64"))
@pytest.mark.parametrize("hardened", [False, True], ids=["plain", "hardened"])
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_any_program_comes_to_the_same(byteorder, hardened, machine):
    """A random program has the interpreter's outcome: result, fault, count, memory, and what helpers see."""
    claims.check_programs(claims.maker(SHAPES, machine), byteorder, hardened)


@pytest.mark.parametrize("machine", claims.places("riscv64"))
@pytest.mark.parametrize("hardened", [False, True], ids=["plain", "hardened"])
@pytest.mark.parametrize("context", claims.CONTEXTS, ids=lambda context: context.title)
def test_any_packet_program_comes_to_the_same(context, hardened, machine):
    """So has a program that walks a packet and looks up maps."""
    claims.check_packet_programs(claims.maker(SHAPES, machine), context, hardened)


@pytest.mark.parametrize("seed", [None, 4], ids=["plain", "hardened"])
@pytest.mark.parametrize("form", [*claims.COMPUTING, *claims.COMPARING], ids=lambda form: form.name)
def test_a_form_gives_what_the_interpreter_gives(form, seed):
    """Arithmetic and comparisons agree with the interpreter at the edges of numbers: 0, signs, divisions by 0."""
    claims.check_form(make, form, seed)


@pytest.mark.parametrize("form", claims.ATOMICS, ids=lambda form: form.name)
def test_an_atomic_form_gives_what_the_interpreter_gives(form):
    """Memory, register and r0 are the interpreter's behind an atomic access."""
    claims.check_atomic(make, form)


def test_short_branches_reach_as_far_as_the_driver_thinks():
    """A branch that the driver makes short is in the range of its relocation, and hardly any other is."""
    claims.check_short_reach(SHAPES.backend)


@pytest.mark.parametrize(("instructions", "size", "seed"), [(10, 0, None), (600, 1 << 12, None), (20_000, 1 << 20, 5)])
def test_branches_reach_over_any_distance(instructions, size, seed):
    """Within the reach of a branch (4 KiB) and of JAL (1 MiB) and beyond, all branches and calls arrive."""
    claims.check_reach(make, instructions, size, seed)


def test_every_form_becomes_instructions_of_the_machine():
    """A disassembler of others finds nothing in the code that is no instruction."""
    pytest.importorskip("capstone")
    claims.check_every_instruction("riscv64", make)


def test_no_chosen_constant_is_in_hardened_code():
    """No LUI, as it is or inverted, holds the upper part of a constant that the program has chosen, and no XORI
    the lower one."""
    claims.check_hiding(
        make,
        lambda word, value: word & 0xFFFFF07F in (0x37 | value & 0xFFFFF000, 0x37 | ~value & 0xFFFFF000),
        lambda word, value: word & 0xFFF0707F == 0x4013 | (value & 0xFFF) << 20,
    )


def test_two_compilations_differ_and_agree():
    """With one seed they are the same; with another they are not; the result is."""
    claims.check_two_compilations(make)


def test_trusted_programs_are_not_checked():
    """Without sandbox and meter there is less code, and the same result."""
    claims.check_trusted(make)


def test_a_helper_in_machine_code_is_called_as_the_psabi_wants_it():
    """Arguments in a0 to a5, the result in a0, and a0 to a7, t0 to t6 and ra changed by the call."""
    claims.check_native_helper(make)


def test_the_emulator_is_strict():
    """A stack pointer that is no multiple of 16 (psABI, Integer Calling Convention) and a changed s1 are refused."""
    # addi sp, sp, -8; j .+4; ret. li s1, 1; ret.
    misaligning = struct.pack("<3I", 0xFF810113, 0x0040006F, 0x00008067)
    changing = struct.pack("<2I", 0x00100493, 0x00008067)
    claims.check_strictness("riscv64", misaligning, changing)


def test_emulated_code_sees_no_other_memory():
    """Memory that the program does not have is not mapped."""
    claims.check_isolation(make)
