"""Maps that are looked up in machine code: what Python finds, on the same memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink import bpf
from jitlink.bpf.helpers import HelperTable, Host
from jitlink.bpf.instructions import decode
from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.machine import Code
from jitlink.bpf.maps import MapDefinition, Maps, MapType
from tests.bpf.machines import llvm_machine, needs_native_code

pytest.importorskip("llvmlite")
pytestmark = needs_native_code

LOOK_UP = """
    r2 = r1
    r1 = {map:#x} ll
    call 1
    r6 = 0
    if r0 == 0 goto end
    r6 = r0
end:
    r0 = r6
    exit
"""


class World:
    """A machine with one map and a buffer for keys; its helper for lookups counts what is left to Python."""

    def __init__(self, type: MapType, key_size: int, entries: int, cpus: int = 1) -> None:
        self.machine: NativeMachine = llvm_machine()
        self.maps = Maps(self.machine.regions, cpus)
        self.map: Any = self.maps.create(MapDefinition("map", type, key_size, 12, entries))
        self.table = HelperTable(Host(self.maps))
        self.machine.helpers.update(self.table.by_number)
        self.machine.maps = self.maps.by_address
        self.keys = self.machine.regions.allocate(64, "keys")
        self.code = Code(decode(bpf.assemble(LOOK_UP.format(map=self.map.address))), "lookup")

    def clear(self) -> None:
        """Empty the map."""
        for key in self.map.raw_keys():
            self.map.delete_elem(key)

    def look_up(self, key: bytes) -> int:
        """What the program finds."""
        self.keys.data[: len(key)] = key
        return self.machine.run(self.code, self.keys.address)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 20, 63])
@pytest.mark.parametrize("type", [MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH])
def test_a_hash_map_is_looked_up_as_python_looks_it_up(type, size):
    """Keys of any size that are there are found, in the place where Python finds them, and others are not."""

    world = World(type, size, 8)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.binary(min_size=size, max_size=size), max_size=12), st.binary(min_size=size, max_size=size))
    def check(keys, other):
        world.clear()
        for key in keys:
            world.map.update_elem(key, bytes(12))
        for key in [*keys, other]:
            assert world.look_up(key) == (world.map.lookup_elem(key) if world.map._has(key) else 0)

    check()
    world.machine.regions.close()


def test_a_lookup_makes_an_element_of_an_lru_map_the_newest():
    """What was looked up stays, and the one that was not used for longest makes room: as with Python's helper."""

    world, model = World(MapType.LRU_HASH, 4, 3), World(MapType.LRU_HASH, 4, 3)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
    def check(steps):
        world.clear()
        model.clear()
        for looks, number in steps:
            key = number.to_bytes(4, "little")
            if looks:
                assert (world.look_up(key) > 0) == (model.map.lookup_elem(key) > 0)
            else:
                world.map.update_elem(key, bytes(12))
                model.map.update_elem(key, bytes(12))
            assert sorted(world.map.raw_keys()) == sorted(model.map.raw_keys())

    check()
    world.machine.regions.close()
    model.machine.regions.close()


@pytest.mark.parametrize("type", [MapType.ARRAY, MapType.PERCPU_ARRAY])
def test_an_array_is_indexed_in_place(type):
    """Indices below max_entries have an address, and no others."""
    world = World(type, 4, 5)
    for index in [0, 1, 4, 5, 6, 0xFFFF_FFFF]:
        key = index.to_bytes(4, "little")
        assert world.look_up(key) == world.map.lookup_elem(key)


@pytest.mark.parametrize("type", [MapType.ARRAY, MapType.HASH])
def test_a_key_outside_of_memory_is_pythons_fault(type):
    """The fault of a lookup whose key is nowhere is that of the interpreter."""
    world = World(type, 4, 5)
    texts = []
    for hook in (None, lambda machine: None):
        world.machine.hook = hook
        with pytest.raises(bpf.BpfFault) as raised:
            world.machine.run(world.code, world.keys.end - 3)
        texts.append((str(raised.value), raised.value.pc, world.machine.instructions))
    assert texts[0] == texts[1]


def test_a_helper_that_was_replaced_is_called():
    """Whoever replaces map_lookup_elem has their function called from the next run on."""
    world = World(MapType.ARRAY, 4, 5)
    assert world.look_up(bytes(4)) == world.map.base
    world.machine.helpers[1] = lambda machine, *registers: 77
    assert world.look_up(bytes(4)) == 77


def test_native_lookups_do_not_call_python():
    """A lookup in machine code does not pass through the machine's callback."""
    world = World(MapType.HASH, 4, 5)
    world.map.update_elem(bytes(4), bytes(12))
    called = []
    world.machine.outside = lambda: called.append(1)  # type: ignore[method-assign]
    assert world.look_up(bytes(4)) == world.map.lookup_elem(bytes(4))
    assert not called
    assert isinstance(world.machine, Interpreter)
