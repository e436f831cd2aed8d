"""Ring buffers in machine code: what jitlink.bpf.maps.rings does, on the same memory.

The address of a ring buffer is that of its header (jitlink.bpf.maps.header); its size is the number of its entries. The
functions are in the language of dialect.py.
"""

from __future__ import annotations

from jitlink.bpf.native.dialect import MASK, copy, exported, release32, u32, u64
from jitlink.bpf.native.layout import (
    BUSY_BIT,
    CONSUMER,
    EAGAIN,
    INDEX,
    LENGTHS,
    LONGEST_RECORD,
    MAX_ENTRIES,
    PRODUCER,
    RECORD_HEADER,
    RING_SEQUENCE,
    VALUES,
)
from jitlink.bpf.native.sequences import lock, unlock


@exported
def append_to_ring(map: int, size: int) -> int:
    """Take room for an open record of size bytes; returns its start in the ring, or -1 without room."""
    state = u64[map + INDEX]
    span = (RECORD_HEADER + size + 7) // 8 * 8
    if size > LONGEST_RECORD:
        return MASK
    lock(state + RING_SEQUENCE)
    position = u64[state + PRODUCER]
    start = MASK
    if position + span - u64[state + CONSUMER] <= u32[map + MAX_ENTRIES]:
        start = position & u32[map + MAX_ENTRIES] - 1
        u32[u64[map + VALUES] + start] = size | BUSY_BIT
        u32[u64[map + VALUES] + start + 4] = 0
        u32[u64[map + LENGTHS] + start // 2] = size | BUSY_BIT
        u64[state + PRODUCER] = position + span
    unlock(state + RING_SEQUENCE)
    return start


@exported
def output_to_ring(map: int, data: int, size: int) -> int:
    """Copy data in as one record. Returns 0 or a negative errno."""
    start = append_to_ring(map, size)
    if start == MASK:
        return -EAGAIN
    ring = u64[map + VALUES]
    copy(ring + start + RECORD_HEADER, data, size)
    u32[ring + start] = size
    # Whoever sees that the record is not open any more sees its data.
    release32(u64[map + LENGTHS] + start // 2, size)
    return 0
