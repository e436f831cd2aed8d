"""Helpers that send records to Python. Source: kernel/bpf/ringbuf.c and kernel/trace/bpf_trace.c."""

from __future__ import annotations

from errno import EFAULT, EINVAL

from jitlink.bpf.contexts import PacketContext
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.helpers.host import Host
from jitlink.bpf.machine import Machine
from jitlink.bpf.maps.rings import WAKEUP_FLAGS, PerfEventArrayMap, RingBufferMap

INDEX_MASK = 0xFFFF_FFFF
CONTEXT_LENGTH_MASK = 0xFFFFF << 32


def _ring_at(host: Host, address: int) -> RingBufferMap:
    found = host.map_at(address)
    if not isinstance(found, RingBufferMap):
        raise BpfFault(FaultKind.OUT_OF_BOUNDS, f"map {found.name} is no ring buffer", address=address)
    return found


def ringbuf_reserve(host: Host, machine: Machine, ring: int, size: int, flags: int, *_: int) -> int:
    """Reserve a record; 0 when there is no room."""
    return 0 if flags else _ring_at(host, ring).reserve(size)


def ringbuf_submit(host: Host, machine: Machine, data: int, flags: int, *_: int) -> int:
    """Submit a reserved record."""
    return _finish(host, data, discard=False)


def ringbuf_discard(host: Host, machine: Machine, data: int, flags: int, *_: int) -> int:
    """Discard a reserved record."""
    return _finish(host, data, discard=True)


def _finish(host: Host, data: int, *, discard: bool) -> int:
    for map in host.maps.by_address.values():
        if isinstance(map, RingBufferMap) and map.finish(data, discard=discard):
            return 0
    raise BpfFault(FaultKind.OUT_OF_BOUNDS, f"{data:#x} is no record that is reserved in a ring buffer", address=data)


def ringbuf_output(host: Host, machine: Machine, ring: int, data: int, size: int, flags: int, *_: int) -> int:
    """Copy data into a ring buffer."""
    found = _ring_at(host, ring)
    return -EINVAL if flags & ~WAKEUP_FLAGS else found.output(machine.read(data, size))


def ringbuf_query(host: Host, machine: Machine, ring: int, flags: int, *_: int) -> int:
    """Ask for the fill, size or positions of a ring buffer."""
    return _ring_at(host, ring).query(flags)


def perf_event_output(host: Host, machine: Machine, context: int, map: int, flags: int, data: int, size: int) -> int:
    """Send a record; the upper half of flags asks for so many bytes of the packet behind it."""
    found = host.map_at(map)
    if flags & ~(INDEX_MASK | CONTEXT_LENGTH_MASK) or not isinstance(found, PerfEventArrayMap):
        return -EINVAL
    from_packet = (flags & CONTEXT_LENGTH_MASK) >> 32
    record = machine.read(data, size)
    if from_packet:
        packet = machine.context
        if not isinstance(packet, PacketContext):
            return -EINVAL
        if from_packet > packet.end - packet.start:
            return -EFAULT
        record += packet.data[:from_packet]
    return found.output(flags & INDEX_MASK, record, host.cpu)
