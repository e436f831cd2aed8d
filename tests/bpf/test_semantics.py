"""Every arithmetic instruction and every branch of RFC 9669 does on corner values what the RFC says.

The expected values are computed with fractions and two's complement by hand, from the sentences of
RFC 9669 sections 4.1 to 4.3, and share nothing with the interpreter.
"""

import math
from fractions import Fraction

import pytest

from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.machine import Code
from tests.bpf.machines import TIERS, machine_of

CORNERS = [
    0,
    1,
    2,
    7,
    31,
    32,
    63,
    64,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x1_0000_0000,
    0x1234_5678_9ABC_DEF0,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    0x8000_0000_0000_0001,
    0xFFFF_FFFF_0000_0000,
    0xFFFF_FFFF_8000_0000,
    0xFFFF_FFFF_FFFF_FFFE,
    0xFFFF_FFFF_FFFF_FFFF,
]
IMMEDIATES = [0, 1, 2, 7, 31, 32, 63, 64, 0x7FFF_FFFF, -0x8000_0000, -0x7FFF_FFFF, -2, -1]


def signed(value: int, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def quotient(dividend: int, divisor: int) -> int:
    return math.trunc(Fraction(dividend, divisor))


def rfc_arithmetic(name: str, bits: int, dst: int, src: int) -> int:
    """The value of dst after an instruction, as RFC 9669 section 4.1 says it."""
    d, s = dst % (1 << bits), src % (1 << bits)
    signed_d, signed_s = signed(d, bits), signed(s, bits)
    shift = s % bits  # "shift operations use a mask of 0x3F (63) for 64-bit operations and 0x1F (31) for 32-bit"
    minimum = -(1 << (bits - 1))
    match name:
        case "add":
            result = d + s
        case "sub":
            result = d - s
        case "mul":
            result = d * s
        case "div":
            result = quotient(d, s) if s else 0
        case "sdiv":
            overflows = signed_s == -1 and signed_d == minimum
            result = 0 if s == 0 else minimum if overflows else quotient(signed_d, signed_s)
        case "or":
            result = d | s
        case "and":
            result = d & s
        case "xor":
            result = (d | s) - (d & s)
        case "lsh":
            result = d * 2**shift
        case "rsh":
            result = math.floor(Fraction(d, 2**shift))
        case "arsh":
            result = math.floor(Fraction(signed_d, 2**shift))
        case "mod":
            result = d - s * quotient(d, s) if s else d
        case "smod":
            overflows = signed_s == -1 and signed_d == minimum
            result = d if s == 0 else 0 if overflows else signed_d - signed_s * quotient(signed_d, signed_s)
        case "mov":
            result = s
        case "neg":
            result = 0 - d
    return result % (1 << bits)


def rfc_branch(name: str, bits: int, dst: int, src: int) -> bool:
    """Whether a branch is taken, as RFC 9669 section 4.3 says it."""
    d, s = dst % (1 << bits), src % (1 << bits)
    sd, ss = signed(d, bits), signed(s, bits)
    return {
        "jeq": d == s,
        "jgt": d > s,
        "jge": d >= s,
        "jset": (d & s) != 0,
        "jne": d != s,
        "jsgt": sd > ss,
        "jsge": sd >= ss,
        "jlt": d < s,
        "jle": d <= s,
        "jslt": sd < ss,
        "jsle": sd <= ss,
    }[name]


# Code and offset of RFC 9669 table 9.
ARITHMETIC = {
    "add": (0x0, 0),
    "sub": (0x1, 0),
    "mul": (0x2, 0),
    "div": (0x3, 0),
    "sdiv": (0x3, 1),
    "or": (0x4, 0),
    "and": (0x5, 0),
    "lsh": (0x6, 0),
    "rsh": (0x7, 0),
    "mod": (0x9, 0),
    "smod": (0x9, 1),
    "xor": (0xA, 0),
    "mov": (0xB, 0),
    "arsh": (0xC, 0),
}
# RFC 9669 table 14.
BRANCHES = {
    "jeq": 0x1,
    "jgt": 0x2,
    "jge": 0x3,
    "jset": 0x4,
    "jne": 0x5,
    "jsgt": 0x6,
    "jsge": 0x7,
    "jlt": 0xA,
    "jle": 0xB,
    "jslt": 0xC,
    "jsle": 0xD,
}

R0_IS_R1, EXIT = (0xBF, 0, 1, 0, 0), (0x95, 0, 0, 0, 0)


@pytest.fixture(params=TIERS)
def machine(request):
    machine = machine_of(request.param)
    yield machine
    machine.close()


def run(machine, *slots, args=(), byteorder="little"):
    return machine.run(Code(decode(encode(slots, byteorder), byteorder)), *args)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_with_a_register(machine, name, bits):
    """dst after an instruction with two registers is what RFC 9669 says; 32-bit results zero the upper half."""
    code, offset = ARITHMETIC[name]
    program = Code(decode(encode([(code << 4 | 8 | (4 if bits == 32 else 7), 1, 2, offset, 0), R0_IS_R1, EXIT])))
    for dst in CORNERS:
        for src in CORNERS:
            assert machine.run(program, dst, src) == rfc_arithmetic(name, bits, dst, src), (hex(dst), hex(src))
            assert machine.registers[2] == src


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_with_an_immediate(machine, name, bits):
    """An immediate is sign-extended to the width of the instruction and then read as the operation reads it."""
    code, offset = ARITHMETIC[name]
    for imm in IMMEDIATES:
        program = Code(decode(encode([(code << 4 | (4 if bits == 32 else 7), 1, 0, offset, imm), R0_IS_R1, EXIT])))
        for dst in CORNERS:
            assert machine.run(program, dst) == rfc_arithmetic(name, bits, dst, imm), (hex(dst), imm)


@pytest.mark.parametrize(("bits", "opcode"), [(32, 0x84), (64, 0x87)])
@pytest.mark.parametrize("value", CORNERS, ids=hex)
def test_negation(machine, bits, opcode, value):
    """neg is 0 - dst in the width of the instruction."""
    assert run(machine, (opcode, 1, 0, 0, 0), R0_IS_R1, EXIT, args=[value]) == rfc_arithmetic("neg", bits, value, 0)


@pytest.mark.parametrize(
    ("opcode", "narrow", "bits"),
    [(0xBC, 8, 32), (0xBC, 16, 32), (0xBF, 8, 64), (0xBF, 16, 64), (0xBF, 32, 64)],
)
@pytest.mark.parametrize("value", CORNERS, ids=hex)
def test_move_with_sign_extension(machine, opcode, narrow, bits, value):
    """movsx extends the sign of the low bits to the width of the instruction; above it come zeros."""
    expected = signed(value, narrow) % (1 << bits)
    assert run(machine, (opcode, 1, 2, narrow, 0), R0_IS_R1, EXIT, args=[77, value]) == expected


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize(("name", "opcode"), [("le", 0xD4), ("be", 0xDC), ("bswap", 0xD7)])
@pytest.mark.parametrize("value", CORNERS, ids=hex)
def test_byte_order(machine, name, opcode, width, byteorder, value):
    """le and be keep the low bits and swap them when the machine has the other order; bswap swaps them always."""
    data = (value % (1 << width)).to_bytes(width // 8, byteorder)
    expected = {
        "le": int.from_bytes(data, "little"),
        "be": int.from_bytes(data, "big"),
        "bswap": int.from_bytes(data[::-1], byteorder),
    }[name]
    assert run(machine, (opcode, 1, 0, 0, width), R0_IS_R1, EXIT, args=[value], byteorder=byteorder) == expected


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", BRANCHES)
def test_branch_with_a_register(machine, name, bits):
    """A branch is taken when RFC 9669 says so, and 32-bit ones look at the lower halves only."""
    opcode = BRANCHES[name] << 4 | 8 | (6 if bits == 32 else 5)
    program = Code(decode(encode([(0xB7, 0, 0, 0, 1), (opcode, 1, 2, 1, 0), (0xB7, 0, 0, 0, 0), EXIT])))
    for dst in CORNERS:
        for src in CORNERS:
            assert machine.run(program, dst, src) == rfc_branch(name, bits, dst, src), (hex(dst), hex(src))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", BRANCHES)
def test_branch_with_an_immediate(machine, name, bits):
    """The immediate of a branch is sign-extended to its width, also for unsigned comparisons."""
    opcode = BRANCHES[name] << 4 | (6 if bits == 32 else 5)
    for imm in IMMEDIATES:
        program = Code(decode(encode([(0xB7, 0, 0, 0, 1), (opcode, 1, 0, 1, imm), (0xB7, 0, 0, 0, 0), EXIT])))
        for dst in CORNERS:
            assert machine.run(program, dst) == rfc_branch(name, bits, dst, imm), (hex(dst), imm)


@pytest.mark.parametrize("value", CORNERS, ids=hex)
def test_wide_constant(machine, value):
    """lddw loads all 64 bits."""
    low, high = signed(value, 32), signed(value >> 32, 32)
    assert run(machine, (0x18, 0, 0, 0, low), (0, 0, 0, 0, high), EXIT) == value


@pytest.mark.parametrize(("opcode", "field"), [(0x05, 3), (0x06, 4)], ids=["ja", "ja32"])
def test_jump(machine, opcode, field):
    """ja takes its distance from offset, ja32 from imm; both count from the next instruction, both ways."""
    forward, back = [opcode, 0, 0, 0, 0], [opcode, 0, 0, 0, 0]
    forward[field], back[field] = 2, -3
    slots = [forward, (0xB7, 0, 0, 0, 7), EXIT, back, EXIT]
    assert run(machine, *map(tuple, slots)) == 7
