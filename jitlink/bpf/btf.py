"""Reading BTF: bytes of a .BTF section, or of a kernel's /sys/kernel/btf/vmlinux, to tables.

    header      magic 0xeb9f, version, flags, length of the header, then offset and length of
    types       records of three words, each followed by what its kind needs
    strings     names, each ended by a zero byte; offset 0 is the empty name

The length of a record depends on its kind, so where record n starts is known only after record n - 1:
one honest loop finds the starts, everything after it is array work over all types at once. The magic
also tells the byte order.

Whatever a table refers to is checked here, once: string offsets, type numbers, sizes, loops. The
views and the users of the tables rely on it.

Source: Documentation/bpf/btf.rst of the Linux kernel; the rules are those of kernel/bpf/btf.c.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.bpf.btf_types import (
    COMPOSITES,
    ENUMS,
    MODIFIERS,
    REFERRING,
    Btf,
    BtfType,
    ByteOrder,
    Kind,
    Member,
    of_kinds,
)
from jitlink.columns.rows import NO_ROWS, accumulate, owners, rows_of, starts_of
from jitlink.errors import MalformedInput, UnsupportedInput

__all__ = ["MAGIC", "Btf", "BtfType", "Kind", "Member", "parse"]

MAGIC = 0xEB9F
VERSION = 1
HEADER = struct.Struct("HBBIIIII")

DEEPEST = 64
"""How deep structs and arrays may contain each other; the kernel's own bound is 32."""

MOST_MEMBERS = 1 << 20
"""How many members a struct may have when every struct inside it is written out."""

LARGEST = 0xFFFF_FFFF
"""The size of the largest type: sizes are 32-bit in BTF."""

# How many words follow the three of every record: so many, and so many for each entry counted.
# fmt: off
_FIXED_WORDS = {Kind.INT: 1, Kind.ARRAY: 3, Kind.VAR: 1, Kind.DECL_TAG: 1}
_WORDS_PER_ENTRY = {
    Kind.STRUCT: 3, Kind.UNION: 3, Kind.ENUM: 2, Kind.FUNC_PROTO: 2, Kind.DATASEC: 3, Kind.ENUM64: 3,
}
_SIZES = {
    Kind.INT: (1, 2, 4, 8, 16), Kind.ENUM: (1, 2, 4, 8), Kind.ENUM64: (1, 2, 4, 8), Kind.FLOAT: (2, 4, 8, 12, 16),
}
# fmt: on
_SIZED = (Kind.INT, *COMPOSITES, *ENUMS, Kind.FLOAT, Kind.DATASEC)

Words = npt.NDArray[np.uint32]


def parse(data: bytes | bytearray | memoryview) -> Btf:
    """Read BTF from the bytes of a .BTF section or of a raw BTF file.

    Raises MalformedInput when the bytes contradict the format: offsets outside the tables, numbers
    of types that there are not, types that contain themselves, sizes that do not fit; UnsupportedInput
    for a version other than 1 and for kinds that btf.h does not know.
    """
    data = bytes(data)
    byte_order, types, strings = _sections(data)
    words = np.frombuffer(types, "<u4" if byte_order == "little" else ">u4").astype(np.uint32)
    btf = Btf(byte_order, strings)
    starts = _starts(words)
    _read_types(btf, words, starts)
    _check_names(btf)
    _check_references(btf)
    _resolve(btf)
    _measure(btf)
    _check_members(btf)
    return btf


def _sections(data: bytes) -> tuple[ByteOrder, bytes, bytes]:
    if len(data) < HEADER.size:
        raise _malformed(f"{len(data)} bytes are too few for a BTF header of {HEADER.size} bytes")
    byte_order = _byte_order(data)
    prefix = "<" if byte_order == "little" else ">"
    _, version, flags, length, type_at, type_size, string_at, string_size = struct.unpack_from(
        prefix + HEADER.format, data
    )
    if version != VERSION or flags:
        raise UnsupportedInput(f"BTF of version {version} with flags {flags:#x}, we know version 1", section=".BTF")
    if length < HEADER.size or length > len(data):
        raise _malformed(f"the header says that it is {length} bytes long")
    types = _part(data, "type", length + type_at, type_size)
    strings = _part(data, "string", length + string_at, string_size)
    if type_size % 4 or type_at % 4:
        raise _malformed("the types are not made of whole aligned words")
    if not strings or strings[0] or strings[-1]:
        raise _malformed("the string table does not start and end with a zero byte")
    return byte_order, types, strings


def _byte_order(data: bytes) -> ByteOrder:
    if data[:2] == MAGIC.to_bytes(2, "little"):
        return "little"
    if data[:2] == MAGIC.to_bytes(2, "big"):
        return "big"
    raise _malformed(f"it starts with {data[:2].hex()} and not with the magic number eb9f of BTF", offset=0)


