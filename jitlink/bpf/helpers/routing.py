"""Helpers that send packets elsewhere: redirects, and the forwarding table.

Nothing is sent. A redirect is recorded on the host, and the program gets the code that makes the
kernel send the packet. The forwarding table is the list of routes that the host was given.

Source: net/core/filter.c and struct bpf_fib_lookup in include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import struct
from errno import EAFNOSUPPORT, EINVAL
from ipaddress import IPv4Address, IPv6Address

from jitlink.bpf.contexts import XdpContext
from jitlink.bpf.helpers.host import Host, Redirect, Route, packet_of
from jitlink.bpf.helpers.numbers import byte_order, u32
from jitlink.bpf.machine import Machine
from jitlink.bpf.maps import MapType, ValueMap

XDP_ABORTED = 0
XDP_REDIRECT = 4
TC_ACT_SHOT = 2
TC_ACT_REDIRECT = 7
XDP_ACTION_MASK = 3

INGRESS = 1 << 0
BROADCAST = 1 << 3
EXCLUDE_INGRESS = 1 << 4

TABLES = (MapType.DEVMAP, MapType.DEVMAP_HASH, MapType.CPUMAP, MapType.XSKMAP)
DEVICE_TABLES = (MapType.DEVMAP, MapType.DEVMAP_HASH)


def redirect(host: Host, machine: Machine, ifindex: int, flags: int, *_: int) -> int:
    """Send the packet to a device; returns the action that does it."""
    if isinstance(machine.context, XdpContext):
        if flags:
            return XDP_ABORTED
        host.redirects.append(Redirect(u32(ifindex)))
        return XDP_REDIRECT
    if flags & ~INGRESS:
        return TC_ACT_SHOT
    host.redirects.append(Redirect(u32(ifindex), flags))
    return TC_ACT_REDIRECT


def clone_redirect(host: Host, machine: Machine, context: int, ifindex: int, flags: int, *_: int) -> int:
    """Send a copy of the packet to a device."""
    packet = packet_of(machine, context)
    if flags & ~INGRESS:
        return -EINVAL
    host.redirects.append(Redirect(u32(ifindex), flags, packet=packet.data))
    return 0


def redirect_map(host: Host, machine: Machine, map: int, key: int, flags: int, *_: int) -> int:
    """Send the packet to where a table says; without an entry the low bits of flags are the action."""
    table = host.map_at(map)
    allowed = XDP_ACTION_MASK | (BROADCAST | EXCLUDE_INGRESS if table.type in DEVICE_TABLES else 0)
    if flags & ~allowed or table.type not in TABLES or not isinstance(table, ValueMap):
        return XDP_ABORTED
    if flags & BROADCAST:
        host.redirects.append(Redirect(0, flags, table.name))
        return XDP_REDIRECT
    entry = table.entry_of(u32(key).to_bytes(4, table.definition.byte_order))
    if entry < 0:
        return flags & XDP_ACTION_MASK
    ifindex = int.from_bytes(table.value_bytes(entry)[:4], table.definition.byte_order)
    host.redirects.append(Redirect(ifindex, flags, table.name, u32(key)))
    return XDP_REDIRECT


# struct bpf_fib_lookup: family, protocol, ports, length or MTU, ifindex, tos or metric, source,
# destination, VLAN, and the two MAC addresses.
FIB = struct.Struct("BB2s2sHII16s16s4s6s6s")
FIB_SIZE = 64
AF_INET, AF_INET6 = 2, 10
FIB_FLAGS = 0x3F
SKIP_NEIGHBOUR = 1 << 2
SUCCESS, NOT_FORWARDED, NO_NEIGHBOUR, FRAGMENTATION_NEEDED = 0, 4, 7, 8


def fib_lookup(host: Host, machine: Machine, context: int, parameters: int, size: int, flags: int, *_: int) -> int:
    """Look the destination up in the routes of the host and fill in where the packet goes next.

    Returns a BPF_FIB_LKUP_RET_ number, or a negative errno.
    """
    packet_of(machine, context)
    if u32(size) < FIB_SIZE or flags & ~FIB_FLAGS:
        return -EINVAL
    layout = struct.Struct(("<" if byte_order(machine) == "little" else ">") + FIB.format)
    fields = list(layout.unpack(machine.read(parameters, FIB_SIZE)))
    family, length, destination = fields[0], fields[4], fields[8]
    if family not in (AF_INET, AF_INET6):
        return -EAFNOSUPPORT
    address = IPv4Address(destination[:4]) if family == AF_INET else IPv6Address(destination)
    route = _longest(host.routes, address)
    if route is None:
        return NOT_FORWARDED
    if route.result:
        return route.result
    fields[5] = route.ifindex
    if length > route.mtu:
        fields[4] = route.mtu
        machine.write(parameters, layout.pack(*fields))
        return FRAGMENTATION_NEEDED
    fields[6] = route.metric
    if route.gateway is not None:
        fields[0] = AF_INET if route.gateway.version == 4 else AF_INET6
        fields[8] = route.gateway.packed.ljust(16, b"\0") if fields[0] == AF_INET else route.gateway.packed
    if route.destination_mac is None and not flags & SKIP_NEIGHBOUR:
        machine.write(parameters, layout.pack(*fields))
        return NO_NEIGHBOUR
    if not flags & SKIP_NEIGHBOUR:
        fields[9:] = [bytes(4), route.source_mac, route.destination_mac or bytes(6)]
    machine.write(parameters, layout.pack(*fields))
    return SUCCESS


def _longest(routes: list[Route], address: IPv4Address | IPv6Address) -> Route | None:
    matching = [route for route in routes if route.prefix.version == address.version and address in route.prefix]
    return max(matching, key=lambda route: route.prefix.prefixlen, default=None)
