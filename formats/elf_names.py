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
ORDINARY = -1
"""Stands for data whose name only says that nothing but relocation writes it."""

PREFIXES = {
    b".ctors": Purpose.CTORS,
    b".dtors": Purpose.DTORS,
    b".init_array": Purpose.INIT_ARRAY,
    b".fini_array": Purpose.FINI_ARRAY,
    b".preinit_array": Purpose.PREINIT_ARRAY,
    b".eh_frame": Purpose.EH_FRAME,
    b".data.rel.ro": ORDINARY,
    b".ldata.rel.ro": ORDINARY,
    b".debug_": Purpose.DEBUG,
    b".zdebug_": Purpose.DEBUG,
}
"""What a section is for whose name is one of these, or starts with one of these and a dot.

Names of debug sections go on without a dot, and there is nothing but the whole name .eh_frame."""
HEAD = 6
"""Bytes that tell the prefixes apart."""
IN_ORDER = sorted(PREFIXES, key=lambda prefix: int.from_bytes(prefix[:HEAD], "little"))
HEADS = np.array([int.from_bytes(prefix[:HEAD], "little") for prefix in IN_ORDER], np.uint64)
HEAD_MASK = np.uint64((1 << 8 * HEAD) - 1)
DOT = np.uint64(ord("."))
LOW_BYTE = np.uint64(0xFF)


def purposes_by_name(
    pool: Buffer, name: Rows, part_of_image: npt.NDArray[np.bool_], purpose: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Fill in the purposes that names tell, and find the data that is read-only once relocated.

    name: int64[sections], positions in pool; part_of_image: bool[sections]; purpose: uint8[sections],
    changed in place. Returns bool[sections], the sections that only relocation writes (.data.rel.ro,
    the initialiser arrays; GNU ld's -z relro covers the same).
    """
    first = load_records(pool, name, WORD)
    head = first & HEAD_MASK
    nearest = HEADS.searchsorted(head)
    nearest[nearest == len(HEADS)] = 0
    rows = (HEADS[nearest] == head).nonzero()[0]
    only_relocated = np.zeros(len(name), np.bool_)
    if len(rows):
        which = nearest[rows]
        first_of_rows, second = first[rows], load_records(pool, name[rows] + 8, WORD)
        for number in np.bincount(which).nonzero()[0].tolist():
            prefix = IN_ORDER[number]
            meaning = PREFIXES[prefix]
            named = rows[(which == number) & _has_prefix(first_of_rows, second, prefix, meaning)]
            if meaning == Purpose.DEBUG:
                purpose[named[~part_of_image[named]]] = meaning
                continue
            named = named[part_of_image[named]]
            only_relocated[named] = meaning != Purpose.EH_FRAME
            if meaning != ORDINARY:
                purpose[named] = meaning
    _find_named_sets(pool, name, ((first & LOW_BYTE) != DOT) & part_of_image, purpose)
    return only_relocated


def _has_prefix(
    first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64], prefix: bytes, meaning: int
) -> npt.NDArray[np.bool_]:
    """Whether names, of which the first two words are given, are a prefix or one with a dot behind."""
    head, tail = prefix[:8], prefix[8:]
    same: npt.NDArray[np.bool_] = (first & _mask(head)) == int.from_bytes(head, "little")
    if tail:
        same &= (second & _mask(tail)) == int.from_bytes(tail, "little")
    if meaning == Purpose.DEBUG:
        return same
    word = first if len(prefix) < 8 else second
    following = (word >> np.uint64(8 * (len(prefix) % 8))) & LOW_BYTE
    same &= (following == 0) | ((following == DOT) & (meaning != Purpose.EH_FRAME))
    return same


def _find_named_sets(
    pool: Buffer, name: Rows, candidates: npt.NDArray[np.bool_], purpose: npt.NDArray[np.uint8]
) -> None:
    """Find the sections whose names are C identifiers: __start_NAME and __stop_NAME may enclose them."""
    for row in candidates.nonzero()[0].tolist():
        start = int(name[row])
        if C_IDENTIFIER.match(pool[start : start + LONGEST_SET_NAME].tobytes()):
            purpose[row] = Purpose.NAMED_SET


def _mask(part: bytes) -> np.uint64:
    return np.uint64((1 << 8 * len(part)) - 1)
