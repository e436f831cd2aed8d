"""Every relocation kind of AArch64 writes what AAELF64 says, and refuses what does not fit."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from elftools.elf.elffile import ELFFile

import jitlink
from jitlink import LinkFailure, LinkGraph, OutOfRange, Protection, UnsupportedRelocation
from jitlink.arches import architecture
from jitlink.formulas import Kind
from tests.aarch64.aaelf64 import ROWS, Letters, Row
from tests.toolchain import assemble

BASE = 0x2345_6000
CODE = Protection.READ | Protection.EXECUTE
DATA = Protection.READ | Protection.WRITE
KINDS = [kind for kind in architecture("aarch64").kinds if kind.format == "elf" and kind.number >= 0]
UNSUPPORTED = [kind for kind in KINDS if kind.reason]
FILLER = 0x5A
FIELD_AT, BLOCK_SIZE = 8, 24
by_name = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def linked(row: Row, wanted: int | None = None) -> tuple[bytes, Letters]:
    """Link one edge of a kind; returns the block that it is in, and the letters.

    wanted: what the operation is to give, by an addend, or for an operation with a GOT entry and no addend
    by another address of that entry, both set when the layout is made: a branch then has no veneer.
    """
    graph = jitlink.new_graph("kinds", "aarch64")
    data = graph.add_section(".data", DATA)
    graph.add_block(data, b"something that goes before")
    target = graph.add_symbol("target", graph.add_block(data, bytes(0x40)), 0x10)
    text = graph.add_section(".text", CODE)
    content = bytearray([FILLER]) * BLOCK_SIZE
    if row.instruction is not None:
        struct.pack_into("<I", content, FIELD_AT, row.instruction)
    place = graph.add_block(text, bytes(content))
    graph.add_symbol("place", place)
    graph.add_edge(place, FIELD_AT, row.name, target)
    probe = graph.add_block(text, bytes(16))
    graph.add_edge(probe, 0, "R_AARCH64_MOVW_GOTOFF_G0_NC", target)
    graph.add_edge(probe, 8, "R_AARCH64_ABS64", graph.add_symbol("_GLOBAL_OFFSET_TABLE_"))
    found: list[Letters] = []

    def set_letters(graph: LinkGraph) -> None:
        entry = next(block for block in graph.blocks if block.section.name == ".got")
        symbol, here = graph.symbols["target"], graph.symbols["place"].address + FIELD_AT
        got = graph.symbols["_GLOBAL_OFFSET_TABLE_"].address
        letters = Letters(symbol.address, 0, here, got, entry.address)
        if wanted is not None:
            change = wanted - row.operation(letters)
            if row.made_for_got and row.name != "R_AARCH64_GOTPCREL32":
                letters = Letters(letters.S, 0, letters.P, got, entry.address + change)
                graph.blocks.address[entry.row] = letters.slot % 2**64
            else:
                rows = graph.edges.offset == FIELD_AT
                rows &= graph.edges.block == place
                graph.edges.addend[rows] = (change + 2**63) % 2**64 - 2**63
                letters = Letters(letters.S, change, letters.P, got, letters.slot)
        found.append(letters)

    image = jitlink.link(graph, base=BASE, passes={"post_allocation": [set_letters]})
    return image.read(image.address_of("place"), BLOCK_SIZE), found[0]


def field_of(block: bytes, row: Row) -> int:
    """The field as the ABI document and the instruction set have it."""
    return row.decode(int.from_bytes(block[FIELD_AT : FIELD_AT + row.size], "little"))


def values(row: Row) -> list[int]:
    """Some values that fit, with both ends of the interval."""
    low, high = row.interval or (-(2**62), 2**62)
    step = max(row.align, 4096 if "PG_HI21" in row.name or "GOT_PAGE" in row.name else 1)
    chosen = [low, high - step, 0, low // 3, high // 3, 0x123456 % high]
    return sorted({value // step * step for value in chosen})


def test_the_table_is_complete() -> None:
    """Every relocation of AAELF64 is in the table of this test, or is refused with a reason.

    Those of thread-local storage, from 512 to 573, have tests of their own.
    """
    others = {0, 256, *range(512, 574)}
    applied = {(kind.name, kind.number) for kind in KINDS if not kind.reason and kind.number not in others}
    assert applied == {(row.name, row.number) for row in ROWS}
    assert len({kind.number for kind in KINDS}) == len(KINDS)
    assert {*range(257, 281), *range(282, 294), *range(299, 318), *range(512, 574), *range(1024, 1033)} <= {
        kind.number for kind in KINDS
    }


@by_name
def test_a_kind_writes_its_value_into_its_field(row: Row) -> None:
    """The immediate holds the bits that AAELF64 selects, at both ends of the interval and between."""
    for value in values(row):
        block, letters = linked(row, value)
        assert row.operation(letters) == value
        assert field_of(block, row) == row.expected(value), hex(value)
        assert set(block[:FIELD_AT] + block[FIELD_AT + row.size :]) == {FILLER}


@by_name
def test_the_instruction_stays_the_one_that_it_was(row: Row) -> None:
    """Outside of the immediate no bit changes, but for the one that tells MOVN from MOVZ."""
    if row.instruction is None:
        return
    outside = ~immediate_bits(row) & 0xFFFF_FFFF
    for value in values(row):
        block, _ = linked(row, value)
        word = int.from_bytes(block[FIELD_AT : FIELD_AT + 4], "little")
        may_invert = "MOVW" in row.name and "UABS" not in row.name and not row.name.endswith("_NC")
        opcode = row.instruction & ~(1 << 30) if may_invert and value < 0 else row.instruction
        assert word & outside == opcode & outside, hex(value)


def immediate_bits(row: Row) -> int:
    """The bits of an instruction that its decoder looks at for the immediate."""
    if "MOVW" in row.name:
        return 0xFFFF << 5
    words = ((row.instruction or 0) ^ (1 << bit) for bit in range(32))
    changed = [row.decode(word) != row.decode(row.instruction or 0) for word in words]
    return sum(1 << bit for bit in range(32) if changed[bit])


@pytest.mark.parametrize("row", [row for row in ROWS if row.interval], ids=lambda row: row.name)
def test_one_past_each_end_is_refused(row: Row) -> None:
    """One step below and one above the interval raise OutOfRange with the place and the value."""
    assert row.interval is not None
    low, high = row.interval
    step = max(row.align, 4096 if "PG_HI21" in row.name or "GOT_PAGE" in row.name else 1)
    for value in (low - step, high):
        with pytest.raises(OutOfRange) as caught:
            linked(row, value)
        error = caught.value
        assert error.kind == row.name
        assert error.values == [value if low < 0 else value % 2**64]
        assert str(error.places[0]) == f"kinds: .text+{FIELD_AT:#x}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.align > 1], ids=lambda row: row.name)
def test_a_misaligned_value_is_refused(row: Row) -> None:
    """A value whose low bits the field cannot hold raises OutOfRange, also where overflow is not checked."""
    for value in (row.align // 2, row.align + 1, 3 * row.align - 1):
        with pytest.raises(OutOfRange, match=f"is not a multiple of {row.align}"):
            linked(row, value)


@pytest.mark.parametrize("row", [row for row in ROWS if row.interval is None], ids=lambda row: row.name)
def test_what_is_not_to_be_checked_takes_any_value(row: Row) -> None:
    """Relocations with _NC, and 64-bit data, diagnose no overflow."""
    for value in (-(2**63), 2**63 - row.align, 2**40 + 2**16):
        wanted = value // 4096 * 4096 if row.decode.__name__ == "adrp" else value
        block, _ = linked(row, wanted)
        assert field_of(block, row) == row.expected(wanted), hex(wanted)


@pytest.mark.parametrize("number", [0, 256])
def test_none_writes_nothing(number: int) -> None:
    """Relocation 0, and the withdrawn 256, which AAELF64 wants treated like it, leave everything as it is."""
    image = jitlink.link(object_with(number), base=BASE, define={"sym": 1})
    assert image.read(BASE, 9) == b"\0" * 9


def object_with(number: int) -> bytes:
    """An object whose only relocation has this number."""
    source = ".data\n.byte 0\n.reloc ., R_AARCH64_ABS64, sym\n.quad 0\n"
    content = bytearray(assemble(source, target="aarch64-linux-gnu"))
    section = ELFFile(BytesIO(bytes(content))).get_section_by_name(".rela.data")
    assert section is not None
    struct.pack_into("<I", content, section["sh_offset"] + 8, number)
    return bytes(content)


@pytest.mark.parametrize("kind", UNSUPPORTED, ids=lambda kind: kind.name)
def test_an_unsupported_kind_says_why(kind: Kind) -> None:
    """The error names the kind as its document does, its number, the place and the reason."""
    with pytest.raises(UnsupportedRelocation) as caught:
        jitlink.link(object_with(kind.number), base=BASE, define={"sym": 1})
    assert f"(bytes): .data+0x1: relocation {kind.name} ({kind.number}) is not supported: {kind.reason}" in str(
        caught.value
    )


@pytest.mark.parametrize("number", [30, 128, 255, 281, 294, 318, 574, 1023, 1050, 0xFFFF_FFFF])
def test_a_number_that_no_kind_has_is_refused(number: int) -> None:
    """A number that AAELF64 does not give out is named, and not taken for another."""
    with pytest.raises(UnsupportedRelocation, match=rf"\({number}\) is not supported: the ABI of aarch64 has no"):
        jitlink.link(object_with(number), base=BASE, define={"sym": 1})


@pytest.mark.parametrize(
    "name",
    [row.name for row in ROWS if row.made_for_got and row.name != "R_AARCH64_GOTPCREL32"],
)
def test_a_got_entry_has_no_addend(name: str) -> None:
    """GDAT(S) of AAELF64 has no addend, and linkers read one in different ways: it is refused."""
    graph = jitlink.new_graph("kinds", "aarch64")
    text = graph.add_section(".text", CODE)
    block = graph.add_block(text, bytes(8))
    graph.add_edge(block, 4, name, graph.add_symbol("data", block), 8)
    with pytest.raises(LinkFailure, match=rf"kinds: \.text\+0x4: {name} to data has the addend 0x8"):
        jitlink.link(graph, base=BASE)


def test_a_move_that_keeps_the_other_bits_stays_one() -> None:
    """A MOVK under a checked relocation of a group is not turned into a MOVZ, which would clear the register."""
    movk = next(row for row in ROWS if row.name == "R_AARCH64_MOVW_PREL_G1_NC").instruction
    checked = next(row for row in ROWS if row.name == "R_AARCH64_MOVW_PREL_G1")
    row = Row(checked.name, checked.number, checked.operation, checked.interval, 1, movk)
    for value in (0x12340000, -0x12340000):
        block, _ = linked(row, value)
        word = int.from_bytes(block[FIELD_AT : FIELD_AT + 4], "little")
        assert word >> 21 == (movk or 0) >> 21
        assert word >> 5 & 0xFFFF == value >> 16 & 0xFFFF
