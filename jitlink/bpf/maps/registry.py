"""Making maps: which class stands for which type, and which types are refused, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Lock

from jitlink.bpf.maps.arrays import ArrayMap, PerCpuArrayMap
from jitlink.bpf.maps.base import Engine, Map
from jitlink.bpf.maps.definition import MapDefinition, MapType
from jitlink.bpf.maps.devices import DeviceHashMap, IndexTableMap
from jitlink.bpf.maps.hashes import HashMap, LruHashMap, LruPerCpuHashMap, PerCpuHashMap
from jitlink.bpf.maps.known import KnownMaps
from jitlink.bpf.maps.queues import BloomFilterMap, QueueMap, StackMap
from jitlink.bpf.maps.references import ArrayOfMapsMap, HashOfMapsMap, ProgArrayMap
from jitlink.bpf.maps.rings import PerfEventArrayMap, RingBufferMap
from jitlink.bpf.maps.tries import LpmTrieMap
from jitlink.bpf.regions import Regions

# fmt: off
CLASSES: dict[MapType, type[Map]] = {
    MapType.HASH:             HashMap,
    MapType.ARRAY:            ArrayMap,
    MapType.PROG_ARRAY:       ProgArrayMap,
    MapType.PERF_EVENT_ARRAY: PerfEventArrayMap,
    MapType.PERCPU_HASH:      PerCpuHashMap,
    MapType.PERCPU_ARRAY:     PerCpuArrayMap,
    MapType.LRU_HASH:         LruHashMap,
    MapType.LRU_PERCPU_HASH:  LruPerCpuHashMap,
    MapType.LPM_TRIE:         LpmTrieMap,
    MapType.ARRAY_OF_MAPS:    ArrayOfMapsMap,
    MapType.HASH_OF_MAPS:     HashOfMapsMap,
    MapType.DEVMAP:           IndexTableMap,
    MapType.CPUMAP:           IndexTableMap,
    MapType.XSKMAP:           IndexTableMap,
    MapType.QUEUE:            QueueMap,
    MapType.STACK:            StackMap,
    MapType.DEVMAP_HASH:      DeviceHashMap,
    MapType.RINGBUF:          RingBufferMap,
    MapType.BLOOM_FILTER:     BloomFilterMap,
}

REFUSED: dict[MapType, str] = {
    MapType.UNSPEC:                "it is no type",
    MapType.STACK_TRACE:           "there are no kernel stacks to keep",
    MapType.CGROUP_ARRAY:          "there are no control groups",
    MapType.SOCKMAP:               "there are no sockets",
    MapType.SOCKHASH:              "there are no sockets",
    MapType.CGROUP_STORAGE:        "there are no control groups",
    MapType.REUSEPORT_SOCKARRAY:   "there are no sockets",
    MapType.PERCPU_CGROUP_STORAGE: "there are no control groups",
    MapType.SK_STORAGE:            "there are no sockets",
    MapType.STRUCT_OPS:            "there are no kernel subsystems to implement",
    MapType.INODE_STORAGE:         "there are no inodes",
    MapType.TASK_STORAGE:          "there are no tasks",
    MapType.USER_RINGBUF:          "programs cannot receive records yet",
    MapType.CGRP_STORAGE:          "there are no control groups",
    MapType.ARENA:                 "there is no memory shared with user space by address",
    MapType.INSN_ARRAY:            "indirect jumps through tables are not supported",
}
# fmt: on


def create(definition: MapDefinition, regions: Regions, cpus: int = 1) -> Map:
    """Make an empty map in the memory of regions.

    cpus: how many CPUs per-CPU maps keep values for. Raises UnsupportedInput for types that are refused
    or unknown, MalformedInput for a definition that the kernel would refuse, MemoryRefused.
    """
    kind = definition.kind
    if kind in REFUSED:
        raise definition.unsupported(f"maps of type {kind.name} are not supported: {REFUSED[kind]}")
    return CLASSES[kind](definition, regions, cpus)


class Maps(Mapping[str, Map]):
    """The maps of a program by name; programs find them by address."""

    def __init__(self, regions: Regions, cpus: int = 1) -> None:
        self.regions = regions
        self.cpus = cpus
        self.by_address: dict[int, Map] = {}
        self._by_name: dict[str, Map] = {}
        self._known: KnownMaps | None = None
        self._guard = Lock()

    def known(self, engine: Engine) -> KnownMaps:
        """The table of the maps, with those that are still to come, that machine code works on."""
        with self._guard:
            if self._known is None:
                self._known = KnownMaps(self.by_address.values(), engine)
            return self._known

    def create(self, definition: MapDefinition) -> Map:
        """Make a map and add it under its name."""
        return self.add(create(definition, self.regions, self.cpus))

    def add(self, map: Map) -> Map:
        """Add a map, which a program may share with another one. Of one name the last one counts."""
        self._by_name[map.name] = map
        self._take(map)
        return map

    def _take(self, map: Map) -> None:
        with self._guard:
            self.by_address[map.address] = map
            if self._known is not None:
                self._known.add(map)

    def inner(self, outer: str, name: str = "") -> Map:
        """Make another inner map for a map of maps; it is known by address once it is created.

        Raises KeyError for a map that there is not, UnsupportedInput for one that holds no maps.
        """
        definition = self._by_name[outer].definition
        if definition.inner is None:
            raise definition.unsupported("it is no map of maps")
        made = create(definition.inner, self.regions, self.cpus)
        made.name = name or made.name
        self._take(made)
        return made

    def __getitem__(self, name: str) -> Map:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<maps: {', '.join(self._by_name) or 'none'}>"
