"""From C types to those of cffi, which makes the calls and holds the data.

cffi usually reads C declarations. Debug information knows more than these say, namely where each member
of a structure lies, so the types are built directly, through the functions that cffi's own reader of
declarations calls. A structure whose members cffi would place otherwise keeps its size and the members
that it can have; what overlaps is left out, and can be reached through a cast.

Structures by value: cffi passes those that are laid out as C lays them out. For unions, bit-fields and the
like, a carrier is passed in their place: see jitlink.calls.carriers.
"""

from __future__ import annotations

from typing import Any

from jitlink.calls.c_types import (
    Array,
    CType,
    Enumeration,
    Function,
    Member,
    Number,
    Pointer,
    Record,
    Sort,
    Unserved,
    Void,
)
from jitlink.calls.carriers import alignment_of, carrier_of
from jitlink.errors import UntypedSymbol

# fmt: off
NAMES: dict[tuple[Sort, int], str] = {
    ("signed", 1): "signed char", ("signed", 2): "short", ("signed", 4): "int", ("signed", 8): "long",
    ("unsigned", 1): "unsigned char", ("unsigned", 2): "unsigned short", ("unsigned", 4): "unsigned int",
    ("unsigned", 8): "unsigned long",
    ("bool", 1): "_Bool", ("bool", 2): "short", ("bool", 4): "int", ("bool", 8): "long",
    ("char", 1): "char",
    ("character", 1): "unsigned char", ("character", 2): "char16_t", ("character", 4): "char32_t",
    ("float", 4): "float", ("float", 8): "double", ("float", 16): "long double",
    ("complex", 8): "_cffi_float_complex_t", ("complex", 16): "_cffi_double_complex_t",
}
# fmt: on
LONG_LONG = {
    "long long int": "long long",
    "long long": "long long",
    "long long unsigned int": "unsigned long long",
    "unsigned long long": "unsigned long long",
}
"""Types of 8 bytes that are not the long that they are equal to: pointers to the two are of two types."""
MOST_RECORDS = 4096
"""Structures that are completed for one library; those beyond stay opaque."""
REFUSALS = (TypeError, ValueError, KeyError, OverflowError, NotImplementedError, SystemError)
"""What cffi raises for members that it cannot have; SystemError for some that have one name."""
DEEPEST_BY_VALUE = 32
"""Structures inside structures."""


