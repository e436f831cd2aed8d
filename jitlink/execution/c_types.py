"""C types, as far as a calling convention looks at them: size, alignment, and what scalars are where.

Conventions ask whether a value is an integer, a floating-point number or an aggregate, and of an
aggregate which scalars it is made of. Declarations of ctypes and cffi are brought to this form
(jitlink.execution.values), and the conventions are written over it (jitlink.execution.conventions).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise


class Kind(Enum):
    """What a convention distinguishes."""

    VOID = auto()
    INTEGER = auto()
    """Pointers, characters and truth values included."""
    FLOATING = auto()
    AGGREGATE = auto()


@dataclass(frozen=True)
class CType:
    """A type.

    Attributes: kind; size and alignment (bytes); signed (of an integer); scalars (of an aggregate of at
    most LARGEST_TAKEN_APART bytes: the offset and the type of each, arrays and inner structures written
    out).
    """

    kind: Kind
    size: int
    alignment: int
    signed: bool = False
    scalars: tuple[tuple[int, CType], ...] = ()

    @property
    def overlaps(self) -> bool:
        """Whether scalars share bytes, as in a union."""
        spans = sorted((offset, offset + scalar.size) for offset, scalar in self.scalars)
        return any(end > start for (_, end), (start, _) in pairwise(spans))


LARGEST_TAKEN_APART = 64
"""Bytes: no convention looks into an aggregate of more than four 16-byte vectors."""

VOID = CType(Kind.VOID, 0, 1)
POINTER = CType(Kind.INTEGER, 8, 8)
FLOAT = CType(Kind.FLOATING, 4, 4)
DOUBLE = CType(Kind.FLOATING, 8, 8)
INT = CType(Kind.INTEGER, 4, 4, signed=True)


def integer(size: int, *, signed: bool) -> CType:
    """The integer type of a size, aligned to it."""
    return CType(Kind.INTEGER, size, size, signed)


def aggregate(size: int, alignment: int, members: Iterable[tuple[int, CType]]) -> CType:
    """The structure, union or array of members at offsets, taken apart into scalars unless it is large."""
    if size > LARGEST_TAKEN_APART:
        return CType(Kind.AGGREGATE, size, alignment)
    scalars: list[tuple[int, CType]] = []
    for offset, member in members:
        if member.kind is Kind.AGGREGATE:
            scalars += [(offset + inner, scalar) for inner, scalar in member.scalars]
        else:
            scalars.append((offset, member))
    return CType(Kind.AGGREGATE, size, alignment, scalars=tuple(scalars))


def array(element: CType, length: int) -> CType:
    """The array type, as it occurs in a structure."""
    size = element.size * length
    members = ((row * element.size, element) for row in range(length)) if size <= LARGEST_TAKEN_APART else ()
    return aggregate(size, element.alignment, members)
