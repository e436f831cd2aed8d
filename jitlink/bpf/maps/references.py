"""Maps of things that are no bytes: other maps, and programs to go on with.

An array or hash of maps gives a program the address of an inner map, which it passes to the map
helpers like one of its own. All inner maps are alike: the definition of the outer map describes them.
A prog array holds the programs that bpf_tail_call can jump to. Programs can only read these maps;
Python fills them, with Map and Code objects, and `del` empties an entry.

The references are Python objects, out of the reach of programs, which could otherwise forge them.

Source: kernel/bpf/map_in_map.c and the array types of kernel/bpf/arraymap.c.
"""

from __future__ import annotations

from errno import E2BIG, EEXIST, EINVAL, ENOENT
from typing import Any

from jitlink.bpf.btf_values import Codec
from jitlink.bpf.maps.arrays import check_indexed
from jitlink.bpf.maps.base import IndexCodec, Map
from jitlink.bpf.maps.definition import BPF_EXIST, BPF_NOEXIST, MapDefinition, MapFlag, MapType
from jitlink.bpf.regions import Regions

REFERENCE_SIZE = 4
"""Bytes of a value, which is a file descriptor for the kernel's user space."""


class ReferenceMap(Map):
    """A map from keys as bytes to Python objects."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        size = definition.value_size
        definition.require(size == REFERENCE_SIZE, f"values have {size} bytes, references have 4")
        super().__init__(definition, regions, cpus)
        self.held: dict[bytes, Any] = {}

    def check_held(self, held: Any) -> None:
        """Raise TypeError or MapError for an object that this map cannot hold."""
        raise NotImplementedError

    def _room_for(self, key: bytes, flags: int) -> int:
        if flags > BPF_EXIST:
            return -EINVAL
        if key in self.held:
            return -EEXIST if flags == BPF_NOEXIST else 0
        if flags == BPF_EXIST:
            return -ENOENT
        return 0 if len(self.held) < self.max_entries else -E2BIG

    def _has(self, key: bytes) -> bool:
        return key in self.held

    def _get(self, key: bytes, shown: Any) -> Any:
        if key not in self.held:
            raise self._missing(shown)
        return self.held[key]

    def _set(self, key: bytes, value: Any, flags: int, shown: Any) -> None:
        self.check_held(value)
        self._check(self._room_for(key, flags), f"set {shown!r}")
        self.held[key] = value

    def delete_elem(self, key: bytes) -> int:
        """Empty an entry; ENOENT when it is."""
        return 0 if self.held.pop(key, None) is not None else -ENOENT

    def raw_keys(self) -> list[bytes]:
        """List the keys that have an entry."""
        return list(self.held)


class _Indexed(ReferenceMap):
    """A map of references by index below max_entries."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        check_indexed(definition)
        definition.require_flags(MapFlag(0))
        super().__init__(definition, regions, cpus)

    def _make_key_codec(self) -> Codec:
        return IndexCodec(self.definition.byte_order)

    def _room_for(self, key: bytes, flags: int) -> int:
        if flags > BPF_EXIST:
            return -EINVAL
        return -E2BIG if int.from_bytes(key, self.definition.byte_order) >= self.max_entries else 0

    def at(self, index: int) -> Any:
        """Give what an index holds, None when it is empty or outside."""
        if not 0 <= index < self.max_entries:
            return None
        return self.held.get(index.to_bytes(4, self.definition.byte_order))


class ProgArrayMap(_Indexed):
    """BPF_MAP_TYPE_PROG_ARRAY: the programs of bpf_tail_call, as Code or as objects with a `code`."""

    def check_held(self, held: Any) -> None:
        """Take anything that a machine can go on with."""
        if not hasattr(getattr(held, "code", held), "instructions"):
            raise TypeError(f"{held!r} is no program")


class _MapOfMaps(ReferenceMap):
    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        inner = definition.inner
        definition.require(inner is not None, "the definition does not say what the inner maps are")
        if inner is not None:
            nested = inner.kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
            definition.require(not nested and inner.kind != MapType.PROG_ARRAY, f"it cannot hold {inner.kind.name}")
        super().__init__(definition, regions, cpus)
        self.inner = inner

    def check_held(self, held: Any) -> None:
        """Take maps that are made as the inner definition says (bpf_map_meta_equal)."""
        if not isinstance(held, Map):
            raise TypeError(f"{held!r} is no map")
        assert self.inner is not None
        one, other = held.definition, self.inner
        same = all(getattr(one, fact) == getattr(other, fact) for fact in ("type", "key_size", "value_size", "flags"))
        free_size = other.type == MapType.ARRAY and other.has(MapFlag.INNER_MAP)
        sized = other.type != MapType.ARRAY or free_size or one.max_entries == other.max_entries
        self._check(0 if same and sized else -EINVAL, f"hold {held!r}, which is not like its inner maps")

    def lookup_elem(self, key: bytes, cpu: int = 0) -> int:
        """Give the address of the inner map of a key, or 0."""
        held = self.held.get(key)
        return 0 if held is None else held.address


class ArrayOfMapsMap(_MapOfMaps, _Indexed):
    """BPF_MAP_TYPE_ARRAY_OF_MAPS."""


class HashOfMapsMap(_MapOfMaps):
    """BPF_MAP_TYPE_HASH_OF_MAPS."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        definition.require(definition.key_size > 0, "keys have no bytes")
        definition.require(definition.max_entries > 0, "it has no entries")
        definition.require_flags(MapFlag.NO_PREALLOC | MapFlag.ZERO_SEED)
        definition.require_types()
        super().__init__(definition, regions, cpus)
