"""What the names of ELF sections tell a linker.

The type of a section says what it is for only in part: .eh_frame and .ctors are ordinary data by type,
and .data.rel.ro is ordinary writable data that only the linker writes. All names are looked at in one
step, by their first sixteen bytes as two words.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Rows, load_records
from jitlink.graph import Purpose

WORD = np.dtype("<u8")
C_IDENTIFIER = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*\0")
LONGEST_SET_NAME = 4096


def purposes_by_name(
    pool: Buffer, name: Rows, part_of_image: npt.NDArray[np.bool_], purpose: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Fill in the purposes that names tell, and find the data that is read-only once relocated.

    name: int64[sections], positions in pool; part_of_image: bool[sections]; purpose: uint8[sections],
    changed in place. Returns bool[sections], the sections that only relocation writes (.data.rel.ro,
    the initialiser arrays; GNU ld's -z relro covers the same).
    """
    first = load_records(pool, name, WORD)
    second = load_records(pool, name + 8, WORD)
    for prefix, meaning in (
        (b".ctors", Purpose.CTORS),
        (b".dtors", Purpose.DTORS),
        (b".init_array", Purpose.INIT_ARRAY),
        (b".fini_array", Purpose.FINI_ARRAY),
        (b".preinit_array", Purpose.PREINIT_ARRAY),
    ):
        named = _starts_with(first, second, prefix)
        # ".ctors" and ".ctors.00100" count, ".ctorsomething" does not.
        purpose[named & np.isin(_byte_at(first, second, len(prefix)), (0, ord(".")))] = meaning
    purpose[_starts_with(first, second, b".eh_frame\0") & part_of_image] = Purpose.EH_FRAME
    purpose[(_starts_with(first, second, b".debug_") | _starts_with(first, second, b".zdebug_")) & ~part_of_image] = (
        Purpose.DEBUG
    )
    for row in (((first & np.uint64(0xFF)) != ord(".")) & part_of_image).nonzero()[0].tolist():
        start = int(name[row])
        if C_IDENTIFIER.match(pool[start : start + LONGEST_SET_NAME].tobytes()):
            purpose[row] = Purpose.NAMED_SET
    relro: npt.NDArray[np.bool_] = (
        _starts_with(first, second, b".data.rel.ro")
        | _starts_with(first, second, b".ldata.rel.ro")
        | ((purpose >= Purpose.PREINIT_ARRAY) & (purpose <= Purpose.DTORS))
    )
    return relro & part_of_image


def _starts_with(
    first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64], prefix: bytes
) -> npt.NDArray[np.bool_]:
    """Compare the first bytes of all names, two words each, with a prefix of at most sixteen bytes."""
    head, tail = prefix[:8], prefix[8:]
    same: npt.NDArray[np.bool_] = (first & _mask(head)) == int.from_bytes(head, "little")
    return same & ((second & _mask(tail)) == int.from_bytes(tail, "little")) if tail else same


def _mask(part: bytes) -> np.uint64:
    return np.uint64((1 << 8 * len(part)) - 1)


def _byte_at(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64], index: int) -> npt.NDArray[np.uint64]:
    word = first if index < 8 else second
    return (word >> np.uint64(8 * (index % 8))) & np.uint64(0xFF)
