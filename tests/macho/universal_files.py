"""Universal files for the tests, written by hand: what lipo makes of several files."""

from __future__ import annotations

import struct
from collections.abc import Mapping

CPUS = {
    "x86_64": (0x01000007, 3),
    "x86_64h": (0x01000007, 8),
    "arm64": (0x0100000C, 0),
    "arm64e": (0x0100000C, 2),
    "i386": (7, 3),
    "ppc": (18, 0),
}


def universal(slices: Mapping[str, bytes], *, wide: bool = False, alignment: int = 12) -> bytes:
    """Put slices, by machine, into one file. wide: in the form with 64-bit offsets."""
    entry = ">IIQQII" if wide else ">IIIII"
    table = struct.pack(">II", 0xCAFEBABF if wide else 0xCAFEBABE, len(slices))
    at = len(table) + len(slices) * struct.calcsize(entry)
    content = b""
    for machine, data in slices.items():
        start = -(-at >> alignment) << alignment
        table += struct.pack(entry, *CPUS[machine], start, len(data), alignment, *((0,) if wide else ()))
        content += bytes(start - at) + data
        at = start + len(data)
    return table + content
