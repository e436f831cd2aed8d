"""x86-64 code around a call from outside into linked code: an adapter at which exceptions end.

A caller that was not compiled with exceptions in mind, such as Python, must not be unwound through. The
adapter stands between the two. It is a function with an unwind record of its own, whose personality
routine answers every search for a handler with "here", and whose landing pad gives the exception to a
handler function and then returns zero. Its frame costs the call some two nanoseconds.

    adapter:   push %rbp; mov %rsp, %rbp       then arguments on the stack are copied, if there may be any
               call target
               leave; ret
    landing:   mov %rax, %rdi; call handler    the unwinder has put the exception into %rax
               clear the registers of results
               leave; ret

A forced unwind (pthread_exit, pthread_cancel) is let through: it asks for no handler.

Sources: Itanium C++ ABI, Exception Handling, 1.6 (Personality Routine); x86-64 psABI, 3.2.3 and 6.2 (unwind
library); LSB Core 5.0, 10.5 and 10.6 (.eh_frame).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from jitlink.arches.architecture import Routine

GENERAL_REGISTERS, VECTOR_REGISTERS = 6, 8
"""Registers that carry arguments."""
WORD = 8

CALL = b"\xe8\0\0\0\0"
ENTER = bytes.fromhex("55 4889e5")
LEAVE = bytes.fromhex("c9 c3")
# sub $n, %rsp; mov $n, %r10d; 1: mov 8(%rbp,%r10), %r11; mov %r11, -8(%rsp,%r10); sub $8, %r10; jne 1b
COPY = "4881ec {0} 41ba {0} 4e8b5c1508 4e895c14f8 4983ea08 75f0"
TAKE_EXCEPTION = bytes.fromhex("4889c7")
# xor %eax, %eax; xor %edx, %edx; pxor %xmm0, %xmm0; pxor %xmm1, %xmm1
CLEAR = bytes.fromhex("31c0 31d2 660fefc0 660fefc9")
CLEAR_X87 = bytes.fromhex("d9ee")

FOUND, INSTALL, CONTINUE = 6, 7, 8
"""_URC_HANDLER_FOUND, _URC_INSTALL_CONTEXT, _URC_CONTINUE_UNWIND."""


@dataclass(frozen=True)
class AdapterCode:
    """The parts of an adapter, each a piece of machine code or data with its references.

    Attributes: adapter (refers to "target" and "handler"); landing (the offset of its landing pad);
    personality (refers to "landing"); unwind (its .eh_frame; refers to "adapter" and "personality").
    """

    adapter: Routine
    landing: int
    personality: Routine
    unwind: Routine


def exception_adapter(stack_size: int, *, x87_result: bool) -> AdapterCode:
    """Write the adapter of a function.

    stack_size: bytes of arguments on the stack, at least as many as there are. x87_result: the function
    returns a long double, which its caller will take from the stack of the x87.
    """
    copied = -(-stack_size // 16) * 16
    code = ENTER
    if copied:
        code += bytes.fromhex(COPY.format(copied.to_bytes(4, "little").hex()))
    target = len(code) + 1
    code += CALL + LEAVE
    landing = len(code)
    handler = landing + len(TAKE_EXCEPTION) + 1
    code += TAKE_EXCEPTION + CALL + CLEAR + (CLEAR_X87 if x87_result else b"") + LEAVE
    edges = ((target, "R_X86_64_PLT32", "target", -4), (handler, "R_X86_64_PLT32", "handler", -4))
    adapter = Routine(code, edges, always=True)
    return AdapterCode(adapter, landing, PERSONALITY, _unwind_record(len(code), landing))


def _personality() -> Routine:
    """The personality routine: (version, actions in %esi, class, exception in %rcx, context in %r8)."""
    code = bytes.fromhex("40f6c601 7406")  # test $_UA_SEARCH_PHASE, %sil; je 1f
    code += b"\xb8" + struct.pack("<I", FOUND) + b"\xc3"
    code += bytes.fromhex("40f6c604 7427")  # 1: test $_UA_HANDLER_FRAME, %sil; je 2f
    code += bytes.fromhex("53 4c89c3 4c89c7 31f6 4889ca")  # push %rbx; context, register 0 and the exception
    edges = [(len(code) + 1, "R_X86_64_PLT32", "_Unwind_SetGR", -4)]
    code += CALL
    code += bytes.fromhex("4889df 488d35")  # the context again, and the landing pad
    edges.append((len(code), "R_X86_64_PC32", "landing", -4))
    code += bytes(4)
    edges.append((len(code) + 1, "R_X86_64_PLT32", "_Unwind_SetIP", -4))
    code += CALL
    code += b"\xb8" + struct.pack("<I", INSTALL) + bytes.fromhex("5b c3")
    code += b"\xb8" + struct.pack("<I", CONTINUE) + b"\xc3"  # 2:
    return Routine(code, tuple(edges), always=True)


PERSONALITY = _personality()


def _unwind_record(size: int, landing: int) -> Routine:
    """The .eh_frame of an adapter: one CIE, one FDE. size: of its code, bytes."""
    # Version 1, augmentation, alignment factors 1 and -8, return address in column 16.
    head = b"\x01zPR\0\x01\x78\x10"
    # Augmentation data: personality and FDE pointers are relative to themselves, in 4 bytes.
    data = b"\x06\x1b\0\0\0\0\x1b"
    # The CFA is %rsp + 8, and the return address is below it.
    cie = padded_record(bytes(4) + head + data + b"\x0c\x07\x08\x90\x01")
    personality = 4 + len(bytes(4) + head) + 2
    rules = b"\x41\x0e\x10\x86\x02"  # behind push: CFA + 8, %rbp is saved
    rules += b"\x43\x0d\x06"  # behind mov: the CFA is counted from %rbp
    # Behind the first leave it is counted from %rsp, and at the landing pad from %rbp again.
    rules += b"\x0a" + _advance(landing - 1 - len(ENTER)) + b"\x0c\x07\x08" + _advance(1) + b"\x0b"
    rules += _advance(size - 1 - landing) + b"\x0c\x07\x08"
    fde = padded_record(struct.pack("<IIIB", len(cie) + 4, 0, size, 0) + rules)
    begin = len(cie) + 8
    edges = (
        (personality, "R_X86_64_PC32", "personality", 0),
        (begin, "R_X86_64_PC32", "adapter", 0),
    )
    return Routine(cie + fde, edges, always=True)


def padded_record(body: bytes) -> bytes:
    """A record with its length in front, filled with DW_CFA_nop to a multiple of 8 bytes."""
    body += bytes(-(len(body) + 4) % 8)
    return struct.pack("<I", len(body)) + body


def _advance(distance: int) -> bytes:
    """DW_CFA_advance_loc, or with the distance in a byte of its own where it takes more than 6 bits."""
    return bytes([0x40 | distance]) if distance < 64 else bytes([0x02, distance])
