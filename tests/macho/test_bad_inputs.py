"""Mach-O objects that break the rules of their format get an error that says which, and crash nothing."""

from __future__ import annotations

import struct

import pytest

import jitlink
from jitlink import LinkFailure, MalformedInput, UnsupportedInput
from tests.macho.objects import (
    ARM64,
    DYSYMTAB_SIZE,
    HEADER_SIZE,
    N_EXT,
    N_INDR,
    SECTION_SIZE,
    SEGMENT_SIZE,
    SYMTAB_SIZE,
    X86_64,
    Built,
    Section,
    Symbol,
    relocation,
    section_at,
    symtab_at,
    undefined,
)

BASE = 0x10_0000
SIZE, OFFSET, ALIGN, RELOFF = 40, 48, 52, 56
"""Of fields in a section header."""
CONTENT_OF_TWO = HEADER_SIZE + SEGMENT_SIZE + 2 * SECTION_SIZE + SYMTAB_SIZE + DYSYMTAB_SIZE
"""Where the content of the first of two sections starts."""


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


def sound(**parts: object) -> Built:
    """An object with one section and one symbol, which is right unless a part says otherwise."""
    return Built(**{"sections": [Section(content=bytes(16))], "symbols": [Symbol("_f", 1, 0)], **parts})  # type: ignore[arg-type]


def changed(at: int, content: bytes, **parts: object) -> Built:
    """A sound object with some bytes written over."""
    return sound(changes={at: content}, **parts)


def with_relocations(*records: bytes, content: bytes = bytes(16), cpu: int = X86_64) -> Built:
    return Built([Section(content=content, relocations=records)], [Symbol("_f", 1, 0)], cpu=cpu)


STAB = Symbol("main.c", 1, 0, type=0x64)
FRAME = Section("__TEXT", "__eh_frame", b"", flags=0xB, align=3)


def frames(content: bytes) -> Built:
    return Built([Section(content=bytes(16)), Section("__TEXT", "__eh_frame", content, flags=0xB, align=3)])


CIE = struct.pack("<II", 0x14, 0) + b"\1zR\0\1\x78\x10\1\x10" + bytes(7)

