"""Names as numbers: the hash by which SBPF calls syscalls, and functions in versions 0 to 2.

It is MurmurHash3 (Austin Appleby, the variant x86_32) with seed 0: of the name of a syscall, or of the place of
a function, which is the index of its first slot as 8 bytes, little-endian.
"""

from __future__ import annotations

WORD = 0xFFFF_FFFF
ENTRYPOINT = "entrypoint"


def murmur3(data: bytes, seed: int = 0) -> int:
    """Compute MurmurHash3_x86_32 of bytes, an unsigned number of 32 bits."""
    hash = seed
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        hash ^= _scrambled(int.from_bytes(data[at : at + 4], "little"))
        hash = (_rotated(hash, 13) * 5 + 0xE654_6B64) & WORD
    hash ^= _scrambled(int.from_bytes(data[whole:], "little"))
    hash ^= len(data)
    hash = (hash ^ hash >> 16) * 0x85EB_CA6B & WORD
    hash = (hash ^ hash >> 13) * 0xC2B2_AE35 & WORD
    return hash ^ hash >> 16


def hash_of_name(name: str | bytes) -> int:
    """The number of a syscall by its name."""
    return murmur3(name.encode() if isinstance(name, str) else name)


def hash_of_place(slot: int) -> int:
    """The number of a function by the index of its first slot."""
    return murmur3(slot.to_bytes(8, "little"))


def _scrambled(word: int) -> int:
    return _rotated(word * 0xCC9E_2D51 & WORD, 15) * 0x1B87_3593 & WORD


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (32 - bits)) & WORD
