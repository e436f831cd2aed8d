"""What tests of maps share: short definitions, and values read as programs read them."""

from __future__ import annotations

import struct
from ctypes import string_at
from typing import Any

import pytest

from jitlink.bpf.maps import MapDefinition
from jitlink.bpf.maps import create as create_map
from jitlink.errors import LinkError

U32 = struct.Struct("<I")


def create(*arguments, **more) -> Any:
    """Make a map; typed as Any, since each type of map has operations of its own."""
    return create_map(*arguments, **more)


def define(type, key=4, value=8, entries=8, flags=0, **more):
    return MapDefinition("m", type, key, value, entries, flags, **more)


def read_value(map, key, cpu=0):
    """Read a value as a program does: through the address that a lookup gives."""
    address = map.lookup_elem(key, cpu)
    return string_at(address, map.value_size) if address else None


def errno_of(action):
    with pytest.raises(OSError, match="map ") as caught:
        action()
    assert isinstance(caught.value, LinkError)
    return caught.value.errno