def _part(data: bytes, what: str, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise _malformed(f"the {what} section of {size} bytes at {at:#x} reaches past the end at {len(data):#x}")
    return data[at : at + size]


def _starts(words: Words) -> npt.NDArray[np.int64]:
    """Find where each record starts, in words. A record tells its length, hence the loop."""
    fixed = [3 + _FIXED_WORDS.get(Kind(kind), 0) if kind <= max(Kind) else 0 for kind in range(32)]
    per_entry = [_WORDS_PER_ENTRY.get(Kind(kind), 0) if kind <= max(Kind) else 0 for kind in range(32)]
    starts = []
    at, end, listed = 0, len(words), words.tolist()
    while at + 3 <= end:
        starts.append(at)
        info = listed[at + 1]
        kind = info >> 24 & 31
        if not fixed[kind] or kind == Kind.VOID:
            raise UnsupportedInput(f"type {len(starts)} is of the unknown kind {kind}", section=".BTF", offset=at * 4)
        at += fixed[kind] + per_entry[kind] * (info & 0xFFFF)
    if at != end:
        raise _malformed(f"the last type, number {len(starts)}, reaches past the end of the types", offset=at * 4)
    return np.array(starts, np.int64)


def _read_types(btf: Btf, words: Words, starts: npt.NDArray[np.int64]) -> None:
    info = words[starts + 1]
    kind = (info >> 24 & 31).astype(np.uint8)
    count = (info & 0xFFFF).astype(np.int64)
    extra = np.zeros(len(starts), np.uint32)
    first = np.zeros(len(starts), np.int64)
    flag = info >> 31 != 0
    has_extra = of_kinds(kind, (Kind.INT, Kind.VAR, Kind.DECL_TAG))
    extra[has_extra] = words[starts[has_extra] + 3]

    def entries(kinds: tuple[Kind, ...], width: int) -> list[Words]:
        """Gather the entries of some kinds as columns with a null row; note where each type's first one lies."""
        mine = np.flatnonzero(of_kinds(kind, kinds))
        counted = count[mine] if kinds != (Kind.ARRAY,) else np.ones(len(mine), np.int64)
        first[mine] = starts_of(counted)[:-1] + 1
        at = rows_of(starts[mine] + 3, counted, width) if len(mine) else NO_ROWS
        return [_with_null_row(words[at + field]) for field in range(width)]

    name, type, offset = entries(COMPOSITES, 3)
    composite = of_kinds(kind, COMPOSITES)
    has_widths = _with_null_row(flag[composite].repeat(count[composite]))
    btf.members.fill(
        name=name,
        type=type,
        offset_bits=np.where(has_widths, offset & 0xFFFFFF, offset),
        size_bits=np.where(has_widths, offset >> 24, 0),
    )
    element, index, length = entries((Kind.ARRAY,), 3)
    btf.arrays.fill(element=element, index=index, count=length)
    name, type = entries((Kind.FUNC_PROTO,), 2)
    btf.parameters.fill(name=name, type=type)
    variable, offset, size = entries((Kind.DATASEC,), 3)
    btf.placements.fill(variable=variable, offset=offset, size=size)
    _read_enumerators(btf, kind, count, flag, first, entries((Kind.ENUM,), 2), entries((Kind.ENUM64,), 3))
    columns = {"name": words[starts], "kind": kind, "flag": flag, "count": count}
    columns |= {"size_or_type": words[starts + 2], "first": first, "extra": extra}
    btf.types.fill(**{column: _with_null_row(values) for column, values in columns.items()})


def _read_enumerators(
    btf: Btf,
    kind: npt.NDArray[np.uint8],
    count: npt.NDArray[np.int64],
    flag: npt.NDArray[np.bool_],
    first: npt.NDArray[np.int64],
    narrow: list[Words],
    wide: list[Words],
) -> None:
    """Put the enumerators of ENUM and ENUM64 into one table, the wide ones behind the narrow ones."""
    is_narrow = kind == Kind.ENUM
    signed = _with_null_row(flag[is_narrow].repeat(count[is_narrow]))
    value = np.where(signed, narrow[1].view(np.int32), narrow[1].astype(np.int64))
    wide_value = (wide[1] | wide[2].astype(np.uint64) << np.uint64(32)).view(np.int64)
    btf.enumerators.fill(name=np.concatenate((narrow[0], wide[0][1:])), value=np.concatenate((value, wide_value[1:])))
    first[kind == Kind.ENUM64] += len(value) - 1


def _check_names(btf: Btf) -> None:
    for what, table in (
        ("type", btf.types),
        ("member", btf.members),
        ("enumerator", btf.enumerators),
        ("parameter", btf.parameters),
    ):
        bad = np.flatnonzero(table.name >= len(btf.strings))
        if len(bad):
            raise _malformed(f"the name of {what} {bad[0]} lies outside the string table")


def _check_references(btf: Btf) -> None:
    types = btf.types
    refers = of_kinds(types.kind, REFERRING)
    for what, column in (
        ("a type", types.size_or_type[refers]),
        ("a member", btf.members.type),
        ("an array", btf.arrays.element),
        ("an array's index", btf.arrays.index),
        ("a parameter", btf.parameters.type),
        ("a section", btf.placements.variable),
    ):
        if len(column) and column.max() >= len(types):
            raise _malformed(f"{what} refers to type {column.max()}, and there are only {len(types) - 1}")
    for kind, sizes in _SIZES.items():
        wrong = np.flatnonzero((types.kind == kind) & ~np.isin(types.size_or_type, sizes))
        if len(wrong):
            raise _malformed(f"type {wrong[0]} is {kind.name} of {types.size_or_type[wrong[0]]} bytes")
    integers = types.kind == Kind.INT
    width, offset = types.extra[integers] & 0xFF, types.extra[integers] >> 16 & 0xFF
    if (width + offset > 8 * types.size_or_type[integers]).any() or (width == 0).any():
        raise _malformed("an integer has more bits than its size holds, or none")
    functions = types.size_or_type[types.kind == Kind.FUNC]
    if (types.kind[functions] != Kind.FUNC_PROTO).any():
        raise _malformed("a function refers to a type that is no function prototype")
    variables = types.kind[btf.placements.variable[1:]]
    if not of_kinds(variables, (Kind.VAR, Kind.FUNC)).all():
        raise _malformed("a section holds something that is neither variable nor function")


def _resolve(btf: Btf) -> None:
    """Skip modifiers for all types at once: jump to where they lead, twice as far in each round."""
    types = btf.types
    modifier = of_kinds(types.kind, MODIFIERS)
    jump = np.where(modifier, types.size_or_type, np.arange(len(types))).astype(np.int64)
    for _ in range(len(types).bit_length()):
        if not modifier[jump].any():
            break
        jump = jump[jump]
    if modifier[jump].any():
        raise _malformed(f"type {np.flatnonzero(modifier[jump])[0]} is a typedef or modifier of itself")
    btf.resolved = jump
    functions = of_kinds(types.kind[jump], (Kind.FUNC, Kind.VAR, Kind.DATASEC, Kind.DECL_TAG))
    if functions[btf.members.type].any() or functions[btf.arrays.element].any():
        raise _malformed("a struct or array holds something that is no value")


def _measure(btf: Btf) -> None:
    """Find the size of every type from the inside out, and that none contains itself.

    A round finishes the composites whose parts are finished: as many rounds as structs nest.
    """
    types, members, arrays = btf.types, btf.members, btf.arrays
    sizes = np.where(of_kinds(types.kind, _SIZED), types.size_or_type, 0).astype(np.int64)
    sizes[types.kind == Kind.PTR] = btf.pointer_size
    weight = np.ones(len(types), np.int64)
    composite = np.flatnonzero(of_kinds(types.kind, COMPOSITES))
    array = np.flatnonzero(types.kind == Kind.ARRAY)
    element = btf.resolved[arrays.element[types.first[array]]]
    pending = of_kinds(types.kind, (*COMPOSITES, Kind.ARRAY))
    part = np.concatenate((btf.resolved[members.type[1:]], element))
    owner = np.concatenate((composite[owners(types.count[composite])], array))
    for _ in range(DEEPEST):
        inside = pending[part]
        blocked = np.zeros(len(types), bool)
        blocked[owner[inside]] = True
        done = pending & ~blocked
        if not done.any():
            break
        _measure_arrays(btf, np.flatnonzero(done & (types.kind == Kind.ARRAY)), sizes)
        finished = done[owner]
        accumulate(weight, owner[finished], weight[part[finished]])
        np.minimum(weight, MOST_MEMBERS + 1, out=weight)
        pending &= ~done
        part, owner = part[~finished], owner[~finished]
    if pending.any():
        row = int(np.flatnonzero(pending)[0])
        raise _malformed(f"type {row} ({types[row].title}) contains itself, or nests deeper than {DEEPEST}")
    if weight.max() > MOST_MEMBERS:
        raise _malformed(f"type {weight.argmax()} unfolds into more than {MOST_MEMBERS} members")
    btf.sizes = sizes


def _measure_arrays(btf: Btf, rows: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> None:
    first = btf.types.first[rows]
    element = sizes[btf.resolved[btf.arrays.element[first]]]
    count = btf.arrays.count[first].astype(np.int64)
    if (count > LARGEST // np.maximum(element, 1)).any():
        raise _malformed("an array is larger than 4 GiB")
    sizes[rows] = element * count


def _check_members(btf: Btf) -> None:
    """Every member must end inside its struct, as kernel/bpf/btf.c asks."""
    types, members = btf.types, btf.members
    composite = np.flatnonzero(of_kinds(types.kind, COMPOSITES))
    room = 8 * btf.sizes[composite].repeat(types.count[composite])
    size_bits = members.size_bits[1:].astype(np.int64)
    needed = np.where(size_bits, size_bits, 8 * btf.sizes[btf.resolved[members.type[1:]]])
    outside = np.flatnonzero(members.offset_bits[1:].astype(np.int64) + needed > room)
    if len(outside):
        name = btf.string(int(members.name[outside[0] + 1]))
        raise _malformed(f"member {outside[0] + 1} {name!r} ends outside its struct")


def _with_null_row(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((np.zeros(1, values.dtype), values))


def _malformed(fault: str, offset: int | None = None) -> MalformedInput:
    return MalformedInput(fault, section=".BTF", offset=offset)
