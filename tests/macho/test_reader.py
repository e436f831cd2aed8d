"""The Mach-O reader agrees with LIEF on sections, symbols and relocations, and cuts sections as the format says."""

from __future__ import annotations

from shutil import which

import lief
import numpy as np
import pytest

import jitlink
from jitlink import LinkGraph, Protection
from jitlink.graph import Definition, Linkage, Purpose, Scope, SymbolKind
from tests import programs
from tests.macho.mutations import ASSEMBLY, CXX
from tests.macho.objects import Built, Section, Symbol, assembled, compiled, relocation, undefined
from tests.toolchain import compile_with, llvm_object

MACHINES = ("x86_64", "aarch64")
TYPE_BITS = 0xE
lief.logging.disable()

IR = """
@table = global [2 x ptr] [ptr @twice, ptr @text]
@text = private constant [6 x i8] c"hello\\00"
declare i32 @outside(i32)
define i32 @twice(i32 %x) {
  %y = call i32 @outside(i32 %x)
  %z = mul i32 %y, 2
  ret i32 %z
}
"""


def objects() -> dict[str, bytes]:
    """Objects of every maker at hand, by name."""
    made = {}
    for machine in MACHINES:
        made[f"assembly {machine}"] = assembled(ASSEMBLY[machine], machine)
        for level in ("-O0", "-O2"):
            made[f"c {level} {machine}"] = compiled(programs.source("linkage_a.c"), level, machine=machine)
            made[f"c++ {level} {machine}"] = compiled(CXX, level, machine=machine, language="c++")
        made[f"c -g {machine}"] = compiled(programs.source("linkage_a.c"), "-g", machine=machine)
        triple = "arm64-apple-macosx11.0" if machine == "aarch64" else "x86_64-apple-macosx11.0"
        if which("clang-22"):
            for level in ("-O0", "-O2"):
                source, flags = programs.source("linkage_a.c"), ("-target", triple, level)
                made[f"clang-22 {level} {machine}"] = compile_with(source, *flags, compiler="clang-22")
        for number in range(4):
            made[f"llvmlite {number} {machine}"] = llvm_object(IR, target=triple, opt=number)
    return made


OBJECTS = objects()


@pytest.fixture(params=OBJECTS)
def sample(request: pytest.FixtureRequest) -> tuple[LinkGraph, lief.MachO.Binary]:
    content = OBJECTS[request.param]
    parsed = lief.MachO.parse(list(content))
    assert parsed is not None
    binary = parsed.at(0)
    assert binary is not None
    return jitlink.read(content), binary


def test_sections_are_those_that_lief_finds(sample):
    """Name, size, alignment and content of every section, in order."""
    graph, oracle = sample
    blocks = graph.blocks
    found, wanted = [], []
    for section in graph.sections:
        own = [block.row for block in section.blocks]
        content = b"".join(graph.content_of(row) for row in own)
        found.append((section.name, int(blocks.size[own].sum()), content))
    for section in oracle.sections:
        name = f"{section.segment_name},{section.name}"
        content = bytes(section.content) if section.offset else bytes(section.size)
        wanted.append((name, section.size, content))
    assert found == wanted


def test_symbols_are_those_that_lief_finds(sample):
    """Name, place and sort of every symbol, in the order of the table."""
    graph, oracle = sample
    sections = list(oracle.sections)
    starts = _block_places(graph)
    symbols = list(graph.symbols)[: len(oracle.symbols)]
    assert [symbol.name for symbol in symbols] == [symbol.name for symbol in oracle.symbols]
    for found, wanted in zip(symbols, oracle.symbols, strict=True):
        sort = wanted.raw_type & TYPE_BITS
        if sort == 0xE:
            section = sections[wanted.numberof_sections - 1]
            assert found.block is not None
            assert found.block.section.name == f"{section.segment_name},{section.name}"
            assert starts[found.block.row] + found.offset == wanted.value - section.virtual_address
        elif sort == 0 and wanted.value:
            assert (found.definition, found.size) == (Definition.COMMON, wanted.value)
        else:
            assert found.definition == {0: Definition.UNDEFINED, 2: Definition.ABSOLUTE, 0xA: Definition.ALIAS}[sort]
        external, private = bool(wanted.raw_type & 1), bool(wanted.raw_type & 0x10)
        assert found.scope == (Scope.LOCAL if not external else Scope.HIDDEN if private else Scope.DEFAULT)


