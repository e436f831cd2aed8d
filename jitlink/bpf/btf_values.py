"""Typed values: Python values to the bytes of a C type and back, as BTF describes the type.

Keys and values of maps and the global variables of a program are bytes with a C type. A codec turns
them into what a Python programmer expects:

    integers, pointers      int
    bool                    bool
    float, double           float
    enum                    EnumValue, an int that knows its name; a name is accepted too
    char[n]                 bytes up to the first zero byte; str and bytes are accepted
    8-bit integers[n]       bytes, all of them; bytes and sequences of int are accepted
    other arrays            list
    struct, union           Record, a dict whose members are also attributes
    section                 Record of its variables (the globals of a program)

A member of an anonymous struct or union is a member of the struct around it, as in C. All members of
a union are read from the same bytes; on writing, members that disagree about a byte are refused.
Missing members are zero, as in a C initialiser. A codec is made once for each type and kept.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from jitlink.bpf.btf_types import COMPOSITES, ENUMS, INT_BOOL, INT_CHAR, Btf, BtfType, Kind, Member
from jitlink.errors import MalformedInput, UnsupportedInput

Bytes = bytes | bytearray | memoryview


class Record(dict[str, Any]):
    """The value of a struct or union: a dict whose members can also be read and set as attributes.

    A member that is called as a method of dict is (`values`, `items`) is reached by `record["values"]`.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self:
            raise AttributeError(f"no member {name!r}; there are {', '.join(self)}")
        self[name] = value


class EnumValue(int):
    """The value of an enum: an int that knows its name (None when the enum does not have the value)."""

    name: str | None

    def __new__(cls, value: int, name: str | None) -> EnumValue:
        made = super().__new__(cls, value)
        made.name = name
        return made

    def __repr__(self) -> str:
        return f"<{self.name}: {int(self)}>" if self.name else int(self).__repr__()


class Codec(Protocol):
    """Turns values of one type into bytes and back. size: bytes."""

    size: int

    def decode(self, data: Bytes) -> Any:
        """Read the value from exactly size bytes."""

    def encode(self, value: Any) -> bytes:
        """Write a value as exactly size bytes. Raises ValueError or TypeError for one that does not fit."""


_codecs: WeakKeyDictionary[Btf, dict[int, Codec]] = WeakKeyDictionary()


def codec(type: BtfType) -> Codec:
    """Make the codec of a type.

    Raises UnsupportedInput for types that are no values (functions, void), MalformedInput for types
    without a size.
    """
    known = _codecs.setdefault(type.btf, {})
    real = type.resolved
    if real.id not in known:
        known[real.id] = _make(real)
    return known[real.id]


def decode(type: BtfType, data: Bytes) -> Any:
    """Read a value of a type from its bytes. Raises ValueError when the length is not the type's."""
    made = codec(type)
    if len(data) != made.size:
        raise ValueError(f"{type.title} has {made.size} bytes, not {len(data)}")
    return made.decode(data)


def encode(type: BtfType, value: Any) -> bytes:
    """Write a value of a type as bytes. Raises ValueError or TypeError for one that does not fit."""
    return codec(type).encode(value)


def _make(real: BtfType) -> Codec:
    order = real.btf.byte_order
    if real.kind == Kind.INT:
        encoding, width, shift = _integer_facts(real)
        if encoding & INT_BOOL:
            return BooleanCodec(real.size, order)
        if width != real.size * 8:
            return BitfieldCodec(real.size, shift, width, real.is_signed, order)
        return IntegerCodec(real.size, real.is_signed, order)
    if real.kind == Kind.PTR:
        return IntegerCodec(real.btf.pointer_size, False, order)
    if real.kind == Kind.FLOAT and real.size in _FLOATS:
        return FloatCodec(real.size, order)
    if real.kind in ENUMS:
        return EnumCodec(real)
    if real.kind == Kind.ARRAY:
        return _make_array(real)
    if real.kind in COMPOSITES:
        return StructCodec(real, [(member.name, *_field(member)) for member in real.members])
    if real.kind == Kind.DATASEC:
        return StructCodec(real, _variables(real))
    if real.kind == Kind.VAR and real.target is not None:
        return codec(real.target)
    raise UnsupportedInput(f"{real.title} ({real.kind.name}) has no values in Python", section=".BTF")


