"""Maps: their definitions, their Python face, arrays and references, by the rules of the kernel."""

import struct
from ctypes import string_at
from errno import E2BIG, EEXIST, EINVAL, ENOENT, EPERM

import numpy as np
import pytest

from jitlink.bpf.btf_builder import Builder
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.instructions import decode
from jitlink.bpf.machine import Code
from jitlink.bpf.maps import (
    BPF_EXIST,
    BPF_NOEXIST,
    MapDefinition,
    MapError,
    MapFlag,
    Maps,
    MapType,
    MissingKey,
)
from jitlink.bpf.maps.registry import CLASSES, REFUSED
from jitlink.bpf.regions import Regions
from jitlink.errors import MalformedInput, UnsupportedInput
from tests.bpf.map_models import U32, create, define, errno_of, read_value


@pytest.fixture
def regions():
    regions = Regions()
    yield regions
    regions.close()


# Definitions.

# fmt: off
SOUND = {
    MapType.HASH: {}, MapType.ARRAY: {}, MapType.PERCPU_HASH: {}, MapType.PERCPU_ARRAY: {},
    MapType.LRU_HASH: {}, MapType.LRU_PERCPU_HASH: {},
    MapType.PROG_ARRAY: {"value": 4}, MapType.PERF_EVENT_ARRAY: {"value": 4},
    MapType.LPM_TRIE: {"key": 8, "flags": MapFlag.NO_PREALLOC},
    MapType.ARRAY_OF_MAPS: {"value": 4, "inner": define(MapType.HASH)},
    MapType.HASH_OF_MAPS: {"value": 4, "inner": define(MapType.HASH)},
    MapType.DEVMAP: {"value": 4}, MapType.CPUMAP: {"value": 8}, MapType.XSKMAP: {"value": 4},
    MapType.DEVMAP_HASH: {"value": 8},
    MapType.QUEUE: {"key": 0}, MapType.STACK: {"key": 0}, MapType.BLOOM_FILTER: {"key": 0},
    MapType.RINGBUF: {"key": 0, "value": 0, "entries": 4096},
}
UNSOUND = [
    (MapType.ARRAY, {"key": 8}), (MapType.ARRAY, {"value": 0}), (MapType.ARRAY, {"entries": 0}),
    (MapType.ARRAY, {"flags": MapFlag.NO_PREALLOC}), (MapType.ARRAY, {"value": 1 << 20, "entries": 1 << 20}),
    (MapType.HASH, {"key": 0}), (MapType.HASH, {"value": 0}), (MapType.HASH, {"entries": 0}),
    (MapType.HASH, {"flags": MapFlag.NO_COMMON_LRU}), (MapType.HASH, {"flags": 1 << 20}),
    (MapType.HASH, {"flags": MapFlag.RDONLY_PROG | MapFlag.WRONLY_PROG}),
    (MapType.HASH, {"entries": 0xFFFFFFFF}), (MapType.HASH, {"key": 0xFFFFFFFF}),
    (MapType.LRU_HASH, {"flags": MapFlag.NO_PREALLOC}),
    (MapType.LPM_TRIE, {"key": 8}), (MapType.LPM_TRIE, {"key": 4, "flags": 1}),
    (MapType.LPM_TRIE, {"key": 300, "flags": 1}),
    (MapType.QUEUE, {"key": 4}), (MapType.STACK, {"key": 0, "value": 0}), (MapType.QUEUE, {"key": 0, "entries": 0}),
    (MapType.BLOOM_FILTER, {"key": 0, "extra": 16}),
    *((MapType.RINGBUF, {"key": 0, "value": 0, "entries": entries}) for entries in (4095, 2048, 12288)),
    (MapType.RINGBUF, {"key": 0, "value": 8, "entries": 4096}),
    (MapType.PROG_ARRAY, {"value": 8}), (MapType.PERF_EVENT_ARRAY, {"value": 8}), (MapType.DEVMAP, {"value": 16}),
    (MapType.ARRAY_OF_MAPS, {"value": 4}), (MapType.ARRAY_OF_MAPS, {"value": 8, "inner": define(MapType.HASH)}),
    (MapType.HASH_OF_MAPS, {"value": 4, "inner": define(MapType.ARRAY_OF_MAPS)}),
]
# fmt: on


def test_every_type_of_the_kernel_is_made_or_refused():
    """Each number of enum bpf_map_type has a class or a reason."""
    assert {*CLASSES, *REFUSED} == set(MapType)
    assert not {*CLASSES} & {*REFUSED}


@pytest.mark.parametrize(("type", "sizes"), SOUND.items(), ids=lambda each: getattr(each, "name", ""))
def test_a_sound_definition_makes_an_empty_map(regions, type, sizes):
    """A definition that the kernel takes gives a map whose header says what it is."""
    map = create(define(type, **sizes), regions, cpus=2)
    definition = map.definition
    header = struct.unpack("=5I", string_at(map.address, 20))
    assert header == (type, definition.key_size, definition.value_size, definition.max_entries, definition.flags)
    if type not in (MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.BLOOM_FILTER):
        assert len(map) == 0


