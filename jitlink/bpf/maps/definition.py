"""What a map is made from: its type, sizes and flags, as a program declares them.

Source: enum bpf_map_type and the BPF_F_ flags of include/uapi/linux/bpf.h; the rules for each type are
those that the kernel checks when the map is created (the alloc_check functions in kernel/bpf/).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from jitlink.bpf.btf_types import BtfType, ByteOrder
from jitlink.errors import MalformedInput, UnsupportedInput

LARGEST_MAP = 1 << 30
"""Bytes of keys and values that a map may take. Memory is taken from the host as it is written to."""


class MapType(IntEnum):
    """The types of maps, with their numbers in the kernel."""

    UNSPEC = 0
    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    STACK_TRACE = 7
    CGROUP_ARRAY = 8
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    SOCKMAP = 15
    CPUMAP = 16
    XSKMAP = 17
    SOCKHASH = 18
    CGROUP_STORAGE = 19
    REUSEPORT_SOCKARRAY = 20
    PERCPU_CGROUP_STORAGE = 21
    QUEUE = 22
    STACK = 23
    SK_STORAGE = 24
    DEVMAP_HASH = 25
    STRUCT_OPS = 26
    RINGBUF = 27
    INODE_STORAGE = 28
    TASK_STORAGE = 29
    BLOOM_FILTER = 30
    USER_RINGBUF = 31
    CGRP_STORAGE = 32
    ARENA = 33
    INSN_ARRAY = 34


class MapFlag(IntFlag):
    """Flags of a map, BPF_F_ in the kernel."""

    NO_PREALLOC = 1 << 0
    NO_COMMON_LRU = 1 << 1
    NUMA_NODE = 1 << 2
    RDONLY = 1 << 3
    WRONLY = 1 << 4
    STACK_BUILD_ID = 1 << 5
    ZERO_SEED = 1 << 6
    RDONLY_PROG = 1 << 7
    WRONLY_PROG = 1 << 8
    CLONE = 1 << 9
    MMAPABLE = 1 << 10
    PRESERVE_ELEMS = 1 << 11
    INNER_MAP = 1 << 12


BPF_ANY = 0
BPF_NOEXIST = 1
BPF_EXIST = 2

ACCESS_FLAGS = MapFlag.RDONLY | MapFlag.WRONLY | MapFlag.RDONLY_PROG | MapFlag.WRONLY_PROG


@dataclass(frozen=True)
class MapDefinition:
    """A map as it is declared.

    key_size and value_size count bytes; max_entries is the size in bytes for a ring buffer. key and
    value are the BTF types, if the declaration names them. inner describes the maps that a map of maps
    holds. extra is map_extra of the kernel: the number of hash functions of a bloom filter. pinning is
    recorded and has no effect.
    """

    name: str
    type: int
    key_size: int = 0
    value_size: int = 0
    max_entries: int = 0
    flags: int = 0
    key: BtfType | None = None
    value: BtfType | None = None
    inner: MapDefinition | None = None
    extra: int = 0
    pinning: int = 0
    byte_order: ByteOrder = "little"

    @property
    def kind(self) -> MapType:
        """The type by name. Raises UnsupportedInput for a number that the kernel does not know."""
        try:
            return MapType(self.type)
        except ValueError:
            raise self.unsupported(f"map type {self.type} is unknown") from None

    def has(self, flag: MapFlag) -> bool:
        """Whether a flag is set."""
        return bool(self.flags & flag)

    def require(self, holds: bool, rule: str) -> None:
        """Raise MalformedInput when a rule for this type does not hold; the kernel says EINVAL."""
        if not holds:
            raise MalformedInput(f"{self.kind.name} map: {rule}", section=".maps", symbol=self.name)

    def require_flags(self, allowed: MapFlag) -> None:
        """Raise MalformedInput when a flag is set that this type does not know. NUMA nodes are ignored."""
        unknown = self.flags & ~int(allowed | ACCESS_FLAGS | MapFlag.NUMA_NODE)
        self.require(not unknown, f"flags {unknown:#x} are not for this type")
        both = MapFlag.RDONLY_PROG | MapFlag.WRONLY_PROG
        self.require((self.flags & both) != both, "read-only and write-only for programs at once")

    def require_memory(self, size: int) -> None:
        """Raise MalformedInput for a map of more bytes than we give one."""
        self.require(size <= LARGEST_MAP, f"{size} bytes are more than the {LARGEST_MAP} that a map may have")

    def require_types(self) -> None:
        """Check that the BTF types have the sizes that are declared."""
        for what, type, size in (("key", self.key, self.key_size), ("value", self.value, self.value_size)):
            if type is not None:
                declared = f"the {what} has {size} bytes, its type {type.title} has {type.size}"
                self.require(type.size == size, declared)

    def unsupported(self, why: str) -> UnsupportedInput:
        """Make the error for a map that cannot be made here."""
        return UnsupportedInput(why, section=".maps", symbol=self.name)
