"""RISC-V code for the functions that C libraries have only in their static part.

They are those of x86_64_support, for the same reasons. glibc's versions of its structures on RISC-V are
those of all newer machines: _STAT_VER and _MKNOD_VER are 0 (glibc 2.32, sysdeps/unix/sysv/linux/generic).
"""

from __future__ import annotations

import struct

from jitlink.arches.architecture import Routine

DSO_HANDLE = "__dso_handle"
UPPER, LOWER, CALL = "R_RISCV_PCREL_HI20", "PCREL_LO12_I, paired", "R_RISCV_CALL_PLT"
INSTRUCTION = 4


def _assembled(*parts: int | str, always: bool = False) -> Routine:
    """Put instruction words together; a name stands behind the two instructions that refer to it."""
    content = b""
    edges: list[tuple[int, str, str, int]] = []
    for part in parts:
        if isinstance(part, int):
            content += struct.pack("<I", part)
            continue
        first = len(content) - 2 * INSTRUCTION
        if part == DSO_HANDLE:
            # The addend of the lower part makes up for its place, one instruction on.
            edges += [(first, UPPER, part, 0), (first + INSTRUCTION, LOWER, part, INSTRUCTION)]
        else:
            edges.append((first, CALL, part, 0))
    return Routine(content, tuple(edges), always)


# auipc and addi that put the address of __dso_handle into the argument register that it is wanted in.
DSO_IN_A1 = (0x00000597, 0x00058593, DSO_HANDLE)
DSO_IN_A2 = (0x00000617, 0x00060613, DSO_HANDLE)
DSO_IN_A3 = (0x00000697, 0x00068693, DSO_HANDLE)
CLEAR_A0, CLEAR_A1 = 0x00000513, 0x00000593
JUMP = (0x00000317, 0x00030067)
"""auipc t1, and jr t1."""

# Move arguments one register on, last first, to make room for the version in a0.
A1_ON, A0_ON = 0x00058613, 0x00050593
TWO_ON = (A1_ON, A0_ON, CLEAR_A0)
FOUR_ON = (0x00068713, 0x00060693, A1_ON, A0_ON, CLEAR_A0)

# mknod takes the device by value and the real function by pointer: it is put on the stack, beside ra.
OPEN_FRAME = (0xFE010113, 0x00113C23)
CALL_AND_RETURN = (0x00000097, 0x000080E7)
CLOSE_FRAME = (0x01813083, 0x02010113, 0x00008067)
SPILL_A2 = (0x00C13423, 0x00810693)
SPILL_A3 = (0x00D13423, 0x00810713, 0x00060693)


def _stat(shuffle: tuple[int, ...], function: str) -> Routine:
    return _assembled(*shuffle, *JUMP, function)


def _mknod(spill: tuple[int, ...], function: str) -> Routine:
    return _assembled(*OPEN_FRAME, *spill, *TWO_ON, *CALL_AND_RETURN, function, *CLOSE_FRAME)


# ld a1, 0(a0); ld a0, 8(a0); add a0, a0, a1; add a0, a0, tp; twice addi a0, a0, 0x400: half of the bias; ret
GET_ADDRESS = (0x00053583, 0x00853503, 0x00B50533, 0x00450533, 0x40050513, 0x40050513, 0x00008067)

SUPPORT = {
    "__tls_get_addr": _assembled(*GET_ADDRESS),
    "atexit": _assembled(*DSO_IN_A2, CLEAR_A1, *JUMP, "__cxa_atexit", always=True),
    "at_quick_exit": _assembled(*DSO_IN_A1, *JUMP, "__cxa_at_quick_exit", always=True),
    "pthread_atfork": _assembled(*DSO_IN_A3, *JUMP, "__register_atfork", always=True),
    "mknod": _mknod(SPILL_A2, "__xmknod"),
    "mknodat": _mknod(SPILL_A3, "__xmknodat"),
}
for _suffix in ("", "64"):
    SUPPORT |= {
        f"stat{_suffix}": _stat(TWO_ON, f"__xstat{_suffix}"),
        f"lstat{_suffix}": _stat(TWO_ON, f"__lxstat{_suffix}"),
        f"fstat{_suffix}": _stat(TWO_ON, f"__fxstat{_suffix}"),
        f"fstatat{_suffix}": _stat(FOUR_ON, f"__fxstatat{_suffix}"),
    }
