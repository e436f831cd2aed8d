"""Every relocation kind of COFF writes what the PE specification says, and refuses what does not fit.

TABLE is the specification once more, computed with Python's integers. Then the same objects are linked by
lld-link, and the fields that it has filled are those that our kinds give at its addresses.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import lief
import numpy as np
import pytest

import jitlink
from jitlink import OutOfRange, Protection, UnsupportedRelocation
from jitlink.arches import architecture
from jitlink.graph import LinkGraph
from tests.coff.writer import ARM64, CODE, DATA, READ_ONLY, ZEROES, Object
from tests.toolchain import assemble

BASE = 0x2345_0000
TARGETS = {"x86_64": "x86_64-windows-msvc", "aarch64": "aarch64-windows-msvc"}

Formula = Callable[[int, int, int, int, int], int]
"""From S, A, P, the image base and the start of the section of S."""

X86_64: list[tuple[str, int, int, Formula, tuple[int, int] | None]] = [
    ("ADDR64", 1, 8, lambda s, a, p, base, section: s + a, None),
    ("ADDR32", 2, 4, lambda s, a, p, base, section: s + a, (0, 2**32)),
    ("ADDR32NB", 3, 4, lambda s, a, p, base, section: s + a - base, (0, 2**32)),
    *(
        (
            "REL32" + (f"_{more}" if more else ""),
            4 + more,
            4,
            lambda s, a, p, base, section, more=more: s + a - (p + 4 + more),
            (-(2**31), 2**31),
        )
        for more in range(6)
    ),
    ("SECREL", 11, 4, lambda s, a, p, base, section: s + a - section, (0, 2**32)),
    ("SECREL7", 12, 1, lambda s, a, p, base, section: s + a - section, (0, 2**7)),
]


def data_graph(kind: str, addend: int) -> tuple[LinkGraph, str]:
    """A graph with one edge of a kind at offset 4 of a block, to 0x10 of another one."""
    machine, name = ("x86_64", f"IMAGE_REL_AMD64_{kind}") if "ARM64" not in kind else ("aarch64", kind)
    graph = jitlink.new_graph("kinds", machine)
    data = graph.add_section(".data", Protection.READ | Protection.WRITE)
    graph.add_block(data, b"something that goes before")
    target = graph.add_symbol("target", graph.add_block(data, bytes(0x40)), 0x10)
    place = graph.add_block(graph.add_section(".rdata", Protection.READ), b"\x5a" * 16)
    graph.add_symbol("place", place)
    graph.add_edge(place, 4, name, target, addend)
    return graph, name


def linked(graph: LinkGraph) -> tuple[bytes, int, int, int]:
    """Link a graph; returns its place's bytes, S, P and the start of the section of S."""
    image = jitlink.link(graph, base=BASE)
    s, p = image.address_of("target"), image.address_of("place") + 4
    section = next(each.address for each in image.segments if each.address <= s < each.address + each.size)
    return image.read(p - 4, 16), s, p, section


@pytest.mark.parametrize(("name", "number", "size", "formula", "interval"), X86_64, ids=[row[0] for row in X86_64])
def test_a_field_gets_the_value_of_the_specification(name, number, size, formula, interval):
    """The field holds the value of its formula, and the bytes around it stay."""
    graph, full_name = data_graph(name, 3)
    content, s, p, section = linked(graph)
    value = formula(s, 3, p, BASE, section)
    expected = value.to_bytes(8, "little", signed=value < 0)[:size]
    if name == "SECREL7":
        # Only seven bits of the byte are the field.
        expected = bytes([value | 0x5A & 0x80])
    assert content == b"\x5a" * 4 + expected + b"\x5a" * (12 - size)
    kind = architecture("x86_64").kinds[graph.target.kind_number(full_name)]
    assert (kind.number, kind.format) == (number, "coff")


CHECKED = [row for row in X86_64 if row[4] is not None]


