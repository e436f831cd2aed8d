"""The COFF reader: what it makes of sections, symbols and relocations, against the specification and LIEF."""

from __future__ import annotations

import lief
import numpy as np
import pytest

import jitlink
from jitlink.graph import Definition, Lifetime, Linkage, LinkGraph, Purpose, Scope, SymbolKind
from tests import programs, toolchain
from tests.coff.writer import (
    ABSOLUTE,
    ARM64,
    CODE,
    DATA,
    EXTERNAL,
    FILE,
    FUNCTION,
    INFO,
    OVERFLOW,
    READ_ONLY,
    STATIC,
    ZEROES,
    Object,
)

TARGETS = ("x86_64-windows-gnu", "aarch64-windows-gnu")
SOURCES = ("linkage_a.c", "linkage_b.c")
FLAGS = (("-O0",), ("-O2", "-ffunction-sections", "-fdata-sections"), ("-O2", "-gdwarf-4"))
ADDR64, ADDR32NB, REL32 = 1, 3, 4


def compiled() -> list[tuple[str, str, tuple[str, ...]]]:
    return [(source, target, flags) for source in SOURCES for target in TARGETS for flags in FLAGS]


@pytest.mark.parametrize(("source", "target", "flags"), compiled(), ids=lambda value: str(value))
def test_compiled_objects_are_read_as_lief_reads_them(source, target, flags):
    """Sections, symbols and relocations of objects of zig are those that LIEF finds."""
    assert_as_lief(toolchain.zig_cc(programs.source(source), *flags, target=target))


def assert_as_lief(content: bytes) -> None:
    """Compare all that both readers say of an object."""
    theirs = lief.COFF.parse(list(content))
    assert theirs is not None
    graph = jitlink.read(content)
    sections = list(graph.sections)
    assert [each.name for each in sections] == [section_name(each) for each in theirs.sections]
    assert [each.blocks[0].size for each in sections] == [each.sizeof_raw_data for each in theirs.sections]
    for ours, its in zip(sections, theirs.sections, strict=True):
        if its.pointerto_raw_data:
            assert ours.blocks[0].content == bytes(its.content)
    ours_in_order = [each for each in graph.symbols if each.name]
    for one, other in zip(ours_in_order, theirs.symbols, strict=True):
        # LIEF does not look inside of strings, where tail-merged names start.
        assert other.name in (one.name, "")
        assert (one.scope == Scope.LOCAL) == (other.storage_class.name not in ("EXTERNAL", "WEAK_EXTERNAL"))
        if other.section_idx > 0:
            assert one.block is not None
            assert (one.block.row, one.offset) == (other.section_idx, other.value)
        elif other.section_idx == 0:
            assert one.definition == (Definition.COMMON if other.value else Definition.UNDEFINED)
            assert one.size == other.value
    ours_edges = [
        (edge.block.row, edge.offset, edge.kind.split(", ")[0].removeprefix("IMAGE_REL_"), edge.target.name)
        for edge in graph.edges
    ]
    its_edges = [
        (row, each.address, each.type.name, each.symbol.name)
        for row, section in enumerate(theirs.sections, 1)
        for each in section.relocations
        if each.symbol is not None
    ]
    for ours_edge, its_edge in zip(ours_edges, its_edges, strict=True):
        assert ours_edge[:3] == its_edge[:3]
        assert its_edge[3] in (ours_edge[3], "")


def section_name(section: lief.COFF.Section) -> str:
    """The name of a section, looked up where LIEF leaves the offset."""
    if section.coff_string is not None:
        return section.coff_string.string
    return str(section.name).rstrip("\0")


def small_object(**options) -> Object:
    made = Object(**options)
    text = made.section(".text", b"\xe8\0\0\0\0\xc3" + bytes(10), CODE, alignment=16)
    data = made.section("a_section_with_a_long_name", b"12345678" * 2, DATA, alignment=8)
    made.section(".bss", 24, ZEROES, alignment=4)
    f = made.symbol("f", section=text, type=FUNCTION)
    made.symbol("a_long_symbol_name", 8, data)
    called = made.symbol("exactly8")
    made.relocate(text, 1, called, REL32)
    made.relocate(data, 0, f, ADDR64)
    return made


def block_of(graph: LinkGraph, name: str) -> int:
    """The block that defines a symbol, by its row."""
    block = graph.symbols[name].block
    assert block is not None
    return block.row


