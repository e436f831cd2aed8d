"""The verifier reports every breach of every rule, each with instruction and source line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.bpf.assembler import assemble, read_assembly
from jitlink.bpf.control_flow import control_flow, reachable
from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.isa import FORMS, Family
from jitlink.bpf.verification import Rule, VerificationFailed
from jitlink.bpf.verifier import verify
from jitlink.errors import LinkError, MalformedInput


def faults(text, **options):
    """The faults of a program as pairs of index and rule, line by line of the text."""
    return [(fault.index, fault.rule) for fault in verify(assemble(text), **options)]


@pytest.mark.parametrize(
    "text",
    [
        "r0 = 0\nexit",
        "r0 = 1 ll\nexit",
        "r0 = -1 ll\nexit",
        "again: r0 += 1\nif r0 < 10 goto again\nexit",
        "r1 = r10\nr1 += -8\n*(u64 *)(r10 - 512) = r1\nr0 = *(u8 *)(r10 - 1)\nexit",
        "call f\nexit\nf: r0 = 0\nexit",
        "r2 = code_addr(f)\ncall 181\nexit\nf: r0 = 0\nexit",
        "start: gotol start",
        "r0 = 0\nmay_goto +1\ngoto -2\nexit",
    ],
)
def test_good_program_has_no_faults(text):
    """A program that keeps all rules gets an empty report."""
    report = verify(assemble(text), helpers={181})
    assert report.ok
    assert list(report) == []
    assert str(report) == "the program has no faults"


BAD = [
    (".insn 0xff, 0, 0, 0, 0\nexit", 0, Rule.OPCODE, "no instruction has the opcode 0xff"),
    (".insn 0x3f, 0, 0, 2, 0\nexit", 0, Rule.OPCODE, "has the offset 0x2"),
    (".insn 0xdb, 0, 0, 0, 2\nexit", 0, Rule.OPCODE, "has the imm 0x2"),
    (".insn 0x18, 0, 9, 0, 2\n.insn 0, 0, 0, 0, 0\nexit", 0, Rule.OPCODE, "has the src 0x9"),
    ("r0 = addr_space_cast(r1, 0, 1)\nexit", 0, Rule.UNSUPPORTED, "arena"),
    ("r0 = 0\ngotox r0", 1, Rule.UNSUPPORTED, "gotox"),
    (".insn 0xbf, 0, 11, 0, 0\nexit", 0, Rule.REGISTER, "src is r11"),
    (".insn 0xbf, 15, 0, 0, 0\nexit", 0, Rule.REGISTER, "dst is r15"),
    (".insn 0xb7, 0, 1, 0, 0\nexit", 0, Rule.RESERVED, "does not use src, which is 1"),
    (".insn 0xbf, 0, 1, 0, 5\nexit", 0, Rule.RESERVED, "does not use imm, which is 5"),
    (".insn 0x07, 0, 0, 1, 5\nexit", 0, Rule.RESERVED, "does not use offset, which is 1"),
    ("r0 = 0\n.insn 0x95, 1, 0, 0, 0", 1, Rule.RESERVED, "does not use dst, which is 1"),
    (".insn 0x18, 0, 0, 0, 0\n.insn 0, 0, 0, 1, 0\nexit", 1, Rule.RESERVED, "second slot"),
    (".insn 0x18, 0, 0, 0, 0\n.insn 0x18, 0, 0, 0, 0\nexit", 1, Rule.RESERVED, "second slot"),
    (".insn 0x18, 0, 1, 0, 0\n.insn 0, 0, 0, 0, 7\nexit", 1, Rule.RESERVED, "next_imm, which is 7"),
    ("goto +0\n.insn 0x18, 0, 0, 0, 0", 1, Rule.TRUNCATED, "second slot of a wide constant is missing"),
    ("r10 = 0\nexit", 0, Rule.FRAME_POINTER, "mov64_imm writes r10"),
    ("r10 = *(u64 *)(r1 + 0)\nexit", 0, Rule.FRAME_POINTER, "writes r10"),
    ("r10 = 5 ll\nexit", 0, Rule.FRAME_POINTER, "writes r10"),
    ("r10 = be16 r10\nexit", 0, Rule.FRAME_POINTER, "writes r10"),
    ("r10 = atomic_fetch_add((u64 *)(r1 + 0), r10)\nexit", 0, Rule.FRAME_POINTER, "writes r10"),
    ("r0 /= 0\nexit", 0, Rule.DIVISION, "div64_imm divides by the constant 0"),
    ("w0 s%= 0\nexit", 0, Rule.DIVISION, "smod32_imm divides by the constant 0"),
    ("r0 <<= 64\nexit", 0, Rule.SHIFT, "shift of 64 bits by the constant 64"),
    ("w0 s>>= 32\nexit", 0, Rule.SHIFT, "shift of 32 bits by the constant 32"),
    ("r0 >>= -1\nexit", 0, Rule.SHIFT, "by the constant -1"),
    ("r0 = 0\nif r0 == 0 goto +1\nexit", 1, Rule.JUMP, "jump to 3, outside of the program's 3 slots"),
    ("r0 = 0\nif r0 == 0 goto -3\nexit", 1, Rule.JUMP, "jump to -1, outside"),
    ("if r1 == 0 goto +1\nr0 = 1 ll\nexit", 0, Rule.JUMP, "jump to 2, the middle of a wide constant"),
    ("gotol +2147483647", 0, Rule.JUMP, "jump to 2147483648"),
    ("may_goto +9\nexit", 0, Rule.JUMP, "jump to 10"),
    ("call f\nexit\nf: goto -2", 2, Rule.FUNCTION, "the jump to 1 leaves its function"),
    ("call f\nr0 = 0\nf: exit", 1, Rule.FUNCTION, "control falls into the function that begins at 2"),
    ("r0 = 0", 0, Rule.FALLS_OFF, "runs off its end"),
    ("r0 = 1 ll", 0, Rule.FALLS_OFF, "runs off its end"),
    ("r0 = 0\nexit\nif r0 == 0 goto -2", 2, Rule.FALLS_OFF, "runs off its end"),
    ("call local +1\nexit", 0, Rule.CALL, "call_local to 2, outside"),
    ("call local +1\nr0 = 1 ll\nexit", 0, Rule.CALL, "call_local to 2, the middle"),
    ("r0 = code_addr(-5)\nexit", 0, Rule.CALL, "lddw_code to -4, outside"),
    ("call 7\nexit", 0, Rule.HELPER, "there is no bpf_get_prandom_u32"),
    ("call -1\nexit", 0, Rule.HELPER, "there is no helper #4294967295"),
    ("call runtime 7\nexit", 0, Rule.HELPER, "no kfunc with the BTF id 7"),
    ("*(u64 *)(r10 - 7) = 0\nexit", 0, Rule.STACK, "8 bytes at r10-7 are outside"),
    ("*(u8 *)(r10 - 513) = r1\nexit", 0, Rule.STACK, "1 bytes at r10-513"),
    ("r0 = *(u32 *)(r10 + 0)\nexit", 0, Rule.STACK, "4 bytes at r10+0"),
    ("lock *(u64 *)(r10 + 8) += r1\nexit", 0, Rule.STACK, "8 bytes at r10+8"),
    ("r0 = load_acquire((u64 *)(r10 + 8))\nexit", 0, Rule.STACK, "8 bytes at r10+8"),
    ("r1 = map_by_fd(4)\nexit", 0, Rule.MAP, "no map with the number 4"),
    ("r1 = map_val(map_by_idx(4)) + 8\nexit", 0, Rule.MAP, "no map with the number 4"),
    ("", 0, Rule.EMPTY, "at least one instruction"),
]


@pytest.mark.parametrize(("text", "index", "rule", "message"), BAD, ids=[f"{bad[2]}: {bad[0][:40]}" for bad in BAD])
def test_breach_is_reported_where_it_is(text, index, rule, message):
    """A breach of a rule is reported once, at its instruction, with its facts."""
    report = verify(assemble(text), helpers={1}, kfuncs={1}, maps={1})
    found = [fault for fault in report if (fault.index, fault.rule) == (index, rule)]
    assert len(found) == 1
    assert message in found[0].message
    assert not report.ok


def test_all_faults_are_reported_by_instruction():
    """The report lists every fault of every instruction, in order."""
    text = "r10 /= 0\ncall 9\n*(u64 *)(r10 + 8) = 1\ngoto +7\nr0 = 0\nr0 = 0"
    expected = [(0, Rule.FRAME_POINTER), (0, Rule.DIVISION), (1, Rule.HELPER), (2, Rule.STACK), (3, Rule.JUMP)]
    assert faults(text, helpers=()) == [*expected, (4, Rule.UNREACHABLE), (5, Rule.FALLS_OFF)]


def test_unreachable_code_is_one_fault_for_each_stretch():
    """Instructions in a row that cannot be reached are one fault, which names the first and the last."""
    report = verify(assemble("goto +2\nr0 = 1\nr0 = 2\nif r0 == 0 goto +3\ngoto +2\nr0 = 3 ll\nexit"))
    messages = [fault.message for fault in report if fault.rule is Rule.UNREACHABLE]
    assert messages == ["instructions 1 to 2 cannot be reached", "instructions 5 to 6 cannot be reached"]


def test_function_that_nobody_calls_is_unreachable():
    """A function is reached by a call or by its pointer, in code that is reached itself."""
    assert faults("exit\nf: r0 = 0\nexit") == [(1, Rule.UNREACHABLE)]
    assert faults("exit\nf: call g\nexit\ng: exit") == [(1, Rule.UNREACHABLE)]
    assert faults("r1 = code_addr(f)\nexit\nf: exit") == []


def test_calls_lead_to_known_functions():
    """When the functions are known, a call into the middle of one is a fault."""
    text = "call f\nexit\nr0 = 0\nf: exit"
    assert (0, Rule.CALL) in faults(text, functions={0, 2})
    assert (0, Rule.CALL) not in faults(text, functions={0, 3})


@pytest.mark.parametrize("text", ["r0 /= 0\nexit", "r0 <<= 64\nexit", "exit\nexit", "call f\nr0 = 0\nf: exit"])
def test_what_only_the_kernel_refuses_can_be_a_warning(text):
    """Without the kernel's rules, what RFC 9669 defines is reported as a warning and the program may run."""
    assert not verify(assemble(text)).ok
    report = verify(assemble(text), kernel_rules=False)
    assert report.ok
    assert [fault.warning for fault in report] == [True]
    assert "warning: " in str(report)


