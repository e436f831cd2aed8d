"""SBPF: what each instruction does in each version."""

import pytest

from jitlink.bpf import BpfFault, FaultKind, sbpf
from jitlink.bpf.sbpf.isa import Family, forms_of
from jitlink.bpf.sbpf.memory import INPUT_START
from tests.bpf.sbpf_files import EXIT, build, op
from tests.bpf.sbpf_machines import TIERS

MASK = (1 << 64) - 1
NUMBERS = [0, 1, 2, 31, 64, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0005, 1 << 63, MASK, 0x1122334455667788]
IMMEDIATES = [1, -1, 7, 31, -(1 << 31), (1 << 31) - 1]
FAULT = None


def u32(value):
    return value & 0xFFFF_FFFF


def s32(value):
    return (u32(value) ^ 1 << 31) - (1 << 31)


def s64(value):
    return (value & MASK ^ 1 << 63) - (1 << 63)


def divided(dividend, divisor, smallest):
    """The quotient and the remainder as Rust has them, which round toward zero; None where Rust panics."""
    if divisor == 0 or (divisor == -1 and dividend == smallest):
        return None, None
    quotient = abs(dividend) // abs(divisor) * (1 if (dividend < 0) == (divisor < 0) else -1)
    return quotient, dividend - quotient * divisor


def unsigned(dst, src, which):
    return divided(dst, src, None)[which]


# The Rust equivalents of doc/bytecode.md; src is the register, or the immediate with its sign extended.
ALL = {
    "or32": lambda d, s: u32(d | s),
    "and32": lambda d, s: u32(d & s),
    "xor32": lambda d, s: u32(d ^ s),
    "lsh32": lambda d, s: u32(u32(d) << (s & 31)),
    "rsh32": lambda d, s: u32(d) >> (s & 31),
    "arsh32": lambda d, s: u32(s32(d) >> (s & 31)),
    "add64": lambda d, s: d + s,
    "or64": lambda d, s: d | s,
    "and64": lambda d, s: d & s,
    "xor64": lambda d, s: d ^ s,
    "mov64": lambda d, s: s,
    "lsh64": lambda d, s: d << (s & 63),
    "rsh64": lambda d, s: d >> (s & 63),
    "arsh64": lambda d, s: s64(d) >> (s & 63),
}
EXCEPT_V2 = {
    "add32": lambda d, s: s32(d + s),
    "sub32": lambda d, s: s32(d - s),
    "mul32": lambda d, s: s32(s32(d) * s32(s)),
    "div32": lambda d, s: unsigned(u32(d), u32(s), 0),
    "mod32": lambda d, s: unsigned(u32(d), u32(s), 1),
    "mov32": lambda d, s: u32(s),
    "sub64": lambda d, s: d - s,
    "mul64": lambda d, s: d * s,
    "div64": lambda d, s: unsigned(d, s, 0),
    "mod64": lambda d, s: unsigned(d, s, 1),
    "neg32": lambda d, s: u32(-s32(d)),
    "neg64": lambda d, s: -d,
}
ONLY_V2 = {
    "add32": lambda d, s: u32(d + s),
    "lmul32": lambda d, s: u32(s32(d) * s32(s)),
    "lmul64": lambda d, s: d * s,
    "udiv32": lambda d, s: unsigned(u32(d), u32(s), 0),
    "urem32": lambda d, s: unsigned(u32(d), u32(s), 1),
    "shmul64": lambda d, s: s64(d) * s64(s) >> 64,
    "sdiv32": lambda d, s: low(divided(s32(d), s32(s), -(1 << 31))[0]),
    "srem32": lambda d, s: low(divided(s32(d), s32(s), -(1 << 31))[1]),
    "sdiv64": lambda d, s: divided(s64(d), s64(s), -(1 << 63))[0],
    "srem64": lambda d, s: divided(s64(d), s64(s), -(1 << 63))[1],
}
# In version 2 these differ between register and immediate.
V2_REGISTER = {
    "sub32": lambda d, s: u32(d - s),
    "sub64": lambda d, s: d - s,
    "mov32": lambda d, s: s32(s),
    "uhmul64": lambda d, s: d * s >> 64,
    "udiv64": lambda d, s: unsigned(d, s, 0),
    "urem64": lambda d, s: unsigned(d, s, 1),
}
V2_IMMEDIATE = {
    "sub32": lambda d, s: u32(s - d),
    "sub64": lambda d, s: s - d,
    "mov32": lambda d, s: u32(s),
    "uhmul64": lambda d, s: d * u32(s) >> 64,
    "udiv64": lambda d, s: unsigned(d, u32(s), 0),
    "urem64": lambda d, s: unsigned(d, u32(s), 1),
    "hor64": lambda d, s: d | u32(s) << 32,
}


def low(value):
    return None if value is None else u32(value)


def expected_of(version, form):
    if version != 2:
        return (ALL | EXCEPT_V2)[form.name]
    return (ALL | ONLY_V2 | (V2_REGISTER if form.from_register else V2_IMMEDIATE))[form.name]