@pytest.mark.parametrize(("name", "number", "size", "formula", "interval"), CHECKED, ids=[row[0] for row in CHECKED])
@pytest.mark.parametrize("end", [0, 1], ids=["lowest", "highest"])
def test_the_ends_of_the_range_fit_and_one_past_does_not(name, number, size, formula, interval, end):
    """The lowest and the highest value that a field holds are written, and one step further is OutOfRange."""
    graph, _ = data_graph(name, 0)
    _, s, p, section = linked(graph)
    wanted = interval[1] - 1 if end else interval[0]
    addend = wanted - formula(s, 0, p, BASE, section)
    graph, _ = data_graph(name, addend)
    # Absolute addresses in 32 bits ask for a place below 2 GiB, which the base has decided here.
    content, *_ = linked(with_base(graph))
    assert int.from_bytes(content[4 : 4 + size], "little") & (1 << size * 8 - (name == "SECREL7")) - 1 == wanted % (
        1 << size * 8
    )
    graph, _ = data_graph(name, addend + (1 if end else -1))
    with pytest.raises(OutOfRange) as error:
        linked(with_base(graph))
    assert error.value.kind == f"IMAGE_REL_AMD64_{name}"


def with_base(graph: LinkGraph) -> LinkGraph:
    """The same graph as one of a COFF object: relative addresses count from the image."""
    graph.format = "coff"
    return graph


def test_relative_addresses_count_from_the_image_base():
    """ADDR32NB and __ImageBase agree: the address of a symbol is the sum of both."""
    made = Object()
    data = made.section(".data", bytes(16), DATA)
    made.relocate(data, 0, made.symbol("there", 12, data), 3)
    made.relocate(data, 8, made.symbol("__ImageBase"), 1)
    made.symbol("place", section=data)
    image = jitlink.link(made.write(), base=BASE)
    relative, base = struct.unpack("<I4xQ", image.read(image.address_of("place"), 16))
    assert base == BASE
    assert base + relative == image.address_of("there")


def test_the_number_of_a_section_and_the_offset_in_it_give_the_address():
    """SECTION counts the segments of the image from 1, and SECREL from the start of that one."""
    made = Object()
    made.section(".text", b"\xc3" * 40, CODE)
    data = made.section(".data", bytes(18), DATA)
    made.section(".rdata", bytes(24), READ_ONLY)
    for number in (1, 2, 3):
        there = made.symbol(f"in_{number}", 5, number)
        made.relocate(data, 6 * (number - 1), there, 10)
        made.relocate(data, 6 * (number - 1) + 2, there, 11)
    made.symbol("table", section=data)
    image = jitlink.link(made.write(), base=BASE)
    table = image.address_of("table")
    for number in (1, 2, 3):
        segment, offset = struct.unpack("<HI", image.read(table + 6 * (number - 1), 6))
        assert image.segments[segment - 1].address + offset == image.address_of(f"in_{number}")


@pytest.mark.parametrize("name", ["TOKEN", "SREL32", "PAIR", "SSPAN32"])
def test_an_unsupported_relocation_names_itself(name):
    """A relocation that is not applied is refused with its name, its number and its place."""
    numbers = {"TOKEN": 13, "SREL32": 14, "PAIR": 15, "SSPAN32": 16}
    made = Object()
    data = made.section(".data", bytes(8), DATA)
    made.relocate(data, 4, made.symbol("x"), numbers[name])
    with pytest.raises(UnsupportedRelocation, match=rf"\.data\+0x4: relocation IMAGE_REL_AMD64_{name}") as error:
        jitlink.read(made.write())
    assert error.value.number == numbers[name]


def test_an_unknown_relocation_is_refused():
    """A number that the specification does not have is refused, with the number."""
    made = Object()
    data = made.section(".data", bytes(8), DATA)
    made.relocate(data, 0, made.symbol("x"), 0x1234)
    with pytest.raises(UnsupportedRelocation, match="of unknown type"):
        jitlink.read(made.write())


