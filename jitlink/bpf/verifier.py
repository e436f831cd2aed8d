"""The first-level verifier: what can be seen without following values.

It checks each instruction by itself and the graph that they form: opcodes, registers and reserved
fields, constant divisors and shifts, writes to r10, helper numbers, map references, stack accesses
at constant offsets, jump and call targets, that no path runs off the end, and that all code can be
reached. A pass marks the slots that break its rule with one array expression; a message is made
only for those. What values do at run time is not its concern: the interpreter checks that while the
program runs.

Some rules are the Linux kernel's and not the ISA's: RFC 9669 defines division by zero and masks
shift counts, and code that cannot be reached harms nobody. With kernel_rules these are errors,
without they are warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

import numpy as np

from jitlink.bpf.control_flow import ControlFlow, Mask, control_flow, forms_where, reachable
from jitlink.bpf.faults import helper_name
from jitlink.bpf.instructions import FIELDS, SELECTS, USES, ByteOrder, Instructions, decode
from jitlink.bpf.isa import FORMS, FRAME_POINTER, REGISTERS, STACK_SIZE, Family
from jitlink.bpf.verification import Report, Rule, VerificationFault
from jitlink.columns import Column

Found = tuple[int, Rule, str]
"""Index of the instruction, rule, message."""

KERNEL_RULES = frozenset({Rule.DIVISION, Rule.SHIFT, Rule.UNREACHABLE, Rule.FUNCTION})
"""The rules that only the Linux kernel has."""

_WRITES = {field: np.array([field in form.writes for form in FORMS]) for field in ("dst", "src")}
_IMMEDIATE = np.array([form.family is Family.ARITHMETIC and "imm" in form.operands for form in FORMS])
_DIVIDES = _IMMEDIATE & np.array([form.operation in ("div", "mod", "sdiv", "smod") for form in FORMS])
_SHIFTS = _IMMEDIATE & np.array([form.operation in ("lsh", "rsh", "arsh") for form in FORMS])
_BITS = np.array([form.bits for form in FORMS])
_REFUSED = np.array([bool(form.refused) for form in FORMS])
_ACCESSES = forms_where(Family.LOAD, Family.STORE, Family.ATOMIC)
_BASE_IS_SRC = forms_where(Family.LOAD) | forms_where(Family.ATOMIC, operation="load_acquire")
_WIDE = forms_where(Family.CONSTANT)
_MAP_REFERENCES = np.array([form.family is Family.CONSTANT and form.operation.startswith("map_") for form in FORMS])
_HELPER_CALLS = forms_where(Family.CALL, operation="helper")
_KFUNC_CALLS = forms_where(Family.CALL, operation="kfunc")


def verify(
    program: bytes | bytearray | memoryview | Instructions,
    *,
    helpers: Container[int] | None = None,
    kfuncs: Container[int] | None = None,
    maps: Container[int] | None = None,
    functions: Container[int] | None = None,
    lines: Callable[[int], str | None] | None = None,
    name: str = "",
    byteorder: ByteOrder = "little",
    kernel_rules: bool = True,
) -> Report:
    """Check a program and report every fault.

    program: its bytes, or decoded; byteorder: of the bytes. helpers, kfuncs: the numbers that calls
    may have; maps: the numbers that map references may have; functions: the indices at which
    functions begin. What is None is not checked. lines: says the source line of an instruction;
    name: of the program, for the report; kernel_rules: whether what only the Linux kernel refuses
    is an error or a warning. Raises MalformedInput when the bytes are not whole slots.
    """
    code = program if isinstance(program, Instructions) else decode(program, byteorder)
    found = sorted(_all_checks(code, helpers, kfuncs, maps, functions), key=lambda fault: fault[0])
    faults = [
        VerificationFault(
            index, rule, message, lines(index) if lines else None, rule in KERNEL_RULES and not kernel_rules
        )
        for index, rule, message in found
    ]
    return Report(faults, name)


def _all_checks(
    code: Instructions,
    helpers: Container[int] | None,
    kfuncs: Container[int] | None,
    maps: Container[int] | None,
    functions: Container[int] | None,
) -> Iterator[Found]:
    if not len(code):
        yield 0, Rule.EMPTY, "a program has at least one instruction"
        return
    yield from _opcodes(code)
    yield from _registers(code)
    yield from _reserved_fields(code)
    yield from _wide_constants(code)
    yield from _constant_operands(code)
    yield from _stack_accesses(code)
    if helpers is not None:
        yield from _unknown_numbers(code, _HELPER_CALLS, helpers, Rule.HELPER, helper_name)
    if kfuncs is not None:
        yield from _unknown_numbers(code, _KFUNC_CALLS, kfuncs, Rule.HELPER, "kfunc with the BTF id {}".format)
    if maps is not None:
        yield from _unknown_numbers(code, _MAP_REFERENCES, maps, Rule.MAP, "map with the number {}".format)
    flow = control_flow(code)
    yield from _jump_targets(flow)
    yield from _call_targets(code, flow, functions)
    yield from _ends(code, flow)
    yield from _unreachable(flow)


def _opcodes(code: Instructions) -> Iterator[Found]:
    defined = {form.opcode for form in FORMS}
    for index in _where((code.form == 0) & ~code.is_second):
        opcode = int(code.opcode[index])
        if opcode not in defined:
            yield index, Rule.OPCODE, f"no instruction has the opcode {opcode:#04x}"
            continue
        field = next(form.selector[0] for form in FORMS if form.opcode == opcode and form.selector)
        value = int(code.field(field)[index])
        yield index, Rule.OPCODE, f"no instruction with the opcode {opcode:#04x} has the {field} {value:#x}"
    for index in _where(_REFUSED[code.form]):
        form = code.form_of(index)
        yield index, Rule.UNSUPPORTED, f"{form.name} is not supported: {form.refused}"


def _registers(code: Instructions) -> Iterator[Found]:
    for field in ("dst", "src"):
        register, used = code.field(field), USES[field][code.form]
        for index in _where(used & (register >= REGISTERS)):
            yield index, Rule.REGISTER, f"{field} is r{register[index]}, but registers are r0 to r{REGISTERS - 1}"
        for index in _where(_WRITES[field][code.form] & (register == FRAME_POINTER)):
            yield index, Rule.FRAME_POINTER, f"{code.form_of(index).name} writes r10, which is read-only"


def _reserved_fields(code: Instructions) -> Iterator[Found]:
    defined = code.form != 0
    for field in FIELDS:
        value = code.field(field)
        reserved = defined & ~USES[field][code.form] & ~SELECTS[field][code.form]
        for index in _where(reserved & (value != 0)):
            message = f"{code.form_of(index).name} does not use {field}, which is {value[index]} and must be 0"
            yield index, Rule.RESERVED, message


def _wide_constants(code: Instructions) -> Iterator[Found]:
    first = _WIDE[code.form]
    if first[-1]:
        yield len(code) - 1, Rule.TRUNCATED, "the second slot of a wide constant is missing"
    second = code.is_second
    for index in _where(second & ((code.opcode | code.dst | code.src | code.offset) != 0)):
        yield index, Rule.RESERVED, "the second slot of a wide constant holds more than an immediate"
    uses_next = np.concatenate(([False], USES["next_imm"][code.form[:-1]]))
    known_first = np.concatenate(([False], first[:-1]))
    for index in _where(second & known_first & ~uses_next & (code.imm != 0)):
        name = code.form_of(index - 1).name
        yield index, Rule.RESERVED, f"{name} does not use next_imm, which is {code.imm[index]} and must be 0"


def _constant_operands(code: Instructions) -> Iterator[Found]:
    for index in _where(_DIVIDES[code.form] & (code.imm == 0)):
        yield index, Rule.DIVISION, f"{code.form_of(index).name} divides by the constant 0"
    bits = _BITS[code.form]
    for index in _where(_SHIFTS[code.form] & ((code.imm < 0) | (code.imm >= bits))):
        yield index, Rule.SHIFT, f"a shift of {bits[index]} bits by the constant {code.imm[index]}"


def _stack_accesses(code: Instructions) -> Iterator[Found]:
    base = np.where(_BASE_IS_SRC[code.form], code.src, code.dst)
    size = _BITS[code.form] // 8
    outside = (code.offset < -STACK_SIZE) | (code.offset + size > 0)
    for index in _where(_ACCESSES[code.form] & (base == FRAME_POINTER) & outside):
        place = f"{size[index]} bytes at r10{code.offset[index]:+d}"
        yield index, Rule.STACK, f"{place} are outside of the stack, which is r10-{STACK_SIZE} to r10"


def _unknown_numbers(
    code: Instructions, forms: Mask, known: Container[int], rule: Rule, describe: Callable[[int], str]
) -> Iterator[Found]:
    rows = _where(forms[code.form])
    numbers = (code.imm[rows] & 0xFFFF_FFFF).tolist()
    unknown = {number: describe(number) for number in set(numbers) if number not in known}
    for index, number in zip(rows, numbers, strict=True):
        if number in unknown:
            yield index, rule, f"there is no {unknown[number]}"


def _jump_targets(flow: ControlFlow) -> Iterator[Found]:
    valid = flow.is_valid(flow.jump_target)
    for index in _where(flow.jumps & ~valid):
        yield index, Rule.JUMP, _bad_target("jump", int(flow.jump_target[index]), len(flow.valid))
    function = flow.function_of()
    elsewhere = function[np.where(valid, flow.jump_target, 0)] != function
    for index in _where(flow.jumps & valid & elsewhere):
        yield index, Rule.FUNCTION, f"the jump to {flow.jump_target[index]} leaves its function"


def _call_targets(code: Instructions, flow: ControlFlow, functions: Container[int] | None) -> Iterator[Found]:
    valid = flow.is_valid(flow.function_target)
    for index in _where(flow.refers & ~valid):
        yield index, Rule.CALL, _bad_target(code.form_of(index).name, int(flow.function_target[index]), len(flow.valid))
    if functions is None:
        return
    for index in _where(flow.refers & valid):
        target = int(flow.function_target[index])
        if target not in functions:
            yield index, Rule.CALL, f"{code.form_of(index).name} leads to {target}, where no function begins"


def _ends(code: Instructions, flow: ControlFlow) -> Iterator[Found]:
    slots = len(flow.valid)
    # Behind a truncated constant the missing slot is what was reported already.
    for index in _where(flow.falls_through & (flow.following == slots)):
        yield index, Rule.FALLS_OFF, "the program runs off its end: it must end with exit or a jump"
    function = flow.function_of()
    inside = np.where(flow.following < slots, flow.following, 0)
    crosses = flow.falls_through & (flow.following < slots) & (function[inside] != function)
    for index in _where(crosses):
        yield index, Rule.FUNCTION, f"control falls into the function that begins at {flow.following[index]}"


def _unreachable(flow: ControlFlow) -> Iterator[Found]:
    unreached = ~reachable(flow)
    starts = unreached & ~np.concatenate(([False], unreached[:-1]))
    ends = unreached & ~np.concatenate((unreached[1:], [False]))
    for start, end in zip(_where(starts), _where(ends), strict=True):
        which = f"instruction {start}" if start == end else f"instructions {start} to {end}"
        yield start, Rule.UNREACHABLE, f"{which} cannot be reached"


def _bad_target(what: str, target: int, slots: int) -> str:
    if 0 <= target < slots:
        return f"{what} to {target}, the middle of a wide constant"
    return f"{what} to {target}, outside of the program's {slots} slots"


def _where(mask: Column) -> list[int]:
    rows: list[int] = mask.nonzero()[0].tolist()
    return rows
