"""What assemblers write means the same to us as to LLVM's linkers: ld64.lld for the bytes, llvm-jitlink for all of it.

The two put things in different places, so what is compared is where each field points: at its symbol, and
how far from it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import lief
import pytest

import jitlink
from tests import programs
from tests.macho.mutations import ASSEMBLY, CXX
from tests.macho.objects import assembled, compiled

ARCHES = {"x86_64": "x86_64", "aarch64": "arm64"}
BASE = 0x1_0000_0000

# Each field is told by a label before it. Fields of pointers and of relative numbers are named in the label.
X86_64 = """
    .text
    .globl _function
_function: ret
    .p2align 4
    .globl _code
_code:
{relative3} leaq _datum(%rip), %rax
{relative3} leaq _datum+40(%rip), %rax
{relative3} leaq _datum-8(%rip), %rax
{relative3} leaq L_literal(%rip), %rax
{relative3} leaq L_literal+8(%rip), %rax
{relative2} movb $1, _datum(%rip)
{relative2} movb $1, _datum+7(%rip)
{relative3} movw $1, _datum+2(%rip)
{relative2} movl $1, _datum+4(%rip)
{relative3} movq $1, _datum+16(%rip)
{relative2} movl $1, L_number+4(%rip)
{relative1} callq _function
{relative1} jmp _function+0
    .data
    .p2align 4
    .globl _datum
_datum: .space 64
    .globl _pointers
_pointers:
{pointer} .quad _function
{pointer} .quad _datum+24
{pointer} .quad L_literal+3
{difference} .quad _function-_datum
{difference} .quad _datum-_pointers+5
{difference} .quad _pointers-_datum
{difference32} .long _function-_datum+9
{difference32} .long _datum-_pointers
    .section __TEXT,__other
L_literal: .quad 0x1111111111111111, 0x2222222222222222, 0x3333333333333333
    .section __DATA,__more
L_number: .long 0x44444444, 0x55555555
"""
ARM64 = """
    .text
    .p2align 2
    .globl _function
_function: ret
    .globl _code
_code:
{pages} adrp x0, _datum@PAGE
{low} add x5, x6, _datum@PAGEOFF
{pages} adrp x0, _datum@PAGE+4096
{low} add x5, x6, _datum@PAGEOFF+40
{low} ldr x0, [x0, _datum@PAGEOFF+8]
{low} ldr w0, [x0, _datum@PAGEOFF+4]
{low} ldrh w0, [x0, _datum@PAGEOFF+2]
{low} ldrb w0, [x0, _datum@PAGEOFF+1]
{low} str q0, [x0, _datum@PAGEOFF+16]
{branch} bl _function
{branch} b _function
    .data
    .p2align 4
    .globl _datum
_datum: .space 64
    .globl _pointers