class ForeignTypes:
    """The cffi types of one library. Attributes: ffi (which made them); bytes_array (char[])."""

    def __init__(self) -> None:
        from cffi import FFI

        self.ffi: Any = FFI()
        self._backend: Any = self.ffi._backend
        self._made: dict[CType, Any] = {}
        self._waiting: list[Record] = []
        self._records = 0
        self._natural: dict[Record, bool] = {}
        self._carriers: dict[CType, Any] = {}
        self.bytes_array = self.ffi.typeof("char[]")

    def of(self, kind: CType) -> Any:
        """The cffi type of a C type, complete. Raises UntypedSymbol for one that is not served, MalformedInput."""
        made = self._of(kind)
        while self._waiting:
            self._complete(self._waiting.pop())
        return made

    def pointer_to(self, kind: CType) -> Any:
        """The cffi type of a pointer to a C type."""
        return self._backend.new_pointer_type(self.of(kind))

    def array_of(self, kind: CType) -> Any:
        """The cffi type of an array of a C type, of any length."""
        return self._backend.new_array_type(self.pointer_to(kind), None)

    def passed(self, kind: CType) -> Any:
        """The cffi type in which a value of a C type goes through a call.

        Raises UntypedSymbol for one that cannot be passed by value, and MalformedInput.
        """
        plain = kind.plain
        if isinstance(plain, Record):
            if plain.by_value is not None:
                raise UntypedSymbol(f"{kind} cannot be passed by value: {plain.by_value}")
            if not plain.width:
                raise UntypedSymbol(f"{kind} has no size that could be passed")
            made = self.of(kind)
            return made if self.is_natural(plain) else self._carrier(plain)
        if isinstance(plain, Number) and plain.sort == "complex":
            return self._carrier(plain)
        return self.of(kind)

    def carrier_pointer(self, kind: CType) -> Any:
        """The cffi type of a pointer to the carrier of a C type."""
        return self._backend.new_pointer_type(self.passed(kind))

    def needs_carrier(self, kind: CType) -> bool:
        """Whether a value goes through a call as another type of the same bytes."""
        plain = kind.plain
        if isinstance(plain, Record):
            return not self.is_natural(plain)
        return isinstance(plain, Number) and plain.sort == "complex"

    def is_natural(self, record: Record) -> bool:
        """Whether a structure is laid out as C lays it out, without unions and bit-fields."""
        known = self._natural.get(record)
        if known is None:
            known = self._natural[record] = self._check_natural(record, 0)
        return known

    def _check_natural(self, record: Record, depth: int) -> bool:
        if record.sort == "union" or depth > DEEPEST_BY_VALUE or not record.members:
            return False
        end = alignment = 0
        for member in record.members:
            element = _element(member.type)
            if member.bits is not None or (isinstance(element, Number) and element.sort == "complex"):
                return False
            if isinstance(element, Record) and not self._check_natural(element, depth + 1):
                return False
            size, aligned = member.type.size, alignment_of(element)
            if not size or -(-end // aligned) * aligned != member.offset:
                return False
            end, alignment = member.offset + size, max(alignment, aligned)
        return -(-end // alignment) * alignment == record.width

    def _carrier(self, kind: Record | Number) -> Any:
        """A structure of the same bytes, which travels in the same registers."""
        made = self._carriers.get(kind)
        if made is None:
            made = self._carriers[kind] = self._make_carrier(kind)
        return made

    def _make_carrier(self, kind: Record | Number) -> Any:
        backend = self._backend
        fields: list[tuple[str, Any, int, int]] = []
        at = 0
        for name, size, count in carrier_of(kind):
            primitive = backend.new_primitive_type(name)
            field = primitive
            if count > 1:
                field = backend.new_array_type(backend.new_pointer_type(primitive), count)
            fields.append((f"part{len(fields)}", field, -1, at))
            at += size * count
        made = backend.new_struct_type(f"carrier of {kind.declared()}")
        backend.complete_struct_or_union(made, fields, None, kind.size, -1)
        return made

    def _of(self, kind: CType) -> Any:
        kind = kind.plain
        made = self._made.get(kind)
        if made is None:
            made = self._made[kind] = self._make(kind)
        return made

    def _make(self, kind: CType) -> Any:
        backend = self._backend
        if isinstance(kind, Void):
            return backend.new_void_type()
        if isinstance(kind, Number):
            return backend.new_primitive_type(LONG_LONG.get(kind.name) or NAMES[kind.sort, kind.width])
        if isinstance(kind, Enumeration):
            return self._make(kind.number)
        if isinstance(kind, Pointer):
            return self._pointer(kind)
        if isinstance(kind, Array):
            return self._array(kind)
        if isinstance(kind, Function):
            return self._function(kind)
        if isinstance(kind, Record):
            return self._record(kind)
        assert isinstance(kind, Unserved)
        raise UntypedSymbol(f"{kind}: {kind.reason}")

    def _pointer(self, kind: Pointer) -> Any:
        target = kind.target.plain
        try:
            if isinstance(target, Function):
                return self._of(target)
            # A pointer to an array points at its elements: only these have a type that NumPy knows.
            return self._backend.new_pointer_type(self._of(_element(target)))
        except UntypedSymbol:
            # What it points at cannot be looked into, but passed on.
            return self._backend.new_pointer_type(self._backend.new_void_type())

    def _array(self, kind: Array) -> Any:
        inner = _element(kind)
        if isinstance(inner, Record):
            self._finish(inner)
        element = self._of(kind.element)
        return self._backend.new_array_type(self._backend.new_pointer_type(element), kind.length)

    def _function(self, kind: Function) -> Any:
        if kind.variadic and kind.parameters:
            raise UntypedSymbol("a function with variable arguments")
        for each in (kind.result, *(kind for _, kind in kind.parameters)):
            plain = each.plain
            if isinstance(plain, Record):
                self._finish(plain)
        parameters = tuple(self.passed(kind) for _, kind in kind.parameters)
        return self._backend.new_function_type(parameters, self.passed(kind.result), 0)

    def _record(self, kind: Record) -> Any:
        made = self._new(kind)
        if not kind.is_finite:
            raise UntypedSymbol(f"{kind} is described as holding itself")
        if kind.width is not None and self._records < MOST_RECORDS:
            self._records += 1
            self._waiting.append(kind)
        return made

    def _new(self, kind: Record) -> Any:
        new = self._backend.new_union_type if kind.sort == "union" else self._backend.new_struct_type
        return new(f"{kind.sort} {kind.tag or '(anonymous)'}")

    def _finish(self, kind: Record) -> None:
        """Complete a structure now, which something holds by value."""
        self._of(kind)
        if kind in self._waiting:
            self._waiting.remove(kind)
            self._complete(kind)

    def _complete(self, record: Record) -> None:
        """Give a structure its members: all of them, or those that cffi can have where they are."""
        found = {member.name or number: self._field(member) for number, member in enumerate(record.members)}
        fields = [field for field in found.values() if field is not None]
        for tried in (fields, [field for field in fields if field[2] < 0], []):
            trial = self._new(record)
            try:
                self._backend.complete_struct_or_union(trial, tried, None, record.width, -1)
            except REFUSALS:
                continue
            if self._as_described(trial, record):
                self._backend.complete_struct_or_union(self._made[record], tried, None, record.width, -1)
                return

    def _field(self, member: Member) -> tuple[str, Any, int, int] | None:
        """The cffi field of a member: name, type, bits and offset; None for one that cannot be had."""
        inner = _element(member.type)
        # The members of an anonymous structure are members of this one.
        if not member.name and not isinstance(member.type.plain, Record):
            return None
        try:
            if isinstance(inner, Record):
                self._finish(inner)
                if inner.width is None:
                    return None
            kind = self._of(member.type)
        except UntypedSymbol:
            return None
        if member.bits is not None:
            return member.name, kind, member.bits, -1
        return member.name, kind, -1, member.offset

    def _as_described(self, made: Any, record: Record) -> bool:
        """Whether the bit-fields of a cffi structure are where the members of a record are."""
        placed = {name: field.offset * 8 + field.bitshift for name, field in made.fields or () if field.bitsize >= 0}
        described = {member.name: member.bit for member in record.members if member.bits is not None}
        return all(described[name] == bit for name, bit in placed.items())


def _element(kind: CType) -> CType:
    """What an array is made of in the end."""
    kind = kind.plain
    while isinstance(kind, Array):
        kind = kind.element.plain
    return kind
