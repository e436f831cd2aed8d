"""x86-64 code sequences for thread-locals, and what they become in local-exec form.

Each sequence is one that compilers have to emit byte for byte, prefixes that do nothing included. `field`
marks the relocation in it, `call_____` that of the call to __tls_get_addr, and in the new code `field` marks
where the distance from the thread pointer goes. Registers are in three bits of ModRM and one or two of a
prefix, and stay what they were.

Sources: x86-64 psABI, section 10.7 (Thread-Local Storage Optimization) and B.2 (REX2 prefix); for the
large code model, GNU ld 2.40, bfd/elfxx-x86 and elf64-x86-64.c, which define it by what they accept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jitlink.arches.thread_locals import Codes, LoaderKinds, Relaxation, ThreadLocalRules, always
from jitlink.arches.x86_64_thread_exit import EXIT_CODE

FIELD, CALL = "field", "call"
FIELD_BYTES = "00000000"
FIELD_ENDS_INSTRUCTION = 4
"""Added to the addend of a PC-relative field that becomes an immediate one."""
READ_THREAD_POINTER = "64488b042500000000"
"""mov %fs:0, %rax"""


def _sequence(kind: str, code: str, new_code: str) -> Relaxation:
    """Write down a sequence without registers. code, new_code: hexadecimal, with FIELD and CALL32 or CALL64."""
    content, mask, at = _parsed(code)
    new_content, _, new_at = _parsed(new_code)
    assert len(content) == len(new_content)
    becomes = "R_X86_64_TPOFF32" if FIELD in new_at else ""
    return Relaxation(
        kind,
        at[FIELD],
        content,
        mask,
        always(new_content),
        becomes,
        new_at.get(FIELD, 0),
        FIELD_ENDS_INSTRUCTION,
        at[CALL],
    )


def _parsed(code: str) -> tuple[bytes, bytes, dict[str, int]]:
    """The bytes of a sequence, the mask of those that are fixed, and where its relocations stand."""
    content, mask, at = b"", b"", {}
    for part in code.split():
        if part.startswith((FIELD, CALL)):
            size = 8 if part.endswith("64") else 4
            at[FIELD if part.startswith(FIELD) else CALL] = len(content)
            content += bytes(size)
            mask += bytes(size)
        else:
            content += bytes.fromhex(part)
            mask += b"\xff" * (len(part) // 2)
    return content, mask, at


def _instruction(kind: str, code: str, mask: str, rewrite: Callable[[Codes], Codes]) -> Relaxation:
    """Write down an instruction with a register that ends with its field."""
    content, field = bytes.fromhex(code + FIELD_BYTES), len(code) // 2
    return Relaxation(
        kind,
        field,
        content,
        bytes.fromhex(mask + FIELD_BYTES),
        rewrite,
        "R_X86_64_TPOFF32",
        field,
        FIELD_ENDS_INSTRUCTION,
    )


# Bits of the REX prefix (0100 W R X B) and of ModRM (mod reg r/m).
REX_R, REX_B, REGISTER = 0x04, 0x01, 0x38
# The same register bits in the second byte of the REX2 prefix (M0 R4 X4 B4 W R3 X3 B3).
REX2_R, REX2_B = 0x44, 0x11
IMMEDIATE_MOV, IMMEDIATE_ADD, LEA = 0xC7, 0x81, 0x8D
STACK_POINTER = 4
"""The low bits of rsp and r12: as a base they would mean that another byte follows."""


def _to_immediate(opcode: int, prefix: int, register_bits: int) -> Callable[[Codes], Codes]:
    """Make `op field(%rip), %reg` into `op $field, %reg`. prefix: where the byte with register_bits stands."""
    # REX_R and REX_B, and their counterparts in REX2, are two bits apart.
    kept = ~(register_bits | register_bits >> 2) & 0xFF

    def rewrite(codes: Codes) -> Codes:
        new = codes.copy()
        new[:, prefix] = (codes[:, prefix] & kept) | (codes[:, prefix] & register_bits) >> 2
        new[:, prefix + 1] = opcode
        new[:, prefix + 2] = 0xC0 | (codes[:, prefix + 2] & REGISTER) >> 3
        return new

    return rewrite


def _add_to_lea(codes: Codes) -> Codes:
    """Make `add field(%rip), %reg` into `lea field(%reg), %reg`; for rsp and r12 `add $field, %reg`."""
    new = _to_immediate(IMMEDIATE_ADD, 0, REX_R)(codes)
    register = (codes[:, 2] & REGISTER) >> 3
    extended = (codes[:, 0] & REX_R) > 0
    short = register != STACK_POINTER
    new[short, 0] = np.where(extended, codes[:, 0] | REX_B, codes[:, 0])[short]
    new[short, 1] = LEA
    new[short, 2] = (0x80 | register << 3 | register)[short]
    return new


def _large(start: str, add: str) -> str:
    """The call of the large model: movabs, add of the GOT's address, call through rax."""
    return f"{start} 48b8 call64 {add} ffd0"


