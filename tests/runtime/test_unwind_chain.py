"""Unwind records that do not hold together are refused before an unwinder sees them (LSB 10.6)."""

from __future__ import annotations

import struct

import pytest

import jitlink
from jitlink.graph import Purpose
from jitlink.runtime.unwind_chain import pointer_width

CODE = bytes.fromhex("b830000000c3")  # mov $48, %eax; ret
CIE = b"\x01zR\0\x01\x78\x10\x01\x1b\x0c\x07\x08\x90\x01\0\0"
"""Version 1, "zR": a pointer of an FDE is a signed 4-byte distance from its place."""


def record(pointer: int, body: bytes) -> bytes:
    """A record: its length, its CIE pointer, its body."""
    return struct.pack("<II", len(body) + 4, pointer) + body


def fde(back: int, function: int = 0) -> bytes:
    """An FDE of a function of 6 bytes; back: from its CIE pointer to its CIE."""
    return record(back, struct.pack("<iIB7x", function, 6, 0))


SOUND = record(0, CIE) + fde(len(CIE) + 12)
TERMINATOR = bytes(4)


def link_records(*sections: bytes) -> jitlink.Session:
    """Link a function with these unwind records, each section of its own input."""
    session = jitlink.Session()
    for number, content in enumerate(sections):
        graph = jitlink.new_graph(f"input {number}")
        text = graph.add_section(".text", jitlink.Protection.READ | jitlink.Protection.EXECUTE)
        graph.add_symbol(f"answer{number}", graph.add_block(text, CODE))
        frames = graph.add_section(".eh_frame", jitlink.Protection.READ, purpose=Purpose.EH_FRAME)
        graph.add_block(frames, content, alignment=8)
        session.dylib().add(graph)
    session.dylib().link()
    return session


def chains_of(session: jitlink.Session) -> list[int]:
    """What is registered of a session, in addresses; the session is closed."""
    with session:
        return [start for starts in session.unwinding._chains.values() for start in starts]


def test_sound_records_are_one_chain():
    """Sections without an end of their own are registered in one piece."""
    assert len(chains_of(link_records(SOUND, SOUND, SOUND))) == 1


def test_a_section_that_ends_its_records_begins_another_chain():
    """Behind the word of zeroes of one input the records of the next are registered too."""
    first, second = chains_of(link_records(SOUND + TERMINATOR, SOUND))
    assert second - first == len(SOUND + TERMINATOR)


def test_a_section_of_nothing_but_the_end_is_allowed():
    """The end file of a C compiler has a section of one word of zeroes."""
    assert len(chains_of(link_records(SOUND, TERMINATOR))) == 1
    assert len(chains_of(link_records(TERMINATOR, SOUND))) == 2


MALFORMED = {
    "length past the end": (record(0, CIE)[:-4], 0),
    "length one past the end": (SOUND + struct.pack("<II", 5, 0), len(SOUND)),
    "64-bit length": (SOUND + b"\xff" * 4 + bytes(12), len(SOUND)),
    "cut off in the length": (SOUND + b"\1\0", len(SOUND)),
    "too short for a CIE pointer": (SOUND + struct.pack("<I", 3) + bytes(3), len(SOUND)),
    "zeroes between records": (SOUND + TERMINATOR + SOUND, len(SOUND)),
    "CIE pointer into the middle of a CIE": (record(0, CIE) + fde(len(CIE) + 8), len(CIE) + 8),
    "CIE pointer out of the section": (record(0, CIE) + fde(1 << 20), len(CIE) + 8),
    "CIE pointer to an FDE": (SOUND + fde(24), len(SOUND)),
    "FDE before any CIE": (fde(4) + record(0, CIE), 0),
    "FDE too short for its function": (record(0, CIE) + record(len(CIE) + 12, bytes(4)), len(CIE) + 8),
    "CIE without fields": (record(0, b""), 0),
    "CIE whose augmentation string has no end": (record(0, b"\x01zRRRRRR"), 0),
    "CIE whose factor has no end": (record(0, b"\x01zR\0" + b"\x80" * 8), 0),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_records_that_do_not_hold_together_are_malformed(name):
    """The link fails with the input, the section and the offset of the record, and registers nothing."""
    content, offset = MALFORMED[name]
    with pytest.raises(jitlink.MalformedInput) as caught:
        link_records(SOUND, content)
    assert (caught.value.input, caught.value.section, caught.value.offset) == ("input 1", ".eh_frame", offset)


UNSUPPORTED = {
    "version 2": b"\x02" + CIE[1:],
    "augmentation eh": b"\x01eh\0" + bytes(16),
    "augmentation letter": CIE.replace(b"zR", b"zX"),
    "LEB128 pointers": CIE.replace(b"\x1b", b"\x01"),
    "omitted pointers": CIE.replace(b"\x1b", b"\xff"),
    "pointers relative to data": CIE.replace(b"\x1b", b"\x3b"),
    "indirect pointers": CIE.replace(b"\x1b", b"\x9b"),
    "personality relative to text": b"\x01zP\0\x01\x78\x10\x05\x2b" + bytes(8),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_records_that_unwinders_do_not_read_are_unsupported(name):
    """libgcc would abort the process, or find no frame, when the first exception is thrown."""
    with pytest.raises(jitlink.UnsupportedInput) as caught:
        link_records(record(0, UNSUPPORTED[name]))
    assert (caught.value.section, caught.value.offset) == (".eh_frame", 0)


@pytest.mark.parametrize(
    ("encoding", "width"),
    [(0x00, 8), (0x02, 2), (0x03, 4), (0x04, 8), (0x0A, 2), (0x0B, 4), (0x0C, 8), (0x10, 8), (0x1B, 4), (0x1C, 8)],
)
def test_width_of_pointers_is_that_of_their_encoding(encoding, width):
    """LSB table 10.5.1: the low half of an encoding is the size of the pointer."""
    assert pointer_width(CIE.replace(b"\x1b", bytes([encoding]))) == width


def test_width_of_pointers_is_found_behind_a_personality_routine():
    """The data of the augmentation stand in the order of its letters: "zPLR"."""
    body = b"\x01zPLR\0\x01\x78\x10\x07\x9b" + bytes(4) + b"\x1b\x03" + bytes(8)
    assert pointer_width(body) == 4
