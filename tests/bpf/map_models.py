"""What tests of maps share: short definitions, values read as programs read them, what holds of a map, threads."""

from __future__ import annotations

import struct
import threading
from ctypes import string_at
from typing import Any

import pytest

from jitlink.bpf.maps import MapDefinition
from jitlink.bpf.maps import create as create_map
from jitlink.bpf.maps.hashes import COUNT, FREE, NEWEST, OLDEST, SEQUENCE, USED
from jitlink.errors import LinkError

U32 = struct.Struct("<I")


def create(*arguments, **more) -> Any:
    """Make a map; typed as Any, since each type of map has operations of its own."""
    return create_map(*arguments, **more)


def define(type, key=4, value=8, entries=8, flags=0, **more):
    return MapDefinition("m", type, key, value, entries, flags, **more)


def read_value(map, key, cpu=0):
    """Read a value as a program does: through the address that a lookup gives."""
    address = map.lookup_elem(key, cpu)
    return string_at(address, map.value_size) if address else None


def errno_of(action):
    with pytest.raises(OSError, match="map ") as caught:
        action()
    assert isinstance(caught.value, LinkError)
    return caught.value.errno


def check_invariants(map: Any) -> None:
    """What holds of a hash map that nobody is changing."""
    state, following = map._state, map._next
    chained = []
    for head in map._heads:
        entry = head
        while entry:
            chained.append(entry)
            assert len(chained) <= map.max_entries, "a chain does not end"
            assert map._heads[map.bucket_of(map.key_bytes(entry))] == head
            entry = following[entry]
    free = []
    entry = state[FREE]
    while entry:
        free.append(entry)
        assert len(free) <= map.max_entries, "the list of free entries does not end"
        entry = following[entry]
    used = set(range(1, state[USED] + 1))
    assert len(set(chained)) == len(chained) == state[COUNT] == len(map)
    assert set(chained) | set(free) == used
    assert not set(chained) & set(free)
    assert {entry for entry in used if map.is_live(entry)} == set(chained)
    assert state[SEQUENCE] % 2 == 0
    assert len({map.key_bytes(entry) for entry in chained}) == len(chained)
    if map.is_lru:
        ordered, entry = [], state[NEWEST]
        while entry:
            ordered.append(entry)
            assert len(ordered) <= map.max_entries, "the order of use does not end"
            entry = map._older[entry]
        assert sorted(ordered) == sorted(chained)
        assert (ordered[-1] if ordered else 0) == state[OLDEST]


def in_threads(work: Any, threads: int = 4, meanwhile: Any = None) -> None:
    """Run work(0), work(1), ... at once, and meanwhile() again and again as long as they run, and once behind them.

    Raises what one of them raises.
    """
    errors: list[BaseException] = []
    done = threading.Event()

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    def beside() -> None:
        try:
            while not done.is_set():
                meanwhile()
            meanwhile()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(number,)) for number in range(threads)]
    other = threading.Thread(target=beside)
    for each in [*running, *([other] if meanwhile else [])]:
        each.start()
    for each in running:
        each.join()
    done.set()
    if meanwhile:
        other.join()
    if errors:
        raise errors[0]
