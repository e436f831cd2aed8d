"""Every relocation kind of x86-64 writes what the psABI's table says, and refuses what does not fit.

PSABI below is table 4.9 of the x86-64 psABI (version 1.0) once more, transcribed for the tests and
computed with Python's integers. The same objects are given to ld.lld and GNU ld where these are
installed, at the addresses that the image has, and the bytes are compared.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import jitlink
from jitlink import OutOfRange, Protection, UnsupportedRelocation
from jitlink.arches import architecture
from jitlink.formulas import Kind, Through
from jitlink.graph import LinkGraph
from tests.toolchain import assemble, needs

BASE = 0x2345_6000
CODE = Protection.READ | Protection.EXECUTE
DATA = Protection.READ | Protection.WRITE
KINDS = [kind for kind in architecture("x86_64").kinds if kind.format == "elf"]
FILLER = 0x5A
"""The byte around a field: no opcode that a relaxation looks for."""
FIELD_AT = 3
"""Where the field starts in its block: at no alignment."""
BLOCK_SIZE = 16
SIZE_OF_TARGET = 0x30


@dataclass(frozen=True)
class Letters:
    """The letters of the psABI's formulas, as Python integers."""

    S: int
    A: int
    P: int
    GOT: int
    slot: int
    Z: int

    @property
    def G(self) -> int:  # noqa: N802 - the letter is the psABI's
        return self.slot - self.GOT

    @property
    def L(self) -> int:  # noqa: N802
        return self.S


Formula = Callable[[Letters], int]
SIGNED_8, SIGNED_16, SIGNED_32 = (-(2**7), 2**7), (-(2**15), 2**15), (-(2**31), 2**31)
UNSIGNED_32, EITHER_8, EITHER_16, EITHER_32 = (0, 2**32), (-(2**7), 2**8), (-(2**15), 2**16), (-(2**31), 2**32)

# Name, bytes of the field, value, and the half-open interval of values that the field may be given.
PSABI: list[tuple[str, int, Formula, tuple[int, int] | None]] = [
    ("R_X86_64_64", 8, lambda v: v.S + v.A, None),
    ("R_X86_64_PC32", 4, lambda v: v.S + v.A - v.P, SIGNED_32),
    ("R_X86_64_GOT32", 4, lambda v: v.G + v.A, SIGNED_32),
    ("R_X86_64_PLT32", 4, lambda v: v.L + v.A - v.P, SIGNED_32),
    ("R_X86_64_GOTPCREL", 4, lambda v: v.G + v.GOT + v.A - v.P, SIGNED_32),
    ("R_X86_64_32", 4, lambda v: v.S + v.A, UNSIGNED_32),
    ("R_X86_64_32S", 4, lambda v: v.S + v.A, SIGNED_32),
    ("R_X86_64_16", 2, lambda v: v.S + v.A, EITHER_16),
    ("R_X86_64_PC16", 2, lambda v: v.S + v.A - v.P, SIGNED_16),
    ("R_X86_64_8", 1, lambda v: v.S + v.A, EITHER_8),
    ("R_X86_64_PC8", 1, lambda v: v.S + v.A - v.P, SIGNED_8),
    ("R_X86_64_PC64", 8, lambda v: v.S + v.A - v.P, None),
    ("R_X86_64_GOTOFF64", 8, lambda v: v.S + v.A - v.GOT, None),
    ("R_X86_64_GOTPC32", 4, lambda v: v.GOT + v.A - v.P, SIGNED_32),
    ("R_X86_64_GOT64", 8, lambda v: v.G + v.A, None),
    ("R_X86_64_GOTPCREL64", 8, lambda v: v.G + v.GOT - v.P + v.A, None),
    ("R_X86_64_GOTPC64", 8, lambda v: v.GOT - v.P + v.A, None),
    ("R_X86_64_GOTPLT64", 8, lambda v: v.G + v.A, None),
    ("R_X86_64_PLTOFF64", 8, lambda v: v.L - v.GOT + v.A, None),
    ("R_X86_64_SIZE32", 4, lambda v: v.Z + v.A, EITHER_32),
    ("R_X86_64_SIZE64", 8, lambda v: v.Z + v.A, None),
    ("R_X86_64_PC32_BND", 4, lambda v: v.S + v.A - v.P, SIGNED_32),
    ("R_X86_64_PLT32_BND", 4, lambda v: v.L + v.A - v.P, SIGNED_32),
    ("R_X86_64_GOTPCRELX", 4, lambda v: v.G + v.GOT + v.A - v.P, SIGNED_32),
    ("R_X86_64_REX_GOTPCRELX", 4, lambda v: v.G + v.GOT + v.A - v.P, SIGNED_32),
    ("R_X86_64_CODE_4_GOTPCRELX", 4, lambda v: v.G + v.GOT + v.A - v.P, SIGNED_32),
    ("R_X86_64_CODE_5_GOTPCRELX", 4, lambda v: v.G + v.GOT + v.A - v.P, SIGNED_32),
    ("R_X86_64_CODE_6_GOTPCRELX", 4, lambda v: v.G + v.GOT + v.A - v.P, SIGNED_32),
]
CHECKED = [row for row in PSABI if row[3] is not None]
UNSUPPORTED = [kind for kind in KINDS if kind.reason]


