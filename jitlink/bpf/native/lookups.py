"""Looking elements up in machine code: on the same memory that Python sees through the map.

A call of bpf_map_lookup_elem on a map that is known when the program is compiled becomes code for that map: an array is
indexed in place, the chains of a hash map are walked (jitlink.bpf.maps.hashes says how they lie in memory), and in an
LRU map the element becomes the newest. What code cannot know stays with Python: maps with values for several
CPUs, keys that are long, maps that programs may not read.

Addresses are symbols of the module, so that its object can be kept on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitlink.bpf.maps import Map
from jitlink.bpf.maps.arrays import ArrayMap
from jitlink.bpf.maps.hashes import MULTIPLIER, NEWEST, OLDEST, SHIFT, HashMap, LruHashMap

MOST_WORDS = 8
"""Keys of more 8-byte words than this are looked up by Python."""


@dataclass(frozen=True)
class Lookup:
    """A map that is looked up in machine code.

    Attributes: name (of its function in the module: uint64 of a pointer to a key); key_size; text (of the
    function); addresses (of the symbols that it refers to).
    """

    name: str
    key_size: int
    text: str
    addresses: dict[str, int]


def lookup_of(map: Map | None, name: str) -> Lookup | None:
    """Make the code for a map; None where Python has to look. name: unique in the module."""
    if not isinstance(map, ArrayMap | HashMap) or not map.programs_may_read or (map.is_per_cpu and map.cpus > 1):
        return None
    if map.definition.byte_order != "little":
        return None
    values = f"{name}.values"
    if isinstance(map, HashMap):
        if map.key_size > 8 * MOST_WORDS:
            return None
        text, addresses = (
            _hash_text(map, name),
            {f"{name}.index": map.index_address, f"{name}.keys": map.key_address(0)},
        )
    else:
        text, addresses = _array_text(map, name), {}
    externals = "\n".join(f"@{each} = external global i8" for each in (values, *addresses))
    return Lookup(name, map.key_size, f"{externals}\n{text}", {values: map.base, **addresses})


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


def _hash_text(map: HashMap, name: str) -> str:
    """Hash the words of the key, and compare them with those of each entry in the chain."""
    words = -(-map.key_size // 8)
    lines = [f"define internal i64 @{name}(ptr %key) nounwind {{"]
    for word in range(words):
        lines += _load_word(word, min(8, map.key_size - 8 * word))
    state = f"getelementptr i64, ptr @{name}.index, i64"
    lines += [f"%multiplier.at = {state} {MULTIPLIER}", "%multiplier = load i64, ptr %multiplier.at"]
    lines += [f"%shift.at = {state} {SHIFT}", "%shift = load i64, ptr %shift.at"]
    hashed = "0"
    for word in range(words):
        lines += [f"%high{word} = lshr i64 {hashed}, 32", f"%low{word} = xor i64 {hashed}, %high{word}"]
        lines += [f"%mixed{word} = xor i64 %low{word}, %word{word}", f"%hash{word} = mul i64 %mixed{word}, %multiplier"]
        hashed = f"%hash{word}"
    heads, next = map.heads_offset, map.next_offset
    lines += [
        f"%bucket = lshr i64 {hashed}, %shift",
        f"%heads = getelementptr i8, ptr @{name}.index, i64 {heads}",
        "%head.at = getelementptr i32, ptr %heads, i64 %bucket",
        "%head = load i32, ptr %head.at",
        f"%next = getelementptr i8, ptr @{name}.index, i64 {next}",
        "br label %look",
        "look:",
        "%entry = phi i32 [ %head, %0 ], [ %after, %other ]",
        "%none = icmp eq i32 %entry, 0",
        "br i1 %none, label %missing, label %compare",
        "compare:",
        "%number = zext i32 %entry to i64",
        f"%distance = mul i64 %number, {map.key_stride}",
        f"%stored = getelementptr i8, ptr @{name}.keys, i64 %distance",
    ]
    differs = "false"
    for word in range(words):
        lines += [f"%stored{word}.at = getelementptr i64, ptr %stored, i64 {word}"]
        lines += [f"%stored{word} = load i64, ptr %stored{word}.at"]
        lines += [f"%unequal{word} = icmp ne i64 %stored{word}, %word{word}"]
        lines += [f"%differs{word} = or i1 {differs}, %unequal{word}"]
        differs = f"%differs{word}"
    lines += [
        f"br i1 {differs}, label %other, label %found",
        "other:",
        "%after.at = getelementptr i32, ptr %next, i64 %number",
        "%after = load i32, ptr %after.at",
        "br label %look",
        "found:",
    ]
    if isinstance(map, LruHashMap):
        lines.append(f"call void @{name}.touch(i32 %entry)")
    lines += [
        f"%place = mul i64 %number, {map.stride}",
        f"%value = add i64 ptrtoint (ptr @{name}.values to i64), %place",
        "ret i64 %value",
        "missing:",
        "ret i64 0",
        "}",
    ]
    return "\n".join(lines) + (_touch_text(map, name) if isinstance(map, LruHashMap) else "")


def _load_word(word: int, size: int) -> list[str]:
    """Load the bytes of a key that a word of its hash is made of; it is filled up with zero bytes."""
    if size == 8:
        return [
            f"%at{word} = getelementptr i8, ptr %key, i64 {8 * word}",
            f"%word{word} = load i64, ptr %at{word}, align 1",
        ]
    lines, made, at = [], "0", 0
    for part in (4, 2, 1):
        if size & part:
            name = f"{word}.{part}"
            lines += [
                f"%at{name} = getelementptr i8, ptr %key, i64 {8 * word + at}",
                f"%part{name} = load i{8 * part}, ptr %at{name}, align 1",
                f"%wide{name} = zext i{8 * part} %part{name} to i64",
                f"%shifted{name} = shl i64 %wide{name}, {8 * at}",
                f"%made{name} = or i64 {made}, %shifted{name}",
            ]
            made, at = f"%made{name}", at + part
    return [*lines, f"%word{word} = add i64 {made}, 0"]


def _touch_text(map: LruHashMap, name: str) -> str:
    """Make an element the newest: take it out of the order of use, and put it at the new end."""
    older, newer = map.older_offset, map.newer_offset
    return f"""
