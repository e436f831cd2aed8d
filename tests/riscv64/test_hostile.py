"""Damaged and contradictory RISC-V objects are linked or refused, and never cost more than they weigh."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

import jitlink
from jitlink import LinkError, MalformedInput
from tests.mutations import damaged, limited_memory, link_or_refuse, set_content_word, set_relocation_field
from tests.mutations import set_symbol_field as set_symbol
from tests.riscv64.objects import BASE, assembled, mutation_seeds

CALL = ".reloc ., R_RISCV_CALL_PLT, start\n.reloc ., R_RISCV_RELAX\n"


def refused(source: str, match: str) -> MalformedInput:
    with pytest.raises(MalformedInput, match=match) as raised:
        jitlink.link(assembled(f".text\nstart:\n{source}"), base=BASE)
    return raised.value


@pytest.mark.parametrize("padding", [11, 1 << 20, (1 << 63) - 1, -1, -(1 << 63)])
def test_an_alignment_larger_than_its_section_is_refused(padding: int):
    """The addend of R_RISCV_ALIGN is the length of the padding: 10 bytes are left there."""
    graph = jitlink.read(assembled(".text\n.option relax\nstart: call start\n.p2align 3\nnop"))
    edges = graph.edges
    edges.addend[edges.kind == graph.target.kind_number("R_RISCV_ALIGN")] = padding
    with pytest.raises(MalformedInput, match=r"R_RISCV_ALIGN .* which its section does not have"):
        jitlink.link(graph, base=BASE)


def test_padding_that_is_not_enough_is_refused():
    """4 bytes cannot align what follows 2 bytes to 8."""
    error = refused(
        ".option rvc\nc.nop\n.option norvc\n.reloc ., R_RISCV_ALIGN, 4\nnop\nnop",
        "R_RISCV_ALIGN of 4 bytes where it takes 6",
    )
    assert (error.section, error.offset) == (".text", 2)


def test_padding_of_odd_length_is_refused():
    """There is no nop of one byte."""
    refused(".byte 0\n.reloc ., R_RISCV_ALIGN, 3\n.zero 3\nnop", "R_RISCV_ALIGN of 3 bytes where it takes 3")


def test_two_calls_at_one_place_are_refused():
    """Cutting one would cut the other."""
    refused(f"{CALL}{CALL}auipc ra, 0\njalr ra", "share bytes")


def test_two_uses_that_share_bytes_are_refused():
    """Two instructions cannot start two bytes apart and have four bytes each."""
    use = ".reloc start + {0}, R_RISCV_LO12_I, small\n.reloc start + {0}, R_RISCV_RELAX\n"
    source = ".option relax\nlui a0, %hi(small)\nlw a0, %lo(small)(a0)\nnop\n" + use.format(6)
    refused(source + ".set small, 4", "share bytes")


def test_padding_over_a_call_is_refused():
    """R_RISCV_ALIGN stands over nops, not over code."""
    refused(f".reloc ., R_RISCV_ALIGN, 6\nnop\n{CALL}auipc ra, 0\njalr ra\nnop", "share bytes")


def test_a_relocation_in_bytes_that_go_is_refused():
    """The second half of a call has no relocation of its own."""
    refused(f"{CALL}auipc ra, 0\n.reloc ., R_RISCV_LO12_I, start\njalr ra", "bytes that relaxation takes out")


def test_a_relocation_over_the_end_of_a_call_is_refused():
    """One that starts before the cut and ends in it is damaged as well."""
    refused(f"{CALL}.reloc .+2, R_RISCV_32, start\nauipc ra, 0\njalr ra", "bytes that relaxation takes out")


def test_labels_outside_of_their_block_stay_as_far_outside():
    """A symbol whose offset is past the end of its section moves with that end."""
    source = ".text\n.option relax\n.globl start, beyond\nstart: call start\nret\n"
    content = bytearray(assembled(source + "beyond:"))
    graph = jitlink.read(bytes(content))
    beyond = graph.symbols["beyond"].row
    for offset in (13, 1 << 40, (1 << 64) - 1):
        graph.symbols.offset[beyond] = offset
        image = jitlink.link(graph, base=BASE)
        assert image.address_of("beyond") == (BASE + offset - 4) % 2**64


@pytest.mark.parametrize("name", mutation_seeds())
@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_object_is_linked_or_refused(name: str, seed: int):
    """Whatever is damaged in a sound object, linking it ends in an image or in a LinkError."""
    choices = random.Random(f"{name}/{seed}")
    with limited_memory():
        link_or_refuse(damaged(mutation_seeds()[name], choices), choices)


@pytest.mark.parametrize("name", mutation_seeds())
@pytest.mark.parametrize("seed", range(80))
def test_damaged_relocations_are_applied_or_refused(name: str, seed: int):
    """Offsets, kinds, targets and addends of any value, relaxed or not, wherever the image is."""
    choices = random.Random(f"{seed}/{name}")
    buffer = bytearray(mutation_seeds()[name])
    for _ in range(choices.randint(1, 5)):
        choices.choice((set_relocation_field, set_relocation_field, set_symbol, set_content_word))(buffer, choices)
    with limited_memory(), suppress(LinkError):
        jitlink.link(
            bytes(buffer),
            base=choices.choice((0, 0x10000, BASE, 1 << 40)),
            define=lambda name: choices.choice((4, BASE + 0x100_0000, 1 << 45)),
            relax=choices.random() < 0.8,
        )


def test_the_sound_objects_are_linked():
    """Undamaged, every seed goes through the whole link, relaxed and not: else the damage is tested on nothing."""
    for content in mutation_seeds().values():
        for relax in (True, False):
            jitlink.link(content, base=BASE, define=lambda name: BASE + 0x100_0000, relax=relax)
