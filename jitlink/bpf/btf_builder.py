"""Writing BTF: types made from Python, several BTFs made one, and both as bytes.

A Builder collects records and numbers them in the order in which they come, so a type may refer to a
later one whose number is foreseeable (`next_type`), as a struct does that holds a pointer to itself.

Merging is what linking several objects asks for. Each object brings its own copy of `int`, of
`struct iphdr` and so on. Two types are the same when no walk through the types can tell them apart,
which also holds for types that point at each other in a circle. So we sort the types into classes by
what they say about themselves, then split a class whenever its members refer to different classes,
until nothing splits any more (partition refinement). One type of each class stays.

Source: Documentation/bpf/btf.rst; what is joined follows src/linker.c of libbpf.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from jitlink.bpf.btf import HEADER, LARGEST, MAGIC, VERSION, parse
from jitlink.bpf.btf_types import COMPOSITES, ENUMS, REFERRING, Btf, ByteOrder, Kind
from jitlink.errors import UsageError

MOST_ROUNDS = 32
"""Rounds of refinement before a merge keeps every type apart: real types need about ten."""

ENTRY_NAMED = (*COMPOSITES, *ENUMS, Kind.FUNC_PROTO)
"""Kinds whose entries begin with a name."""


@dataclass(frozen=True)
class Record:
    """One type as it is written: entries are tuples of words that follow it.

    A name in an entry is kept apart in entry_names (one for each entry, or none at all).
    """

    kind: Kind
    name: str = ""
    flag: bool = False
    count: int = 0
    size_or_type: int = 0
    entries: tuple[tuple[int, ...], ...] = ()
    entry_names: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[int, ...]:
        """The types that this record refers to, in a fixed order."""
        if self.kind == Kind.ARRAY:
            return self.entries[0][:2]
        own = (self.size_or_type,) if self.kind in REFERRING else ()
        if self.kind in (*COMPOSITES, Kind.FUNC_PROTO, Kind.DATASEC):
            return (*own, *(entry[0] for entry in self.entries))
        return own

    def renumbered(self, new_type: Sequence[int]) -> Record:
        """Make the same record with every reference looked up in new_type."""
        own = new_type[self.size_or_type] if self.kind in REFERRING else self.size_or_type
        entries = self.entries
        if self.kind == Kind.ARRAY:
            element, index, count = self.entries[0]
            entries = ((new_type[element], new_type[index], count),)
        elif self.kind in (*COMPOSITES, Kind.FUNC_PROTO, Kind.DATASEC):
            entries = tuple((new_type[entry[0]], *entry[1:]) for entry in self.entries)
        return replace(self, size_or_type=own, entries=entries)

    @property
    def statement(self) -> tuple[object, ...]:
        """What the record says without the types it refers to: two equal types say the same."""
        own = 0 if self.kind in REFERRING else self.size_or_type
        entries: tuple[tuple[int, ...], ...] = self.entries
        if self.kind == Kind.ARRAY:
            entries = (self.entries[0][2:],)
        elif self.kind in (*COMPOSITES, Kind.FUNC_PROTO, Kind.DATASEC):
            entries = tuple(entry[1:] for entry in self.entries)
        return (self.kind, self.name, self.flag, self.count, own, entries, self.entry_names)


class Builder:
    """Collects types; every method adds one and returns its number."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    @property
    def next_type(self) -> int:
        """The number that the next type will get, for types that refer forward."""
        return len(self.records) + 1

    def add(self, record: Record) -> int:
        """Add a record as it stands."""
        self.records.append(record)
        return len(self.records)

    def integer(self, name: str, size: int, *, signed: bool = False, boolean: bool = False, char: bool = False) -> int:
        """Add an INT of size bytes."""
        encoding = signed | char << 1 | boolean << 2
        return self.add(Record(Kind.INT, name, size_or_type=size, entries=((encoding << 24 | size * 8,),)))

    def floating(self, name: str, size: int) -> int:
        """Add a FLOAT of size bytes."""
        return self.add(Record(Kind.FLOAT, name, size_or_type=size))

    def pointer(self, target: int = 0) -> int:
        """Add a pointer; without target, to void."""
        return self.add(Record(Kind.PTR, size_or_type=target))

    def modifier(self, kind: Kind, target: int, name: str = "") -> int:
        """Add a TYPEDEF, VOLATILE, CONST, RESTRICT or TYPE_TAG of another type."""
        return self.add(Record(kind, name, size_or_type=target))

    def typedef(self, name: str, target: int) -> int:
        """Add a typedef."""
        return self.modifier(Kind.TYPEDEF, target, name)

    def array(self, element: int, count: int, index: int | None = None) -> int:
        """Add an array; the type of its index is the element's unless it is given."""
        return self.add(Record(Kind.ARRAY, entries=((element, element if index is None else index, count),)))

    def struct(self, name: str, size: int, members: Sequence[tuple[str, int, int] | tuple[str, int, int, int]]) -> int:
        """Add a struct. members: (name, type, offset in bits) or (name, type, offset in bits, width in bits)."""
        return self._composite(Kind.STRUCT, name, size, members)

    def union(self, name: str, size: int, members: Sequence[tuple[str, int, int] | tuple[str, int, int, int]]) -> int:
        """Add a union; members as for a struct."""
        return self._composite(Kind.UNION, name, size, members)

    def _composite(
        self, kind: Kind, name: str, size: int, members: Sequence[tuple[str, int, int] | tuple[str, int, int, int]]
    ) -> int:
        flag = any(len(member) > 3 for member in members)
        entries = tuple((member[1], member[2] | (member[3] << 24 if len(member) > 3 else 0)) for member in members)
        names = tuple(member[0] for member in members)
        return self.add(Record(kind, name, flag, len(entries), size, entries, names))

    def enum(self, name: str, values: Mapping[str, int], size: int = 4) -> int:
        """Add an ENUM of up to 32 bits, signed when a value is negative."""
        entries = tuple((value & 0xFFFF_FFFF,) for value in values.values())
        return self.add(Record(Kind.ENUM, name, _signed(values), len(entries), size, entries, tuple(values)))

    def enum64(self, name: str, values: Mapping[str, int], size: int = 8) -> int:
        """Add an ENUM64, signed when a value is negative."""
        entries = tuple((value & 0xFFFF_FFFF, value >> 32 & 0xFFFF_FFFF) for value in values.values())
        return self.add(Record(Kind.ENUM64, name, _signed(values), len(entries), size, entries, tuple(values)))

    def forward(self, name: str, *, union: bool = False) -> int:
        """Add the forward declaration of a struct or union."""
        return self.add(Record(Kind.FWD, name, union))

    def prototype(self, returns: int, parameters: Sequence[tuple[str, int]] = ()) -> int:
        """Add a function prototype. parameters: (name, type); ("", 0) at the end stands for `...`."""
        entries = tuple((type,) for _, type in parameters)
        names = tuple(name for name, _ in parameters)
        return self.add(Record(Kind.FUNC_PROTO, "", False, len(entries), returns, entries, names))

    def function(self, name: str, prototype: int, linkage: int = 1) -> int:
        """Add a function. linkage: 0 static, 1 global, 2 extern."""
        return self.add(Record(Kind.FUNC, name, count=linkage, size_or_type=prototype))

    def variable(self, name: str, type: int, linkage: int = 1) -> int:
        """Add a variable. linkage: 0 static, 1 global, 2 extern."""
        return self.add(Record(Kind.VAR, name, size_or_type=type, entries=((linkage,),)))

    def section(self, name: str, size: int, placements: Sequence[tuple[int, int, int]]) -> int:
        """Add a DATASEC. placements: (variable, offset, size) in bytes."""
        return self.add(Record(Kind.DATASEC, name, count=len(placements), size_or_type=size, entries=tuple(placements)))

    def declaration_tag(self, name: str, target: int, component: int = -1) -> int:
        """Add a tag on a declaration, or on one of its members or parameters."""
        entries = ((component & 0xFFFF_FFFF,),)
        return self.add(Record(Kind.DECL_TAG, name, size_or_type=target, entries=entries))

    def to_bytes(self, byte_order: ByteOrder = "little") -> bytes:
        """Write the types as the bytes of a .BTF section.

        Raises UsageError for a type with more than 65,535 entries, the most that BTF can count.
        """
        strings: dict[str, int] = {"": 0}
        text = bytearray(b"\0")

        def offset_of(name: str) -> int:
            if name not in strings:
                strings[name] = len(text)
                text.extend(name.encode() + b"\0")
            return strings[name]

        words: list[int] = []
        for record in self.records:
            if record.count > 0xFFFF:
                raise UsageError(f"type {record.name!r} has {record.count} entries; BTF counts up to 65535")
            words += (offset_of(record.name), record.flag << 31 | record.kind << 24 | record.count, record.size_or_type)
            for number, entry in enumerate(record.entries):
                if record.kind in ENTRY_NAMED:
                    words.append(offset_of(record.entry_names[number]))
                words += entry
        prefix = "<" if byte_order == "little" else ">"
        types = struct.pack(f"{prefix}{len(words)}I", *words)
        header = struct.pack(
            prefix + HEADER.format, MAGIC, VERSION, 0, HEADER.size, 0, len(types), len(types), len(text)
        )
        return header + types + bytes(text)

    def build(self, byte_order: ByteOrder = "little") -> Btf:
        """Make the tables of the types. Raises MalformedInput when they contradict each other."""
        return parse(self.to_bytes(byte_order))


