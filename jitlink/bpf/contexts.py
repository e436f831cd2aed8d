"""What a program is run on: a packet as XDP or as the traffic control sees it, or plain memory.

A program compiled for the kernel gets the address of a context in r1: struct xdp_md or struct
__sk_buff. Its 32-bit fields data and data_end look like numbers, and the kernel's verifier turns their
loads into pointers. We leave the program alone and place the packet below 4 GiB, so that the numbers
are the pointers.

A packet lies in a frame with room before and behind it:

    | head room | metadata | packet | tail room |
    frame     data_meta   data    data_end

Programs can reach metadata and packet, nothing else of the frame. When a helper moves an end of the
packet, the region of memory that the program may touch moves with it.

Plain programs get the address of their data in r1 and its length in r2.

Source: include/uapi/linux/bpf.h; sizes and defaults of a test run in net/bpf/test_run.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from errno import EACCES, EINVAL
from typing import Any

from jitlink.bpf.btf_types import ByteOrder
from jitlink.bpf.context_fields import (
    POINTERS,
    SKB_FIELDS,
    SKB_PLACES,
    SKB_SIZE,
    XDP_FIELDS,
    XDP_PLACES,
    XDP_SIZE,
    Field,
    Fields,
    Place,
    value_at,
)
from jitlink.bpf.regions import Region, Regions
from jitlink.errors import UsageError

HEAD_ROOM = 256
"""XDP_PACKET_HEADROOM."""
FRAME_HEADER = 40
"""Bytes at the start of the head room that XDP keeps to itself (struct xdp_frame)."""
FRAME = 4096
SHARED_INFO = 320
"""Bytes at the end of a frame that the kernel keeps to itself (struct skb_shared_info)."""
ETHERNET_HEADER = 14
LONGEST_METADATA = 252
LONGEST_PACKET = 1 << 24
LONGEST_SKB = 0x4000
LEAST_ROOM = 4096
"""Bytes of memory that a context has for packets or data, so that other ones fit as well."""
MOST_ROOM = 1 << 16
"""Bytes of memory up to which it is begun again with what is shorter."""

Data = bytes | bytearray | memoryview


class Context:
    """What a run starts from and leaves behind.

    Attributes: region (of the context itself); arguments (the registers that the program starts with, r1 first);
    packet_bounds (where the legacy packet loads find the packet, given the address of the context: data and
    data_end; None where there is no packet).

    Making one costs more than running a small program. So it can be begun `again`, in the same memory, with
    nothing left of what was there.
    """

    region: Region
    arguments: tuple[int, ...]
    packet_bounds: Callable[[int], tuple[int, int]] | None = None

    def again(self, data: Data, /, **values: Any) -> bool:
        """Begin anew with other data. Returns False, and does nothing, where the memory is not of a size for it.

        Arguments and errors are those of making a context; after an error it is good for nothing but `again`.
        """
        raise NotImplementedError

    @property
    def data(self) -> bytes:
        """The data as it is now."""
        raise NotImplementedError

    def close(self) -> None:
        """Take the memory away from programs."""
        raise NotImplementedError


class FlatContext(Context):
    """Plain memory: its address in r1, its length in r2. Programs may write to it."""

    def __init__(self, regions: Regions, data: Data) -> None:
        self.regions = regions
        self.region = regions.allocate(len(data), "data", room=LEAST_ROOM)
        self.region.of_run = True
        self.region.data[:] = data
        self._point()

    def again(self, data: Data, /, **values: Any) -> bool:
        region, size = self.region, len(data)
        if region.size == size:
            region.data[:] = data
            return True
        if not _fits(size, region.room):
            return False
        self.regions.resize(region, region.address, size)
        region.fill(0, data)
        self._point()
        return True

    def _point(self) -> None:
        """Say where the data is; the address of no data is 0."""
        size = self.region.size
        self.arguments = (self.region.address if size else 0, size)

    @property
    def data(self) -> bytes:
        """The memory as it is now."""
        return bytes(self.region.data)

    def close(self) -> None:
        """Take the memory away from programs."""
        self.regions.remove(self.region)


class PacketContext(Context):
    """A packet in its frame, and the struct that points at it.

    Attributes beyond Context's: address (of the struct); frame, frame_end (addresses that the packet can grow
    between); meta, start, end (those of metadata and packet); packet_region (of both of them).
    """

    fields: Mapping[str, Field] = {}
    places: Mapping[ByteOrder, dict[str, Place]] = {}
    size = 0
    title = ""
    programs_write = False

    def __init__(
        self,
        regions: Regions,
        packet: Data,
        *,
        metadata: bytes = b"",
        head_room: int = HEAD_ROOM,
        tail_room: int | None = None,
        byte_order: ByteOrder = "little",
        **values: int | tuple[int, ...],
    ) -> None:
        """Lay out a packet.

        metadata: bytes in front of the packet that a program before this one has left there. head_room,
        tail_room: bytes that the packet can grow by; without tail_room what a frame of 4096 bytes
        leaves. values: fields of the struct by name, except the pointers. Raises UsageError for unknown
        fields and sizes that cannot be, MemoryRefused when there is no memory below 4 GiB.
        """
        size = _frame_size(packet, metadata, head_room, tail_room)
        self.regions = regions
        self.byte_order = byte_order
        self._places = self.places[byte_order]
        self._usual: tuple[Any, ...] | None = None
        self.region = regions.allocate(self.size, f"context (struct {self.title})", writable=self.programs_write)
        try:
            self.packet_region = regions.allocate(size, "packet", low=True, room=LEAST_ROOM)
        except BaseException:
            regions.remove(self.region)
            raise
        self.region.of_run = self.packet_region.of_run = True
        self.frame = self.packet_region.address
        self.address = self.region.address
        self.arguments = (self.address,)
        try:
            self._begin(packet, metadata, head_room, size, values)
        except BaseException:
            self.close()
            raise
        self._usual = None if values else (len(packet), metadata, head_room, tail_room)

    def again(
        self,
        packet: Data,
        /,
        *,
        metadata: bytes = b"",
        head_room: int = HEAD_ROOM,
        tail_room: int | None = None,
        **values: int | tuple[int, ...],
    ) -> bool:
        rooms = (len(packet), metadata, head_room, tail_room)
        if rooms == self._usual and not values:
            # Nothing has moved, so that nothing else than this can have changed.
            self.packet_region.data[:] = metadata + bytes(packet) if metadata else packet
            self._restore(packet)
            return True
        size = _frame_size(packet, metadata, head_room, tail_room)
        if not _fits(size, self.packet_region.room):
            return False
        self._usual = None
        self._begin(packet, metadata, head_room, size, values)
        if not values:
            self._usual = rooms
        return True

    def _begin(
        self, packet: Data, metadata: bytes, head_room: int, size: int, values: Mapping[str, int | tuple[int, ...]]
    ) -> None:
        """Put the packet into the frame, which has so many bytes, and fill in the struct."""
        self.frame_end = self.frame + size
        self.start = self.frame + head_room
        self.end = self.start + len(packet)
        self.meta = self.start - len(metadata)
        self._show()
        content = metadata + bytes(packet) if metadata else packet
        self.packet_region.fill(head_room - len(metadata), content)
        self.region.fill(0, bytes(self.size))
        for name, value in {**self._defaults(packet), **values}.items():
            if name in POINTERS or name not in self.fields:
                known = ", ".join(each for each in self.fields if each not in POINTERS)
                raise UsageError(f"struct {self.title} has no field {name} to set; it has {known}")
            self[name] = value
        self._point()
        self._begun = bytes(self.region.data)

    def _restore(self, packet: Data) -> None:
        """Put the struct back to what it was at the beginning, for another packet of the same length."""
        self.region.data[:] = self._begun

    def _defaults(self, packet: Data) -> dict[str, int]:
        return {}

    def __getitem__(self, name: str) -> Any:
        """Read a field: an int, or a tuple of them for an array."""
        return value_at(self._places[name], self.region.data)

    def __setitem__(self, name: str, value: int | tuple[int, ...]) -> None:
        layout, offset, count = self._places[name]
        values = (value,) if isinstance(value, int) else tuple(value)
        if len(values) != count:
            raise UsageError(f"field {name} of struct {self.title} takes {count} values, not {len(values)}")
        try:
            layout.pack_into(self.region.data, offset, *values)
        except struct.error:
            raise UsageError(f"{value} does not fit field {name} of struct {self.title}") from None

    def values(self) -> Fields:
        """All fields but the pointers, by name, as they are now."""
        return Fields(self._places, bytes(self.region.data))

    def forbidden_writes(self) -> list[str]:
        """Name the fields that the program has changed and that the kernel would not have let it change."""
        now = bytes(self.region.data)
        return [
            name
            for name, field in self.fields.items()
            if not field.writable and (self._field_bytes(now, field) != self._field_bytes(self._begun, field))
        ]

    @staticmethod
    def _field_bytes(data: bytes, field: Field) -> bytes:
        return data[field.offset : field.offset + field.size * field.count]

    @property
    def data(self) -> bytes:
        """The packet as it is now, without metadata."""
        return bytes(self.packet_region.data[self.start - self.meta :])

    @property
    def metadata(self) -> bytes:
        """The metadata as it is now."""
        return bytes(self.packet_region.data[: self.start - self.meta])

    def packet_bounds(self, address: int) -> tuple[int, int]:
        """Where the legacy packet loads find the packet: data and data_end. address: of the context."""
        return self.start, self.end

    def _show(self) -> None:
        """Let the program's region be metadata and packet."""
        region, size = self.packet_region, self.end - self.meta
        if region.address != self.meta or region.size != size:
            self.regions.resize(region, self.meta, size)

    def _point(self) -> None:
        """Write the pointers into the struct."""
        self["data"], self["data_end"], self["data_meta"] = self.start, self.end, self.meta

    def move(self, *, meta: int, start: int, end: int) -> None:
        """Move the ends of the packet within the frame, clearing what a longer packet gains behind."""
        old_end = self.end
        self._usual = None
        self.meta, self.start, self.end = meta, start, end
        self._show()
        if end > old_end:
            self.packet_region.data[old_end - meta :] = bytes(end - old_end)
        self._point()
        self._begun = bytes(self.region.data)

    def close(self) -> None:
        """Take context and packet away from programs."""
        self.regions.remove(self.region)
        self.regions.remove(self.packet_region)