@pytest.mark.parametrize(("type", "sizes"), UNSOUND)
def test_an_unsound_definition_is_refused(regions, type, sizes):
    """Sizes, counts and flags that the kernel answers with EINVAL, or more memory than we give, are MalformedInput."""
    with pytest.raises(MalformedInput, match=type.name):
        create(define(type, **sizes), regions)


@pytest.mark.parametrize("type", [*REFUSED, 99], ids=lambda type: getattr(type, "name", type))
def test_types_that_need_a_kernel_are_refused_by_name(regions, type):
    """Storage of cgroups, sockets, tasks and inodes, struct_ops and unknown types are UnsupportedInput."""
    with pytest.raises(UnsupportedInput, match=getattr(type, "name", "99")):
        create(define(type), regions)


def test_a_definition_must_have_the_sizes_of_its_types(regions):
    """A key_size that is not that of the key's BTF type is refused."""
    builder = Builder()
    builder.integer("int", 4)
    definition = MapDefinition("m", MapType.HASH, 8, 8, 8, key=builder.build()["int"])
    with pytest.raises(MalformedInput, match="has 4"):
        create(definition, regions)


# The Python face.


def test_a_missing_key_is_a_key_error_with_an_errno(regions):
    """A mapping raises KeyError; the kernel says ENOENT; the exception is both."""
    map = create(define(MapType.HASH), regions)
    with pytest.raises(KeyError) as caught:
        map[1]
    assert isinstance(caught.value, MissingKey)
    assert caught.value.errno == ENOENT
    assert "map m" in str(caught.value)
    assert map.get(1) is None
    assert map.pop(1, "none") == "none"


def test_keys_and_values_that_do_not_fit_are_refused(regions):
    """Bytes of another length, numbers out of range and other objects raise ValueError or TypeError."""
    map = create(define(MapType.HASH), regions)
    for key in (b"123", 1 << 32):
        with pytest.raises(ValueError, match=r"4 (bytes|are)|are expected"):
            map[key] = 1
    with pytest.raises(TypeError):
        map["one"] = 1
    assert "one" not in map
    map[-1] = -1
    assert dict(map) == {b"\xff" * 4: b"\xff" * 8}


def test_frozen_and_read_only_maps_refuse_python(regions):
    """EPERM: after freeze for writing, by flag for writing or reading."""
    frozen = create(define(MapType.ARRAY), regions)
    frozen.freeze()
    assert errno_of(lambda: frozen.set(0, 1)) == EPERM
    assert errno_of(lambda: create(define(MapType.ARRAY, flags=MapFlag.RDONLY), regions).set(0, 1)) == EPERM
    assert errno_of(lambda: create(define(MapType.ARRAY, flags=MapFlag.WRONLY), regions)[0]) == EPERM


def test_values_of_a_map_that_is_read_only_for_programs_cannot_be_written(regions):
    """BPF_F_RDONLY_PROG: a program's store into a value faults, Python may write."""
    map = create(define(MapType.ARRAY, flags=MapFlag.RDONLY_PROG), regions)
    map[0] = 5
    with pytest.raises(BpfFault):
        regions.find(map.lookup_elem(U32.pack(0)), 8, write=True)


def test_map_errors_are_os_errors(regions):
    """A MapError has errno and text, and is a LinkError."""
    map = create(define(MapType.ARRAY), regions)
    with pytest.raises(MapError, match="past its end") as caught:
        map[8] = 1
    assert caught.value.errno == E2BIG


# Arrays.


def test_an_array_has_every_index_from_the_start(regions):
    """All values are zero at first; nothing can be deleted, nothing added."""
    map = create(define(MapType.ARRAY, value=4, entries=3), regions)
    assert dict(map) == {0: bytes(4), 1: bytes(4), 2: bytes(4)}
    assert len(map) == 3
    assert map.update_elem(U32.pack(3), bytes(4)) == -E2BIG
    assert map.update_elem(U32.pack(0), bytes(4), BPF_NOEXIST) == -EEXIST
    assert map.update_elem(U32.pack(0), bytes(4), 3) == -EINVAL
    assert map.update_elem(U32.pack(0), b"1234", BPF_EXIST) == 0
    assert map.delete_elem(U32.pack(0)) == -EINVAL
    assert map.lookup_elem(U32.pack(3)) == 0
    assert 3 not in map


@pytest.mark.parametrize("value", [1, 2, 4, 8])
def test_the_view_of_an_array_shares_its_memory(regions, value):
    """What NumPy writes, programs read, and the other way round; no copy is made."""
    map = create(define(MapType.ARRAY, value=value, entries=5), regions)
    map.view[2] = 77
    assert read_value(map, U32.pack(2)) == (77).to_bytes(value, "little")
    map[4] = 9
    assert np.asarray(map).tolist() == [0, 0, 77, 0, 9]
    assert np.shares_memory(np.asarray(map), map.view)


