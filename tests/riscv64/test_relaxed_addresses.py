"""Linker relaxation of RISC-V: addresses near zero and near the global pointer, and lui with few bits.

ld.lld takes neither c.lui nor gp for auipc; for these the instructions are read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import jitlink
from tests.riscv64.objects import BASE, assembled, assert_same_as_lld, linked, text

LUI = """
    .text
    .option relax
    lui a0, %hi(datum)
    addi a1, a0, %lo(datum)
    lw a2, %lo(datum+4)(a0)
    sd a3, %lo(datum)(a0)
"""
AUIPC = """
    .text
    .option relax
here:
    auipc a0, %pcrel_hi(datum)
    addi a1, a0, %pcrel_lo(here)
    lw a2, %pcrel_lo(here)(a0)
    sd a3, %pcrel_lo(here)(a0)
"""


@pytest.mark.parametrize("address", [0, 0x7FB, -0x800])
def test_lui_near_address_zero_goes_and_x0_takes_its_place(address: int, tmp_path: Path):
    """All that used the register use x0; the highest of the group's addresses decides. As ld.lld has it."""
    image = linked(LUI, datum=address)
    assert len(text(image)) == 3
    assert all("zero" in line or line.startswith("li") for line in text(image))
    assert_same_as_lld(tmp_path, assembled(LUI), relax=True, define={"datum": address})


@pytest.mark.parametrize(
    ("address", "first"),
    [
        (0x7FC, "lui a0, 0"),
        (0x800, "c.lui a0, 1"),
        (0x1F7FF, "c.lui a0, 0x1f"),
        (0x1F800, "lui a0, 0x20"),
        (-0x801, "c.lui a0, 0xfffff"),
        (-0x20800, "c.lui a0, 0xfffe0"),
        (-0x20801, "lui a0, 0xfffdf"),
    ],
)
def test_lui_is_compressed_where_its_upper_part_has_six_bits(address: int, first: str):
    """Both ends of what c.lui can hold, and one past each; zero is none of it. At 0x7fc, datum + 4 is too far."""
    assert text(linked(LUI, datum=address))[0] == first


@pytest.mark.parametrize("register", ["sp", "zero"])
def test_lui_of_sp_and_x0_has_no_compressed_form(register: str):
    """c.lui with sp is c.addi16sp, and with x0 a hint."""
    source = f".text\n.option relax\nlui {register}, %hi(datum)\naddi a0, {register}, %lo(datum)"
    assert text(linked(source, datum=0x1000))[0] == f"lui {register}, 1"


def test_a_group_with_a_part_that_is_not_marked_is_left_whole():
    """If one user of the lui would go on reading the register, the lui stays."""
    source = LUI + ".option norelax\nlw a4, %lo(datum)(a0)"
    assert text(linked(source, datum=4))[0] == "lui a0, 0"


def test_lui_without_a_lower_part_stays():
    """Nothing says who uses what it leaves in its register."""
    assert text(linked(".text\n.option relax\nlui a0, %hi(datum)\nret", datum=4))[0] == "lui a0, 0"


@pytest.mark.parametrize("address", [0, 0x7FF, -0x800])
def test_auipc_near_address_zero_goes(address: int):
    """So does GNU ld: for a weak symbol that nothing defines, this is what brings it into reach."""
    code = text(linked(AUIPC, base=0x1000, datum=address))
    assert len(code) == 3
    assert all("zero" in line or line.startswith("li") for line in code)


@pytest.mark.parametrize("address", [0x800, 0x1000])
def test_auipc_that_is_not_near_address_zero_stays(address: int):
    """It has no compressed form, either."""
    assert text(linked(AUIPC, base=0x1000, datum=address))[0].startswith("auipc")


GLOBAL_POINTER = """
    .data
    .globl __global_pointer$
    .zero 0x1000
__global_pointer$:
    .zero 0x1000
"""


def placed_near_gp(source: str, distance: int) -> jitlink.Image:
    return linked(f".globl datum\n.set datum, __global_pointer$ + {distance}\n{source}{GLOBAL_POINTER}", base=0x10000)


@pytest.mark.parametrize(
    ("distance", "operands"), [(0x7F8, ("0x7f8", "0x7fc")), (-0x800, ("-0x800", "-0x7fc")), (0, ("0", "4"))]
)
def test_lui_near_the_global_pointer_goes_and_gp_takes_its_place(distance: int, operands: tuple[str, str]):
    """Addresses count from __global_pointer$, if the inputs define it."""
    code = text(placed_near_gp(LUI, distance))
    assert code[1:] == [f"lw a2, {operands[1]}(gp)", f"sd a3, {operands[0]}(gp)"]
    assert code[0] in (f"addi a1, gp, {operands[0]}", "mv a1, gp")


@pytest.mark.parametrize(("distance", "near"), [(0x7FF, True), (0x800, False), (-0x800, True), (-0x801, False)])
def test_auipc_near_the_global_pointer_goes(distance: int, near: bool):
    """The ends of what 12 bits reach from gp, and one past each."""
    code = text(placed_near_gp(AUIPC, distance))
    assert (len(code), "gp" in code[-1]) == (3, True) if near else (4, False)


def test_a_group_that_reaches_past_the_end_of_gp_is_left_whole():
    """The psABI's warning: a lui that went while one of its users did not fit would read an unset register."""
    code = text(placed_near_gp(LUI, 0x7FC))
    assert "gp" not in " ".join(code)


def test_the_global_pointer_of_somebody_else_is_not_used():
    """What gp holds is up to the program that we are linked into, unless the inputs define it."""
    source = AUIPC + ".option norelax\nlla a0, __global_pointer$"
    image = jitlink.link(
        assembled(source), base=BASE, define={"__global_pointer$": BASE + 0x100, "datum": BASE + 0x100}
    )
    assert text(image)[0].startswith("auipc")


def test_the_load_of_gp_itself_stays():
    """It would become `addi gp, gp, 0`."""
    source = ".text\n.option relax\nhere: auipc gp, %pcrel_hi(__global_pointer$)\naddi gp, gp, %pcrel_lo(here)"
    assert text(linked(source + GLOBAL_POINTER, base=0x10000))[0].startswith("auipc gp")


def test_a_got_load_near_the_global_pointer_is_one_instruction():
    """First the ld becomes an addi, then the auipc goes."""
    source = """
        .globl datum
        .text
        .option relax
    here:
        auipc a0, %got_pcrel_hi(datum)
        ld a1, %pcrel_lo(here)(a0)
    """
    assert text(placed_near_gp(source, 0x10)) == ["addi a1, gp, 0x10"]
