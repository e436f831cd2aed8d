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

Source: include/uapi/linux/bpf.h; sizes and defaults of a test run in net/bpf/test_run.c; which fields
a program may write in net/core/filter.c (tc_cls_act_is_valid_access).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EACCES, EINVAL
from functools import cached_property
from typing import Any

from jitlink.bpf.btf_types import ByteOrder
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


@dataclass(frozen=True)
class Field:
    """A field of a context: its place, its size in bytes, how often it stands there, who may write it."""

    offset: int
    size: int = 4
    count: int = 1
    writable: bool = False


# fmt: off
XDP_FIELDS: dict[str, Field] = {
    "data":            Field(0),
    "data_end":        Field(4),
    "data_meta":       Field(8),
    "ingress_ifindex": Field(12),
    "rx_queue_index":  Field(16),
    "egress_ifindex":  Field(20),
}
XDP_SIZE = 24

SKB_FIELDS: dict[str, Field] = {
    "len":             Field(0),
    "pkt_type":        Field(4),
    "mark":            Field(8, writable=True),
    "queue_mapping":   Field(12, writable=True),
    "protocol":        Field(16),
    "vlan_present":    Field(20),
    "vlan_tci":        Field(24),
    "vlan_proto":      Field(28),
    "priority":        Field(32, writable=True),
    "ingress_ifindex": Field(36),
    "ifindex":         Field(40),
    "tc_index":        Field(44, writable=True),
    "cb":              Field(48, count=5, writable=True),
    "hash":            Field(68),
    "tc_classid":      Field(72, writable=True),
    "data":            Field(76),
    "data_end":        Field(80),
    "napi_id":         Field(84),
    "family":          Field(88),
    "remote_ip4":      Field(92),
    "local_ip4":       Field(96),
    "remote_ip6":      Field(100, count=4),
    "local_ip6":       Field(116, count=4),
    "remote_port":     Field(132),
    "local_port":      Field(136),
    "data_meta":       Field(140),
    "flow_keys":       Field(144, 8),
    "tstamp":          Field(152, 8, writable=True),
    "wire_len":        Field(160),
    "gso_segs":        Field(164),
    "sk":              Field(168, 8),
    "gso_size":        Field(176),
    "tstamp_type":     Field(180, 1),
    "hwtstamp":        Field(184, 8),
}
SKB_SIZE = 192
# fmt: on

POINTERS = ("data", "data_end", "data_meta")


class Context:
    """What a run starts from and leaves behind.

    Attributes: arguments (r1 and on), region (of the context itself).
    """

    region: Region

    @property
    def arguments(self) -> tuple[int, ...]:
        """The registers that the program starts with, r1 first."""
        raise NotImplementedError

    @property
    def data(self) -> bytes:
        """The data as it is now."""
        raise NotImplementedError

    @property
    def packet_bounds(self) -> Callable[[int], tuple[int, int]] | None:
        """Where the legacy packet loads find the packet, given the address of the context."""
        return None

    def close(self) -> None:
        """Take the memory away from programs."""
        raise NotImplementedError


class FlatContext(Context):
    """Plain memory: its address in r1, its length in r2. Programs may write to it."""

    def __init__(self, regions: Regions, data: bytes | bytearray | memoryview) -> None:
        self.regions = regions
        self.region = regions.allocate(len(data), "data")
        self.region.of_run = True
        self.region.data[:] = data

    @cached_property
    def arguments(self) -> tuple[int, int]:
        """Address and length; the address of no data is 0."""
        return (self.region.address if self.region.size else 0, self.region.size)

    @property
    def data(self) -> bytes:
        """The memory as it is now."""
        return bytes(self.region.data)

    def close(self) -> None:
        """Take the memory away from programs."""
        self.regions.remove(self.region)