def by_name(row: object) -> str | None:
    return row if isinstance(row, str) else None


def linked(kind: str, addend: int) -> tuple[bytes, Letters]:
    """Link one edge of a kind to a datum; returns its block in the image, and the letters.

    The datum's GOT entry is there in any case: another edge, which comes later, asks for it.
    """
    graph = jitlink.new_graph("kinds", "x86_64")
    data = graph.add_section(".data", DATA)
    graph.add_block(data, b"something that goes before")
    target = graph.add_symbol("target", graph.add_block(data, bytes(0x40)), 0x10, size=SIZE_OF_TARGET)
    text = graph.add_section(".text", CODE)
    place = graph.add_block(text, bytes([FILLER]) * BLOCK_SIZE)
    graph.add_symbol("place", place)
    graph.add_edge(place, FIELD_AT, kind, target, addend)
    probe = graph.add_block(text, bytes(16))
    graph.add_symbol("probe", probe)
    graph.add_edge(probe, 0, "R_X86_64_GOTPCREL64", target)
    graph.add_edge(probe, 8, "R_X86_64_64", graph.add_symbol("_GLOBAL_OFFSET_TABLE_"))
    image = jitlink.link(graph, base=BASE)
    distance, got = struct.unpack("<qQ", image.read(image.address_of("probe"), 16))
    slot = image.address_of("probe") + distance
    at = image.address_of("place")
    letters = Letters(image.address_of("target"), addend, at + FIELD_AT, got, slot, SIZE_OF_TARGET)
    assert int.from_bytes(image.read(slot, 8), "little") == letters.S
    return image.read(at, BLOCK_SIZE), letters


def addend_for(formula: Formula, value: int) -> int:
    """The addend that gives the formula a value: all formulas have A as one of their terms.

    The other letters are those of a link in which a kind without a check stands at the same place.
    """
    _, letters = linked("R_X86_64_64", 0)
    return value - formula(letters)


def in_field(block: bytes, size: int) -> int:
    return int.from_bytes(block[FIELD_AT : FIELD_AT + size], "little")


def test_the_table_is_complete() -> None:
    """Every kind is in the table of this test, or of thread-locals (tests/thread_locals), or has a reason."""
    named = {kind.name for kind in KINDS if kind.number > 0 and not kind.access}
    assert named == {row[0] for row in PSABI} | {kind.name for kind in UNSUPPORTED}


