"""CREL, the compact form of relocation sections: hand-made streams, and objects that clang makes.

Source: the proposal "CREL relocation format" to the generic ABI (2024). A stream is made of LEB128
numbers: the header `count * 8 + (addends ? 4 : 0) + shift`; then for each relocation the distance of
its offset, above 3 flag bits (2 without addends) that say which of symbol, type and addend differ from
the relocation before, followed by the differences.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitlink
from jitlink import MalformedInput
from jitlink.formats.elf_crel import CompactRelocations, read_crel
from tests.toolchain import compile_with, needs

Relocation = tuple[int, int, int, int]
"""Offset, symbol, type, addend."""


def uleb128(value: int) -> bytes:
    """Encode an unsigned number (DWARF 5, 7.6)."""
    out = bytearray()
    while True:
        value, septet = value >> 7, value & 0x7F
        out.append(septet | (0x80 if value else 0))
        if not value:
            return bytes(out)


def sleb128(value: int) -> bytes:
    """Encode a signed number (DWARF 5, 7.6)."""
    out = bytearray()
    while True:
        septet, value = value & 0x7F, value >> 7
        done = (value == 0 and not septet & 0x40) or (value == -1 and bool(septet & 0x40))
        out.append(septet | (0 if done else 0x80))
        if done:
            return bytes(out)


def signed(value: int, bits: int) -> int:
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def crel(relocations: list[Relocation], *, addends: bool = True, shift: int = 0) -> bytes:
    """Encode relocations, in the plainest way: the definition of the format, read backwards."""
    out = bytearray(uleb128(len(relocations) * 8 + (4 if addends else 0) + shift))
    flag_bits = 3 if addends else 2
    before: Relocation = (0, 0, 0, 0)
    for relocation in relocations:
        distance = ((relocation[0] - before[0]) % 2**64) >> shift
        steps = [signed(relocation[1] - before[1], 32), signed(relocation[2] - before[2], 32)]
        steps.append(signed(relocation[3] - before[3], 64) if addends else 0)
        flags = sum(1 << bit for bit, step in enumerate(steps) if step)
        # The distance has up to 64 bits, and the flags stand below it: the number has up to 67.
        out += uleb128(distance << flag_bits | flags)
        out += b"".join(sleb128(step) for step in steps if step)
        before = relocation
    return bytes(out)


def decoded(stream: bytes) -> CompactRelocations:
    return read_crel(np.frombuffer(stream, np.uint8))


def rows(found: CompactRelocations) -> list[Relocation]:
    columns = (found.offset, found.symbol, found.type, found.addend)
    return list(zip(*(column.tolist() for column in columns), strict=True))


RELOCATIONS = st.lists(
    st.tuples(
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(-(2**63), 2**63 - 1),
    ),
    max_size=20,
)


@given(RELOCATIONS)
def test_relocations_with_addends_are_read_back(relocations: list[Relocation]) -> None:
    """What is encoded by the definition is decoded: offsets, symbols, types and addends of any size."""
    found = decoded(crel(relocations))
    assert found.has_addends
    assert rows(found) == relocations


@given(RELOCATIONS, st.integers(0, 3))
def test_relocations_without_addends_have_two_flags(relocations: list[Relocation], shift: int) -> None:
    """Without addends there are two flag bits, and offsets may be shifted by up to three bits."""
    plain = [(offset >> shift << shift, symbol, kind, 0) for offset, symbol, kind, _ in relocations]
    found = decoded(crel(plain, addends=False, shift=shift))
    assert not found.has_addends
    assert rows(found) == plain


def test_a_stream_by_hand() -> None:
    """The bytes of two relocations, worked out on paper: each number and each flag where it belongs."""
    stream = bytes(
        [
            2 << 3 | 4,  # two relocations, with addends, no shift
            5 << 3 | 0b111,  # offset 5; symbol, type and addend change:
            3,  # symbol 3
            2,  # type 2
            0x7C,  # addend -4
            8 << 3 | 0b001,  # offset 13; the symbol changes:
            0x7F,  # by -1, to 2
        ]
    )
    assert rows(decoded(stream)) == [(5, 3, 2, -4), (13, 2, 2, -4)]


def test_an_empty_stream_holds_no_relocations() -> None:
    """A header of zero is a section without relocations."""
    assert rows(decoded(b"\0")) == []
    assert rows(decoded(b"\x04")) == []


def test_offsets_may_go_back() -> None:
    """A distance is modulo 2**64: an assembler that writes relocations out of order can say so."""
    relocations = [(0x100, 1, 1, 0), (0x80, 1, 1, 0), (0, 1, 1, 0), (0x40, 1, 1, 0)]
    assert rows(decoded(crel(relocations))) == relocations
    assert rows(decoded(crel(relocations, addends=False, shift=3))) == relocations


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (b"", "number|header"),
        (b"\x80", "ends inside a number"),
        (b"\x0c\x2f\x03\x02\x80", "ends inside a number"),
        (b"\x0c\x2f\x03\x02", "inside a relocation"),
        (b"\x14\x28", "more relocations than it holds"),
        (b"\x14\x2f\x03\x02\x01", "inside a relocation"),
        (b"\x80" * 11 + b"\x00", "more than 64 bits"),
        (uleb128((2**61 - 1) << 3 | 4) + b"\0" * 50, "more relocations than it holds"),
    ],
)
def test_a_broken_stream_is_malformed(stream: bytes, fault: str) -> None:
    """A stream that ends too early, or claims more than it holds, is refused before anything is made of it."""
    with pytest.raises(MalformedInput, match=fault):
        decoded(stream)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(stream: bytes) -> None:
    """No stream of bytes does anything else than decode or be malformed."""
    try:
        found = decoded(stream)
    except MalformedInput:
        return
    assert len(found.offset) == len(found.type) == len(found.symbol) == len(found.addend) <= len(stream)


def test_a_long_stream_is_decoded_whole() -> None:
    """A hundred thousand relocations, with short and long records mixed."""
    relocations = [(row * 12, row % 7, row % 5 + 1, (-1) ** row * row * 1000) for row in range(100_000)]
    assert rows(decoded(crel(relocations))) == relocations


SOURCE = """
extern int printf(const char *, ...);
extern int table[];
static int counter;
int *pointers[] = {&table[1], &table[2], &counter};
int bump(int by) { counter += by; return printf("%d %d\\n", counter, table[by]); }
int twice(int by) { return bump(by) + bump(by + 1); }
"""


def test_crel_and_rela_of_one_source_say_the_same() -> None:
    """clang's CREL and RELA objects of one source make the same edges, and the same image."""
    needs("clang-22")
    graphs, images = [], []
    for flags in (["-Wa,--crel,--allow-experimental-crel"], []):
        content = compile_with(SOURCE, "-O1", "-fPIC", *flags, compiler="clang-22")
        graphs.append(jitlink.read(content))
        images.append(
            jitlink.link(content, base=0x2345_6000, define={"printf": 0x7F00_0000_0000, "table": 0x2000_0000})
        )
    said = [
        [(edge.block.section.name, edge.offset, edge.kind, edge.target.name, edge.addend) for edge in graph.edges]
        for graph in graphs
    ]
    assert said[0] == said[1]
    assert len(said[0]) > 10
    assert images[0].to_bytes() == images[1].to_bytes()