def test_absolute_relocations_do_nothing():
    """IMAGE_REL_AMD64_ABSOLUTE and that of ARM64 leave the bytes as they are."""
    for machine in (0x8664, ARM64):
        made = Object(machine=machine)
        data = made.section(".data", b"12345678", DATA)
        made.symbol("place", section=data)
        made.relocate(data, 0, made.symbol("nowhere"), 0)
        made.sections[0].relocations = [(0, 0, 0)]
        image = jitlink.link(made.write(), base=BASE)
        assert image.read(image.address_of("place"), 8) == b"12345678"


# The addend is what the field holds

X86_64_ASSEMBLY = """
    .text
    .globl entry
entry:
    callq function
    leaq table-4(%rip), %rax
    movl $5, table(%rip)
    movb $5, table+3(%rip)
    movw $5, table+70(%rip)
    movabsq $table+16, %rax
    jne function
    retq
    .p2align 4
    .globl function
function:
    retq
    .section .rdata,"dr"
    .fill 24, 1, 0x11
    .globl constant
constant:
    .quad entry, function+3, table-8
    .rva function, function+8, constant
    .secrel32 table
    .secidx table
    .secidx constant
    .secrel32 constant
    .data
    .fill 40, 1, 0x22
    .globl table
table:
    .quad entry
    .fill 80, 1, 0x33
"""
ARM64_ASSEMBLY = """
    .text
    .globl entry
entry:
    bl function
    b function
    adrp x0, table
    adrp x0, table-4
    adrp x0, table+20000
    adr x0, function
    adr x0, entry-4
    add x0, x0, :lo12:table+8
    ldr x0, [x0, :lo12:table+8]
    ldr w0, [x0, :lo12:table+8]
    ldrh w0, [x0, :lo12:table+6]
    ldrb w0, [x0, :lo12:table+1]
    ldr q0, [x0, :lo12:aligned+16]
    ldr d0, [x0, :lo12:table]
    str s0, [x0, :lo12:table+4]
    ldr x0, [x0, :lo12:aligned+8192]
    cbz x0, function
    b.eq function
    tbz x0, #3, function
    add x0, x0, :secrel_hi12:table
    add x0, x0, :secrel_lo12:table
    ldr x0, [x0, :secrel_lo12:table]
    ret
    .p2align 4
    .globl function
function:
    ret
    .section .rdata,"dr"
    .fill 24, 1, 0x11
    .globl constant
constant:
    .quad entry, function+4, table-8
    .rva function, function+8, constant
    .secrel32 table
    .secidx table
    .secidx constant
    .word entry - .
    .data
    .p2align 4
    .globl aligned
aligned:
    .fill 48, 1, 0x22
    .globl table
table:
    .quad entry
    .fill 16000, 1, 0x33
"""


def instructions_with_immediates() -> bytes:
    """An object with the relative relocations that no assembler of LLVM writes, each with an addend."""
    made = Object()
    text = made.section(".text", struct.pack("<I", 8) * 6 + b"\xc3", CODE)
    data = made.section(".data", bytes(64), DATA)
    made.symbol("entry", section=text)
    target = made.symbol("target", 24, data)
    for more in range(6):
        made.relocate(text, 4 * more, target, 4 + more)
    return made.write()


OBJECTS = {
    "x86_64": lambda: assemble(X86_64_ASSEMBLY, target=TARGETS["x86_64"]),
    "aarch64": lambda: assemble(ARM64_ASSEMBLY, target=TARGETS["aarch64"]),
    "x86_64, immediates": instructions_with_immediates,
}