def test_values_of_an_array_are_aligned_to_8_bytes(regions):
    """A value of 5 bytes takes 8, as in the kernel, so that its neighbours are aligned."""
    map = create(define(MapType.ARRAY, value=5), regions)
    assert map.lookup_elem(U32.pack(1)) - map.lookup_elem(U32.pack(0)) == 8
    assert map.lookup_elem(U32.pack(0)) % 8 == 0


def test_per_cpu_values_are_apart(regions):
    """A program sees the value of its CPU; Python sees a list of all, and sets all."""
    map = create(define(MapType.PERCPU_ARRAY, value=4, entries=2), regions, cpus=3)
    map.update_elem(U32.pack(1), U32.pack(7), cpu=2)
    assert map[1] == [bytes(4), bytes(4), U32.pack(7)]
    map[0] = [1, 2, 3]
    assert [read_value(map, U32.pack(0), cpu) for cpu in range(3)] == [U32.pack(n) for n in (1, 2, 3)]
    assert map.view.tolist() == [[1, 0], [2, 0], [3, 7]]
    with pytest.raises(ValueError, match="3 CPUs"):
        map[0] = [1]


def test_typed_arrays_take_and_give_values(regions):
    """With BTF types, values are records, and NumPy sees a structured array."""
    builder = Builder()
    integer = builder.integer("unsigned int", 4)
    builder.struct("stats", 12, [("packets", integer, 0), ("bytes", integer, 32), ("drops", integer, 64)])
    stats = builder.build()["stats"]
    map = create(MapDefinition("m", MapType.ARRAY, 4, 12, 4, value=stats), regions)
    map[1] = {"packets": 1, "drops": 3}
    assert map[1] == {"packets": 1, "bytes": 0, "drops": 3}
    map.view["bytes"][:] = [5, 6, 7, 8]
    assert map[1].bytes == 6


# References.


def test_maps_of_maps_hold_maps_that_are_alike(regions):
    """An inner map must have type, sizes and flags of the definition; programs get its address."""
    maps = Maps(regions)
    inner = define(MapType.HASH)
    outer = maps.create(MapDefinition("outer", MapType.ARRAY_OF_MAPS, 4, 4, 4, inner=inner))
    first = maps.inner("outer", "first")
    outer[2] = first
    assert outer[2] is first
    assert outer.lookup_elem(U32.pack(2)) == first.address
    assert maps.by_address[first.address] is first
    assert outer.lookup_elem(U32.pack(1)) == 0
    assert errno_of(lambda: outer.set(0, create(define(MapType.HASH, value=4), regions))) == EINVAL
    assert errno_of(lambda: outer.set(4, first)) == E2BIG
    with pytest.raises(TypeError):
        outer[0] = 5
    del outer[2]
    with pytest.raises(MissingKey):
        outer[2]


def test_inner_arrays_must_have_the_same_length_unless_the_flag_says_not(regions):
    """BPF_F_INNER_MAP lets arrays of other lengths in."""
    for flags, code in ((0, EINVAL), (MapFlag.INNER_MAP, 0)):
        inner = define(MapType.ARRAY, flags=flags)
        outer = create(define(MapType.HASH_OF_MAPS, value=4, inner=inner), regions)
        longer = create(define(MapType.ARRAY, entries=9, flags=flags), regions)
        if code:
            assert errno_of(lambda outer=outer, longer=longer: outer.set(1, longer)) == code
        else:
            outer.set(1, longer)
            assert len(outer) == 1


def test_prog_arrays_hold_programs(regions):
    """Only something that a machine can run goes in."""
    map = create(define(MapType.PROG_ARRAY, value=4), regions)
    code = Code(decode(bytes.fromhex("b7000000000000009500000000000000")))
    map[3] = code
    assert map.at(3) is code
    assert map.at(2) is None
    assert map.at(1 << 40) is None
    with pytest.raises(TypeError):
        map[0] = 12


@pytest.mark.parametrize("type", [MapType.DEVMAP, MapType.DEVMAP_HASH, MapType.CPUMAP, MapType.XSKMAP])
def test_tables_of_destinations_have_what_was_put_in(regions, type):
    """An index without a value is missing; programs can read values but not write them."""
    map = create(define(type, value=4), regions)
    assert map.lookup_elem(U32.pack(3)) == 0
    map[3] = 12
    address = map.lookup_elem(U32.pack(3))
    assert U32.unpack(string_at(address, 4)) == (12,)
    assert list(map) == [3]
    del map[3]
    assert 3 not in map
    assert errno_of(lambda: map.__delitem__(3)) == ENOENT
