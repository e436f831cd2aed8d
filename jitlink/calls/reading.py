"""From entries of debug information to C types.

Each entry for a type becomes one value of jitlink.calls.c_types, made once. A chain of typedefs, pointers
and arrays is followed to its end; a chain that comes back to itself without going through a structure
describes no type, and is refused. Structures are read when somebody looks at their members, so that
circles through them end by themselves.

What the languages leave to convention:

- C++: a reference is a pointer that is never null; `this` is the first parameter. An object that its class
  copies by code of its own is passed by a hidden pointer (Itanium C++ ABI 3.1.2.3): its values are refused.
- Rust: pointers carry their name (`*const f64`, `&mut T`), which says whether they may be written through.
  An Option of a pointer is that pointer, or null (the Rust reference, type layout).
- Fortran: a dummy argument is passed by reference unless it has the attribute VALUE, and DWARF gives it the
  type of what is referred to. Its location tells: that of a reference goes through a register or a
  dereference. Dummies that are passed as descriptors (assumed shape, allocatable, pointer) are refused.

Source: DWARF 5, chapters 4 and 5; Fortran 2018, 18.3.6 (Interoperability of procedures).
"""

from __future__ import annotations

from typing import Any

from jitlink.calls.c_types import (
    VOID,
    Array,
    CType,
    Enumeration,
    Function,
    Member,
    Number,
    Pointer,
    Qualified,
    Record,
    Sort,
    Typedef,
    Unserved,
)
from jitlink.calls.debug_info import LINKAGE_NAMES, DebugInfo
from jitlink.calls.fortran import is_by_reference

DEEPEST = 64
"""Links of a chain of typedefs, pointers, arrays and function types."""
MOST_PARAMETERS = 255
LARGEST = 1 << 47
"""Bytes of an array or a structure: the addresses of a process end there."""

# DWARF 5, table 7.11.
BOOLEAN, COMPLEX, FLOAT, SIGNED, SIGNED_CHAR, UNSIGNED, UNSIGNED_CHAR, UTF = (
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x07,
    0x08,
    0x10,
)
SORTS: dict[int, Sort] = {
    BOOLEAN: "bool",
    COMPLEX: "complex",
    FLOAT: "float",
    SIGNED: "signed",
    SIGNED_CHAR: "signed",
    UNSIGNED: "unsigned",
    UNSIGNED_CHAR: "unsigned",
    UTF: "character",
}
WIDTHS: dict[Sort, tuple[int, ...]] = {
    "bool": (1, 2, 4, 8),
    "complex": (8, 16),
    "float": (4, 8, 16),
    "signed": (1, 2, 4, 8),
    "unsigned": (1, 2, 4, 8),
    "character": (1, 2, 4),
}
FORTRAN = {0x07, 0x08, 0x0E, 0x22, 0x23, 0x2D}
RUST = 0x1C
PASSED_BY_REFERENCE = 0x04
"""DW_CC_pass_by_reference."""
QUALIFIERS = {
    "DW_TAG_const_type": "const",
    "DW_TAG_volatile_type": "volatile",
    "DW_TAG_restrict_type": "restrict",
    "DW_TAG_atomic_type": "_Atomic",
}
RECORDS = {"DW_TAG_structure_type": "struct", "DW_TAG_class_type": "class", "DW_TAG_union_type": "union"}
MARKS = {"DW_TAG_pointer_type": "*", "DW_TAG_reference_type": "&", "DW_TAG_rvalue_reference_type": "&&"}
DESCRIPTOR_MEMBERS = {"base_addr", "base"}
HAS_DESCRIPTOR = {"DW_AT_data_location", "DW_AT_associated", "DW_AT_allocated"}
ASSUMED_SHAPE = "it is passed as an array descriptor (assumed shape, allocatable or pointer)"