BROKEN = {
    # Header and load commands
    "no load command has room": (changed(16, word(4)), "load command 3 lies past the others"),
    "a load command of size zero": (changed(HEADER_SIZE + 4, word(0)), "load command 0 has a size that is none"),
    "a load command of odd size": (changed(HEADER_SIZE + 4, word(73)), "load command 0 has a size that is none"),
    "a load command past the others": (changed(HEADER_SIZE + 4, word(1 << 20)), "load command 0 lies past the others"),
    "load commands past the end": (changed(20, word(1 << 20)), "load commands go past the end of the file"),
    "boundless load commands": (changed(16, word(1 << 31)), "more than 4096 load commands"),
    "two segments": (
        sound(commands=[struct.pack("<II64x", 0x19, SEGMENT_SIZE)]),
        "two segment commands",
    ),
    "a short symbol table command": (
        Built([], [], changes={HEADER_SIZE + SEGMENT_SIZE + 4: word(16), HEADER_SIZE + SEGMENT_SIZE + 20: word(8)}),
        "symbol table command is too short|lies past",
    ),
    "more sections than room": (changed(HEADER_SIZE + 64, word(2)), "no room for its sections"),
    # Sections
    "a section past the end": (changed(section_at(0) + OFFSET, word(1 << 20)), "section 0 goes past the end"),
    "a section of boundless size": (
        changed(section_at(0) + SIZE, (1 << 60).to_bytes(8, "little")),
        "size of section 0 is out of all bounds",
    ),
    "sections that share bytes": (
        Built([Section(content=bytes(16)), Section("__DATA", "__data", bytes(16), flags=0, offset=CONTENT_OF_TWO + 8)]),
        "share bytes of the file",
    ),
    "sections that share addresses": (
        Built([Section(content=bytes(16)), Section("__DATA", "__data", bytes(16), flags=0, address=8)]),
        "share addresses",
    ),
    "zero-fill on content": (
        Built([Section(content=bytes(16)), Section("__DATA", "__bss", 64, flags=1, address=8)]),
        "share addresses",
    ),
    "an alignment without bounds": (changed(section_at(0) + ALIGN, word(31)), "alignment of section 0 is more than"),
    "an unknown section type": (sound(sections=[Section(flags=0x17)]), "section 0 is of unknown type"),
    # Symbols
    "a symbol in no section": (sound(symbols=[Symbol("_f", 0, 0)]), "symbol 0 is in a section that is not there"),
    "a symbol in section 2 of 1": (sound(symbols=[Symbol("_f", 2, 0)]), "symbol 0 is in a section that is not there"),
    "a symbol in section 255": (sound(symbols=[Symbol("_f", 255, 0)]), "symbol 0 is in a section that is not there"),
    "a symbol behind its section": (sound(symbols=[Symbol("_f", 1, 17)]), "symbol 0 lies outside of its section"),
    "a symbol before its section": (
        sound(sections=[Section(content=bytes(16), address=32)], symbols=[Symbol("_f", 1, 31)]),
        "symbol 0 lies outside of its section",
    ),
    "a symbol of unknown type": (sound(symbols=[Symbol("_f", 1, 0, type=0x5)]), "symbol 0 is of unknown type"),
    "a symbol table past the end": (changed(symtab_at(1) + 8, word(1 << 20)), "symbol table goes past the end"),
    "more symbols than the file": (changed(symtab_at(1) + 12, word(1 << 30)), "symbol table goes past the end"),
    "a string table past the end": (changed(symtab_at(1) + 20, word(1 << 20)), "string table goes past the end"),
    "a string table without an end": (changed(symtab_at(1) + 20, word(2)), "does not end with a NUL"),
    "a boundless common symbol": (sound(symbols=[undefined("_c", value=1 << 60)]), "common symbol of boundless size"),
    "an alias of no name": (
        sound(symbols=[Symbol("_a", type=N_INDR | N_EXT, value=1000)]),
        "alias stands for lies outside the string table",
    ),
    # Relocations
    "relocations past the end": (
        Built(
            [Section(content=bytes(16), relocations=[relocation(0, 0)])],
            [Symbol("_f", 1, 0)],
            changes={section_at(0) + RELOFF: word(1 << 20)},
        ),
        "relocations of a section go past the end",
    ),
    "relocations of zero-fill": (
        Built([Section("__DATA", "__bss", 16, [relocation(0, 0)], flags=1)], [Symbol("_f", 1, 0)]),
        "without content has relocations",
    ),
    "a relocation outside": (with_relocations(relocation(9, 0)), "lies outside its section"),
    "a scattered relocation": (with_relocations(relocation(0x80000000, 0)), "scattered relocation"),
    "a relocation of no symbol": (with_relocations(relocation(0, 0, symbol=7)), "a symbol that is not there"),
    "a relocation of no section": (
        with_relocations(relocation(0, 0, symbol=2, external=False)),
        "a section that is not there",
    ),
    "a relocation of a debugger's record": (
        Built([Section(content=bytes(16), relocations=[relocation(0, 0)])], [STAB]),
        "a debugger's record",
    ),
    "a GOT load of a section": (
        with_relocations(relocation(0, 3, symbol=1, external=False, relative=True, length=2)),
        "needs a symbol",
    ),
    "a relocation over two symbols": (
        Built([Section(content=bytes(16), relocations=[relocation(4, 0)])], [Symbol("_f", 1, 0), Symbol("_g", 1, 8)]),
        "from one symbol's content into the next",
    ),
    "a lone SUBTRACTOR": (with_relocations(relocation(0, 5)), "SUBTRACTOR relocation without"),
    "a SUBTRACTOR behind its UNSIGNED": (
        with_relocations(relocation(0, 0), relocation(0, 5)),
        "SUBTRACTOR relocation without",
    ),
    "a SUBTRACTOR of another place": (
        with_relocations(relocation(0, 5), relocation(8, 0)),
        "SUBTRACTOR relocation without",
    ),
    "a SUBTRACTOR of another length": (
        with_relocations(relocation(0, 5, length=2), relocation(0, 0)),
        "SUBTRACTOR relocation without",
    ),
    "two SUBTRACTORs": (
        with_relocations(relocation(0, 5), relocation(0, 5), relocation(0, 0)),
        "SUBTRACTOR relocation without",
    ),
    "a SUBTRACTOR of a section": (
        with_relocations(relocation(0, 5, symbol=1, external=False), relocation(0, 0)),
        "names no symbol",
    ),
    "a SUBTRACTOR of no symbol": (
        with_relocations(relocation(0, 5, symbol=9), relocation(0, 0)),
        "a symbol that is not there",
    ),
    "a lone ADDEND": (
        with_relocations(relocation(0, 10, external=False, length=2), cpu=ARM64),
        "ADDEND relocation without",
    ),
    "an ADDEND before UNSIGNED": (
        with_relocations(relocation(0, 10, external=False, length=2), relocation(0, 0), cpu=ARM64),
        "ADDEND relocation without",
    ),
    "an ADDEND in another section": (
        Built(
            [
                Section(content=bytes(8), relocations=[relocation(0, 10, external=False, length=2)]),
                Section("__TEXT", "__more", struct.pack("<II", 0x91000000, 0), [relocation(0, 4, length=2)]),
            ],
            [Symbol("_f", 1, 0)],
            cpu=ARM64,
        ),
        "ADDEND relocation without",
    ),
    # Unwind records
    "a record past its section": (frames(struct.pack("<II", 100, 0) + bytes(24)), "goes past the end of its section"),
    "a record of length 1": (frames(struct.pack("<II", 1, 0) + bytes(24)), "goes past the end of its section"),
    "an extended record": (frames(struct.pack("<II", 0xFFFFFFFF, 0) + bytes(24)), "goes past the end of its section"),
    "a CIE that ends early": (frames(struct.pack("<IIB", 5, 0, 1) + bytes(23)), "ends before its fields do"),
    "an FDE without a CIE": (frames(CIE + struct.pack("<IIqq", 20, 8, 4, 4)), "refers to no CIE"),
    "an FDE that is too short": (frames(CIE + struct.pack("<III", 8, 0x1C, 4)), "too short to say"),
    "an FDE of nothing": (frames(CIE + struct.pack("<IIqqI", 24, 0x1C, 1 << 40, 4, 0)), "describes nothing"),
    # Pointers to symbols
    "symbol pointers without a table": (
        Built([Section("__DATA", "__got", bytes(8), flags=6)], [undefined("_x")]),
        "table of indirect symbols is too short",
    ),
    "a symbol pointer to no symbol": (
        Built([Section("__DATA", "__got", bytes(8), flags=6)], [undefined("_x")], indirect=[5]),
        "pointer to a symbol that is not there",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_objects_are_refused(name):
    """MalformedInput names the input and the rule that is broken."""
    built, fault = BROKEN[name]
    with pytest.raises(MalformedInput, match=fault) as caught:
        jitlink.read(bytes(built))
    assert caught.value.input == "(bytes)"


UNSUPPORTED = {
    "an executable": (sound(file_type=2), "an executable"),
    "a dynamic library": (sound(file_type=6), "a dynamic library"),
    "another machine": (sound(cpu=18), "ppc are not linked"),
    "symbol stubs": (sound(sections=[Section(flags=8)]), "symbol stubs"),
    "thread-local initialisers": (sound(sections=[Section(flags=0x15)]), "initialisers of thread-local"),
    "a CIE of an unknown encoding": (
        frames(struct.pack("<II", 0x14, 0) + b"\1zR\0\1\x78\x10\1\x31" + bytes(7)),
        "pointer encoding 0x31",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_linked_says_so(name):
    """UnsupportedInput says which sort of thing the input is."""
    built, words = UNSUPPORTED[name]
    with pytest.raises(UnsupportedInput, match=words):
        jitlink.read(bytes(built))


def test_an_object_for_another_machine_names_both():
    """An arm64 object in a link for x86-64 is refused with the names of both."""
    with pytest.raises(UnsupportedInput, match="an object for arm64; this link is for x86_64"):
        jitlink.read(bytes(sound(cpu=ARM64)), target="x86_64")


def test_a_second_name_for_itself_is_refused():
    """N_INDR symbols that stand for each other, or for themselves, are an error that names one of them."""
    # The string table is \0 _a \0 _b \0 ...: the name of _a starts at 1, that of _b at 4.
    circle = [Symbol("_a", type=N_INDR | N_EXT, value=4), Symbol("_b", type=N_INDR | N_EXT, value=1)]
    with pytest.raises(LinkFailure, match="is an alias that stands for itself"):
        jitlink.link(bytes(sound(symbols=circle)), base=BASE)
    itself = [Symbol("_a", type=N_INDR | N_EXT, value=1)]
    with pytest.raises(LinkFailure, match="is an alias that stands for itself"):
        jitlink.link(bytes(sound(symbols=itself)), base=BASE)


def test_names_that_run_into_each_other_take_no_memory():
    """Thousands of symbols whose names overlap are read, or refused, without memory out of proportion."""
    symbols = [Symbol("x" * 40_000, 1, 0)] * 1
    content = bytearray(bytes(sound(symbols=[*symbols, *(Symbol("", 1, 0) for _ in range(2000))])))
    table = struct.unpack_from("<I", content, symtab_at(1) + 8)[0]
    for row in range(1, 2001):
        struct.pack_into("<I", content, table + 16 * row, row)
    with pytest.raises(MalformedInput, match="share"):
        jitlink.link(bytes(content), base=BASE)


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_file_that_ends_early_is_refused(cut):
    """Whatever is missing at the end."""
    content = bytes(sound())
    if cut < len(content):
        with pytest.raises(jitlink.InputError):
            jitlink.read(content[:cut])


def test_headers_alone_are_an_object_of_nothing():
    """An object without sections and symbols is sound, if useless."""
    graph = jitlink.read(bytes(Built([])))
    assert (len(graph.sections), len(graph.symbols), len(graph.edges)) == (1, 1, 1)


def test_the_fault_is_that_of_its_own_input():
    """Of several objects that are read at once, the error names the broken one."""
    broken = bytes(sound(symbols=[Symbol("_g", 2, 0)]))
    with pytest.raises(MalformedInput) as caught:
        jitlink.read(bytes(sound()), broken, bytes(sound()))
    assert caught.value.input == "(bytes 2)"


def test_header_sizes():
    """The sizes that the tests count with are those of the format."""
    assert (HEADER_SIZE, SEGMENT_SIZE, SECTION_SIZE) == (32, 72, 80)
