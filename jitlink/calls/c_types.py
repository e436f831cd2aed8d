"""C types as values: what debug information says of a function or a variable, apart from how it says it.

A type is a small tree. Typedefs and qualifiers stay in it, since people want to read a prototype as it was
written; `plain` sees through them. A structure is read when somebody looks at its members, because the
types of a program refer to each other in circles, and always through a structure.

A type that we cannot pass is a type too (`Unserved`): a function that needs it is refused by name, with
the reason, and everything around it works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Sort = Literal["signed", "unsigned", "bool", "char", "character", "float", "complex"]
"""Of a number. char: the plain char of C, one byte of text; character: a Unicode character."""


class CType:
    """Any C type."""

    @property
    def plain(self) -> CType:
        """The type without typedefs and qualifiers."""
        return self

    @property
    def size(self) -> int | None:
        """Bytes of a value; None where it has no fixed size."""
        return None

    @property
    def is_const(self) -> bool:
        """Whether a value of the type must not be written."""
        return False

    def declared(self, name: str = "") -> str:
        """The C declaration of a name with this type; the type alone for no name."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.declared()


def _with(base: str, name: str) -> str:
    return f"{base} {name}" if name and not name.startswith("*") else f"{base} {name}".rstrip()


@dataclass(frozen=True, eq=False)
class Void(CType):
    """No value; what a void pointer points at."""

    def declared(self, name: str = "") -> str:
        return _with("void", name)


@dataclass(frozen=True, eq=False)
class Number(CType):
    """An arithmetic type. Attributes: name (as the language spells it), width (bytes), sort."""

    name: str
    width: int
    sort: Sort

    @property
    def size(self) -> int:
        return self.width

    def declared(self, name: str = "") -> str:
        return _with(self.name, name)


@dataclass(frozen=True, eq=False)
class Enumeration(CType):
    """An enumeration: passed as a number, and its names. Attributes: tag, number, values."""

    tag: str
    number: Number
    values: Sequence[tuple[str, int]]

    @property
    def size(self) -> int:
        return self.number.width

    def declared(self, name: str = "") -> str:
        return _with(f"enum {self.tag}" if self.tag else "enum {...}", name)


@dataclass(frozen=True, eq=False)
class Pointer(CType):
    """A pointer.

    Attributes: target; width (bytes); mark (& or && for a reference, else *); takes_values (whether the
    language passes a value by making a temporary, as Fortran does).
    """

    target: CType
    width: int = 8
    mark: str = "*"
    takes_values: bool = False

    @property
    def size(self) -> int:
        return self.width

    @property
    def is_reference(self) -> bool:
        """Whether it always points at something."""
        return self.mark != "*"

    def declared(self, name: str = "") -> str:
        inner = f"{self.mark}{name}"
        needs_parentheses = isinstance(self.target, Array | Function)
        return self.target.declared(f"({inner})" if needs_parentheses else inner)


@dataclass(frozen=True, eq=False)
class Array(CType):
    """An array. Attributes: element, length (None where it is not known), column_major (Fortran's order)."""

    element: CType
    length: int | None
    column_major: bool = False

    @property
    def size(self) -> int | None:
        size = self.element.size
        return None if self.length is None or size is None else self.length * size

    @property
    def is_const(self) -> bool:
        return self.element.is_const

    def declared(self, name: str = "") -> str:
        return self.element.declared(f"{name}[{'' if self.length is None else self.length}]")


@dataclass(frozen=True, eq=False)
class Member:
    """A member of a structure. Attributes: name, type, offset (bytes), bits (None, or of a bit-field), bit."""

    name: str
    type: CType
    offset: int
    bits: int | None = None
    bit: int = 0
    """Where a bit-field starts, counted in bits from the start of the structure."""


@dataclass(eq=False)
class Record(CType):
    """A structure, class or union.

    Attributes: sort ("struct", "class" or "union"); tag; width (bytes; None if only declared); by_value (None,
    or the reason why a value cannot be passed); read (reads the members, when they are first asked for).
    """

    sort: str
    tag: str
    width: int | None
    read: Callable[[], list[Member]]
    by_value: str | None = None
    _members: list[Member] | None = field(default=None, repr=False)

    @property
    def size(self) -> int | None:
        return self.width

    @property
    def members(self) -> list[Member]:
        """The members, in order. Raises MalformedInput."""
        if self._members is None:
            self._members = self.read()
        return self._members

    @property
    def is_finite(self) -> bool:
        """Whether it holds no structure that holds it, which its size then cannot tell. Raises MalformedInput."""
        waiting: list[Record] = [self]
        seen: set[Record] = set()
        while waiting:
            for member in waiting.pop().members:
                kind = member.type.plain
                while isinstance(kind, Array):
                    kind = kind.element.plain
                if kind is self:
                    return False
                # A smaller one cannot hold this one.
                if isinstance(kind, Record) and kind.width == self.width and kind not in seen:
                    seen.add(kind)
                    waiting.append(kind)
        return True

    def declared(self, name: str = "") -> str:
        return _with(f"{self.sort} {self.tag}" if self.tag else f"{self.sort} {{...}}", name)


@dataclass(frozen=True, eq=False)
class Function(CType):
    """A function type. Attributes: result, parameters (names and types), variadic."""

    result: CType
    parameters: Sequence[tuple[str, CType]]
    variadic: bool = False

    def declared(self, name: str = "") -> str:
        parameters = [kind.declared(called) for called, kind in self.parameters]
        if self.variadic:
            parameters.append("...")
        return self.result.declared(f"{name}({', '.join(parameters) or 'void'})")


@dataclass(frozen=True, eq=False)
class Unserved(CType):
    """A type that we do not pass. Attributes: name, reason, width (bytes, where known)."""

    name: str
    reason: str
    width: int | None = None

    @property
    def size(self) -> int | None:
        return self.width

    def declared(self, name: str = "") -> str:
        return _with(self.name, name)


@dataclass(frozen=True, eq=False)
class Typedef(CType):
    """Another name for a type."""

    name: str
    target: CType

    @property
    def plain(self) -> CType:
        return self.target.plain

    @property
    def size(self) -> int | None:
        return self.target.size

    @property
    def is_const(self) -> bool:
        return self.target.is_const

    def declared(self, name: str = "") -> str:
        return _with(self.name, name)


@dataclass(frozen=True, eq=False)
class Qualified(CType):
    """A type that is const, volatile, restrict or _Atomic."""

    qualifier: str
    target: CType

    @property
    def plain(self) -> CType:
        return self.target.plain

    @property
    def size(self) -> int | None:
        return self.target.size

    @property
    def is_const(self) -> bool:
        return self.qualifier == "const" or self.target.is_const

    def declared(self, name: str = "") -> str:
        if isinstance(self.target, Pointer):
            return self.target.declared(f"{self.qualifier} {name}".rstrip())
        return f"{self.qualifier} {self.target.declared(name)}"


VOID = Void()