def test_relocations_are_those_that_lief_finds(sample):
    """Place and symbol of every relocation; the first of a pair is told by what the second becomes."""
    graph, oracle = sample
    starts = _block_places(graph)
    found = set()
    for edge in graph.edges:
        name = edge.target.name if edge.target.kind != SymbolKind.SECTION else None
        found.add((edge.block.section.name, starts[edge.block.row] + edge.offset, name))
    described = _functions_with_records(graph)
    for section in oracle.sections:
        name = f"{section.segment_name},{section.name}"
        for record in section.relocations:
            # LIEF adds the offset of the section that it takes for the relocation's own.
            place = record.address - (record.section.offset if record.has_section else section.offset)
            if name == "__LD,__compact_unwind" and (name, place // 32) in described:
                continue
            if "SUBTRACTOR" in str(record.type) or "ADDEND" in str(record.type):
                continue
            matches = [each for each in found if each[:2] == (name, place)]
            assert matches, (name, place)
            if record.has_symbol and "from here" not in "".join(_kinds_at(graph, name, place, starts)):
                assert record.symbol.name in [each[2] for each in matches]


def _kinds_at(graph: LinkGraph, section: str, place: int, starts: dict[int, int]) -> list[str]:
    return [
        edge.kind
        for edge in graph.edges
        if edge.block.section.name == section and starts[edge.block.row] + edge.offset == place
    ]


def _functions_with_records(graph: LinkGraph) -> set[tuple[str, int]]:
    """The compact records that have no edges any more, since __eh_frame describes their functions."""
    name = "__LD,__compact_unwind"
    rows = [section for section in graph.sections if section.name == name]
    if not rows:
        return set()
    kept = {edge.offset // 32 for edge in graph.edges if edge.block.section.name == name}
    return {(name, record) for record in range(sum(b.size for b in rows[0].blocks) // 32) if record not in kept}


def _block_places(graph: LinkGraph) -> dict[int, int]:
    """Where in its section each block starts: blocks are in order and leave nothing out."""
    places: dict[int, int] = {0: 0}
    section, at = 0, 0
    for block in graph.blocks:
        if block.section.row != section:
            section, at = block.section.row, 0
        places[block.row] = at
        at += block.size
    return places


# What the records mean


def test_what_may_be_done_with_sections_follows_from_segments():
    """Code is executable, __TEXT readable, __DATA writable; what only relocation writes is readable."""
    graph = jitlink.read(compiled(programs.source("linkage_a.c"), "-O2"))
    protections = {section.name: section.protection for section in graph.sections}
    assert protections["__TEXT,__text"] == Protection.READ | Protection.EXECUTE
    assert protections["__DATA,__data"] == Protection.READ | Protection.WRITE
    assert protections["__TEXT,__eh_frame"] == Protection.READ


def section_with(name: str, flags: int, segment: str = "__DATA") -> LinkGraph:
    """A graph of one section of 16 bytes."""
    return jitlink.read(bytes(Built([Section(segment, name, bytes(16), flags=flags)])))


@pytest.mark.parametrize(
    ("flags", "purpose"),
    [
        (0x9, Purpose.INIT_ARRAY),
        (0xA, Purpose.FINI_ARRAY),
        (0x16, Purpose.INIT_OFFSETS),
        (0x11, Purpose.TLS),
        (0x13, Purpose.TLS_VARIABLES),
        (0x0, Purpose.ORDINARY),
        (0xB, Purpose.ORDINARY),
    ],
)
def test_types_of_sections_say_what_they_are_for(flags, purpose):
    """The low byte of a section's flags is its type (<mach-o/loader.h>)."""
    assert section_with("__any", flags).sections[1].purpose == purpose


def test_zero_fill_has_no_content_in_the_file():
    """A section of type S_ZEROFILL, S_GB_ZEROFILL or S_THREAD_LOCAL_ZEROFILL is zeroes of its size."""
    for flags in (0x1, 0xC, 0x12):
        graph = jitlink.read(bytes(Built([Section("__DATA", "__bss", 4096, flags=flags, align=4)])))
        assert graph.blocks[1].zero_fill
        assert graph.blocks[1].content == bytes(4096)


def test_attributes_keep_sections_and_symbols():
    """S_ATTR_NO_DEAD_STRIP, S_ATTR_LIVE_SUPPORT and N_NO_DEAD_STRIP become columns of the graph."""
    content = Built(
        [
            Section("__DATA", "__a", bytes(8), flags=0x10000000),
            Section("__DATA", "__b", bytes(8), flags=0x08000000),
            Section("__DATA", "__c", bytes(8), flags=0),
        ],
        [Symbol("_kept", 3, 16, desc=0x20), Symbol("_other", 3, 16)],
    )
    graph = jitlink.read(bytes(content))
    assert graph.sections.retained.tolist() == [False, True, False, False]
    assert graph.sections.live_support.tolist() == [False, False, True, False]
    assert graph.symbols.retained.tolist() == [False, True, False]


def test_descriptions_of_symbols():
    """Weak definitions and references, common symbols with their alignment, private externs, resolvers."""
    content = Built(
        [Section(content=bytes(16))],
        [
            Symbol("_weak", 1, 0, desc=0x80),
            Symbol("_resolver", 1, 8, desc=0x100),
            Symbol("_private", 1, 8, type=0x1F),
            Symbol("_was_private", 1, 8, type=0x1E),
            undefined("_maybe", desc=0x40),
            undefined("_surely", desc=0x80),
            undefined("_common", desc=5 << 8, value=100),
            undefined("_natural", value=24),
            Symbol("_absolute", type=3, value=0xFFFF_FFFF_0000_1234),
        ],
    )
    symbols = jitlink.read(bytes(content)).symbols
    assert symbols["_weak"].linkage == Linkage.WEAK
    assert symbols["_resolver"].kind == SymbolKind.IFUNC
    assert symbols["_private"].scope == Scope.HIDDEN
    assert symbols["_was_private"].scope == Scope.LOCAL
    assert (symbols["_maybe"].linkage, symbols["_surely"].linkage) == (Linkage.WEAK, Linkage.STRONG)
    # Of a common symbol the graph keeps the alignment in offset; it is 2**5, and without one that of the size.
    assert (symbols["_common"].size, symbols["_common"].offset) == (100, 32)
    assert (symbols["_natural"].size, symbols["_natural"].offset) == (24, 32)
    assert symbols["_absolute"].offset == 0xFFFF_FFFF_0000_1234


def test_records_of_debuggers_are_no_symbols():
    """A record with a bit of N_STAB defines nothing, whatever its type says."""
    content = Built([Section(content=bytes(16))], [Symbol("_f", 1, 0), Symbol("main.c", 1, 0, type=0x64)])
    graph = jitlink.read(bytes(content))
    assert graph.symbols[2].scope == Scope.LOCAL
    assert graph.symbols[2].block is None


# Blocks


def sizes(graph: LinkGraph) -> list[int]:
    return [block.size for block in graph.blocks]


def test_sections_are_cut_at_symbols():
    """With MH_SUBSECTIONS_VIA_SYMBOLS a block starts at each symbol but for alternative entries."""
    symbols = [Symbol("_a", 1, 0), Symbol("_b", 1, 4), Symbol("_alt", 1, 6, desc=0x200), Symbol("_end", 1, 16)]
    sections = [Section(content=bytes(range(16)))]
    graph = jitlink.read(bytes(Built(sections, symbols)))
    assert [block.content for block in graph.blocks] == [bytes(range(4)), bytes(range(4, 16))]
    places = {symbol.name: (symbol.block.row if symbol.block else 0, symbol.offset) for symbol in graph.symbols}
    assert places == {"_a": (1, 0), "_b": (2, 0), "_alt": (2, 2), "_end": (2, 12)}
    assert sizes(jitlink.read(bytes(Built(sections, symbols, flags=0)))) == [16]


def test_strings_are_cut_one_by_one():
    """Strings end behind their NUL; a section of numbers is one block."""
    strings = Section("__TEXT", "__cstring", b"one\0\0three\0", flags=2)
    numbers = Section("__TEXT", "__literal8", bytes(24), flags=4, align=3)
    graph = jitlink.read(bytes(Built([strings, numbers], flags=0)))
    assert [block.content for block in graph.blocks][:3] == [b"one\0", b"\0", b"three\0"]
    assert sizes(graph)[3:] == [24]


def test_arrays_of_initialisers_and_unwind_records_stay_whole():
    """Sections that are read as a whole have one block, whatever symbols they have."""
    array = Section("__DATA", "__mod_init_func", bytes(16), flags=9, align=3)
    frames = Section("__TEXT", "__eh_frame", bytes(16), flags=0xB, align=3)
    symbols = [Symbol("_a", 1, 8), Symbol("EH_frame1", 2, 24)]
    assert sizes(jitlink.read(bytes(Built([array, frames], symbols)))) == [16, 16]


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (0, 4, (16, 0)),
        (4, 8, (4, 0)),
        (8, 16, (8, 0)),
        (8, 24, (16, 8)),
        (4, 16, (8, 4)),
        (20, 40, (16, 4)),
        (16, 20, (16, 0)),
    ],
)
def test_a_block_keeps_the_alignment_of_what_is_inside(start, end, wanted):
    """It lies as it did to each multiple of a power of two, up to the section's alignment, that it covers."""
    symbols = [Symbol("_a", 1, start), Symbol("_b", 1, end)]
    graph = jitlink.read(bytes(Built([Section(content=bytes(64), align=4)], symbols)))
    block = graph.symbols["_a"].block
    assert block is not None
    assert (block.alignment, block.alignment_offset) == wanted
    # The definition as a loop: the highest power of two of which a multiple lies in the block.
    highest = max(2**k for k in range(5) if start == 0 or any(place % 2**k == 0 for place in range(start, end)))
    assert wanted == (highest, start % highest)


def test_blocks_with_an_offset_are_laid_out_as_they_lay():
    """In the image, every byte of a section keeps its remainder modulo what its block demands."""
    symbols = [Symbol(f"_{place}", 1, place) for place in (0, 4, 20, 33, 40, 57)]
    content = bytes(range(64))
    image = jitlink.link(bytes(Built([Section(content=content, align=4)], symbols)), base=0x10000)
    for block in image.graph.blocks:
        if block.live and block.section.name == "__TEXT,__text":
            assert block.address % block.alignment == block.alignment_offset
            assert image.read(block.address, block.size) == block.content


# Relocations without a symbol


def test_addresses_find_their_blocks():
    """A relocation that names a section holds an address in the object's own space."""
    pointers = Section(
        "__DATA",
        "__data",
        b"".join(address.to_bytes(8, "little") for address in (16, 20, 24, 30, 8)),
        relocations=[relocation(8 * row, 0, external=False, symbol=1) for row in range(5)],
        flags=0,
        align=3,
        address=64,
    )
    text = Section(content=bytes(16), address=16)
    graph = jitlink.read(bytes(Built([text, pointers], [Symbol("_a", 1, 16), Symbol("_b", 1, 24)])))
    edges = sorted(graph.edges, key=lambda edge: edge.offset)
    aims = [(edge.target.block.row if edge.target.block else 0, edge.addend) for edge in edges]
    # The last one lies before its section: it belongs to the first block.
    assert aims == [(1, 0), (1, 4), (2, 0), (2, 6), (1, -8)]


def test_section_zero_is_no_section():
    """A relocation of section 0 (R_ABS) is an absolute address, which nothing moves."""
    data = Section("__DATA", "__data", (0x1234).to_bytes(8, "little"), [relocation(0, 0, external=False)], flags=0)
    image = jitlink.link(bytes(Built([data], [Symbol("_d", 1, 0)])), base=0x10000)
    assert image.read(image.address_of("d"), 8) == (0x1234).to_bytes(8, "little")


def test_pointers_to_symbols_without_relocations():
    """Sections of symbol pointers are described by the indirect symbol table; local entries hold their address."""
    pointers = Section("__DATA", "__got", bytes(16) + b"\7" * 8, flags=6, align=3, reserved1=1)
    content = Built([pointers], [undefined("_x"), undefined("_y")], indirect=[0, 1, 0, 0x80000000])
    image = jitlink.link(bytes(content), base=0x10000, define={"x": 0x1111, "y": 0x2222})
    start = image.graph.blocks.address[1]
    assert np.frombuffer(image.read(int(start), 24), "<u8").tolist() == [0x2222, 0x1111, 0x0707070707070707]
