"""The Internet checksum, and the helpers that keep it right. Source: RFC 1071, RFC 1624, net/core/filter.c.

The checksum is the complement of the sum of 16-bit words, where a carry out of the top comes back in
at the bottom. Such sums do not depend on byte order, so we add words in the order of the machine that
the program thinks it runs on. When a field changes from m to m', the checksum HC of the whole becomes
HC' = ~(~HC + ~m + m') (RFC 1624, equation 3).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT, EINVAL
from functools import partial

import numpy as np

from jitlink.bpf.contexts import SkbContext
from jitlink.bpf.helpers.host import Host, packet_of
from jitlink.bpf.helpers.numbers import byte_order, u32
from jitlink.bpf.instructions import ByteOrder
from jitlink.bpf.machine import Machine

LONGEST_DIFFERENCE = 512
SIZE_MASK = 0xF
PSEUDO_HEADER = 1 << 4
MARK_MANGLED_0 = 1 << 5
MARK_ENFORCE = 1 << 6
IPV6 = 1 << 7
MANGLED_0 = 0xFFFF
LARGEST_OFFSET = 0xFFFF
ENOTSUPP = 524
"""Linux has two errors of this sense; this one is of the kernel only, and Python's errno does not know it."""


def ones_sum(data: bytes, order: ByteOrder) -> int:
    """Add the 16-bit words of data; an odd last byte is filled up with zero. Not folded."""
    padded = data + b"\0" if len(data) % 2 else data
    return int(np.frombuffer(padded, "<u2" if order == "little" else ">u2").sum(dtype=np.uint64))


def fold(total: int) -> int:
    """Bring the carries of a sum back in until it has 16 bits."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def csum_diff(host: Host, machine: Machine, old: int, old_size: int, new: int, new_size: int, seed: int) -> int:
    """Give the checksum of new minus that of old, on top of seed, folded to 16 bits."""
    old_size, new_size = u32(old_size), u32(new_size)
    if (old_size | new_size) % 4 or old_size + new_size > LONGEST_DIFFERENCE:
        return -EINVAL
    order = byte_order(machine)
    total = u32(seed) + ones_sum(machine.read(new, new_size), order)
    # Minus is plus the complement; of a sum of words it is the sum of their complements.
    removed = machine.read(old, old_size)
    return fold(total + ones_sum(bytes(byte ^ 0xFF for byte in removed), order))


def csum_update(host: Host, machine: Machine, context: int, checksum: int, *_: int) -> int:
    """Add to the checksum that the device made of the packet; it has made none here."""
    packet_of(machine, context)
    return -ENOTSUPP


def l3_csum_replace(host: Host, machine: Machine, context: int, offset: int, old: int, new: int, flags: int) -> int:
    """Update the checksum of an IP header for a field that changed from old to new."""
    if flags & ~SIZE_MASK:
        return -EINVAL
    return _replace(machine, context, offset, partial(_changed, old, new, flags & SIZE_MASK))


def l4_csum_replace(host: Host, machine: Machine, context: int, offset: int, old: int, new: int, flags: int) -> int:
    """Update the checksum of a TCP or UDP header.

    The pseudo header matters only to packets whose checksum the device finishes, which are none here.
    With MARK_MANGLED_0 a checksum of 0, which says that UDP has none, is left alone, and never made.
    """
    if flags & ~(SIZE_MASK | PSEUDO_HEADER | MARK_MANGLED_0 | MARK_ENFORCE | IPV6):
        return -EINVAL
    zero_means_none, enforce = bool(flags & MARK_MANGLED_0), bool(flags & MARK_ENFORCE)

    def changed(checksum: int, order: ByteOrder) -> int | None:
        if zero_means_none and not enforce and not checksum:
            return 0
        made = _changed(old, new, flags & SIZE_MASK, checksum, order)
        return MANGLED_0 if zero_means_none and made == 0 else made

    return _replace(machine, context, offset, changed)


def _replace(machine: Machine, context: int, offset: int, changed: Callable[[int, ByteOrder], int | None]) -> int:
    packet = packet_of(machine, context)
    if not isinstance(packet, SkbContext):
        return -EINVAL
    if offset > LARGEST_OFFSET or offset % 2 or packet.start + offset + 2 > packet.end:
        return -EFAULT
    order = byte_order(machine)
    at = packet.start + offset
    made = changed(int.from_bytes(machine.read(at, 2), order), order)
    if made is None:
        return -EINVAL
    machine.write(at, made.to_bytes(2, order))
    return 0


def _changed(old: int, new: int, size: int, checksum: int, order: ByteOrder) -> int | None:
    """Give the checksum after a change of size bytes (0: new is a difference), None for other sizes."""
    if size == 0:
        return None if old else ~fold((~checksum & 0xFFFF) + u32(new)) & 0xFFFF
    if size not in (2, 4):
        return None
    mask = (1 << 8 * size) - 1
    removed, added = (~old & mask), new & mask
    return ~fold((~checksum & 0xFFFF) + removed + added) & 0xFFFF