CASES = [
    pytest.param(version, form, id=f"v{version}-{form.name}-{'src' if form.from_register else 'imm'}")
    for version in (0, 2, 3)
    for form in forms_of(sbpf.Version(version))
    if form is not None and form.family is Family.ARITHMETIC
]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("version", "form"), CASES)
def test_arithmetic(tier, version, form):
    """Each instruction gives what its Rust equivalent gives, and is a fault where that panics."""
    expected = expected_of(version, form)
    seconds = NUMBERS if form.from_register else IMMEDIATES
    if form.shifts and not form.from_register:
        seconds = [0, 1, form.bits - 1]
    program = None
    for second in seconds:
        if program is None or not form.from_register:
            text = op(form.opcode, 1, 2) if form.from_register else op(form.opcode, 1, imm=second)
            program = sbpf.load(build(version, text + op(0xBF, 0, 1) + EXIT), tier=tier, cache=False)
        for first in NUMBERS:
            wanted = expected(first, second & MASK)
            if wanted is FAULT:
                with pytest.raises(BpfFault) as caught:
                    program.run(b"", first, second)
                assert (caught.value.kind, caught.value.pc) == (FaultKind.DIVISION, 0)
            else:
                assert program.run(b"", first, second).r0 == wanted & MASK, (hex(first), hex(second))


CONDITIONS = {
    "jeq": lambda d, s, signed: d == s,
    "jne": lambda d, s, signed: d != s,
    "jgt": lambda d, s, signed: d > s,
    "jge": lambda d, s, signed: d >= s,
    "jlt": lambda d, s, signed: d < s,
    "jle": lambda d, s, signed: d <= s,
    "jset": lambda d, s, signed: d & s != 0,
    "jsgt": lambda d, s, signed: signed(d) > signed(s),
    "jsge": lambda d, s, signed: signed(d) >= signed(s),
    "jslt": lambda d, s, signed: signed(d) < signed(s),
    "jsle": lambda d, s, signed: signed(d) <= signed(s),
}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("version", "form"),
    [
        pytest.param(version, form, id=f"v{version}-{form.name}-{'src' if form.from_register else 'imm'}")
        for version in (0, 3)
        for form in forms_of(sbpf.Version(version))
        if form is not None and form.family is Family.BRANCH
    ],
)
def test_branches(tier, version, form):
    """A branch compares 64 bits, or from version 3 on the lower 32 if it says so."""
    cut, signed = (u32, s32) if form.bits == 32 else (lambda value: value & MASK, s64)
    for second in NUMBERS[::2] if form.from_register else IMMEDIATES:
        text = op(form.opcode, 1, 2 if form.from_register else 0, 1, 0 if form.from_register else second)
        program = sbpf.load(
            build(version, op(0xB7, 0, imm=1) + text + op(0xB7, 0, imm=0) + EXIT), tier=tier, cache=False
        )
        for first in NUMBERS:
            wanted = CONDITIONS[form.operation](cut(first), cut(second), signed)
            assert program.run(b"", first, second).r0 == wanted


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("version", [0, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_memory_access(tier, version, size):
    """Loads extend zeros; stores write the low bytes of src, or of the sign-extended immediate, and no others."""
    forms = {(form.family, form.bits, form.from_register): form for form in forms_of(sbpf.Version(version)) if form}
    load, store = forms[Family.LOAD, 8 * size, True], forms[Family.STORE, 8 * size, True]
    text = op(load.opcode, 0, 1, 3) + op(store.opcode, 1, 2, 12)
    text += op(forms[Family.STORE, 8 * size, False].opcode, 1, 0, 22, -2) + EXIT
    data = bytes(range(0x80, 0xA0))
    result = sbpf.load(build(version, text), tier=tier, cache=False).run(data, INPUT_START, 0x1122334455667788)
    assert result.r0 == int.from_bytes(data[3 : 3 + size], "little")
    changed = bytearray(data)
    changed[12 : 12 + size] = (0x1122334455667788).to_bytes(8, "little")[:size]
    changed[22 : 22 + size] = (-2 & MASK).to_bytes(8, "little")[:size]
    assert result.data == changed


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("bits", "swapped"), [(16, 0x8877), (32, 0x88776655), (64, 0x8877665544332211)])
def test_byte_orders(tier, bits, swapped):
    """be swaps the low bytes, le cuts to them."""
    value = 0x1122334455667788
    program = sbpf.load(build(0, op(0xBF, 0, 1) + op(0xDC, 0, imm=bits) + EXIT), tier=tier, cache=False)
    assert program.run(b"", value).r0 == swapped
    program = sbpf.load(build(0, op(0xBF, 0, 1) + op(0xD4, 0, imm=bits) + EXIT), tier=tier, cache=False)
    assert program.run(b"", value).r0 == value & (1 << bits) - 1


@pytest.mark.parametrize("tier", TIERS)
def test_a_long_function(tier):
    """A loop over a thousand instructions runs in bounded stack, and each of them counts."""
    body = b"".join(op(0x07, 0, imm=number) for number in range(1000))
    file = build(0, op(0xB7, 2, imm=500) + body + op(0x07, 2, imm=-1) + op(0x55, 2, offset=-1002) + EXIT)
    result = sbpf.load(file, tier=tier, cache=False).run()
    assert (result.r0, result.units) == (500 * 499500, 500 * 1002 + 2)