ADD_RBX, ADD_R15 = "4801d8", "4c01f8"
GENERAL = f"{READ_THREAD_POINTER} 488d80 field"
NOP_OF_6, NOP_OF_13 = "660f1f440000", "666666662e0f1f840000000000"

# fmt: off
RELAXATIONS = (
    # General dynamic: lea field(%rip), %rdi; call __tls_get_addr. Becomes mov %fs:0, %rax; lea field(%rax), %rax.
    _sequence("R_X86_64_TLSGD", "66488d3d field 666648e8 call", GENERAL),
    _sequence("R_X86_64_TLSGD", "66488d3d field 6648ff15 call", GENERAL),
    _sequence("R_X86_64_TLSGD", _large("488d3d field", ADD_RBX), f"{GENERAL} {NOP_OF_6}"),
    _sequence("R_X86_64_TLSGD", _large("488d3d field", ADD_R15), f"{GENERAL} {NOP_OF_6}"),
    # Local dynamic: the same without prefixes. Becomes mov %fs:0, %rax.
    _sequence("R_X86_64_TLSLD", "488d3d field e8 call",   f"666666 {READ_THREAD_POINTER}"),
    _sequence("R_X86_64_TLSLD", "488d3d field ff15 call", f"66666666 {READ_THREAD_POINTER}"),
    _sequence("R_X86_64_TLSLD", _large("488d3d field", ADD_RBX), f"{NOP_OF_13} {READ_THREAD_POINTER}"),
    _sequence("R_X86_64_TLSLD", _large("488d3d field", ADD_R15), f"{NOP_OF_13} {READ_THREAD_POINTER}"),
    # Initial exec: mov or add of a GOT entry, %r.
    _instruction("R_X86_64_GOTTPOFF", "488b05", "fbffc7", _to_immediate(IMMEDIATE_MOV, 0, REX_R)),
    _instruction("R_X86_64_GOTTPOFF", "480305", "fbffc7", _add_to_lea),
    _instruction("R_X86_64_CODE_4_GOTTPOFF", "d5088b05", "ffbbffc7", _to_immediate(IMMEDIATE_MOV, 1, REX2_R)),
    _instruction("R_X86_64_CODE_4_GOTTPOFF", "d5080305", "ffbbffc7", _to_immediate(IMMEDIATE_ADD, 1, REX2_R)),
    # Descriptors: lea field(%rip), %r; call *(%rax). Becomes mov $field, %r; xchg %ax, %ax, a nop of two bytes.
    _instruction("R_X86_64_GOTPC32_TLSDESC", "488d05", "fbffc7", _to_immediate(IMMEDIATE_MOV, 0, REX_R)),
    _instruction(
        "R_X86_64_CODE_4_GOTPC32_TLSDESC", "d5088d05", "ffbbffc7", _to_immediate(IMMEDIATE_MOV, 1, REX2_R)
    ),
    Relaxation("R_X86_64_TLSDESC_CALL", 0, b"\xff\x10", b"\xff\xff", always(b"\x66\x90")),
    # In code of the local dynamic model, once the call gives the thread pointer.
    Relaxation("R_X86_64_DTPOFF32", 0, bytes(4), bytes(4), np.copy, "R_X86_64_TPOFF32"),
    Relaxation("R_X86_64_DTPOFF64", 0, bytes(8), bytes(8), np.copy, "R_X86_64_TPOFF64"),
)
# fmt: on

THREAD_LOCALS = ThreadLocalRules(
    below=True,
    reserved=0,
    loader=LoaderKinds(module=16, from_thread_pointer=18, descriptor=36),
    relaxations=RELAXATIONS,
    exit_code=EXIT_CODE,
)
