"""Every relocation kind of RISC-V writes what the psABI says, as ld.lld does, and refuses what does not fit.

PSABI is the table of the RISC-V ELF psABI (Relocations) once more, transcribed for the tests, with the
intervals that the instruction formats of the ISA manual leave. All cases are one object, in which every
place has a symbol of its own, given to ld.lld and to our fixups at the same address.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

import jitlink
from jitlink import OutOfRange, UnsupportedRelocation
from jitlink.arches import architecture
from jitlink.arches.riscv64_fields import rounded
from jitlink.fixups import apply_fixups
from jitlink.formulas import Check, signed, unsigned
from tests.riscv64.objects import Refused, assembled, link_with_lld, section_of

BASE = 0x2_2345_6000
"""Above 4 GiB, so that no address below it by the reach of auipc is negative."""
KINDS = architecture("riscv64").kinds
PLACE = 16
"""Bytes from one place to the next."""


@dataclass(frozen=True)
class Row:
    """A relocation: its number, what stands at its place, its interval (half-open) and the step of its values."""

    name: str
    number: int
    content: str
    relative: bool = False
    interval: tuple[int, int] | None = None
    step: int = 1
    lld_checks: bool = True


SIGNED_32 = (-(2**31), 2**31)
WITH_LOWER_PART = (-(2**31) - 0x800, 2**31 - 0x800)
ONES, NO_WORD = ".quad -1", ".quad 0x0102030405060708"

PSABI = [
    Row("R_RISCV_32", 1, ONES, interval=(-(2**31), 2**32), lld_checks=False),
    Row("R_RISCV_64", 2, NO_WORD),
    Row("R_RISCV_BRANCH", 16, "beq a0, a1, 0", True, (-(2**12), 2**12), 2),
    Row("R_RISCV_JAL", 17, "jal ra, 0", True, (-(2**20), 2**20), 2),
    Row("R_RISCV_CALL", 18, "auipc ra, 0\njalr ra, 0(ra)", True, WITH_LOWER_PART),
    Row("R_RISCV_CALL_PLT", 19, "auipc t1, 0\njalr zero, 0(t1)", True, WITH_LOWER_PART),
    Row("R_RISCV_PCREL_HI20", 23, "auipc a0, 0", True, WITH_LOWER_PART),
    Row("R_RISCV_HI20", 26, "lui a0, 0", False, WITH_LOWER_PART),
    Row("R_RISCV_LO12_I", 27, "addi a0, a1, 0"),
    Row("R_RISCV_LO12_S", 28, "sd a0, 0(a1)"),
    Row("R_RISCV_ADD8", 33, NO_WORD),
    Row("R_RISCV_ADD16", 34, NO_WORD),
    Row("R_RISCV_ADD32", 35, NO_WORD),
    Row("R_RISCV_ADD64", 36, NO_WORD),
    Row("R_RISCV_SUB8", 37, NO_WORD),
    Row("R_RISCV_SUB16", 38, NO_WORD),
    Row("R_RISCV_SUB32", 39, NO_WORD),
    Row("R_RISCV_SUB64", 40, NO_WORD),
    Row("R_RISCV_RVC_BRANCH", 44, "c.beqz a0, 0", True, (-(2**8), 2**8), 2),
    Row("R_RISCV_RVC_JUMP", 45, "c.j 0", True, (-(2**11), 2**11), 2),
    Row("R_RISCV_SUB6", 52, ONES),
    Row("R_RISCV_SET6", 53, ONES),
    Row("R_RISCV_SET8", 54, NO_WORD),
    Row("R_RISCV_SET16", 55, NO_WORD),
    Row("R_RISCV_SET32", 56, NO_WORD),
    Row("R_RISCV_32_PCREL", 57, ONES, True, SIGNED_32),
    Row("R_RISCV_PLT32", 59, ONES, True, SIGNED_32),
]
BY_NAME = {row.name: row for row in PSABI}
THREAD_LOCAL = ("R_RISCV_TLS", "R_RISCV_TPREL")
# What the tests of pairs, of GOT entries and of relaxation are about.
ELSEWHERE = {
    "R_RISCV_NONE": 0,
    "R_RISCV_GOT_HI20": 20,
    "R_RISCV_PCREL_LO12_I": 24,
    "R_RISCV_PCREL_LO12_S": 25,
    "R_RISCV_GOT32_PCREL": 41,
    "R_RISCV_ALIGN": 43,
    "R_RISCV_RELAX": 51,
    "R_RISCV_SET_ULEB128": 60,
    "R_RISCV_SUB_ULEB128": 61,
}


def fitting_values(row: Row) -> list[int]:
    # ld.lld checks SET32 as a signed number, though only what SUB32 leaves of it has to fit.
    low, high = row.interval or (SIGNED_32 if row.name == "R_RISCV_SET32" else (-(2**62), 2**62))
    step = row.step
    spread = [low + (high - low) * part // 17 // step * step for part in range(1, 17)]
    return (
        [low, low + step, *spread, 0, step, 0x7FE, 0x800, high - step] if high > 0x800 else [low, *spread, high - step]
    )


FITTING = [(row, value) for row in PSABI for value in fitting_values(row)]
PAST = [(row, value) for row in PSABI if row.interval for value in (row.interval[0] - row.step, row.interval[1])]
ODD = [(row, 1) for row in PSABI if row.step > 1]
CASES = {"fitting": FITTING, "past": PAST, "odd": ODD}


@cache
def object_of(name: str) -> bytes:
    """An object with a place for each case, whose symbol is named after its number."""
    lines = [".text", ".option rvc", ".globl start", "start:"]
    for number, (row, _) in enumerate(CASES[name]):
        lines += [".p2align 4", f".reloc ., {row.name}, t_{number}", row.content]
    return assembled("\n".join([*lines, ".p2align 4"]))


def symbol_values(cases: list[tuple[Row, int]]) -> dict[str, int]:
    """The addresses of the symbols with which each case has its value."""
    return {
        f"t_{number}": (value + (BASE + number * PLACE if row.relative else 0)) % 2**64
        for number, (row, value) in enumerate(cases)
    }


def applied(name: str, only: int | None = None) -> bytes:
    """Apply the fixups of an object at BASE, or one of them; nothing of the pipeline is in between."""
    graph = jitlink.read(object_of(name))
    [text] = [block for block in graph.blocks if block.section.name == ".text"]
    graph.blocks.address[text.row] = BASE
    values = symbol_values(CASES[name])
    for symbol in graph.symbols:
        graph.symbols.offset[symbol.row] = values.get(symbol.name, graph.symbols.offset[symbol.row])
    if only is not None:
        graph.edges.kind[graph.edges.target != graph.symbols[f"t_{only}"].row] = 0
    image = np.frombuffer(bytearray(text.content), np.uint8)
    positions = np.zeros(len(graph.blocks), np.int64)
    apply_fixups(graph, image, positions, graph.symbols.addresses(), 0, lambda kind, edge: "")
    return image.tobytes()


@pytest.fixture(scope="module")
def linked_by_lld(tmp_path_factory: pytest.TempPathFactory) -> ELFFile:
    """The fitting cases, linked by ld.lld."""
    return link_with_lld(
        tmp_path_factory.mktemp("kinds"),
        [object_of("fitting")],
        sections={".text": BASE},
        define=symbol_values(FITTING),
    )


def case_name(case: tuple[Row, int]) -> str:
    return f"{case[0].name}={case[1]:#x}"


@pytest.mark.parametrize("row", PSABI, ids=lambda row: row.name)
def test_a_kind_writes_what_lld_writes(row: Row, linked_by_lld: ELFFile) -> None:
    """For values over the whole interval, both ends included, our bytes are those of ld.lld."""
    ours, theirs = applied("fitting"), section_of(linked_by_lld, ".text")
    assert len(ours) == len(theirs)
    for number, (each, value) in enumerate(FITTING):
        if each == row:
            place = slice(number * PLACE, (number + 1) * PLACE)
            assert (hex(value), ours[place].hex()) == (hex(value), theirs[place].hex())


@pytest.mark.parametrize("number", range(len(PAST)), ids=[case_name(case) for case in PAST])
def test_the_first_value_past_an_interval_is_refused(number: int) -> None:
    """One step past either end is an OutOfRange that names the kind and the value."""
    row, value = PAST[number]
    with pytest.raises(OutOfRange) as raised:
        applied("past", only=number)
    assert (raised.value.kind, raised.value.values) == (row.name, [value])


def test_lld_refuses_the_same_values(tmp_path: Path) -> None:
    """What is past an interval of ours is past one of ld.lld's; but for R_RISCV_32, which it cuts off."""
    with pytest.raises(Refused) as raised:
        link_with_lld(tmp_path, [object_of("past")], sections={".text": BASE}, define=symbol_values(PAST))
    refused = {int(number) for number in re.findall(r"references 't_(\d+)'", str(raised.value))}
    assert refused == {number for number, (row, _) in enumerate(PAST) if row.lld_checks}


