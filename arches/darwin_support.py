"""Code for functions of Apple's C library that compilers for macOS call by themselves and other systems lack.

memset_pattern4, 8 and 16   fill memory with a pattern; LLVM makes them of loops (string.h of macOS)
__chkstk_darwin             touches every page of a large stack frame, whose size is in RAX or X9; keeps all
                            registers but X16 and X17
_tlv_bootstrap              finds the calling thread's copy of a thread-local variable, given its descriptor,
                            whose second and third word are what __tls_get_addr is given; as the ABI has it
                            for thread-local access, it keeps nearly all registers
_tlv_atexit                 registers the destructor of a thread-local object
__assert_rtn                what assert() calls: __assert_fail of glibc with the arguments in another order

They are taken only where nobody else has a function of their name.
"""

from __future__ import annotations

from jitlink.arches.architecture import Routine
from jitlink.arches.x86_64_thread_exit import BOUND


def _routine(code: str, *edges: tuple[int, str, str, int]) -> Routine:
    """A routine of hexadecimal code."""
    return Routine(bytes.fromhex(code), edges, always=False)


# 1: cmp $16, %rdx; jb 2f; movups %xmm0, (%rdi); add $16, %rdi; sub $16, %rdx; jmp 1b
# 2: movups %xmm0, -24(%rsp); lea -24(%rsp), %rsi; mov %edx, %ecx; rep movsb; ret
X86_64_FILL = "4883fa10720d0f11074883c7104883ea10ebed0f114424e8488d7424e889d1f3a4c3"
X86_64 = {
    # movd (%rsi), %xmm0; pshufd $0, %xmm0, %xmm0
    "memset_pattern4": _routine("660f6e06660f70c000" + X86_64_FILL),
    # movq (%rsi), %xmm0; punpcklqdq %xmm0, %xmm0
    "memset_pattern8": _routine("f30f7e06660f6cc0" + X86_64_FILL),
    # movups (%rsi), %xmm0
    "memset_pattern16": _routine("0f1006" + X86_64_FILL),
    # push %rcx; push %rax; lea 24(%rsp), %rcx
    # 1: cmp $4096, %rax; jb 2f; sub $4096, %rcx; test %rcx, (%rcx); sub $4096, %rax; jmp 1b
    # 2: pop %rax; pop %rcx; ret
    "__chkstk_darwin": _routine("5150488d4c2418483d0010000072124881e900100000488509482d00100000ebe65859c3"),
    # mov %rdi, %r8; mov %rcx, %rdi; mov %r8, %rcx; jmp __assert_fail
    "__assert_rtn": _routine("4989f84889cf4c89c1e900000000", (10, "R_X86_64_PLT32", "__assert_fail", -4)),
}


# Of the registers that a call may change, thread-local access keeps all but RAX and RDI (LLVM, X86CallingConv.td).
# push %rcx, %rdx, %rsi, %r8, %r9, %r10, %r11; lea 8(%rdi), %rdi; call __tls_get_addr; pop them; ret
X86_64["_tlv_bootstrap"] = _routine(
    "5152564150415141524153488d7f08e800000000415b415a415941585e5a59c3", (16, "R_X86_64_PLT32", "__tls_get_addr", -4)
)
X86_64["_tlv_atexit"] = BOUND


def _words(*words: int) -> str:
    """Instructions of AArch64 as hexadecimal code."""
    return b"".join(word.to_bytes(4, "little") for word in words).hex()


# 1: cmp x2, #16; b.lo 2f; str q0, [x0], #16; sub x2, x2, #16; b 1b
# 2: str q0, [sp, #-16]!; mov x3, sp
# 3: cbz x2, 4f; ldrb w4, [x3], #1; strb w4, [x0], #1; sub x2, x2, #1; b 3b
# 4: add sp, sp, #16; ret
ARM64_FILL = _words(
    *(0xF100405F, 0x54000083, 0x3C810400, 0xD1004042, 0x17FFFFFC),
    *(0x3C9F0FE0, 0x910003E3),
    *(0xB40000A2, 0x38401464, 0x38001404, 0xD1000442, 0x17FFFFFC),
    *(0x910043FF, 0xD65F03C0),
)
ARM64 = {
    # ldr s0, [x1]; dup v0.4s, v0.s[0]
    "memset_pattern4": _routine(_words(0xBD400020, 0x4E040400) + ARM64_FILL),
    # ldr d0, [x1]; dup v0.2d, v0.d[0]
    "memset_pattern8": _routine(_words(0xFD400020, 0x4E080400) + ARM64_FILL),
    # ldr q0, [x1]
    "memset_pattern16": _routine(_words(0x3DC00020) + ARM64_FILL),
    # mov x16, sp; mov x17, x9
    # 1: cmp x17, #4096; b.lo 2f; sub x16, x16, #4096; ldr xzr, [x16]; sub x17, x17, #4096; b 1b
    # 2: ret
    "__chkstk_darwin": _routine(
        _words(
            *(0x910003F0, 0xAA0903F1),
            *(0xF140063F, 0x540000A3, 0xD1400610, 0xF940021F, 0xD1400631, 0x17FFFFFB),
            0xD65F03C0,
        )
    ),
    # mov x8, x0; mov x0, x3; mov x3, x8; b __assert_fail
    "__assert_rtn": _routine(
        _words(0xAA0003E8, 0xAA0303E0, 0xAA0803E3, 0x14000000), (12, "R_AARCH64_JUMP26", "__assert_fail", 0)
    ),
}

STP_X, LDP_X, STP_D, LDP_D = 0xA9BF0000, 0xA8C10000, 0x6DBF0000, 0x6CC10000
"""stp and ldp of two registers, with the stack pointer moved by 16 before or after."""
STACK_POINTER = 31
GENERAL_PAIRS = [(register, register + 1) for register in (1, 3, 5, 7, 9, 11, 13)] + [(15, 30)]
VECTOR_PAIRS = [(register, register + 1) for register in range(0, 32, 2)]


def _pair(opcode: int, first: int, second: int) -> int:
    return opcode | second << 10 | STACK_POINTER << 5 | first


# Of the registers that a call may change, thread-local access keeps X1 to X15 and the low halves of all vectors.
SAVE = [_pair(STP_X, *pair) for pair in GENERAL_PAIRS] + [_pair(STP_D, *pair) for pair in VECTOR_PAIRS]
RESTORE = [_pair(LDP_D, *pair) for pair in VECTOR_PAIRS[::-1]] + [_pair(LDP_X, *pair) for pair in GENERAL_PAIRS[::-1]]
# add x0, x0, #8; bl __tls_get_addr
ARM64["_tlv_bootstrap"] = _routine(
    _words(*SAVE, 0x91002000, 0x94000000, *RESTORE, 0xD65F03C0),
    (4 * len(SAVE) + 4, "R_AARCH64_CALL26", "__tls_get_addr", 0),
)

ROUTINES = {"x86_64": X86_64, "aarch64": ARM64}
"""By architecture and C name."""
