"""Arrays: every index below max_entries has a value, which is zero at first.

The values of one CPU lie one behind the other, each at a multiple of 8 bytes (see base.py). Native
code looks index i up as `values + i * stride`, on a per-CPU array plus `cpu * cpu_stride`.

Source: kernel/bpf/arraymap.c.
"""

from __future__ import annotations

from errno import E2BIG, EEXIST, EINVAL
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.bpf.btf_values import Codec, codec
from jitlink.bpf.maps.base import IndexCodec, ValueMap
from jitlink.bpf.maps.definition import BPF_EXIST, BPF_NOEXIST, MapDefinition, MapFlag
from jitlink.bpf.regions import Regions

INDEX_SIZE = 4


class ArrayMap(ValueMap):
    """BPF_MAP_TYPE_ARRAY. `numpy.asarray(map)` is a view of the values."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        check_indexed(definition)
        definition.require(definition.value_size > 0, "values have no bytes")
        definition.require_flags(MapFlag.MMAPABLE | MapFlag.PRESERVE_ELEMS | MapFlag.INNER_MAP)
        super().__init__(definition, regions, cpus if self.is_per_cpu else 1, definition.max_entries)

    def _make_key_codec(self) -> Codec:
        return codec(self.definition.key) if self.definition.key else IndexCodec(self.definition.byte_order)

    def entry_of(self, key: bytes) -> int:
        """Find the entry of an index: itself, below max_entries."""
        index = int.from_bytes(key, self.definition.byte_order)
        return index if index < self.max_entries else -1

    def entry_for(self, key: bytes, flags: int) -> int:
        """Find the entry to write to: EINVAL for unknown flags, E2BIG past the end, EEXIST with NOEXIST."""
        if flags > BPF_EXIST:
            return -EINVAL
        entry = self.entry_of(key)
        if entry < 0:
            return -E2BIG
        return -EEXIST if flags == BPF_NOEXIST else entry

    def raw_keys(self) -> list[bytes]:
        """List every index."""
        return [index.to_bytes(INDEX_SIZE, self.definition.byte_order) for index in range(self.max_entries)]

    def __len__(self) -> int:
        return self.max_entries

    @property
    def view(self) -> npt.NDArray[Any]:
        """The values as a NumPy array that shares their memory: [entries], per-CPU [cpus, entries]."""
        return self.value_view(self.max_entries)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.view, dtype, copy=copy)


class PerCpuArrayMap(ArrayMap):
    """BPF_MAP_TYPE_PERCPU_ARRAY: from Python a value is a list with one value for each CPU."""

    @property
    def is_per_cpu(self) -> bool:
        """Every CPU has its own values."""
        return True


def check_indexed(definition: MapDefinition) -> None:
    """Check what every map that is indexed by number asks of its definition."""
    definition.require(definition.key_size == INDEX_SIZE, f"a key has {definition.key_size} bytes, it must have 4")
    definition.require(definition.max_entries > 0, "it has no entries")
    definition.require_types()
