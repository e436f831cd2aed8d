"""Captures: the packets of a pcap or pcapng file, read by dpkt."""

from __future__ import annotations

import struct
from typing import IO

from jitlink import MalformedInput, MissingExtra, UnreadableInput

PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"


def packets_of(path: str) -> list[bytes]:
    """Read all packets of a capture.

    Raises UnreadableInput, MalformedInput for what is no capture, MissingExtra where dpkt is not installed.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, path)
    except OSError as error:
        raise UnreadableInput(str(error.strerror or error), input=path) from error


def _read(file: IO[bytes], path: str) -> list[bytes]:
    try:
        import dpkt
    except ImportError as error:
        raise MissingExtra("dpkt", "pcap", "a capture of packets") from error
    magic = file.read(4)
    file.seek(0)
    reader = dpkt.pcapng.Reader if magic == PCAPNG_MAGIC else dpkt.pcap.Reader
    try:
        return [bytes(packet) for _, packet in reader(file)]
    except (ValueError, struct.error, dpkt.Error) as error:
        raise MalformedInput(f"no capture that can be read: {error}", input=path) from None
