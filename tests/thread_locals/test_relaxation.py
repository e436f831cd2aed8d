"""Code sequences become what a static linker makes of them for a program, to the byte.

ld.lld, which ziglang brings, links the same objects to a program whose thread-locals lie as an image has
them. What relaxation leaves depends on no address, so the sections are compared as they are.
"""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import jitlink
from tests import toolchain

DATA = """
    .section .tdata,"awT",@progbits
    .globl first, second
    .balign 4
first:  .long 1
    .balign 32
second: .quad 2
    .section .tbss,"awT",@nobits
    .globl third
    .balign 64
third:  .zero 72
    .text
    .globl _start
_start:
"""
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))

X86_64 = {
    "TLSGD": """
        .byte 0x66
        leaq second@tlsgd(%rip), %rdi
        .word 0x6666
        rex64
        call __tls_get_addr@PLT
    """,
    "TLSGD without PLT": """
        .byte 0x66
        leaq third@tlsgd(%rip), %rdi
        .byte 0x66
        rex64
        call *__tls_get_addr@GOTPCREL(%rip)
    """,
    "TLSLD": """
        leaq first@tlsld(%rip), %rdi
        call __tls_get_addr@PLT
        leaq second@dtpoff(%rax), %rcx
        movl third@dtpoff+4(%rax), %edx
        movabsq $third@dtpoff, %rdx
    """,
    "TLSLD without PLT": """
        leaq first@tlsld(%rip), %rdi
        call *__tls_get_addr@GOTPCREL(%rip)
        movl first@dtpoff(%rax), %edx
    """,
    "GOTTPOFF": "\n".join(
        f"{op} third@gottpoff(%rip), %{register}" for op in ("movq", "addq") for register in REGISTERS
    ),
    "CODE_4_GOTTPOFF": "\n".join(
        f"{op} third@gottpoff(%rip), %r{number}" for op in ("movq", "addq") for number in range(16, 32)
    ),
    "TPOFF": "movl %fs:first@tpoff, %eax\n leaq third@tpoff+8(%rax), %rcx\n movabsq $second@tpoff, %rax",
    "TLSDESC": """
        leaq second@tlsdesc(%rip), %rax
        call *second@tlscall(%rax)
        leaq third@tlsdesc(%rip), %rax
        nop
        call *third@tlscall(%rax)
    """,
}
AARCH64 = {
    "TLSDESC": """
        adrp x0, :tlsdesc:third
        ldr x1, [x0, :tlsdesc_lo12:third]
        add x0, x0, :tlsdesc_lo12:third
        .tlsdesccall third
        blr x1
    """,
    "TLSDESC with other registers": """
        adrp x0, :tlsdesc:second
        ldr x17, [x0, :tlsdesc_lo12:second]
        nop
        add x0, x0, :tlsdesc_lo12:second
        .tlsdesccall second
        blr x17
    """,
    "TLSIE": """
        adrp x9, :gottprel:second
        ldr x9, [x9, :gottprel_lo12:second]
        adrp x30, :gottprel:third
        ldr x30, [x30, :gottprel_lo12:third]
    """,
    "TLSLE": """
        add x1, x0, :tprel_hi12:third
        add x1, x1, :tprel_lo12_nc:third
        add x2, x0, :tprel_lo12_nc:second
        movz x3, #:tprel_g1:third
        movk x3, #:tprel_g0_nc:third
        movz x3, #:tprel_g0:third
        ldrb w4, [x1, :tprel_lo12_nc:second]
        ldrh w4, [x1, :tprel_lo12_nc:second]
        ldr w4, [x1, :tprel_lo12_nc:second]
        ldr x4, [x1, :tprel_lo12_nc:third]
        ldr q4, [x1, :tprel_lo12_nc:third]
    """,
}
RISCV64 = {
    "TPREL": """
        lui a0, %tprel_hi(third)
        add a0, a0, tp, %tprel_add(third)
        lw a1, %tprel_lo(third)(a0)
        sw a1, %tprel_lo(second)(a0)
        addi a1, a0, %tprel_lo(first)
    """,
    "TPREL, far": """
        lui a0, %tprel_hi(third+4096)
        add a0, a0, tp, %tprel_add(third+4096)
        addi a0, a0, %tprel_lo(third+4096)
    """,
    "TLSDESC": """
    label:
        auipc a0, %tlsdesc_hi(third+4096)
        ld t0, %tlsdesc_load_lo(label)(a0)
        addi a0, a0, %tlsdesc_add_lo(label)
        jalr t0, 0(t0), %tlsdesc_call(label)
    """,
}
CASES = [
    pytest.param(machine, flags, code, id=f"{machine} {name}")
    for machine, flags, cases in (
        ("x86_64", (), X86_64),
        ("aarch64", (), AARCH64),
        ("riscv64", ("-mno-relax",), RISCV64),
    )
    for name, code in cases.items()
]


