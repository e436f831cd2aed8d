"""Hash maps, plain, per CPU, and those that forget what was used least recently.

Keys are found through a table of chains that native code can walk as well. Its index is one buffer;
entry 0 is the null entry, so 0 ends a chain and means "none" everywhere.

    words (uint64)        multiplier, shift, count of elements, first free entry, entries ever used,
                          newest, oldest entry (of an LRU map), capacity, sequence
    heads (uint32)        first entry of each bucket; the number of buckets is a power of two
    next (uint32)         for each entry the next one in its bucket, or in the list of free ones
    older, newer (uint32) for each entry of an LRU map its neighbours in order of use
    live (uint8)          for each entry whether it holds an element

Key e lies at keys + e * key_stride, value e at values + e * stride; both strides are rounded up to 8
bytes, and keys are filled up with zero bytes. Programs can read keys but not write them.

A key is hashed as its 64-bit little-endian words, the last filled up with zero bytes:

    h = 0
    for word in words: h = ((h ^ (h >> 32)) ^ word) * multiplier mod 2**64
    bucket = h >> shift

This is multiply-shift hashing: with a random odd multiplier two keys of one word meet in a bucket
hardly more often than by chance, also when a hostile program chooses the keys. BPF_F_ZERO_SEED asks
for a fixed multiplier, so that runs are alike.

The kernel's LRU is approximate and per CPU; ours is exact, so that tests can rely on it: a program's
lookup and any update make an element the newest, Python's lookups change nothing.

The sequence is a lock and a version in one. It is odd while somebody changes chains, the order of use or the
list of free entries; whoever makes it odd is alone in doing so, and makes it even again by adding 1. A
lookup that changes nothing takes no lock: it looks again if the sequence was odd or has changed meanwhile.
What is found is a place in memory. It may belong to another key a moment later, if another thread deletes the
element: as for a preallocated map of the kernel, whose elements may be used anew at once.

Native code and the methods here do the same, entry by entry, so that either finds what the other left.

Source: kernel/bpf/hashtab.c for flags and errors.
"""

from __future__ import annotations

import secrets
import struct
from errno import E2BIG, EEXIST, EINVAL, ENOENT

import numpy as np

from jitlink.bpf.maps.base import ALIGNMENT, ValueMap
from jitlink.bpf.maps.definition import BPF_EXIST, BPF_NOEXIST, MapDefinition, MapFlag
from jitlink.bpf.regions import Regions

WORD_MASK = 0xFFFF_FFFF_FFFF_FFFF
FIXED_MULTIPLIER = 0x9E37_79B9_7F4A_7C15
"""The golden ratio times 2**64, the customary multiplier of multiplicative hashing (Knuth 6.4)."""

WORDS = 9
MULTIPLIER, SHIFT, COUNT, FREE, USED, NEWEST, OLDEST, CAPACITY, SEQUENCE = range(WORDS)
KEYS_AT_ONCE = 256
"""How many keys are copied while nobody else may change a map."""


