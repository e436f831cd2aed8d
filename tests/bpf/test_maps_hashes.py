"""Maps that find keys: hashes against dictionaries, LRU against an order, tries against ipaddress."""

import struct
from collections import OrderedDict
from ctypes import string_at
from errno import E2BIG, EEXIST, EINVAL, ENOENT, ENOSPC
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.bpf.maps import (
    BPF_ANY,
    BPF_EXIST,
    BPF_NOEXIST,
    MapFlag,
    MapType,
)
from jitlink.bpf.regions import Regions
from tests.bpf.map_models import U32, create, define, errno_of, read_value


@pytest.fixture
def regions():
    regions = Regions()
    yield regions
    regions.close()


# Hashes.


@pytest.mark.parametrize("key_size", [1, 3, 4, 8, 12, 17])
@given(data=st.data())
def test_a_hash_does_what_a_dictionary_does(key_size, data):
    """Updates with every flag, deletions and lookups agree with a dict that knows its size."""
    regions = Regions()
    map = create(define(MapType.HASH, key=key_size, value=4, entries=5), regions)
    model: dict[bytes, bytes] = {}
    keys = st.integers(0, 7).map(lambda number: number.to_bytes(key_size, "big"))
    for _ in range(data.draw(st.integers(0, 40))):
        key = data.draw(keys)
        if data.draw(st.booleans()):
            flags, value = (
                data.draw(st.sampled_from([BPF_ANY, BPF_NOEXIST, BPF_EXIST, 4])),
                data.draw(st.binary(min_size=4, max_size=4)),
            )
            if flags == 4:
                expected = -EINVAL
            elif key in model:
                expected = -EEXIST if flags == BPF_NOEXIST else 0
            else:
                expected = -ENOENT if flags == BPF_EXIST else -E2BIG if len(model) == 5 else 0
            assert map.update_elem(key, value, flags) == expected
            if expected == 0:
                model[key] = value
        else:
            assert map.delete_elem(key) == (0 if model.pop(key, None) is not None else -ENOENT)
        assert len(map) == len(model)
        assert dict(map) == model
        assert all(
            read_value(map, number.to_bytes(key_size, "big")) == model.get(number.to_bytes(key_size, "big"))
            for number in range(8)
        )
    regions.close()


@pytest.mark.parametrize("type", [MapType.LRU_HASH, MapType.LRU_PERCPU_HASH])
@given(data=st.data())
def test_a_full_lru_map_forgets_what_was_used_least_recently(type, data):
    """Updates and lookups of programs count as use, lookups of Python do not: as in an OrderedDict."""
    regions = Regions()
    map = create(define(type, key=1, value=1, entries=4), regions, cpus=2)
    model: OrderedDict[bytes, bytes] = OrderedDict()
    for _ in range(data.draw(st.integers(0, 60))):
        key = bytes([data.draw(st.integers(0, 9))])
        action = data.draw(st.sampled_from(["update", "lookup", "delete", "python"]))
        if action == "update":
            if key not in model and len(model) == 4:
                model.popitem(last=False)
            model[key] = key
            model.move_to_end(key)
            assert map.update_elem(key, key) == 0
        elif action == "lookup":
            assert bool(map.lookup_elem(key)) == (key in model)
            if key in model:
                model.move_to_end(key)
        elif action == "delete":
            assert (map.delete_elem(key) == 0) == (model.pop(key, None) is not None)
        else:
            assert (key in map) == (key in model)
            map.get(key)
        assert set(map) == set(model)
    regions.close()


def test_an_element_that_was_deleted_leaves_its_memory_readable(regions):
    """A pointer to a deleted value stays inside the program's memory."""
    map = create(define(MapType.HASH), regions)
    map[1] = 5
    address = map.lookup_elem(U32.pack(1))
    del map[1]
    assert regions.find(address, 8, write=True)
    assert map.lookup_elem(U32.pack(1)) == 0


def test_a_new_element_of_a_per_cpu_hash_is_zero_on_other_cpus(regions):
    """A program sets its own CPU's value; what was left of a deleted element does not show."""
    map = create(define(MapType.PERCPU_HASH, value=1, entries=1), regions, cpus=2)
    map[1] = [b"a", b"b"]
    del map[1]
    map.update_elem(U32.pack(2), b"c", cpu=1)
    assert map[2] == [b"\0", b"c"]


