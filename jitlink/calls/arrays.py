"""C types as NumPy has them: which dtype the elements behind a pointer have."""

from __future__ import annotations

from typing import Any

import numpy as np

from jitlink.calls.c_types import Array, CType, Enumeration, Number, Pointer, Record

LETTERS = {"signed": "i", "unsigned": "u", "bool": "b", "char": "i", "character": "u", "float": "f", "complex": "c"}
MOST_FIELDS = 1024


def element_dtype(kind: CType) -> np.dtype[Any] | None:
    """The dtype of an array of a C type, in the byte order of the host; None if NumPy has none."""
    plain = kind.plain
    if isinstance(plain, Enumeration):
        plain = plain.number
    if isinstance(plain, Number):
        if plain.width == 16 and plain.sort == "float":
            return np.dtype(np.longdouble)
        if plain.sort == "bool":
            return np.dtype(np.bool_) if plain.width == 1 else np.dtype(f"i{plain.width}")
        return np.dtype(f"{LETTERS[plain.sort]}{plain.width}")
    if isinstance(plain, Pointer):
        return np.dtype(np.uintp)
    if isinstance(plain, Record):
        return _record_dtype(plain)
    return None


def _record_dtype(record: Record) -> np.dtype[Any] | None:
    members = record.members
    if not record.width or len(members) > MOST_FIELDS or any(member.bits is not None for member in members):
        return None
    formats: list[Any] = []
    for member in members:
        shape, kind = [], member.type.plain
        while isinstance(kind, Array):
            shape.append(kind.length or 0)
            kind = kind.element.plain
        dtype = element_dtype(kind)
        if dtype is None:
            return None
        formats.append((dtype, tuple(shape)) if shape else dtype)
    names, offsets = [member.name for member in members], [member.offset for member in members]
    try:
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": record.width})
    except (ValueError, TypeError):
        return None
