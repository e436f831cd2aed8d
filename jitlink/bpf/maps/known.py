"""The table of maps that machine code works on: which addresses are those of their headers.

A program passes a map by its address, and may pass anything. So machine code looks the address up before it
believes what is there. The table is a set with open addressing:

    cell      8 bytes    the address of the slots, which changes when they are too few
    slots     8 bytes    the number of slots less 1, which are a power of two
              8 each     the address of a map, or 0

A search begins at slot (address >> 12) of the slots, taken modulo their number, and goes on to the next one until it
finds the address or 0. Other threads may search while a map is added: slots are written once, and old tables are
kept, of which there are few since each has twice the size of the one before.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from jitlink.bpf.maps.arrays import ArrayMap, PerCpuArrayMap
from jitlink.bpf.maps.base import Engine, Map
from jitlink.bpf.maps.hashes import HashMap, LruHashMap, LruPerCpuHashMap, PerCpuHashMap
from jitlink.bpf.maps.rings import RingBufferMap

CLASSES = (ArrayMap, PerCpuArrayMap, HashMap, PerCpuHashMap, LruHashMap, LruPerCpuHashMap, RingBufferMap)
"""The maps that machine code works on; their subclasses may mean something else."""
FIRST_SLOTS = 16
PAGE_BITS = 12


class KnownMaps:
    """A table of maps. Attributes: address (of its cell)."""

    def __init__(self, maps: Iterable[Map], engine: Engine) -> None:
        self._engine = engine
        self._count = 0
        self._tables = [array("Q", [FIRST_SLOTS - 1, *[0] * FIRST_SLOTS])]
        self._cell = array("Q", [self._tables[-1].buffer_info()[0]])
        self.address = self._cell.buffer_info()[0]
        for map in maps:
            self.add(map)

    def add(self, map: Map) -> None:
        """Add a map, if machine code works on its sort; from here on Python leaves what has to be one step to that."""
        if type(map) not in CLASSES or not map.is_little_endian:
            return
        map.go_native(self._engine)
        slots = self._tables[-1]
        if 2 * self._count >= slots[0]:
            larger = array("Q", [2 * slots[0] + 1, *[0] * (2 * slots[0] + 2)])
            for address in filter(None, slots[1:]):
                _put(larger, address)
            self._tables.append(larger)
            self._cell[0] = larger.buffer_info()[0]
        self._count += _put(self._tables[-1], map.address)


def _put(slots: array[int], address: int) -> bool:
    """Put an address into a table. Returns whether it was not there."""
    mask = slots[0]
    slot = address >> PAGE_BITS & mask
    while slots[1 + slot]:
        if slots[1 + slot] == address:
            return False
        slot = slot + 1 & mask
    slots[1 + slot] = address
    return True