def walk_as_native_code(map, key):
    """Look a key up in the buffers alone, as the docstrings of header.py and hashes.py lay them out."""
    values, stride, _, index, keys, key_stride, heads, following = struct.unpack("=8Q", string_at(map.address + 24, 64))
    multiplier, shift, _, _, _, _, _, capacity = struct.unpack("=8Q", string_at(index, 64))
    hashed = 0
    padded = key + bytes(-len(key) % 8)
    for at in range(0, len(padded), 8):
        hashed = ((hashed ^ hashed >> 32) ^ int.from_bytes(padded[at : at + 8], "little")) * multiplier % 2**64
    entry = U32.unpack(string_at(heads + 4 * (hashed >> shift), 4))[0]
    while entry:
        assert entry <= capacity
        if string_at(keys + entry * key_stride, len(key)) == key:
            return string_at(values + entry * stride, map.value_size)
        entry = U32.unpack(string_at(following + 4 * entry, 4))[0]
    return None


@pytest.mark.parametrize("type", [MapType.HASH, MapType.LRU_HASH])
@pytest.mark.parametrize("key_size", [4, 8, 20])
def test_native_code_finds_elements_by_the_documented_layout(regions, type, key_size):
    """A lookup written from the documentation finds what Python put in, and nothing else."""
    map = create(define(type, key=key_size, value=8, entries=100), regions)
    for number in range(100):
        map[number] = number * 3
    del map[50]
    for number in range(120):
        expected = None if number == 50 or number >= 100 else (number * 3).to_bytes(8, "little")
        assert walk_as_native_code(map, number.to_bytes(key_size, "little")) == expected


def test_a_fixed_seed_hashes_alike(regions):
    """With BPF_F_ZERO_SEED two maps put keys into the same buckets."""
    one, other = (create(define(MapType.HASH, flags=MapFlag.ZERO_SEED, entries=64), regions) for _ in range(2))
    assert [one.bucket_of(U32.pack(n)) for n in range(50)] == [other.bucket_of(U32.pack(n)) for n in range(50)]


# Longest prefixes.


def prefix_key(network):
    return U32.pack(network.prefixlen) + network.network_address.packed


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=20),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=10),
)
def test_the_longest_prefix_wins(prefixes, addresses):
    """A lookup finds the network that ipaddress says is the most specific one with the address."""
    regions = Regions()
    map = create(define(MapType.LPM_TRIE, key=8, value=4, entries=64, flags=MapFlag.NO_PREALLOC), regions)
    networks = list(dict.fromkeys(ip_network((number, length), strict=False) for number, length in prefixes))
    for number, network in enumerate(networks):
        map[network] = number
    assert len(map) == len(networks)
    for number in [*addresses, *(int(network.network_address) for network in networks)]:
        address = ip_address(number)
        matching = [network for network in networks if address in network]
        expected = max(matching, key=lambda network: network.prefixlen, default=None)
        found = read_value(map, U32.pack(32) + address.packed)
        assert found == (None if expected is None else U32.pack(networks.index(expected)))
    for network in networks:
        del map[network]
    assert len(map) == 0
    regions.close()


def test_a_lookup_with_a_shorter_prefix_does_not_find_a_longer_one(regions):
    """Only elements whose prefix is no longer than that of the key match."""
    map = create(define(MapType.LPM_TRIE, key=8, value=4, flags=MapFlag.NO_PREALLOC), regions)
    map["10.0.0.0/16"] = 16
    assert "10.0.0.0/8" not in map
    map["0.0.0.0/4"] = 4
    assert map["10.0.0.0/8"] == U32.pack(4)


def test_tries_refuse_what_the_kernel_refuses(regions):
    """A prefix that is too long is EINVAL, one too many ENOSPC, a missing one ENOENT."""
    map = create(define(MapType.LPM_TRIE, key=8, value=4, entries=1, flags=MapFlag.NO_PREALLOC), regions)
    assert map.update_elem(U32.pack(33) + bytes(4), bytes(4)) == -EINVAL
    map["10.0.0.0/8"] = 1
    assert errno_of(lambda: map.set("10.0.0.0/8", 2, BPF_NOEXIST)) == EEXIST
    assert errno_of(lambda: map.set("11.0.0.0/8", 2)) == ENOSPC
    assert map.delete_elem(U32.pack(9) + bytes([10, 0, 0, 0])) == -ENOENT
    with pytest.raises(ValueError, match="16 bytes"):
        map["::/0"] = 1
