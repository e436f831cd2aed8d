"""Ways out: the ring buffer and the perf event array, through which programs send records to Python.

A ring buffer is one run of bytes for all CPUs. A program reserves room, fills it in place, and submits
or discards the record; Python reads records in the order of their reservation, and waits at one that
is still open. A record is a header of 8 bytes and the data, together rounded up to 8 bytes. The kernel
maps its pages twice in a row, so that a record which wraps around the end is contiguous; we have twice
the memory and let such a record run on into the second half.

    header: length (uint32, bit 31 while open, bit 30 when discarded), page offset (uint32, 0 here)

While a record is open its data is a region that the program may write; after submit or discard a
pointer to it is dead, and using it is a fault, as it is an error for the kernel's verifier. What
programs wrote into headers is never believed: lengths and states are kept here.

Source: kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst and kernel/trace/bpf_trace.c.
"""

from __future__ import annotations

import mmap
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


@dataclass
class _Record:
    start: int
    size: int
    region: Region | None
    discarded: bool = False

    @property
    def span(self) -> int:
        return -(-(RECORD_HEADER + self.size) // 8) * 8


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
        self._records: deque[_Record] = deque()
        self._open: dict[int, _Record] = {}
        self.consumer_position = 0
        self.producer_position = 0

    def reserve(self, size: int) -> int:
        """Reserve a record of size bytes; returns the address of its data, or 0 when there is no room."""
        record = self._append(size)
        if record is None:
            return 0
        at = record.start + RECORD_HEADER
        # A record without bytes still has an address; a region for it would hold nothing.
        if size:
            record.region = self.regions.add(f"record of ring buffer {self.name}", self._memory[at : at + size])
        self._write_header(record, size | BUSY_BIT)
        self._open[self._base + at] = record
        return self._base + at

    def _append(self, size: int) -> _Record | None:
        record = _Record(self.producer_position & self.size - 1, size, None)
        if size > LONGEST_RECORD or self.producer_position + record.span - self.consumer_position > self.size:
            return None
        self.producer_position += record.span
        self._records.append(record)
        return record

    def _write_header(self, record: _Record, word: int) -> None:
        self._memory[record.start : record.start + RECORD_HEADER].view(np.uint32)[:] = (word, 0)

    def finish(self, address: int, *, discard: bool) -> bool:
        """Submit or discard an open record; false when address is not the data of one."""
        record = self._open.pop(address, None)
        if record is None:
            return False
        if record.region is not None:
            self.regions.remove(record.region)
            record.region = None
        record.discarded = discard
        self._write_header(record, record.size | (DISCARD_BIT if discard else 0))
        return True

    def output(self, data: bytes) -> int:
        """Copy data in as one record; EAGAIN when there is no room."""
        record = self._append(len(data))
        if record is None:
            return -EAGAIN
        at = record.start + RECORD_HEADER
        self._memory[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self._write_header(record, len(data))
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
        while self._records:
            record = self._records[0]
            at = record.start + RECORD_HEADER
            if self._base + at in self._open:
                return
            data = self._memory[at : at + record.size].tobytes()
            self._records.popleft()
            self.consumer_position += record.span
            if not record.discarded:
                yield self._decoded(data)

    def _decoded(self, data: bytes) -> Any:
        typed = self.definition.value is not None and len(data) == self.value_codec.size
        return self.value_codec.decode(data) if typed else data

    def __len__(self) -> int:
        return sum(not record.discarded for record in self._records)

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