@pytest.mark.needs("lld-link")
@pytest.mark.parametrize("name", OBJECTS)
def test_fields_are_as_lld_link_fills_them(name, tmp_path):
    """At the addresses that lld-link has chosen, our formulas and fields give the bytes that it has written."""
    content, machine = OBJECTS[name](), name.partition(",")[0]
    binary = linked_by_lld(content, machine, tmp_path)
    base = binary.optional_header.imagebase
    graph = jitlink.read(content)
    placed = {each.name: (number, base + each.virtual_address) for number, each in enumerate(binary.sections, 1)}
    kinds = architecture(machine).kinds
    seen = set()
    for block in list(graph.blocks):
        if not block.edges:
            continue
        number, start = placed[block.section.name]
        expected = bytes(binary.sections[number - 1].content)[: block.size]
        ours = np.frombuffer(block.content + bytes(16), np.uint8).copy()
        for edge in block.edges:
            kind = kinds[graph.edges.kind[edge.row]]
            assert edge.target.block is not None
            section, its_start = placed[edge.target.block.section.name]
            letters = {
                "S": its_start + edge.target.offset,
                "A": edge.addend,
                "P": start + edge.offset,
                "ImageBase": base,
                "SectionStart": its_start,
                "SectionNumber": section,
            }
            columns = {name: np.array([value % 2**64], np.uint64) for name, value in letters.items()}
            value = kind.value.of(columns)
            bad = kind.check.bad(value)
            assert bad is None or not bad.any()
            kind.field.store(ours, np.array([edge.offset]), value)
            seen.add(edge.kind.split(",")[0])
        assert ours[: block.size].tobytes() == expected
    assert len(seen) >= 5


def linked_by_lld(content: bytes, machine: str, directory: Path) -> lief.PE.Binary:
    """Link an object to a DLL with lld-link."""
    source, made = directory / "a.obj", directory / "a.dll"
    source.write_bytes(content)
    arch = {"x86_64": "x64", "aarch64": "arm64"}[machine]
    options = ["/dll", "/noentry", f"/machine:{arch}", "/base:0x180000000", "/export:entry", "/opt:noref"]
    subprocess.run(["lld-link", *options, source, f"/out:{made}"], check=True, capture_output=True)
    binary = lief.PE.parse(str(made))
    assert binary is not None
    return binary


# ARM64, whose fields are instructions: value, and the bits of the word that hold it

ARM64_FIELDS = {
    "ADDR32": (2**32, 0, lambda v: v),
    "ADDR32NB": (2**32, 0, lambda v: v),
    "BRANCH26": (2**27, -(2**27), lambda v: v >> 2 & 0x3FF_FFFF),
    "BRANCH19": (2**20, -(2**20), lambda v: (v >> 2 & 0x7_FFFF) << 5),
    "BRANCH14": (2**15, -(2**15), lambda v: (v >> 2 & 0x3FFF) << 5),
    "REL21": (2**20, -(2**20), lambda v: (v & 3) << 29 | (v >> 2 & 0x7_FFFF) << 5),
    "PAGEBASE_REL21": (2**32, -(2**32), lambda v: (v >> 12 & 3) << 29 | (v >> 14 & 0x7_FFFF) << 5),
    "SECREL": (2**32, 0, lambda v: v),
    "SECREL_HIGH12A": (2**24, 0, lambda v: (v >> 12 & 0xFFF) << 10),
    "REL32": (2**31, -(2**31), lambda v: v),
    "SECTION": (2**16, 0, lambda v: v),
}
STEP = {"BRANCH26": 4, "BRANCH19": 4, "BRANCH14": 4}


@pytest.mark.parametrize("name", ARM64_FIELDS)
def test_arm64_fields_hold_the_ends_of_their_ranges(name):
    """The lowest and highest values fit and are where the instruction has them; one step past does not."""
    past, low, bits = ARM64_FIELDS[name]
    step = STEP.get(name, 1)
    kind = architecture("aarch64").kinds[architecture("aarch64").kind_number(f"IMAGE_REL_ARM64_{name}")]
    fits = np.array([low % 2**64, past - step], np.uint64)
    assert not kind.check.bad(fits).any()
    wrong = [past] if not low else [past, (low - step) % 2**64]
    assert kind.check.bad(np.array(wrong, np.uint64)).all()
    size = kind.field.size
    for value in (low, past - step):
        word = np.zeros(size, np.uint8)
        kind.field.store(word, np.array([0]), np.array([value % 2**64], np.uint64))
        assert int.from_bytes(word.tobytes(), "little") == bits(value) % (1 << 8 * size)


