"""x86-64 code for the destructors of thread-local objects: registering them, and running them.

C++ and Rust register the destructor of a thread-local object with `__cxa_thread_atexit_impl` when the thread
has constructed it, and the C library calls it when the thread ends. For a shared library the C library then
keeps the library loaded; of linked code it knows nothing. So a dylib registers through this code, which

- counts for each dylib how many destructors are still to be called, so that its code stays until then,
- keeps a list of them for each thread, so that a thread that closes a dylib can call its own at once.

An entry of the list is { destructor, object, counter of the dylib, older entry }, made by malloc. Destructors
that a thread has called early have a 0 in the place of their address. The C library calls what it was given
last first, so the entry that it asks for is always the newest of its thread.

This code serves all dylibs and is never unmapped, since the C library calls into it until the last thread
ends. See jitlink.execution.thread_exits.

Source: Itanium C++ ABI, 3.3.6 and 3.3.5.3; the wiki of glibc, Destructor support for thread_local variables.
"""

from __future__ import annotations

from jitlink.arches.architecture import Routine
from jitlink.arches.thread_locals import AT_THREAD_EXIT, COUNTER, FINISH_THREAD, NEWEST_EXIT, RUN_EXIT

CALL, JUMP = "R_X86_64_PLT32", "R_X86_64_PLT32"
ADDRESS, ADDRESS64, THREAD_LOCAL = "R_X86_64_PC32", "R_X86_64_64", "R_X86_64_TLSGD"


def _assembled(*lines: str | tuple[str, str, str], requires: str = "") -> Routine:
    """Put hexadecimal code together; three strings are code that ends with a reference, its kind and its target."""
    content = b""
    edges = []
    for line in lines:
        code, kind, target = (line, "", "") if isinstance(line, str) else line
        content += bytes.fromhex(code)
        if kind:
            size, addend = (8, 0) if kind == ADDRESS64 else (4, -4)
            edges.append((len(content) - size, kind, target, addend))
    return Routine(content, tuple(edges), always=True, requires=requires)


# fmt: off
GET_NEWEST = (
    ("66488d3d00000000", THREAD_LOCAL, NEWEST_EXIT),  # data16 lea newest@tlsgd(%rip), %rdi
    ("666648e800000000", CALL, "__tls_get_addr"),     # data16 data16 rex64 call __tls_get_addr
)
RETURN_THREE = "415d415c5b"                           # pop %r13, %r12, %rbx

REGISTER = _assembled(
    # int register(void destructor(void *), void *object, long *counter)
    "5341544155",                                     # push %rbx, %r12, %r13
    "4889fb4989f44989d5",                             # mov %rdi, %rbx; mov %rsi, %r12; mov %rdx, %r13
    "bf20000000",                                     # mov $32, %edi
    ("e800000000", CALL, "malloc"),
    "4885c07444",                                     # test %rax, %rax; je failed
    "4889184c8960084c896810",                         # mov %rbx, (%rax); mov %r12, 8(%rax); mov %r13, 16(%rax)
    "4889c3",                                         # mov %rax, %rbx
    *GET_NEWEST,
    "488b0848894b18488918",                           # mov (%rax), %rcx; mov %rcx, 24(%rbx); mov %rbx, (%rax)
    "f049ff4500",                                     # lock incq (%r13)
    ("488d3d00000000", ADDRESS, RUN_EXIT),            # lea run(%rip), %rdi
    "4889de4889fa",                                   # mov %rbx, %rsi; mov %rdi, %rdx: a handle of no library
    RETURN_THREE,
    ("e900000000", JUMP, "__cxa_thread_atexit_impl"),
    "83c8ff", RETURN_THREE, "c3",                     # failed: or $-1, %eax; ret
)
RUN = _assembled(
    # void run(struct entry *)
    "534889fb",                                       # push %rbx; mov %rdi, %rbx
    *GET_NEWEST,
    "488b4b18488908",                                 # mov 24(%rbx), %rcx; mov %rcx, (%rax)
    "488b034885c0740e",                               # mov (%rbx), %rax; test %rax, %rax; je done
    "488b7b08ffd0",                                   # mov 8(%rbx), %rdi; call *%rax
    "488b4310f048ff08",                               # mov 16(%rbx), %rax; lock decq (%rax)
    "4889df5b",                                       # done: mov %rbx, %rdi; pop %rbx
    ("e900000000", JUMP, "free"),
)
FINISH = _assembled(
    # void finish(long *counter)
    "534154" "4883ec08" "4989fc",                     # push %rbx, %r12; sub $8, %rsp; mov %rdi, %r12
    *GET_NEWEST,                                      # again:
    "488b18",                                         # mov (%rax), %rbx
    "4885db7428",                                     # look: test %rbx, %rbx; je out
    "4c396310751c",                                   # cmp %r12, 16(%rbx); jne older
    "488b034885c07414",                               # mov (%rbx), %rax; test %rax, %rax; je older
    "48c70300000000",                                 # movq $0, (%rbx)
    "488b7b08ffd0",                                   # mov 8(%rbx), %rdi; call *%rax
    "f049ff0c24",                                     # lock decq (%r12)
    "ebc6",                                           # jmp again
    "488b5b18ebd3",                                   # older: mov 24(%rbx), %rbx; jmp look
    "4883c408415c5bc3",                               # out: add $8, %rsp; pop %r12, %rbx; ret
)
# fmt: on

EXIT_CODE = {AT_THREAD_EXIT: REGISTER, RUN_EXIT: RUN, FINISH_THREAD: FINISH}

BOUND = _assembled(
    ("48ba0000000000000000", ADDRESS64, COUNTER),  # movabs $counter, %rdx
    ("e900000000", JUMP, AT_THREAD_EXIT),
    requires=AT_THREAD_EXIT,
)
"""What a dylib has in the place of __cxa_thread_atexit: it says whose counter is meant, whatever handle is given."""