class TypeReader:
    """Reads the types of one object, each once."""

    def __init__(self, info: DebugInfo) -> None:
        self.info = info
        self._made: dict[int, CType] = {}
        self._under_way: list[int] = []

    def function(self, entry: Any) -> Function:
        """The type of a function, from its entry. Raises MalformedInput."""
        chain = self.info.chain(entry)
        # An entry for the code leaves its parameters to the declaration where that is complete.
        for each in chain:
            parameters = self._parameters(each)
            if parameters:
                break
        result = next((self.type_of(each) for each in chain if "DW_AT_type" in each.attributes), VOID)
        return Function(result, *self._listed(parameters))

    def type_of(self, entry: Any) -> CType:
        """The type that DW_AT_type of an entry names; void if it has none."""
        target = self.info.referred(entry, "DW_AT_type")
        return VOID if target is None else self.type_at(target)

    def type_at(self, target: Any) -> CType:
        """The type that an entry describes. Raises MalformedInput."""
        made = self._made.get(target.offset)
        if made is not None:
            return made
        if target.offset in self._under_way:
            raise self.info.malformed("a type that is made of itself", target)
        if len(self._under_way) >= DEEPEST:
            raise self.info.malformed("types that are nested too deep", target)
        self._under_way.append(target.offset)
        try:
            with self.info.reading(target.offset):
                made = self._make(target)
        finally:
            self._under_way.pop()
        self._made[target.offset] = made
        return made

    def calls_as_c(self, entry: Any) -> bool:
        """Whether a function is called as C is: those of Rust are unless their names are mangled."""
        return _language(entry) != RUST or not any(
            name in each.attributes for each in self.info.chain(entry) for name in LINKAGE_NAMES
        )

    def variable(self, entry: Any) -> CType:
        """The type of a variable, from its entry. Raises MalformedInput."""
        for each in self.info.chain(entry):
            if "DW_AT_type" in each.attributes:
                return self.type_of(each)
        raise self.info.malformed("a variable without a type", entry)

    # One method for each sort of entry

    def _make(self, entry: Any) -> CType:
        tag, name = entry.tag, self.info.name_of(entry)
        if tag == "DW_TAG_base_type":
            return self._number(entry, name)
        if tag == "DW_TAG_enumeration_type":
            return self._enumeration(entry, name)
        if tag in QUALIFIERS:
            return Qualified(QUALIFIERS[tag], self.type_of(entry))
        if tag == "DW_TAG_typedef":
            return Typedef(name, self.type_of(entry))
        if tag in MARKS:
            return self._pointer(entry, name)
        if tag == "DW_TAG_array_type":
            return self._array(entry)
        if tag in RECORDS:
            return self._record(entry, name)
        if tag == "DW_TAG_subroutine_type":
            return Function(self.type_of(entry), *self._listed(self._parameters(entry)))
        if tag == "DW_TAG_unspecified_type":
            # decltype(nullptr) of C++, and void in some languages.
            return VOID if "nullptr" not in name else Pointer(VOID)
        if tag == "DW_TAG_ptr_to_member_type":
            return Unserved(name or "a pointer to member", "pointers to members are not passed", self._size(entry))
        return Unserved(name or str(tag), f"types of the sort {tag} are not passed", self._size(entry))

    def _size(self, entry: Any) -> int | None:
        size = self.info.attribute(entry, "DW_AT_byte_size")
        if size is None:
            return None
        # Fortran may give an expression.
        if not isinstance(size, int) or not 0 <= size < LARGEST:
            raise self.info.malformed("a type whose size is no number of bytes", entry)
        return size

    def _number(self, entry: Any, name: str) -> CType:
        width = self._size(entry)
        sort = SORTS.get(self.info.attribute(entry, "DW_AT_encoding"))
        if sort is None or width is None:
            return Unserved(name, "numbers of this encoding are not passed", width)
        if name == "char" and width == 1:
            sort = "char"
        elif width not in WIDTHS[sort] or (sort == "float" and width == 16 and name != "long double"):
            return Unserved(name, f"numbers of {width} bytes are not passed", width)
        return Number(name, width, sort)

    def _enumeration(self, entry: Any, name: str) -> CType:
        width = self._size(entry)
        values = []
        for child in self.info.children(entry):
            value = self.info.attribute(child, "DW_AT_const_value")
            if child.tag == "DW_TAG_enumerator" and isinstance(value, int):
                values.append((self.info.name_of(child), value))
        underlying = self.type_of(entry).plain
        if isinstance(underlying, Number):
            return Enumeration(name, underlying, values)
        if width not in WIDTHS["signed"]:
            return Unserved(f"enum {name}", "its size is not known", width)
        signed = any(value < 0 for _, value in values)
        number = Number("int" if signed else "unsigned int", width, "signed" if signed else "unsigned")
        return Enumeration(name, number, values)

    def _pointer(self, entry: Any, name: str) -> CType:
        target = self.type_of(entry)
        width = self._size(entry)
        if width is not None and width != entry.cu["address_size"]:
            return Unserved(name or f"{target} *", f"pointers of {width} bytes are not passed", width)
        # Only Rust names its pointers.
        if name.startswith(("*const ", "&")) and not name.startswith("&mut ") and not target.is_const:
            target = Qualified("const", target)
        return Pointer(target, entry.cu["address_size"], MARKS[entry.tag])

    def _array(self, entry: Any) -> CType:
        if HAS_DESCRIPTOR & entry.attributes.keys():
            return Unserved("an array", ASSUMED_SHAPE)
        if "DW_AT_GNU_vector" in entry.attributes:
            return Unserved("a vector", "vectors are not passed", self._size(entry))
        lengths = [self._length(child) for child in self.info.children(entry) if child.tag == "DW_TAG_subrange_type"]
        column_major = _language(entry) in FORTRAN
        made = self.type_of(entry)
        for length in reversed(lengths or [None]):
            made = Array(made, length, column_major)
            if (made.size or 0) >= LARGEST:
                raise self.info.malformed("an array that is larger than memory", entry)
        return made

    def _length(self, entry: Any) -> int | None:
        """The length of one dimension; None where it is not a constant."""
        count = self.info.attribute(entry, "DW_AT_count")
        if count is None:
            last = self.info.attribute(entry, "DW_AT_upper_bound")
            first = self.info.attribute(entry, "DW_AT_lower_bound")
            if first is None:
                first = 1 if _language(entry) in FORTRAN else 0
            # A length that is only known when the code runs is a reference or an expression.
            form = entry.attributes["DW_AT_upper_bound"].form if last is not None else ""
            if not isinstance(last, int) or not isinstance(first, int) or "ref" in form:
                return None
            # GCC has -1, in as many bits as it likes, for an array of no elements.
            count = 0 if last in (0xFFFFFFFF, (1 << 64) - 1) else last - first + 1
        if not isinstance(count, int):
            return None
        if not 0 <= count < LARGEST:
            raise self.info.malformed(f"an array of {count} elements", entry)
        return count

    def _record(self, entry: Any, name: str) -> CType:
        width = None if "DW_AT_declaration" in entry.attributes else self._size(entry)
        children = list(self.info.children(entry))
        if any(child.tag == "DW_TAG_variant_part" for child in children):
            return self._variant(entry, name, children)
        by_value = None
        if self.info.attribute(entry, "DW_AT_calling_convention") == PASSED_BY_REFERENCE or any(
            child.tag == "DW_TAG_subprogram" and self.info.name_of(child).startswith("~") for child in children
        ):
            by_value = "its class copies or destroys it by code of its own"
        if not name and any(self.info.name_of(child) in DESCRIPTOR_MEMBERS for child in children[:1]):
            return Unserved("an array", ASSUMED_SHAPE)
        return Record(RECORDS[entry.tag], name, width, lambda: self._members(entry, width), by_value)

    def _members(self, entry: Any, width: int | None) -> list[Member]:
        found = []
        with self.info.reading(entry.offset):
            for child in self.info.children(entry):
                is_static = "DW_AT_external" in child.attributes or "DW_AT_declaration" in child.attributes
                if child.tag == "DW_TAG_member" and not is_static:
                    found.append(self._member(child, width or 0))
                elif child.tag == "DW_TAG_inheritance" and "DW_AT_virtuality" not in child.attributes:
                    base = self._member(child, width or 0)
                    found.append(Member(f"_base{len(found)}", base.type, base.offset))
        return found

    def _member(self, entry: Any, width: int) -> Member:
        name, kind = self.info.name_of(entry), self.type_of(entry)
        bits = self.info.attribute(entry, "DW_AT_bit_size")
        offset = self.info.attribute(entry, "DW_AT_data_member_location") or 0
        bit = self.info.attribute(entry, "DW_AT_data_bit_offset")
        size = kind.size or 0
        if not isinstance(offset, int):
            raise self.info.malformed("a member whose place is not a constant", entry)
        if bits is not None and bit is None:
            # DWARF 3: counted from the most significant bit of a storage unit of DW_AT_byte_size bytes.
            storage = self._size(entry) or size
            from_top = self.info.attribute(entry, "DW_AT_bit_offset") or 0
            bit = offset * 8 + storage * 8 - from_top - bits if isinstance(from_top, int) else None
        last = offset + size if bits is None else -(-((bit or 0) + bits) // 8)
        if not 0 <= offset <= last <= width or (bits is not None and not 0 < bits <= 8 * size):
            raise self.info.malformed(f"a member that lies outside of its structure of {width} bytes", entry)
        return Member(name, kind, offset, bits, bit or 0)

    def _variant(self, entry: Any, name: str, children: list[Any]) -> CType:
        """A tagged union of Rust: an Option of a pointer is the pointer, all others are refused."""
        width = self._size(entry)
        for child in children:
            if child.tag in RECORDS and self.info.name_of(child) == "Some":
                members = [each for each in self.info.children(child) if each.tag == "DW_TAG_member"]
                payload = self.type_of(members[0]) if len(members) == 1 else VOID
                if isinstance(payload.plain, Pointer) and payload.size == width:
                    return payload
        return Unserved(name or "an enum with values", "tagged unions are not passed", width)

    # Parameters

    def _parameters(self, entry: Any) -> list[Any]:
        wanted = ("DW_TAG_formal_parameter", "DW_TAG_unspecified_parameters")
        return [child for child in self.info.children(entry) if child.tag in wanted]

    def _listed(self, entries: list[Any]) -> tuple[list[tuple[str, CType]], bool]:
        """Names and types of parameters, and whether more may follow them."""
        if len(entries) > MOST_PARAMETERS:
            raise self.info.malformed(f"a function with more than {MOST_PARAMETERS} parameters", entries[0])
        variadic = any(each.tag == "DW_TAG_unspecified_parameters" for each in entries)
        listed = []
        for each in entries:
            if each.tag == "DW_TAG_formal_parameter":
                kind = self._parameter_type(each)
                listed.append((self.info.name_of(each), kind))
        return listed, variadic

    def _parameter_type(self, entry: Any) -> CType:
        kind = self.variable(entry)
        if _language(entry) not in FORTRAN:
            # A parameter that is declared as an array is a pointer (C11 6.7.6.3).
            return Pointer(kind.plain.element) if isinstance(kind.plain, Array) else kind
        if isinstance(kind.plain, Pointer | Unserved):
            return kind
        if isinstance(kind.plain, Array):
            return Pointer(kind, mark="&")
        by_reference = is_by_reference(self.info, entry)
        if by_reference is None:
            return Unserved(str(kind), "whether it is passed by reference cannot be told")
        return Pointer(kind, mark="&", takes_values=True) if by_reference else kind


def _language(entry: Any) -> int | None:
    language = entry.cu.get_top_DIE().attributes.get("DW_AT_language")
    return language.value if language is not None else None