class XdpContext(PacketContext):
    """A packet as a driver gives it to XDP: struct xdp_md, which programs can only read."""

    fields, places = XDP_FIELDS, XDP_PLACES
    size = XDP_SIZE
    title = "xdp_md"

    def _defaults(self, packet: Data) -> dict[str, int]:
        return {"ingress_ifindex": 1}

    def adjust_head(self, delta: int) -> int:
        """Move the start of the packet, metadata with it. Returns 0 or -EINVAL."""
        length = self.start - self.meta
        start = self.start + delta
        if start < self.frame + FRAME_HEADER + length or start > self.end - ETHERNET_HEADER:
            return -EINVAL
        metadata = self.metadata
        self.move(meta=start - length, start=start, end=self.end)
        self.packet_region.data[:length] = metadata
        return 0

    def adjust_tail(self, delta: int) -> int:
        """Move the end of the packet; what it gains is zero. Returns 0 or -EINVAL."""
        end = self.end + delta
        if end > self.frame_end or end < self.start + ETHERNET_HEADER:
            return -EINVAL
        self.move(meta=self.meta, start=self.start, end=end)
        return 0

    def adjust_meta(self, delta: int) -> int:
        """Move the start of the metadata. Returns 0, -EINVAL, or -EACCES for a length that cannot be."""
        meta = self.meta + delta
        if meta < self.frame + FRAME_HEADER or meta > self.start:
            return -EINVAL
        if _bad_metadata(self.start - meta):
            return -EACCES
        self.move(meta=meta, start=self.start, end=self.end)
        return 0