@pytest.mark.parametrize(("name", "size", "formula", "interval"), PSABI, ids=by_name)
def test_a_kind_writes_its_value_into_its_field(
    name: str, size: int, formula: Formula, interval: tuple[int, int] | None
) -> None:
    """The field holds the low bits of the formula, and every byte beside the field is as it was."""
    low, high = interval or (-(2**62), 2**62)
    for wanted in (0, 1, 0x57, low // 3, high // 3):
        addend = addend_for(formula, wanted)
        block, letters = linked(name, addend)
        assert formula(letters) == wanted
        assert in_field(block, size) == wanted % 2 ** (8 * size)
        assert set(block[:FIELD_AT] + block[FIELD_AT + size :]) == {FILLER}


@pytest.mark.parametrize(("name", "size", "formula", "interval"), CHECKED, ids=by_name)
def test_both_ends_of_the_range_fit(name: str, size: int, formula: Formula, interval: tuple[int, int]) -> None:
    """The lowest and the highest value that the field can hold are written."""
    for value in (interval[0], interval[1] - 1):
        block, _ = linked(name, addend_for(formula, value))
        assert in_field(block, size) == value % 2 ** (8 * size)


@pytest.mark.parametrize(("name", "size", "formula", "interval"), CHECKED, ids=by_name)
def test_one_past_each_end_is_refused(name: str, size: int, formula: Formula, interval: tuple[int, int]) -> None:
    """One step below and one above the range raise OutOfRange with the place, the target and the value."""
    for value in (interval[0] - 1, interval[1]):
        addend = addend_for(formula, value)
        with pytest.raises(OutOfRange) as caught:
            linked(name, addend)
        error = caught.value
        assert error.kind == name
        assert error.values == [value if interval[0] < 0 else value % 2**64]
        assert str(error.places[0]) == f"kinds: .text+{FIELD_AT:#x}"
        assert f"{error.formula} = " in str(error)


@pytest.mark.parametrize("name", [row[0] for row in PSABI if row[3] is None])
def test_a_field_of_64_bits_takes_any_value(name: str) -> None:
    """Sums are modulo 2**64, so that no addend is out of range."""
    formula = next(row[2] for row in PSABI if row[0] == name)
    for addend in (2**63 - 1, -(2**63)):
        block, letters = linked(name, addend)
        assert in_field(block, 8) == formula(letters) % 2**64


def test_none_writes_nothing() -> None:
    """R_X86_64_NONE leaves the block as it is."""
    block, _ = linked("R_X86_64_NONE", 0x1234)
    assert set(block) == {FILLER}


# Unsupported kinds


def object_with(number: int) -> bytes:
    """An object whose only relocation has this number."""
    content = bytearray(assemble(".data\n.byte 0\n.reloc ., R_X86_64_64, sym\n.quad 0\n"))
    section = ELFFile(BytesIO(bytes(content))).get_section_by_name(".rela.data")
    assert section is not None
    struct.pack_into("<I", content, section["sh_offset"] + 8, number)
    return bytes(content)


@pytest.mark.parametrize("kind", UNSUPPORTED, ids=lambda kind: kind.name)
def test_an_unsupported_kind_says_why(kind: Kind) -> None:
    """The error names the kind as the psABI does, its number, the place and the reason."""
    with pytest.raises(UnsupportedRelocation) as caught:
        jitlink.link(object_with(kind.number), base=BASE, define={"sym": 1})
    text = str(caught.value)
    assert (caught.value.name, caught.value.number) == (kind.name, kind.number)
    assert f"(bytes): .data+0x1: relocation {kind.name} ({kind.number}) is not supported: {kind.reason}" in text


@pytest.mark.parametrize("number", [52, 249, 252, 0x10000, 0xFFFF_FFFF])
def test_a_number_that_no_kind_has_is_refused(number: int) -> None:
    """A number that the psABI does not give out is named, and not taken for another."""
    with pytest.raises(UnsupportedRelocation, match=rf"\({number}\) is not supported: the ABI of x86_64 has no"):
        jitlink.link(object_with(number), base=BASE, define={"sym": 1})


def test_an_unsupported_kind_in_a_graph_by_hand_is_refused() -> None:
    """A graph that was not read from an object is held to the same table."""
    graph = jitlink.new_graph("kinds", "x86_64")
    block = graph.add_block(graph.add_section(".data", DATA), bytes(8))
    graph.add_edge(block, 0, "R_X86_64_COPY", graph.add_symbol("here", block))
    with pytest.raises(UnsupportedRelocation, match=r"kinds: \.data\+0x0: relocation R_X86_64_COPY \(5\)"):
        jitlink.link(graph, base=BASE)


# The same object, linked by static linkers at the same addresses

SAME_BYTES = """
    .text
    .globl start, far_function
start:
    .byte 0xe8
    .reloc ., R_X86_64_PC32, far_function-4
    .long 0
    call far_function@PLT
    movq datum@GOTPCREL(%rip), %rax
    movl datum@GOTPCREL(%rip), %ecx
    movq datum@GOTPCREL(%rip), %r15
    call *far_function@GOTPCREL(%rip)
    jmp *far_function@GOTPCREL(%rip)
    cmpq $5, held@GOTPCREL(%rip)
    leaq datum+3(%rip), %rdx
    movabsq $datum+7, %rsi
    movl $datum+1, %edi
    movq $datum-5, %rbx
    movb $small, %al
    movw $small+0x400, %ax
    jmp 1f
    .space 100, 0x90
1:  jne start
    .word start - . + 0x1000
far_function:
    ret
    .section .rodata,"a",@progbits
    .byte 1
    .quad datum + 0x123456789
    .reloc ., R_X86_64_PC64, far_function-0x10
    .quad 0
    .reloc ., R_X86_64_PC32, datum+8
    .long 0
    .reloc ., R_X86_64_PC16, .rodata+0x7000
    .word 0
    .reloc ., R_X86_64_PC8, .rodata-0x10
    .byte 0
    .reloc ., R_X86_64_16, small+0x1234
    .word 0
    .reloc ., R_X86_64_8, small+1
    .byte 0
    .reloc ., R_X86_64_SIZE32, datum+4
    .long 0
    .reloc ., R_X86_64_SIZE64, datum-4
    .quad 0
    .reloc ., R_X86_64_GOTPCREL, held-4
    .long 0
    .data
    .globl datum, held
    .type datum, @object
    .size datum, 24
    .space 40, 0xd4
datum:
    .space 24, 0xda
held:
    .quad start
    small = 0x12
"""
# What depends on where the GOT starts, which is each linker's own choice: name, field, and how the
# value changes when the start does.
GOT_RELATIVE = [
    ("R_X86_64_GOTOFF64", "datum+4", 8, 1),
    ("R_X86_64_GOTPC32", "_GLOBAL_OFFSET_TABLE_+2", 4, -1),
    ("R_X86_64_GOTPC64", "_GLOBAL_OFFSET_TABLE_+9", 8, -1),
    ("R_X86_64_PLTOFF64", "start+1", 8, 1),
]


def addresses_of_sections(graph: LinkGraph) -> dict[str, int]:
    """Where the sections of the inputs, and the GOT, went."""
    return {
        block.section.name: block.address
        for block in reversed(list(graph.blocks))
        if block.size and block.live and (block.input != "(linker)" or block.section.name == ".got")
    }


def linked_by(linker: str, content: bytes, sections: dict[str, int], directory: Path) -> ELFFile:
    """Link an object with a static linker, each section at its address."""
    needs(linker)
    lines = [
        f"{name} {address:#x} : {{ *({name}) }}" for name, address in sorted(sections.items(), key=lambda each: each[1])
    ]
    (directory / "layout.ld").write_text("SECTIONS {\n" + "\n".join(lines) + "\n/DISCARD/ : { *(.note*) }\n}\n")
    (directory / "input.o").write_bytes(content)
    command = [linker, "-static", "-e", "start", "-T", "layout.ld", "-o", "linked", "input.o"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)
    return ELFFile(BytesIO((directory / "linked").read_bytes()))


# Where an address fits 32 bits, GNU ld turns `mov datum@GOTPCREL(%rip), %rax` into a move of the address
# itself, another of the forms that psABI B.2 allows; and a 32S cannot hold an address above 2 GiB.
COMPARED = [
    ("ld.lld", BASE, ""),
    ("ld.lld", 0x8345_6000, "movq $datum"),
    ("ld", BASE, "@GOTPCREL(%rip), %"),
]


@pytest.mark.parametrize(("linker", "base", "left_out"), COMPARED)
def test_the_bytes_are_those_of_static_linkers(linker: str, base: int, left_out: str, tmp_path: Path) -> None:
    """Code, data and the GOT entry are byte for byte what a static linker makes at the same addresses.

    The object reaches every kind that does not depend on where the GOT starts, relaxed ones included.
    """
    lines = SAME_BYTES.splitlines(keepends=True)
    content = assemble("".join(line for line in lines if not left_out or left_out not in line))
    image = jitlink.link(content, base=base)
    sections = addresses_of_sections(image.graph)
    assert set(sections) == {".text", ".rodata", ".data", ".got"}
    theirs = linked_by(linker, content, sections, tmp_path)
    for name, address in sections.items():
        section = theirs.get_section_by_name(name)
        assert section is not None
        assert section["sh_addr"] == address
        ours = image.read(address, section["sh_size"])
        assert ours.hex(" ", -4) == section.data().hex(" ", -4), name


@pytest.mark.parametrize("linker", ["ld.lld", "ld"])
@pytest.mark.parametrize(("kind", "target", "size", "sign"), GOT_RELATIVE, ids=by_name)
def test_kinds_relative_to_the_got_agree_with_static_linkers(
    linker: str, kind: str, target: str, size: int, sign: int, tmp_path: Path
) -> None:
    """Once the start of the GOT, which each linker chooses, is taken out, the values are the same."""
    content = assemble(SAME_BYTES + f'\n.section .probe,"a"\n.reloc ., {kind}, {target}\n.space {size}, 0\n.quad 0\n')
    graph = jitlink.read(content)
    if "_GLOBAL_OFFSET_TABLE_" not in [symbol.name for symbol in graph.symbols]:
        graph.add_symbol("_GLOBAL_OFFSET_TABLE_")
    probe = next(block for block in graph.blocks if block.section.name == ".probe")
    graph.add_edge(probe.row, size, "R_X86_64_64", graph.symbols["_GLOBAL_OFFSET_TABLE_"].row)
    image = jitlink.link(graph, base=BASE)
    sections = addresses_of_sections(image.graph)
    ours = image.read(sections[".probe"], size + 8)
    our_got = int.from_bytes(ours[size:], "little")
    theirs = linked_by(linker, content, sections, tmp_path)
    section, symbols = theirs.get_section_by_name(".probe"), theirs.get_section_by_name(".symtab")
    assert section is not None
    assert isinstance(symbols, SymbolTableSection)
    found = symbols.get_symbol_by_name("_GLOBAL_OFFSET_TABLE_") or []
    # GNU ld leaves out a symbol that only .reloc refers to; its GOT starts where .got.plt does.
    got_plt = theirs.get_section_by_name(".got.plt")
    their_got = found[0]["st_value"] if found else got_plt["sh_addr"] if got_plt else None
    assert their_got is not None
    bits = 2 ** (8 * size)
    our_value, their_value = (int.from_bytes(content[:size], "little") for content in (ours, section.data()))
    assert (our_value + sign * our_got) % bits == (their_value + sign * their_got) % bits


def test_every_supported_kind_can_come_out_of_an_object() -> None:
    """The kinds that no instruction makes are read from objects all the same, by their number."""
    for kind in KINDS:
        if kind.number <= 0 or kind.reason:
            continue
        graph = jitlink.read(object_with(kind.number))
        assert graph.edges[1].kind == kind.name
        if kind.access:
            continue
        assert (kind.through != Through.DIRECT) == ("GOT" in kind.name or "PLT32" in kind.name) or kind.name in (
            "R_X86_64_GOTOFF64",
            "R_X86_64_GOTPC32",
            "R_X86_64_GOTPC64",
            "R_X86_64_PLTOFF64",
        )
