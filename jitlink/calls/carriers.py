"""Carriers: structures that go through a call in the place of what cffi cannot pass by value.

The psABI passes an aggregate of up to 16 bytes in registers, each eight bytes of it by what they hold:
integers in a general register, floating-point numbers in a vector register; it mixes to integer where
both overlap, as in a union. Larger aggregates go through memory. So any structure whose eight-byte parts
are of the same classes, with the same size and alignment, travels exactly the same way. A carrier is such
a structure, of a few plain members, that stands in for a union, for bit-fields, or for a complex number.

Source: x86-64 psABI, version 1.0, section 3.2.3 (Parameter Passing).
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator

from jitlink.calls.c_types import Array, CType, Enumeration, Number, Pointer, Record
from jitlink.errors import UntypedSymbol

IN_REGISTERS = 16
EIGHT = 8
MOST_LEAVES = 4096
UNSIGNED = {8: "unsigned long", 4: "unsigned int", 2: "unsigned short", 1: "unsigned char"}

Parts = list[tuple[str, int, int]]
"""Members of a carrier: the C name, the size and the number of elements of each."""


def carrier_of(kind: Record | Number) -> Parts:
    """The members of the carrier of an aggregate. Raises UntypedSymbol where there is none."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise UntypedSymbol(f"{kind} cannot be passed by value on this machine")
    size = kind.size
    assert size is not None
    leaves = list(_leaves(kind, 0, kind))
    has_long_double = any(isinstance(leaf, Number) and leaf.width == 16 for leaf, _ in leaves)
    unaligned = any(offset % max(leaf.size or 1, 1) for leaf, offset in leaves)
    if has_long_double:
        if unaligned or size % 16:
            raise UntypedSymbol(f"{kind} cannot be passed by value: it is packed")
        return [("long double", 16, size // 16)]
    # Members of this size make up the same size and alignment.
    unit = 1 if unaligned else math.gcd(alignment_of(kind), size, EIGHT)
    if size > IN_REGISTERS:
        return [(UNSIGNED[unit], unit, size // unit)]
    if unaligned:
        raise UntypedSymbol(f"{kind} cannot be passed by value: it is packed")
    found: Parts = []
    for start in range(0, size, EIGHT):
        found.append(_part(leaves, start, min(EIGHT, size - start), unit))
    return found


def _part(leaves: list[tuple[CType, int]], start: int, size: int, unit: int) -> tuple[str, int, int]:
    """The members that stand for the (up to) eight bytes from a start, by the class of what lies there."""
    inside = [leaf for leaf, offset in leaves if start <= offset < start + EIGHT]
    if inside and unit >= 4 and all(isinstance(leaf, Number) and leaf.sort == "float" for leaf in inside):
        return ("double", 8, 1) if unit == EIGHT else ("float", 4, size // 4)
    return UNSIGNED[unit], unit, size // unit


def _leaves(kind: CType, offset: int, whole: CType) -> Iterator[tuple[CType, int]]:
    """The numbers and pointers of an aggregate, with their offsets."""
    waiting = [(kind, offset)]
    count = 0
    while waiting:
        each, at = waiting.pop()
        each = each.plain
        count += 1
        if count > MOST_LEAVES:
            raise UntypedSymbol(f"{whole} cannot be passed by value: it has too many parts")
        if isinstance(each, Record):
            for member in each.members:
                # A bit-field lies in the unit of its type that holds it.
                unit = max(member.type.size or 1, 1)
                place = member.offset if member.bits is None else member.bit // 8 // unit * unit
                waiting.append((member.type, at + place))
        elif isinstance(each, Array):
            size = each.element.size or 0
            waiting += [(each.element, at + size * row) for row in range(min(each.length or 0, IN_REGISTERS))]
        elif isinstance(each, Number) and each.sort == "complex":
            half = Number("part", each.width // 2, "float")
            yield half, at
            yield half, at + each.width // 2
        elif isinstance(each, Number | Enumeration | Pointer):
            yield each, at
        else:
            raise UntypedSymbol(f"{whole} cannot be passed by value: it holds {each}")


def alignment_of(kind: CType) -> int:
    """The alignment of a type, as C has it for members."""
    kind = kind.plain
    if isinstance(kind, Array):
        return alignment_of(kind.element)
    if isinstance(kind, Record):
        return max((alignment_of(member.type) for member in kind.members), default=1)
    if isinstance(kind, Number) and kind.sort == "complex":
        return kind.width // 2
    return max(kind.size or 1, 1)
