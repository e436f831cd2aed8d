"""No program, however broken, crashes or hangs the host: it is refused, faults, or ends."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.assembler import assemble
from jitlink.bpf.assembly_text import AssemblyError
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.isa import FORMS, Family
from jitlink.bpf.machine import FUNCTION_BASE, Code
from jitlink.bpf.verifier import verify
from tests.bpf.machines import machine_of

BUDGET = 500


@st.composite
def plausible_slots(draw):
    """A slot that is nearly always an instruction, with small distances and often with r10 as a base."""
    form = draw(st.sampled_from(FORMS[1:]))
    small = st.integers(-12, 12) | st.sampled_from([-512, -513, -(1 << 15), (1 << 15) - 1])
    fields = {
        "dst": draw(st.integers(0, 10) | st.just(10)),
        "src": draw(st.integers(0, 10) | st.just(10)),
        "offset": draw(small),
        "imm": draw(small | st.integers(-(1 << 31), (1 << 31) - 1)),
    }
    fields |= dict([form.selector] if form.selector else [])
    return form.opcode, *fields.values()


programs = st.lists(plausible_slots(), min_size=1, max_size=30).map(encode) | st.binary(max_size=240).map(
    lambda data: data[: len(data) // 8 * 8]
)


def helper(machine, r1, r2, r3, r4, r5):
    """Use every door of the machine with what the program passes."""
    if r1 % 3 == 0:
        machine.write(r2, machine.read(r3, r4 % 64))
    if r1 % 3 == 1:
        machine.call_function(r2, r3)
    if r1 % 7 == 2 and not machine.tail_call(machine.code):
        return -5
    return len(machine.read_string(r2))


def outcome_of(machine, code, *arguments):
    """What a run came to: its result, or its fault."""
    try:
        return machine.run(code, *arguments, budget=BUDGET)
    except BpfFault as fault:
        return fault


@pytest.mark.parametrize("byteorder", ["little", "big"])
@settings(settings.get_profile("mutations"))
@given(program=programs, context=st.integers(0, 64), hooked=st.booleans())
def test_any_program_ends(byteorder, program, context, hooked):
    """Running any bytes with a budget returns an unsigned 64-bit number or raises BpfFault, and can be repeated."""
    hook = (lambda machine: None) if hooked else None
    machine = machine_of(helpers=dict.fromkeys(range(-13, 13), helper), hook=hook)
    region = machine.regions.allocate(64, "context")
    machine.packet_bounds = lambda context: (region.address, region.end)
    code = Code(decode(program, byteorder))
    seen = set()
    for _ in range(2):
        region.data[:] = bytes(range(64))
        outcome = outcome_of(machine, code, region.address + context, FUNCTION_BASE)
        if isinstance(outcome, BpfFault):
            assert outcome.pc is not None
            assert str(outcome).startswith(f"instruction {outcome.pc}: ")
        else:
            assert 0 <= outcome < 1 << 64
        assert machine.instructions + machine.budget_left == BUDGET
        assert machine.depth == 0
        seen.add((str(outcome), bytes(region.data)))
    assert len(seen) == 1
    machine.regions.close()


@settings(settings.get_profile("mutations"))
@given(program=programs)
def test_any_program_gets_a_report(program):
    """Verifying any bytes returns a report whose faults name instructions of the program, sorted."""
    report = verify(program, helpers=(), kfuncs=(), maps=(), lines=str)
    indices = [fault.index for fault in report]
    assert indices == sorted(indices)
    assert all(0 <= index < max(len(program) // 8, 1) for index in indices)
    assert str(report)


NEEDS_THE_HOST = {"helper", "kfunc", "map_fd", "map_fd_value", "map_idx", "map_idx_value", "variable"}
USABLE = [form for form in FORMS[1:] if not form.refused and form.operation not in NEEDS_THE_HOST]


@st.composite
def sound_programs(draw):
    """Programs whose jumps, calls and function pointers lead to instructions, and that end with exit."""
    forms = draw(st.lists(st.sampled_from(USABLE), max_size=25))
    starts = list(accumulate((form.slots for form in forms), initial=0))
    slots = []
    for form, start in zip(forms, starts, strict=False):
        register, small = st.integers(0, 9), st.integers(-64, 64)
        drawn = {"dst": register, "src": register, "offset": small, "imm": small}
        fields = {name: draw(values) if name in form.operands else 0 for name, values in drawn.items()}
        if form.family in (Family.JUMP, Family.BRANCH) or form.operation in ("local", "code"):
            distance = "offset" if "offset" in form.operands else "imm"
            fields[distance] = draw(st.sampled_from(starts)) - start - 1
        fields |= dict([form.selector] if form.selector else [])
        slots += [(form.opcode, *fields.values()), *[(0, 0, 0, 0, 0)] * (form.slots - 1)]
    return encode([*slots, (0x95, 0, 0, 0, 0)])


@settings(settings.get_profile("mutations"))
@given(program=sound_programs())
def test_verified_program_has_only_faults_of_values(program):
    """A program with a good report never jumps astray, runs off its end or meets a bad instruction."""
    report = verify(program, kernel_rules=False)
    assert report.ok, str(report)
    outcome = outcome_of(machine_of(), Code(decode(program)))
    assert not isinstance(outcome, BpfFault) or outcome.kind in {
        FaultKind.OUT_OF_BOUNDS,
        FaultKind.MISALIGNED_ATOMIC,
        FaultKind.CALL_DEPTH,
        FaultKind.BAD_CALL,
        FaultKind.BUDGET,
        FaultKind.NO_PACKET,
    }


LINES = ["r0 = *(u32 *)(r1 + 4)", "lock add [%r1], %r2", "if w1 s>= -2 goto end", "lddw %r1, map_by_fd(3)"]


@settings(settings.get_profile("mutations"))
@given(
    text=st.text(alphabet="r0w1=*(u32)+-[]%,:;#/ lls<>goticaxmpchgk.\n\tif&|^!x9\x00é", max_size=80),
    line=st.sampled_from(LINES),
    at=st.integers(0, 30),
)
def test_any_text_is_assembled_or_refused(text, line, at):
    """Assembling any text, and any line with text put into it, returns whole slots or names a place."""
    for source in (text, line[:at] + text[:5] + line[at:]):
        assert assembled_or_place(source)


def assembled_or_place(source):
    """Whether the text gives whole slots, or an error at a line and column of it."""
    try:
        return len(assemble(source)) % 8 == 0
    except AssemblyError as error:
        return error.line >= 1 and error.column >= 1


def test_long_program_is_verified_without_recursion():
    """A program of 100,000 branches, each over the next one, gets its report."""
    branch = assemble("if r0 == 0 goto +1")
    assert verify(assemble("r0 = 0") + branch * 100_000 + assemble("exit\nexit")).ok
