"""Helpers that work on the elements of maps. Source: kernel/bpf/helpers.c."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EINVAL, EPERM

import numpy as np

from jitlink.bpf.helpers.host import Host
from jitlink.bpf.machine import Machine
from jitlink.bpf.maps import Map, ValueMap
from jitlink.bpf.maps.arrays import ArrayMap
from jitlink.bpf.maps.hashes import HashMap
from jitlink.bpf.maps.queues import BloomFilterMap


def map_lookup_elem(host: Host, machine: Machine, map: int, key: int, *_: int) -> int:
    """Give the address of the value of a key, or 0; of per-CPU maps on this CPU."""
    found = host.map_at(map)
    if not found.programs_may_read:
        return 0
    return found.lookup_elem(machine.read(key, found.key_size), host.cpu if found.cpus > 1 else 0)


def map_lookup_percpu_elem(host: Host, machine: Machine, map: int, key: int, cpu: int, *_: int) -> int:
    """Give the address of the value of a key on a CPU, or 0."""
    found = host.map_at(map)
    if not isinstance(found, ValueMap) or not found.is_per_cpu or cpu >= found.cpus:
        return 0
    return found.lookup_elem(machine.read(key, found.key_size), cpu)


def map_update_elem(host: Host, machine: Machine, map: int, key: int, value: int, flags: int, *_: int) -> int:
    """Set the value of a key; of per-CPU maps on this CPU."""
    found = host.map_at(map)
    if not found.programs_may_write:
        return -EPERM
    key_bytes = machine.read(key, found.key_size)
    return found.update_elem(key_bytes, machine.read(value, found.value_size), flags, host.cpu)


def map_delete_elem(host: Host, machine: Machine, map: int, key: int, *_: int) -> int:
    """Delete an element."""
    found = host.map_at(map)
    return found.delete_elem(machine.read(key, found.key_size)) if found.programs_may_write else -EPERM


def map_push_elem(host: Host, machine: Machine, map: int, value: int, flags: int, *_: int) -> int:
    """Add a value to a queue, stack or bloom filter."""
    found = host.map_at(map)
    if not found.programs_may_write:
        return -EPERM
    return found.push_elem(machine.read(value, found.value_size), flags)


def map_pop_elem(host: Host, machine: Machine, map: int, value: int, *_: int) -> int:
    """Take the next value of a queue or stack; when there is none, value is cleared."""
    found = host.map_at(map)
    return _give(machine, found, found.pop_elem() if found.programs_may_write else -EPERM, value)


def map_peek_elem(host: Host, machine: Machine, map: int, value: int, *_: int) -> int:
    """Read the next value of a queue or stack, or ask a bloom filter for the value given."""
    found = host.map_at(map)
    if isinstance(found, BloomFilterMap):
        return found.answer(machine.read(value, found.value_size))
    return _give(machine, found, found.peek_elem(), value)


def _give(machine: Machine, map: Map, taken: bytes | int, address: int) -> int:
    if isinstance(taken, int):
        machine.write(address, bytes(map.value_size))
        return taken
    machine.write(address, taken)
    return 0


def for_each_map_elem(host: Host, machine: Machine, map: int, callback: int, context: int, flags: int, *_: int) -> int:
    """Call callback(map, key, value, context) for every element until it returns other than 0; count the calls."""
    found = host.map_at(map)
    if flags or not isinstance(found, (ArrayMap, HashMap)):
        return -EINVAL
    called = 0
    for key, value in _elements(host, machine, found):
        called += 1
        if machine.call_function(callback, map, key, value, context):
            break
    return called


def _elements(host: Host, machine: Machine, map: ArrayMap | HashMap) -> Iterator[tuple[int, int]]:
    """Walk the addresses of keys and values."""
    cpu = host.cpu if map.is_per_cpu else 0
    first = map.base + cpu * map.cpu_stride
    if isinstance(map, HashMap):
        for entry in map.live_entries():
            if map.is_live(entry):
                yield map.key_address(entry), first + entry * map.stride
        return
    # The key of an array is nowhere in memory, so it gets a place for the time of the walk.
    order = "<" if map.definition.byte_order == "little" else ">"
    index = np.zeros(1, f"{order}u4")
    region = machine.regions.add(f"key of map {map.name}", index.view(np.uint8), writable=False)
    try:
        for entry in range(map.max_entries):
            index[0] = entry
            yield region.address, first + entry * map.stride
    finally:
        machine.regions.remove(region)
