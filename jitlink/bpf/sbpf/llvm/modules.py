"""From an SBPF program to a module of LLVM IR.

An access is translated and checked: the upper half of the address chooses a window of the record, the lower
half must lie in it. Where the program cannot change r10, an access of the frame is one of the host's memory at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from jitlink.bpf.sbpf.abi import OFFSET, WINDOW_SIZE, Window
from jitlink.bpf.sbpf.isa import FRAME_POINTER, Family, Form
from jitlink.bpf.sbpf.llvm.bodies import Body
from jitlink.bpf.sbpf.llvm.functions import Code, Instruction
from jitlink.bpf.sbpf.memory import FRAME_BITS, FRAME_SIZE, REGION_BITS, REGIONS, STACK_START
from jitlink.bpf.sbpf.versions import Version

INLINE_AT_MOST = 128
"""Accesses of a program up to which the check of each is inline. LLVM takes more than linear time for the checks
of a long function; with more of them they are calls of one function."""

_DECLARATIONS = "\n".join(f"declare i{bits} @llvm.bswap.i{bits}(i{bits})" for bits in (16, 32, 64))
_TRANSLATE = """
define internal i64 @translate(ptr %record, i64 %address, i64 %size, i64 %windows) {inlined} {{
  %number = lshr i64 %address, {bits}
  %known = icmp ult i64 %number, {regions}
  br i1 %known, label %look, label %bad
look:
  %row = mul i64 %number, {window}
  %at = add i64 %row, %windows
  %start_at = getelementptr i8, ptr %record, i64 %at
  %size_at = getelementptr i8, ptr %start_at, i64 {size}
  %host_at = getelementptr i8, ptr %start_at, i64 {host}
  %start = load i64, ptr %start_at
  %have = load i64, ptr %size_at
  %host = load i64, ptr %host_at
  %low = and i64 %address, {low}
  %distance = sub i64 %low, %start
{gaps}
  %begins = icmp ult i64 %offset, %have
  %end = add i64 %offset, %size
  %ends = icmp ule i64 %end, %have
  %good = and i1 %begins, %ends
  br i1 %good, label %found, label %bad
found:
  %place = add i64 %host, %offset
  ret i64 %place
bad:
  ret i64 0
}}
"""
_NO_GAPS = "  %offset = add i64 %distance, 0"
_GAPS = """
  %is_stack = icmp eq i64 %number, {stack}
  %frame = lshr i64 %distance, {frame_bits}
  %odd = trunc i64 %frame to i1
  %in_gap = and i1 %is_stack, %odd
  br i1 %in_gap, label %bad, label %in_frame
in_frame:
  %pair = lshr i64 %frame, 1
  %packed = shl i64 %pair, {frame_bits}
  %within = and i64 %distance, {within}
  %squeezed = or i64 %packed, %within
  %offset = select i1 %is_stack, i64 %squeezed, i64 %distance
"""


def module_of(code: Code, natives: Collection[int]) -> tuple[str, bool]:
    """Write the IR of a program. natives: the numbers of syscalls that are C functions, called syscall_N.

    Returns the text, and whether the program is small enough for all of LLVM's passes.
    """
    functions = code.functions()
    version = code.executable.version
    inlined = _accesses(functions) <= INLINE_AT_MOST
    parts = [_DECLARATIONS, _translate(version, inlined)]
    parts += [f"declare i64 @syscall_{number}(i64, i64, i64, i64, i64, ptr)" for number in sorted(natives)]
    frame_is_known = version.moves_frames and not _writes_frame_pointer(functions)
    for start, blocks in functions.items():
        parts += Body.parts(code, start, blocks, functions, natives, frame_is_known)
    parts.append(_dispatch(functions))
    entry = code.executable.entry
    parts.append(f"define i64 @enter(ptr %record) {{\n  %left = call i64 @f{entry}(ptr %record)\n  ret i64 %left\n}}")
    return "\n".join(parts), inlined


def _instructions(functions: Mapping[int, list[list[Instruction]]]) -> Iterator[tuple[Instruction, Form]]:
    """The instructions of all functions that do anything but fault."""
    for blocks in functions.values():
        yield from ((each, each.form) for block in blocks for each in block if each.form is not None)


def _accesses(functions: Mapping[int, list[list[Instruction]]]) -> int:
    """How many instructions of all functions access memory."""
    return sum(form.family in (Family.LOAD, Family.STORE) for _, form in _instructions(functions))


def _writes_frame_pointer(functions: Mapping[int, list[list[Instruction]]]) -> bool:
    """Whether an instruction of a function writes r10, as a verified program of these versions does not."""
    writes = (Family.ARITHMETIC, Family.BYTE_ORDER, Family.CONSTANT, Family.LOAD)
    return any(form.family in writes and each.dst == FRAME_POINTER for each, form in _instructions(functions))


def _translate(version: Version, inlined: bool) -> str:
    gaps = _NO_GAPS
    if version.has_gaps:
        gaps = _GAPS.format(stack=STACK_START >> REGION_BITS, frame_bits=FRAME_BITS, within=FRAME_SIZE - 1)
    return _TRANSLATE.format(
        bits=REGION_BITS,
        regions=REGIONS,
        window=WINDOW_SIZE,
        size=Window.size.offset,
        host=Window.host.offset,
        low=(1 << REGION_BITS) - 1,
        gaps=gaps,
        inlined="alwaysinline" if inlined else "noinline",
    )


def _dispatch(functions: Collection[int]) -> str:
    """The function that calls another by its slot, in the record's target; one without native code is interpreted."""
    cases = " ".join(f"i64 {slot}, label %to{slot}" for slot in functions)
    lines = ["define internal i64 @dispatch(ptr %record, i64 %slot) {", f"  switch i64 %slot, label %other [{cases}]"]
    for slot in functions:
        lines += [f"to{slot}:", f"  %left{slot} = call i64 @f{slot}(ptr %record)", f"  ret i64 %left{slot}"]
    lines += [
        "other:",
        f"  %target_at = getelementptr i8, ptr %record, i64 {OFFSET['target']}",
        "  store i64 %slot, ptr %target_at",
        f"  %call_at = getelementptr i8, ptr %record, i64 {OFFSET['call_slot']}",
        "  %interpret = load ptr, ptr %call_at",
        "  call void %interpret(ptr %record)",
        f"  %status_at = getelementptr i8, ptr %record, i64 {OFFSET['status']}",
        "  %left = load i64, ptr %status_at",
        "  ret i64 %left",
        "}",
    ]
    return "\n".join(lines)
