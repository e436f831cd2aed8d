"""The table of instruction forms is the one of RFC 9669, and decoding finds the form of every slot."""

import numpy as np
import pytest

from jitlink.bpf.instructions import SELECTS, USES, decode, encode
from jitlink.bpf.isa import FORM_NUMBER, FORMS, Form, Group
from jitlink.errors import MalformedInput

ALU_CODES = [0x0, 0x1, 0x4, 0x5, 0x6, 0x7, 0xA, 0xB, 0xC]
DIVMUL_CODES = [0x2, 0x3, 0x9]
JUMP_CODES = [0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0xA, 0xB, 0xC, 0xD]
ATOMIC_IMMEDIATES = [0x00, 0x01, 0x40, 0x41, 0x50, 0x51, 0xA0, 0xA1, 0xE1, 0xF1]

# Appendix A of the RFC by conformance group: opcode, and the selecting field where there is one.
RFC_FORMS = {
    "base32": {
        *((code << 4 | 0x04 | source, None) for code in ALU_CODES if code != 0xB for source in (0, 8)),
        *((code << 4 | 0x06 | source, None) for code in JUMP_CODES for source in (0, 8)),
        (0xB4, ("offset", 0)),
        *((0xBC, ("offset", offset)) for offset in (0, 8, 16)),
        (0x84, None),
        *((opcode, ("imm", bits)) for opcode in (0xD4, 0xD7, 0xDC) for bits in (16, 32)),
        *((opcode, None) for opcode in (0x05, 0x06, 0x95)),
        *((0x85, ("src", src)) for src in (0, 1, 2)),
        *((opcode, None) for opcode in (0x61, 0x69, 0x71, 0x62, 0x6A, 0x72, 0x63, 0x6B, 0x73, 0x81, 0x89, 0x91)),
    },
    "base64": {
        *((code << 4 | 0x07 | source, None) for code in ALU_CODES if code != 0xB for source in (0, 8)),
        *((code << 4 | 0x05 | source, None) for code in JUMP_CODES for source in (0, 8)),
        (0xB7, ("offset", 0)),
        *((0xBF, ("offset", offset)) for offset in (0, 8, 16, 32)),
        (0x87, None),
        *((opcode, ("imm", 64)) for opcode in (0xD4, 0xD7, 0xDC)),
        *((opcode, None) for opcode in (0x79, 0x7A, 0x7B)),
        *((0x18, ("src", src)) for src in range(7)),
    },
    "divmul32": {
        *((0x24 | source, None) for source in (0, 8)),
        *((code << 4 | 0x04 | source, ("offset", sign)) for code in (3, 9) for source in (0, 8) for sign in (0, 1)),
    },
    "divmul64": {
        *((0x27 | source, None) for source in (0, 8)),
        *((code << 4 | 0x07 | source, ("offset", sign)) for code in (3, 9) for source in (0, 8) for sign in (0, 1)),
    },
    "atomic32": {(0xC3, ("imm", imm)) for imm in ATOMIC_IMMEDIATES},
    "atomic64": {(0xDB, ("imm", imm)) for imm in ATOMIC_IMMEDIATES},
    "packet": {(opcode, None) for opcode in (0x20, 0x28, 0x30, 0x40, 0x48, 0x50)},
}


def slot_of(form: Form) -> tuple[int, int, int, int, int]:
    fields = dict([form.selector] if form.selector else [])
    return form.opcode, 0, fields.get("src", 0), fields.get("offset", 0), fields.get("imm", 0)


@pytest.mark.parametrize("group", RFC_FORMS)
def test_conformance_group_holds_the_forms_of_the_rfc(group):
    """Each conformance group has exactly the opcodes and selectors that appendix A of RFC 9669 lists for it."""
    forms = {(form.opcode, form.selector) for form in FORMS if form.group == group}
    assert forms == RFC_FORMS[group]