define internal void @{name}.touch(i32 %entry) nounwind {{
  %newest.at = getelementptr i64, ptr @{name}.index, i64 {NEWEST}
  %newest = load i64, ptr %newest.at
  %number = zext i32 %entry to i64
  %already = icmp eq i64 %newest, %number
  br i1 %already, label %done, label %move
move:
  %olders = getelementptr i8, ptr @{name}.index, i64 {older}
  %newers = getelementptr i8, ptr @{name}.index, i64 {newer}
  %oldest.at = getelementptr i64, ptr @{name}.index, i64 {OLDEST}
  %older.at = getelementptr i32, ptr %olders, i64 %number
  %newer.at = getelementptr i32, ptr %newers, i64 %number
  %older = load i32, ptr %older.at
  %newer = load i32, ptr %newer.at
  %older.number = zext i32 %older to i64
  %newer.number = zext i32 %newer to i64
  %first = icmp eq i32 %older, 0
  br i1 %first, label %set.oldest, label %set.newer
set.oldest:
  store i64 %newer.number, ptr %oldest.at
  br label %behind
set.newer:
  %older.newer.at = getelementptr i32, ptr %newers, i64 %older.number
  store i32 %newer, ptr %older.newer.at
  br label %behind
behind:
  ; It was not the newest, so there is one behind it.
  %newer.older.at = getelementptr i32, ptr %olders, i64 %newer.number
  store i32 %older, ptr %newer.older.at
  %newest.short = trunc i64 %newest to i32
  store i32 %newest.short, ptr %older.at
  store i32 0, ptr %newer.at
  %newest.newer.at = getelementptr i32, ptr %newers, i64 %newest
  store i32 %entry, ptr %newest.newer.at
  store i64 %number, ptr %newest.at
  br label %done
done:
  ret void
}}"""
