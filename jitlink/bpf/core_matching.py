"""Finding in one set of types what a program says about another: the matching rules of CO-RE.

A program compiled against one kernel reads, say, `task->mm->pgd`. The compiler writes down the way it
took through its own types as an access string: numbers that say "element 0, member 4, member 2". In
the types of the target the same members may lie elsewhere or be gone, and are found again by name:

- Candidates for a type are the types of the same kind and name, where everything after a triple
  underscore is a flavour that does not count: `task_struct___old` is `task_struct`.
- Members match by name, through anonymous structs and unions of either side, when their types are
  compatible: structs with structs, integers with integers of any size, and so on.
- Array indices stay, as long as the target's array has as many elements.

Whether whole types are compatible, or match in every member, are two further relations.

Source: src/relo_core.c of libbpf, whose rules these are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from jitlink.bpf.btf_types import COMPOSITES, ENUMS, Btf, BtfType, Kind, Member
from jitlink.errors import MalformedInput, UnsupportedInput

MOST_STEPS = 64
DEEPEST = 32
BUDGET = 1 << 22
"""Members and types looked at before a search is given up: types can be made to explode."""

_ACCESS = re.compile(r"[0-9]{1,9}(:[0-9]{1,9})*")
_FLAVOUR = re.compile(r"(?<=[^_])___(?=[^_])")


def essential_name(name: str) -> str:
    """Strip the flavour: everything from the last triple underscore between two other characters on."""
    found = list(_FLAVOUR.finditer(name))
    return name[: found[-1].start()] if found else name


@dataclass(frozen=True)
class Step:
    """A turning point of an access: a named member of a struct, or (with no name) an array element.

    type is the struct of the member, or the type of the element; index counts members or elements.
    """

    type: int
    index: int
    name: str = ""


@dataclass(frozen=True)
class Access:
    """A way through types to a field: from the root over the steps, to a place in bits."""

    btf: Btf
    root: int
    steps: tuple[Step, ...]
    offset_bits: int = 0

    def __str__(self) -> str:
        text = self.btf.types[self.root].title
        for number, step in enumerate(self.steps):
            if step.name:
                text += f"::{step.name}" if self.btf.kind_of(step.type) in ENUMS else f".{step.name}"
            elif number or step.index:
                text += f"[{step.index}]"
        return text

    @property
    def member(self) -> Member | None:
        """The member that the access ends at; None when it ends at an array element."""
        last = self.steps[-1]
        return self.btf.types[last.type].member(last.index) if last.name else None


def parse_field(btf: Btf, root: int, text: str) -> Access:
    """Read the access string of a field. Raises MalformedInput when it does not fit the types."""
    indices = _indices(text)
    at = btf.resolve(root)
    steps = [Step(at, indices[0])]
    offset_bits = indices[0] * btf.size_of(at) * 8
    for index in indices[1:]:
        type = btf.types[btf.resolve(at)]
        if type.kind in COMPOSITES:
            if index >= type.read("count"):
                raise _bad_access(text, f"{type.title} has no member {index}")
            member = type.member(index)
            offset_bits += member.offset_bits
            if member.name:
                steps.append(Step(type.id, index, member.name))
            at = member.type.id
        elif type.kind == Kind.ARRAY:
            element = _element(btf, type, index, steps[-1])
            if element is None:
                raise _bad_access(text, f"element {index} is outside of {type}")
            at = element
            steps.append(Step(at, index))
            offset_bits += index * btf.size_of(at) * 8
        else:
            raise _bad_access(text, f"{type.title} has no parts")
    return Access(btf, root, tuple(steps), offset_bits)


def parse_enumerator(btf: Btf, root: int, text: str) -> Access:
    """Read the access string of an enumerator: its number. Raises MalformedInput when there is none."""
    indices = _indices(text)
    type = btf.types[btf.resolve(root)]
    if type.kind not in ENUMS or len(indices) > 1 or indices[0] >= type.read("count"):
        raise _bad_access(text, f"{type.title} has no such value")
    name = btf.string(int(btf.enumerators.name[btf.rows_under(type.id).start + indices[0]]))
    return Access(btf, root, (Step(type.id, indices[0], name),))


def parse_type(btf: Btf, root: int, text: str) -> Access:
    """Read the access string of a relocation that concerns a whole type: it must be "0"."""
    if text != "0":
        raise _bad_access(text, 'a whole type is accessed by "0"')
    return Access(btf, root, ())


def _indices(text: str) -> list[int]:
    if not _ACCESS.fullmatch(text):
        raise _bad_access(text, "it is not a list of numbers")
    indices = [int(number) for number in text.split(":")]
    if len(indices) > MOST_STEPS:
        raise _bad_access(text[:40], f"it has more than {MOST_STEPS} steps")
    return indices


def _bad_access(text: str, why: str) -> MalformedInput:
    return MalformedInput(f"the access string {text!r} does not fit its type: {why}")


def _element(btf: Btf, array: BtfType, index: int, owner: Step) -> int | None:
    """The type of an array's element, None when the index is outside.

    A flexible array, the last member of a struct with no elements, has all indices.
    """
    is_last = bool(owner.name) and owner.index == btf.types[owner.type].read("count") - 1
    if index >= array.length and not (array.length == 0 and is_last):
        return None
    return btf.resolve(int(btf.arrays.element[array.read("first")]))


class Matcher:
    """Finds accesses of local types in target types; keeps what it has found out on the way."""

    def __init__(self, local: Btf, target: Btf) -> None:
        self.local = local
        self.target = target
        self._by_essential_name: dict[str, list[int]] | None = None
        self._members: dict[int, dict[str, tuple[int, int, int]]] = {}
        self._compatible: dict[tuple[int, int], bool] = {}
        self._matches: dict[tuple[int, int, bool], bool] = {}
        self._budget = BUDGET

    def candidates(self, local: int) -> list[int]:
        """Find the target types of the same essential name and kind."""
        if self._by_essential_name is None:
            self._by_essential_name = {}
            for name, rows in self.target.by_name.items():
                self._by_essential_name.setdefault(essential_name(name), []).extend(rows)
        kind = self.local.kind_of(local)
        name = essential_name(self.local.name_of(local))
        return [row for row in self._by_essential_name.get(name, []) if _same_sort(kind, self.target.kind_of(row))]

    def match_field(self, access: Access, candidate: int) -> Access | None:
        """Follow an access of a field through a target type; None where the target has no such way."""
        at = candidate
        steps: list[Step] = []
        offset_bits = 0
        for number, step in enumerate(access.steps):
            at = self.target.resolve(at)
            if step.name:
                found = self._find_member(at, step.name)
                if found is None:
                    return None
                owner, index, within = found
                local_type = self.local.types[step.type].member(step.index).type.id
                at = self.target.types[owner].member(index).type.id
                if not self._fields_compatible(local_type, at):
                    return None
                steps.append(Step(owner, index, step.name))
                offset_bits += within
                continue
            if number:
                array = self.target.types[at]
                element = _element(self.target, array, step.index, steps[-1]) if array.kind == Kind.ARRAY else None
                if element is None:
                    return None
                at = element
            steps.append(Step(at, step.index))
            offset_bits += step.index * self.target.size_of(at) * 8
        return Access(self.target, candidate, tuple(steps), offset_bits)

    def match_enumerator(self, access: Access, candidate: int) -> Access | None:
        """Find the enumerator of the same essential name."""
        type = self.target.types[self.target.resolve(candidate)]
        if type.kind not in ENUMS:
            return None
        wanted = essential_name(access.steps[0].name)
        for index, name in enumerate(self._entry_names(self.target, type)):
            if essential_name(name) == wanted:
                return Access(self.target, candidate, (Step(type.id, index, name),))
        return None

    def _find_member(self, composite: int, name: str) -> tuple[int, int, int] | None:
        """Find a member by name: the struct that holds it, its number there, its offset in bits."""
        if self.target.kind_of(composite) not in COMPOSITES:
            return None
        if composite not in self._members:
            known = self._members[composite] = {}
            for found_name, place in self._unfold(composite, 0):
                known.setdefault(found_name, place)
        return self._members[composite].get(name)

    def _unfold(self, composite: int, offset_bits: int) -> Iterator[tuple[str, tuple[int, int, int]]]:
        for index, member in enumerate(self.target.types[composite].members):
            self._spend()
            at = offset_bits + member.offset_bits
            if member.name:
                yield member.name, (composite, index, at)
            elif member.type.resolved.kind in COMPOSITES:
                yield from self._unfold(member.type.resolved.id, at)

    def _fields_compatible(self, local: int, target: int) -> bool:
        """Whether a field of one type may be read where one of the other was meant."""
        for _ in range(DEEPEST):
            one, other = self.local.types[local].resolved, self.target.types[target].resolved
            if one.kind in COMPOSITES and other.kind in COMPOSITES:
                return True
            if not _same_sort(one.kind, other.kind):
                return False
            if one.kind == Kind.ARRAY:
                local, target = self._elements(one, other)
                continue
            if one.kind == Kind.INT:
                return _is_plain(one) and _is_plain(other)
            if one.kind in (*ENUMS, Kind.FWD):
                names = essential_name(one.name), essential_name(other.name)
                return not all(names) or names[0] == names[1]
            return one.kind in (Kind.PTR, Kind.FLOAT)
        raise _too_deep(one)

    def types_compatible(self, local: int, target: int, depth: int = DEEPEST) -> bool:
        """Whether two types are of one kind all the way down; names of structs inside do not count."""
        one, other = self.local.types[local].resolved, self.target.types[target].resolved
        if depth == 0:
            raise _too_deep(one)
        key = one.id, other.id
        if key not in self._compatible:
            self._spend()
            self._compatible[key] = self._types_compatible(one, other, depth)
        return self._compatible[key]

    def _types_compatible(self, one: BtfType, other: BtfType, depth: int) -> bool:
        if not _same_sort(one.kind, other.kind):
            return False
        if one.kind == Kind.INT:
            return _is_plain(one) and _is_plain(other)
        if one.kind == Kind.ARRAY:
            return self.types_compatible(*self._elements(one, other), depth - 1)
        if one.kind == Kind.PTR:
            return self.types_compatible(one.read("size_or_type"), other.read("size_or_type"), depth - 1)
        if one.kind == Kind.FUNC_PROTO:
            pairs = self._signatures(one, other)
            return pairs is not None and all(self.types_compatible(*pair, depth - 1) for pair in pairs)
        return one.kind in (Kind.VOID, *COMPOSITES, *ENUMS, Kind.FWD)

    def types_match(self, local: int, target: int, behind_pointer: bool = False, depth: int = DEEPEST) -> bool:
        """Whether the target has everything that the local type has, by name and with matching types.

        Behind a pointer the name and kind of a struct are enough.
        """
        one, other = self.local.types[local].resolved, self.target.types[target].resolved
        if depth == 0:
            raise _too_deep(one)
        key = one.id, other.id, behind_pointer
        if key not in self._matches:
            self._spend()
            same_name = essential_name(one.name) == essential_name(other.name)
            self._matches[key] = same_name and self._types_match(one, other, behind_pointer, depth)
        return self._matches[key]

    def _types_match(self, one: BtfType, other: BtfType, behind_pointer: bool, depth: int) -> bool:
        if one.kind in ENUMS:
            return other.kind in ENUMS and one.size == other.size and self._enumerators_match(one, other)
        if Kind.FWD in (one.kind, other.kind):
            kinds = {one.kind, other.kind}
            return (behind_pointer or kinds == {Kind.FWD}) and _is_union(one) == _is_union(other)
        if one.kind != other.kind:
            return False
        if one.kind in COMPOSITES:
            return behind_pointer or self._members_match(one, other, depth)
        if one.kind == Kind.INT:
            return one.read("extra") & 0xFF == other.read("extra") & 0xFF and one.is_signed == other.is_signed
        if one.kind == Kind.PTR:
            return self.types_match(one.read("size_or_type"), other.read("size_or_type"), True, depth - 1)
        if one.kind == Kind.ARRAY:
            same = one.length == other.length
            return same and self.types_match(*self._elements(one, other), behind_pointer, depth - 1)
        if one.kind == Kind.FUNC_PROTO:
            pairs = self._signatures(one, other)
            return pairs is not None and all(self.types_match(*pair, behind_pointer, depth - 1) for pair in pairs)
        return one.kind == Kind.VOID

    def _members_match(self, one: BtfType, other: BtfType, depth: int) -> bool:
        by_name: dict[str, list[int]] = {}
        for member in other.members:
            by_name.setdefault(essential_name(member.name), []).append(member.type.id)
        return one.read("count") <= other.read("count") and all(
            any(
                self.types_match(member.type.id, target, False, depth - 1)
                for target in by_name.get(essential_name(member.name), [])
            )
            for member in one.members
        )

    def _enumerators_match(self, one: BtfType, other: BtfType) -> bool:
        wanted = {essential_name(name) for name in self._entry_names(self.local, one)}
        offered = {essential_name(name) for name in self._entry_names(self.target, other)}
        return one.read("count") <= other.read("count") and wanted <= offered

    def _entry_names(self, btf: Btf, enum: BtfType) -> list[str]:
        self._spend(enum.read("count"))
        return [btf.string(name) for name in btf.enumerators.name[btf.rows_under(enum.id)].tolist()]

    def _elements(self, one: BtfType, other: BtfType) -> tuple[int, int]:
        local, target = self.local.arrays.element, self.target.arrays.element
        return int(local[one.read("first")]), int(target[other.read("first")])

    def _signatures(self, one: BtfType, other: BtfType) -> list[tuple[int, int]] | None:
        """Pair what two function prototypes take and return; None when they take different numbers."""
        if one.read("count") != other.read("count"):
            return None
        self._spend(one.read("count"))
        taken = zip(one.parameters, other.parameters, strict=True)
        pairs = [(mine.id, its.id) for (_, mine), (_, its) in taken]
        return [*pairs, (one.read("size_or_type"), other.read("size_or_type"))]

    def _spend(self, amount: int = 1) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise UnsupportedInput("the types unfold into more members than a CO-RE search will look at")


def _same_sort(one: Kind, other: Kind) -> bool:
    return one == other or (one in ENUMS and other in ENUMS)


def _is_plain(integer: BtfType) -> bool:
    """Whether an INT is a whole integer, not one of the deprecated ones that are bitfields themselves."""
    return not integer.read("extra") >> 16 & 0xFF


def _is_union(type: BtfType) -> bool:
    return type.kind == Kind.UNION or (type.kind == Kind.FWD and type.flag)


def _too_deep(type: BtfType) -> UnsupportedInput:
    return UnsupportedInput(f"the types around {type.title} nest deeper than {DEEPEST} levels")
