"""Where things lie in memory, as plain numbers for helpers in machine code: the constants of their language.

They are taken from the modules that own them: headers of maps, the index of a hash map, the state of a ring buffer,
the record of a run, and the words that a host shows.
"""

from __future__ import annotations

from errno import E2BIG, EAGAIN, EEXIST, EINVAL, ENOENT, EPERM

from jitlink.bpf.helpers.host import SHOWN
from jitlink.bpf.isa import STACK_SIZE
from jitlink.bpf.jit import abi
from jitlink.bpf.maps import hashes, rings
from jitlink.bpf.maps.definition import BPF_EXIST, BPF_NOEXIST, MapFlag, MapType
from jitlink.bpf.maps.header import OFFSET

# Errors, as helpers return them: with the sign turned.
__all__ = ["BPF_EXIST", "BPF_NOEXIST", "E2BIG", "EAGAIN", "EEXIST", "EINVAL", "ENOENT", "EPERM", "STACK_SIZE"]

# The header of a map.
TYPE, KEY_SIZE, VALUE_SIZE = OFFSET["type"], OFFSET["key_size"], OFFSET["value_size"]
MAX_ENTRIES, FLAGS, CPUS = OFFSET["max_entries"], OFFSET["flags"], OFFSET["cpus"]
VALUES, STRIDE, CPU_STRIDE = OFFSET["values"], OFFSET["stride"], OFFSET["cpu_stride"]
INDEX, KEYS, KEY_STRIDE, HEADS = OFFSET["index"], OFFSET["keys"], OFFSET["key_stride"], OFFSET["heads"]
NEXT, OLDER, NEWER, LIVE = OFFSET["next"], OFFSET["older"], OFFSET["newer"], OFFSET["live"]
LENGTHS = OFFSET["heads"]

# Sets of types, as bits.
ARRAYS = 1 << MapType.ARRAY | 1 << MapType.PERCPU_ARRAY
HASHES = 1 << MapType.HASH | 1 << MapType.PERCPU_HASH | 1 << MapType.LRU_HASH | 1 << MapType.LRU_PERCPU_HASH
WITH_CPUS = 1 << MapType.PERCPU_ARRAY | 1 << MapType.PERCPU_HASH | 1 << MapType.LRU_PERCPU_HASH
RINGBUF = int(MapType.RINGBUF)
RDONLY_PROG, WRONLY_PROG = int(MapFlag.RDONLY_PROG), int(MapFlag.WRONLY_PROG)

# The words of a hash map's index, in bytes from its start.
MULTIPLIER, SHIFT, COUNT = 8 * hashes.MULTIPLIER, 8 * hashes.SHIFT, 8 * hashes.COUNT
FREE, USED, CAPACITY = 8 * hashes.FREE, 8 * hashes.USED, 8 * hashes.CAPACITY
NEWEST, OLDEST, SEQUENCE = 8 * hashes.NEWEST, 8 * hashes.OLDEST, 8 * hashes.SEQUENCE

# Those of a ring buffer.
RING_SEQUENCE, CONSUMER, PRODUCER = 8 * rings.SEQUENCE, 8 * rings.CONSUMER, 8 * rings.PRODUCER
RECORD_HEADER, LONGEST_RECORD, WAKEUP_FLAGS = rings.RECORD_HEADER, rings.LONGEST_RECORD, rings.WAKEUP_FLAGS
BUSY_BIT = rings.BUSY_BIT

# The record of a run.
STATUS, SCRATCH, HOST = abi.OFFSET["status"], abi.OFFSET["scratch"], abi.OFFSET["host"]
STACK, FRAME = abi.OFFSET["stack"], abi.OFFSET["frame"]
REGIONS, REGION_COUNT = abi.OFFSET["regions"], abi.OFFSET["region_count"]
FRAME_STRIDE, STACK_BYTES, REGION_BYTES = abi.FRAME_STRIDE, abi.STACK_BYTES, abi.REGION.itemsize
DECLINED = int(abi.Status.DECLINED)

# What a host shows.
MAPS, CPU, RANDOM = SHOWN["maps"], SHOWN["cpu"], SHOWN["random"]
KTIME, BOOT, TAI = SHOWN["ktime_ns"], SHOWN["boot_ns"], SHOWN["tai_ns"]
