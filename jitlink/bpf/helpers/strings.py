"""Helpers that read numbers out of text and compare text. Source: kernel/bpf/helpers.c, lib/kstrtox.c."""

from __future__ import annotations

import re
from errno import EINVAL, ERANGE

from jitlink.bpf.helpers.host import Host
from jitlink.bpf.helpers.numbers import byte_order, u32
from jitlink.bpf.machine import Machine

BASE_MASK = 0x1F
BASES = (0, 8, 10, 16)
LONGEST_NUMBER = 63
SPACES = b" \t\n\v\f\r"
DIGITS = {8: rb"[0-7]+", 10: rb"[0-9]+", 16: rb"[0-9a-fA-F]+"}
MOST_UNSIGNED = (1 << 64) - 1


def strtol(host: Host, machine: Machine, text: int, size: int, flags: int, result: int, *_: int) -> int:
    """Read a signed number; returns how many characters were used. flags: the base, 0 to tell it by prefix."""
    parsed = _parse(machine, text, u32(size), flags)
    if isinstance(parsed, int):
        return parsed
    negative, magnitude, used = parsed
    if magnitude > (1 << 63) - (not negative):
        return -ERANGE
    machine.write(result, (-magnitude if negative else magnitude).to_bytes(8, byte_order(machine), signed=True))
    return used


def strtoul(host: Host, machine: Machine, text: int, size: int, flags: int, result: int, *_: int) -> int:
    """Read an unsigned number; returns how many characters were used."""
    parsed = _parse(machine, text, u32(size), flags)
    if isinstance(parsed, int):
        return parsed
    negative, magnitude, used = parsed
    if negative:
        return -EINVAL
    machine.write(result, magnitude.to_bytes(8, byte_order(machine)))
    return used


def _parse(machine: Machine, address: int, size: int, flags: int) -> tuple[bool, int, int] | int:
    """Read sign, magnitude and number of characters; or give a negative errno."""
    base = flags & BASE_MASK
    if not size or flags & ~BASE_MASK or base not in BASES:
        return -EINVAL
    text = machine.read(address, size)
    start = len(text) - len(text.lstrip(SPACES))
    negative = text[start : start + 1] == b"-"
    start += negative
    number = text[start : start + LONGEST_NUMBER]
    prefix = 0
    if base == 0:
        base = 16 if re.match(rb"0[xX][0-9a-fA-F]", number) else 8 if number[:1] == b"0" else 10
    if base == 16 and number[:2].lower() == b"0x":
        prefix = 2
    digits = re.match(DIGITS[base], number[prefix:])
    if digits is None:
        return -EINVAL
    magnitude = int(digits[0], base)
    return (negative, magnitude, start + prefix + len(digits[0])) if magnitude <= MOST_UNSIGNED else -ERANGE


def strncmp(host: Host, machine: Machine, one: int, size: int, other: int, *_: int) -> int:
    """Compare a string of at most size bytes with another: negative, 0 or positive."""
    size = u32(size)
    left = machine.read(one, size)
    right = machine.read_string(other, size)[:size].ljust(size, b"\0")
    for a, b in zip(left, right, strict=True):
        if a != b or a == 0:
            return a - b
    return 0