def _make_array(real: BtfType) -> Codec:
    element = real.target
    assert element is not None
    inner = element.resolved
    if inner.kind == Kind.INT and inner.size == 1 and not _integer_facts(inner)[0] & INT_BOOL:
        # Compilers do not set the CHAR encoding: a char is known by its name.
        is_char = inner.name == "char" or bool(_integer_facts(inner)[0] & INT_CHAR)
        return BytesCodec(real.length, is_char)
    return ArrayCodec(codec(element), real.length)


def _integer_facts(integer: BtfType) -> tuple[int, int, int]:
    """The encoding, width in bits and bit offset of an INT."""
    word = integer.read("extra")
    return word >> 24 & 15, word & 0xFF, word >> 16 & 0xFF


class IntegerCodec:
    """Integers and pointers of 1, 2, 4, 8 or 16 bytes."""

    def __init__(self, size: int, signed: bool, byte_order: str) -> None:
        self.size = size
        self.signed = signed
        self.byte_order: Any = byte_order

    def decode(self, data: Bytes) -> int:
        """Read an int."""
        return int.from_bytes(data, self.byte_order, signed=self.signed)

    def encode(self, value: Any) -> bytes:
        """Write anything that is an integer and fits."""
        number = _integer(value)
        try:
            return number.to_bytes(self.size, self.byte_order, signed=self.signed)
        except OverflowError:
            raise ValueError(f"{number} does not fit a {_kind_of_integer(self.signed, self.size * 8)}") from None


class BooleanCodec(IntegerCodec):
    """C's bool."""

    def __init__(self, size: int, byte_order: str) -> None:
        super().__init__(size, False, byte_order)

    def decode(self, data: Bytes) -> bool:
        """Read a bool: anything but zero is true."""
        return super().decode(data) != 0

    def encode(self, value: Any) -> bytes:
        """Write the truth of a value as 0 or 1."""
        return super().encode(bool(value))


class BitfieldCodec:
    """An integer of some bits inside the bytes that hold them; other bits are written as zero."""

    def __init__(self, size: int, offset_bits: int, width: int, signed: bool, byte_order: str) -> None:
        self.size = size
        self.width = width
        self.signed = signed
        self.byte_order: Any = byte_order
        # BTF counts bits in memory order: from the low end on little-endian machines, from the high
        # end on big-endian ones.
        self.shift = offset_bits if byte_order == "little" else size * 8 - offset_bits - width

    @property
    def mask(self) -> bytes:
        """The bytes with the bits of the field set."""
        return self.place((1 << self.width) - 1)

    def place(self, bits: int) -> bytes:
        """Put unsigned bits where the field lies."""
        return (bits << self.shift).to_bytes(self.size, self.byte_order)

    def decode(self, data: Bytes) -> int:
        """Read the field as an int."""
        value = int.from_bytes(data, self.byte_order) >> self.shift & (1 << self.width) - 1
        return value - (1 << self.width) if self.signed and value >> self.width - 1 else value

    def encode(self, value: Any) -> bytes:
        """Write an integer that fits the width."""
        number = _integer(value)
        lowest = -(1 << self.width - 1) if self.signed else 0
        if not lowest <= number < lowest + (1 << self.width):
            raise ValueError(f"{number} does not fit a {_kind_of_integer(self.signed, self.width)}")
        return self.place(number & (1 << self.width) - 1)


_FLOATS = {2: "e", 4: "f", 8: "d"}


class FloatCodec:
    """Floating point of 2, 4 or 8 bytes."""

    def __init__(self, size: int, byte_order: str) -> None:
        self.size = size
        self.format = struct.Struct(("<" if byte_order == "little" else ">") + _FLOATS[size])

    def decode(self, data: Bytes) -> float:
        """Read a float."""
        return float(self.format.unpack(data)[0])

    def encode(self, value: Any) -> bytes:
        """Write anything that is a number."""
        try:
            return self.format.pack(value)
        except struct.error:
            raise TypeError(f"{value!r} is no number") from None
        except OverflowError:
            raise ValueError(f"{value!r} does not fit {self.size} bytes") from None


