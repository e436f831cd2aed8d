"""What the tests of RISC-V share: objects from assembly, and the same objects linked by ld.lld.

zig brings both, an assembler and ld.lld. Assembly asks by `.option relax` for code that may be shortened, and
by `.option rvc` for compressed instructions where it does not write them as such.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import jitlink
from jitlink import Image
from tests.toolchain import assemble, zig, zig_cc

TARGET = "riscv64-linux-musl"
BASE = 0x2345_6000
ADDRESSES = (1 << 64) - 1


def assembled(source: str) -> bytes:
    """Assemble source for RV64GC, whose header says so; but with 4-byte instructions, and without marks."""
    return assemble(f".option norelax\n.option norvc\n{source}\n", target=TARGET)


class Refused(Exception):
    """ld.lld does not link this; the text is what it says."""


def link_with_lld(
    directory: Path,
    objects: Sequence[bytes],
    *flags: str,
    sections: Mapping[str, int],
    define: Mapping[str, int] | None = None,
) -> ELFFile:
    """Link objects with ld.lld, each section at the address that is given. Raises Refused."""
    names = []
    for number, content in enumerate(objects):
        names.append(f"{number}.o")
        (directory / names[-1]).write_bytes(content)
    starts = [f"--section-start={name}={address:#x}" for name, address in sections.items()]
    symbols = [f"--defsym={name}={address % 2**64:#x}" for name, address in (define or {}).items()]
    command = (*zig("ld.lld"), "-o", "linked", "--entry=0", "--error-limit=0", *starts, *symbols, *flags, *names)
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=240, check=False)
    if result.returncode:
        raise Refused(result.stderr)
    return ELFFile(BytesIO((directory / "linked").read_bytes()))


def section_of(linked: ELFFile, name: str) -> bytes:
    """The content of a section that ld.lld has made."""
    section = linked.get_section_by_name(name)
    assert section is not None
    return bytes(section.data())


def symbols_of(linked: ELFFile) -> dict[str, tuple[int, int]]:
    """Address and size of the symbols of what ld.lld has made."""
    table = linked.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    return {symbol.name: (symbol["st_value"], symbol["st_size"]) for symbol in table.iter_symbols() if symbol.name}


def contents(image: Image) -> dict[str, tuple[int, bytes]]:
    """Address and bytes of each section with content, of an image whose inputs have one of each name."""
    return {
        block.section.name: (block.address, image.read(block.address, block.size))
        for block in image.graph.blocks
        if block.live and block.size and not block.zero_fill
    }


def words(code: bytes) -> list[str]:
    """Disassemble code: mnemonic and operands of each instruction."""
    import capstone

    machine = capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)
    return [f"{instruction.mnemonic} {instruction.op_str}".strip() for instruction in machine.disasm(code, 0)]


def linked(source: str, *, base: int = BASE, relax: bool = True, **define: int) -> Image:
    """Assemble and link source; names outside are keywords."""
    return jitlink.link(assembled(source), base=base, define=modulo(define), relax=relax)


def modulo(define: Mapping[str, int]) -> dict[str, int]:
    """Addresses that may be given as negative numbers."""
    return {name: address % 2**64 for name, address in define.items()}


def text(image: Image) -> list[str]:
    """The instructions of .text."""
    return words(contents(image)[".text"][1])


def assert_same_as_lld(
    directory: Path, content: bytes, *, relax: bool = True, define: Mapping[str, int] | None = None
) -> None:
    """Link an object, and have ld.lld do it at the same addresses; bytes, symbols and sizes agree."""
    image = jitlink.link(content, base=BASE, define=modulo(define or {}), relax=relax)
    ours = contents(image)
    sections = {name: address for name, (address, _) in ours.items()}
    theirs = link_with_lld(directory, [content], "--relax" if relax else "--no-relax", sections=sections, define=define)
    for name, (_, code) in ours.items():
        # ld.lld counts the word of zeroes behind the last unwind record as part of the section.
        theirs_here = section_of(theirs, name)
        expected = theirs_here[: len(code)] if name == ".eh_frame" else theirs_here
        assert (name, code.hex()) == (name, expected.hex())
    symbols = symbols_of(theirs)
    named = {symbol.name: (symbol.address, symbol.size) for symbol in image.graph.symbols if symbol.name in symbols}
    assert named == {name: symbols[name] for name in named}


class Machine:
    """An image in an emulated CPU, for tests of the linker alone."""

    STACK, TLS, RETURN, SIZE = 0x7000_0000, 0x7800_0000, 0x7F00_0000, 0x10_0000

    def __init__(self, image: Image, data: int = 0x6000_0000) -> None:
        unicorn = pytest.importorskip("unicorn")
        self.unicorn = unicorn
        self.image = image
        self.data = data
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        for segment in image.segments:
            self.cpu.mem_map(segment.address, -(-segment.size // 4096) * 4096, int(segment.protection))
            self.cpu.mem_write(segment.address, segment.content)
        for area in (self.STACK, self.TLS, self.RETURN, data):
            self.cpu.mem_map(area, self.SIZE)

    def call(self, name: str, *arguments: int) -> int:
        """Call a function with integers or pointers; returns a0 as a signed number."""
        from unicorn import riscv_const as registers

        status = self.cpu.reg_read(registers.UC_RISCV_REG_MSTATUS)
        # The floating-point unit is off until its state is said to be clean.
        self.cpu.reg_write(registers.UC_RISCV_REG_MSTATUS, status | 3 << 13)
        self.cpu.reg_write(registers.UC_RISCV_REG_SP, self.STACK + self.SIZE - 256)
        self.cpu.reg_write(registers.UC_RISCV_REG_TP, self.TLS + self.SIZE // 2)
        self.cpu.reg_write(registers.UC_RISCV_REG_RA, self.RETURN)
        for number, value in enumerate(arguments):
            self.cpu.reg_write(registers.UC_RISCV_REG_A0 + number, value % 2**64)
        self.cpu.emu_start(self.image.address_of(name), self.RETURN, count=10_000_000)
        result: int = self.cpu.reg_read(registers.UC_RISCV_REG_A0)
        return result - (result >> 63 << 64)


MUTATION_SEED = """
    .text
    .option relax
    .option rvc
    .globl entry, answer
    .type entry, @function
