"""BTF types as C declarations, for people.

C writes a type around the name it declares: `int (*callbacks[4])(void *)` is an array of pointers to
functions. So the text grows from the name outward: walking from the type inward, a pointer goes in
front, an array or parameter list behind, and parentheses come between when a pointer is followed by
one of these. The walk is a loop; only anonymous structs and the parameters of functions nest.

Types come from files that may be hostile, hence the bounds: how deep a declaration nests, how many links
a declarator has, and how long the text may get, after which it ends in dots.
"""

from __future__ import annotations

from jitlink.bpf.btf_types import COMPOSITES, ENUMS, BtfType, Kind

DEEPEST = 12
DEEPEST_PARAMETERS = 4
MOST_LINKS = 256
"""Pointers, arrays and qualifiers in one declarator; what is further in appears by its number."""
LONGEST = 50_000
"""Characters in one text, after which the rest is left out."""
MOST_STEPS = 10_000
"""Types looked at for one text; the largest struct of a kernel needs a tenth of it."""

_QUALIFIERS = {Kind.CONST: "const", Kind.VOLATILE: "volatile", Kind.RESTRICT: "restrict"}
_INDENT = "    "


def declaration(type: BtfType) -> str:
    """Write the C declaration of a type: a struct with its members, a typedef, a function, a variable."""
    text = _Writer().top(type)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def declare(type: BtfType, name: str = "") -> str:
    """Write the declaration of a name of this type, `struct iphdr *ip`; without a name, just the type."""
    return _Writer().declare(type, name, 0)


class _Writer:
    """Writes one text and counts what it has looked at and written."""

    def __init__(self) -> None:
        self.written = 0
        self.steps = 0

    @property
    def is_full(self) -> bool:
        """Whether the rest is to be left out."""
        return self.written > LONGEST or self.steps > MOST_STEPS

    def top(self, type: BtfType) -> str:
        kind = type.kind
        target = type.target
        if kind in (*COMPOSITES, *ENUMS):
            return self.body(type, 0)
        if kind == Kind.FWD:
            return type.title
        if kind == Kind.DATASEC:
            lines = [f"{_INDENT}{self.declare(variable, '', 1)}; /* {at} */" for variable, at, _ in type.variables]
            return "\n".join([f"section {type.name} {{", *lines, "}"])
        if kind == Kind.DECL_TAG and target is not None:
            return f'__attribute__((btf_decl_tag("{type.name}"))) {target.title}'
        if kind == Kind.TYPEDEF and target is not None:
            return f"typedef {self.declare(target, type.name, 0)}"
        return self.declare(type, "", 0)

    def declare(self, type: BtfType, name: str, depth: int) -> str:
        """Build the declarator from the name outward, then put the base type in front."""
        left: list[str] = []
        right: list[str] = []
        qualifiers: list[str] = []
        behind_pointer = False
        for _ in range(MOST_LINKS):
            kind, target = type.kind, type.target
            self.steps += 1
            if target is None or kind == Kind.TYPEDEF:
                break
            if kind == Kind.PTR:
                # A qualifier of a pointer stands behind the star, that of a base type in front of it.
                left += [*qualifiers, "*"]
                qualifiers.clear()
                behind_pointer = True
            elif kind in _QUALIFIERS:
                qualifiers.append(f" {_QUALIFIERS[kind]} ")
            elif kind in (Kind.ARRAY, Kind.FUNC_PROTO):
                if behind_pointer:
                    left.append("(")
                    right.append(")")
                    behind_pointer = False
                right.append(f"[{type.length}]" if kind == Kind.ARRAY else self.parameters(type, depth))
            elif kind in (Kind.VAR, Kind.FUNC):
                name = name or type.name
            elif kind == Kind.TYPE_TAG:
                qualifiers.append(f' __attribute__((btf_type_tag("{type.name}"))) ')
            type = target
        base = " ".join([*(each.strip() for each in qualifiers), self.base(type, depth)])
        declarator = " ".join(("".join(reversed(left)) + name).split()).replace("* ", "*") + "".join(right)
        return f"{base} {declarator}".rstrip() if declarator else base

    def base(self, type: BtfType, depth: int) -> str:
        if type.kind in (*COMPOSITES, *ENUMS) and not type.name:
            return self.body(type, depth)
        return type.title

    def parameters(self, prototype: BtfType, depth: int) -> str:
        if depth >= DEEPEST_PARAMETERS or self.is_full:
            return "(...)"
        texts = [
            self.declare(type, name, depth + 1) if type.kind != Kind.VOID else "..."
            for name, type in prototype.parameters
        ]
        return f"({', '.join(texts) or 'void'})"

    def body(self, type: BtfType, depth: int) -> str:
        """Write a struct, union or enum with what is in it."""
        keyword = "enum" if type.kind in ENUMS else type.kind.name.lower()
        head = f"{keyword} {type.name}".rstrip()
        if depth >= DEEPEST or self.is_full:
            return f"{head} {{ ... }}"
        inside, outside = _INDENT * (depth + 1), _INDENT * depth
        if type.kind in ENUMS:
            lines = [f"{inside}{name} = {value}," for name, value in type.enumerators.items()]
        else:
            lines = []
            for member in type.members:
                width = f" : {member.size_bits}" if member.is_bitfield else ""
                lines.append(f"{inside}{self.declare(member.type, member.name, depth + 1)}{width};")
        self.written += sum(map(len, lines))
        return "\n".join([f"{head} {{", *lines, f"{outside}}}"])