class SkbContext(PacketContext):
    """A packet as the traffic control and socket filters see it: struct __sk_buff."""

    fields, places = SKB_FIELDS, SKB_PLACES
    size = SKB_SIZE
    title = "__sk_buff"
    programs_write = True

    def _defaults(self, packet: Data) -> dict[str, int]:
        return {"protocol": self._protocol(packet), "ingress_ifindex": 1, "ifindex": 1, "wire_len": len(packet)}

    def _protocol(self, packet: Data) -> int:
        # The kernel keeps the EtherType in network order, so it is a number of two bytes in memory order.
        return int.from_bytes(packet[12:14], self.byte_order) if len(packet) >= ETHERNET_HEADER else 0

    def _restore(self, packet: Data) -> None:
        super()._restore(packet)
        self["protocol"] = self._protocol(packet)
        self._begun = bytes(self.region.data)

    def _point(self) -> None:
        super()._point()
        self["len"] = self.end - self.start

    def change_tail(self, length: int) -> int:
        """Make the packet length bytes long; what it gains is zero. Returns 0 or -EINVAL."""
        if not ETHERNET_HEADER <= length <= LONGEST_SKB or self.start + length > self.frame_end:
            return -EINVAL
        self.move(meta=self.meta, start=self.start, end=self.start + length)
        return 0


def _frame_size(packet: Data, metadata: bytes, head_room: int, tail_room: int | None) -> int:
    """How many bytes a frame has. Raises UsageError for what cannot be."""
    if len(packet) > LONGEST_PACKET or head_room < 0 or (tail_room or 0) < 0:
        raise UsageError(f"a packet of {len(packet)} bytes, or its room, is out of range")
    if tail_room is None:
        tail_room = max(0, FRAME - HEAD_ROOM - SHARED_INFO - len(packet))
    if metadata and (head_room < len(metadata) or _bad_metadata(len(metadata))):
        rule = f"a multiple of 4, at most {LONGEST_METADATA}, and no more than the head room"
        raise UsageError(f"{len(metadata)} bytes of metadata, which must be {rule}")
    return head_room + len(packet) + tail_room


def _bad_metadata(length: int) -> bool:
    return bool(length % 4) or length > LONGEST_METADATA


def _fits(size: int, room: int) -> bool:
    """Whether so many bytes may begin again in a room: all of that is written, so it must not be much larger."""
    return size <= room <= max(MOST_ROOM, size)