@pytest.mark.parametrize("number", range(len(ODD)), ids=[case_name(case) for case in ODD])
def test_an_odd_distance_is_refused(number: int) -> None:
    """No instruction starts at an odd address, so no branch goes there."""
    with pytest.raises(OutOfRange, match="not a multiple of 2"):
        applied("odd", only=number)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_all_that_meets_in_one_word_is_added_up(size: int) -> None:
    """Two labels added and three taken away, on top of what is set there: kinds that occur more than once."""
    graph = jitlink.new_graph("sums", "riscv64")
    data = graph.add_section(".data", jitlink.Protection.READ | jitlink.Protection.WRITE)
    block = graph.add_block(data, bytes(8) + b"\x55" * 8)
    labels = [graph.add_symbol(f"label{number}", block, number) for number in range(4)]
    first = f"R_RISCV_SET{size}" if size < 64 else "R_RISCV_64"
    for kind, label in (("SUB", 1), ("ADD", 3), ("SUB", 0), ("ADD", 2), ("SUB", 0)):
        graph.add_edge(block, 0, f"R_RISCV_{kind}{size}", labels[label], 5)
    graph.add_edge(block, 0, first, labels[0], 40)
    content = jitlink.link(graph, base=BASE).segments[0].content
    total = (0 + 40) + (3 + 5) + (2 + 5) - (1 + 5) - (0 + 5) - (0 + 5)
    assert content == total.to_bytes(size // 8, "little") + bytes(8 - size // 8) + b"\x55" * 8


def test_the_table_has_every_row_of_the_psabi() -> None:
    """Names and numbers are those of the psABI, and what the linker applies is what these tests are about."""
    ours = {kind.name: kind.number for kind in KINDS if kind.number >= 0 and not kind.reason}
    ours = {name: number for name, number in ours.items() if not name.startswith(THREAD_LOCAL)}
    assert ours == {row.name: row.number for row in PSABI} | ELSEWHERE
    numbers = [kind.number for kind in KINDS if kind.number >= 0]
    assert len(set(numbers)) == len(numbers)
    # 13 to 15 and 66 to 190 are reserved, and so is what GNU tools have used in between.
    assert sorted(numbers) == [*range(13), *range(16, 66), *range(191, 256)]


@pytest.mark.parametrize(
    ("check", "shown"),
    [
        (rounded(32), "[-2**31 - 2**11, 2**31 - 2**11)"),
        (rounded(18), "[-2**17 - 2**11, 2**17 - 2**11)"),
        (signed(13, align=2), "[-2**12, 2**12), multiple of 2"),
        (unsigned(8), "[0, 2**8)"),
        (Check(-5, 7), "[-2**2 - 2**0, 2**3 - 2**0)"),
        (Check(0, 0), "no check"),
    ],
)
def test_an_interval_is_shown_by_powers_of_two(check: Check, shown: str) -> None:
    """What an upper part holds ends 2 KiB before a power of two, since the lower part is signed."""
    assert str(check) == shown


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.reason], ids=lambda kind: kind.name)
def test_an_unsupported_kind_says_why(kind) -> None:
    """An object with one is refused with its name, its number and the reason."""
    graph = jitlink.new_graph("kinds", "riscv64")
    block = graph.add_block(graph.add_section(".text"), bytes(16))
    graph.add_edge(block, 0, kind.name, graph.add_symbol("target", block))
    with pytest.raises(UnsupportedRelocation) as raised:
        jitlink.link(graph, base=BASE)
    assert (raised.value.name, raised.value.number, raised.value.reason) == (kind.name, kind.number, kind.reason)


