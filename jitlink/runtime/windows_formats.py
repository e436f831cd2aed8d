"""Formats of printf and scanf as Windows code means them, for the C library of this process.

Three things differ. `long` has 32 bits, and I64, I32 and I are lengths of Microsoft's own; wide strings are
UTF-16; and the further arguments lie one behind the other, in 8 bytes each, where System V has them in
registers and on the stack. The last is easily met: a System V va_list whose registers are used up reads all
arguments from the stack, in 8 bytes each.

Source: Microsoft C runtime, "Format specification syntax: printf and wprintf functions"; System V ABI, AMD64
supplement, 3.5.7.
"""

from __future__ import annotations

import ctypes
import re
from functools import lru_cache
from typing import NamedTuple

CONVERSION = re.compile(
    rb"%(?P<flags>[-+ #0']*)(?P<width>\*|\d*)(?:\.(?P<precision>\*|\d*))?"
    rb"(?P<length>hh|h|ll|l|j|z|t|q|L|I64|I32|I|w)?(?P<type>[diouxXeEfFgGaAcCsSpnZ%]|\[\^?\]?[^\]]*\])"
)
INTEGERS = b"diouxXn"
FLOATING = b"eEfFgGaA"
LENGTHS = {b"l": b"", b"I32": b"", b"I64": b"ll", b"I": b"z", b"q": b"ll", b"j": b"ll", b"w": b"", b"L": b"ll"}
"""The lengths of integers for this process; those that are not here mean the same."""
LONGEST_WIDE = 1 << 20
"""Code units that a wide string may have when its end is searched for."""


class VariableArguments(ctypes.Structure):
    """va_list of System V on x86-64."""

    _fields_ = (
        ("gp_offset", ctypes.c_uint32),
        ("fp_offset", ctypes.c_uint32),
        ("overflow_arg_area", ctypes.c_void_p),
        ("reg_save_area", ctypes.c_void_p),
    )


GENERAL_USED_UP, ALL_USED_UP = 48, 176


def arguments_at(slots: int) -> VariableArguments:
    """A va_list that reads arguments of 8 bytes each from an address on."""
    return VariableArguments(GENERAL_USED_UP, ALL_USED_UP, slots, None)


class Adapted(NamedTuple):
    """A format for this process.

    Attributes: text; wide (for each wide string or character among the arguments, the number of its slot
    and whether it is a string); slots (how many the format uses).
    """

    text: bytes
    wide: tuple[tuple[int, bool], ...]
    slots: int


@lru_cache(maxsize=1024)
def printing(text: bytes) -> Adapted:
    """Adapt a format of printf."""
    wide = []
    slots = 0

    def replace(found: re.Match[bytes]) -> bytes:
        nonlocal slots
        kind, length = found["type"], found["length"] or b""
        if kind == b"%":
            return found[0]
        slots += (found["width"] == b"*") + (found["precision"] == b"*")
        if kind in b"cCsS" and _is_wide(kind, length):
            wide.append((slots, kind in b"sS"))
            kind, length = b"s", b""
        elif kind in b"cCsS":
            kind, length = kind.lower(), b""
        elif kind in FLOATING:
            # A long double is a double on Windows.
            length = b""
        elif kind in INTEGERS:
            length = LENGTHS.get(length, length)
        slots += 1
        precision = b"" if found["precision"] is None else b"." + found["precision"]
        return b"%" + found["flags"] + found["width"] + precision + length + kind

    adapted = CONVERSION.sub(replace, text)
    return Adapted(adapted, tuple(wide), slots)


@lru_cache(maxsize=1024)
def scanning(text: bytes) -> bytes | None:
    """Adapt a format of scanf; None for one that reads wide characters, which cannot be served."""
    wide = False

    def replace(found: re.Match[bytes]) -> bytes:
        nonlocal wide
        kind, length = found["type"], found["length"] or b""
        if kind == b"%":
            return found[0]
        if kind[:1] in b"cCsS[":
            wide |= _is_wide(kind, length)
            length = b""
        elif kind in FLOATING:
            length = b"l" if length == b"L" else length
        elif kind in INTEGERS:
            length = LENGTHS.get(length, length)
        return b"%" + found["width"] + length + kind

    adapted = CONVERSION.sub(replace, text)
    return None if wide else adapted


def _is_wide(kind: bytes, length: bytes) -> bool:
    return length in (b"l", b"w") or (kind in b"CS" and length != b"h")


def slots_for(format: Adapted, slots: int) -> tuple[int, object]:
    """Where the arguments of an adapted format are, and what must be kept until it has been used.

    slots: address of the arguments as Windows code gives them. Wide ones are copied as UTF-8.
    """
    if not format.wide:
        return slots, None
    copied = (ctypes.c_uint64 * format.slots).from_buffer_copy(ctypes.string_at(slots, 8 * format.slots))
    kept = []
    for slot, is_string in format.wide:
        text = _wide_string(copied[slot]) if is_string else chr(copied[slot] & 0xFFFF)
        encoded = ctypes.create_string_buffer(text.encode("utf-8", "replace"))
        kept.append(encoded)
        copied[slot] = ctypes.addressof(encoded)
    return ctypes.addressof(copied), (copied, kept)


def _wide_string(address: int) -> str:
    """The UTF-16 string at an address."""
    if not address:
        return "(null)"
    units = bytearray()
    for at in range(address, address + 2 * LONGEST_WIDE, 2):
        unit = ctypes.string_at(at, 2)
        if unit == b"\0\0":
            break
        units += unit
    return units.decode("utf-16-le", "replace")