class PacketContext(Context):
    """A packet in its frame, and the struct that points at it."""

    fields: Mapping[str, Field] = {}
    size = 0
    title = ""
    programs_write = False

    def __init__(
        self,
        regions: Regions,
        packet: bytes | bytearray | memoryview,
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
        if len(packet) > LONGEST_PACKET or head_room < 0 or (tail_room or 0) < 0:
            raise UsageError(f"a packet of {len(packet)} bytes, or its room, is out of range")
        if tail_room is None:
            tail_room = max(0, FRAME - HEAD_ROOM - SHARED_INFO - len(packet))
        if head_room < len(metadata) or _bad_metadata(len(metadata)):
            rule = f"a multiple of 4, at most {LONGEST_METADATA}, and no more than the head room"
            raise UsageError(f"{len(metadata)} bytes of metadata, which must be {rule}")
        self.regions = regions
        self.byte_order = byte_order
        self.packet_region = regions.allocate(head_room + len(packet) + tail_room, "packet", low=True)
        self.frame = self.packet_region.address
        self.frame_end = self.packet_region.end
        self.start = self.frame + head_room
        self.end = self.start + len(packet)
        self.meta = self.start - len(metadata)
        self._show()
        self.packet_region.data[: len(metadata)] = metadata
        self.packet_region.data[len(metadata) :] = packet
        self.region = regions.allocate(self.size, f"context (struct {self.title})", writable=self.programs_write)
        self.region.of_run = self.packet_region.of_run = True
        self.address = self.region.address
        self._fill(packet, values)
        self._begun = bytes(self.region.data)

    def _fill(self, packet: bytes | bytearray | memoryview, values: Mapping[str, int | tuple[int, ...]]) -> None:
        for name, value in {**self._defaults(bytes(packet)), **values}.items():
            if name in POINTERS or name not in self.fields:
                known = ", ".join(each for each in self.fields if each not in POINTERS)
                raise UsageError(f"struct {self.title} has no field {name} to set; it has {known}")
            self[name] = value
        self._point()

    def _defaults(self, packet: bytes) -> dict[str, int]:
        return {}

    def __getitem__(self, name: str) -> Any:
        """Read a field: an int, or a tuple of them for an array."""
        field = self.fields[name]
        at = [field.offset + index * field.size for index in range(field.count)]
        values = tuple(int.from_bytes(self.region.data[start : start + field.size], self.byte_order) for start in at)
        return values if field.count > 1 else values[0]

    def __setitem__(self, name: str, value: int | tuple[int, ...]) -> None:
        field = self.fields[name]
        values = (value,) if isinstance(value, int) else tuple(value)
        if len(values) != field.count:
            raise UsageError(f"field {name} of struct {self.title} takes {field.count} values, not {len(values)}")
        try:
            data = b"".join(each.to_bytes(field.size, self.byte_order) for each in values)
        except OverflowError:
            raise UsageError(f"{value} does not fit field {name} of struct {self.title}") from None
        self.region.data[field.offset : field.offset + len(data)] = data

    def values(self) -> dict[str, Any]:
        """Read all fields but the pointers, by name."""
        return {name: self[name] for name in self.fields if name not in POINTERS}

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
    def arguments(self) -> tuple[int]:
        """The address of the context."""
        return (self.address,)

    @property
    def data(self) -> bytes:
        """The packet as it is now, without metadata."""
        return bytes(self.packet_region.data[self.start - self.meta :])

    @property
    def metadata(self) -> bytes:
        """The metadata as it is now."""
        return bytes(self.packet_region.data[: self.start - self.meta])

    @property
    def packet_bounds(self) -> Callable[[int], tuple[int, int]]:
        """Where the legacy packet loads find the packet: data and data_end."""
        return lambda address: (self.start, self.end)

    def _show(self) -> None:
        """Let the program's region be metadata and packet."""
        self.regions.resize(self.packet_region, self.meta, self.end - self.meta)

    def _point(self) -> None:
        """Write the pointers into the struct, and where fields are read-only remember them as begun."""
        for name, value in zip(POINTERS, (self.start, self.end, self.meta), strict=True):
            self[name] = value

    def move(self, *, meta: int, start: int, end: int) -> None:
        """Move the ends of the packet within the frame, clearing what a longer packet gains behind."""
        old_end = self.end
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

    fields = XDP_FIELDS
    size = XDP_SIZE
    title = "xdp_md"

    def _defaults(self, packet: bytes) -> dict[str, int]:
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

    fields = SKB_FIELDS
    size = SKB_SIZE
    title = "__sk_buff"
    programs_write = True

    def _defaults(self, packet: bytes) -> dict[str, int]:
        # The kernel keeps the EtherType in network order, so it is a number of two bytes in memory order.
        protocol = int.from_bytes(packet[12:14], self.byte_order) if len(packet) >= ETHERNET_HEADER else 0
        return {"protocol": protocol, "ingress_ifindex": 1, "ifindex": 1, "wire_len": len(packet)}

    def _point(self) -> None:
        super()._point()
        self["len"] = self.end - self.start

    def change_tail(self, length: int) -> int:
        """Make the packet length bytes long; what it gains is zero. Returns 0 or -EINVAL."""
        if not ETHERNET_HEADER <= length <= LONGEST_SKB or self.start + length > self.frame_end:
            return -EINVAL
        self.move(meta=self.meta, start=self.start, end=self.start + length)
        return 0


def _bad_metadata(length: int) -> bool:
    return bool(length % 4) or length > LONGEST_METADATA
