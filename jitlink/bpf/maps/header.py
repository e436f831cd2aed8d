"""The header of a map: what native code works from, at the address that programs know the map by.

Of the kernel's struct bpf_map, whose address it stands for, it has nothing. Programs may read it and not write it.

    offset  bytes  content
         0      4  type             24   8  address of the values (of a ring buffer: of the ring)
         4      4  key size         32   8  bytes from one value to the next
         8      4  value size       40   8  bytes from the values of one CPU to those of the next
        12      4  max entries      48   8  address of the index (hash maps, ring buffers), or 0
        16      4  flags            56   8  address of the keys (hash maps), or 0
        20      4  number of CPUs

and of hash maps and ring buffers, whose parts are described in hashes.py and rings.py:

        64      8  bytes from one key to the next
        72      8  address of the heads of the chains; of a ring buffer, of the lengths of its records
        80      8  address of the next entries
        88      8  address of the older entries, or 0
        96      8  address of the newer entries, or 0
       104      8  address of the marks of live entries
"""

from __future__ import annotations

import ctypes

_NUMBERS = ("type", "key_size", "value_size", "max_entries", "flags", "cpus")
_PLACES = ("values", "stride", "cpu_stride", "index", "keys", "key_stride", "heads", "next", "older", "newer", "live")


class Header(ctypes.Structure):
    """The fields of a header, of which those that a map has no use for are 0."""

    _fields_ = (*((name, ctypes.c_uint32) for name in _NUMBERS), *((name, ctypes.c_uint64) for name in _PLACES))


HEADER_SIZE = ctypes.sizeof(Header)
OFFSET: dict[str, int] = {name: getattr(Header, name).offset for name in (*_NUMBERS, *_PLACES)}
"""Where each field lies, in bytes from the address of the map."""
