"""The record: what a machine, the native code of a program and native syscalls share.

A native syscall is a C function

    uint64_t syscall(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, Record *record);

whose result becomes r0. Its pointers are addresses of the program, which

    uint8_t *translate(Record *record, uint64_t address, uint64_t size, uint64_t write);

at `record->translate` turns into addresses of the host; NULL where the program has no such memory. It charges by
taking from `record->budget`, and fails by setting `record->status` to FAULT: the program is then stopped.

Native code finds memory in `readable` and `writable`, by the upper half of an address: the lower half of the
first address that there is, how many bytes, and where they are in the host. No bytes means no access.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

from jitlink.bpf.sbpf.isa import REGISTERS
from jitlink.bpf.sbpf.memory import REGIONS


class Status(IntEnum):
    """What native code, or what it has called, says of how things go on."""

    RUNNING = 0
    OUT_OF_BUDGET = 1
    """Left: the block at place does not fit the budget; nothing of it was taken or has run."""
    FAULT = 2
    """Left: the instruction at place cannot be carried out. Of a native syscall: it has failed."""
    RAISED = 3
    """Left: Python has raised, and keeps the exception."""
    SYSCALL_FAILED = 4
    """Left: the native syscall that is called at place has failed."""
    OVERDRAWN = 5
    """Left: the native syscall that is called at place has charged more than there was."""


class Window(ctypes.Structure):
    """A region as native code sees it."""

    _fields_ = (("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("host", ctypes.c_uint64))


class Record(ctypes.Structure):
    """The record.

    registers (r0 to r10, as of the last call to the outside); budget (units left); status; place (slot
    where code has left, or calls from); target (of an indirect call); depth (active functions); translate,
    callback, call_slot (C functions: see above; a syscall in Python; a function that has no native code);
    readable, writable.
    """

    _fields_ = (
        ("registers", ctypes.c_uint64 * REGISTERS),
        ("budget", ctypes.c_int64),
        ("status", ctypes.c_uint64),
        ("place", ctypes.c_uint64),
        ("target", ctypes.c_uint64),
        ("depth", ctypes.c_uint64),
        ("translate", ctypes.c_void_p),
        ("callback", ctypes.c_void_p),
        ("call_slot", ctypes.c_void_p),
        ("readable", Window * REGIONS),
        ("writable", Window * REGIONS),
    )


OFFSET: dict[str, int] = {name: getattr(Record, name).offset for name, _ in Record._fields_}
"""Where each field of the record lies, in bytes from its start."""
TRANSLATE = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NATIVE_SYSCALL = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5, ctypes.POINTER(Record))
