"""Where the bits of a relocation's value go: a whole word, or ranges of bits in an instruction.

A field is data, as the formula is. An ABI document says "bits [27:2] of X go into the immediate of B";
here that is

    Bits(Part(value=2, width=26, word=0))

and prints as `word32[25:0] = value[27:2]`. A field only cuts; whether what it cuts off may be cut off,
the check of its kind says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitlink.columns import Buffer, Column, load_records, store_records

Addresses = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Field:
    """Where the bits of a value go: here, the whole of a word.

    word: the dtype of the word.
    """

    word: np.dtype[Any]

    @property
    def size(self) -> int:
        """Of the word, in bytes."""
        return self.word.itemsize

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write values into their words. image: uint8; positions: int64[n], of the words; values: uint64[n]."""
        store_records(image, positions, values.astype(self.word))

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """Read back what is in the words, sign-extended: the addend of a relocation that has none of its own."""
        signed_word = np.dtype(self.word.str.replace("u", "i"))
        return load_records(image, positions, signed_word).astype(np.int64)

    def __str__(self) -> str:
        return f"word{8 * self.size}" if self.size else "none"


class Part(NamedTuple):
    """Bits [value + width - 1 : value] of the value go to bits [word + width - 1 : word] of the word."""

    value: int
    width: int
    word: int

    @property
    def mask(self) -> int:
        """The bits of the word that the part fills."""
        return ((1 << self.width) - 1) << self.word

    def __str__(self) -> str:
        return f"[{self.word + self.width - 1}:{self.word}] = value[{self.value + self.width - 1}:{self.value}]"


@dataclass(frozen=True)
class BitField(Field):
    """Ranges of bits in a word, whose other bits stay as they are.

    parts: what goes where. signed: whether the highest bit that is read back is a sign.
    """

    parts: tuple[Part, ...] = ()
    signed: bool = True

    def store(self, image: Buffer, positions: Column, values: Addresses) -> None:
        """Write the parts into their words, and leave the rest of each word."""
        words = load_records(image, positions, self.word).astype(np.uint64)
        filled = sum(part.mask for part in self.parts)
        words &= np.uint64(~filled & (1 << 64) - 1)
        for part in self.parts:
            mask = np.uint64((1 << part.width) - 1)
            words |= ((values >> np.uint64(part.value)) & mask) << np.uint64(part.word)
        store_records(image, positions, words.astype(self.word))

    def load(self, image: Buffer, positions: Column) -> npt.NDArray[np.int64]:
        """Put the value together from its parts; bits that no part holds are zero, above them the sign."""
        words = load_records(image, positions, self.word).astype(np.uint64)
        value = np.zeros(len(words), np.uint64)
        for part in self.parts:
            mask = np.uint64((1 << part.width) - 1)
            value |= ((words >> np.uint64(part.word)) & mask) << np.uint64(part.value)
        top = max(part.value + part.width for part in self.parts)
        if not self.signed or top == 64:
            return value.view(np.int64)
        above = np.int64(64 - top)
        extended: npt.NDArray[np.int64] = (value.view(np.int64) << above) >> above
        return extended

    def __str__(self) -> str:
        return f"word{8 * self.size}{', '.join(map(str, self.parts))}"


def bits(*parts: Sequence[int], word: str = "<u4", signed: bool = True) -> BitField:
    """Make the field of an instruction from (lowest bit of the value, width, lowest bit of the word) of each part."""
    return BitField(np.dtype(word), tuple(Part(*part) for part in parts), signed)


WORD8, WORD16, WORD32, WORD64 = (Field(np.dtype(f"<u{size}")) for size in (1, 2, 4, 8))
NO_FIELD = Field(np.dtype("V0"))
