"""Helpers that read, write and resize the packet. Source: net/core/filter.c."""

from __future__ import annotations

from errno import EFAULT, EINVAL

from jitlink.bpf.contexts import ETHERNET_HEADER, PacketContext, SkbContext, XdpContext
from jitlink.bpf.faults import BpfFault, FaultKind
from jitlink.bpf.helpers.host import Host, packet_of
from jitlink.bpf.helpers.numbers import s32, u32
from jitlink.bpf.machine import Machine

STORE_FLAGS = 3
"""BPF_F_RECOMPUTE_CSUM and BPF_F_INVALIDATE_HASH: devices' checksums and hashes are not kept here."""

LARGEST_OFFSET = 0x7FFF_FFFF
LARGEST_XDP_OFFSET = 0xFFFF
HEADER_STARTS = (0, ETHERNET_HEADER)
"""BPF_HDR_START_MAC and BPF_HDR_START_NET, in bytes from the start of the packet."""


def _xdp(machine: Machine, address: int) -> XdpContext:
    packet = packet_of(machine, address)
    if not isinstance(packet, XdpContext):
        raise _other_program(machine, "an XDP", address)
    return packet


def _skb(machine: Machine, address: int) -> SkbContext:
    packet = packet_of(machine, address)
    if not isinstance(packet, SkbContext):
        raise _other_program(machine, "a traffic control", address)
    return packet


def _other_program(machine: Machine, which: str, address: int) -> BpfFault:
    return BpfFault(FaultKind.NO_PACKET, f"the helper is for the context of {which} program", address=address)


def xdp_adjust_head(host: Host, machine: Machine, context: int, delta: int, *_: int) -> int:
    """Move the start of the packet by delta bytes."""
    return _xdp(machine, context).adjust_head(s32(delta))


def xdp_adjust_tail(host: Host, machine: Machine, context: int, delta: int, *_: int) -> int:
    """Move the end of the packet by delta bytes."""
    return _xdp(machine, context).adjust_tail(s32(delta))


def xdp_adjust_meta(host: Host, machine: Machine, context: int, delta: int, *_: int) -> int:
    """Move the start of the metadata by delta bytes."""
    return _xdp(machine, context).adjust_meta(s32(delta))


def xdp_get_buff_len(host: Host, machine: Machine, context: int, *_: int) -> int:
    """Give the length of the packet."""
    packet = _xdp(machine, context)
    return packet.end - packet.start


def xdp_load_bytes(host: Host, machine: Machine, context: int, offset: int, buffer: int, size: int, *_: int) -> int:
    """Copy bytes out of the packet."""
    packet, offset, size = _xdp(machine, context), u32(offset), u32(size)
    code = _check_xdp(packet, offset, size)
    if not code:
        machine.write(buffer, machine.read(packet.start + offset, size))
    return code


def xdp_store_bytes(host: Host, machine: Machine, context: int, offset: int, buffer: int, size: int, *_: int) -> int:
    """Copy bytes into the packet."""
    packet, offset, size = _xdp(machine, context), u32(offset), u32(size)
    code = _check_xdp(packet, offset, size)
    if not code:
        machine.write(packet.start + offset, machine.read(buffer, size))
    return code


def _check_xdp(packet: PacketContext, offset: int, size: int) -> int:
    if offset > LARGEST_XDP_OFFSET or size > LARGEST_XDP_OFFSET:
        return -EFAULT
    return -EINVAL if offset + size > packet.end - packet.start else 0


def skb_load_bytes(host: Host, machine: Machine, context: int, offset: int, buffer: int, size: int, *_: int) -> int:
    """Copy bytes out of the packet; when they are not all there, clear the buffer."""
    return _load(machine, _skb(machine, context), u32(offset), buffer, u32(size))


def skb_load_bytes_relative(
    host: Host, machine: Machine, context: int, offset: int, buffer: int, size: int, start: int
) -> int:
    """Copy bytes out of the packet, counted from the MAC or the network header."""
    packet = _skb(machine, context)
    if u32(offset) > LARGEST_XDP_OFFSET or start >= len(HEADER_STARTS):
        machine.write(buffer, bytes(min(u32(size), machine.regions.find(buffer, 1, True).size)))
        return -EFAULT
    return _load(machine, packet, u32(offset) + HEADER_STARTS[start], buffer, u32(size))


def _load(machine: Machine, packet: PacketContext, offset: int, buffer: int, size: int) -> int:
    if size:
        machine.regions.find(buffer, size, True)
    if offset > LARGEST_OFFSET or packet.start + offset + size > packet.end:
        machine.write(buffer, bytes(size))
        return -EFAULT
    machine.write(buffer, machine.read(packet.start + offset, size))
    return 0


def skb_store_bytes(host: Host, machine: Machine, context: int, offset: int, buffer: int, size: int, flags: int) -> int:
    """Copy bytes into the packet."""
    packet, offset, size = _skb(machine, context), u32(offset), u32(size)
    if flags & ~STORE_FLAGS:
        return -EINVAL
    if offset > LARGEST_OFFSET or packet.start + offset + size > packet.end:
        return -EFAULT
    machine.write(packet.start + offset, machine.read(buffer, size))
    return 0


def skb_pull_data(host: Host, machine: Machine, context: int, size: int, *_: int) -> int:
    """Make the first size bytes readable in place, as they always are here."""
    packet = _skb(machine, context)
    return -EINVAL if u32(size) > packet.end - packet.start else 0


def skb_change_tail(host: Host, machine: Machine, context: int, length: int, flags: int, *_: int) -> int:
    """Make the packet length bytes long."""
    packet = _skb(machine, context)
    return -EINVAL if flags else packet.change_tail(u32(length))
