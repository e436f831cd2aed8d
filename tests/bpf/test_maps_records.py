"""Maps without keys: queues, filters, rings and events, against models in plain Python."""

from collections import deque
from errno import E2BIG, EAGAIN, EINVAL, ENOENT, ENOSPC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.bpf.faults import BpfFault
from jitlink.bpf.maps import (
    BPF_ANY,
    BPF_EXIST,
    MapType,
    MissingKey,
)
from jitlink.bpf.regions import Regions
from tests.bpf.map_models import U32, create, define, errno_of


@pytest.fixture
def regions():
    regions = Regions()
    yield regions
    regions.close()


# Maps without keys.


@pytest.mark.parametrize("type", [MapType.QUEUE, MapType.STACK])
@given(actions=st.lists(st.sampled_from(["push", "force", "pop", "peek"]), max_size=40))
def test_queues_and_stacks_do_what_a_deque_does(type, actions):
    """Values come out oldest or newest first; a full map refuses, or with BPF_EXIST drops the oldest."""
    regions = Regions()
    map = create(define(type, key=0, value=4, entries=3), regions)
    model: deque[bytes] = deque(maxlen=3)
    for number, action in enumerate(actions):
        value = U32.pack(number)
        if action == "force" or (action == "push" and len(model) < 3):
            assert map.push_elem(value, BPF_EXIST if action == "force" else BPF_ANY) == 0
            model.append(value)
        elif action == "push":
            assert map.push_elem(value) == -E2BIG
        elif not model:
            assert map.pop_elem() == map.peek_elem() == -ENOENT
        else:
            expected = model[0] if type == MapType.QUEUE else model[-1]
            assert map.peek_elem() == expected
            if action == "pop":
                assert map.pop_elem() == expected
                model.remove(expected)
        assert list(map) == (list(model) if type == MapType.QUEUE else list(reversed(model)))
    regions.close()


def test_queues_from_python(regions):
    """push, pop and peek raise the kernel's errors."""
    map = create(define(MapType.QUEUE, key=0, value=4, entries=1), regions)
    map.push(7)
    assert errno_of(lambda: map.push(8)) == E2BIG
    assert map.peek() == map.pop() == U32.pack(7)
    with pytest.raises(MissingKey):
        map.pop()
    assert errno_of(lambda: map.push(8, 4)) == EINVAL


@given(st.sets(st.integers(0, 2**32 - 1), max_size=50))
def test_a_bloom_filter_never_denies_what_was_pushed(values):
    """Everything that was pushed may be there; of a thousand other values at most a few are taken for it."""
    regions = Regions()
    map = create(define(MapType.BLOOM_FILTER, key=0, value=4, entries=50), regions)
    for value in values:
        map.push(value)
    assert all(value in map for value in values)
    others = [value for value in range(1000, 2000) if value not in values]
    assert sum(value in map for value in others) < 150
    regions.close()


# Ways out.


@given(
    st.lists(
        st.tuples(st.sampled_from(["reserve", "submit", "discard", "output", "read"]), st.integers(0, 1500)),
        max_size=60,
    )
)
def test_a_ring_buffer_delivers_what_was_submitted_in_order(actions):
    """Records come in order of reservation, wait for open ones before them, and never overlap; a full ring says no."""
    regions = Regions()
    ring = create(define(MapType.RINGBUF, 0, 0, 4096), regions)
    model: deque[list[Any]] = deque()
    used = lambda: sum(-(-(8 + record[1]) // 8) * 8 for record in model)  # noqa: E731
    delivered, expected = [], []
    for step, (action, size) in enumerate(actions):
        fits = used() + -(-(8 + size) // 8) * 8 <= 4096
        data = bytes([step % 256]) * size
        if action == "reserve":
            address = ring.reserve(size)
            assert bool(address) == fits
            if fits:
                region = regions.find(address, size, True) if size else None
                if region:
                    region.data[:] = data
                model.append([address, size, "open", data])
        elif action == "output":
            assert ring.output(data) == (0 if fits else -EAGAIN)
            if fits:
                model.append([None, size, "done", data])
        elif action == "read":
            delivered += ring.read()
            while model and model[0][2] != "open":
                record = model.popleft()
                if record[2] == "done":
                    expected.append(record[3])
        else:
            still_open = [record for record in model if record[2] == "open"]
            if still_open:
                record = still_open[size % len(still_open)]
                assert ring.finish(record[0], discard=action == "discard")
                record[2] = "done" if action == "submit" else "discarded"
                if record[1]:
                    with pytest.raises(BpfFault):
                        regions.find(record[0], 1)
        assert delivered == expected
        assert ring.query(0) == used()
    regions.close()


def test_a_ring_is_filled_to_its_last_byte(regions):
    """A record of the size less its header fits an empty ring, and then nothing does."""
    ring = create(define(MapType.RINGBUF, 0, 0, 4096), regions)
    assert ring.reserve(4089) == 0
    assert ring.output(bytes(4088)) == 0
    assert ring.reserve(0) == 0
    assert ring.output(b"") == -EAGAIN
    assert ring.read() == [bytes(4088)]
    assert ring.output(bytes(4088)) == 0


def test_a_record_that_was_submitted_cannot_be_submitted_again(regions):
    """An address is a record only between reserve and submit."""
    ring = create(define(MapType.RINGBUF, 0, 0, 4096), regions)
    address = ring.reserve(16)
    assert ring.open_records == 1
    assert not ring.finish(address + 8, discard=False)
    assert ring.finish(address, discard=False)
    assert not ring.finish(address, discard=False)
    assert (ring.query(1), ring.query(2), ring.query(3)) == (4096, 0, 24)


def test_perf_events_go_to_the_cpu_that_is_asked_for(regions):
    """BPF_F_CURRENT_CPU means this one; past the end is E2BIG; unread records are kept up to a limit."""
    map = create(define(MapType.PERF_EVENT_ARRAY, value=4, entries=4), regions, cpus=2)
    assert map.output(0xFFFFFFFF, b"here", cpu=1) == 0
    assert map.output(0, b"there", cpu=1) == 0
    assert map.output(4, b"", cpu=0) == -E2BIG
    assert map.output(3, b"", cpu=0) == -ENOENT
    assert [(event.cpu, event.data) for event in map.read()] == [(1, b"here"), (0, b"there")]
    block = bytes(1 << 20)
    codes = [map.output(0, block, cpu=0) for _ in range(20)]
    assert codes[0] == 0
    assert codes[-1] == -ENOSPC
