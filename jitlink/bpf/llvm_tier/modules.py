"""A whole program as one LLVM module: its functions, its entries, and the routines that it brings along.

enter       a C function: starts a run (jitlink.bpf.jit.abi)
entryN      a C function of the record: the function at slot N, with the registers that are in the record
give_away   lets the callback carry an instruction out; says how the function goes on: 0 on, 1 it
            returns what is in the record, 2 everybody leaves
search      finds the region of an access: where it starts and its size; a size of 0 where there is none
"""

from __future__ import annotations

from jitlink.bpf.isa import FRAME_POINTER, STACK_SIZE
from jitlink.bpf.jit.abi import FRAME_STRIDE, REGION, STACK_BYTES
from jitlink.bpf.llvm_tier.bodies import Body, Program, reach_outside
from jitlink.bpf.llvm_tier.choices import LOCALS, RESULTS, Choices, record_field
from jitlink.bpf.llvm_tier.functions import FunctionWriter
from jitlink.bpf.native.lookups import texts_of

SMALL = 32
"""In large programs functions of more slots are not inlined: LLVM's time for one function grows faster than its size,
and a function with one caller would always be."""
INLINES, STAYS = 0, 3
"""Groups of attributes."""
_COLUMN = {name: 8 * number for number, name in enumerate(REGION.names or ())}

_ROUTINES = f"""
@zero = external global i8
@places = external global i8

define void @enter(ptr %record, ptr %target) #1 {{
  %words_at = {record_field("stack_to_clear")}
  %words = load i64, ptr %words_at
  %none = icmp eq i64 %words, 0
  br i1 %none, label %run, label %clear
clear:
  %stack_at = {record_field("stack")}
  %stack = load ptr, ptr %stack_at
  %size = shl i64 %words, 3
  call void @llvm.memset.p0.i64(ptr %stack, i8 0, i64 %size, i1 false)
  store i64 0, ptr %words_at
  br label %run
run:
  call void %target(ptr %record)
  ret void
}}

define internal i64 @give_away(ptr %record) #2 {{
  %callback_at = {record_field("callback")}
  %callback = load ptr, ptr %callback_at
  call void %callback(ptr %record)
  %status_at = {record_field("status")}
  %status = load i64, ptr %status_at
  switch i64 %status, label %leave [ i64 0, label %on i64 1, label %return i64 2, label %continue ]
on:
  ret i64 0
return:
  store i64 0, ptr %status_at
  ret i64 1
continue:
  store i64 0, ptr %status_at
  %target_at = {record_field("target")}
  %target = load ptr, ptr %target_at
  call void %target(ptr %record)
  %after = load i64, ptr %status_at
  %left = icmp ne i64 %after, 0
  %answer = select i1 %left, i64 2, i64 1
  ret i64 %answer
leave:
  ret i64 2
}}

define internal {{ i64, i64 }} @search(ptr %record, i64 %frame, i64 %address, i64 %size, i1 %write) #2 {{
  %stack_at = {record_field("stack")}
  %stack = load i64, ptr %stack_at
  %depth = sub i64 %address, %stack
  %in_stack = icmp ult i64 %depth, {STACK_BYTES}
  br i1 %in_stack, label %frames, label %regions
frames:
  %active = icmp ult i64 %address, %frame
  %within = and i64 %depth, {FRAME_STRIDE - 1}
  %in_frame = icmp uge i64 %within, {STACK_SIZE}
  %last = add i64 %within, %size
  %fits = icmp ule i64 %last, {FRAME_STRIDE}
  %both = and i1 %active, %in_frame
  %all = and i1 %both, %fits
  %distance = sub i64 %within, {STACK_SIZE}
  %begin = sub i64 %address, %distance
  %found_frame = select i1 %all, i64 {STACK_SIZE}, i64 0
  br label %answer
regions:
  %table_at = {record_field("regions")}
  %table = load ptr, ptr %table_at
  %count_at = {record_field("region_count")}
  %count = load i64, ptr %count_at
  br label %halve
halve:
  %low = phi i64 [ 0, %regions ], [ %next_low, %step ]
  %high = phi i64 [ %count, %regions ], [ %next_high, %step ]
  %done = icmp uge i64 %low, %high
  br i1 %done, label %row, label %step
step:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
  %middle_row = getelementptr [{REGION.itemsize} x i8], ptr %table, i64 %middle
  %middle_address = load i64, ptr %middle_row
  %above = icmp ugt i64 %middle_address, %address
  %behind = add i64 %middle, 1
  %next_low = select i1 %above, i64 %low, i64 %behind
  %next_high = select i1 %above, i64 %middle, i64 %high
  br label %halve
row:
  %nothing = icmp eq i64 %low, 0
  br i1 %nothing, label %answer, label %look
look:
  %index = sub i64 %low, 1
  %found = getelementptr [{REGION.itemsize} x i8], ptr %table, i64 %index
  %start = load i64, ptr %found
  %length_at = getelementptr i8, ptr %found, i64 {_COLUMN["size"]}
  %length = load i64, ptr %length_at
  %writable_at = getelementptr i8, ptr %found, i64 {_COLUMN["writable"]}
  %writable = load i64, ptr %writable_at
  %offset = sub i64 %address, %start
  %long_enough = icmp uge i64 %length, %size
  %last_good = sub i64 %length, %size
  %inside = icmp ule i64 %offset, %last_good
  %may_write = icmp ne i64 %writable, 0
  %reads = xor i1 %write, true
  %may = or i1 %reads, %may_write
  %good = and i1 %long_enough, %inside
  %good_too = and i1 %good, %may
  %found_size = select i1 %good_too, i64 %length, i64 0
  br label %answer
answer:
  %where = phi i64 [ %begin, %frames ], [ 0, %row ], [ %start, %look ]
  %bytes = phi i64 [ %found_frame, %frames ], [ 0, %row ], [ %found_size, %look ]
  %one = insertvalue {{ i64, i64 }} poison, i64 %where, 0
  %two = insertvalue {{ i64, i64 }} %one, i64 %bytes, 1
  ret {{ i64, i64 }} %two
}}

declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.usub.sat.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
declare i16 @llvm.bswap.i16(i16)
declare i32 @llvm.bswap.i32(i32)
declare i64 @llvm.bswap.i64(i64)

attributes #0 = {{ nounwind null_pointer_is_valid }}
attributes #1 = {{ nounwind null_pointer_is_valid }}
attributes #3 = {{ nounwind noinline null_pointer_is_valid }}
attributes #2 = {{ nounwind cold noinline null_pointer_is_valid }}
!0 = !{{!"branch_weights", i32 1, i32 2000}}
!1 = !{{!"branch_weights", i32 2000, i32 1}}
!2 = !{{}}
"""


