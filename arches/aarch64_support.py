"""AArch64 code for the functions that C libraries have only in their static part.

What they are for, jitlink.arches.x86_64_support says. The versions that the stat and mknod families pass
are both 0 on AArch64 (glibc 2.32, sysdeps/unix/sysv/linux/generic/bits/stat.h).
"""

from __future__ import annotations

from jitlink.arches.architecture import Routine

DSO_HANDLE = "__dso_handle"
STP_X29_X30, LDP_X29_X30, RET = 0xA9BE7BFD, 0xA8C27BFD, 0xD65F03C0
"""stp x29, x30, [sp, #-32]! and ldp x29, x30, [sp], #32; ret."""
CLEAR_W0 = 0x52800000
B, BL = 0x14000000, 0x94000000

Part = int | tuple[int, str, str]
"""An instruction, or one with the kind and the name of what it refers to."""


def _assembled(*parts: Part, always: bool = False) -> Routine:
    """Put instructions together."""
    content = b""
    edges = []
    for part in parts:
        word = part
        if isinstance(part, tuple):
            word, kind, target = part
            edges.append((len(content), kind, target, 0))
        assert isinstance(word, int)
        content += word.to_bytes(4, "little")
    return Routine(content, tuple(edges), always)


def _move(to: int, source: int) -> int:
    """mov Xto, Xsource."""
    return 0xAA0003E0 | source << 16 | to


def _moved_on(count: int) -> list[int]:
    """Move that many arguments one register on, last first, and put version 0 before them."""
    return [*(_move(register + 1, register) for register in reversed(range(count))), CLEAR_W0]


def _jump(function: str) -> Part:
    return (B, "R_AARCH64_JUMP26", function)


def _register(handle: int, function: str, *before: int) -> Routine:
    """Call the real function with the handle of the dylib in one more register."""
    adrp, add = 0x90000000 | handle, 0x91000000 | handle << 5 | handle
    load_handle = (
        (adrp, "R_AARCH64_ADR_PREL_PG_HI21", DSO_HANDLE),
        (add, "R_AARCH64_ADD_ABS_LO12_NC", DSO_HANDLE),
    )
    return _assembled(*before, *load_handle, _jump(function), always=True)


def _versioned(arguments: int, function: str) -> Routine:
    return _assembled(*_moved_on(arguments), _jump(function))


def _with_device(arguments: int, function: str) -> Routine:
    """Make a node: the device is the last argument, which the real function takes by pointer."""
    device = arguments - 1
    spill = 0xF9000BE0 | device  # str Xdevice, [sp, #16]
    point_at_it = 0x910043E0 | arguments  # add Xarguments, sp, #16
    call = (BL, "R_AARCH64_CALL26", function)
    return _assembled(STP_X29_X30, spill, point_at_it, *_moved_on(device), call, LDP_X29_X30, RET)


CLEAR_X1 = _move(1, 31)

# mrs x1, tpidr_el0; ldp x2, x3, [x0]; add x0, x1, x2; add x0, x0, x3
GET_ADDRESS = 0xD53BD041, 0xA9400C02, 0x8B020020, 0x8B030000

SUPPORT = {
    "__tls_get_addr": _assembled(*GET_ADDRESS, RET),
    "atexit": _register(2, "__cxa_atexit", CLEAR_X1),
    "at_quick_exit": _register(1, "__cxa_at_quick_exit"),
    "pthread_atfork": _register(3, "__register_atfork"),
    "mknod": _with_device(3, "__xmknod"),
    "mknodat": _with_device(4, "__xmknodat"),
}
for _suffix in ("", "64"):
    SUPPORT |= {
        f"stat{_suffix}": _versioned(2, f"__xstat{_suffix}"),
        f"lstat{_suffix}": _versioned(2, f"__lxstat{_suffix}"),
        f"fstat{_suffix}": _versioned(2, f"__fxstat{_suffix}"),
        f"fstatat{_suffix}": _versioned(4, f"__fxstatat{_suffix}"),
    }
