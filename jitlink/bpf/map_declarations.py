"""Map declarations: what a program says of its maps, in the sections .maps and maps.

In .maps a map is a C variable whose type is the declaration: `__uint(max_entries, 16)` is a pointer to
an array of 16, `__type(key, u32)` a pointer to the key's type, `__array(values, struct inner)` an array
of pointers to the declaration of the inner maps. Nothing of it is in the bytes; all of it is in BTF.

    struct { int (*type)[1]; u32 *key; u64 *value; int (*max_entries)[16]; } counts SEC(".maps");

Static initial values of maps of maps and of prog arrays are relocations inside of the variable, in the
place of the member values.

In the older section maps a map is a struct of five numbers: type, key size, value size, entries, flags.
Loaders of the time appended fields of their own, which must be zero.

Source: libbpf, parse_btf_map_def and bpf_helpers.h; struct bpf_map_def of libbpf before 1.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jitlink.bpf.btf_types import COMPOSITES, ENUMS, Btf, BtfType, ByteOrder, Kind
from jitlink.bpf.maps import MapDefinition, MapType
from jitlink.bpf.sections import BTF_MAPS, LEGACY_MAPS
from jitlink.errors import MalformedInput, UnsupportedInput

NUMBERS = {
    "type": "type",
    "max_entries": "max_entries",
    "map_flags": "flags",
    "key_size": "key_size",
    "value_size": "value_size",
    "map_extra": "extra",
    "pinning": "pinning",
}
"""The members that hold a number, and the field of MapDefinition that takes it."""
IGNORED = ("numa_node",)
PIN_BY_NAME = 1
EXTERN = 2
"""Linkage of a variable that another object defines (BTF_VAR_GLOBAL_EXTERN)."""

MAPS_OF_MAPS = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
REFERENCE_SIZE = 4
POINTER_SIZE = 8
LEGACY_FIELDS = 5


@dataclass(frozen=True)
class Declaration:
    """A declared map: its definition, and the byte in its variable where initial values begin, if it can have any."""

    definition: MapDefinition
    values_at: int | None = None


def btf_declarations(btf: Btf) -> Iterator[Declaration]:
    """Read the declarations of .maps from the types of an object, those of extern maps left out.

    Raises MalformedInput and UnsupportedInput, naming the map.
    """
    for section in btf.find(BTF_MAPS, Kind.DATASEC):
        for variable, _, _ in btf[section].variables:
            if variable.kind == Kind.VAR and variable.read("extra") != EXTERN:
                assert variable.target is not None
                yield _declaration(variable.name, variable.target.resolved)


def _declaration(name: str, type: BtfType, *, inner: bool = False) -> Declaration:
    if type.kind != Kind.STRUCT:
        raise _malformed(name, f"its type is {type.title}, not a struct")
    fields: dict[str, Any] = {"name": name, "type": 0, "byte_order": type.btf.byte_order}
    values_at = None
    for member in type.members:
        if member.name in NUMBERS:
            fields[NUMBERS[member.name]] = _number(name, member.name, member.type.resolved)
        elif member.name in ("key", "value"):
            fields[member.name] = _pointed_at(name, member.name, member.type.resolved)
        elif member.name == "values":
            if inner:
                raise _malformed(name, "an inner map cannot hold maps of its own")
            values_at = member.offset
            fields["inner"] = _inner(name, member.type.resolved)
            fields.setdefault("value_size", REFERENCE_SIZE)
        elif member.name not in IGNORED:
            raise UnsupportedInput(f"a map with the unknown field {member.name!r}", section=BTF_MAPS, symbol=name)
    if fields.get("pinning", 0) not in (0, PIN_BY_NAME):
        raise _malformed(name, f"its pinning is {fields['pinning']}, which is neither none nor by name")
    return Declaration(_with_sizes(MapDefinition(**fields), fields), values_at)


def _with_sizes(definition: MapDefinition, fields: dict[str, Any]) -> MapDefinition:
    """Take sizes from the types where there are no sizes, and see that they agree where there are both."""
    sizes = {}
    for what in ("key", "value"):
        type = fields.get(what)
        if type is None:
            continue
        declared = fields.get(f"{what}_size")
        if declared is not None and declared != type.size:
            raise _malformed(definition.name, f"its {what} has {declared} bytes, and {type.title} has {type.size}")
        sizes[f"{what}_size"] = type.size
    definition = replace(definition, **sizes)
    match definition.type:
        case MapType.RINGBUF:
            # The type of a record, which says how Python shows it; a ring has no values.
            return replace(definition, value_size=0)
        case MapType.PERF_EVENT_ARRAY if definition.value_size != REFERENCE_SIZE:
            return replace(definition, value=None, value_size=REFERENCE_SIZE)
        case _:
            return definition


def _number(map: str, field: str, type: BtfType) -> int:
    """A number: the length of the array that a member points at, or the only value of an enum."""
    if type.kind in ENUMS and len(type.enumerators) == 1:
        number = next(iter(type.enumerators.values()))
        if not 0 <= number < (1 << 64 if field == "map_extra" else 1 << 32):
            raise _malformed(map, f"its {field} is {number}")
        return number
    pointed_at = type.target.resolved if type.kind == Kind.PTR and type.target is not None else None
    if pointed_at is None or pointed_at.kind != Kind.ARRAY:
        raise _malformed(map, f"its {field} is no number: a pointer to an array is expected, not {type.title}")
    return pointed_at.length


def _pointed_at(map: str, field: str, type: BtfType) -> BtfType:
    if type.kind != Kind.PTR or type.target is None or not _has_size(type.target.resolved):
        raise _malformed(map, f"its {field} is no pointer to a type with a size, but {type.title}")
    return type.target


def _has_size(type: BtfType) -> bool:
    sized = (Kind.INT, Kind.PTR, Kind.ARRAY, Kind.FLOAT, *COMPOSITES, *ENUMS)
    return type.kind in sized


def _inner(map: str, type: BtfType) -> MapDefinition | None:
    """What an array of pointers, the member values, says of the maps that are held; None of programs."""
    element = type.target.resolved if type.kind == Kind.ARRAY and type.target is not None else None
    is_pointer = element is not None and element.kind == Kind.PTR
    pointed_at = element.target.resolved if is_pointer and element is not None and element.target is not None else None
    if pointed_at is not None and pointed_at.kind == Kind.FUNC_PROTO:
        return None
    if pointed_at is None or pointed_at.kind != Kind.STRUCT:
        raise _malformed(map, "its values are no array of pointers to maps or functions")
    return _declaration(f"{map}.inner", pointed_at, inner=True).definition


def legacy_declarations(
    content: bytes, symbols: dict[int, str], byte_order: ByteOrder
) -> Iterator[tuple[int, Declaration]]:
    """Read the declarations of a section maps: pairs of an offset and a declaration.

    symbols: the name of each map by its offset; the structs have one size, and there is nothing between
    them. Raises MalformedInput and UnsupportedInput, naming the map.
    """
    if not symbols:
        return
    size, rest = divmod(len(content), len(symbols))
    if rest or size < 4 * LEGACY_FIELDS or set(symbols) != set(range(0, len(content), size)):
        fault = f"{len(symbols)} maps in {len(content)} bytes do not have one size of at least {4 * LEGACY_FIELDS}"
        raise MalformedInput(fault, section=LEGACY_MAPS)
    numbers = struct.Struct(f"{'<' if byte_order == 'little' else '>'}{LEGACY_FIELDS}I")
    for offset, name in sorted(symbols.items()):
        if any(content[offset + numbers.size : offset + size]):
            raise UnsupportedInput(
                "a map with fields of another loader", section=LEGACY_MAPS, symbol=name, hint="Declare it in .maps"
            )
        type, key_size, value_size, entries, flags = numbers.unpack_from(content, offset)
        definition = MapDefinition(name, type, key_size, value_size, entries, flags)
        yield offset, Declaration(replace(definition, byte_order=byte_order))


def _malformed(map: str, fault: str) -> MalformedInput:
    return MalformedInput(fault, section=BTF_MAPS, symbol=map)