def module_of(program: Program, bodies: dict[int, Body], entries: list[int], choices: Choices) -> str:
    """Write a program as LLVM IR. entries: slots that are to have an entry."""
    outside = reach_outside(bodies)
    parts = [_ROUTINES]
    parts += [f"@{symbol} = external global i8" for symbol in sorted(set(choices.symbols.values()))]
    parts += [f"declare i64 @helper{number}(i64, i64, i64, i64, i64, ptr)" for number in sorted(choices.helpers)]
    parts += texts_of(choices.lookups.values())
    parts += [
        FunctionWriter(
            program, body, choices, outside, INLINES if choices.inlines or body.size <= SMALL else STAYS
        ).write()
        for body in bodies.values()
    ]
    parts += [_entry(each, choices) for each in entries]
    return "\n".join(parts)


def _entry(slot: int, choices: Choices) -> str:
    """The C function through which a function is entered from outside."""
    lines = [f"define void @entry{slot}(ptr noalias %record) #1 {{"]

    def load(name: str, field: str, within: int = 0) -> None:
        lines.append(f"%{name}.at = {record_field(field, within)}")
        lines.append(f"%{name} = load i64, ptr %{name}.at")

    load("frame", "frame")
    load("rounds", "may_goto")
    lines.append("%stack = inttoptr i64 %frame to ptr")
    passed = ["ptr %record", "i64 %frame", "ptr %stack"]
    registers = range(FRAME_POINTER + 1 if not choices.frame_is_known else LOCALS)
    for register in registers:
        load(f"r{register}", "registers", 8 * register)
        passed.append(f"i64 %r{register}")
    passed.append("i64 %rounds")
    if choices.metered:
        load("budget", "budget")
        passed.append("i64 %budget")
    given = RESULTS + choices.metered
    lines.append(f"%all = call fastcc {choices.result} @f{slot}({', '.join(passed)})")
    lines.append(f"%left = extractvalue {choices.result} %all, {given}")
    lines.append("br i1 %left, label %end, label %back\nback:")
    for register in range(RESULTS):
        lines.append(f"%b{register} = extractvalue {choices.result} %all, {register}")
        lines.append(f"store i64 %b{register}, ptr %r{register}.at")
    if choices.metered:
        lines.append(f"%left_over = extractvalue {choices.result} %all, {RESULTS}")
        lines.append("store i64 %left_over, ptr %budget.at")
    lines.append("br label %end\nend:\nret void\n}")
    return "\n".join(lines)
