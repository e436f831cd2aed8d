"""Looking elements up without a call: code for one map, in the module of a program that LLVM optimises.

A call of bpf_map_lookup_elem on a map that is known when the program is compiled becomes code for that map: an array is
indexed in place, and the chains of a hash map are walked (jitlink.bpf.maps.hashes says how they lie in memory, and
jitlink.bpf.native.map_functions how they are walked). Other maps are for the helper in machine code: those with
values for several CPUs, keys that are long, LRU maps, where a lookup changes the order of use.

Addresses are symbols of the module, so that its object can be kept on disk.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from jitlink.bpf.maps import Map
from jitlink.bpf.maps.arrays import ArrayMap
from jitlink.bpf.maps.hashes import HashMap, PerCpuHashMap
from jitlink.bpf.native import map_functions, sequences
from jitlink.bpf.native.library import outside_addresses
from jitlink.bpf.native.translator import translate

LONGEST_KEY = 64
"""Bytes of keys for which there is code of their own."""
WALKED = ("wait", "rest_of", "word_of", "link_to", "is_key", "entry_behind", "find")
"""The functions that a lookup in a hash map is made of."""
_PLACES = ("index", "heads", "next", "keys", "values")


@dataclass(frozen=True)
class Lookup:
    """A map that is looked up in machine code.

    Attributes: name (of its function in the module: uint64 of a pointer to a key); key_size; text (of the
    function); map; addresses (of the symbols that it refers to); is_short (it is inlined wherever it is called).
    """

    name: str
    key_size: int
    text: str
    map: ArrayMap | HashMap
    addresses: dict[str, int]
    is_short: bool


def lookup_of(map: Map | None, name: str, *, inlined: bool = True) -> Lookup | None:
    """Make the code for a map; None where there is none of its own.

    name: unique in the module. inlined: whether chains are walked by code for this map, or for all maps of the module.
    """
    if not isinstance(map, ArrayMap | HashMap) or not map.programs_may_read or (map.is_per_cpu and map.cpus > 1):
        return None
    if not map.is_little_endian:
        return None
    places: tuple[str, ...]
    if isinstance(map, ArrayMap):
        text, places = _array_text(map, name), _PLACES[-1:]
    elif type(map) in (HashMap, PerCpuHashMap) and map.key_size <= LONGEST_KEY:
        text, places = _hash_text(map, name, inlined), _PLACES
    else:
        return None
    externals = "\n".join(f"@{name}.{each} = external global i8" for each in places)
    addresses = {f"{name}.{each}": map.place(each) for each in places}
    if isinstance(map, HashMap):
        addresses |= outside_addresses("sched_yield")
    return Lookup(name, map.key_size, f"{externals}\n{text}", map, addresses, isinstance(map, ArrayMap))


def texts_of(lookups: Iterable[Lookup]) -> list[str]:
    """The texts of lookups, and of what they share."""
    texts = [lookup.text for lookup in lookups]
    return [*texts, _walking()] if any(isinstance(lookup.map, HashMap) for lookup in lookups) else texts


@cache
def _walking() -> str:
    return translate([sequences, map_functions], platform.machine(), WALKED)


def _array_text(map: ArrayMap, name: str) -> str:
    return f"""
define internal i64 @{name}(ptr %key) alwaysinline nounwind {{
  %short = load i32, ptr %key, align 1
  %index = zext i32 %short to i64
  %inside = icmp ult i64 %index, {map.max_entries}
  %offset = mul i64 %index, {map.stride}
  %value = add i64 ptrtoint (ptr @{name}.values to i64), %offset
  %found = select i1 %inside, i64 %value, i64 0
  ret i64 %found
}}"""


def _hash_text(map: HashMap, name: str, inlined: bool) -> str:
    places = ", ".join(f"i64 ptrtoint (ptr @{name}.{each} to i64)" for each in _PLACES[:-1])
    stays = "" if inlined else " noinline"
    return f"""
define internal i64 @{name}(ptr %key) nounwind {{
  %address = ptrtoint ptr %key to i64
  %entry = call i64 @find({places}, i64 {map.key_stride}, i64 %address, i64 {map.key_size}){stays}
  %missing = icmp eq i64 %entry, 0
  %offset = mul i64 %entry, {map.stride}
  %value = add i64 ptrtoint (ptr @{name}.values to i64), %offset
  %found = select i1 %missing, i64 0, i64 %value
  ret i64 %found
}}"""
