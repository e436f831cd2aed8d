"""The types of BTF as tables: what a compiler tells about the types of a BPF program.

BTF (BPF Type Format) numbers every type of an object; 0 is void. A type is a record of three words
(name, kind and count, size or another type) that some kinds follow with records of their own: the
members of a struct, the enumerators of an enum, the parameters of a function prototype. We keep each
sort of record as one table, so that a question over a whole kernel (a hundred thousand types) is a few
array operations, and show single types as views.

Three columns are derived when the tables are read, since every user of BTF asks for them: `resolved`
skips typedefs and modifiers (const, volatile, restrict, type tags), `sizes` is the size in bytes, and
the check that leads to them proves that no type contains itself. Nothing that walks types through
`resolved` or by containment can loop after that.

Source: Documentation/bpf/btf.rst of the Linux kernel and include/uapi/linux/btf.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jitlink.columns.table import Row, Table, column
from jitlink.errors import MalformedInput

ByteOrder = Literal["little", "big"]


class Kind(IntEnum):
    """The kinds of BTF types, with their numbers in btf.h."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


MODIFIERS = (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
"""Kinds that are another type under a name or with a promise: `resolved` skips them."""

COMPOSITES = (Kind.STRUCT, Kind.UNION)
ENUMS = (Kind.ENUM, Kind.ENUM64)

SIZELESS = (Kind.VOID, Kind.FWD, Kind.FUNC, Kind.FUNC_PROTO, Kind.VAR, Kind.DECL_TAG)

INT_SIGNED = 1
INT_CHAR = 2
INT_BOOL = 4

_LONG_NAMES = frozenset({"long", "long int", "unsigned long", "long unsigned int", "unsigned long int"})


class Types(Table["BtfType"]):
    """The types, one row each; row 0 is void."""

    name = column("uint32", unit="byte", doc="offset of the name in the strings")
    kind = column("uint8", doc="Kind")
    flag = column("bool", doc="kind flag: bitfield sizes in members, signed enum, forward of a union")
    count = column("uint32", doc="number of members, enumerators, parameters or variables; linkage of a FUNC")
    size_or_type = column("uint32", doc="size in bytes, or the type that this one refers to")
    first = column("uint32", doc="first row in the table of its kind")
    extra = column("uint32", doc="encoding word of INT, linkage of VAR, component of DECL_TAG")

    btf: Btf

    def view(self, row: int) -> BtfType:
        """See one type as an object."""
        return BtfType(self, row)


class Members(Table[Row]):
    """The members of structs and unions, in order of declaration."""

    name = column("uint32", unit="byte", doc="offset of the name in the strings; 0 for an anonymous member")
    type = column("uint32", refers="types", doc="type of the member")
    offset_bits = column("uint32", unit="bit", doc="from the start of the struct")
    size_bits = column("uint8", unit="bit", doc="width of a bitfield, 0 for an ordinary member")


class Enumerators(Table[Row]):
    """The names of enums with their values."""

    name = column("uint32", unit="byte", doc="offset of the name in the strings")
    value = column("int64", doc="the value; of an unsigned ENUM64 the same 64 bits read as signed")


class Parameters(Table[Row]):
    """The parameters of function prototypes; a last one without name and type stands for `...`."""

    name = column("uint32", unit="byte", doc="offset of the name in the strings")
    type = column("uint32", refers="types", doc="type of the parameter")


class Arrays(Table[Row]):
    """The arrays."""

    element = column("uint32", refers="types", doc="type of an element")
    index = column("uint32", refers="types", doc="type of an index")
    count = column("uint32", doc="number of elements")


class Placements(Table[Row]):
    """Which variable lies where in a section: the entries of DATASEC."""

    variable = column("uint32", refers="types", doc="a VAR, or a FUNC among the externs")
    offset = column("uint32", unit="byte", doc="in the section; in an object the linker fills it in")
    size = column("uint32", unit="byte", doc="of the variable")


class Btf:
    """The types of one object or kernel: the tables, and the questions that people ask of them."""

    def __init__(self, byte_order: ByteOrder, strings: bytes) -> None:
        self.byte_order = byte_order
        self.strings = strings
        self.types = Types()
        self.types.btf = self
        self.members = Members()
        self.enumerators = Enumerators()
        self.parameters = Parameters()
        self.arrays = Arrays()
        self.placements = Placements()
        self.resolved: npt.NDArray[np.int64] = np.zeros(1, np.int64)
        self.sizes: npt.NDArray[np.int64] = np.zeros(1, np.int64)
        self._names: dict[int, str] = {0: ""}
        self._alignments: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.types)

    def __repr__(self) -> str:
        return f"<BTF: {len(self.types) - 1} types>"

    def __getitem__(self, key: int | str) -> BtfType:
        """View the type with this number, or the first with this name (`struct foo`, or just `foo`).

        Raises KeyError for a name, IndexError for a number that there is not.
        """
        if isinstance(key, int):
            return self.types[key]
        found = self.find(key)
        if not found:
            raise KeyError(f"no type named {key!r} in {self!r}")
        return self.types[found[0]]

    def string(self, offset: int) -> str:
        """Read the string at a byte offset of the string table.

        Raises MalformedInput for an offset outside the table.
        """
        known = self._names.get(offset)
        if known is not None:
            return known
        if not 0 <= offset < len(self.strings):
            raise MalformedInput(
                f"string offset {offset:#x} is outside the string table of {len(self.strings)} bytes", section=".BTF"
            )
        text = self.strings[offset : self.strings.index(b"\0", offset)].decode("utf-8", "backslashreplace")
        self._names[offset] = text
        return text

    def name_of(self, type: int) -> str:
        """Give the name of a type, empty for an anonymous one."""
        return self.string(int(self.types.name[type]))

    def kind_of(self, type: int) -> Kind:
        """Give the kind of a type."""
        return Kind(int(self.types.kind[type]))

    def resolve(self, type: int) -> int:
        """Skip typedefs and modifiers: the type that a value of this type really has."""
        return int(self.resolved[type])

    def size_of(self, type: int) -> int:
        """Give the size of a type in bytes.

        Raises MalformedInput for void, functions and forward declarations, which have none.
        """
        if not self.has_size(type):
            raise MalformedInput(f"type {type} ({self.types[type].title}) has no size", section=".BTF")
        return int(self.sizes[self.resolve(type)])

    def has_size(self, type: int) -> bool:
        """Whether values of a type exist: void, functions and forward declarations have none."""
        return self.types.kind[self.resolve(type)] not in SIZELESS

    def alignment_of(self, type: int) -> int:
        """Give the alignment of a type in bytes, 1 for a packed struct (libbpf's btf__align_of)."""
        real = self.resolve(type)
        known = self._alignments.get(real)
        if known is None:
            known = self._alignments[real] = self._alignment(real)
        return known

    def _alignment(self, real: int) -> int:
        kind = self.types.kind[real]
        if kind == Kind.ARRAY:
            return self.alignment_of(int(self.arrays.element[self.types.first[real]]))
        if kind not in COMPOSITES:
            return max(1, min(int(self.sizes[real]), 16))
        rows = self.rows_under(real)
        types, offsets, widths = (
            getattr(self.members, name)[rows].tolist() for name in ("type", "offset_bits", "size_bits")
        )
        alignments = [self.alignment_of(type) for type in types]
        alignment = max(alignments, default=1)
        packed = int(self.sizes[real]) % alignment or any(
            offset % (8 * align) for offset, width, align in zip(offsets, widths, alignments, strict=True) if not width
        )
        return 1 if packed else alignment

    def rows_under(self, type: int) -> slice:
        """Give the rows of a type in the table of its kind (members, enumerators, ...)."""
        first = int(self.types.first[type])
        return slice(first, first + int(self.types.count[type]))

    def find(self, name: str, *kinds: Kind) -> list[int]:
        """Find the types of a name, in order. A leading `struct`, `union` or `enum` selects the kind."""
        keyword, _, rest = name.partition(" ")
        if rest and keyword in _KEYWORDS:
            name, kinds = rest, _KEYWORDS[keyword]
        return [row for row in self.by_name.get(name, []) if not kinds or self.types.kind[row] in kinds]

    @cached_property
    def by_name(self) -> dict[str, list[int]]:
        """The types of each name, in order; made when it is first asked for."""
        by_name: dict[str, list[int]] = {}
        for row, offset in enumerate(self.types.name.tolist()):
            if offset:
                by_name.setdefault(self.string(offset), []).append(row)
        return by_name

    @cached_property
    def pointer_size(self) -> int:
        """The size of a pointer: that of `long`, or 8 as in BPF when the types do not say."""
        for row in np.flatnonzero(self.types.kind == Kind.INT).tolist():
            size = int(self.types.size_or_type[row])
            if size in (4, 8) and self.name_of(row) in _LONG_NAMES:
                return size
        return 8

    def place_section(self, name: str, size: int, offsets: dict[str, int]) -> None:
        """Tell a DATASEC its final size and where the linker put its variables, by name.

        In an object the compiler leaves both zero, as only the symbol table knows them. To be called
        before values of the section are read or written.
        """
        for section in self.find(name, Kind.DATASEC):
            self.types.size_or_type[section] = size
            self.sizes[section] = size
            for row in range(*self.rows_under(section).indices(len(self.placements))):
                variable = self.name_of(int(self.placements.variable[row]))
                if variable in offsets:
                    self.placements.offset[row] = offsets[variable]


