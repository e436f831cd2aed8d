"""LPM tries: the longest prefix that matches, as a router looks up an address.

A key is a 32-bit prefix length and then the bits of the prefix, most significant first. A lookup with
an address and its full length finds the element with the longest prefix that the address begins with.

There are at most 2049 prefix lengths, and few that are in use, so we keep one dictionary for each
length and ask them from the longest to the shortest.

Source: kernel/bpf/lpm_trie.c and Documentation/bpf/map_lpm_trie.rst.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOENT, ENOSPC
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from jitlink.bpf.maps.base import ValueMap
from jitlink.bpf.maps.definition import BPF_EXIST, BPF_NOEXIST, MapDefinition, MapFlag
from jitlink.bpf.regions import Regions

LENGTH_SIZE = 4
LONGEST_DATA = 256


class LpmTrieMap(ValueMap):
    """BPF_MAP_TYPE_LPM_TRIE. From Python, networks such as "10.0.0.0/8" are keys too."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        data_size = definition.key_size - LENGTH_SIZE
        definition.require(1 <= data_size <= LONGEST_DATA, f"a key has {definition.key_size} bytes, it needs 5 to 260")
        definition.require(definition.value_size > 0, "values have no bytes")
        definition.require(definition.max_entries > 0, "it has no entries")
        definition.require(definition.has(MapFlag.NO_PREALLOC), "it needs the flag BPF_F_NO_PREALLOC")
        definition.require_flags(MapFlag.NO_PREALLOC)
        definition.require_types()
        super().__init__(definition, regions, 1, definition.max_entries)
        self.data_bits = data_size * 8
        self._by_length: dict[int, dict[int, int]] = {}
        self._keys: dict[int, bytes] = {}
        self._free: list[int] = []

    def _split(self, key: bytes) -> tuple[int, int]:
        """Take a key apart: prefix length, and the data as a number."""
        length = int.from_bytes(key[:LENGTH_SIZE], self.definition.byte_order)
        return length, int.from_bytes(key[LENGTH_SIZE:], "big")

    def entry_of(self, key: bytes) -> int:
        """Find the entry of the longest prefix that matches, no longer than the key's own length."""
        length, data = self._split(key)
        if length > self.data_bits:
            return -1
        for prefix in sorted(self._by_length, reverse=True):
            if prefix <= length:
                entry = self._by_length[prefix].get(data >> self.data_bits - prefix)
                if entry is not None:
                    return entry
        return -1

    def entry_for(self, key: bytes, flags: int) -> int:
        """Find or make the entry of exactly this prefix; ENOSPC when the map is full."""
        length, data = self._split(key)
        if flags > BPF_EXIST or length > self.data_bits:
            return -EINVAL
        prefix = data >> self.data_bits - length
        entry = self._by_length.get(length, {}).get(prefix)
        if entry is not None:
            return -EEXIST if flags == BPF_NOEXIST else self._keep(entry, key)
        if flags == BPF_EXIST:
            return -ENOENT
        if len(self._keys) == self.max_entries:
            return -ENOSPC
        entry = self._free.pop() if self._free else len(self._keys)
        self._by_length.setdefault(length, {})[prefix] = entry
        return self._keep(entry, key)

    def _keep(self, entry: int, key: bytes) -> int:
        self._keys[entry] = key
        return entry

    def delete_elem(self, key: bytes) -> int:
        """Delete exactly this prefix; ENOENT when there is none."""
        length, data = self._split(key)
        if length > self.data_bits:
            return -EINVAL
        of_length = self._by_length.get(length, {})
        entry = of_length.pop(data >> self.data_bits - length, None)
        if entry is None:
            return -ENOENT
        if not of_length:
            del self._by_length[length]
        del self._keys[entry]
        self._free.append(entry)
        return 0

    def raw_keys(self) -> list[bytes]:
        """List the prefixes, the longest first."""
        return sorted(self._keys.values(), key=lambda key: self._split(key)[0], reverse=True)

    def _encode_key(self, key: Any) -> bytes:
        if isinstance(key, str):
            key = ip_network(key)
        if isinstance(key, (IPv4Network, IPv6Network)):
            data = key.network_address.packed
            if len(data) * 8 != self.data_bits:
                raise ValueError(f"{key} has {len(data)} bytes, keys of map {self.name} have {self.data_bits // 8}")
            return key.prefixlen.to_bytes(LENGTH_SIZE, self.definition.byte_order) + data
        return super()._encode_key(key)
