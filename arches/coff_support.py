"""What Windows compilers take for granted in their C library, as code and data of our own.

    __chkstk, ___chkstk_ms         touch the stack page by page before a function takes more than one page of it:
                                   x86-64 with the bytes in RAX, ARM64 with units of 16 bytes in X15
    __main                         called by main of GNU tools to run initialisers, which have run by then
    __security_cookie, __stack_chk_guard       what a function puts on its stack, and
    __security_check_cookie        looks for before it returns
    __C_specific_handler, ...      handlers of exceptions, which unwind records refer to. No unwinder reads
                                   those records here (see docs/coff.md), so that nothing ever calls them
    _fltused                       says that an object computes with floating-point numbers

The code follows what is documented of these functions: which registers they take and which they keep.

Source: Microsoft, "x64 prolog and epilog", "/GS (Buffer Security Check)", "Overview of ARM64 ABI conventions".
"""

from __future__ import annotations

from jitlink.arches.architecture import Routine

COOKIE = (0x2B992DDFA232).to_bytes(8, "little")
"""The default of Microsoft's C library, where nothing else has been chosen at the start of a program."""
DATA = {"__security_cookie": COOKIE, "__stack_chk_guard": COOKIE}
ABSOLUTE = {"_fltused": 0x9875}

HANDLERS = (
    "__C_specific_handler",
    "__CxxFrameHandler3",
    "__CxxFrameHandler4",
    "__GSHandlerCheck",
    "__GSHandlerCheck_EH",
    "__GSHandlerCheck_EH4",
    "__GSHandlerCheck_SEH",
    "__gxx_personality_seh0",
    "__gcc_personality_seh0",
    "rust_eh_personality",
)


def _code(text: str, *edges: tuple[int, str, str, int]) -> Routine:
    return Routine(bytes.fromhex(text), edges, always=False)


# push rcx; push rax; cmp rax, 4096; lea rcx, [rsp+24]; jb last
# page: sub rcx, 4096; or qword ptr [rcx], 0; sub rax, 4096; cmp rax, 4096; ja page
# last: sub rcx, rax; or qword ptr [rcx], 0; pop rax; pop rcx; ret
PROBE_X86_64 = _code(
    "51 50 48 3d00100000 488d4c2418 72194881e900100000 48830900 482d00100000 483d00100000 77e74829c1 48830900 58 59 c3"
)
# cmp rcx, [rip + __security_cookie]; jne fail; ret; fail: ud2
CHECK_COOKIE_X86_64 = _code("483b0d00000000 7501 c3 0f0b", (3, "R_X86_64_PC32", "__security_cookie", -4))
# lsl x16, x15, #4; mov x17, sp; page: sub x17, x17, #4096; subs x16, x16, #4096; ldr xzr, [x17]; b.gt page; ret
PROBE_AARCH64 = _code("f0ed7cd3 f1030091 310640d1 100640f1 3f0240f9 acffff54 c0035fd6")
# adrp x9, cookie; ldr x9, [x9, lo12 cookie]; cmp x0, x9; b.ne fail; ret; fail: brk #1
CHECK_COOKIE_AARCH64 = _code(
    "09000090 290140f9 1f0009eb 41000054 c0035fd6 200020d4",
    (0, "R_AARCH64_ADR_PREL_PG_HI21", "__security_cookie", 0),
    (4, "R_AARCH64_LDST64_ABS_LO12_NC", "__security_cookie", 0),
)

ROUTINES = {
    "x86_64": {
        "__chkstk": PROBE_X86_64,
        "___chkstk_ms": PROBE_X86_64,
        "__main": _code("c3"),
        "__security_check_cookie": CHECK_COOKIE_X86_64,
        **dict.fromkeys(HANDLERS, _code("0f0b")),
    },
    "aarch64": {
        "__chkstk": PROBE_AARCH64,
        "__main": _code("c0035fd6"),
        "__security_check_cookie": CHECK_COOKIE_AARCH64,
        **dict.fromkeys(HANDLERS, _code("200020d4")),
    },
}
"""By the name of the architecture."""