def records_of(btf: Btf) -> list[Record]:
    """Write every type of a BTF as a record; the record of type n is at n - 1."""
    types = btf.types
    columns = (types.name, types.kind, types.flag, types.count, types.size_or_type, types.extra)
    listed = zip(*(values[1:].tolist() for values in columns), strict=True)
    records = []
    for type, (name, kind, flag, count, size_or_type, extra) in enumerate(listed, 1):
        entries, names = _entries(btf, type, Kind(kind), extra)
        records.append(Record(Kind(kind), btf.string(name), flag, count, size_or_type, entries, names))
    return records


def _entries(btf: Btf, type: int, kind: Kind, extra: int) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    names: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
    columns: tuple[npt.NDArray[np.int64], ...] = ()
    rows = btf.rows_under(type)
    if kind in (Kind.INT, Kind.VAR, Kind.DECL_TAG):
        return ((extra,),), ()
    if kind == Kind.ARRAY:
        row = rows.start
        return ((int(btf.arrays.element[row]), int(btf.arrays.index[row]), int(btf.arrays.count[row])),), ()
    if kind in COMPOSITES:
        places = btf.members.offset_bits[rows] | btf.members.size_bits[rows].astype(np.uint32) << 24
        names, columns = btf.members.name[rows], (btf.members.type[rows], places)
    elif kind in ENUMS:
        values = btf.enumerators.value[rows]
        low, high = values & 0xFFFF_FFFF, values >> 32 & 0xFFFF_FFFF
        names, columns = btf.enumerators.name[rows], (low, high) if kind == Kind.ENUM64 else (low,)
    elif kind == Kind.FUNC_PROTO:
        names, columns = btf.parameters.name[rows], (btf.parameters.type[rows],)
    elif kind == Kind.DATASEC:
        table = btf.placements
        columns = (table.variable[rows], table.offset[rows], table.size[rows])
    entries = tuple(zip(*(values.tolist() for values in columns), strict=True))
    return entries, tuple(btf.string(name) for name in names.tolist())


