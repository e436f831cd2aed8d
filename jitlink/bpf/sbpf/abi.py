"""The record: what a machine, the native code of a program and native syscalls share.

A native syscall is a C function

    uint64_t syscall(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, Record *record);

whose result becomes r0. Its pointers are addresses of the program, which

    uint8_t *translate(Record *record, uint64_t address, uint64_t size, uint64_t write);

at `record->translate` turns into addresses of the host; NULL where the program has no such memory. It charges by
taking from `record->budget`, and fails by setting `record->status` to FAULT: the program is then stopped.

The record begins as that of BPF (jitlink.bpf.jit.abi), so that back ends can work on either. What is different:

- `place` of the optimising tier is a slot of the program, and so is `target`.
- `frame` and `last_frame` are ends of frames in the host's memory; there, frames lie side by side.
- Native code finds memory in `readable` and `writable`, by the upper half of an address: see Window.
- One-pass code compares an address with a site, whose `start` is one of the program. `hosts` has, for each site,
  where the start lies in the host's memory. A site of a stack with gaps holds one frame.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

from jitlink.bpf.jit import abi as bpf
from jitlink.bpf.sbpf.memory import REGIONS


class Status(IntEnum):
    """What native code, or what it has called, says of how things go on."""

    RUNNING = bpf.Status.RUNNING
    OUT_OF_BUDGET = bpf.Status.OUT_OF_BUDGET
    """Left: the block at place does not fit the budget. In one-pass code it was taken from it, else nothing was."""
    FAULT = bpf.Status.FAULT
    """Left: the instruction at place cannot be carried out. Of a native syscall: it has failed."""
    RAISED = bpf.Status.RAISED
    """Left: Python has raised, and keeps the exception."""
    SYSCALL_FAILED = 7
    """Left: the native syscall that is called at place has failed, or has charged more than there was."""


class Window(ctypes.Structure):
    """A region as native code sees it.

    start (the lower half of its first address); size (bytes, none where there is no access); host (where they
    are); gapped (not 0: in the program's addresses a gap follows each frame).
    """

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("host", ctypes.c_uint64),
        ("gapped", ctypes.c_uint64),
    )


class Record(ctypes.Structure):
    """The record: that of BPF, and more.

    hosts (of sites); text (address of the program's first instruction); translate, call_slot (C functions: see
    above; a function that has no native code in the optimising tier); depth (active functions, in that tier);
    readable, writable.
    """

    _fields_ = (
        *bpf.Record._fields_,
        ("hosts", ctypes.c_uint64 * bpf.SITES),
        ("text", ctypes.c_uint64),
        ("translate", ctypes.c_uint64),
        ("call_slot", ctypes.c_uint64),
        ("depth", ctypes.c_uint64),
        ("readable", Window * REGIONS),
        ("writable", Window * REGIONS),
    )


OFFSET: dict[str, int] = {name: getattr(Record, name).offset for name, _ in Record._fields_}
"""Where each field of the record lies, in bytes from its start."""
WINDOW_SIZE = ctypes.sizeof(Window)
RECORD_SIZE = ctypes.sizeof(Record)
TRANSLATE = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NATIVE_SYSCALL = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5, ctypes.POINTER(Record))
