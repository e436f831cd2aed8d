"""Views in text: names that do no harm, tables that fit, and listings that agree with other readers of ELF."""

from __future__ import annotations

import io
import re

import pytest
from elftools.elf.descriptions import describe_reloc_type
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import jitlink
from jitlink import Protection
from jitlink.escaping import LONGEST_NAME, escaped_lines
from jitlink.graph import Definition, Lifetime, Linkage, Purpose, Scope
from jitlink.inspect import Paper, escaped, link_map, listing
from jitlink.inspect.text import BOLD
from tests.toolchain import archive_of, zig_cc

SOURCE = """
extern int outside(const char *);
extern int table[];
__attribute__((weak)) int helper(void) { return table[3]; }
static int counter;
int twice(int x) { counter += x; return helper() + outside("text"); }
"""
names = st.binary(max_size=40).map(lambda raw: raw.decode(errors="surrogateescape")) | st.text(max_size=40)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("main", "main"),
        ("größe", "größe"),
        ("operator new(unsigned long)", "operator new(unsigned long)"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines", "two\\nlines"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        (b"\xff\xfe".decode(errors="surrogateescape"), "\\xff\\xfe"),
        ("\x85", "\\u0085"),
        ("back\\slash", "back\\\\slash"),
        ("", ""),
    ],
)
def test_name_is_shown_as(name, shown):
    """A printable name is shown as it is; what is not printable becomes an escape."""
    assert escaped(name) == shown


@given(names)
def test_every_escaped_name_is_printable(name):
    """No name reaches the terminal with a control character, a line break or a direction mark."""
    assert escaped(name).isprintable()


@given(names, names)
def test_different_names_stay_different_when_escaped(one, other):
    """An escaped name stands for one name only."""
    assert (escaped(one) == escaped(other)) == (one == other)


def test_endless_name_is_cut():
    """A name of a megabyte, which many symbols may share, is shown by its beginning."""
    assert len(escaped("x" * 1_000_000)) == LONGEST_NAME + 1


def test_error_text_keeps_its_lines_and_nothing_else():
    """An error of several lines stays so, while the terminal escapes in it become text."""
    assert escaped_lines("first: \x1b[2J\n  second \\ third") == "first: \\x1b[2J\n  second \\ third"


@given(st.lists(st.tuples(names, names, names, names), max_size=6), st.integers(20, 120))
def test_no_line_of_a_table_is_wider_than_the_paper(rows, width):
    """Every line of a table fits, whatever is in it, also where characters are two columns wide."""
    cells = [tuple(escaped(cell) for cell in row) for row in rows]
    lines = list(Paper(width=width).table(cells))
    assert len(lines) == len(rows)
    assert all(cell_len(line) <= width for line in lines)


def test_paper_without_colour_has_no_escapes():
    """ANSI escapes are written only where colour is asked for."""
    graph = jitlink.read(zig_cc(SOURCE))
    assert "\x1b" not in "".join(listing(graph, Paper(width=80)))
    assert BOLD in "".join(listing(graph, Paper(width=80, colour=True)))


def edges_listed(lines):
    """The edges of a listing: section, offset, kind, and target with addend."""
    found, section = [], None
    for line in lines:
        if line.startswith("edges of "):
            section = line.removeprefix("edges of ")
        elif not line:
            section = None
        elif section:
            offset, kind, target, _ = re.split(r"  +", line.strip())
            found.append((section, int(offset, 16), kind, target))
    return found


def edges_by_pyelftools(machine_code):
    """The same from pyelftools, another reader of ELF."""
    elf = ELFFile(io.BytesIO(machine_code))
    symbols = elf.get_section_by_name(".symtab")
    assert isinstance(symbols, SymbolTableSection)
    found = []
    for relocations in elf.iter_sections():
        if not isinstance(relocations, RelocationSection):
            continue
        section = elf.get_section(relocations["sh_info"]).name
        for relocation in relocations.iter_relocations():
            symbol = symbols.get_symbol(relocation["r_info_sym"])
            name = symbol.name or elf.get_section(symbol["st_shndx"]).name
            addend = relocation["r_addend"]
            sign = "-" if addend < 0 else "+"
            target = f"{name} {sign} {abs(addend):#x}" if addend else name
            kind = describe_reloc_type(relocation["r_info_type"], elf)
            found.append((section, relocation["r_offset"], kind, target))
    return found


def test_listed_edges_are_those_that_pyelftools_reads():
    """Section, offset, kind, target and addend of every relocation, in the order of the file."""
    machine_code = zig_cc(SOURCE, "-O1", "-g", "-fdebug-default-version=4")
    expected = edges_by_pyelftools(machine_code)
    assert len(expected) > 20
    assert sorted(edges_listed(listing(jitlink.read(machine_code)))) == sorted(expected)


