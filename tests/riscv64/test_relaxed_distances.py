"""What counts the bytes of RISC-V code follows when it gets shorter: alignment, tables, unwind and debug records."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

import jitlink
from tests.riscv64.objects import BASE, assembled, assert_same_as_lld, contents, linked, text


@pytest.mark.parametrize("relax", [True, False])
@pytest.mark.parametrize("power", range(1, 8))
@pytest.mark.parametrize("compressed", ["rvc", "norvc"])
def test_code_is_aligned_whether_it_is_relaxed_or_not(relax: bool, power: int, compressed: str, tmp_path: Path):
    """The padding that is too much goes in any case, and what stays is nops. As ld.lld has it."""
    calls = "\n".join(["call target", "nop", f".p2align {power}", "label{0}: tail target"])
    source = "\n".join(calls.format(number) for number in range(5))
    source = f".text\n.option relax\n.option {compressed}\n.globl target\ntarget:\n{source}\nnop"
    content = assembled(source)
    if compressed == "norvc":
        content = content[:48] + bytes([content[48] & ~1]) + content[49:]
    image = jitlink.link(content, base=BASE, relax=relax)
    for number in range(5):
        assert image.graph.symbols[f"label{number}"].address % (1 << power) == 0
    assert_same_as_lld(tmp_path, content, relax=relax)


def test_compressed_calls_stay_away_from_padding_for_4_byte_instructions():
    """Such padding is 4 bytes short of its alignment, too little behind an instruction of 2 bytes."""
    padding = ".reloc ., R_RISCV_ALIGN, 12\nnop\nnop\nnop"
    source = f".text\n.option relax\nstart: tail start\n{padding}\n.globl label\nlabel: nop"
    image = linked(source)
    assert text(image)[0] == "j 0"
    assert image.address_of("label") % 16 == 0


def test_padding_is_right_in_a_section_with_less_alignment():
    """The section is aligned as much as what is in it, or the result would depend on where it is."""
    content = bytearray(assembled(".text\n.option relax\nstart: call start\n.p2align 6\n.globl label\nlabel: nop"))
    header = ELFFile(BytesIO(content))
    index = header.get_section_index(".text")
    at = header["e_shoff"] + index * header["e_shentsize"] + 48
    content[at : at + 8] = (4).to_bytes(8, "little")
    odd = assembled(".text\n.p2align 2\nnop\nnop\nnop")
    assert jitlink.link(odd, bytes(content), base=BASE).address_of("label") % 64 == 0


# What counts bytes


TABLES = """
    .text
    .option relax
    .globl first, second
    .type first, @function
    .type second, @function
first:
    .cfi_startproc
    call second
    addi sp, sp, -16
    .cfi_def_cfa_offset 16
    call second
    .zero 60
    call second
    addi sp, sp, 16
    .cfi_def_cfa_offset 0
    ret
    .cfi_endproc
    .size first, .-first
    .p2align 3
second:
    .cfi_startproc
    call first
    .cfi_remember_state
    tail first
    .cfi_endproc
    .size second, .-second
    .section .rodata
    .globl table
table:
    .word second - first, first - second
    .quad second - first, first - second
    .half second - first
    .byte second - first
    .byte 0
    .uleb128 second - first
"""


def test_distances_symbols_and_unwind_records_follow(tmp_path: Path):
    """Switch tables, sizes of functions, and the ranges and steps of .eh_frame are those of ld.lld."""
    content = assembled(TABLES)
    for relax in (True, False):
        assert_same_as_lld(tmp_path, content, relax=relax)


def frames(section: bytes, address: int) -> list[tuple[int, int, list[object]]]:
    from elftools.dwarf.callframe import CallFrameInfo
    from elftools.dwarf.structs import DWARFStructs

    records = CallFrameInfo(BytesIO(section), len(section), address, DWARFStructs(True, 64, 8), for_eh_frame=True)
    return [
        (entry["initial_location"], entry["address_range"], [row["pc"] for row in entry.get_decoded().table])
        for entry in records.get_entries()
        if isinstance(entry, FDE)
    ]


def test_unwind_records_describe_the_code_as_it_is_now():
    """An FDE starts and ends where its function does, and its rows change where the stack does."""
    image = linked(TABLES)
    address, section = contents(image)[".eh_frame"]
    first, second = image.address_of("first"), image.address_of("second")
    sizes = {symbol.name: symbol.size for symbol in image.graph.symbols}
    # call; addi | call; 60 bytes; call; addi | ret
    rows = [first, first + 8, first + 8 + 4 + 60 + 4 + 4]
    assert frames(section, address)[0] == (first, sizes["first"], rows)
    assert frames(section, address)[1][:2] == (second, sizes["second"])


def test_debug_sections_describe_the_code_as_it_is_now():
    """Line tables and ranges of DWARF agree with those of the same object, assembled for no relaxation."""
    body = "\n".join(f".loc 1 {line}\ncall start\n" for line in range(1, 20))
    source = f'.file 1 "made.c"\n.text\n.option relax\n.globl start\nstart:\n{body}.globl end\nend: nop'
    content = assembled(source + "\n.section .debug_info\n.quad end - start")
    image = jitlink.link(content, base=BASE, debug=True)
    [sections] = image.debug_sections.values()
    assert int.from_bytes(sections[".debug_info"], "little") == 19 * 4
    assert image.address_of("end") - image.address_of("start") == 19 * 4
    found = line_table(sections[".debug_line"])
    assert found[:19] == [(BASE + 4 * line, line + 1) for line in range(19)]


def line_table(section: bytes) -> list[tuple[int, int]]:
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo
    from elftools.dwarf.structs import DWARFStructs

    lines = DebugSectionDescriptor(BytesIO(section), ".debug_line", 0, len(section), 0)
    names = [name for name in DWARFInfo.__init__.__code__.co_varnames[1:] if name.endswith("_sec")]
    info = DWARFInfo(DwarfConfig(True, "RISC-V", 8), **dict.fromkeys(names) | {"debug_line_sec": lines})
    program = info._parse_line_program_at_offset(0, DWARFStructs(True, 32, 8))
    return [(entry.state.address, entry.state.line) for entry in program.get_entries() if entry.state]


def test_a_place_counted_from_the_start_of_a_section_follows():
    """A section symbol with an addend names a place in the code, and that place has moved."""
    source = """
        .text
        .option relax
    start:
        call start
        call start
    place:
        nop
        .data
        .globl pointer
    pointer:
        .reloc ., R_RISCV_64, .text + 16
        .quad 0
    """
    image = linked(source)
    assert int.from_bytes(image.read(image.address_of("pointer"), 8), "little") == BASE + 8
