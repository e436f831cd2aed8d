"""The dynamic relocations of SBPF, applied to an image of the file: see jitlink.bpf.sbpf.reader for what each does.

All relocations of one type are applied at once. The reader makes sure that a section's address is its place
in the file, so that the places of relocations, which are addresses, are places in the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.bpf.instructions import SLOT
from jitlink.bpf.sbpf.elf_file import STT_FUNC
from jitlink.bpf.sbpf.hashes import ENTRYPOINT, hash_of_name, hash_of_place
from jitlink.bpf.sbpf.memory import PROGRAM_START
from jitlink.columns import Buffer, Rows, load_records, store_records
from jitlink.errors import MalformedInput, Place, UnsupportedRelocation

R_BPF_NONE, R_BPF_64_64, R_BPF_64_RELATIVE, R_BPF_64_32 = 0, 1, 8, 10
CALL, EXTERNAL = 0x85, -1
IMM = 4
"""Where in a slot the immediate is."""
CONSTANT_BYTES = 2 * SLOT
_U32, _U64 = np.dtype("<u4"), np.dtype("<u8")
Addresses = npt.NDArray[np.uint64]


class Relocator:
    """An image with what its relocations say.

    Attributes: image (uint8[n]); functions (slot by number), syscalls (name by number), addresses (that were
    written).
    """

    def __init__(
        self,
        image: Buffer,
        text: tuple[int, int],
        symbols: npt.NDArray[Any],
        strings: tuple[int, int],
        name_at: Callable[[int, int, int], bytes],
        input: str,
    ) -> None:
        """symbols, strings: of the dynamic symbol table, and where its names are; name_at reads one of them."""
        self.image = image
        self.text_start, self.text_end = text
        self.symbols = symbols
        self.strings = strings
        self.name_at = name_at
        self.input = input
        self.functions: dict[int, int] = {}
        self.syscalls: dict[int, str] = {}
        self.addresses: set[int] = set()

    @property
    def slots(self) -> int:
        """How many slots the code has."""
        return (self.text_end - self.text_start) // SLOT

    def add_function(self, name: bytes, slot: int) -> int:
        """Give a function its number: of its place, or for the entry point of that name."""
        if name == ENTRYPOINT.encode():
            number = hash_of_name(name)
            self.functions[number] = slot
            return number
        number = hash_of_place(slot)
        if self.functions.setdefault(number, slot) != slot:
            raise MalformedInput(f"two functions have the number {number:#x}", section=".text", offset=slot * SLOT)
        return number

    def number_calls(self) -> None:
        """Turn the distances in calls that the linker has finished into numbers."""
        start = self.text_start + SLOT * np.arange(self.slots)
        calls = (self.image[start] == CALL).nonzero()[0]
        distance = load_records(self.image, start[calls] + IMM, _U32).view(np.int32).astype(np.int64)
        calls, distance = calls[distance != EXTERNAL], distance[distance != EXTERNAL]
        target = calls + 1 + distance
        astray = ((target < 0) | (target >= self.slots)).nonzero()[0]
        if len(astray):
            raise MalformedInput("a call leads out of the code", section=".text", offset=int(calls[astray[0]]) * SLOT)
        found, row = np.unique(target, return_inverse=True)
        numbers = np.array([self.add_function(b"", slot) for slot in found.tolist()], np.uint32)
        store_records(self.image, start[calls] + IMM, numbers[row])

    def apply(self, relocations: npt.NDArray[Any]) -> None:
        """Apply relocations, rows of REL. Raises MalformedInput and UnsupportedRelocation."""
        place = relocations["offset"]
        if len(place) and len(np.unique(place)) < len(place):
            raise MalformedInput("two relocations are of one place")
        types = {R_BPF_64_64: self._symbol, R_BPF_64_RELATIVE: self._relative, R_BPF_64_32: self._call}
        unknown = ~np.isin(relocations["type"], (R_BPF_NONE, *types))
        if unknown.any():
            row = relocations[unknown][0]
            raise UnsupportedRelocation(
                f"type {row['type']}",
                int(row["type"]),
                "SBPF has the types 1, 8 and 10",
                [Place(self.input, "", int(row["offset"]))],
            )
        for number, apply in types.items():
            of_type = relocations[relocations["type"] == number]
            if len(of_type):
                apply(self._inside(of_type["offset"]), of_type["symbol"].astype(np.int64))

    def _inside(self, place: Addresses, size: int = SLOT) -> Rows:
        """Places as rows of the image. Raises MalformedInput where the size bytes there are not all in it."""
        outside = (place > np.uint64(max(len(self.image) - size, 0))).nonzero()[0]
        if len(outside) or (len(place) and len(self.image) < size):
            at = int(place[outside[0]]) if len(outside) else 0
            raise MalformedInput("a relocation is of a place outside of the file", offset=at)
        return place.astype(np.int64)

    def _symbol(self, place: Rows, symbol: Rows) -> None:
        """R_BPF_64_64."""
        self._inside(place.astype(np.uint64), CONSTANT_BYTES)
        value = self.symbols["value"][self._known(symbol)]
        self._write_constants(place, value + load_records(self.image, place + IMM, _U32))

    def _relative(self, place: Rows, symbol: Rows) -> None:
        """R_BPF_64_RELATIVE."""
        in_text = (place >= self.text_start) & (place < self.text_end)
        code, data = place[in_text], place[~in_text]
        self._inside(code.astype(np.uint64), CONSTANT_BYTES)
        low = load_records(self.image, code + IMM, _U32).astype(np.uint64)
        high = load_records(self.image, code + SLOT + IMM, _U32).astype(np.uint64)
        value = high << np.uint64(32) | low
        if not value.all():
            at = int(code[(value == 0).nonzero()[0][0]])
            raise MalformedInput("a relocated constant is 0, which no address is", offset=at)
        self._write_constants(code, value)
        value = load_records(self.image, data + IMM, _U32) + np.uint64(PROGRAM_START)
        store_records(self.image, data, value.astype(_U64))
        self.addresses.update(value.tolist())

    def _write_constants(self, place: Rows, value: Addresses) -> None:
        value = np.where(value < PROGRAM_START, value + np.uint64(PROGRAM_START), value)
        store_records(self.image, place + IMM, value.astype(_U32))
        store_records(self.image, place + SLOT + IMM, (value >> np.uint64(32)).astype(_U32))
        self.addresses.update(value.tolist())

    def _call(self, place: Rows, symbol: Rows) -> None:
        """R_BPF_64_32."""
        found, row = np.unique(self._known(symbol), return_inverse=True)
        numbers = np.array([self._number_of(each) for each in found.tolist()], np.uint32)
        store_records(self.image, place + IMM, numbers[row])

    def _number_of(self, number: int) -> int:
        """The number to call a symbol by."""
        symbol = self.symbols[number]
        name = self.name_at(*self.strings, int(symbol["name"]))
        offset = int(symbol["value"])
        if int(symbol["info"]) & 15 == STT_FUNC and offset:
            if not self.text_start <= offset < self.text_end:
                raise MalformedInput("a function lies outside of the code", symbol=name.decode(errors="replace"))
            return self.add_function(name, (offset - self.text_start) // SLOT)
        hash = hash_of_name(name)
        self.syscalls[hash] = name.decode(errors="replace")
        return hash

    def _known(self, symbol: Rows) -> Rows:
        unknown = symbol[symbol >= len(self.symbols)]
        if len(unknown):
            raise MalformedInput(f"a relocation names the dynamic symbol {int(unknown[0])}, which there is not")
        return symbol