@pytest.mark.parametrize(
    ("scale", "word"), [(0, 0x39400000), (1, 0x79400000), (2, 0xB9400000), (3, 0xF9400000), (4, 0x3DC00000)]
)
@pytest.mark.parametrize("name", ["PAGEOFFSET_12L", "SECREL_LOW12L"])
def test_arm64_loads_count_in_what_they_move(scale, word, name):
    """The offset of a load of 1, 2, 4, 8 or 16 bytes is scaled by that; a misaligned address is refused."""
    number = {"PAGEOFFSET_12L": 7, "SECREL_LOW12L": 11}[name]
    size = 1 << scale

    def link(offset: int, addend: int) -> int:
        made = Object(machine=ARM64)
        text = made.section(".text", struct.pack("<I", word | addend << 10), CODE)
        data = made.section(".data", bytes(64), DATA, alignment=16)
        made.relocate(text, 0, made.symbol("target", offset, data), number)
        made.symbol("code", section=text)
        image = jitlink.link(made.write(), base=BASE)
        found = int.from_bytes(image.read(image.address_of("code"), 4), "little")
        target = image.address_of("target") + addend * size
        assert found >> 10 & 0xFFF == (target & 0xFFF) >> scale
        return found

    assert link(0, 1) & ~(0xFFF << 10) == word
    # An addend beyond the page leaves no bits behind.
    link(16, 0x800)
    if size > 1:
        with pytest.raises(OutOfRange, match=f"is not a multiple of {size}"):
            link(1, 0)


def test_arm64_pages_take_addends_in_bytes():
    """The immediate of an ADRP is an addend of bytes before it is a distance of pages (lld does so too)."""
    made = Object(machine=ARM64)
    # adrp x0, #0x1ffc as its assembler writes it: immlo is bits 30 and 29, immhi bits 23 to 5.
    text = made.section(".text", struct.pack("<I", 0x90000000 | (0x1FFC >> 2) << 5), CODE)
    data = made.section(".data", bytes(64), DATA, alignment=16)
    made.relocate(text, 0, made.symbol("target", 8, data), 4)
    made.symbol("code", section=text)
    image = jitlink.link(made.write(), base=BASE)
    code, target = image.address_of("code"), image.address_of("target")
    pages = ((target + 0x1FFC) >> 12) - (code >> 12)
    found = int.from_bytes(image.read(code, 4), "little")
    assert (found >> 29 & 3 | (found >> 5 & 0x7FFFF) << 2) == pages


def test_a_relocation_of_zeroes_is_refused():
    """Zero-fill has no bytes to relocate."""
    made = Object()
    bss = made.section(".bss", 16, ZEROES)
    made.relocate(bss, 0, made.symbol("x"), 1)
    with pytest.raises(jitlink.MalformedInput, match="a relocation relocates a section without content"):
        jitlink.read(made.write())


def test_a_far_call_goes_through_a_stub_and_far_data_is_refused():
    """A call of something out of reach goes through a stub; a 32-bit reference to far data names what to do."""
    source = "    .text\n    .globl f\nf: callq far\n    retq\n"
    image = jitlink.link(assemble(source, target=TARGETS["x86_64"]), base=BASE, define={"far": 0x7FFF_0000_0000})
    code = image.read(image.address_of("f"), 5)
    stub = image.address_of("f") + 5 + int.from_bytes(code[1:], "little", signed=True)
    assert image.read(stub, 2) == b"\xff\x25"
    with pytest.raises(OutOfRange):
        jitlink.link(
            assemble("f: movl far(%rip), %eax\n", target=TARGETS["x86_64"]), base=BASE, define={"far": 0x7FFF_0000_0000}
        )