def test_an_unknown_number_is_refused() -> None:
    """A number that the psABI has reserved is named as such."""
    content = bytearray(assembled(".text\n.reloc ., R_RISCV_64, x\n.quad 0"))
    relocations = ELFFile(BytesIO(content)).get_section_by_name(".rela.text")
    assert relocations is not None
    struct.pack_into("<I", content, relocations["sh_offset"] + 8, 150)
    with pytest.raises(UnsupportedRelocation, match="no relocation of this number"):
        jitlink.read(bytes(content))


@pytest.mark.parametrize("row", [row for row in PSABI if row.relative or row.interval], ids=lambda row: row.name)
def test_a_field_reads_back_what_it_was_given(row: Row) -> None:
    """What goes into a field comes out of it again, without the bits that the field does not hold."""
    field = KINDS[KINDS.by_name[row.name]].field
    values = np.array([value for value in fitting_values(row) if value < 2**31], np.int64)
    image = np.zeros(16 * len(values), np.uint8)
    positions = np.arange(len(values)) * 16
    field.store(image, positions, values.view(np.uint64))
    held = -4096 if row.name.endswith("HI20") else -1
    rounding = 0x800 if row.name.endswith("HI20") else 0
    assert field.load(image, positions).tolist() == ((values + rounding) & held).tolist()


def test_a_field_leaves_the_other_bits_alone() -> None:
    """Opcode and registers of an instruction stay as they are: zero is written, ones are all around."""
    for row in PSABI:
        field = KINDS[KINDS.by_name[row.name]].field
        if not hasattr(field, "parts"):
            continue
        image = np.full(16, 0xFF, np.uint8)
        field.store(image, np.array([4]), np.zeros(1, np.uint64))
        word = int.from_bytes(image[4 : 4 + field.size].tobytes(), "little")
        filled = sum(part.mask for part in field.parts)
        assert word == ~filled & (1 << 8 * field.size) - 1
        assert np.delete(image, np.arange(4, 4 + field.size)).tolist() == [0xFF] * (16 - field.size)
