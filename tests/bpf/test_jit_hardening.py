"""Hardened native code: whoever writes a program chooses neither its bytes nor its place."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.assembler import assemble
from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.isa import FORMS, Family
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.machine import Code
from jitlink.memory import page_size
from tests.bpf.machines import native_machine, needs_native_code
from tests.bpf.test_jit import protection_of

pytestmark = needs_native_code

TRAP = 0xCC
WITH_IMMEDIATE = [
    form
    for form in FORMS
    if "imm" in form.operands
    and not form.refused
    and (form.family in (Family.ARITHMETIC, Family.BRANCH, Family.STORE) or form.name == "lddw")
]
SHIFTS = ("lsh", "rsh", "arsh")
LOOP = "r0 = 0\nr1 = 100\nagain: r0 += r1\n*(u64 *)(r10 - 8) = r0\nr1 += -1\nif r1 != 0 goto again\nexit"


def bytes_of(machine, code):
    """The machine code of a program, as it is in memory."""
    machine.prepare(code)
    (image,) = code.made[machine].images.values()
    return ctypes.string_at(image.base, image.end - image.base)


def every_use_of(immediate, offset):
    """A program with an immediate in every form that takes one, and an offset in every access."""
    slots = []
    for form in WITH_IMMEDIATE:
        # A shift takes no more than six bits of its immediate, which are no choice of bytes.
        chosen = 3 if form.operation in SHIFTS else immediate
        fields = {"dst": 6, "src": 0, "offset": 0, "imm": chosen}
        if form.family is Family.STORE:
            fields |= {"dst": 7, "offset": offset}
        fields |= dict([form.selector] if form.selector else [])
        slots.append((form.opcode, *fields.values()))
        slots += [(0, 0, 0, 0, immediate)] * (form.slots - 1)
    for form in FORMS:
        if form.family in (Family.LOAD, Family.ATOMIC):
            slots.append((form.opcode, 6, 6, offset, dict([form.selector])["imm"] if form.selector else 0))
    every: list[Any] = [*slots]
    return encode([*every, (0x95, 0, 0, 0, 0)])


@given(st.integers(0x0101_0101, 0x7FFF_FFFF) | st.integers(-0x8000_0000, -0x0101_0101), st.integers(0, 1000))
def test_no_chosen_constant_is_in_the_code(immediate, seed):
    """Neither an immediate of 32 bits nor an offset is found at any byte of hardened code; in other code it is."""
    offset = 0x5A6B
    chosen = [(immediate & 0xFFFF_FFFF).to_bytes(4, "little"), offset.to_bytes(4, "little")]
    code = Code(decode(every_use_of(immediate, offset)))
    plain = bytes_of(native_machine(), code)
    assert all(each in plain for each in chosen)
    hardened = bytes_of(native_machine(hardening=Hardening(seed)), code)
    assert not any(each in hardened for each in chosen)


def test_a_constant_of_64_bits_is_hidden_too():
    """Neither half of a wide constant is in hardened code, and it is what the register holds."""
    machine = native_machine(hardening=Hardening(1))
    code = Code(decode(assemble("r0 = 0x1badb0020ddba11 ll\nexit")))
    found = bytes_of(machine, code)
    assert machine.run(code) == 0x1BADB0020DDBA11
    assert (0x0DDBA11).to_bytes(4, "little") not in found
    assert (0x1BADB00).to_bytes(4, "little") not in found


def test_two_compilations_differ_and_agree():
    """Without a seed no two compilations are the same; with one they are; all give the same result and count."""
    code = Code(decode(assemble(LOOP)))
    machines = [native_machine(hardening=Hardening(seed)) for seed in (None, None, 7, 7, 8)]
    one, other, seeded, again, otherwise = (bytes_of(machine, code) for machine in machines)
    assert one != other
    assert seeded == again != otherwise
    assert {(machine.run(code), machine.instructions) for machine in machines} == {(5050, 403)}


def test_padding_moves_what_is_behind_it():
    """Where an instruction lies in the code differs between compilations, not only what hides its constants."""
    code = Code(decode(assemble("r0 += 1\n" * 100 + "exit")))
    lengths = {len(bytes_of(native_machine(hardening=Hardening(seed)), code)) for seed in range(8)}
    assert len(lengths) > 4
    assert min(lengths) > len(bytes_of(native_machine(), code))


def test_the_code_starts_anywhere_in_its_page():
    """The place of the first instruction in its page is drawn at random."""
    starts = set()
    for seed in range(12):
        machine, code = native_machine(hardening=Hardening(seed)), Code(decode(assemble(LOOP)))
        machine.prepare(code)
        (image,) = code.made[machine].images.values()
        starts.add(image.base % page_size())
    assert len(starts) > 8


@pytest.mark.parametrize("hardening", [None, Hardening(3)], ids=["plain", "hardened"])
def test_unused_space_traps(hardening):
    """From the start of the first page to the end of the last one, every byte that is no code is a trap."""
    machine, code = native_machine(hardening=hardening), Code(decode(assemble(LOOP)))
    machine.prepare(code)
    (image,) = code.made[machine].images.values()
    first = image.base - image.base % page_size()
    assert set(ctypes.string_at(first, image.base - first)) <= {TRAP}
    # The routines lie behind the code, and behind them nothing.
    routines = machine.shapes.backend.runtime().template.code
    used = -(-image.end // 16) * 16 + len(routines)
    end = -(-used // page_size()) * page_size()
    assert set(ctypes.string_at(used, end - used)) == {TRAP}


def test_tables_of_hardened_code_are_read_only():
    """The table of functions can be read and nothing else; no page is writable and executable."""
    machine = native_machine(hardening=Hardening(5))
    code = Code(decode(assemble("r1 = code_addr(f)\ncallx r1\nexit\nf: r0 = 7\nexit")))
    assert machine.run(code) == 7
    (image,) = code.made[machine].images.values()
    pages = [protection_of(image.base + number * page_size()) for number in range(-2, 4)]
    assert "r-xp" in pages
    assert "r--p" in pages
    assert not any("w" in each and "x" in each for each in pages if each)


def test_one_word_hardens_a_program():
    """hardened=True gives a program that does the same, and seed makes its code repeatable."""
    choices: list[Any] = [{}, {"hardened": True, "seed": 1}, {"hardened": True, "seed": 2}]
    plain, one, other = (bpf.load(assemble(LOOP), tier="jit", **options) for options in choices)
    results = [loaded.run() for loaded in (plain, one, other)]
    assert [(int(result), result.instructions) for result in results] == [(5050, 403)] * 3
    codes = [bytes_of(loaded.object.machine, loaded.code) for loaded in (plain, one, other)]
    assert len(set(codes)) == 3