class EnumCodec(IntegerCodec):
    """Enums: integers with names."""

    def __init__(self, type: BtfType) -> None:
        super().__init__(type.size, type.is_signed, type.btf.byte_order)
        self.title = type.title
        self.values = type.enumerators
        self.names = {value: name for name, value in reversed(self.values.items())}

    def decode(self, data: Bytes) -> EnumValue:
        """Read a value with its name; of several names the first."""
        value = super().decode(data)
        return EnumValue(value, self.names.get(value))

    def encode(self, value: Any) -> bytes:
        """Write a name of the enum, or any integer of its width."""
        if isinstance(value, str):
            if value not in self.values:
                raise ValueError(f"{self.title} has no value {value!r}")
            value = self.values[value]
        return super().encode(value)


class BytesCodec:
    """Arrays of characters or other 8-bit integers."""

    def __init__(self, size: int, is_char: bool) -> None:
        self.size = size
        self.is_char = is_char

    def decode(self, data: Bytes) -> bytes:
        """Read characters up to the first zero byte, other bytes as they are."""
        return bytes(data).split(b"\0", 1)[0] if self.is_char else bytes(data)

    def encode(self, value: Any) -> bytes:
        """Write str (as UTF-8), bytes or a sequence of integers, filled up with zero bytes."""
        if isinstance(value, str):
            value = value.encode()
        elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
            value = bytes(_integer(each) & 0xFF for each in value)
        data = _as_bytes(value)
        if len(data) > self.size:
            raise ValueError(f"{len(data)} bytes do not fit an array of {self.size}")
        return data.ljust(self.size, b"\0")


class ArrayCodec:
    """Arrays of anything else."""

    def __init__(self, element: Codec, length: int) -> None:
        self.element = element
        # Elements without bytes hold nothing, however many there are said to be.
        self.length = length if element.size else 0
        self.size = element.size * self.length

    def decode(self, data: Bytes) -> list[Any]:
        """Read the elements."""
        view, size = memoryview(data), self.element.size
        return [self.element.decode(view[at : at + size]) for at in range(0, self.size, size or 1)]

    def encode(self, value: Any) -> bytes:
        """Write a sequence; elements that are missing at the end are zero."""
        items = list(value)
        if len(items) > self.length:
            raise ValueError(f"{len(items)} elements do not fit an array of {self.length}")
        return b"".join(map(self.element.encode, items)).ljust(self.size, b"\0")


class StructCodec:
    """Structs, unions and sections."""

    def __init__(self, type: BtfType, fields: Sequence[tuple[str, int, Codec]]) -> None:
        """Take the fields as name, place in bytes and codec; without a name only structs count."""
        self.size = type.size
        self.title = type.title
        self.fields = [field for field in fields if field[0] or isinstance(field[2], StructCodec)]
        self.names = [name for field in self.fields for name in _names_under(field)]

    def decode(self, data: Bytes) -> Record:
        """Read the members."""
        view, record = memoryview(data), Record()
        for name, at, inner in self.fields:
            value = inner.decode(view[at : at + inner.size])
            if name:
                record[name] = value
            else:
                record.update(value)
        return record

    def encode(self, value: Any) -> bytes:
        """Write a mapping, a sequence in order of declaration, or an object with these attributes.

        Bytes of the size of the struct are taken as they are.
        """
        if isinstance(value, (bytes, bytearray, memoryview)):
            if len(value) != self.size:
                raise ValueError(f"{self.title} has {self.size} bytes, not {len(value)}")
            return bytes(value)
        given = self._given(value)
        data = bytearray(self.size)
        written = bytearray(self.size)
        self._write(given, data, written)
        return bytes(data)

    def _given(self, value: Any) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            unknown = [name for name in value if name not in self.names]
            if unknown:
                raise ValueError(f"{self.title} has no member {unknown[0]!r}; it has {', '.join(self.names)}")
            return value
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) > len(self.names):
                raise ValueError(f"{len(value)} values for the {len(self.names)} members of {self.title}")
            return dict(zip(self.names, value, strict=False))
        given = {name: getattr(value, name) for name in self.names if hasattr(value, name)}
        if not given:
            raise TypeError(f"{value!r} is no value of {self.title}")
        return given

    def _write(self, given: Mapping[str, Any], data: bytearray, written: bytearray) -> None:
        for name, at, inner in self.fields:
            if name:
                if name in given:
                    self._put(name, at, inner, given[name], data, written)
            elif isinstance(inner, StructCodec):
                part = {each: given[each] for each in inner.names if each in given}
                if part:
                    self._put(", ".join(part), at, inner, part, data, written)

    def _put(self, name: str, at: int, inner: Codec, value: Any, data: bytearray, written: bytearray) -> None:
        """Lay the bits of a member over the struct; bits that are there already must be the same."""
        bits = int.from_bytes(inner.encode(value))
        mask = int.from_bytes(inner.mask if isinstance(inner, BitfieldCodec) else b"\xff" * inner.size)
        place = slice(at, at + inner.size)
        old, seen = int.from_bytes(data[place]), int.from_bytes(written[place])
        if (old ^ bits) & mask & seen:
            raise ValueError(f"member {name} of {self.title} disagrees with a member of the union before it")
        data[place] = (old & ~mask | bits).to_bytes(inner.size)
        written[place] = (seen | mask).to_bytes(inner.size)