def test_listed_symbols_say_linkage_scope_kind_size_and_place():
    """A symbol's line holds what ELF's symbol table says of it."""
    lines = [line.split() for line in listing(jitlink.read(zig_cc(SOURCE, "-O1", "-ffunction-sections")))]
    by_name = {line[-1]: line[:-1] for line in lines if len(line) == 6}
    assert by_name["helper"][:3] == ["weak", "default", "function"]
    assert by_name["helper"][4] == ".text.helper+0x0"
    assert by_name["counter"][:5] == ["strong", "local", "object", "0x4", ".bss+0x0"]
    assert by_name["outside"][:5] == ["strong", "default", "none", "0x0", "undefined"]


def hand_built():
    """A graph with one of everything that a listing has a word for."""
    graph = jitlink.new_graph("by hand", target="x86_64")
    text = graph.add_section(".text", Protection.READ | Protection.EXECUTE)
    blocks = [graph.add_block(text, b"\x90" * size) for size in (4, 8)]
    bss = graph.add_section(".bss", Protection.READ | Protection.WRITE)
    graph.add_block(bss, 64, alignment=32)
    notes = graph.add_section(".comment", Protection.READ, lifetime=Lifetime.NO_ALLOC, purpose=Purpose.NOTE)
    graph.add_block(notes, b"made by hand", alignment=1)
    graph.add_symbol("second", blocks[1], 2, linkage=Linkage.WEAK, scope=Scope.HIDDEN)
    graph.add_symbol("fixed", offset=0xABC, definition=Definition.ABSOLUTE)
    graph.add_symbol("shared", offset=16, size=8, definition=Definition.COMMON)
    far = graph.add_symbol("\x1b[2Jfar\n")
    graph.add_edge(blocks[1], 4, "R_X86_64_PLT32", far, -4)
    graph.add_edge(blocks[1], 0, "R_X86_64_COPY", far)
    return graph


def test_listing_of_a_graph_built_by_hand():
    """Protection, size, alignment and notes of sections; places of symbols; edges block by block."""
    lines = [" ".join(line.split()) for line in listing(hand_built())]
    assert lines[0] == "by hand: x86_64, 3 sections, 4 symbols, 2 edges"
    for expected in (
        "r-x 0xc 16 .text",
        "rw- 0x40 32 .bss (zero-fill)",
        "r-- 0xc 1 .comment (not loaded)",
        "weak hidden none 0x0 .text[1]+0x2 second",
        "strong default none 0x0 absolute 0xabc fixed",
        "strong default none 0x8 common, align 16 shared",
        "edges of .text[1]",
        "0x4 R_X86_64_PLT32 \\x1b[2Jfar\\n - 0x4 L + A - P",
    ):
        assert expected in lines


def test_unsupported_relocation_is_listed_with_its_reason():
    """The listing says beforehand which relocation would keep the object from being linked, and why."""
    line = next(line for line in listing(hand_built()) if "R_X86_64_COPY" in line)
    assert "(not supported: it belongs into executables and shared objects" in line


def test_each_member_of_an_archive_is_listed_by_itself():
    """An archive is read whole, and its members keep their names."""
    archive = archive_of({"one.o": zig_cc("int one;"), "two.o": zig_cc("int two;")})
    headings = [line for line in listing(jitlink.read(archive)) if ": x86_64, " in line]
    assert [heading.split(":")[0] for heading in headings] == ["(bytes)(one.o)", "(bytes)(two.o)"]


def test_link_map_has_every_symbol_at_its_address():
    """Each exported symbol stands in the map with the address that the image gives it."""
    outside = {"outside": 0x1010_0000, "table": 0x1020_0000}
    image = jitlink.link(zig_cc(SOURCE, "-O1", "-ffunction-sections"), base=0x1000_0000, define=outside)
    lines = [line.split() for line in link_map(image)]
    for name, address in image.symbols().items():
        assert any(line[:1] == [f"{address:#x}"] and line[-1] == name for line in lines), name
    for name, address in outside.items():
        assert [f"{address:#x}", name] in lines
    for segment in image.segments:
        row = [f"{segment.address:#x}", f"{segment.size:#x}", f"{len(segment.content):#x}", segment.protection.letters]
        assert row in lines


def test_link_map_goes_by_rising_address_and_leaves_out_what_was_dropped():
    """Sections come in the order of memory; a function that nothing needs is not there."""
    source = "int unused(void) { return 1; } int used(void) { return 2; } int data = 3; const int constant = 4;"
    machine_code = zig_cc(source, "-ffunction-sections", "-fdata-sections")
    image = jitlink.link(machine_code, base=0x40_0000, exports=["used", "data"], dead_strip=True)
    lines = list(link_map(image))
    start = next(row for row, line in enumerate(lines) if line.startswith("sections"))
    places = [int(line.split()[0], 16) for line in lines[start + 1 :] if line.startswith("  0x")]
    assert places == sorted(places)
    assert any(".text.used" in line for line in lines)
    assert not any("unused" in line for line in lines)


def test_link_map_lists_initialisers():
    """An image cannot run its constructors; the map says which functions its user must call."""
    source = "__attribute__((constructor)) void begin(void) {}"
    image = jitlink.link(zig_cc(source), base=0x40_0000)
    lines = list(link_map(image))
    assert "1 initialiser, to be called in this order before anything else" in lines
    assert lines[-1].split() == [f"{image.address_of('begin'):#x}"]
