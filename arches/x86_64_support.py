"""x86-64 code for the functions that C libraries have only in their static part.

glibc keeps a few functions in libc_nonshared.a, since they must know the shared object they are called
from or the layout that it was compiled for. Objects refer to them, and dlsym does not find them.

- atexit, at_quick_exit and pthread_atfork bind a handler to the shared object that registers it, by its
  __dso_handle; here that is the dylib, so that its handlers run or vanish when it is closed.
- The stat and mknod families of glibc before 2.33 pass the version of their structures to the real
  function (_STAT_VER is 1 and _MKNOD_VER is 0 on x86-64: glibc 2.32, bits/stat.h).

Where no dynamic loader has made the blocks of thread-local variables, no loader's __tls_get_addr finds them;
ours adds the two words that it is given to the thread pointer (see jitlink.passes.thread_storage).
"""

from __future__ import annotations

from jitlink.arches.architecture import Routine
from jitlink.arches.x86_64_thread_exit import BOUND

JUMP = "e900000000"
CALL = "e800000000"
DSO_HANDLE = "__dso_handle"


def _assembled(*parts: str | tuple[str, str], always: bool = False) -> Routine:
    """Put hexadecimal code together; a pair is an instruction that ends with a reference, and its target."""
    content = b""
    edges = []
    for part in parts:
        code, target = (part, "") if isinstance(part, str) else part
        content += bytes.fromhex(code)
        if target:
            kind = "R_X86_64_PC32" if target == DSO_HANDLE else "R_X86_64_PLT32"
            edges.append((len(content) - 4, kind, target, -4))
    return Routine(content, tuple(edges), always)


def _register(load_dso_handle: str, function: str, clear: str = "") -> Routine:
    return _assembled((load_dso_handle, DSO_HANDLE), clear, (JUMP, function), always=True)


def _versioned(shuffle: str, function: str) -> Routine:
    return _assembled(shuffle, "bf01000000", (JUMP, function))


# lea __dso_handle(%rip) into the argument register that the real function takes it in.
DSO_IN_RDX, DSO_IN_RSI, DSO_IN_RCX = "488d1500000000", "488d3500000000", "488d0d00000000"
CLEAR_ESI = "31f6"
READ_THREAD_POINTER = "64488b042500000000"
# Move two or four arguments one register on, last first, to make room for the version in %edi.
TWO_ON = "4889f24889fe"
FOUR_ON = "4989c84889d1" + TWO_ON
# mknod takes the device by value and the real function by pointer: it is put on the stack.
SPILL_RDX = "4883ec184889542408488d4c240889f24889fe31ff"
SPILL_RCX = "4883ec1848894c24084c8d44240889d14889f289fe31ff"
RETURN = "4883c418c3"

SUPPORT = {
    "atexit": _register(DSO_IN_RDX, "__cxa_atexit", CLEAR_ESI),
    "at_quick_exit": _register(DSO_IN_RSI, "__cxa_at_quick_exit"),
    "pthread_atfork": _register(DSO_IN_RCX, "__register_atfork"),
    "__cxa_thread_atexit": BOUND,
    "__cxa_thread_atexit_impl": BOUND,
    "__tls_get_addr": _assembled(READ_THREAD_POINTER, "480307", "48034708", "c3"),
    "mknod": _assembled(SPILL_RDX, (CALL, "__xmknod"), RETURN),
    "mknodat": _assembled(SPILL_RCX, (CALL, "__xmknodat"), RETURN),
}
for _suffix in ("", "64"):
    SUPPORT |= {
        f"stat{_suffix}": _versioned(TWO_ON, f"__xstat{_suffix}"),
        f"lstat{_suffix}": _versioned(TWO_ON, f"__lxstat{_suffix}"),
        f"fstat{_suffix}": _versioned(TWO_ON, f"__fxstat{_suffix}"),
        f"fstatat{_suffix}": _versioned(FOUR_ON, f"__fxstatat{_suffix}"),
    }
