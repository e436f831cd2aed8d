"""Where packets can be redirected to: tables of network devices, CPUs and sockets.

There are no devices here. What a test wants to know is where a program would have sent a packet, so
these maps are tables from an index to a number (the ifindex of a device, the queue size of a CPU), and
bpf_redirect_map looks up and records. Programs can read the values but not change them.

Source: kernel/bpf/devmap.c, kernel/bpf/cpumap.c and net/xdp/xskmap.c.
"""

from __future__ import annotations

from errno import E2BIG, EEXIST, EINVAL, ENOENT

import numpy as np

from jitlink.bpf.btf_values import Codec, codec
from jitlink.bpf.maps.arrays import check_indexed
from jitlink.bpf.maps.base import IndexCodec, ValueMap
from jitlink.bpf.maps.definition import BPF_EXIST, BPF_NOEXIST, MapDefinition, MapFlag, MapType
from jitlink.bpf.maps.hashes import HashMap
from jitlink.bpf.regions import Regions

VALUE_SIZES = {
    MapType.DEVMAP: (4, 8),
    MapType.DEVMAP_HASH: (4, 8),
    MapType.CPUMAP: (4, 8),
    MapType.XSKMAP: (4,),
}
"""A number, and with 8 bytes also the program that runs at the destination."""


class IndexTableMap(ValueMap):
    """BPF_MAP_TYPE_DEVMAP, CPUMAP and XSKMAP: an index has a value once one was set."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        check_indexed(definition)
        check_destination(definition)
        super().__init__(definition, regions, 1, definition.max_entries, writable=False)
        self._present = np.zeros(definition.max_entries, bool)

    def _make_key_codec(self) -> Codec:
        return codec(self.definition.key) if self.definition.key else IndexCodec(self.definition.byte_order)

    def entry_of(self, key: bytes) -> int:
        """Find the entry of an index that has a value."""
        index = int.from_bytes(key, self.definition.byte_order)
        return index if index < self.max_entries and self._present[index] else -1

    def entry_for(self, key: bytes, flags: int) -> int:
        """Find the entry to write to: E2BIG past the end, EEXIST with NOEXIST."""
        if flags > BPF_EXIST:
            return -EINVAL
        index = int.from_bytes(key, self.definition.byte_order)
        if index >= self.max_entries:
            return -E2BIG
        if flags == BPF_NOEXIST:
            return -EEXIST
        self._present[index] = True
        return index

    def delete_elem(self, key: bytes) -> int:
        """Empty an index; EINVAL past the end."""
        index = int.from_bytes(key, self.definition.byte_order)
        if index >= self.max_entries:
            return -EINVAL
        if not self._present[index]:
            return -ENOENT
        self._present[index] = False
        return 0

    def raw_keys(self) -> list[bytes]:
        """List the indices that have a value."""
        return [index.to_bytes(4, self.definition.byte_order) for index in np.flatnonzero(self._present).tolist()]


class DeviceHashMap(HashMap):
    """BPF_MAP_TYPE_DEVMAP_HASH: device numbers by any 32-bit key."""

    def _check_definition(self, definition: MapDefinition) -> None:
        check_indexed(definition)
        check_destination(definition)

    def _make_key_codec(self) -> Codec:
        return codec(self.definition.key) if self.definition.key else IndexCodec(self.definition.byte_order)


def check_destination(definition: MapDefinition) -> None:
    """Check what tables of destinations ask of their definition."""
    sizes = VALUE_SIZES[definition.kind]
    definition.require(definition.value_size in sizes, f"values have {definition.value_size} bytes, not one of {sizes}")
    definition.require_flags(MapFlag(0))
