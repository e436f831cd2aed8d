"""What the disassembler writes, the assembler reads back to the same bytes: any bytes, in either syntax."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.bpf.assembler import assemble
from jitlink.bpf.disassembler import disassemble
from jitlink.bpf.instructions import encode
from jitlink.bpf.isa import FORMS
from jitlink.bpf.syntax import RAW_DIRECTIVE

SYNTAXES = ["llvm", "mnemonic"]

registers = st.integers(0, 10)
offsets = st.integers(-(1 << 15), (1 << 15) - 1)
immediates = st.integers(-(1 << 31), (1 << 31) - 1)


@st.composite
def described_slots(draw):
    """Slots of one instruction that a form describes, with any operands."""
    form = draw(st.sampled_from(FORMS[1:]))
    any_of = {"dst": registers, "src": registers, "offset": offsets, "imm": immediates}
    fields = {name: draw(values) if name in form.operands else 0 for name, values in any_of.items()}
    fields |= dict([form.selector] if form.selector else [])
    slots = [(form.opcode, *fields.values())]
    if form.slots == 2:
        slots.append((0, 0, 0, 0, draw(immediates) if "next_imm" in form.operands else 0))
    return slots


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.name)
def test_every_form_has_text_of_its_own(form, syntax):
    """No form falls back on the raw directive, and its text assembles to its opcode and selector."""
    fields = dict([form.selector] if form.selector else [])
    slots = [(form.opcode, *(fields.get(name, 0) for name in ("dst", "src", "offset", "imm")))]
    code = encode(slots + [(0, 0, 0, 0, 0)] * (form.slots - 1))
    text = disassemble(code, syntax)
    assert RAW_DIRECTIVE not in text
    assert len(text.splitlines()) == 1
    assert assemble(text) == code


@pytest.mark.parametrize("syntax", SYNTAXES)
@given(program=st.lists(described_slots(), max_size=20))
def test_assembling_inverts_disassembling_of_instructions(syntax, program):
    """Any program of defined instructions comes back from its text, without the raw directive."""
    code = encode([slot for slots in program for slot in slots])
    text = disassemble(code, syntax)
    assert RAW_DIRECTIVE not in text
    assert assemble(text) == code


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("byteorder", ["little", "big"])
@given(slots=st.lists(st.binary(min_size=8, max_size=8) | st.just(bytes([0x18] + [0] * 7)), max_size=20))
def test_assembling_inverts_disassembling_of_any_bytes(syntax, byteorder, slots):
    """Bytes that are no instructions come back too: reserved fields, unknown opcodes, half constants."""
    code = b"".join(slots)
    assert assemble(disassemble(code, syntax, byteorder=byteorder), byteorder=byteorder) == code


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "slot", [(0xBF, 11, 0, 0, 0), (0xBF, 0, 15, 0, 0), (0xBF, 0, 0, 0, 1), (0xB7, 0, 1, 0, 0), (0x95, 0, 0, 1, 0)]
)
def test_what_the_syntax_cannot_say_is_written_field_by_field(syntax, slot):
    """Registers above r10 and reserved fields that are not zero take the raw directive, and come back."""
    code = encode([slot])
    text = disassemble(code, syntax)
    assert text.startswith(RAW_DIRECTIVE)
    assert assemble(text) == code


@pytest.mark.parametrize(
    "text", ["r0 = *(u32 *)(r1 + 4)", "if w1 s>= -2 goto -1", "r3 = 81985529216486895 ll", "call local +3"]
)
def test_llvm_text_is_as_llvm_writes_it(text):
    """The LLVM syntax is spaced as llvm-objdump spaces it."""
    assert disassemble(assemble(text)) == text + "\n"


@pytest.mark.parametrize(
    "text", ["ldxw %r0, [%r1+4]", "jsge32 %r1, -2, -1", "lddw %r3, 0x1", "lock fetch or [%r1], %r2"]
)
def test_mnemonic_text_is_as_bpf_conformance_writes_it(text):
    """The mnemonic syntax is spaced as the tests of bpf_conformance are."""
    assert disassemble(assemble(text), "mnemonic") == text + "\n"


def test_labels_are_written_and_read_back():
    """Indices with a name get it as a label, jumps and calls to them name it, also behind the end."""
    code = assemble("goto +2\nr0 = 1 ll\ncall local +1\ngoto -1\ngoto +0")
    text = disassemble(code, labels={3: "again", 5: "f", 6: "end"})
    lines = [line.strip() for line in text.splitlines()]
    assert lines == ["goto again", "r0 = 1 ll", "again:", "call local f", "goto -1", "f:", "goto end", "end:"]
    assert assemble(text) == code


def test_comments_stand_beside_their_instruction():
    """A comment begins in a column of its own, goes on over lines, and is skipped by the assembler."""
    code = assemble("r0 = 1\nexit")
    text = disassemble(code, comments=lambda index: "a.c:3\n  return 1;" if index == 0 else None)
    assert text.splitlines() == [f"{'r0 = 1':40} # a.c:3", f"{'':40} #   return 1;", "exit"]
    assert assemble(text) == code