entry:
    .cfi_startproc
    call answer
    .cfi_def_cfa_offset 16
    tail outside
    .p2align 4
here:
    auipc a0, %pcrel_hi(table)
    ld a1, %pcrel_lo(here)(a0)
    sd a1, %pcrel_lo(here)(a0)
load:
    auipc a0, %got_pcrel_hi(outside)
    ld a0, %pcrel_lo(load)(a0)
    lui a2, %hi(absolute)
    addi a2, a2, %lo(absolute)
    c.beqz a0, entry
    beq a0, a1, answer
    .p2align 5
    ret
    .cfi_endproc
    .size entry, .-entry
answer:
    jal t0, entry
    c.j answer
    .data
    .globl table
table:
    .quad entry, answer - entry, load - here
    .word answer - entry, outside - .
    .half answer - entry
    .byte answer - entry
    .uleb128 answer - entry
    .uleb128 load - entry
    .globl absolute
    .set absolute, 0x234
"""
"""A program with every sort of relocation, to be damaged."""


def mutation_seeds() -> dict[str, bytes]:
    """Sound objects for the tests of damaged inputs, by name."""
    source = (
        "extern long outside(long); long counters[4]; "
        "static long twice(long x) { return counters[x & 3] += 2 * x; } "
        "long (*const table[])(long) = {twice, outside}; "
        "long answer(long x) { switch (x) { case 0: return 3; case 1: return twice(x); case 2: return outside(x); "
        "case 3: return 7; case 4: return table[1](x); default: return answer(x - 1) + twice(x); } }"
    )
    return {
        "riscv64 assembly": assembled(MUTATION_SEED),
        "riscv64": zig_cc(source, "-O2", "-mrelax", target=TARGET),
        "riscv64 sections": zig_cc(source, "-O0", "-g", "-fPIC", "-mrelax", "-ffunction-sections", target=TARGET),
    }
