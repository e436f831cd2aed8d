"""Packets from a capture file: the pcap format.

A file is a header of 24 bytes and records of 16 bytes each, followed by the bytes of the packet. The magic number
says in which byte order the numbers are, and whether times are in micro- or nanoseconds.
Source: draft-ietf-opsawg-pcap.
"""

from __future__ import annotations

from struct import Struct

from jitlink.errors import MalformedInput, UnsupportedInput

MAGIC = {0xA1B2C3D4: "<", 0xA1B23C4D: "<", 0xD4C3B2A1: ">", 0x4D3CB2A1: ">"}
"""By the magic number as a little-endian one: the byte order of the file."""
PCAPNG = b"\x0a\x0d\x0d\x0a"
ETHERNET = 1
_HEADER, _RECORD = 24, 16


def is_capture(data: bytes) -> bool:
    """Whether bytes begin like a capture file."""
    return int.from_bytes(data[:4], "little") in MAGIC or data[:4] == PCAPNG


def packets_of(data: bytes, name: str = "(capture)") -> tuple[list[int], list[int]]:
    """Where the packets of a capture begin and how long they are, in bytes of the file.

    Raises MalformedInput for a file that is cut or none, UnsupportedInput for pcapng and for links other than Ethernet.
    """
    if data[:4] == PCAPNG:
        hint = "editcap -F pcap writes what can be read"
        raise UnsupportedInput("captures in the pcapng format are not read", input=name, hint=hint)
    order = MAGIC.get(int.from_bytes(data[:4], "little"))
    if order is None or len(data) < _HEADER:
        raise MalformedInput("this is no capture file", input=name)
    link = int.from_bytes(data[20:24], "little" if order == "<" else "big") & 0x0FFF_FFFF
    if link != ETHERNET:
        raise UnsupportedInput(f"the packets of the capture are those of link type {link}, not of Ethernet", input=name)
    record = Struct(f"{order}4I")
    offsets, lengths, at = [], [], _HEADER
    while at < len(data):
        if at + _RECORD > len(data):
            raise MalformedInput("the capture ends within the header of a packet", input=name, offset=at)
        length = record.unpack_from(data, at)[2]
        at += _RECORD
        if at + length > len(data):
            raise MalformedInput(f"the capture ends within a packet of {length} bytes", input=name, offset=at)
        offsets.append(at)
        lengths.append(length)
        at += length
    return offsets, lengths
