"""Maps in machine code: what jitlink.bpf.maps does, on the same memory and entry by entry.

hashes.py says there how hash maps lie in memory and what their sequence is for; the address of a map is that of its
header (header.py). Nothing is checked here: keys and values are where the
caller says, and the map is of the sort that a function is for. The functions are in the language of dialect.py.
"""

from __future__ import annotations

from jitlink.bpf.native.dialect import (
    MASK,
    acquire,
    clear,
    copy,
    exported,
    fence_acquire,
    inlined,
    loose8,
    loose16,
    loose32,
    loose64,
    u8,
    u32,
    u64,
)
from jitlink.bpf.native.layout import (
    BPF_EXIST,
    BPF_NOEXIST,
    CAPACITY,
    COUNT,
    CPU_STRIDE,
    CPUS,
    E2BIG,
    EEXIST,
    EINVAL,
    ENOENT,
    FREE,
    HEADS,
    INDEX,
    KEY_SIZE,
    KEY_STRIDE,
    KEYS,
    LIVE,
    MAX_ENTRIES,
    MULTIPLIER,
    NEWER,
    NEWEST,
    NEXT,
    OLDER,
    OLDEST,
    SEQUENCE,
    SHIFT,
    STRIDE,
    USED,
    VALUE_SIZE,
    VALUES,
)
from jitlink.bpf.native.sequences import lock, unlock, wait

CHANGED = MASK
"""In the place of an entry: somebody was changing the chain."""


@inlined
def copy_value(to: int, source: int, size: int) -> None:
    """Copy a key or a value; the usual sizes at once."""
    if size == 8:
        loose64[to] = loose64[source]
    elif size == 4:
        loose32[to] = loose32[source]
    else:
        copy(to, source, size)


# Keys, as words of 64 bits of which the last is filled up with zero bytes.


@inlined
def rest_of(key: int, size: int) -> int:
    """The last 1 to 7 bytes of a key."""
    made = 0
    at = 0
    if size & 4:
        made = loose32[key]
        at = 4
    if size & 2:
        made |= loose16[key + at] << 8 * at
        at += 2
    if size & 1:
        made |= loose8[key + at] << 8 * at
    return made


@inlined
def word_of(key: int, size: int, at: int) -> int:
    """The word that begins at a byte of a key of size bytes."""
    return loose64[key + at] if size - at >= 8 else rest_of(key + at, size - at)


@inlined
def link_to(index: int, heads: int, key: int, size: int) -> int:
    """The address of the link that leads to the first entry of the key's chain."""
    multiplier = u64[index + MULTIPLIER]
    hashed = 0
    at = 0
    while at < size:
        hashed = ((hashed ^ hashed >> 32) ^ word_of(key, size, at)) * multiplier & MASK
        at += 8
    return heads + 4 * (hashed >> u64[index + SHIFT])


@inlined
def is_key(stored: int, key: int, size: int) -> int:
    """Whether the key of an entry is this one."""
    at = 0
    while at < size:
        if u64[stored + at] != word_of(key, size, at):
            return 0
        at += 8
    return 1


@inlined
def entry_behind(link: int, index: int, next: int, keys: int, stride: int, key: int, size: int, version: int) -> int:
    """The entry of a key in the chain behind a link, or 0; CHANGED if the sequence is not this version any more."""
    entry = u32[link]
    while entry:
        if is_key(keys + entry * stride, key, size):
            return entry
        # A chain that is changed while it is walked need not end.
        if u64[index + SEQUENCE] != version:
            return CHANGED
        entry = u32[next + 4 * entry]
    return 0


@inlined
def find(index: int, heads: int, next: int, keys: int, stride: int, key: int, size: int) -> int:
    """The entry of a key, or 0; nobody is kept waiting by it."""
    tries = 1
    while True:
        version = acquire(index + SEQUENCE)
        if version % 2 == 0:
            entry = entry_behind(link_to(index, heads, key, size), index, next, keys, stride, key, size, version)
            fence_acquire()
            if u64[index + SEQUENCE] == version:
                return entry
        wait(tries)
        tries += 1


@exported
def find_entry(map: int, key: int) -> int:
    """The entry of a key in a map, or 0."""
    index = u64[map + INDEX]
    heads = u64[map + HEADS]
    next = u64[map + NEXT]
    keys = u64[map + KEYS]
    size = u32[map + KEY_SIZE]
    # LLVM makes code for these sizes that has no loops over words.
    if size == 4:
        return find(index, heads, next, keys, 8, key, 4)
    if size == 8:
        return find(index, heads, next, keys, 8, key, 8)
    return find(index, heads, next, keys, u64[map + KEY_STRIDE], key, size)