def _names_under(field: tuple[str, int, Codec]) -> list[str]:
    name, _, inner = field
    return [name] if name or not isinstance(inner, StructCodec) else inner.names


def _variables(section: BtfType) -> list[tuple[str, int, Codec]]:
    """The variables of a section that have a value: not the functions and unsized externs among them."""
    fields: list[tuple[str, int, Codec]] = []
    for variable, at, _ in section.variables:
        if variable.kind != Kind.VAR or variable.target is None or not section.btf.has_size(variable.target.id):
            continue
        inner = codec(variable.target)
        if at + inner.size > section.size:
            raise MalformedInput(f"variable {variable.name} ends outside of section {section.name}", section=".BTF")
        fields.append((variable.name, at, inner))
    return fields


def _field(member: Member) -> tuple[int, Codec]:
    """Where a member lies in bytes, and its codec. A bitfield takes the bytes that its bits touch."""
    if not member.is_bitfield:
        return member.offset, codec(member.type)
    real = member.type.resolved
    shift = member.offset_bits % 8
    size = (shift + member.size_bits + 7) // 8
    return member.offset, BitfieldCodec(size, shift, member.size_bits, real.is_signed, real.btf.byte_order)


def _integer(value: Any) -> int:
    try:
        return int(value.__index__())
    except AttributeError:
        raise TypeError(f"{value!r} is no integer") from None


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{value!r} is neither text nor bytes")


def _kind_of_integer(signed: bool, bits: int) -> str:
    return f"{'signed' if signed else 'unsigned'} integer of {bits} bits"


def numpy_dtype(type: BtfType) -> np.dtype[Any] | None:
    """Say a type as a NumPy dtype, or None when NumPy cannot: bitfields, 16-byte integers, void.

    Members of anonymous structs and unions become fields of the struct around them; the members of a
    union overlap.
    """
    real = type.resolved
    order = "<" if real.btf.byte_order == "little" else ">"
    if real.kind == Kind.INT:
        encoding, width, _ = _integer_facts(real)
        if width != real.size * 8 or real.size > 8:
            return None
        if encoding & INT_BOOL and real.size == 1:
            return np.dtype(bool)
        return np.dtype(f"{order}{'i' if real.is_signed else 'u'}{real.size}")
    if real.kind in ENUMS:
        return np.dtype(f"{order}{'i' if real.is_signed else 'u'}{real.size}")
    if real.kind == Kind.PTR:
        return np.dtype(f"{order}u{real.btf.pointer_size}")
    if real.kind == Kind.FLOAT and real.size in _FLOATS:
        return np.dtype(f"{order}f{real.size}")
    if real.kind == Kind.ARRAY and real.target is not None:
        element = numpy_dtype(real.target)
        return None if element is None else np.dtype((element, (real.length,)))
    return _struct_dtype(real) if real.kind in COMPOSITES else None


def _struct_dtype(real: BtfType) -> np.dtype[Any] | None:
    names: list[str] = []
    formats: list[np.dtype[Any]] = []
    offsets: list[int] = []
    for member in real.members:
        made = None if member.is_bitfield else numpy_dtype(member.type)
        if made is None:
            return None
        if member.name:
            names.append(member.name)
            formats.append(made)
            offsets.append(member.offset)
        elif made.fields:
            for name, field in made.fields.items():
                names.append(name)
                formats.append(field[0])
                offsets.append(member.offset + field[1])
    if len(set(names)) != len(names):
        return None
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": real.size})
