"""Programs on several threads at once, on the same maps, while Python works on them too."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from jitlink import bpf
from jitlink.bpf.maps import MapDefinition, MapType
from tests.bpf.machines import needs_native_code
from tests.bpf.map_models import check_invariants, in_threads

pytest.importorskip("llvmlite")
pytestmark = needs_native_code

THREADS, PACKETS = 4, 20_000
TIERS = ["jit", "llvm"]
KEY = "*(u32 *)(r10 - 4) = r7\nr2 = r10\nr2 += -4\nr1 = {map:#x} ll\n"
COUNT = f"""
    r7 = *(u32 *)(r1 + 0)
    {KEY}
    call 1
    if r0 != 0 goto found
    *(u64 *)(r10 - 16) = 0
    {KEY}
    r3 = r10
    r3 += -16
    r4 = 1
    call 2
    {KEY}
    call 1
    if r0 == 0 goto none
found:
    r1 = 1
    lock *(u64 *)(r0 + 0) += r1
none:
    r0 = 0
    exit
"""
"""Counts numbers in a map: looks one up, adds it where it is new, and adds 1."""
MIXED = f"""
    r7 = *(u32 *)(r1 + 0)
    r8 = *(u32 *)(r1 + 4)
    *(u64 *)(r10 - 16) = r7
    {KEY}
    if r8 == 0 goto delete
    if r8 == 1 goto look
    r3 = r10
    r3 += -16
    r4 = 0
    call 2
    exit
delete:
    call 3
    exit
look:
    call 1
    r0 = 0
    exit
"""
"""Sets, deletes or looks up, as the packet says."""
INSERT = f"""
    r7 = *(u32 *)(r1 + 0)
    *(u64 *)(r10 - 16) = r7
    {KEY}
    r3 = r10
    r3 += -16
    r4 = 1
    call 2
    exit
"""
REPORT = """
    r2 = r1
    r1 = {map:#x} ll
    r3 = 8
    r4 = 0
    call 130
    exit
"""


def loaded(text: str, tier: str, definition: MapDefinition) -> tuple[bpf.Program, Any]:
    """A program with a map whose address is in its text; so the map is made first, by another object."""
    first = bpf.load(bpf.assemble("r0 = 0\nexit"), tier=tier, cache=False).object
    map: Any = first.maps.create(definition)
    program = bpf.load(bpf.assemble(text.format(map=map.address)), tier=tier, cache=False)
    program.maps.add(map)
    machine: Any = first.machine
    for region in machine.lasting_regions():
        program.object.regions.share(region)
    return program, map


def packets_of(*columns: Any) -> Any:
    """Packets of 8 bytes, made of two numbers each."""
    return np.stack(columns, 1).astype("<u4").view(np.uint8)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("type", [MapType.HASH, MapType.LRU_HASH])
def test_no_count_is_lost(tier, type):
    """Four threads count numbers in one map: the counts are those of all packets, and each number is there once."""
    program, map = loaded(COUNT, tier, MapDefinition("counts", type, 4, 8, 500))
    numbers = [np.random.default_rng(each).integers(0, 400, PACKETS) for each in range(THREADS)]

    def work(each: int) -> None:
        results = program.run_many(packets_of(numbers[each], numbers[each]))
        assert not results.faults

    in_threads(work, THREADS)
    expected = Counter(np.concatenate(numbers).tolist())
    assert {int.from_bytes(key, "little"): int.from_bytes(map[key], "little") for key in map} == expected
    check_invariants(map)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("type", [MapType.HASH, MapType.LRU_HASH])
def test_a_map_holds_together_when_programs_and_python_change_it(tier, type):
    """Programs on four threads set, delete and look up while Python does the same: the map stays whole."""
    program, map = loaded(MIXED, tier, MapDefinition("mixed", type, 4, 8, 64))
    of_python = np.random.default_rng(THREADS)

    def work(each: int) -> None:
        random = np.random.default_rng(each)
        program.run_many(packets_of(random.integers(0, 100, PACKETS), random.integers(0, 4, PACKETS)))

    def meanwhile() -> None:
        key = int(of_python.integers(0, 100)).to_bytes(4, "little")
        map.update_elem(key, key + bytes(4))
        map.delete_elem(int(of_python.integers(0, 100)).to_bytes(4, "little"))
        for each in map.raw_keys():
            assert map.values_of(each) in (None, [each + bytes(4)])

    in_threads(work, THREADS, meanwhile)
    check_invariants(map)
    assert all(map[key] == key + bytes(4) for key in map)


@pytest.mark.parametrize("tier", TIERS)
def test_one_program_of_several_inserts_a_key(tier):
    """BPF_NOEXIST succeeds once for each key, on whichever thread."""
    keys = 3000
    program, map = loaded(INSERT, tier, MapDefinition("once", MapType.HASH, 4, 8, keys))
    succeeded = np.zeros(keys, np.int64)

    def work(each: int) -> None:
        order = np.random.default_rng(each).permutation(keys)
        results = program.run_many(packets_of(order, order))
        won = order[results.r0 == 0]
        np.add.at(succeeded, won, 1)

    in_threads(work, THREADS)
    assert (succeeded == 1).all()
    assert len(map) == keys
    check_invariants(map)


@pytest.mark.parametrize("tier", TIERS)
def test_records_of_programs_on_several_threads_all_arrive(tier):
    """What four threads put into a ring Python takes out while they do: once each, in the order of its thread."""
    program, ring = loaded(REPORT, tier, MapDefinition("ring", MapType.RINGBUF, 0, 0, 1 << 20))
    taken: list[bytes] = []
    accepted = [0] * THREADS

    def work(each: int) -> None:
        results = program.run_many(packets_of(np.full(PACKETS, each), np.arange(PACKETS)))
        accepted[each] = int((results.r0 == 0).sum())

    in_threads(work, THREADS, lambda: taken.extend(ring))
    for each in range(THREADS):
        numbers = [int.from_bytes(record[4:], "little") for record in taken if record[0] == each]
        assert len(numbers) == accepted[each]
        assert numbers == sorted(set(numbers))