# Whoever changes a map works on a copy of the key, at the place of the null entry's, which no program can write to: one
# thread of a program may change a key while another passes it. Such keys, as those of all entries, are whole words.


@inlined
def hold_key(map: int, key: int) -> int:
    """Copy a key to where it stays as it is while the sequence is odd. Returns the place."""
    held = u64[map + KEYS]
    size = u32[map + KEY_SIZE]
    at = 0
    # It is read as words, for which a processor would wait if it had been written in smaller pieces.
    while at < size:
        u64[held + at] = word_of(key, size, at)
        at += 8
    return held


@inlined
def link_to_held(map: int, held: int) -> int:
    """The address of the link that leads to the first entry of a key's chain."""
    return link_to(u64[map + INDEX], u64[map + HEADS], held, u64[map + KEY_STRIDE])


@inlined
def find_held(map: int, held: int) -> int:
    """The entry of a key, or 0."""
    index = u64[map + INDEX]
    stride = u64[map + KEY_STRIDE]
    version = u64[index + SEQUENCE]
    return entry_behind(link_to_held(map, held), index, u64[map + NEXT], u64[map + KEYS], stride, held, stride, version)


# The order of use, which is 0 at both ends.


@inlined
def is_lru(map: int) -> int:
    """Whether a map has an order of use."""
    return u64[map + OLDER] != 0


def remember(map: int, entry: int) -> None:
    """Put an entry at the new end."""
    index = u64[map + INDEX]
    newest = u64[index + NEWEST]
    u32[u64[map + OLDER] + 4 * entry] = newest
    u32[u64[map + NEWER] + 4 * entry] = 0
    if newest:
        u32[u64[map + NEWER] + 4 * newest] = entry
    else:
        u64[index + OLDEST] = entry
    u64[index + NEWEST] = entry


def forget(map: int, entry: int) -> None:
    """Take an entry out."""
    index = u64[map + INDEX]
    older = u32[u64[map + OLDER] + 4 * entry]
    newer = u32[u64[map + NEWER] + 4 * entry]
    if older:
        u32[u64[map + NEWER] + 4 * older] = newer
    else:
        u64[index + OLDEST] = newer
    if newer:
        u32[u64[map + OLDER] + 4 * newer] = older
    else:
        u64[index + NEWEST] = older


@inlined
def touch(map: int, entry: int) -> None:
    """Make an entry the newest."""
    if u64[u64[map + INDEX] + NEWEST] != entry:
        forget(map, entry)
        remember(map, entry)


# Entries. The sequence is odd while these run.


@inlined
def take_entry(map: int) -> int:
    """Take a free entry: one that was used before, else the next fresh one, else 0."""
    index = u64[map + INDEX]
    entry = u64[index + FREE]
    if entry:
        u64[index + FREE] = u32[u64[map + NEXT] + 4 * entry]
        return entry
    if u64[index + USED] == u64[index + CAPACITY]:
        return 0
    u64[index + USED] += 1
    return u64[index + USED]


@inlined
def link_entry(map: int, entry: int, held: int) -> None:
    """Let an entry hold the element of a key."""
    index = u64[map + INDEX]
    stride = u64[map + KEY_STRIDE]
    link = link_to_held(map, held)
    copy_value(u64[map + KEYS] + entry * stride, held, stride)
    u32[u64[map + NEXT] + 4 * entry] = u32[link]
    u32[link] = entry
    u8[u64[map + LIVE] + entry] = 1
    u64[index + COUNT] += 1
    if is_lru(map):
        remember(map, entry)
    cpus = u32[map + CPUS]
    if cpus > 1:
        # A program sets the value of its own CPU; what the others find must not be of an old element.
        value = u64[map + VALUES] + entry * u64[map + STRIDE]
        for cpu in range(cpus):
            clear(value + cpu * u64[map + CPU_STRIDE], u32[map + VALUE_SIZE])


def drop_entry(map: int, held: int) -> int:
    """Delete an element by its key; returns its entry, or 0."""
    index = u64[map + INDEX]
    stride = u64[map + KEY_STRIDE]
    link = link_to_held(map, held)
    next = u64[map + NEXT]
    while u32[link]:
        entry = u32[link]
        if is_key(u64[map + KEYS] + entry * stride, held, stride):
            u32[link] = u32[next + 4 * entry]
            u8[u64[map + LIVE] + entry] = 0
            u64[index + COUNT] -= 1
            if is_lru(map):
                forget(map, entry)
            u32[next + 4 * entry] = u64[index + FREE]
            u64[index + FREE] = entry
            return entry
        link = next + 4 * entry
    return 0


