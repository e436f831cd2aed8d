"""What native code of a BPF program is called with, what it keeps to, and how it leaves.

This is the contract between everything that runs natively: the one-pass back ends, the optimising tier,
helpers in machine code, and the machine in Python that starts a run and hears of its end.

**The record.** Native code has one pointer to everything that is not in registers: the Record, a ctypes
structure in memory that it reads and writes. A machine has one; a run on another thread has one of its
own. Code is never written to, and holds no address of a record, so that any number of threads can run it.

**Addresses are real.** A BPF pointer is an address of this process (jitlink.bpf.regions), so an access
needs no translation, only a check. A pointer to a function of the program is the exception: it is
FUNCTION_BASE + 8 * index of an instruction (jitlink.bpf.machine), and nothing is mapped there.

**Entry.** An image has one C function, `void enter(Record *, const void *target)`. It saves the host's
registers, zeroes `stack_to_clear` words of the stack, loads r0 to r10 from `registers` and the meter from
`budget`, and calls target, the code of an instruction. When the BPF function returns, registers and meter
are stored again, and `status` is RUNNING. `enter` nests: a helper may call back into the program, see `stack_pointer`.

**Inside.** A BPF function is entered by the host's call and returns by its return instruction. The caller
saves r6 to r10, and `may_goto` where the program counts it; the callee finds r10 and `frame` moved to the
next frame. Frame k ends at `stack + (k + 1) * FRAME_STRIDE`; its 512 bytes lie just below.

**The meter.** A basic block takes the number of its instructions from the budget before it runs. Where the
budget does not suffice, nothing of the block has run, and the code leaves with OUT_OF_BUDGET; the machine
carries out what the budget still allows on the interpreter. Every call ends a block, so that the budget
is exact whenever anything outside of the program looks at it. A fault in the middle of a block gives
back what was not carried out; the machine knows the block, and does the sum.

**Leaving.** Code that cannot go on stores the place in itself that it leaves from (`place`, an address
behind an instruction of the program), all registers and the budget, sets `status`, puts the host's stack
back to `stack_pointer` and returns from `enter`. It says no more than that: the machine finds the
instruction by its place, and lets the interpreter carry it out, so that the fault that a person reads is
the interpreter's own.

**Calls to the outside.** An instruction that native code does not carry out by itself (a helper in Python,
a legacy packet load) is given to `callback(Record *)`, with all registers stored. Afterwards `status` says
how to go on: RUNNING, with all registers loaded again; RETURN from the function; CONTINUE at `target`
(a tail call); or anything else, which leaves.

**Native helpers** are C functions `uint64_t helper(uint64_t r1, ... r5, Record *record)`, for which r0 to
r9 need not be in `registers`, while `budget`, `frame` and `place` are right. One that cannot do what is asked
changes nothing and sets `status` to DECLINED (any value but RUNNING says the same): then the instruction goes to the
callback, with all registers as they were before the call, and the helper of that number in Python does it, or says
why it cannot be done. r1 to r5 are POISON afterwards. `host` is the address of what the host of the helpers shows to
machine code (jitlink.bpf.helpers.host), or 0.

**Checks.** `regions` points at `region_count` rows of REGION, disjoint, ascending by address: the memory
of the program without its stack. An access that no proof covers is compared with one of `sites`, a region
that was used before; where it does not lie inside, the row that holds it is looked for and kept there.
A site's bounds say for each size of access how many start addresses are good; all zero, a site holds none.
Sites with an even number are for reading, odd ones for writing, so that read-only memory is in no odd one.
Whoever takes memory away clears the sites. Frames of the stack are found by arithmetic; where one of a
callee was kept, `stack_kept` is set and the return clears the sites.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

import numpy as np

from jitlink.bpf.isa import CALL_DEPTH, REGISTERS, STACK_SIZE

FRAME_STRIDE = 2 * STACK_SIZE
"""Bytes from the end of one frame to that of the next; the upper half is the frame, the rest a gap."""
STACK_BYTES = FRAME_STRIDE * CALL_DEPTH

SITES = 24
"""How many regions are remembered: for 11 registers, for reading and for writing, and two to spare."""
SIZES = (1, 2, 4, 8)
"""Bytes of an access; a site has a bound for each."""

REGION = np.dtype([("address", "u8"), ("size", "u8"), ("writable", "u8")])
"""A row of the table of regions."""


class Status(IntEnum):
    """What native code, or whatever it has called, says of how things go on."""

    RUNNING = 0
    RETURN = 1
    """After callback: return from the function, with the registers as stored."""
    CONTINUE = 2
    """After callback: go on at target in place of the function, with the registers as stored."""
    OUT_OF_BUDGET = 3
    """Left: the block at place does not fit the budget, from which it was taken."""
    FAULT = 4
    """Left: the instruction at place cannot be carried out."""
    RAISED = 5
    """Left, or after callback: Python has raised, and keeps the exception."""
    DECLINED = 6
    """After a native helper: the one in Python is to be called in its place."""


class Site(ctypes.Structure):
    """A region that was used before. bounds: for 1, 2, 4 and 8 bytes, how many addresses from start are good."""

    _fields_ = (("start", ctypes.c_uint64), ("bounds", ctypes.c_uint64 * len(SIZES)))


class Record(ctypes.Structure):
    """What native code of a program shares with the world.

    sites; registers (r0 to r10, stored when code leaves or calls outside); budget (instructions left);
    status; place (of native code, behind an instruction); target (native code to go on at); stack_pointer
    (of the host, as enter left it; enter keeps that of an outer run); frame (end of the active function's:
    r10, as long as no program changes it); last_frame (end of the last one that there is); stack (frame 0
    ends at stack + FRAME_STRIDE); stack_to_clear (8-byte words that enter zeroes at the start of it);
    stack_kept (not 0: a site holds a frame that a return ends); may_goto (rounds that this activation has
    left); may_goto_limit (what a new one gets); regions, region_count; callback; host (for native helpers);
    scratch (for a single instruction).
    """

    _fields_ = (
        ("sites", Site * SITES),
        ("registers", ctypes.c_uint64 * REGISTERS),
        ("budget", ctypes.c_int64),
        ("status", ctypes.c_uint64),
        ("place", ctypes.c_uint64),
        ("target", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("frame", ctypes.c_uint64),
        ("last_frame", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("stack_to_clear", ctypes.c_uint64),
        ("stack_kept", ctypes.c_uint64),
        ("may_goto", ctypes.c_int64),
        ("may_goto_limit", ctypes.c_int64),
        ("regions", ctypes.c_uint64),
        ("region_count", ctypes.c_uint64),
        ("callback", ctypes.c_uint64),
        ("host", ctypes.c_uint64),
        ("scratch", ctypes.c_uint64 * 2),
    )


OFFSET: dict[str, int] = {name: getattr(Record, name).offset for name, _ in Record._fields_}
"""Where each field of the record lies, in bytes from its start."""
SITE_SIZE = ctypes.sizeof(Site)
RECORD_SIZE = ctypes.sizeof(Record)
