"""The machine code that registers destructors is what an assembler makes of its assembly."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from elftools.elf.elffile import ELFFile

from jitlink.arches.x86_64_thread_exit import EXIT_CODE
from tests import toolchain

ASSEMBLY = """
    .macro newest
    .byte 0x66
    leaq __jitlink_newest_exit@tlsgd(%rip), %rdi
    .word 0x6666
    rex64
    call __tls_get_addr@PLT
    .endm

    .section .text.__jitlink_at_thread_exit,"ax"
    push %rbx
    push %r12
    push %r13
    mov %rdi, %rbx
    mov %rsi, %r12
    mov %rdx, %r13
    mov $32, %edi
    call malloc@PLT
    test %rax, %rax
    je 1f
    mov %rbx, (%rax)
    mov %r12, 8(%rax)
    mov %r13, 16(%rax)
    mov %rax, %rbx
    newest
    mov (%rax), %rcx
    mov %rcx, 24(%rbx)
    mov %rbx, (%rax)
    lock incq (%r13)
    lea __jitlink_run_exit(%rip), %rdi
    mov %rbx, %rsi
    mov %rdi, %rdx
    pop %r13
    pop %r12
    pop %rbx
    jmp __cxa_thread_atexit_impl@PLT
1:  or $-1, %eax
    pop %r13
    pop %r12
    pop %rbx
    ret

    .section .text.__jitlink_run_exit,"ax"
    push %rbx
    mov %rdi, %rbx
    newest
    mov 24(%rbx), %rcx
    mov %rcx, (%rax)
    mov (%rbx), %rax
    test %rax, %rax
    je 1f
    mov 8(%rbx), %rdi
    call *%rax
    mov 16(%rbx), %rax
    lock decq (%rax)
1:  mov %rbx, %rdi
    pop %rbx
    jmp free@PLT

    .section .text.__jitlink_finish_thread,"ax"
    push %rbx
    push %r12
    sub $8, %rsp
    mov %rdi, %r12
1:  newest
    mov (%rax), %rbx
2:  test %rbx, %rbx
    je 4f
    cmp %r12, 16(%rbx)
    jne 3f
    mov (%rbx), %rax
    test %rax, %rax
    je 3f
    movq $0, (%rbx)
    mov 8(%rbx), %rdi
    call *%rax
    lock decq (%r12)
    jmp 1b
3:  mov 24(%rbx), %rbx
    jmp 2b
4:  add $8, %rsp
    pop %r12
    pop %rbx
    ret
"""


def test_the_code_is_what_its_assembly_says() -> None:
    """Bytes, and places, kinds and addends of all relocations."""
    elf: Any = ELFFile(BytesIO(toolchain.assemble(ASSEMBLY)))
    names = [symbol.name for symbol in elf.get_section_by_name(".symtab").iter_symbols()]
    kinds = {2: "R_X86_64_PC32", 4: "R_X86_64_PLT32", 19: "R_X86_64_TLSGD"}
    for name, routine in EXIT_CODE.items():
        assert routine.content.hex() == elf.get_section_by_name(f".text.{name}").data().hex()
        relocations = elf.get_section_by_name(f".rela.text.{name}").iter_relocations()
        found = [
            (each["r_offset"], kinds[each["r_info_type"]], names[each["r_info_sym"]], each["r_addend"])
            for each in relocations
        ]
        assert list(routine.edges) == found