_pointers:
{pointer} .quad _function
{pointer} .quad _datum+24
{difference} .quad _function-_datum
{difference} .quad _datum-_pointers+5
{difference} .quad _pointers-_datum
{difference32} .long _function-_datum+9
{difference32} .long _datum-_pointers
"""
SORTS = ("relative1", "relative2", "relative3", "pointer", "difference32", "difference", "pages", "low", "branch")


def labelled(template: str) -> tuple[str, list[tuple[str, str]]]:
    """Number the labels of a template; returns the source and the label and sort of each field."""
    fields: list[tuple[str, str]] = []
    lines = []
    for line in template.splitlines():
        for sort in SORTS:
            if line.startswith("{" + sort + "}"):
                label = f"_p{len(fields)}"
                fields.append((label, sort))
                # An alternative entry starts no block, so that the code stays together.
                line = f"    .globl {label}\n    .alt_entry {label}\n{label}: {line.partition('}')[2]}"
        lines.append(line)
    return "\n".join(lines), fields


def value_of(read, place: int, sort: str) -> int:
    """What a field points at: an address, or a distance for differences."""

    def number(address: int, size: int, signed: bool = True) -> int:
        return int.from_bytes(read(address, size), "little", signed=signed)

    if sort.startswith("relative"):
        field = place + int(sort.removeprefix("relative"))
        return field + 4 + number(field, 4)
    if sort == "pointer":
        return number(place, 8, signed=False)
    if sort.startswith("difference"):
        return number(place, 4 if sort.endswith("32") else 8)
    word = number(place, 4, signed=False)
    if sort == "pages":
        count = (word >> 29 & 3) | (word >> 5 & 0x7FFFF) << 2
        return (place & -4096) + 4096 * (count - (count >> 20 << 21))
    if sort == "branch":
        return place + 4 * ((word & 0x3FFFFFF) - ((word >> 25 & 1) << 26))
    scale = 0 if word >> 24 & 0x3B != 0x39 else 4 if word & 0xFF800000 == 0x3D800000 else word >> 30
    return (word >> 10 & 0xFFF) << scale


def linked_by_lld(content: bytes, machine: str, folder: Path) -> lief.MachO.Binary:
    """Link a dynamic library with ld64.lld."""
    program = next((name for name in ("ld64.lld", "ld64.lld-22") if shutil.which(name)), None)
    if program is None:
        pytest.skip("there is no ld64.lld")
    (folder / "a.o").write_bytes(content)
    command = [program, "-dylib", "-arch", ARCHES[machine], "-platform_version", "macos", "11.0", "11.0"]
    command += ["-undefined", "dynamic_lookup", "-no_fixup_chains", "-o", "a.dylib", "a.o"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parsed = lief.MachO.parse(str(folder / "a.dylib"))
    assert parsed is not None
    binary = parsed.at(0)
    assert binary is not None
    return binary


@pytest.mark.parametrize("machine", ARCHES)
def test_fields_point_where_ld64_lld_lets_them_point(machine, tmp_path):
    """Relative to the symbols of each link, every field has the same value in both."""
    source, fields = labelled(X86_64 if machine == "x86_64" else ARM64)
    content = assembled(source, machine)
    theirs = linked_by_lld(content, machine, tmp_path)
    ours = jitlink.link(content, base=BASE)
    their_places = {str(symbol.name): symbol.value for symbol in theirs.symbols}
    our_places = {symbol.name: symbol.address for symbol in ours.graph.defined()}

    def read_theirs(address: int, size: int) -> bytes:
        return bytes(theirs.get_content_from_virtual_address(address, size))

    def relative_to_symbols(value: int, places: dict[str, int]) -> set[tuple[str, int]]:
        """A value as distances from the symbols that lie near it."""
        names = ("_function", "_datum", "_pointers", "_code")
        return {(name, value - places[name]) for name in names if abs(value - places[name]) < 0x100}

    for label, sort in fields:
        found = value_of(ours.read, our_places[label], sort)
        wanted = value_of(read_theirs, their_places[label], sort)
        if sort.startswith("difference"):
            # Distances between sections differ: they are compared by what both linkers say of the symbols.
            guesses = [
                (one, other, wanted - (their_places[one] - their_places[other]))
                for one in ("_function", "_datum", "_pointers")
                for other in ("_function", "_datum", "_pointers")
                if one != other
            ]
            one, other, rest = min(guesses, key=lambda guess: abs(guess[2]))
            assert abs(rest) < 16
            assert found == our_places[one] - our_places[other] + rest, label
        elif sort == "low":
            assert (found - our_places["_datum"]) % 4096 == (wanted - their_places["_datum"]) % 4096, label
        elif sort == "pages":
            pages = found - (our_places["_datum"] & -4096), wanted - (their_places["_datum"] & -4096)
            assert pages[0] == pages[1], label
        elif not relative_to_symbols(found, our_places) & relative_to_symbols(wanted, their_places):
            # What has no symbol is told by its content.
            assert ours.read(found, 4) == read_theirs(wanted, 4) != bytes(4), label
    assert len(fields) > 15


def everything() -> dict[str, bytes]:
    made = {}
    for machine in ARCHES:
        made[f"c {machine}"] = compiled(programs.source("linkage_a.c"), "-O2", machine=machine)
        made[f"c++ {machine}"] = compiled(CXX, "-O2", machine=machine, language="c++")
        made[f"fields {machine}"] = assembled(labelled(X86_64 if machine == "x86_64" else ARM64)[0], machine)
    return made


@pytest.mark.parametrize("name", everything())
def test_llvm_jitlink_takes_the_same_objects(name, tmp_path):
    """What LLVM's JIT linker links, we link."""
    program = next((each for each in ("llvm-jitlink-22", "llvm-jitlink") if shutil.which(each)), None)
    if program is None:
        pytest.skip("there is no llvm-jitlink")
    content = everything()[name]
    (tmp_path / "a.o").write_bytes(content)
    undefined = [symbol.name for symbol in jitlink.read(content).symbols if symbol.definition.name == "UNDEFINED"]
    command = [program, "-noexec", "-phony-externals", "-slab-allocate", "64Mb", "-slab-address", hex(BASE)]
    command += ["-slab-page-size", "16384", "a.o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this llvm-jitlink refuses it: {done.stderr.strip()[:200]}")
    image = jitlink.link(content, base=BASE, define=lambda wanted: BASE + 0x100_0000)
    assert image.symbols()
    assert undefined is not None


def test_the_assembly_of_the_mutation_tests_is_linked():
    """Every form of relocation and symbol that the damaged objects are made from."""
    for machine, source in ASSEMBLY.items():
        image = jitlink.link(assembled(source, machine), base=BASE, define=lambda name: BASE + 0x100_0000)
        assert "entry" in image.symbols()