def merge(inputs: Sequence[Btf]) -> tuple[Btf, list[npt.NDArray[np.int64]]]:
    """Make one BTF of several: equal types once, sections of one name joined.

    Returns the merged BTF and, for each input, the new number of each of its types (int64[types]).
    Functions, variables and tags stay one for each input, as symbols decide what becomes of them. A
    forward declaration becomes the one struct or union of its name, when there is exactly one. A
    joined section lists the variables of all inputs; its size and offsets wait for `place_section`.

    Raises UsageError for inputs of two byte orders.
    """
    if len({btf.byte_order for btf in inputs}) > 1:
        raise UsageError("BTF of little-endian and big-endian objects cannot be merged")
    records: list[Record] = []
    first_types = []
    for btf in inputs:
        before = len(records)
        first_types.append(before)
        numbers = [0, *range(before + 1, before + len(btf))]
        records += [record.renumbered(numbers) for record in records_of(btf)]
    builder, new_type = _joined(records, _completed(records, _classes(records)))
    maps = [
        np.array([0, *new_type[first + 1 : first + len(btf)]], np.int64)
        for first, btf in zip(first_types, inputs, strict=True)
    ]
    return builder.build(inputs[0].byte_order if inputs else "little"), maps


def _classes(records: Sequence[Record]) -> list[int]:
    """Sort types into classes of equal ones. Returns the class of each type, that of void first.

    Equal means: the same statement, and equal types wherever they refer.
    """
    apart = (Kind.FUNC, Kind.VAR, Kind.DATASEC, Kind.DECL_TAG)
    statements = [(record.statement, number if record.kind in apart else 0) for number, record in enumerate(records, 1)]
    references = [record.references for record in records]
    classes, found = _numbered(statements)
    for _ in range(MOST_ROUNDS):
        signatures = [
            (classes[number], *[classes[target] for target in targets]) for number, targets in enumerate(references, 1)
        ]
        classes, refined = _numbered(signatures)
        if refined == found:
            return classes
        found = refined
    return list(range(len(records) + 1))