_KEYWORDS: dict[str, tuple[Kind, ...]] = {
    "struct": (Kind.STRUCT,),
    "union": (Kind.UNION,),
    "enum": ENUMS,
}


class BtfType(Row):
    """One type, seen as an object; `str(type)` is its C declaration."""

    table: Types

    @property
    def btf(self) -> Btf:
        """The BTF that the type belongs to."""
        return self.table.btf

    @property
    def id(self) -> int:
        """The number of the type, unique in its BTF."""
        return self.row

    @property
    def name(self) -> str:
        """The name, empty for an anonymous type."""
        return self.btf.name_of(self.row)

    @property
    def kind(self) -> Kind:
        """The kind of the type."""
        return self.btf.kind_of(self.row)

    @property
    def flag(self) -> bool:
        """The kind flag: a signed enum, the forward declaration of a union, members with bitfields."""
        return bool(self.read("flag"))

    @property
    def size(self) -> int:
        """The size in bytes. Raises MalformedInput for a type that has none."""
        return self.btf.size_of(self.row)

    @property
    def alignment(self) -> int:
        """The alignment in bytes."""
        return self.btf.alignment_of(self.row)

    @property
    def resolved(self) -> BtfType:
        """The type behind typedefs and modifiers."""
        return self.table[self.btf.resolve(self.row)]

    @property
    def target(self) -> BtfType | None:
        """The type that a pointer, typedef, modifier, function, variable or tag refers to, or an array's element."""
        if self.kind == Kind.ARRAY:
            return self.table[int(self.btf.arrays.element[self.read("first")])]
        return self.table[self.read("size_or_type")] if self.kind in REFERRING else None

    @property
    def length(self) -> int:
        """The number of elements of an array, 0 for other kinds."""
        return int(self.btf.arrays.count[self.read("first")]) if self.kind == Kind.ARRAY else 0

    @property
    def is_signed(self) -> bool:
        """Whether values of an integer or enum are signed."""
        if self.kind == Kind.INT:
            return bool(self.read("extra") >> 24 & INT_SIGNED)
        return self.kind in ENUMS and self.flag

    @property
    def members(self) -> list[Member]:
        """The members of a struct or union."""
        if self.kind not in COMPOSITES:
            return []
        rows = self.btf.rows_under(self.row)
        table = self.btf.members
        columns = (table.name, table.type, table.offset_bits, table.size_bits)
        return [
            Member(self.btf.string(name), self.table[type], offset, size)
            for name, type, offset, size in zip(*(values[rows].tolist() for values in columns), strict=True)
        ]

    def member(self, index: int) -> Member:
        """Give one member of a struct or union without making the others. Raises IndexError."""
        if self.kind not in COMPOSITES or not 0 <= index < self.read("count"):
            raise IndexError(f"{self.title} has no member {index}")
        row, table = self.read("first") + index, self.btf.members
        name, type = self.btf.string(int(table.name[row])), self.table[int(table.type[row])]
        return Member(name, type, int(table.offset_bits[row]), int(table.size_bits[row]))

    @property
    def enumerators(self) -> dict[str, int]:
        """The names of an enum with their values."""
        if self.kind not in ENUMS:
            return {}
        rows = self.btf.rows_under(self.row)
        names, values = self.btf.enumerators.name[rows], self.btf.enumerators.value[rows]
        if not self.flag:
            values = values.view(np.uint64)
        return {self.btf.string(name): value for name, value in zip(names.tolist(), values.tolist(), strict=True)}

    @property
    def parameters(self) -> list[tuple[str, BtfType]]:
        """The parameters of a function or function prototype; void without a name stands for `...`."""
        prototype = self.target if self.kind == Kind.FUNC else self
        if prototype is None or prototype.kind != Kind.FUNC_PROTO:
            return []
        rows = self.btf.rows_under(prototype.row)
        names, types = self.btf.parameters.name[rows].tolist(), self.btf.parameters.type[rows].tolist()
        return [(self.btf.string(name), self.table[type]) for name, type in zip(names, types, strict=True)]

    @property
    def variables(self) -> list[tuple[BtfType, int, int]]:
        """The variables of a section, each with its offset and size in bytes."""
        if self.kind != Kind.DATASEC:
            return []
        rows = self.btf.rows_under(self.row)
        table = self.btf.placements
        columns = (table.variable, table.offset, table.size)
        return [
            (self.table[variable], offset, size)
            for variable, offset, size in zip(*(values[rows].tolist() for values in columns), strict=True)
        ]

    @property
    def title(self) -> str:
        """The type in a word or two, as messages name it: `struct task_struct`, `int`, `PTR 17`."""
        if self.kind == Kind.VOID:
            return "void"
        prefix = {Kind.STRUCT: "struct ", Kind.UNION: "union ", Kind.ENUM: "enum ", Kind.ENUM64: "enum "}
        if self.kind == Kind.FWD:
            return ("union " if self.flag else "struct ") + self.name
        return f"{prefix.get(self.kind, '')}{self.name}" if self.name else f"{self.kind.name} {self.row}"

    def __repr__(self) -> str:
        return f"<type {self.row} {self.kind.name} {self.name!r}>"

    def __str__(self) -> str:
        # Writing C builds on these tables, so it is brought in when it is asked for.
        from jitlink.bpf.btf_declarations import declaration

        return declaration(self)