def linked_by_lld(code: bytes, directory: Path) -> bytes:
    """The .text that ld.lld makes of an object in a program."""
    (directory / "code.o").write_bytes(code)
    command = [*toolchain.zig("ld.lld"), "-static", "--no-relax", "--unresolved-symbols=ignore-all"]
    subprocess.run([*command, "-o", "program", "code.o"], cwd=directory, check=True, capture_output=True)
    section = ELFFile(BytesIO((directory / "program").read_bytes())).get_section_by_name(".text")
    assert section is not None
    content: bytes = section.data()
    return content


@pytest.mark.parametrize(("machine", "flags", "code"), CASES)
def test_sequence_becomes_what_ld_lld_makes_of_it(
    machine: str, flags: tuple[str, ...], code: str, tmp_path: Path
) -> None:
    """The rewritten instructions, their registers and their offsets from the thread pointer are those of ld.lld."""
    compiled = toolchain.assemble(DATA + code, *flags, target=f"{machine}-linux-gnu")
    wanted = linked_by_lld(compiled, tmp_path)
    image = jitlink.link(compiled, base=0x10000000)
    assert image.read(image.address_of("_start"), len(wanted)).hex() == wanted.hex()


@pytest.mark.parametrize(
    ("instruction", "refused"),
    [
        ("add x2, x0, :tprel_lo12:third+{}", 4096),
        ("ldrb w4, [x1, :tprel_lo12:third+{}]", 4096),
        ("ldr x4, [x1, :tprel_lo12:third+{}]", 4096),
        ("movz x4, #:tprel_g0:third+{}", 1 << 16),
        ("add x2, x0, #:tprel_hi12:third+{}", 1 << 24),
    ],
)
def test_checked_offsets_of_aarch64_are_refused_where_they_do_not_fit(instruction: str, refused: int) -> None:
    """AAELF64: without _NC, X must fit the bits of the field; the last that fits is linked, the next one is not."""
    # Variant I: 16 bytes at the thread pointer, rounded up to the alignment of the block; then 32 and 32 bytes.
    at = 64 + 64
    fits = toolchain.assemble(DATA + instruction.format(refused - at - 8), target="aarch64-linux-gnu")
    image = jitlink.link(fits, base=0x10000000)
    assert image.thread_block is not None
    assert image.thread_block.block.from_thread_pointer == 64
    past = toolchain.assemble(DATA + instruction.format(refused - at), target="aarch64-linux-gnu")
    with pytest.raises(jitlink.OutOfRange, match=r"TPREL\(S \+ A\) = 0x"):
        jitlink.link(past, base=0x10000000)


def test_what_is_not_as_the_abi_has_it_calls_the_function() -> None:
    """Two instructions swapped: the GOT entry stays, and the image brings a __tls_get_addr of its own."""
    swapped = """
        leaq second@tlsgd(%rip), %rdi
        nop
        call __tls_get_addr@PLT
    """
    image = jitlink.link(toolchain.assemble(DATA + swapped), base=0x10000000)
    code = image.read(image.address_of("_start"), 13)
    assert (code[:3].hex(), code[7:9].hex()) == ("488d3d", "90e8")
    entry = image.address_of("_start") + 7 + int.from_bytes(code[3:7], "little", signed=True)
    words = [int.from_bytes(image.read(entry + at, 8), "little", signed=True) for at in (0, 8)]
    # The block of 64 + 72 bytes, rounded up to 64, ends at the thread pointer; `second` is 32 bytes into it.
    assert words == [-192, 32]


def test_local_dynamic_code_is_rewritten_as_a_whole_or_not_at_all() -> None:
    """An offset that is counted from a call which stays must stay an offset in the block."""
    one_is_odd = X86_64["TLSLD"] + "leaq first@tlsld(%rip), %rdi\n nop\n call __tls_get_addr@PLT\n"
    image = jitlink.link(toolchain.assemble(DATA + one_is_odd), base=0x10000000)
    code = image.read(image.address_of("_start"), 19)
    assert (code[:3].hex(), code[12:15].hex()) == ("488d3d", "488d88")
    assert int.from_bytes(code[15:19], "little") == 32
