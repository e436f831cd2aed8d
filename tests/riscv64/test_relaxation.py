"""Linker relaxation of RISC-V: calls, the rounds, and whole programs.

Where ld.lld makes the same choices, its bytes at the same addresses are what ours are compared with.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import jitlink
from jitlink.arches.riscv64_calls import AS_C_J, AS_JAL, AS_WRITTEN, Calls
from jitlink.arches.riscv64_pairs import marked_for_relaxation
from jitlink.arches.riscv64_relaxation import Relaxations
from jitlink.passes import relaxation
from tests.riscv64.objects import (
    BASE,
    MUTATION_SEED,
    assembled,
    assert_same_as_lld,
    linked,
    text,
    words,
)

MIB = 1 << 20


@pytest.mark.parametrize(
    ("call", "distance", "length"),
    [
        ("call", MIB - 2, 4),
        ("call", MIB, 8),
        ("tail", 0x7FE, 2),
        ("tail", 0x804, 4),
        ("tail", MIB - 2, 4),
        ("tail", MIB, 8),
    ],
)
def test_a_call_ahead_is_as_short_as_its_distance_allows(call: str, distance: int, length: int, tmp_path: Path):
    """The last distance that jal and c.j span, and the first past it; a call that returns has no c.j.

    The distance is that of the code as written, but for c.j, which may be taken once jal has been.
    """
    source = f".text\n.option relax\n.globl start, target\nstart: {call} target\n.zero {distance - 8}\ntarget: ret"
    image = linked(source)
    assert image.address_of("target") - image.address_of("start") == distance - 8 + length
    assert_same_as_lld(tmp_path, assembled(source))


@pytest.mark.parametrize(
    ("call", "distance", "length"),
    [
        ("call", MIB, 4),
        ("call", MIB + 2, 8),
        ("tail", 0x800, 2),
        ("tail", 0x802, 4),
        ("tail", MIB, 4),
        ("tail", MIB + 2, 8),
    ],
)
def test_a_call_back_is_as_short_as_its_distance_allows(call: str, distance: int, length: int, tmp_path: Path):
    """Backwards, each form spans two bytes more."""
    source = f".text\n.option relax\n.globl target, end\ntarget: .zero {distance}\n{call} target\nend: ret"
    image = linked(source)
    assert image.address_of("end") - image.address_of("target") == distance + length
    assert_same_as_lld(tmp_path, assembled(source))


def test_calls_keep_their_registers():
    """jal leaves its return address where jalr did: ra, t0 of the millicode routines, or nowhere."""
    source = """
        .text
        .option relax
        call near
        call t0, near
        jump far, t1
        .zero 4096
    far:
    near: ret
    """
    assert text(linked(source))[:3] == ["jal 0x100c", "jal t0, 0x1008", "j 0x1004"]


def test_compressed_calls_need_an_object_with_compressed_instructions():
    """Without EF_RISCV_RVC in the header of its object, a tail call takes the 4 bytes of j."""
    content = bytearray(assembled(".text\n.option relax\n.globl start\nstart: tail start"))
    assert text(jitlink.link(bytes(content), base=BASE)) == ["c.j 0"]
    content[48] &= ~1
    assert text(jitlink.link(bytes(content), base=BASE)) == ["j 0"]


def test_code_that_is_not_marked_stays_as_it_is():
    """Without R_RISCV_RELAX, and with relax=False, nothing is shortened."""
    source = ".text\n.option {}\n.globl start\nstart: call start\nlui a0, %hi(small)\nlw a0, %lo(small)(a0)"
    as_written = ["auipc ra, 0", "jalr ra", "lui a0, 0", "lw a0, 4(a0)"]
    assert text(linked(source.format("norelax"), small=4)) == as_written
    assert text(linked(source.format("relax"), small=4, relax=False)) == as_written
    assert text(linked(source.format("relax"), small=4)) == ["jal 0", "lw a0, 4(zero)"]


def test_calls_of_functions_outside_go_through_short_stubs():
    """The stub of a far function is near: the call of it is a jal."""
    image = linked(".text\n.option relax\n.globl start\nstart: call outside\ntail outside", outside=BASE + (1 << 40))
    code = words(image.read(image.address_of("start"), 6))
    assert [line.split()[0] for line in code] == ["jal", "c.j"]


def test_a_call_of_an_odd_address_stays_as_it_is():
    """jalr leaves the lowest bit of its target out; jal has no place for it."""
    source = ".text\n.option relax\n.globl start\nstart: call odd\n.set odd, start + 9\nret"
    assert text(linked(source))[:2] == ["auipc ra, 0", "jalr ra, ra, 9"]


def test_a_marked_call_that_is_none_stays_as_it_is():
    """Where other instructions than auipc and jalr stand, the relocation is applied and nothing is cut."""
    mark = ".reloc ., R_RISCV_CALL_PLT, start\n.reloc ., R_RISCV_RELAX"
    assert text(linked(f".text\n.globl start\nstart:\n{mark}\nlui ra, 0\njalr ra"))[0] == "lui ra, 0"


# Whole programs


def random_program(choices: random.Random) -> str:
    """A few functions that call each other over distances about the ends of what jal and c.j span."""
    names = [f"f{number}" for number in range(choices.randint(2, 12))]
    code = [".text", ".option relax", f".option {choices.choice(('rvc', 'norvc'))}"]
    for name in names:
        if choices.random() < 0.3:
            code.append(f".p2align {choices.randint(2, 6)}")
        code += [f".globl {name}", f".type {name}, @function", f"{name}:"]
        code += [random_piece(choices, names) for _ in range(choices.randint(0, 8))]
        if choices.random() < 0.2:
            code.append(f".zero {choices.choice((1000, 2000, 2040, 2044, 2048, 4000, MIB, MIB - 8))}")
        code += ["ret", f".size {name}, .-{name}"]
    code.append(".data")
    for name in names:
        other = choices.choice(names)
        low, high = sorted((names.index(name), names.index(other)))
        code += [f".quad {name}, {name} - {other}", f".word {other} - {name}", f".uleb128 f{high} - f{low}"]
    return "\n".join(code)


def random_piece(choices: random.Random, names: list[str]) -> str:
    name, datum = choices.choice(names), choices.choice(("small", "large"))
    return choices.choice(
        (
            f"call {name}",
            f"call {name}",
            f"tail {name}",
            f"tail {name}",
            f"lla a0, {name}",
            f"lui a0, %hi({datum})\naddi a0, a0, %lo({datum})\nsw a1, %lo({datum})(a0)",
            "bnez a0, 1f\nnop\n1:",
            f".p2align {choices.randint(2, 5)}",
            f".zero {choices.choice((4, 16, 500, 1000, 2000))}",
            f".option push\n.option norelax\ncall {name}\n.option pop",
            "add a0, a0, a1",
        )
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_programs_come_out_as_from_lld(seed: int, tmp_path: Path):
    """Calls, jumps, addresses, alignment and tables of distances, relaxed and not: every byte agrees."""
    choices = random.Random(seed)
    content = assembled(random_program(choices))
    # Not where ld.lld has no c.lui.
    define = {"small": choices.choice((0, 5, 0x7FF, -0x800)), "large": choices.choice((0x1F800, 0x12345678))}
    for relax in (True, False):
        assert_same_as_lld(tmp_path, content, relax=relax, define=define)


def test_several_objects_and_sections_are_relaxed_together(tmp_path: Path):
    """Calls from block to block, over sections and objects: what is laid out side by side comes near."""
    piece = '.section .text.f{0},"ax",@progbits\n.globl f{0}\nf{0}: call f{1}\nret'
    pieces = [piece.format(number, (number + 9) % 10) for number in range(10)]
    objects = [assembled(".option relax\n" + "\n".join(half)) for half in (pieces[:5], pieces[5:])]
    image = jitlink.link(*objects, base=BASE)
    # jal and ret, 4 bytes each.
    assert sorted(image.symbols().values()) == [BASE + 8 * number for number in range(10)]


# The rounds


class Restless:
    """Relaxations that never come to rest: what is chosen in one round is put back in the next."""

    def __init__(self) -> None:
        self.chosen: list[bool] = []
        self.done: list[str] = []

    def choose(self, addresses: object, *, more: bool) -> bool:
        self.chosen.append(more)
        return True

    def give_up(self) -> None:
        self.done.append("give up")

    def cut(self) -> None:
        self.done.append("cut")

    def rewrite(self, addresses: object) -> None:
        self.done.append("rewrite")


def test_code_that_never_comes_to_rest_is_left_as_it_was_written(monkeypatch: pytest.MonkeyPatch):
    """After a fixed number of rounds there is nothing more to shorten, and then nothing is shortened at all."""
    restless = Restless()
    graph = jitlink.new_graph("rounds", "riscv64")
    monkeypatch.setitem(graph.target.__dict__, "find_relaxations", lambda graph, symbol_named: restless)
    layouts = []
    relaxation.lay_out_relaxed(graph, lambda name: 0, lambda: layouts.append(1))
    assert restless.chosen == [True] * relaxation.GROWING_ROUNDS + [False] * (
        relaxation.ROUNDS - relaxation.GROWING_ROUNDS
    )
    assert restless.done[-3:] == ["give up", "cut", "rewrite"]
    assert len(layouts) == restless.done.count("cut")


def test_a_form_that_did_not_fit_is_not_tried_again():
    """Else two jumps that push each other out of reach could take turns for ever."""
    graph = jitlink.read(assembled(".text\n.option relax\n.globl start\nstart: tail start"))
    target = graph.symbols["start"].row
    calls = Calls(graph, marked_for_relaxation(graph), np.ones(len(graph.blocks), np.bool_))
    forms = []
    for distance, more in ((4, True), (0x800, True), (4, True), (4, False), (MIB, True), (4, True), (4, True)):
        addresses = np.zeros(len(graph.symbols), np.uint64)
        addresses[target] = distance
        calls.choose(addresses, more=more)
        forms.append(int(calls.form[0]))
    assert forms == [AS_C_J, AS_JAL, AS_JAL, AS_JAL, AS_WRITTEN, AS_WRITTEN, AS_WRITTEN]


def test_what_came_out_of_reach_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ten calls that shrink bring the jump 40 bytes back, and alignment leaves its target where it was.

    So c.j, which reached in the first round, does not in the second, and the jump has to be a j.
    """
    calls = "call start\n" * 10
    source = f"""
        .text
        .option relax
        .globl start, jump, target
    start:
        {calls}
    jump:
        tail target
        .zero 2012
        .p2align 6
    target: ret
    """
    cuts: list[None] = []
    cut = Relaxations.cut
    monkeypatch.setattr(Relaxations, "cut", lambda relaxations: cuts.append(cut(relaxations)))
    image = linked(source)
    # As written; c.j; j.
    assert len(cuts) == 3
    assert image.address_of("target") - image.address_of("jump") == 2112 - 40
    assert words(image.read(image.address_of("jump"), 4)) == [f"j {2112 - 40:#x}"]
    assert_same_as_lld(tmp_path, assembled(source))


def test_the_graph_that_was_given_is_not_changed():
    """A link shortens a copy: the same object links again, with and without relaxation."""
    graph = jitlink.read(assembled(MUTATION_SEED))
    sizes = graph.blocks.size.copy()
    outside = {"outside": BASE}
    relaxed, again, written = (
        jitlink.link(graph, base=BASE, define=outside, relax=relax) for relax in (True, True, False)
    )
    assert np.array_equal(graph.blocks.size, sizes)
    assert relaxed.to_bytes() == again.to_bytes()
    assert [text(image)[0].split()[0] for image in (written, relaxed)] == ["auipc", "jal"]
