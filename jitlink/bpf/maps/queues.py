"""Maps without keys: queues, stacks and bloom filters.

A queue gives the oldest value first, a stack the newest. Pushed to when full, they refuse (E2BIG), or
with BPF_EXIST drop the oldest value. Programs get copies of values, never pointers, so the values need
no memory that programs can see.

A bloom filter answers whether a value may have been pushed: it never says no to one that was, and
seldom yes to one that was not. The kernel sizes its bit set so that about one in 2**hashes of wrong
answers is yes when the map is full.

Source: kernel/bpf/queue_stack_maps.c and kernel/bpf/bloom_filter.c.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator
from errno import E2BIG, EINVAL, ENOENT
from typing import Any

from jitlink.bpf.maps.base import Map
from jitlink.bpf.maps.definition import BPF_ANY, BPF_EXIST, MapDefinition, MapFlag
from jitlink.bpf.maps.errors import map_error
from jitlink.bpf.regions import Regions

USUAL_HASHES = 5
MOST_HASHES = 15


def _check_keyless(definition: MapDefinition) -> None:
    definition.require(definition.key_size == 0, "it has no keys, but the definition gives them a size")
    definition.require(definition.value_size > 0, "values have no bytes")
    definition.require(definition.max_entries > 0, "it has no entries")
    definition.require_memory(definition.value_size * definition.max_entries)
    definition.require_types()


class KeylessMap(Map):
    """What queues and stacks share. From Python: push, pop, peek, len and iteration in order of leaving."""

    leaves_newest_first = False

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        _check_keyless(definition)
        definition.require_flags(MapFlag(0))
        super().__init__(definition, regions, cpus)
        self._values: deque[bytes] = deque()

    def push_elem(self, value: bytes, flags: int = BPF_ANY) -> int:
        """Add a value. flags: BPF_ANY, or BPF_EXIST to drop the oldest when full. E2BIG when full."""
        if flags not in (BPF_ANY, BPF_EXIST):
            return -EINVAL
        if len(self._values) == self.max_entries:
            if flags != BPF_EXIST:
                return -E2BIG
            self._values.popleft()
        self._values.append(value)
        return 0

    def pop_elem(self) -> bytes | int:
        """Take the next value; ENOENT when there is none."""
        if not self._values:
            return -ENOENT
        return self._values.pop() if self.leaves_newest_first else self._values.popleft()

    def peek_elem(self) -> bytes | int:
        """Read the next value; ENOENT when there is none."""
        if not self._values:
            return -ENOENT
        return self._values[-1 if self.leaves_newest_first else 0]

    def push(self, value: Any, flags: int = BPF_ANY) -> None:
        """Push a value from Python. Raises MapError when the map is full."""
        self._require_writable()
        self._check(self.push_elem(self.value_codec.encode(value), flags), f"push {value!r}")

    def pop(self) -> Any:  # type: ignore[override]  # there is no key to pop by
        """Pop a value from Python. Raises MissingKey when there is none."""
        self._require_writable()
        return self._decoded(self.pop_elem(), "pop")

    def peek(self) -> Any:
        """Read the next value from Python. Raises MissingKey when there is none."""
        self._require_readable()
        return self._decoded(self.peek_elem(), "peek")

    def _decoded(self, value: bytes | int, doing: str) -> Any:
        if isinstance(value, int):
            raise map_error(-value, self.name, doing, "there is no value" if value == -ENOENT else "")
        return self.value_codec.decode(value)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        order = reversed(self._values) if self.leaves_newest_first else iter(self._values)
        return map(self.value_codec.decode, list(order))

    def __contains__(self, value: object) -> bool:
        return value in list(self)


class QueueMap(KeylessMap):
    """BPF_MAP_TYPE_QUEUE: first in, first out."""


class StackMap(KeylessMap):
    """BPF_MAP_TYPE_STACK: last in, first out."""

    leaves_newest_first = True


class BloomFilterMap(Map):
    """BPF_MAP_TYPE_BLOOM_FILTER. From Python: push, and `value in map`."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        _check_keyless(definition)
        definition.require_flags(MapFlag.ZERO_SEED)
        definition.require(definition.extra <= MOST_HASHES, f"map_extra asks for more than {MOST_HASHES} hashes")
        super().__init__(definition, regions, cpus)
        self.hashes = definition.extra or USUAL_HASHES
        # hashes * entries / ln 2 bits, rounded up to a power of two, as bloom_map_alloc does.
        wanted = math.ceil(self.hashes * self.max_entries / math.log(2))
        self.bits = max(64, 1 << (wanted - 1).bit_length())
        definition.require_memory(self.bits // 8)
        self._set_bits = bytearray(self.bits // 8)

    def _positions(self, value: bytes) -> list[int]:
        digest = hashlib.blake2b(value, digest_size=4 * self.hashes).digest()
        words = (int.from_bytes(digest[at : at + 4], "little") for at in range(0, len(digest), 4))
        return [word & self.bits - 1 for word in words]

    def push_elem(self, value: bytes, flags: int = BPF_ANY) -> int:
        """Add a value. flags: BPF_ANY."""
        if flags != BPF_ANY:
            return -EINVAL
        for position in self._positions(value):
            self._set_bits[position // 8] |= 1 << position % 8
        return 0

    def may_hold(self, value: bytes) -> bool:
        """Whether a value may have been pushed; no is certain."""
        return all(self._set_bits[position // 8] >> position % 8 & 1 for position in self._positions(value))

    def answer(self, value: bytes) -> int:
        """Answer a program: 0 when the value may have been pushed, else ENOENT."""
        return 0 if self.may_hold(value) else -ENOENT

    def push(self, value: Any) -> None:
        """Add a value from Python."""
        self._require_writable()
        self._check(self.push_elem(self.value_codec.encode(value)), f"push {value!r}")

    def __contains__(self, value: object) -> bool:
        return self.may_hold(self.value_codec.encode(value))
