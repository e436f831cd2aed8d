"""Ways out: the ring buffer and the perf event array, through which programs send records to Python.

A ring buffer is one run of bytes for all CPUs. A program reserves room, fills it in place, and submits
or discards the record; Python reads records in the order of their reservation, and waits at one that
is still open. A record is a header of 8 bytes and the data, together rounded up to 8 bytes. The kernel
maps its pages twice in a row, so that a record which wraps around the end is contiguous; we have twice
the memory and let such a record run on into the second half.

    header: length (uint32, bit 31 while open, bit 30 when discarded), page offset (uint32, 0 here)

While a record is open its data is a region that the program may write; after submit or discard a
pointer to it is dead, and using it is a fault, as it is an error for the kernel's verifier. What
programs wrote into headers is never believed: the lengths, each with its two bits, are kept a second time where
no program can write.

    words (uint64)    sequence, position of the consumer, position of the producer
    lengths (uint32)  of each record, one for every 8 bytes of the ring: that of a record at p is number p / 8

Positions grow for ever; their low bits are places in the ring. The sequence is a lock, as in hashes.py: who makes
it odd may take room, that is write the length of an open record and move the producer's position over it. Then it
is even again, and the data and the length without bit 31 are written. Only Python moves the consumer's position.

Source: kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst and kernel/trace/bpf_trace.c.
"""

from __future__ import annotations

import mmap
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from errno import E2BIG, EAGAIN, EINVAL, ENOENT, ENOSPC
from typing import Any

import numpy as np

from jitlink.bpf.maps.arrays import check_indexed
from jitlink.bpf.maps.base import Map
from jitlink.bpf.maps.definition import MapDefinition, MapFlag
from jitlink.bpf.regions import Region, Regions

RECORD_HEADER = 8
BUSY_BIT = 1 << 31
DISCARD_BIT = 1 << 30
LONGEST_RECORD = (1 << 32) // 4
WAKEUP_FLAGS = 3
"""BPF_RB_NO_WAKEUP and BPF_RB_FORCE_WAKEUP: nobody sleeps here, so they change nothing."""

PAGE = 4096
AVAIL_DATA, RING_SIZE, CONS_POS, PROD_POS = range(4)
CURRENT_CPU = 0xFFFF_FFFF

PERF_BUFFER = 1 << 24
"""Bytes of records that a perf event array keeps until Python reads them."""


WORDS = 3
SEQUENCE, CONSUMER, PRODUCER = range(WORDS)


