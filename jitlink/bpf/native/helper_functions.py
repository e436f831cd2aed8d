"""Helpers in machine code: what jitlink.bpf.helpers does, where that needs no Python.

Each keeps to the contract of native helpers (jitlink.bpf.jit.abi): r1 to r5 and the record. What it is not sure of
it declines, before it has changed anything, and the helper in Python does it or says why it cannot be done: an
address that is no map or no memory of the program, a map that machine code does not work on, a CPU that the map has no
values for, a clock that was set by somebody. Those that follow pointers are there twice: programs that are
trusted may point anywhere. The functions are in the language of dialect.py.
"""

from __future__ import annotations

from jitlink.bpf.helpers.checksums import LONGEST_DIFFERENCE
from jitlink.bpf.helpers.randomness import GAMMA, MIX_1, MIX_2
from jitlink.bpf.native.dialect import (
    MASK,
    clock_gettime,
    exported,
    fetch_add,
    inlined,
    loose16,
    loose64,
    u32,
    u64,
)
from jitlink.bpf.native.layout import (
    ARRAYS,
    BOOT,
    CPU,
    CPUS,
    DECLINED,
    EINVAL,
    EPERM,
    FLAGS,
    FRAME,
    FRAME_STRIDE,
    HASHES,
    HOST,
    KEY_SIZE,
    KTIME,
    MAPS,
    RANDOM,
    RDONLY_PROG,
    REGION_BYTES,
    REGION_COUNT,
    REGIONS,
    RINGBUF,
    SCRATCH,
    STACK,
    STACK_BYTES,
    STACK_SIZE,
    STATUS,
    TAI,
    TYPE,
    VALUE_SIZE,
    WAKEUP_FLAGS,
    WITH_CPUS,
    WRONLY_PROG,
)
from jitlink.bpf.native.map_functions import (
    delete_from_hash,
    lookup_in_array,
    lookup_in_hash,
    update_array,
    update_hash,
)
from jitlink.bpf.native.ring_functions import output_to_ring

HALF = 0xFFFF
WORD = 0xFFFF_FFFF
SECOND = 1_000_000_000


@inlined
def decline(record: int) -> int:
    """Have the helper in Python called."""
    u64[record + STATUS] = DECLINED
    return 0


@inlined
def is_map(record: int, address: int) -> int:
    """Whether an address is that of a map that machine code works on (jitlink.bpf.maps.known)."""
    table = u64[u64[record + HOST] + MAPS]
    if not table:
        return 0
    slots = u64[table]
    mask = u64[slots]
    slot = address >> 12 & mask
    while True:
        found = u64[slots + 8 + 8 * slot]
        if found == address:
            return address != 0
        if not found:
            return 0
        slot = slot + 1 & mask


def in_regions(record: int, address: int, size: int) -> int:
    """Whether an access lies in one of the regions; the last that begins at or below it is found by halving."""
    table = u64[record + REGIONS]
    low = 0
    high = u64[record + REGION_COUNT]
    while low < high:
        middle = (low + high) // 2
        if loose64[table + middle * REGION_BYTES] > address:
            high = middle
        else:
            low = middle + 1
    if not low:
        return 0
    row = table + (low - 1) * REGION_BYTES
    length = loose64[row + 8]
    return size <= length and address - loose64[row] <= length - size


@inlined
def is_readable(record: int, address: int, size: int) -> int:
    """Whether an access lies in the memory of the program; size is not 0."""
    depth = (address - u64[record + STACK]) & MASK
    if depth < STACK_BYTES:
        within = depth % FRAME_STRIDE
        in_frame = address < u64[record + FRAME] and within >= STACK_SIZE
        return in_frame and size <= FRAME_STRIDE and within + size <= FRAME_STRIDE
    return in_regions(record, address, size)


@inlined
def is_bad(record: int, address: int, size: int, checked: int) -> int:
    """Whether an access is to be left to Python, which says what is wrong with it."""
    return checked and size and not is_readable(record, address, size)


# Maps.


@inlined
def is_array(map: int) -> int:
    """Whether a map is indexed by number."""
    return 1 << u32[map + TYPE] & ARRAYS


@inlined
def has_cpus(map: int) -> int:
    """Whether a map has values for each CPU."""
    return 1 << u32[map + TYPE] & WITH_CPUS


@inlined
def is_hash(map: int) -> int:
    """Whether a map has an index of chains."""
    return 1 << u32[map + TYPE] & HASHES


@inlined
def look_up(map: int, key: int, record: int, checked: int) -> int:
    """bpf_map_lookup_elem."""
    if not is_map(record, map):
        return decline(record)
    if u32[map + FLAGS] & WRONLY_PROG:
        return 0
    if is_bad(record, key, u32[map + KEY_SIZE], checked):
        return decline(record)
    cpu = 0
    if u32[map + CPUS] > 1:
        cpu = u64[u64[record + HOST] + CPU]
        if cpu >= u32[map + CPUS]:
            return decline(record)
    if is_array(map):
        return lookup_in_array(map, key, cpu)
    return lookup_in_hash(map, key, cpu) if is_hash(map) else decline(record)


@inlined
def look_up_on(map: int, key: int, cpu: int, record: int, checked: int) -> int:
    """bpf_map_lookup_percpu_elem."""
    if not is_map(record, map):
        return decline(record)
    if not has_cpus(map) or cpu >= u32[map + CPUS]:
        return 0
    if is_bad(record, key, u32[map + KEY_SIZE], checked):
        return decline(record)
    return lookup_in_array(map, key, cpu) if is_array(map) else lookup_in_hash(map, key, cpu)


