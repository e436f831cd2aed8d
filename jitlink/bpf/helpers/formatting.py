"""The format strings of bpf_trace_printk and bpf_snprintf.

Like printf, but with the kernel's pointers (%pI4 prints the IPv4 address that an argument points at)
and without what it cannot do: precision, floats, and most length modifiers. A format that breaks the
rules is answered with -EINVAL and prints nothing; memory that is not there prints as nothing.

    %d %i %u %x %X     numbers of 32 bits; with l or ll of 64
    %c %s              a character; the string that an argument points at
    %p %px %pK %pB %ps %pS     an address (the kernel's names of symbols are not known here)
    %pks %pus          a string, as %s
    %pi4 %pI4 %pi6 %pI6        an IP address in network order: 001.002.003.004 and 1.2.3.4
    %%                 a percent sign

Between % and the letter may stand flags (0, +, -, space) and a width.

Source: bpf_bprintf_prepare in kernel/bpf/helpers.c; vsnprintf and ip4_string in lib/vsprintf.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from errno import EINVAL

from jitlink.bpf.faults import BpfFault
from jitlink.bpf.helpers.host import Host
from jitlink.bpf.helpers.memory import string_at
from jitlink.bpf.helpers.numbers import byte_order, s32, s64, u32
from jitlink.bpf.machine import Machine

LONGEST_LINE = 1024
LONGEST_STRING = 512
WIDEST = 32767
MOST_ARGUMENTS = 12
TRACE_ARGUMENTS = 3

# A string or an address must not run into a letter or digit: "%string" is a mistake.
_SPECIFIER = re.compile(
    rb"%(?:(?P<percent>%)"
    rb"|(?P<flags>[0+\- ]*)(?P<width>[1-9][0-9]*)?"
    rb"(?:(?P<address>p[KxsSB]|p(?=$|[^0-9A-Za-z]))"
    rb"|(?P<ip>p[iI][46])"
    rb"|(?P<string>(?:p[ku])?s)(?=$|[^0-9A-Za-z])"
    rb"|(?P<character>c)"
    rb"|(?P<long>l{0,2})(?P<number>[diuxX])))"
)
_ALLOWED = re.compile(rb"[\x20-\x7e\t\n\v\f\r]*")


class BadFormat(Exception):
    """The format, or the number of arguments, breaks the rules: -EINVAL."""


def formatted(machine: Machine, format: bytes, arguments: list[int]) -> bytes:
    """Print arguments into a format (without its zero byte). Raises BadFormat."""
    if not _ALLOWED.fullmatch(format):
        raise BadFormat
    pieces, at, used = [], 0, 0
    while True:
        percent = format.find(b"%", at)
        if percent < 0:
            break
        found = _SPECIFIER.match(format, percent)
        if found is None:
            raise BadFormat
        pieces.append(format[at:percent])
        at = found.end()
        if found["percent"]:
            pieces.append(b"%")
            continue
        if used == len(arguments):
            raise BadFormat
        pieces.append(_padded(found, _printed(machine, found, arguments[used])))
        used += 1
    return b"".join([*pieces, format[at:]])


def _printed(machine: Machine, found: re.Match[bytes], value: int) -> bytes:
    if found["number"]:
        return _number(found, value)
    if found["address"]:
        return b"%016x" % value if found["address"] not in (b"ps", b"pS", b"pB") else b"0x%x" % value
    if found["character"]:
        return bytes([value & 0xFF])
    try:
        if found["ip"]:
            return _ip_address(found["ip"], machine.read(value, 4 if found["ip"].endswith(b"4") else 16))
        return string_at(machine, value, LONGEST_STRING - 1)
    except BpfFault:
        return _ip_address(found["ip"], bytes(16)) if found["ip"] else b""


def _number(found: re.Match[bytes], value: int) -> bytes:
    letter, is_long = found["number"], bool(found["long"])
    if letter in b"di":
        number = s64(value) if is_long else s32(value)
        sign = b"+" if b"+" in found["flags"] else b" " if b" " in found["flags"] else b""
        return b"%d" % number if number < 0 else sign + b"%d" % number
    number = value if is_long else u32(value)
    return {b"u": b"%d", b"x": b"%x", b"X": b"%X"}[letter] % number


def _padded(found: re.Match[bytes], text: bytes) -> bytes:
    width = min(int(found["width"] or 0), WIDEST)
    if len(text) >= width:
        return text
    if b"-" in found["flags"]:
        return text.ljust(width)
    if b"0" in found["flags"] and found["number"]:
        sign = text[:1] if text[:1] in (b"-", b"+", b" ") else b""
        return sign + text[len(sign) :].rjust(width - len(sign), b"0")
    return text.rjust(width)


def _ip_address(specifier: bytes, data: bytes) -> bytes:
    if specifier.endswith(b"4"):
        number = b"%03d" if specifier[1:2] == b"i" else b"%d"
        return b".".join(number % byte for byte in data[:4])
    between = b"" if specifier[1:2] == b"i" else b":"
    return between.join(b"%02x%02x" % (data[at], data[at + 1]) for at in range(0, 16, 2))


def _format_at(machine: Machine, address: int, size: int) -> bytes:
    """Read a format of size bytes, which must hold its zero byte."""
    data = machine.read(address, size)
    end = data.find(b"\0")
    if end < 0:
        raise BadFormat
    return data[:end]


def _arguments_at(machine: Machine, address: int, size: int) -> list[int]:
    if size % 8 or size > 8 * MOST_ARGUMENTS or (size and not address):
        raise BadFormat
    data = machine.read(address, size)
    order = byte_order(machine)
    return [int.from_bytes(data[at : at + 8], order) for at in range(0, size, 8)]


def trace_printk(host: Host, machine: Machine, format: int, size: int, *arguments: int) -> int:
    """Print up to three arguments to the trace; returns the length."""
    return _trace(host, machine, format, size, lambda: list(arguments[:TRACE_ARGUMENTS]))


def trace_vprintk(host: Host, machine: Machine, format: int, size: int, data: int, data_size: int, *_: int) -> int:
    """Print arguments out of an array of 64-bit numbers to the trace; returns the length."""
    return _trace(host, machine, format, size, lambda: _arguments_at(machine, data, u32(data_size)))


def _trace(host: Host, machine: Machine, format: int, size: int, arguments: Callable[[], list[int]]) -> int:
    try:
        line = formatted(machine, _format_at(machine, format, u32(size)), arguments())
    except BadFormat:
        return -EINVAL
    host.say(line[: LONGEST_LINE - 1].decode("utf-8", "backslashreplace"))
    return len(line)


def snprintf(host: Host, machine: Machine, buffer: int, size: int, format: int, data: int, data_size: int) -> int:
    """Print into a buffer, cut to its size; returns the length that it would have, with the zero byte."""
    size = u32(size)
    try:
        arguments = _arguments_at(machine, data, u32(data_size))
        text = formatted(machine, string_at(machine, format, LONGEST_LINE), arguments)
    except BadFormat:
        return -EINVAL
    if size:
        machine.regions.find(buffer, size, True)
        machine.write(buffer, text[: size - 1] + b"\0")
    return len(text) + 1
