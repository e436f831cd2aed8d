"""Maps: the memory that BPF programs share with each other and with Python."""

from jitlink.bpf.maps.base import Map, ValueMap
from jitlink.bpf.maps.definition import BPF_ANY, BPF_EXIST, BPF_NOEXIST, MapDefinition, MapFlag, MapType
from jitlink.bpf.maps.errors import MapError, MissingKey
from jitlink.bpf.maps.registry import Maps, create

__all__ = [
    "BPF_ANY",
    "BPF_EXIST",
    "BPF_NOEXIST",
    "Map",
    "MapDefinition",
    "MapError",
    "MapFlag",
    "MapType",
    "Maps",
    "MissingKey",
    "ValueMap",
    "create",
]
