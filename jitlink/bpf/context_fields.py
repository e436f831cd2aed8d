"""The structs that programs get as their context: where each field lies, and how it is read.

Source: include/uapi/linux/bpf.h; which fields a program may write in net/core/filter.c
(tc_cls_act_is_valid_access).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jitlink.bpf.btf_types import ByteOrder


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

LETTERS: dict[int, str] = {1: "B", 4: "I", 8: "Q"}
"""How the struct module writes a field of each size."""


class Place(NamedTuple):
    """How a field is written, where it lies, and how often it stands there."""

    layout: struct.Struct
    offset: int
    times: int


def places_of(fields: Mapping[str, Field], byte_order: ByteOrder) -> dict[str, Place]:
    """Find the place of each field in memory of a byte order."""
    order = "<" if byte_order == "little" else ">"
    return {
        name: Place(struct.Struct(f"{order}{field.count}{LETTERS[field.size]}"), field.offset, field.count)
        for name, field in fields.items()
    }


XDP_PLACES: dict[ByteOrder, dict[str, Place]] = {
    "little": places_of(XDP_FIELDS, "little"),
    "big": places_of(XDP_FIELDS, "big"),
}
SKB_PLACES: dict[ByteOrder, dict[str, Place]] = {
    "little": places_of(SKB_FIELDS, "little"),
    "big": places_of(SKB_FIELDS, "big"),
}


def value_at(place: Place, content: bytes | memoryview) -> Any:
    """Read a field: an int, or a tuple of them for an array."""
    values = place.layout.unpack_from(content, place.offset)
    return values if place.times > 1 else values[0]


class Fields(Mapping[str, Any]):
    """The fields of a context but its pointers, as they were at one moment: numbers, and tuples of them for arrays."""

    __slots__ = ("_content", "_places")

    def __init__(self, places: dict[str, Place], content: bytes) -> None:
        """places: of all fields; content: of the struct."""
        self._places = places
        self._content = content

    def __getitem__(self, name: str) -> Any:
        if name in POINTERS:
            raise KeyError(name)
        return value_at(self._places[name], self._content)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._places if name not in POINTERS)

    def __len__(self) -> int:
        return len(self._places) - len(POINTERS)

    def __repr__(self) -> str:
        return repr(dict(self))