@pytest.mark.parametrize("numbers", ["helpers", "kfuncs", "maps"])
def test_numbers_that_are_not_given_are_not_checked(numbers):
    """Helpers, kfuncs and maps are checked only against numbers that are given."""
    text = "call 5\ncall runtime 5\nr1 = map_by_fd(5)\nexit"
    known = {"helpers": {5}, "kfuncs": {5}, "maps": {5}}
    assert faults(text, **(known | {numbers: None})) == []
    assert len(faults(text, **(known | {numbers: {6}}))) == 1


def test_report_names_source_lines_and_program():
    """Each fault has the source line of its instruction, and the report says whose it is."""
    assembly = read_assembly("r0 = 0\nr10 = 5\nexit")
    report = verify(assembly.code, lines=lambda index: f"a.s:{assembly.lines[index]}", name="xdp_main")
    assert str(report) == (
        "xdp_main has a fault:\n  instruction 1 (a.s:2): mov64_imm writes r10, which is read-only [write to r10]"
    )


def test_failed_report_raises_with_all_errors():
    """raise_if_failed raises a LinkError that carries the report, and nothing for a good program."""
    verify(assemble("r0 = 0\nexit")).raise_if_failed()
    report = verify(assemble("r10 = 0\n" * 30 + "exit"))
    with pytest.raises(VerificationFailed) as caught:
        report.raise_if_failed()
    assert isinstance(caught.value, LinkError)
    assert caught.value.report is report
    assert str(caught.value).startswith("the program has 30 faults:\n  instruction 0: mov64_imm")
    assert str(caught.value).endswith("\n  and 10 more")


