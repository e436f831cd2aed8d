"""CREL: the compact relocation sections of ELF (SHT_CREL).

A CREL section is a stream of LEB128 numbers. Its header says how many relocations there are, whether
they have addends, and by how many bits offsets were shifted. Each relocation starts with a number whose
low bits say which of symbol, type and addend differ from the relocation before, and whose other bits
are the distance to it; the differences follow as signed numbers.

All LEB128 numbers of the stream are decoded in one step. Which of them starts a relocation depends on
the one before, a chain; walking it is the job of the verb `follow`.

Source: "CREL relocation format", proposal to the generic ABI (M. Song, 2024), as in LLVM 20's
llvm/Object/RelocationResolver and binutils 2.44.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.columns import NO_ROWS, Buffer, Rows, follow
from jitlink.errors import MalformedInput

HAS_ADDENDS = 4
SHIFT_MASK = 3
LONGEST_LEB128 = 10


@dataclass(frozen=True)
class CompactRelocations:
    """What a CREL section holds: uint64[n] offsets; int64[n] types, symbols and addends."""

    offset: npt.NDArray[np.uint64]
    type: Rows
    symbol: Rows
    addend: Rows
    has_addends: bool


def read_crel(stream: Buffer) -> CompactRelocations:
    """Unpack a CREL section. stream: uint8[bytes]. Raises MalformedInput (without the input's name)."""
    unsigned, signed, beyond = _decode_leb128(stream)
    if not len(unsigned):
        raise MalformedInput("a CREL section without its header")
    header = int(unsigned[0])
    count, has_addends, shift = header >> 3, bool(header & HAS_ADDENDS), header & SHIFT_MASK
    if count > len(unsigned) - 1:
        raise MalformedInput("a CREL section claims more relocations than it holds")
    if not count:
        return CompactRelocations(np.empty(0, np.uint64), NO_ROWS, NO_ROWS, NO_ROWS, has_addends)
    flag_bits = 3 if has_addends else 2
    # The number of values that a relocation would take if it started at value i: itself and one for each flag.
    flags = unsigned & np.uint64((1 << flag_bits) - 1)
    taken = 1 + np.bitwise_count(flags).astype(np.int64)
    end = len(unsigned)
    following = np.append(np.minimum(np.arange(end) + taken, end), end)
    heads = follow(following, 1, count)
    if int(heads[-1]) >= end or int(heads[-1]) + int(taken[heads[-1]]) > end:
        raise MalformedInput("a CREL section ends inside a relocation")
    # Offsets may go back: a distance has 64 bits, and its number the flag bits more.
    delta = (unsigned[heads] >> np.uint64(flag_bits)) | (beyond[heads] << np.uint64(64 - flag_bits))
    present = flags[heads]
    value = np.append(signed, 0)
    at = heads + 1
    columns = []
    for bit in range(flag_bits):
        has = (present >> np.uint64(bit)) & np.uint64(1) != 0
        columns.append(np.where(has, value[np.minimum(at, end)], 0))
        at = at + has
    symbol, type, addend = columns if has_addends else (*columns, np.zeros(count, np.int64))
    return CompactRelocations(
        offset=delta.cumsum(dtype=np.uint64) << np.uint64(shift),
        # The proposal keeps symbol and type in 32 bits, and differences wrap around.
        symbol=symbol.cumsum() & 0xFFFFFFFF,
        type=type.cumsum() & 0xFFFFFFFF,
        addend=addend.cumsum(),
        has_addends=has_addends,
    )


def _decode_leb128(stream: Buffer) -> tuple[npt.NDArray[np.uint64], Rows, npt.NDArray[np.uint64]]:
    """Decode a stream of LEB128 numbers, each both as unsigned and as signed.

    stream: uint8[bytes]. Returns (uint64[n], int64[n]), modulo 2**64, and the bits beyond those of each
    (uint64[n]). Raises MalformedInput when the last number has no end or one is longer than ten bytes.
    """
    last = ((stream & 0x80) == 0).nonzero()[0]
    if not len(last) or int(last[-1]) != len(stream) - 1:
        raise MalformedInput("a CREL section ends inside a number")
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if int(length.max()) > LONGEST_LEB128:
        raise MalformedInput("a CREL section has a number of more than 64 bits")
    value = np.zeros(len(first), np.uint64)
    for digit in range(int(length.max())):
        has = length > digit
        septet = stream[np.where(has, first + digit, 0)].astype(np.uint64) & np.uint64(0x7F)
        value |= np.where(has, septet << np.uint64(7 * digit), np.uint64(0))
    # The last of ten septets has bit 63 and the six beyond it.
    beyond = np.where(length == LONGEST_LEB128, (stream[last] >> 1).astype(np.uint64), np.uint64(0))
    bits = (7 * length).astype(np.uint64)
    negative = ((stream[last] & 0x40) != 0) & (bits < 64)
    extension = np.uint64(0xFFFFFFFFFFFFFFFF) << np.minimum(bits, np.uint64(63))
    return value, (value | np.where(negative, extension, np.uint64(0))).view(np.int64), beyond