def span_of(size: int) -> int:
    """Bytes that a record of size bytes takes in the ring."""
    return -(-(RECORD_HEADER + size) // 8) * 8


class RingBufferMap(Map):
    """BPF_MAP_TYPE_RINGBUF. From Python: iterate, or read(), to take what programs have submitted."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        size = definition.max_entries
        definition.require(not definition.key_size and not definition.value_size, "it has neither keys nor values")
        definition.require(size >= PAGE and not size & size - 1, f"{size} bytes are not a power of two of whole pages")
        definition.require_flags(MapFlag(0))
        definition.require_memory(2 * size)
        super().__init__(definition, regions, cpus)
        self.size = size
        # Anonymous memory costs nothing until it is written to, and most rings stay nearly empty.
        self._memory = np.frombuffer(mmap.mmap(-1, 2 * size), np.uint8)
        self._base = self._memory.ctypes.data
        self._lengths = np.frombuffer(mmap.mmap(-1, max(size // 2, PAGE)), np.uint32)
        self._state = array("Q", [0] * WORDS)
        self._open: dict[int, Region | None] = {}
        self.write_header(values=self._base, index=self._state.buffer_info()[0], heads=self._lengths.ctypes.data)

    @property
    def consumer_position(self) -> int:
        """How far records were read, in bytes."""
        return self._state[CONSUMER]

    @property
    def producer_position(self) -> int:
        """How far room was taken, in bytes."""
        return self._state[PRODUCER]

    def reserve(self, size: int) -> int:
        """Reserve a record of size bytes; returns the address of its data, or 0 when there is no room."""
        start = self._append(size)
        if start < 0:
            return 0
        at = start + RECORD_HEADER
        # A record without bytes still has an address; a region for it would hold nothing.
        region = self.regions.add(f"record of ring buffer {self.name}", self._memory[at : at + size]) if size else None
        self._open[self._base + at] = region
        return self._base + at

    def _append(self, size: int) -> int:
        """Take room for an open record; returns its start in the ring, or -1 where there is no room."""
        with self._guard:
            if self.engine is None:
                return self._take_room(size)
        self.require_open()
        return self.engine.append(self.address, size)

    def _take_room(self, size: int) -> int:
        position, span = self.producer_position, span_of(size)
        if size > LONGEST_RECORD or position + span - self.consumer_position > self.size:
            return -1
        start = position & self.size - 1
        self._set_length(start, size | BUSY_BIT)
        self._state[PRODUCER] = position + span
        return start

    def _set_length(self, start: int, word: int) -> None:
        self._memory[start : start + RECORD_HEADER].view(np.uint32)[:] = (word, 0)
        self._lengths[start >> 3] = word

    def finish(self, address: int, *, discard: bool) -> bool:
        """Submit or discard an open record; false when address is not the data of one."""
        if address not in self._open:
            return False
        region = self._open.pop(address)
        if region is not None:
            self.regions.remove(region)
        start = address - self._base - RECORD_HEADER
        size = int(self._lengths[start >> 3]) & ~BUSY_BIT
        self._set_length(start, size | (DISCARD_BIT if discard else 0))
        return True

    def output(self, data: bytes) -> int:
        """Copy data in as one record; EAGAIN when there is no room."""
        start = self._append(len(data))
        if start < 0:
            return -EAGAIN
        at = start + RECORD_HEADER
        self._memory[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self._set_length(start, len(data))
        return 0

    def query(self, what: int) -> int:
        """Answer bpf_ringbuf_query: bytes not yet read, size, position of consumer or producer; else 0."""
        answers = {
            AVAIL_DATA: self.producer_position - self.consumer_position,
            RING_SIZE: self.size,
            CONS_POS: self.consumer_position,
            PROD_POS: self.producer_position,
        }
        return answers.get(what, 0)

    @property
    def open_records(self) -> int:
        """How many records are reserved and neither submitted nor discarded."""
        return len(self._open)

    def read(self) -> list[Any]:
        """Take all submitted records up to the first open one, in order; discarded ones are skipped."""
        return list(self)

    def __iter__(self) -> Iterator[Any]:
        while (record := self._take()) is not None:
            word, data = record
            if not word & DISCARD_BIT:
                yield self._decoded(data)

    def _take(self) -> tuple[int, bytes] | None:
        """Take the next record, with its length and bits; None where there is none, or it is open."""
        with self._guard:
            position = self.consumer_position
            if position == self.producer_position:
                return None
            start = position & self.size - 1
            word = int(self._lengths[start >> 3])
            if word & BUSY_BIT:
                return None
            at, size = start + RECORD_HEADER, word & ~DISCARD_BIT
            data = self._memory[at : at + size].tobytes()
            self._state[CONSUMER] = position + span_of(size)
        return word, data

    def _decoded(self, data: bytes) -> Any:
        typed = self.definition.value is not None and len(data) == self.value_codec.size
        return self.value_codec.decode(data) if typed else data

    def __len__(self) -> int:
        count, position = 0, self.consumer_position
        while position < self.producer_position:
            word = int(self._lengths[(position & self.size - 1) >> 3])
            count += not word & DISCARD_BIT
            position += span_of(word & ~(BUSY_BIT | DISCARD_BIT))
        return count

    def __contains__(self, key: object) -> bool:
        return False


@dataclass(frozen=True)
class PerfEvent:
    """A record that a program sent through a perf event array: the CPU it was sent to, and the bytes."""

    cpu: int
    data: bytes


class PerfEventArrayMap(Map):
    """BPF_MAP_TYPE_PERF_EVENT_ARRAY, with an open event on every CPU. From Python: iterate, or read()."""

    def __init__(self, definition: MapDefinition, regions: Regions, cpus: int = 1) -> None:
        check_indexed(definition)
        definition.require(definition.value_size == 4, f"values have {definition.value_size} bytes, they must have 4")
        definition.require_flags(MapFlag.PRESERVE_ELEMS)
        super().__init__(definition, regions, cpus)
        self._events: deque[PerfEvent] = deque()
        self._held = 0

    def output(self, index: int, data: bytes, cpu: int) -> int:
        """Send a record to the event of a CPU.

        E2BIG past the end, ENOENT where no event is open, ENOSPC when nobody reads the records.
        """
        if index == CURRENT_CPU:
            index = cpu
        if index >= self.max_entries:
            return -E2BIG
        if index >= max(self.cpus, cpu + 1):
            return -ENOENT
        if self._held + len(data) > PERF_BUFFER:
            return -ENOSPC
        self._held += len(data) + RECORD_HEADER
        self._events.append(PerfEvent(index, data))
        return 0

    def update_elem(self, key: bytes, value: bytes, flags: int = 0, cpu: int | None = None) -> int:
        """Events are opened by the machine, not by programs."""
        return -EINVAL

    def read(self) -> list[PerfEvent]:
        """Take all records, in order."""
        return list(self)

    def __iter__(self) -> Iterator[PerfEvent]:
        while self._events:
            event = self._events.popleft()
            self._held -= len(event.data) + RECORD_HEADER
            yield event

    def __len__(self) -> int:
        return len(self._events)