@pytest.mark.parametrize("big", [False, True], ids=["ordinary", "bigobj"])
def test_both_forms_of_objects_are_read_alike(big):
    """An object of /bigobj says the same as an ordinary one."""
    content = small_object(big=big).write()
    graph = jitlink.read(content)
    assert [each.name for each in graph.sections] == [".text", "a_section_with_a_long_name", ".bss"]
    assert [each.blocks[0].alignment for each in graph.sections] == [16, 8, 4]
    assert [each.protection.letters for each in graph.sections] == ["r-x", "rw-", "rw-"]
    assert graph.sections[3].blocks[0].zero_fill
    assert [each.name for each in graph.symbols] == ["f", "a_long_symbol_name", "exactly8"]
    assert graph.symbols["f"].kind == SymbolKind.FUNCTION
    assert graph.symbols["a_long_symbol_name"].offset == 8
    assert [(each.kind, each.target.name) for each in graph.edges] == [
        ("IMAGE_REL_AMD64_REL32", "exactly8"),
        ("IMAGE_REL_AMD64_ADDR64", "f"),
    ]
    if not big:
        assert_as_lief(content)


def test_bigobj_has_more_sections_than_an_ordinary_object_can():
    """Section numbers beyond 16 bits are those of /bigobj, also of what associative sections go with."""
    made = Object(big=True)
    for number in range(70_000):
        made.section(".data", b"", DATA)
        if number % 10_000 == 9_999:
            made.symbol(f"in_{number}", section=number + 1)
    last = made.comdat(".data", b"12345678", 2, "last")
    made.comdat(".data", b"12345678", 5, parent=last)
    graph = jitlink.read(made.write())
    assert block_of(graph, "in_69999") == 70_000
    assert graph.blocks.follows[70_002] == 70_001


def test_section_numbers_of_ordinary_objects_are_unsigned():
    """The section number 0x8000 of an ordinary object is a section, and 0xffff an absolute symbol."""
    made = Object()
    for _ in range(0x8001):
        made.section("", b"", DATA)
    made.symbol("high", section=0x8000 - 0x10000)
    made.symbol("absolute", 7, ABSOLUTE)
    graph = jitlink.read(made.write())
    assert block_of(graph, "high") == 0x8000
    assert graph.symbols["absolute"].definition == Definition.ABSOLUTE


def test_section_names_in_base_64_are_read():
    """Behind two slashes an offset in the string table is in base 64 (A is 0, / is 63)."""
    made = small_object()
    offset = int(made.sections[1].name[1:])
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    digits = "".join(letters[offset >> shift & 63] for shift in range(30, -1, -6))
    made.sections[1].name = f"//{digits}".encode()
    assert jitlink.read(made.write()).sections[2].name == "a_section_with_a_long_name"


def test_auxiliary_records_are_no_symbols():
    """Auxiliary records keep their numbers and mean nothing else, whatever they look like."""
    made = Object()
    text = made.section(".text", bytes(8), CODE)
    # The name of a source file whose 18th letter would make the record a symbol with 97 further ones.
    made.symbol(".file", section=-2, storage=FILE, aux=b"x" * 17 + b"a" + b"y" * 18)
    f = made.symbol("f", section=text)
    made.relocate(text, 0, f, ADDR64)
    graph = jitlink.read(made.write())
    assert f == 3
    assert [each.name for each in graph.symbols if each.name] == [".file", "f"]
    assert graph.edges[1].target.name == "f"


def test_commons_have_the_size_of_their_value():
    """An external of no section is a common symbol as large as its value, aligned up to 32 bytes."""
    made = Object()
    for name, size in (("one", 1), ("five", 5), ("large", 4000)):
        made.symbol(name, size)
    graph = jitlink.read(made.write())
    found = {each.name: (each.definition, each.size, each.offset) for each in graph.symbols}
    common = Definition.COMMON
    assert found == {"one": (common, 1, 1), "five": (common, 5, 8), "large": (common, 4000, 32)}


def test_the_largest_common_of_a_name_is_placed():
    """Of several commons the largest is what the name gets; a definition goes before them."""
    made, other, third = Object(), Object(), Object()
    made.symbol("shared", 8)
    other.symbol("shared", 64)
    data = third.section(".data", b"abcd", DATA)
    third.symbol("shared", section=data)
    image = jitlink.link(made.write(), other.write(), base=0x10000)
    assert image.size >= 64
    assert image.graph.symbols.size[image.graph.symbols["shared"].row] == 64
    image = jitlink.link(made.write(), third.write(), base=0x10000)
    assert image.read(image.address_of("shared"), 4) == b"abcd"


