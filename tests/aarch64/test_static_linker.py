"""AArch64 code linked by ld.lld, at the same addresses: the bytes are the same, and so is what is refused.

zig brings the linker with it. Each place in the objects has a symbol of its own, so that every relocation
is tried with the values at both ends of its range, and with those one step past them.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import jitlink
from jitlink import Image, LinkGraph, OutOfRange
from jitlink.graph import Definition
from tests.aarch64.aaelf64 import ROWS, Row, page
from tests.toolchain import assemble, zig

BASE = 0x2_2345_6000
"""Above 4 GiB, so that no address below it by the reach of ADRP is negative."""
PLACE_SIZE = 16
# What ld.lld does not know.
UNKNOWN = ("GOTREL32", "GOTREL64")
TRIED = [row for row in ROWS if not row.made_for_got and row.name.removeprefix("R_AARCH64_") not in UNKNOWN]
# ld.lld serves these by veneers of its own where they are out of range.
SERVED = ("R_AARCH64_CALL26", "R_AARCH64_JUMP26", "R_AARCH64_PLT32")


def step_of(row: Row) -> int:
    return max(row.align, 4096 if "PG_HI21" in row.name else 1)


def symbol_value(row: Row, place: int, value: int) -> int:
    """The address of a symbol with which the operation of a row gives a value at a place."""
    if "PG_HI21" in row.name:
        return (page(place) + value + 0x123) % 2**64
    relative = "S + A - P" if "PREL" in row.name or "BR" in row.name or "26" in row.name else ""
    return (value + place if relative or row.name.endswith("PLT32") else value) % 2**64


def fitting_values(row: Row) -> list[int]:
    step = step_of(row)
    low, high = row.interval or (-(2**62), 2**62)
    values = [low, low + step, 0, step, low // 3 // step * step, high // 3 // step * step, high - step]
    if row.name == "R_AARCH64_MOVW_PREL_G3":
        # ld.lld makes a MOVZ of these, with the same effect once the MOVKs behind it have run.
        values = [value for value in values if value >= 0]
    if row.name == "R_AARCH64_PLT32":
        # ld.lld makes a veneer for the last four values, as if PLT32 were a branch.
        values[-1] -= 4
    return values


FITTING = [(row, value) for row in TRIED for value in fitting_values(row)]
PAST = [
    (row, value)
    for row in TRIED
    if row.interval and row.name not in SERVED
    for value in (row.interval[0] - step_of(row), row.interval[1])
]
# ld.lld cuts off what is odd in a branch.
ODD = [(row, 1) for row in TRIED if row.align > 1 and "BR" not in row.name and "26" not in row.name]


@cache
def object_of(cases: str) -> bytes:
    """An object with a place for each case, 16 bytes apart, whose symbol is named after its number."""
    lines = [".text", ".globl start", "start:"]
    for number, (row, _) in enumerate(globals()[cases]):
        content = f".inst {row.instruction & ~0xFFF << 10:#x}" if row.instruction and row.align > 1 else ""
        if row.instruction and not content:
            content = f".inst {clean(row):#x}"
        content = content or f".space {row.size}"
        lines += [".p2align 4", f".reloc ., {row.name}, t_{number}", content]
    return assemble("\n".join(lines) + "\n.p2align 4\n", target="aarch64-linux-gnu")


def clean(row: Row) -> int:
    """The instruction with an immediate of zero, as assemblers leave it."""
    assert row.instruction is not None
    if "MOVW" in row.name:
        return row.instruction & ~(0xFFFF << 5)
    zero = row.instruction
    for bit in range(32):
        if row.decode(zero ^ 1 << bit) != row.decode(zero):
            zero &= ~(1 << bit)
    return zero


def addresses(cases: str) -> dict[str, int]:
    return {
        f"t_{number}": symbol_value(row, BASE + number * PLACE_SIZE, value)
        for number, (row, value) in enumerate(globals()[cases])
    }


def linked_by_lld(
    content: bytes, defined: dict[str, int], directory: Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    """Run ld.lld on an object, with .text at BASE, and further sections and symbols as flags say."""
    script = [f"{name} = {value:#x};" for name, value in defined.items()]
    script.append(f"SECTIONS {{ .text {BASE:#x} : {{ *(.text) }} /DISCARD/ : {{ *(.note*) }} }}")
    (directory / "layout.ld").write_text("\n".join(script))
    (directory / "input.o").write_bytes(content)
    command = [*zig("ld.lld"), "-static", "-e", "start", "-T", "layout.ld", "-o", "linked", "input.o", *flags]
    return subprocess.run(command, cwd=directory, check=False, capture_output=True, text=True, timeout=120)


def section(path: Path, name: str) -> bytes:
    found = ELFFile(BytesIO(path.read_bytes())).get_section_by_name(name)
    assert found is not None
    return bytes(found.data())


def linked(content: bytes, defined: dict[str, int]) -> Image:
    """Link an object as ld.lld is asked to, without stubs: symbols move to where they are meant to be late."""

    def define_here(graph: LinkGraph) -> None:
        text = next(block.row for block in graph.blocks if block.section.name == ".text")
        for row in rows_of(graph):
            graph.symbols.block[row], graph.symbols.definition[row] = text, Definition.DEFINED

    def move(graph: LinkGraph) -> None:
        for row in rows_of(graph):
            graph.symbols.block[row], graph.symbols.offset[row] = 0, defined[graph.symbols[row].name]

    def rows_of(graph: LinkGraph) -> list[int]:
        return [symbol.row for symbol in graph.symbols if symbol.name in defined]

    return jitlink.link(content, base=BASE, passes={"pre_prune": [define_here], "post_allocation": [move]})


def test_every_kind_writes_what_lld_writes(tmp_path: Path) -> None:
    """At both ends of its range and between, each relocation gives the same instruction or data."""
    content, defined = object_of("FITTING"), addresses("FITTING")
    result = linked_by_lld(content, defined, tmp_path, "--no-relax")
    assert not result.returncode, result.stderr
    theirs = section(tmp_path / "linked", ".text")
    ours = linked(content, defined).read(BASE, len(theirs))
    for number, (row, value) in enumerate(FITTING):
        part = slice(number * PLACE_SIZE, (number + 1) * PLACE_SIZE)
        assert ours[part].hex(" ", -4) == theirs[part].hex(" ", -4), (row.name, hex(value))
    assert ours == theirs


@pytest.mark.parametrize("cases", ["PAST", "ODD"])
def test_what_lld_refuses_is_refused(cases: str, tmp_path: Path) -> None:
    """One step past each end of a range, and misaligned, both linkers refuse every place by itself."""
    content, defined = object_of(cases), addresses(cases)
    result = linked_by_lld(content, defined, tmp_path, "--no-relax", "--error-limit=0")
    refused = {int(offset, 16) for offset in re.findall(r"error: .*?input\.o:\(\.text\+(0x[0-9a-f]+)\)", result.stderr)}
    assert refused == {number * PLACE_SIZE for number in range(len(globals()[cases]))}
    for number in range(len(globals()[cases])):
        with pytest.raises(OutOfRange) as caught:
            linked(content, defined_alone(cases, number))
        assert [place.offset for place in caught.value.places] == [number * PLACE_SIZE]


def defined_alone(cases: str, number: int) -> dict[str, int]:
    """Addresses that fit all places but one."""
    fitting = {
        f"t_{other}": symbol_value(row, BASE + other * PLACE_SIZE, 0) for other, (row, _) in enumerate(globals()[cases])
    }
    name = f"t_{number}"
    return fitting | {name: addresses(cases)[name]}