def make_entry(map: int, held: int) -> int:
    """Make an entry for a key that has none; a full LRU map forgets its oldest element. 0 where there is no room."""
    entry = take_entry(map)
    if not entry and is_lru(map):
        drop_entry(map, u64[map + KEYS] + u64[u64[map + INDEX] + OLDEST] * u64[map + KEY_STRIDE])
        entry = take_entry(map)
    if entry:
        link_entry(map, entry, held)
    return entry


# Operations.


@inlined
def address_of_value(map: int, entry: int, cpu: int) -> int:
    """The address of a value."""
    return u64[map + VALUES] + entry * u64[map + STRIDE] + cpu * u64[map + CPU_STRIDE]


@exported
def lookup_in_hash(map: int, key: int, cpu: int) -> int:
    """The address of the value of a key, or 0; in an LRU map the element becomes the newest."""
    entry = find_entry(map, key)
    if not entry:
        return 0
    if is_lru(map) and u64[u64[map + INDEX] + NEWEST] != entry:
        sequence = u64[map + INDEX] + SEQUENCE
        lock(sequence)
        entry = find_held(map, hold_key(map, key))
        if entry:
            touch(map, entry)
        unlock(sequence)
        if not entry:
            return 0
    return address_of_value(map, entry, cpu)


@exported
def update_hash(map: int, key: int, values: int, flags: int, cpu: int, cpus: int, step: int) -> int:
    """Set the values of so many CPUs from one on, which lie step bytes apart. Returns 0 or a negative errno."""
    if flags > BPF_EXIST:
        return -EINVAL
    sequence = u64[map + INDEX] + SEQUENCE
    result = 0
    lock(sequence)
    held = hold_key(map, key)
    entry = find_held(map, held)
    if entry:
        if flags == BPF_NOEXIST:
            result = -EEXIST
        elif is_lru(map):
            touch(map, entry)
    elif flags == BPF_EXIST:
        result = -ENOENT
    else:
        entry = make_entry(map, held)
        if not entry:
            result = -E2BIG
    if result == 0:
        for number in range(cpus):
            copy_value(address_of_value(map, entry, cpu + number), values + number * step, u32[map + VALUE_SIZE])
    unlock(sequence)
    return result


@exported
def delete_from_hash(map: int, key: int) -> int:
    """Delete an element. Returns 0 or a negative errno."""
    sequence = u64[map + INDEX] + SEQUENCE
    lock(sequence)
    entry = drop_entry(map, hold_key(map, key))
    unlock(sequence)
    return 0 if entry else -ENOENT


@exported
def copy_from_hash(map: int, key: int, to: int, cpus: int) -> int:
    """Copy the values of the first CPUs, one behind the other. Returns whether there is an element."""
    sequence = u64[map + INDEX] + SEQUENCE
    size = u32[map + VALUE_SIZE]
    lock(sequence)
    entry = find_held(map, hold_key(map, key))
    if entry:
        for cpu in range(cpus):
            copy(to + cpu * size, address_of_value(map, entry, cpu), size)
    unlock(sequence)
    return entry != 0


@exported
def copy_keys(map: int, first: int, last: int, to: int) -> int:
    """Copy the keys of the entries from first to last that hold an element. Returns how many there are."""
    index = u64[map + INDEX]
    size = u32[map + KEY_SIZE]
    count = 0
    lock(index + SEQUENCE)
    end = last if last < u64[index + USED] else u64[index + USED]
    for entry in range(first, end + 1):
        if u8[u64[map + LIVE] + entry]:
            copy(to + count * size, u64[map + KEYS] + entry * u64[map + KEY_STRIDE], size)
            count += 1
    unlock(index + SEQUENCE)
    return count


@exported
def lookup_in_array(map: int, key: int, cpu: int) -> int:
    """The address of the value of an index, or 0."""
    entry = loose32[key]
    return address_of_value(map, entry, cpu) if entry < u32[map + MAX_ENTRIES] else 0


@inlined
def update_array(map: int, key: int, value: int, flags: int, cpu: int) -> int:
    """Set the value of an index on a CPU. Returns 0 or a negative errno."""
    if flags > BPF_EXIST:
        return -EINVAL
    entry = loose32[key]
    if entry >= u32[map + MAX_ENTRIES]:
        return -E2BIG
    if flags == BPF_NOEXIST:
        return -EEXIST
    copy_value(address_of_value(map, entry, cpu), value, u32[map + VALUE_SIZE])
    return 0