REFERRING = (
    *MODIFIERS,
    Kind.PTR,
    Kind.FUNC,
    Kind.FUNC_PROTO,
    Kind.VAR,
    Kind.DECL_TAG,
)
"""Kinds whose third word is another type; of a prototype it is the type that it returns."""


class Member:
    """A member of a struct or union: its place counts bits from the start of the struct."""

    __slots__ = ("name", "offset_bits", "size_bits", "type")

    def __init__(self, name: str, type: BtfType, offset_bits: int, size_bits: int) -> None:
        self.name = name
        self.type = type
        self.offset_bits = offset_bits
        self.size_bits = size_bits

    @property
    def offset(self) -> int:
        """The byte that the member starts in."""
        return self.offset_bits // 8

    @property
    def is_bitfield(self) -> bool:
        """Whether the member has a width of its own in bits."""
        return self.size_bits != 0

    def __repr__(self) -> str:
        return f"<member {self.name!r} at bit {self.offset_bits}: {self.type.title}>"


def every_member(type: BtfType) -> Iterator[tuple[Member, int]]:
    """Walk the named members of a struct, those of anonymous members included, with their bit offsets.

    Anonymous structs and unions contribute their members as C does. The walk is bounded: the reader
    has proved that no struct contains itself and that none unfolds into a million members.
    """
    for member in type.members:
        inner = member.type.resolved
        if not member.name and inner.kind in COMPOSITES:
            for nested, offset_bits in every_member(inner):
                yield nested, member.offset_bits + offset_bits
        else:
            yield member, member.offset_bits


def of_kinds(kind: npt.NDArray[Any], kinds: tuple[Kind, ...]) -> npt.NDArray[np.bool_]:
    """Mark the rows whose kind is among kinds. kind: uint8[types]. Returns bool[types]."""
    chosen = np.zeros(256, bool)
    chosen[list(kinds)] = True
    marked: npt.NDArray[np.bool_] = chosen[kind]
    return marked