class HashMap(ValueMap):
    """BPF_MAP_TYPE_HASH."""

    is_lru = False

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        self._check_definition(definition)
        entries = definition.max_entries + 1
        self.key_stride = -(-definition.key_size // ALIGNMENT) * ALIGNMENT
        definition.require_memory(entries * self.key_stride)
        super().__init__(definition, regions, cpus if self.is_per_cpu else 1, entries)
        self._keys = regions.allocate(entries * self.key_stride, f"keys of map {self.name}", writable=False)
        self._lay_out(entries)
        words = -(-self.key_size // 8)
        self._words = struct.Struct(f"<{words}Q").unpack
        self._padding = bytes(words * 8 - self.key_size)

    def _check_definition(self, definition: MapDefinition) -> None:
        definition.require(definition.key_size > 0, "keys have no bytes")
        definition.require(definition.value_size > 0, "values have no bytes")
        definition.require(definition.max_entries > 0, "it has no entries")
        allowed = MapFlag.NO_PREALLOC | MapFlag.ZERO_SEED
        definition.require_flags(MapFlag.NO_COMMON_LRU | MapFlag.ZERO_SEED if self.is_lru else allowed)
        definition.require_types()

    def _lay_out(self, entries: int) -> None:
        bits = max(1, (self.max_entries - 1).bit_length())
        sizes = [WORDS * 8, 4 << bits, *([4 * entries] * (3 if self.is_lru else 1)), entries]
        starts = np.cumsum([0, *sizes]).tolist()
        self.index = np.zeros(starts[-1], np.uint8)
        buffer = self.index.data
        self._state = buffer[: starts[1]].cast("Q")
        self._heads = buffer[starts[1] : starts[2]].cast("I")
        lists = [buffer[at : at + 4 * entries].cast("I") for at in starts[2:-2]]
        self._next = lists[0]
        if self.is_lru:
            self._older, self._newer = lists[1:]
        self._live = buffer[starts[-2] :]
        self._live_array = self.index[starts[-2] :]
        fixed = self.flags & MapFlag.ZERO_SEED
        self._state[MULTIPLIER] = FIXED_MULTIPLIER if fixed else secrets.randbits(64) | 1
        self._state[SHIFT] = 64 - bits
        self._state[CAPACITY] = self.max_entries
        address: int = self.index.ctypes.data
        heads, *linked, live = (address + at for at in starts[1:-1])
        self.write_header(
            values=self.base,
            stride=self.stride,
            cpu_stride=self.cpu_stride,
            index=address,
            keys=self._keys.address,
            key_stride=self.key_stride,
            heads=heads,
            live=live,
            **dict(zip(("next", "older", "newer"), linked, strict=False)),
        )

    def _trusted(self, key: bytes) -> bytes:
        """Check a key for machine code, which does not."""
        self.require_open()
        return self.require_size("key", key, self.key_size)

    def bucket_of(self, key: bytes) -> int:
        """Hash a key to its bucket."""
        hashed = 0
        multiplier = self._state[MULTIPLIER]
        for word in self._words(key + self._padding):
            hashed = ((hashed ^ hashed >> 32) ^ word) * multiplier & WORD_MASK
        return hashed >> self._state[SHIFT]

    def _find(self, key: bytes, bucket: int) -> int:
        entry = self._heads[bucket]
        keys, stride, size = self._keys.data, self.key_stride, self.key_size
        while entry:
            at = entry * stride
            if keys[at : at + size] == key:
                return entry
            entry = self._next[entry]
        return 0

    def entry_of(self, key: bytes) -> int:
        """Find the entry of a key, -1 when there is none."""
        with self._guard:
            if self.engine is None:
                return self._find(key, self.bucket_of(key)) or -1
        return self.engine.find(self.address, self._trusted(key)) or -1

    def lookup_elem(self, key: bytes, cpu: int = 0) -> int:
        """Give the address of the value of a key, or 0; in an LRU map the element becomes the newest."""
        with self._guard:
            if self.engine is None:
                entry = self._find(key, self.bucket_of(key))
                if entry:
                    self.touch(entry)
                return self.base + entry * self.stride + cpu * self.cpu_stride if entry else 0
        return self.engine.lookup(self.address, self._trusted(key), cpu)

    def update_elem(self, key: bytes, value: bytes, flags: int = 0, cpu: int | None = None) -> int:
        """Set the value of a key; of a per-CPU map that of one CPU, or of all with cpu None."""
        with self._guard:
            if self.engine is None:
                return super().update_elem(key, value, flags, cpu)
        first, count = (0, self.cpus) if cpu is None or not self.is_per_cpu else (cpu, 1)
        self._require_cpu(first)
        value = self.require_size("value", value, self.value_size)
        return self.engine.update(self.address, self._trusted(key), value, flags, first, count, 0)

    def set_each(self, key: bytes, values: list[bytes], flags: int) -> int:
        """Set the values of all CPUs, each its own. Returns 0 or a negative errno."""
        with self._guard:
            if self.engine is None:
                return super().set_each(key, values, flags)
        joined = b"".join(self.require_size("value", value, self.value_size) for value in values)
        cpus = self._require_cpus(values)
        return self.engine.update(self.address, self._trusted(key), joined, flags, 0, cpus, self.value_size)

    def values_of(self, key: bytes) -> list[bytes] | None:
        """Copy the values of a key, one for each CPU; None when there is none."""
        with self._guard:
            if self.engine is None:
                entry = self._find(key, self.bucket_of(key))
                return [bytes(self.value_bytes(entry, cpu)) for cpu in range(self.cpus)] if entry else None
        copied = np.empty((self.cpus, self.value_size), np.uint8)
        found = self.engine.copy(self.address, self._trusted(key), copied.ctypes.data, self.cpus)
        return [value.tobytes() for value in copied] if found else None

    def entry_for(self, key: bytes, flags: int) -> int:
        """Find or make the entry of a key: EEXIST, ENOENT by the flags, E2BIG when the map is full."""
        if flags > BPF_EXIST:
            return -EINVAL
        bucket = self.bucket_of(key)
        entry = self._find(key, bucket)
        if entry:
            if flags == BPF_NOEXIST:
                return -EEXIST
            self.touch(entry)
            return entry
        if flags == BPF_EXIST:
            return -ENOENT
        entry = self._take_entry()
        return self._link(entry, key, bucket) if entry else -E2BIG

    def _take_entry(self) -> int:
        """Take a free entry: one that was used before, else the next fresh one, else 0."""
        state = self._state
        entry = state[FREE]
        if entry:
            state[FREE] = self._next[entry]
            return entry
        if state[USED] == state[CAPACITY]:
            return 0
        state[USED] += 1
        return state[USED]

    def _link(self, entry: int, key: bytes, bucket: int) -> int:
        at = entry * self.key_stride
        self._keys.data[at : at + self.key_size] = key
        self._next[entry] = self._heads[bucket]
        self._heads[bucket] = entry
        self._live[entry] = 1
        self._state[COUNT] += 1
        if self.is_per_cpu:
            # A program sets the value of its own CPU; what the others find must not be of an old element.
            for cpu in range(self.cpus):
                self.write_value(entry, bytes(self.value_size), cpu)
        return entry

    def delete_elem(self, key: bytes) -> int:
        """Delete an element; ENOENT when there is none. Its memory stays readable."""
        with self._guard:
            if self.engine is None:
                return self._delete(key)
        return self.engine.delete(self.address, self._trusted(key))

    def _delete(self, key: bytes) -> int:
        entry = self._unlink(key)
        if not entry:
            return -ENOENT
        self._next[entry] = self._state[FREE]
        self._state[FREE] = entry
        return 0

    def _unlink(self, key: bytes) -> int:
        bucket = self.bucket_of(key)
        entry = self._find(key, bucket)
        if not entry:
            return 0
        before = self._heads[bucket]
        if before == entry:
            self._heads[bucket] = self._next[entry]
        else:
            while self._next[before] != entry:
                before = self._next[before]
            self._next[before] = self._next[entry]
        self._live[entry] = 0
        self._state[COUNT] -= 1
        return entry

    def touch(self, entry: int) -> None:
        """Note that an element was used; only LRU maps care."""

    def key_bytes(self, entry: int) -> bytes:
        """Give the key of an entry."""
        at = entry * self.key_stride
        return bytes(self._keys.data[at : at + self.key_size])

    def live_entries(self) -> list[int]:
        """List the entries that hold an element."""
        entries: list[int] = np.flatnonzero(self._live_array[: self._state[USED] + 1]).tolist()
        return entries

    def is_live(self, entry: int) -> bool:
        """Whether an entry holds an element."""
        return bool(self._live[entry])

    def raw_keys(self) -> list[bytes]:
        """List the keys, in no order that means anything."""
        with self._guard:
            if self.engine is None:
                return [self.key_bytes(entry) for entry in self.live_entries()]
        self.require_open()
        copied = np.empty((KEYS_AT_ONCE, self.key_size), np.uint8)
        listed: list[bytes] = []
        for first in range(1, self._state[USED] + 1, KEYS_AT_ONCE):
            count = self.engine.keys(self.address, first, first + KEYS_AT_ONCE - 1, copied.ctypes.data)
            listed += [key.tobytes() for key in copied[:count]]
        return listed

    def __len__(self) -> int:
        return self._state[COUNT]

    def key_address(self, entry: int) -> int:
        """Give the address of the key of an entry, for programs to read."""
        return self._keys.address + entry * self.key_stride


class PerCpuHashMap(HashMap):
    """BPF_MAP_TYPE_PERCPU_HASH: from Python a value is a list with one value for each CPU."""

    @property
    def is_per_cpu(self) -> bool:
        """Every CPU has its own values."""
        return True


class LruHashMap(HashMap):
    """BPF_MAP_TYPE_LRU_HASH: when it is full, the element that was not used for longest makes room."""

    is_lru = True

    def touch(self, entry: int) -> None:
        """Make an element the newest."""
        if self._state[NEWEST] != entry:
            self._forget(entry)
            self._remember(entry)

    def _take_entry(self) -> int:
        entry = super()._take_entry()
        if not entry:
            self._delete(self.key_bytes(self._state[OLDEST]))
            entry = super()._take_entry()
        return entry

    def _link(self, entry: int, key: bytes, bucket: int) -> int:
        self._remember(entry)
        return super()._link(entry, key, bucket)

    def _unlink(self, key: bytes) -> int:
        entry = super()._unlink(key)
        if entry:
            self._forget(entry)
        return entry

    def _remember(self, entry: int) -> None:
        """Put an entry at the new end of the order of use."""
        newest = self._state[NEWEST]
        self._older[entry], self._newer[entry] = newest, 0
        if newest:
            self._newer[newest] = entry
        else:
            self._state[OLDEST] = entry
        self._state[NEWEST] = entry

    def _forget(self, entry: int) -> None:
        """Take an entry out of the order of use."""
        older, newer = self._older[entry], self._newer[entry]
        if older:
            self._newer[older] = newer
        else:
            self._state[OLDEST] = newer
        if newer:
            self._older[newer] = older
        else:
            self._state[NEWEST] = older


class LruPerCpuHashMap(LruHashMap):
    """BPF_MAP_TYPE_LRU_PERCPU_HASH."""

    @property
    def is_per_cpu(self) -> bool:
        """Every CPU has its own values."""
        return True