def test_scopes_and_linkage_follow_storage_classes():
    """External symbols are seen by all, static ones by their object; a weak external is weak."""
    made = Object()
    data = made.section(".data", b"abcd", DATA)
    static = made.symbol("static", section=data, storage=STATIC)
    made.symbol("external", section=data, storage=EXTERNAL)
    made.weak("weak", static)
    graph = jitlink.read(made.write())
    assert graph.symbols["static"].scope == Scope.LOCAL
    assert graph.symbols["external"].scope == Scope.DEFAULT
    assert graph.symbols["weak"].linkage == Linkage.WEAK
    assert graph.symbols.alias[graph.symbols["weak"].row] == graph.symbols["static"].row


def test_more_relocations_than_a_header_counts_are_read():
    """With IMAGE_SCN_LNK_NRELOC_OVFL the first record holds the count, itself included."""
    made = Object()
    count = 0x1_0005
    data = made.section(".data", bytes(4 * count), DATA | OVERFLOW)
    target = made.symbol("target", section=data)
    for number in range(count):
        made.relocate(data, 4 * number, target, ADDR32NB)
    section = made.sections[0]
    section.relocations.insert(0, (count + 1, 0, 0))
    section.count = 0xFFFF
    graph = jitlink.read(made.write())
    assert len(graph.edges) == count + 1
    assert graph.edges.offset[1:].tolist() == list(range(0, 4 * count, 4))


@pytest.mark.parametrize(
    ("name", "purpose", "part_of_image"),
    [
        (".CRT$XIA", Purpose.PREINIT_ARRAY, True),
        (".CRT$XCU", Purpose.INIT_ARRAY, True),
        (".CRT$XCL00042", Purpose.INIT_ARRAY, True),
        (".CRT$XPX", Purpose.FINI_ARRAY, True),
        (".CRT$XTZ", Purpose.FINI_ARRAY, True),
        (".ctors.65000", Purpose.CTORS, True),
        (".dtors", Purpose.DTORS, True),
        (".pdata", Purpose.FUNCTION_TABLE, True),
        (".pdata$name_of_a_function", Purpose.FUNCTION_TABLE, True),
        (".xdata$x", Purpose.ORDINARY, True),
        (".text$mn", Purpose.ORDINARY, True),
        (".rdata$zzz", Purpose.ORDINARY, True),
        ("mine$b", Purpose.NAMED_SET, True),
        (".mine$with_a_long_suffix", Purpose.NAMED_SET, True),
        ("mine", Purpose.ORDINARY, True),
        (".tls$", Purpose.TLS, True),
        (".debug$S", Purpose.DEBUG, False),
        (".debug_info", Purpose.DEBUG, False),
        (".drectve", Purpose.ORDINARY, False),
        (".idata$5", Purpose.ORDINARY, False),
        (".gfids$y", Purpose.ORDINARY, False),
        (".textual", Purpose.ORDINARY, True),
    ],
)
def test_the_name_says_what_a_section_is_for(name, purpose, part_of_image):
    """A section of COFF is known by its name: what it is for, and whether it takes part in the image."""
    made = Object()
    made.section(name, bytes(16 * 3), READ_ONLY)
    section = jitlink.read(made.write()).sections[1]
    assert section.name == name
    assert section.purpose == purpose
    assert section.lifetime == (Lifetime.STANDARD if part_of_image else Lifetime.NO_ALLOC)


def test_a_batch_mixes_objects_of_both_forms():
    """Ordinary objects, /bigobj and import members of one archive are read into one graph."""
    members = {"a.obj": small_object(), "b.obj": small_object(big=True)}
    archive = toolchain.archive_of({name: made.write() for name, made in members.items()}, "coff")
    graph = jitlink.read(archive)
    assert len(graph.inputs) == 3
    assert [each.name for each in graph.symbols] == ["f", "a_long_symbol_name", "exactly8"] * 2
    assert np.bincount(graph.symbols.input).tolist() == [1, 3, 3]


def test_arm64_objects_are_for_another_machine():
    """An object for ARM64 is refused in a link for x86-64, by name."""
    made = Object(machine=ARM64)
    with pytest.raises(jitlink.UnsupportedInput, match="a COFF object for aarch64; this link is for x86_64"):
        jitlink.link(small_object().write(), made.write(), base=0x10000)


def test_sections_that_only_linkers_read_are_left_out():
    """With IMAGE_SCN_LNK_INFO or _LNK_REMOVE a section takes no part in the image."""
    made = Object()
    made.section(".note", b"abcd", READ_ONLY | INFO)
    made.section(".data", b"abcd", DATA)
    image = jitlink.link(made.write(), base=0x10000)
    assert len(image.segments) == 1
    assert image.segments[0].content.rstrip(b"\0") == b"abcd"