def test_forms_outside_of_the_rfc_are_those_of_linux():
    """What RFC 9669 does not define is what the Linux kernel added, and nothing else."""
    linux = {(form.opcode, form.selector) for form in FORMS[1:] if form.group is Group.LINUX}
    acquire_release = {(0xC3 | size, ("imm", imm)) for size in (0x00, 0x08, 0x10, 0x18) for imm in (0x100, 0x110)}
    assert linux == acquire_release | {(0xE5, None), (0xBF, ("offset", 1)), (0x0D, None), (0x8D, None)}


def test_names_are_unique():
    """A form can be found by its name."""
    assert len(FORM_NUMBER) == len(FORMS)


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.name)
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_decoding_finds_the_form(form, byteorder):
    """A slot with the opcode and selector of a form decodes to that form, in either byte order."""
    code = decode(encode([slot_of(form), (0, 0, 0, 0, 0)], byteorder), byteorder)
    assert code.form_of(0) is form


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.name)
def test_selector_is_no_operand(form):
    """The field that selects a form never carries an operand of it."""
    number = FORM_NUMBER[form.name]
    assert not any(USES[field][number] and SELECTS[field][number] for field in ("dst", "src", "offset", "imm"))


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - {form.opcode for form in FORMS}))
def test_undefined_opcode_decodes_to_the_null_form(opcode):
    """An opcode that nobody defines has the form 0."""
    assert decode(encode([(opcode, 0, 0, 0, 0)])).form[0] == 0


@pytest.mark.parametrize(
    "slot", [(0x3F, 0, 0, 2, 0), (0xDB, 0, 0, 0, 2), (0xD4, 0, 0, 0, 8), (0x85, 0, 3, 0, 0), (0xBC, 0, 0, 32, 0)]
)
def test_undefined_selector_decodes_to_the_null_form(slot):
    """A known opcode with a selector that nobody defines has the form 0."""
    assert decode(encode([slot])).form[0] == 0


def test_registers_share_a_byte_by_byte_order():
    """dst is the low half of the second byte in little-endian programs and the high half in big-endian ones."""
    assert encode([(0xBF, 1, 2, 0, 0)], "little")[1] == 0x21
    assert encode([(0xBF, 1, 2, 0, 0)], "big")[1] == 0x12


def test_fields_are_signed():
    """offset and imm are two's complement numbers."""
    code = decode(bytes.fromhex("75 01 feff fdffffff"))
    assert (code.offset[0], code.imm[0]) == (-2, -3)


def test_wide_constant_joins_both_halves():
    """The constant of lddw is next_imm in the upper and imm in the lower 32 bits."""
    code = decode(bytes.fromhex("1800000089abcdef 0000000001234567"))
    assert code.constant[0] == 0x67452301EFCDAB89
    assert code.is_second.tolist() == [False, True]


def test_narrow_constant_is_sign_extended():
    """The constant of any other instruction is imm, sign-extended to 64 bits."""
    assert decode(bytes.fromhex("b7000000ffffffff")).constant[0] == 0xFFFF_FFFF_FFFF_FFFF


@pytest.mark.parametrize("run", range(8))
def test_slots_of_a_run_of_wide_opcodes_alternate(run):
    """In a row of slots with opcode 0x18 every other one is a second slot, without a form whatever it holds."""
    rng = np.random.default_rng(run)
    opcodes = rng.choice([0x18, 0xB7], 40, p=[0.7, 0.3]).tolist()
    expected, second = [], False
    for opcode in opcodes:
        expected.append(second)
        second = opcode == 0x18 and not second
    code = decode(encode([(opcode, 0, 0, 0, 0) for opcode in opcodes]))
    assert code.is_second.tolist() == expected
    assert (code.form == 0).tolist() == expected


def test_empty_program_decodes():
    """No slots are no rows."""
    assert len(decode(b"")) == 0


@pytest.mark.parametrize("size", [1, 7, 9, 15])
def test_half_a_slot_is_refused(size):
    """A program that is not a whole number of slots raises MalformedInput."""
    with pytest.raises(MalformedInput, match="not a whole number of 8-byte slots"):
        decode(bytes(size))
