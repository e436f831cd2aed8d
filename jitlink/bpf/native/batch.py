"""The loop over many packets, in machine code.

For each packet it puts context and registers into the state that every run begins with, copies the packet to where
the program finds it, enters the program, and notes what it came to. It stops behind a run that did not
end by itself, or during which Python was called: what comes then is for Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from jitlink.bpf.isa import REGISTERS
from jitlink.bpf.jit.abi import OFFSET, SITE_SIZE, SITES
from jitlink.bpf.llvm_tier.cache import ObjectCache
from jitlink.bpf.llvm_tier.images import load_functions
from jitlink.bpf.llvm_tier.objects import object_of
from jitlink.memory import Reservation

FRESH_START, FRESH_END = OFFSET["registers"], OFFSET["regions"]
"""The part of the record that every run begins anew."""
NO_FIELD = (1 << 64) - 1


FIELDS = (
    *("record", "enter", "target", "fresh", "packets", "offsets", "lengths", "stride", "size", "first", "end"),
    *("home", "context", "template", "context_size", "end_at", "length_at", "wire_length_at", "protocol_at"),
    *("row", "clear_sites", "plain", "results", "instructions", "budget", "touched"),
)


class Batch(ctypes.Structure):
    """What the loop works on; all fields are 64 bits.

    record, enter, target: of the run. fresh: the address of what the record begins with. packets: of their
    bytes; offsets, lengths: addresses of uint64[packets], where each begins and how long it is; or 0, and then they
    are stride bytes apart and of equal size. first, end: the packets to run, first moves on. home: where a
    packet is copied to. context, template, context_size: of the context, and what it begins with. end_at,
    length_at, wire_length_at, protocol_at: the places of fields in it, or NO_FIELD. row: the address of the packet's
    size in the table of regions. clear_sites: whether sites of the record are cleared before each
    run. plain: whether the length is in r2. results, instructions: uint64[packets] each, the second may be 0.
    budget. touched: not 0 once Python was called.
    """

    _fields_ = tuple((name, ctypes.c_uint64) for name in FIELDS)


def _text() -> str:
    """The loop as LLVM IR."""
    lines = ["define void @run_batch(ptr %batch) nounwind {"]
    for name in FIELDS:
        at = getattr(Batch, name).offset
        lines += [f"%{name}.at = getelementptr i8, ptr %batch, i64 {at}", f"%{name} = load i64, ptr %{name}.at"]
    pointers = ("record", "enter", "fresh", "packets", "home", "context", "template", "target")
    lines += [f"%{name}.p = inttoptr i64 %{name} to ptr" for name in pointers]
    flags = ("offsets", "lengths", "instructions", "row", "clear_sites", "plain")
    lines += [f"%has.{name} = icmp ne i64 %{name}, 0" for name in flags]
    fields = ("end_at", "length_at", "wire_length_at", "protocol_at")
    lines += [f"%has.{name} = icmp ne i64 %{name}, -1" for name in fields]
    lines.append(_LOOP)
    return "\n".join(lines)


_LOOP = f"""
%arrays.p = inttoptr i64 %offsets to ptr
%lengths.p = inttoptr i64 %lengths to ptr
%row.p = inttoptr i64 %row to ptr
%results.p = inttoptr i64 %results to ptr
%instructions.p = inttoptr i64 %instructions to ptr
%registers.p = getelementptr i8, ptr %record.p, i64 {FRESH_START}
%r2.p = getelementptr i8, ptr %record.p, i64 {OFFSET["registers"] + 16}
%budget.p = getelementptr i8, ptr %record.p, i64 {OFFSET["budget"]}
%status.p = getelementptr i8, ptr %record.p, i64 {OFFSET["status"]}
%some = icmp ult i64 %first, %end
br i1 %some, label %packet, label %stop
packet:
%i = phi i64 [ %first, %0 ], [ %next, %noted ]
%equal = mul i64 %i, %stride
br i1 %has.offsets, label %offset.given, label %offset.known
offset.given:
%offset.slot = getelementptr i64, ptr %arrays.p, i64 %i
%offset.own = load i64, ptr %offset.slot
br label %offset.known
offset.known:
%offset = phi i64 [ %equal, %packet ], [ %offset.own, %offset.given ]
br i1 %has.lengths, label %length.given, label %length.known
length.given:
%length.slot = getelementptr i64, ptr %lengths.p, i64 %i
%length.own = load i64, ptr %length.slot
br label %length.known
length.known:
%length = phi i64 [ %size, %offset.known ], [ %length.own, %length.given ]
%source = getelementptr i8, ptr %packets.p, i64 %offset
%is64 = icmp eq i64 %length, 64
br i1 %is64, label %copy64, label %copy
copy64:
call void @llvm.memcpy.p0.p0.i64(ptr %home.p, ptr %source, i64 64, i1 false)
br label %copied
copy:
call void @llvm.memcpy.p0.p0.i64(ptr %home.p, ptr %source, i64 %length, i1 false)
br label %copied
copied:
%is24 = icmp eq i64 %context_size, 24
br i1 %is24, label %context24, label %contextn
context24:
call void @llvm.memcpy.p0.p0.i64(ptr %context.p, ptr %template.p, i64 24, i1 false)
br label %fields
contextn:
call void @llvm.memcpy.p0.p0.i64(ptr %context.p, ptr %template.p, i64 %context_size, i1 false)
br label %fields
fields:
%end.long = add i64 %home, %length
%end.value = trunc i64 %end.long to i32
%length.value = trunc i64 %length to i32
br i1 %has.end_at, label %put.end, label %ended
put.end:
%end.place = getelementptr i8, ptr %context.p, i64 %end_at
store i32 %end.value, ptr %end.place, align 4
br label %ended
ended:
br i1 %has.length_at, label %put.length, label %row.next
put.length:
%length.place = getelementptr i8, ptr %context.p, i64 %length_at
store i32 %length.value, ptr %length.place, align 4
%wire.place = getelementptr i8, ptr %context.p, i64 %wire_length_at
store i32 %length.value, ptr %wire.place, align 4
%long = icmp uge i64 %length, 14
br i1 %long, label %take.protocol, label %put.protocol
take.protocol:
%protocol.source = getelementptr i8, ptr %home.p, i64 12
%protocol.half = load i16, ptr %protocol.source, align 1
br label %put.protocol
put.protocol:
%protocol.found = phi i16 [ 0, %put.length ], [ %protocol.half, %take.protocol ]
%protocol.value = zext i16 %protocol.found to i32
%protocol.place = getelementptr i8, ptr %context.p, i64 %protocol_at
store i32 %protocol.value, ptr %protocol.place, align 4
br label %row.next
row.next:
br i1 %has.row, label %put.row, label %sites
put.row:
store i64 %length, ptr %row.p
br label %sites
sites:
br i1 %has.clear_sites, label %clear, label %fresh.next
clear:
call void @llvm.memset.p0.i64(ptr %record.p, i8 0, i64 {SITES * SITE_SIZE}, i1 false)
br label %fresh.next
fresh.next:
call void @llvm.memcpy.p0.p0.i64(ptr %registers.p, ptr %fresh.p, i64 {FRESH_END - FRESH_START}, i1 false)
br i1 %has.plain, label %put.r2, label %run
put.r2:
store i64 %length, ptr %r2.p
br label %run
run:
store i64 %i, ptr %first.at
call void %enter.p(ptr %record.p, ptr %target.p)
%status = load i64, ptr %status.p
%touched.now = load i64, ptr %touched.at
%either = or i64 %status, %touched.now
%quiet = icmp eq i64 %either, 0
br i1 %quiet, label %note, label %leave
leave:
ret void
note:
%r0 = load i64, ptr %registers.p
%result.slot = getelementptr i64, ptr %results.p, i64 %i
store i64 %r0, ptr %result.slot
br i1 %has.instructions, label %count, label %noted
count:
%left = load i64, ptr %budget.p
%used = sub i64 %budget, %left
%count.slot = getelementptr i64, ptr %instructions.p, i64 %i
store i64 %used, ptr %count.slot
br label %noted
noted:
%next = add i64 %i, 1
%more = icmp ult i64 %next, %end
br i1 %more, label %packet, label %stop
stop:
store i64 %end, ptr %first.at
ret void
}}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""
assert REGISTERS * 8 <= FRESH_END - FRESH_START
_MADE: list[tuple[Callable[[int], None], Reservation]] = []
RUN_BATCH = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run_batch(kept: ObjectCache | None = None) -> Callable[[int], None]:
    """The loop, as a C function of a Batch's address; it lets go of Python's lock. It is made once in a process.

    kept: where its object may be kept on disk. Raises MissingExtra where there is no LLVM to compile it.
    """
    if not _MADE:
        addresses, pages = load_functions(object_of(_text(), kept), {"run": "run_batch"}, {})
        _MADE.append((RUN_BATCH(addresses["run"]), pages))
    return _MADE[0][0]