def _numbered(values: Sequence[object]) -> tuple[list[int], int]:
    numbers: dict[object, int] = {}
    return [0, *(numbers.setdefault(value, len(numbers) + 1) for value in values)], len(numbers)


def _completed(records: Sequence[Record], classes: list[int]) -> list[int]:
    """Aim forward declarations at the one complete type of their name."""
    complete: dict[tuple[bool, str], set[int]] = {}
    for number, record in enumerate(records, 1):
        if record.kind in COMPOSITES and record.name:
            complete.setdefault((record.kind == Kind.UNION, record.name), set()).add(classes[number])
    known = {}
    for number, record in enumerate(records, 1):
        candidates = complete.get((record.flag, record.name), set()) if record.kind == Kind.FWD else set()
        if len(candidates) == 1:
            known[classes[number]] = next(iter(candidates))
    return [known.get(each, each) for each in classes]


def _joined(records: Sequence[Record], classes: list[int]) -> tuple[Builder, list[int]]:
    """Keep the first type of each class, and one section of each name."""
    representative: dict[int, int] = {}
    section_of: dict[str, int] = {}
    kept: list[int] = []
    new_type = [0] * (len(records) + 1)
    # A forward declaration shares its class with the complete type, which must be the one that stays.
    order = sorted(range(1, len(records) + 1), key=lambda number: records[number - 1].kind == Kind.FWD)
    for number in order:
        record = records[number - 1]
        owner = (
            section_of.setdefault(record.name, number)
            if record.kind == Kind.DATASEC
            else representative.setdefault(classes[number], number)
        )
        if owner == number:
            kept.append(number)
        new_type[number] = owner
    kept.sort()
    final = {old: new for new, old in enumerate(kept, 1)}
    new_type = [final.get(owner, 0) for owner in new_type]
    builder = Builder()
    for number in kept:
        record = records[number - 1]
        if record.kind == Kind.DATASEC:
            record = _joined_section(record.name, records)
        builder.add(record.renumbered(new_type))
    return builder, new_type


def _joined_section(name: str, records: Sequence[Record]) -> Record:
    parts = [record for record in records if record.kind == Kind.DATASEC and record.name == name]
    entries = tuple(entry for part in parts for entry in part.entries)
    size = min(sum(part.size_or_type for part in parts), LARGEST)
    return Record(Kind.DATASEC, name, count=len(entries), size_or_type=size, entries=entries)


def _signed(values: Mapping[str, int]) -> bool:
    return any(value < 0 for value in values.values())
