"""Unwind records of COFF live and die with the functions that they describe, and are checked for sanity."""

from __future__ import annotations

import struct

import pytest

import jitlink
from jitlink import MalformedInput
from tests import toolchain
from tests.coff.writer import AMD64, ANY, ARM64, ASSOCIATIVE, CODE, READ_ONLY, Object

BASE = 0x10000
ADDR32NB = {AMD64: 3, ARM64: 2}


def functions(machine: int, *, shared: bool) -> Object:
    """Two functions in sections of their own, with one table of records for both, or one each.

    Each record also refers to unwind information of its own, and that to a handler.
    """
    made = Object(machine=machine)
    kind, fields = ADDR32NB[machine], 3 if machine == AMD64 else 2
    texts = [made.section(".text", bytes(16), CODE) for _ in range(2)]
    rows = [made.symbol(name, section=text) for name, text in zip(("used", "unused"), texts, strict=True)]
    infos = [made.section(".xdata", bytes([1, 0, 0, 0, number, 0, 0, 0]), READ_ONLY) for number in range(2)]
    info_rows = [made.symbol(f"info_{number}", section=info) for number, info in enumerate(infos)]
    tables = [
        made.section(".pdata", bytes(4 * fields * (2 if shared else 1)), READ_ONLY) for _ in range(1 if shared else 2)
    ]
    for number, (row, info) in enumerate(zip(rows, info_rows, strict=True)):
        table, at = (tables[0], 4 * fields * number) if shared else (tables[number], 0)
        made.relocate(table, at, row, kind)
        if machine == AMD64:
            end = made.symbol(f"end_{number}", 16, texts[number])
            made.relocate(table, at + 4, end, kind)
        made.relocate(table, at + 4 * (fields - 1), info, kind)
    return made


def alive(image: jitlink.Image, section: str) -> list[bytes]:
    return [each.content for each in image.graph.blocks if each.live and each.section.name == section]


@pytest.mark.parametrize("machine", [AMD64, ARM64], ids=["x86-64", "ARM64"])
@pytest.mark.parametrize("shared", [True, False], ids=["one table", "a table each"])
def test_records_of_dropped_functions_are_dropped(machine, shared):
    """Dead strip drops the record and the unwind information of a dropped function, and keeps those of a kept one."""
    image = jitlink.link(functions(machine, shared=shared).write(), base=BASE, dead_strip=True, exports=["used"])
    assert len(alive(image, ".text")) == 1
    assert [content[4] for content in alive(image, ".xdata")] == [0]
    table = next(each for each in image.graph.blocks if each.live and each.section.name == ".pdata")
    words = struct.unpack(f"<{table.size // 4}I", image.read(table.address, table.size))
    fields = 3 if machine == AMD64 else 2
    info = next(each for each in image.graph.blocks if each.live and each.section.name == ".xdata")
    used = image.address_of("used") - BASE
    assert words[:fields] == (
        (used, used + 16, info.address - BASE) if machine == AMD64 else (used, info.address - BASE)
    )
    # The record of the dropped function is emptied where it shares a table.
    assert not any(words[fields:])
    assert len(alive(image, ".pdata")) == 1


@pytest.mark.parametrize("machine", [AMD64, ARM64], ids=["x86-64", "ARM64"])
def test_without_dead_strip_all_records_stay(machine):
    """A record keeps nothing and loses nothing where nothing is dropped."""
    image = jitlink.link(functions(machine, shared=True).write(), base=BASE)
    assert len(alive(image, ".text")) == len(alive(image, ".xdata")) == 2


def test_records_of_a_lost_copy_go_with_it():
    """The associative table of a COMDAT function that lost is dropped with it."""
    objects = []
    for mark in (1, 2):
        made = Object()
        text = made.comdat(".text", bytes([mark]) * 16, ANY, "f", flags=CODE)
        info = made.comdat(".xdata", bytes([mark]) * 4, ASSOCIATIVE, parent=text, flags=READ_ONLY)
        table = made.comdat(".pdata", bytes(12), ASSOCIATIVE, parent=text, flags=READ_ONLY)
        end = made.symbol("end", 16, text, storage=3)
        for offset, row in ((0, 2), (4, end), (8, 3)):
            made.relocate(table, offset, row, ADDR32NB[AMD64])
        assert info
        objects.append(made.write())
    image = jitlink.link(*objects, base=BASE)
    assert alive(image, ".xdata") == [b"\1" * 4]
    assert len(alive(image, ".pdata")) == 1


@pytest.mark.parametrize("target", ["x86_64-windows-gnu", "aarch64-windows-gnu"])
@pytest.mark.parametrize("flags", [("-O1",), ("-O1", "-ffunction-sections")], ids=["one section", "sections"])
def test_records_of_compiled_objects_are_in_order(target, flags):
    """What compilers write is found sound, and dead strip keeps as many records as functions need."""
    source = "int g(int); int f(int x) { return g(g(x)) + 1; } int h(int x) { return g(x) * g(x + 1); }"
    content = toolchain.zig_cc(source, *flags, "-funwind-tables", target=target)
    image = jitlink.link(content, base=BASE, define={"g": BASE + 0x100000}, dead_strip=True, exports=["f"])
    size = 12 if "x86_64" in target else 8
    records = b"".join(
        image.read(each.address, each.size)
        for each in image.graph.blocks
        if each.live and each.section.name.startswith(".pdata")
    )
    starts = [struct.unpack_from("<I", records, at)[0] for at in range(0, len(records), size)]
    assert image.address_of("f") - BASE in starts
    assert len(starts) == (1 if "-ffunction-sections" in flags else 2)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("short", "its records are not 12 bytes each"),
        ("crooked", "a relocation is not of a field of its records"),
        ("headless", "a record does not say which function it describes"),
        ("backwards", "a record describes a function that ends before it starts"),
        ("elsewhere", "a record describes a function that ends before it starts"),
    ],
)
def test_senseless_tables_are_refused(change, fault):
    """A table is made of records, and a record has a function with a start before its end."""
    made = functions(AMD64, shared=True)
    table = made.sections[-1]
    if change == "short":
        table.content, table.size = table.content + bytes(4), table.size + 4
    elif change == "crooked":
        table.relocations[0] = (2, *table.relocations[0][1:])
    elif change == "headless":
        del table.relocations[0]
    elif change == "backwards":
        table.content = struct.pack("<I", 32) + table.content[4:]
    else:
        table.relocations[1], table.relocations[4] = (
            (4, *table.relocations[4][1:]),
            (16, *table.relocations[1][1:]),
        )
    with pytest.raises(MalformedInput, match=fault):
        jitlink.link(made.write(), base=BASE, dead_strip=True, exports=["used"])