@inlined
def update(map: int, key: int, value: int, flags: int, record: int, checked: int) -> int:
    """bpf_map_update_elem."""
    if not is_map(record, map):
        return decline(record)
    if u32[map + FLAGS] & RDONLY_PROG:
        return -EPERM
    if is_bad(record, key, u32[map + KEY_SIZE], checked) or is_bad(record, value, u32[map + VALUE_SIZE], checked):
        return decline(record)
    cpu = 0
    if has_cpus(map):
        cpu = u64[u64[record + HOST] + CPU]
        if cpu >= u32[map + CPUS]:
            return decline(record)
    if is_array(map):
        return update_array(map, key, value, flags, cpu)
    return update_hash(map, key, value, flags, cpu, 1, 0) if is_hash(map) else decline(record)


@inlined
def delete(map: int, key: int, record: int, checked: int) -> int:
    """bpf_map_delete_elem."""
    if not is_map(record, map):
        return decline(record)
    if u32[map + FLAGS] & RDONLY_PROG:
        return -EPERM
    if is_bad(record, key, u32[map + KEY_SIZE], checked):
        return decline(record)
    return delete_from_hash(map, key) if is_hash(map) else -EINVAL


@exported
def map_lookup_elem(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Give the address of the value of a key, or 0."""
    return look_up(r1, r2, record, 1)


@exported
def map_lookup_elem_trusted(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """The same without checks."""
    return look_up(r1, r2, record, 0)


@exported
def map_lookup_percpu_elem(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Give the address of the value of a key on a CPU, or 0."""
    return look_up_on(r1, r2, r3, record, 1)


@exported
def map_lookup_percpu_elem_trusted(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """The same without checks."""
    return look_up_on(r1, r2, r3, record, 0)


@exported
def map_update_elem(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Set the value of a key."""
    return update(r1, r2, r3, r4, record, 1)


@exported
def map_update_elem_trusted(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """The same without checks."""
    return update(r1, r2, r3, r4, record, 0)


@exported
def map_delete_elem(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Delete an element."""
    return delete(r1, r2, record, 1)


@exported
def map_delete_elem_trusted(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """The same without checks."""
    return delete(r1, r2, record, 0)


# Ring buffers.


@inlined
def output(ring: int, data: int, size: int, flags: int, record: int, checked: int) -> int:
    """bpf_ringbuf_output."""
    if not is_map(record, ring) or u32[ring + TYPE] != RINGBUF:
        return decline(record)
    if flags & (MASK - WAKEUP_FLAGS):
        return -EINVAL
    if is_bad(record, data, size, checked):
        return decline(record)
    return output_to_ring(ring, data, size)


@exported
def ringbuf_output(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Copy data into a ring buffer."""
    return output(r1, r2, r3, r4, record, 1)


@exported
def ringbuf_output_trusted(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """The same without checks."""
    return output(r1, r2, r3, r4, record, 0)


# The world.


@inlined
def time_of(clock: int, record: int) -> int:
    """The time of a clock that the host shows, in nanoseconds."""
    number = u64[u64[record + HOST] + clock]
    if not number:
        return decline(record)
    clock_gettime(number, record + SCRATCH)
    return u64[record + SCRATCH] * SECOND + u64[record + SCRATCH + 8]


@exported
def ktime_get_ns(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Nanoseconds since the machine was started, without the time that it slept."""
    return time_of(KTIME, record)


@exported
def ktime_get_boot_ns(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Nanoseconds since the machine was started."""
    return time_of(BOOT, record)


@exported
def ktime_get_tai_ns(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Nanoseconds of International Atomic Time since 1970."""
    return time_of(TAI, record)


@exported
def next_random(state: int) -> int:
    """Let a generator go on by one number. Returns its state before."""
    return fetch_add(state, GAMMA)


@exported
def get_prandom_u32(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """A random number of 32 bits (jitlink.bpf.helpers.randomness)."""
    state = u64[u64[record + HOST] + RANDOM]
    if not state:
        return decline(record)
    mixed = (next_random(state) + GAMMA) & MASK
    mixed = (mixed ^ mixed >> 30) * MIX_1 & MASK
    mixed = (mixed ^ mixed >> 27) * MIX_2 & MASK
    return (mixed ^ mixed >> 31) >> 32


@exported
def get_smp_processor_id(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """The number of this CPU."""
    return u64[u64[record + HOST] + CPU]


# Checksums.


@inlined
def sum_of(data: int, size: int, flip: int) -> int:
    """Add the 16-bit words of data, each combined with flip by exclusive or."""
    total = 0
    at = 0
    while at < size:
        total += loose16[data + at] ^ flip
        at += 2
    return total


@inlined
def difference(old: int, old_size: int, new: int, new_size: int, seed: int, record: int, checked: int) -> int:
    """bpf_csum_diff; see jitlink.bpf.helpers.checksums."""
    old_size &= WORD
    new_size &= WORD
    if (old_size | new_size) % 4 or old_size + new_size > LONGEST_DIFFERENCE:
        return -EINVAL
    if is_bad(record, new, new_size, checked) or is_bad(record, old, old_size, checked):
        return decline(record)
    total = (seed & WORD) + sum_of(new, new_size, 0) + sum_of(old, old_size, HALF)
    while total >> 16:
        total = (total & HALF) + (total >> 16)
    return total


@exported
def csum_diff(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """Give the checksum of new minus that of old, on top of a seed."""
    return difference(r1, r2, r3, r4, r5, record, 1)


@exported
def csum_diff_trusted(r1: int, r2: int, r3: int, r4: int, r5: int, record: int) -> int:
    """The same without checks."""
    return difference(r1, r2, r3, r4, r5, record, 0)