def test_half_a_slot_is_no_program():
    """Bytes that are not whole slots raise MalformedInput."""
    with pytest.raises(MalformedInput):
        verify(bytes(12))


def test_big_endian_program():
    """A big-endian program is checked like a little-endian one."""
    code = assemble("r10 = 5\nexit", byteorder="big")
    assert [fault.rule for fault in verify(code, byteorder="big")] == [Rule.FRAME_POINTER]


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.name)
def test_every_form_passes_with_plain_operands(form):
    """No rule is so strict that a form could not be used at all."""
    # Behind a wide constant an instruction begins at distance 1, behind all others at distance 0.
    distance = 0 if form.name in ("ja32", "call_local") else 1
    operands = {"dst": 1, "src": 2, "offset": 0, "imm": distance}
    fields = {name: value if name in form.operands else 0 for name, value in operands.items()}
    fields |= dict([form.selector] if form.selector else [])
    slots = [(form.opcode, *fields.values()), *[(0, 0, 0, 0, 0)] * (form.slots - 1)]
    report = verify(encode(slots if form.family is Family.EXIT else [*slots, (0x95, 0, 0, 0, 0)]))
    if form.refused:
        assert Rule.UNSUPPORTED in {fault.rule for fault in report}
    else:
        assert [fault for fault in report if fault.rule is not Rule.FUNCTION] == []


SLOTS = st.one_of(
    st.just("r0 += 1"),
    st.just("exit"),
    st.integers(-6, 6).map(lambda distance: f"goto {distance:+d}"),
    st.integers(-6, 6).map(lambda distance: f"if r1 == 0 goto {distance:+d}"),
    st.integers(-6, 6).map(lambda distance: f"call local {distance:+d}"),
    st.just("r0 = 1 ll"),
    st.just(".insn 0xff, 0, 0, 0, 0"),
)


@given(st.lists(SLOTS, min_size=1, max_size=25))
def test_reachable_agrees_with_a_plain_search(lines):
    """What the search over blocks reaches is what a search over single instructions reaches."""
    code = decode(assemble("\n".join(lines)))
    reached, work = set(), [0]
    while work:
        index = work.pop()
        if index in reached or not 0 <= index < len(code) or code.is_second[index]:
            continue
        reached.add(index)
        form = code.form_of(index)
        if form.slots == 2:
            reached.add(index + 1)
        if form.family not in (Family.EXIT, Family.JUMP):
            work.append(index + form.slots)
        if form.family in (Family.JUMP, Family.BRANCH):
            work.append(index + 1 + int(code.offset[index]))
        if form.family is Family.CALL:
            work.append(index + 1 + int(code.imm[index]))
    assert set(reachable(control_flow(code)).nonzero()[0].tolist()) == reached
