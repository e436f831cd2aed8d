"""AArch64: programs in the emulated CPU, and natively on such a host, do what the interpreter does.

JITLINK_MUTATIONS=N is how many programs each test of random ones tries.
"""

from __future__ import annotations

import struct

import pytest

from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.jit.aarch64 import AArch64
from jitlink.bpf.jit.backend import Shapes
from tests.bpf import load_store_claims as claims

pytest.importorskip("unicorn", reason="the emulated CPU is unicorn")

SHAPES = Shapes(AArch64())
make = claims.maker(SHAPES)


@pytest.mark.parametrize("machine", claims.places("aarch64"))
@pytest.mark.parametrize("hardened", [False, True], ids=["plain", "hardened"])
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_any_program_comes_to_the_same(byteorder, hardened, machine):
    """A random program has the interpreter's outcome: result, fault, count, memory, and what helpers see."""
    claims.check_programs(claims.maker(SHAPES, machine), byteorder, hardened)


@pytest.mark.parametrize("machine", claims.places("aarch64"))
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


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("condition", ["s<", "s>="])
def test_a_small_program_tests_signs_by_a_bit(condition, bits):
    """Where TBZ reaches all of a program, comparisons of signs with 0 are TBZ or TBNZ, and come to the same."""
    register = "r1" if bits == 64 else "w1"
    code = claims.program(f"r0 = 1\nif {register} {condition} 0 goto out\nr0 = 2\nout: exit")
    machine = make()
    words = struct.unpack_from("<8I", claims.bytes_of(machine, code))
    assert [word for word in words if word & 0x7E000000 == 0x36000000]
    for value in claims.EDGES:
        assert claims.outcome(machine, code, value) == claims.outcome(Interpreter(), code, value)


@pytest.mark.parametrize("form", claims.ATOMICS, ids=lambda form: form.name)
def test_an_atomic_form_gives_what_the_interpreter_gives(form):
    """Memory, register and r0 are the interpreter's behind an atomic access."""
    claims.check_atomic(make, form)


def test_short_branches_reach_as_far_as_the_driver_thinks():
    """A branch that the driver makes short is in the range of its relocation, and hardly any other is."""
    claims.check_short_reach(SHAPES.backend)


@pytest.mark.parametrize(("instructions", "size", "seed"), [(10, 0, None), (3000, 1 << 15, None), (20_000, 1 << 20, 5)])
def test_branches_reach_over_any_distance(instructions, size, seed):
    """Within the reach of TBZ (32 KiB) and of B.cond (1 MiB) and beyond, all branches and calls arrive."""
    claims.check_reach(make, instructions, size, seed)


def test_every_form_becomes_instructions_of_the_machine():
    """A disassembler of others finds nothing in the code that is no instruction."""
    pytest.importorskip("capstone")
    claims.check_every_instruction("aarch64", make)


def test_no_chosen_constant_is_in_hardened_code():
    """No MOVZ, and no MOVK of the second 16 bits, holds its part of a constant that the program has chosen."""
    claims.check_hiding(
        make,
        lambda word, value: word & 0x7FFFFFE0 == 0x52800000 | (value & 0xFFFF) << 5,
        lambda word, value: word & 0x7FFFFFE0 == 0x72A00000 | value >> 16 << 5,
    )


def test_two_compilations_differ_and_agree():
    """With one seed they are the same; with another they are not; the result is."""
    claims.check_two_compilations(make)


def test_trusted_programs_are_not_checked():
    """Without sandbox and meter there is less code, and the same result."""
    claims.check_trusted(make)


def test_a_helper_in_machine_code_is_called_as_aapcs64_wants_it():
    """Arguments in x0 to x5, the result in x0, and x0 to x17 and x30 changed by the call."""
    claims.check_native_helper(make)


def test_the_emulator_is_strict():
    """A stack pointer that is no multiple of 16 (AAPCS64 6.4.5.1) and a changed x19 are refused."""
    # sub sp, sp, #8; b .+4; ret. mov x19, #1; ret.
    misaligning = struct.pack("<3I", 0xD10023FF, 0x14000001, 0xD65F03C0)
    changing = struct.pack("<2I", 0xD2800033, 0xD65F03C0)
    claims.check_strictness("aarch64", misaligning, changing)


def test_emulated_code_sees_no_other_memory():
    """Memory that the program does not have is not mapped."""
    claims.check_isolation(make)
