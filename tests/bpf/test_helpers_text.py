"""Helpers that print and read text: formats of the kernel, numbers and comparison."""

import struct
from errno import EINVAL, ERANGE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bpf.worlds import MASK, World


@pytest.fixture
def world():
    world = World()
    yield world
    world.machine.regions.close()


# Text.


# fmt: off
FORMATS = [
    (b"plain", [], "plain"), (b"%d", [MASK], "-1"), (b"%d", [0x1_0000_0005], "5"), (b"%u", [MASK], "4294967295"),
    (b"%ld", [MASK], "-1"), (b"%llu", [MASK], "18446744073709551615"), (b"%lx", [0xABCDEF0123], "abcdef0123"),
    (b"%x %X", [0xBEEF, 0xBEEF], "beef BEEF"), (b"%5d|%-5d|%05d", [42, 42, 42], "   42|42   |00042"),
    (b"%+d % d", [3, 3], "+3  3"), (b"%06d", [MASK - 4], "-00005"), (b"%c%%", [65], "A%"), (b"%i", [7], "7"),
    (b"%p", [0x1234], "0000000000001234"), (b"%px.", [0x1234], "0000000000001234."), (b"a\tb\n", [], "a\tb\n"),
]
BAD_FORMATS = [
    b"%", b"%f", b"%hd", b"%.3d", b"%lld %d %d %d", b"\xc3\xa4", b"\x01", b"%sx", b"%pI7", b"%ly", b"%*d",
]
# fmt: on


@pytest.mark.parametrize(("format", "arguments", "expected"), FORMATS)
def test_trace_printk_prints_as_printf(world, format, arguments, expected):
    """Conversions, flags and widths are those of printf for 32-bit and, with l or ll, 64-bit numbers."""
    text = world.memory(format + b"\0")
    assert world.call("trace_printk", text.address, len(format) + 1, *arguments) == len(expected)
    assert list(world.host.trace) == [expected]


@pytest.mark.parametrize("format", BAD_FORMATS)
def test_formats_that_break_the_rules_print_nothing(world, format):
    """Floats, precision, stars, other modifiers, more than three arguments and control characters are EINVAL."""
    text = world.memory(format + b"\0")
    assert world.call("trace_printk", text.address, len(format) + 1) == -EINVAL
    assert world.call("trace_printk", text.address, len(format)) == -EINVAL
    assert not world.host.trace


def test_strings_and_addresses_are_followed(world):
    """%s, %pI4 and %pI6 print what their arguments point at; what is not there prints as nothing or zeros."""
    name, address = world.memory(b"eth0\0junk"), world.memory(bytes([10, 0, 0, 1]) + bytes(11) + b"\1")
    for format, argument, expected in [
        (b"<%s>", name.address, "<eth0>"),
        (b"<%6s>", name.address, "<  eth0>"),
        (b"<%s>", 5, "<>"),
        (b"%pI4", address.address, "10.0.0.1"),
        (b"%pi4", address.address, "010.000.000.001"),
        (b"%pI6", address.address, "0a00:0001:0000:0000:0000:0000:0000:0001"),
        (b"%pi6", address.address, "0a000001000000000000000000000001"),
        (b"%pI4", 5, "0.0.0.0"),
    ]:
        text = world.memory(format + b"\0")
        world.call("trace_printk", text.address, len(format) + 1, argument)
        assert world.host.trace[-1] == expected


@given(
    st.integers(0, MASK),
    st.sampled_from(["d", "u", "x", "X"]),
    st.sampled_from(["", "0", "-", "+", " "]),
    st.integers(0, 30),
)
def test_numbers_are_printed_as_python_prints_them(value, letter, flag, width):
    """The % operator of Python, which is C's printf, prints the same 64-bit number."""
    world = World()
    specifier = f"%{flag}{width or ''}"
    number = value - (1 << 64) if letter == "d" and value >> 63 else value
    if letter != "d" and flag in "+ ":
        flag, specifier = "", f"%{width or ''}"
    text = world.memory(f"{specifier}ll{letter}\0".encode())
    world.call("trace_printk", text.address, text.size, value)
    assert world.host.trace[-1] == f"{specifier}{'d' if letter == 'u' else letter}" % number
    world.machine.regions.close()


def test_lines_are_logged(world, caplog):
    """Every line also goes to the logger jitlink.bpf.trace."""
    caplog.set_level("INFO", "jitlink.bpf.trace")
    text = world.memory(b"hello\n\0")
    world.call("trace_printk", text.address, 7)
    assert caplog.messages == ["hello"]


def test_snprintf_cuts_to_the_buffer_and_tells_the_whole_length(world):
    """The result counts the zero byte and what was cut off; the arguments come from an array."""
    data, format = world.memory(struct.pack("<2Q", 12, 34)), world.memory(b"%d and %d\0", writable=False)
    buffer = world.memory(b"x" * 20)
    assert world.call("snprintf", buffer.address, 20, format.address, data.address, 16) == 10
    assert bytes(buffer.data) == b"12 and 34\0" + b"x" * 10
    assert world.call("snprintf", buffer.address, 4, format.address, data.address, 16) == 10
    assert bytes(buffer.data[:5]) == b"12 \0n"
    assert world.call("snprintf", buffer.address, 20, format.address, data.address, 8) == -EINVAL
    assert world.call("snprintf", buffer.address, 20, format.address, data.address, 12) == -EINVAL


@pytest.mark.parametrize(
    ("text", "base", "expected", "value"),
    [
        (b"123", 0, 3, 123), (b" -42x", 0, 4, -42), (b"0x1fz", 0, 4, 31), (b"017", 0, 3, 15), (b"017", 10, 3, 17),
        (b"ff", 16, 2, 255), (b"0XfF", 16, 4, 255), (b"-9223372036854775808", 10, 20, -(2**63)),
        (b"9223372036854775808", 10, -ERANGE, None), (b"", 0, -EINVAL, None), (b"x", 0, -EINVAL, None),
        (b"-", 0, -EINVAL, None), (b"12", 7, -EINVAL, None), (b"12", 32, -EINVAL, None), (b"8", 8, -EINVAL, None),
        (b"99999999999999999999999", 10, -ERANGE, None), (b"\t\n 5", 10, 4, 5),
    ],
)  # fmt: skip
def test_strtol_reads_numbers_as_the_kernel_does(world, text, base, expected, value):
    """Spaces, a sign, a prefix that tells the base; the result is how many characters were used."""
    source, result = world.memory(text + b"  "), world.memory(bytes(8))
    assert world.call("strtol", source.address, len(text), base, result.address) == expected
    if value is not None:
        assert int.from_bytes(result.data, "little", signed=True) == value


def test_strtoul_refuses_a_sign(world):
    """Unsigned numbers go up to 2**64 - 1 and have no minus."""
    source, result = world.memory(b"18446744073709551615-1"), world.memory(bytes(8))
    assert world.call("strtoul", source.address, 20, 0, result.address) == 20
    assert bytes(result.data) == b"\xff" * 8
    assert world.call("strtoul", source.address + 20, 2, 0, result.address) == -EINVAL


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_strncmp_orders_as_c_does(one, other):
    """The sign is that of the first bytes that differ, up to a zero byte or the size."""
    world = World()
    left, right = world.memory(one + b"\0"), world.memory(other + b"\0")
    result = world.call("strncmp", left.address, left.size, right.address)
    a, b = one.split(b"\0")[0], other.split(b"\0")[0]
    assert (result > 0) - (result < 0) == (a > b) - (a < b)
    world.machine.regions.close()
