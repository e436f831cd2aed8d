"""The chain of unwind records of a link, checked before an unwinder walks it.

An .eh_frame section is a chain of records, each of which begins with its length: a CIE describes what a
set of frames has in common, an FDE one function. A word of zeroes ends the chain. Unwinders trust all of
it: libgcc follows a wrong length or CIE pointer wherever it leads, and aborts the process at an encoding
that it does not know, and it does so when the first exception is thrown, long after the link. So a link
whose records do not hold together is refused while it still can be.

Checked are the chain, the tie of each FDE to its CIE, and what a CIE says about the pointers in its
FDEs. Not checked are the call frame instructions: as with code, their makers are trusted.

An input may end its own records with zeroes, as the end file of a C compiler does. The linker's layout
puts the sections side by side, and an unwinder would stop there; so what follows is a chain of its own.

Source: Linux Standard Base Core 5.0, sections 10.5 (DWARF Extensions) and 10.6 (Exception Frames).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from jitlink.errors import InputError, MalformedInput, UnsupportedInput
from jitlink.graph import Purpose
from jitlink.layout import UNWIND_END_SIZE
from jitlink.linker import Linked

EH_FRAME = (int(Purpose.EH_FRAME), b"")
HEADER = struct.Struct("<II").unpack_from
"""The length of a record and its CIE pointer, which the length counts already."""
EXTENDED_LENGTH = 0xFFFFFFFF
HEADER_SIZE = 8

VERSIONS = (1, 3)
WIDTHS = {0x0: 8, 0x2: 2, 0x3: 4, 0x4: 8, 0xA: 2, 0xB: 4, 0xC: 8}
"""Bytes of a pointer by the low half of its encoding; those of variable length have no place in an FDE."""
ABSOLUTE, RELATIVE_TO_PLACE, INDIRECT = 0x00, 0x10, 0x80
POINTER_SIZE = 8
LONGEST_FIELDS = 256
"""Bytes that the fields of a CIE may take before its call frame instructions; they take some 20."""
CIES_REMEMBERED = 256
"""Most objects of a compiler have the same CIE."""


@dataclass(frozen=True)
class UnwindChain:
    """The unwind records of a link.

    Attributes: address; size (bytes, with the word of zeroes at the end); starts (addresses at which a
    chain begins: one, but where an input ends its own records).
    """

    address: int
    size: int
    starts: list[int]


def unwind_chain(linked: Linked) -> UnwindChain | None:
    """Check the unwind records of a finished image; None where there are none.

    Sees to it that a word of zeroes stands behind the last record. Raises MalformedInput for records
    that do not hold together, UnsupportedInput for versions, augmentations and encodings that an
    unwinder of this process does not read.
    """
    blocks = linked.layout.sets.get(EH_FRAME)
    if not blocks:
        return None
    sizes = linked.graph.blocks.size[blocks].tolist()
    first, size = int(linked.layout.position[blocks[0]]), sum(sizes)
    content = linked.image[first : first + size + UNWIND_END_SIZE]
    # The gaps of an image may hold what was between the sections of an input.
    content[size:] = 0
    view = content.data
    starts: list[int] = []
    at, ended = 0, True
    for block, block_size in zip(blocks, sizes, strict=True):
        if ended and block_size:
            starts.append(linked.base + first + at)
        try:
            ended = _check_section(view, at, at + block_size) if block_size else ended
        except InputError as error:
            row = linked.graph.blocks[block]
            error.input, error.section, error.offset = row.input, row.section.name, (error.offset or at) - at
            raise
        at += block_size
    return UnwindChain(linked.base + first, len(content), starts)


def _check_section(view: memoryview, start: int, end: int) -> bool:
    """Walk the records of one section; returns whether a word of zeroes ends them.

    view: all records, and the word of zeroes behind the last. The records are many: a step of the walk
    costs a call and a lookup.
    """
    cies: dict[int, int] = {}
    read, least_of, at = HEADER, cies.get, start
    while at < end:
        try:
            length, pointer = read(view, at)
        except struct.error:
            raise MalformedInput("an unwind record that is cut off", offset=at) from None
        following = at + 4 + length
        if following > end:
            fault = "goes past the end of its section" if length != EXTENDED_LENGTH else "has a 64-bit length"
            raise MalformedInput(f"an unwind record that {fault}", offset=at)
        if not length:
            if any(view[at:end]):
                raise MalformedInput("a word of zeroes between unwind records, which would end them", offset=at)
            return True
        if pointer:
            # The second word of an FDE is the distance from there back to its CIE.
            least = least_of(at + 4 - pointer)
            if least is None:
                raise MalformedInput("an unwind record that refers to no CIE", offset=at)
            if length < least:
                raise MalformedInput("an unwind record that is too short to say what it describes", offset=at)
        else:
            try:
                head = view[at + HEADER_SIZE : min(following, at + HEADER_SIZE + LONGEST_FIELDS)]
                cies[at] = 4 + 2 * pointer_width(bytes(head))
            except InputError as error:
                error.offset = at
                raise
        at = following
    return False


@lru_cache(CIES_REMEMBERED)
def pointer_width(body: bytes) -> int:
    """Read a CIE: how many bytes a pointer in its FDEs has. LSB 10.6.1.1.

    body: the CIE behind its CIE pointer. Raises MalformedInput and UnsupportedInput.
    """
    reader = _Reader(body)
    version = reader.byte()
    if version not in VERSIONS:
        raise UnsupportedInput(f"a CIE of version {version}, where unwinders read 1 and 3")
    augmentation = reader.string()
    reader.skip_leb128()  # code alignment factor
    reader.skip_leb128()  # data alignment factor
    if version == 1:
        reader.byte()  # return address register
    else:
        reader.skip_leb128()
    if not augmentation:
        return POINTER_SIZE
    if not augmentation.startswith(b"z"):
        raise UnsupportedInput(f"a CIE with the unknown augmentation {augmentation!r}")
    reader.skip_leb128()  # size of the augmentation data
    width = POINTER_SIZE
    for letter in augmentation[1:]:
        match chr(letter):
            case "L":
                reader.byte()  # the encoding that the personality routine reads
            case "R":
                width = _width_of_function(reader.byte())
            case "P":
                _skip_personality(reader)
            case "S" | "B" | "G":
                pass  # a signal frame; signed or tagged return addresses: no data
            case unknown:
                raise UnsupportedInput(f"a CIE with the unknown augmentation {unknown!r} in {augmentation!r}")
    return width


def _width_of_function(encoding: int) -> int:
    if encoding & 0xF not in WIDTHS or encoding & 0xF0 not in (ABSOLUTE, RELATIVE_TO_PLACE):
        raise UnsupportedInput(f"a CIE whose functions have the pointer encoding {encoding:#x}")
    return WIDTHS[encoding & 0xF]


def _skip_personality(reader: _Reader) -> None:
    encoding = reader.byte()
    if encoding & 0xF not in WIDTHS or encoding & ~INDIRECT & 0xF0 not in (ABSOLUTE, RELATIVE_TO_PLACE):
        raise UnsupportedInput(f"a CIE whose personality routine has the pointer encoding {encoding:#x}")
    reader.skip(WIDTHS[encoding & 0xF])


class _Reader:
    """Reads the fields of one CIE. Raises MalformedInput behind its end."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.content):
            raise MalformedInput("a CIE that ends before its fields do")

    def byte(self) -> int:
        self.skip(1)
        return self.content[self.at - 1]

    def string(self) -> bytes:
        text, end, _ = self.content[self.at :].partition(b"\0")
        self.skip(len(text) + 1 if end else len(self.content))
        return text

    def skip_leb128(self) -> None:
        while self.byte() & 0x80:
            pass
