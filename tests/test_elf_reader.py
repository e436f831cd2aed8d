"""The ELF reader says of every object what pyelftools and llvm-readobj say of it.

Objects of several compilers and languages, a sample of the machine's static libraries, and objects that
only an assembler or an editor of bytes makes: section indices above 65,280, REL instead of RELA.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

import jitlink
from jitlink import LinkFailure, LinkGraph, Protection
from jitlink.arches import architecture
from jitlink.formats.archive import read_archive
from jitlink.graph import Definition, Linkage, Purpose, Scope, SymbolKind
from tests.toolchain import assemble, compile_with, debian_library, llvm_object, needs, zig_cc

BASE = 0x2345_6000
KINDS = architecture("x86_64").kinds
STRUCTURE = {"SHT_NULL", "SHT_SYMTAB", "SHT_STRTAB", "SHT_RELA", "SHT_REL", "SHT_GROUP", "SHT_SYMTAB_SHNDX", "SHT_CREL"}
SHF_COMPRESSED = 0x800
MEMBERS_OF_A_LIBRARY = 12

C = """
extern int printf(const char *, ...);
extern double outside;
static int counter = 3;
int zeroes[1000];
const char *const words[] = {"one", "two", "three"};
__attribute__((weak)) int maybe(void) { return 1; }
__attribute__((visibility("hidden"))) int inner(int x) { return x + counter; }
__attribute__((constructor(200))) static void begin(void) { counter += printf("begin"); }
__attribute__((section("plugins"))) int plugin = 5;
int call(int n) { printf("%s %f\\n", words[n % 3], outside); return inner(n) + maybe(); }
"""
CPP = """
struct Shape { virtual ~Shape() {} virtual int area() const = 0; };
struct Square : Shape { int side; Square(int s) : side(s) {} int area() const override { return side * side; } };
template <class T> T &single() { static T value{}; return value; }
inline int shared(int x) { static int calls; return ++calls + x; }
int use(int n) { Shape *s = new Square(n); int a = s->area(); delete s; single<int>() += a; return shared(a); }
int guard(int n) { try { return use(n); } catch (int caught) { return caught; } }
"""
IR = """
@counter = internal global i32 7
declare i32 @outside(i32)
define i32 @work(i32 %x) { %y = call i32 @outside(i32 %x)
  %c = load i32, ptr @counter
  %z = add i32 %y, %c
  ret i32 %z }
"""
EVERYTHING = """
    .section .text.a,"axG",@progbits,a,comdat
    .weak a
    .type a, @function
a:  call b@PLT
    .size a, .-a
    .section .rodata.str1.1,"aMS",@progbits,1
.Lstring: .asciz "text"
    .section .rodata.cst8,"aM",@progbits,8
    .quad 1
    .section .meta,"ao",@progbits,.text.a
    .quad a
    .section .kept,"awR",@progbits
    .quad .Lstring
    .section .left_out,"e",@progbits
    .quad 1
    .section .note.mine,"a",@note
    .long 4, 4, 1, 0, 7
    .section .ldata,"awl",@progbits
    .quad 3
    .comm shared, 24, 16
    .local inside
    .comm inside, 8, 8
    .globl absolute
    absolute = 0x123456789abc
    .protected shown
    .globl shown
    .internal within
    .globl within
    .data
    .p2align 6
shown: .quad .data + 8
within: .quad 1
    .type one, @gnu_unique_object
one: .quad 2
    .bss
    .space 100
"""


def c_object(*flags: str) -> Callable[[], bytes]:
    return lambda: zig_cc(C, *flags)


OBJECTS: dict[str, Callable[[], bytes]] = {
    "c": c_object("-O2"),
    "c-sections-debug": c_object("-O1", "-g", "-ffunction-sections", "-fdata-sections"),
    "c-large-model": lambda: zig_cc(C, "-O1", "-mcmodel=large", "-fno-pic", target="x86_64-freestanding"),
    "c++": lambda: zig_cc(CPP, "-O1", "-ffunction-sections", language="c++"),
    "gcc": lambda: compile_with(C, "-O2", "-g", compiler="gcc"),
    "g++": lambda: compile_with(CPP, "-O0", compiler="g++"),
    "clang": lambda: compile_with(C, "-O2", "-fno-pic", compiler="clang"),
    "gfortran": lambda: compile_with(
        "subroutine add(a, b)\nreal(8) :: a(10), b(10)\na = a + b\nprint *, a\nend\n",
        "-O2",
        compiler="gfortran",
    ),
    "llvmlite": lambda: llvm_object(IR),
    "everything": lambda: assemble(EVERYTHING),
    "empty": lambda: assemble(""),
}


@pytest.fixture(params=OBJECTS)
def content(request: pytest.FixtureRequest) -> bytes:
    """One object after the other."""
    return OBJECTS[request.param]()


def kept_sections(elf: ELFFile) -> list[tuple[int, Section]]:
    """The sections that become sections of the graph, with their indices."""
    return [
        (index, section) for index, section in enumerate(elf.iter_sections()) if section["sh_type"] not in STRUCTURE
    ]


def number(value: Any, names: dict[str, int]) -> int:
    """pyelftools gives known constants as names, and others as numbers."""
    return value if isinstance(value, int) else names[value]


def check_against_pyelftools(content: bytes) -> None:
    """Compare sections, symbols and relocations of an object with what pyelftools finds."""
    graph = jitlink.read(content)
    elf = ELFFile(BytesIO(content))
    rows = check_sections(graph, elf)
    table = elf.get_section_by_name(".symtab")
    if table is None:
        assert (len(graph.symbols), len(graph.edges)) == (1, 1)
        return
    assert isinstance(table, SymbolTableSection)
    check_symbols(graph, table, rows, elf)
    check_relocations(graph, table, rows, elf)


def check_sections(graph: LinkGraph, elf: ELFFile) -> dict[int, int]:
    """Compare section by section; returns the row of each section index."""
    kept = kept_sections(elf)
    assert len(graph.sections) - 1 == len(graph.blocks) - 1 == len(kept)
    rows = {}
    for block, (index, section) in zip(graph.blocks, kept, strict=True):
        rows[index] = block.row
        flags = section["sh_flags"]
        assert block.section.name == section.name
        assert block.section.read("flags") == flags
        assert block.section.read("entry_size") == section["sh_entsize"]
        assert block.zero_fill == (section["sh_type"] == "SHT_NOBITS")
        assert block.live == bool(flags & 2 and not flags & 0x80000000)
        assert block.alignment == max(section["sh_addralign"], 1)
        if flags & SHF_COMPRESSED:
            assert block.size == section.data_size
        else:
            assert block.size == section["sh_size"]
            assert block.zero_fill or block.content == section.data()
    return rows


BINDINGS = {"STB_LOCAL": 0, "STB_GLOBAL": 1, "STB_WEAK": 2, "STB_LOOS": 10, "STB_GNU_UNIQUE": 10}
TYPES = {
    f"STT_{name}": value for value, name in enumerate(("NOTYPE", "OBJECT", "FUNC", "SECTION", "FILE", "COMMON", "TLS"))
}
TYPES |= {"STT_LOOS": 10, "STT_GNU_IFUNC": 10}


def check_symbols(graph: LinkGraph, table: SymbolTableSection, rows: dict[int, int], elf: ELFFile) -> None:
    """Compare symbol by symbol, the null symbol of the object included."""
    assert len(graph.symbols) - 1 == table.num_symbols()
    for ours, theirs in zip(graph.symbols, table.iter_symbols(), strict=True):
        info = theirs["st_info"]
        binding, kind = number(info["bind"], BINDINGS), number(info["type"], TYPES)
        index, visibility = theirs["st_shndx"], theirs["st_other"]["visibility"]
        is_section = kind == SymbolKind.SECTION
        named_section = is_section and index in rows
        assert ours.name == (elf.get_section(index).name if named_section else theirs.name)
        assert (ours.kind, ours.size) == (kind, theirs["st_size"])
        assert ours.offset == theirs["st_value"]
        assert ours.linkage == (Linkage.WEAK if binding == 2 else Linkage.STRONG)
        hidden = visibility in ("STV_HIDDEN", "STV_INTERNAL")
        assert ours.scope == (Scope.LOCAL if binding == 0 else Scope.HIDDEN if hidden else Scope.DEFAULT)
        if index == "SHN_COMMON":
            assert ours.definition == Definition.COMMON
        elif index == "SHN_ABS" or (index == "SHN_UNDEF" and ours.row == 1):
            assert ours.definition == Definition.ABSOLUTE
        elif index in rows:
            assert ours.block == graph.blocks[rows[index]]
            assert ours.definition == Definition.DEFINED
        elif index == "SHN_UNDEF":
            assert ours.block is None
            assert ours.definition == Definition.UNDEFINED


def check_relocations(graph: LinkGraph, table: SymbolTableSection, rows: dict[int, int], elf: ELFFile) -> None:
    """Compare the relocations of each section with the edges of its block, in order."""
    theirs: dict[int, list[tuple[int, int, int, int]]] = {}
    for section in elf.iter_sections():
        if isinstance(section, RelocationSection) and section["sh_info"] in rows:
            theirs[rows[section["sh_info"]]] = [
                (each["r_offset"], each["r_info_type"], each["r_info_sym"], each["r_addend"])
                for each in section.iter_relocations()
            ]
    for block in graph.blocks:
        ours = [
            (edge.offset, KINDS[edge.read("kind")].number, edge.target.row - 1, edge.addend) for edge in block.edges
        ]
        assert ours == theirs.get(block.row, []), block
    assert len(graph.edges) - 1 == sum(map(len, theirs.values()))
    assert table.num_symbols() == len(graph.symbols) - 1


def test_the_graph_says_what_pyelftools_says(content: bytes) -> None:
    """Sections, symbols and relocations of each object: all of them, in order, with all their fields."""
    check_against_pyelftools(content)


def uses_only_supported_kinds(content: bytes) -> bool:
    """Whether all relocations of an object are of kinds that we apply; not so where it has thread-local data."""
    elf = ELFFile(BytesIO(content))
    tables = [section for section in elf.iter_sections() if isinstance(section, RelocationSection)]
    numbers = {each["r_info_type"] for table in tables for each in table.iter_relocations()}
    return bool(KINDS.supported[KINDS.rows_of_numbers("elf", np.array(sorted(numbers), np.int64))].all())


@pytest.mark.parametrize("name", ["libc.a", "libcrypto.a", "libsqlite3.a", "libz.a"])
def test_members_of_libraries_are_read_as_pyelftools_reads_them(name: str) -> None:
    """A sample of members, spread over the library, apart from those with relocations that we do not apply."""
    path = debian_library(name)
    whole = path.read_bytes()
    pool = np.frombuffer(whole + bytes(64), np.uint8)
    archive = read_archive(pool, 0, len(whole), name)
    step = max(len(archive.starts) // MEMBERS_OF_A_LIBRARY, 1)
    checked = 0
    for start, size in list(zip(archive.starts.tolist(), archive.sizes.tolist(), strict=True))[::step]:
        member = whole[start : start + size]
        if uses_only_supported_kinds(member):
            check_against_pyelftools(member)
            checked += 1
    assert checked > 0


def test_a_batch_is_read_as_its_objects_are_one_by_one() -> None:
    """All objects of a call are read together; what is said of each does not depend on the others."""
    contents = [OBJECTS[name]() for name in ("c", "everything", "empty", "c++", "c-sections-debug")]

    def said(graph: LinkGraph) -> list[tuple[object, ...]]:
        blocks = [(block.section.name, block.content, block.section.protection, block.live) for block in graph.blocks]
        symbols = [(s.name, s.offset, s.definition, s.block.section.name if s.block else "") for s in graph.symbols]
        edges = [(e.block.section.name, e.offset, e.kind, e.target.name, e.addend) for e in graph.edges]
        groups = [(group.signature.name, group.read("comdat")) for group in graph.groups]
        return [*blocks, *symbols, *edges, *groups]

    together = jitlink.read(*contents)
    apart = [row for content in contents for row in said(jitlink.read(content))]
    assert sorted(map(repr, said(together))) == sorted(map(repr, apart))
    assert together.inputs[1:] == ["(bytes)", *(f"(bytes {number})" for number in range(2, 6))]


def spelt(value: dict[str, Any]) -> Any:
    """The name of a constant: newer versions of llvm-readobj have it under another key than older ones."""
    return value.get("Name", value.get("Value"))


def flags_of(section: dict[str, Any]) -> int:
    flags = section["Flags"]
    return int(flags.get("RawFlags", flags.get("Value")))


def test_sections_and_symbols_agree_with_llvm_readobj(content: bytes, tmp_path: Path) -> None:
    """A second opinion: names, sizes, alignments and symbol values as llvm-readobj prints them."""
    needs("llvm-readobj")
    (tmp_path / "input.o").write_bytes(content)
    command = ["llvm-readobj", "--elf-output-style=JSON", "--sections", "--symbols", "input.o"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode:
        pytest.skip("this llvm-readobj writes no JSON")
    try:
        found = json.loads(result.stdout)[0]
    except ValueError:
        pytest.skip("this llvm-readobj writes broken JSON")
    graph = jitlink.read(content)
    found = found.get("input.o", found)
    sections = [each["Section"] for each in found["Sections"]]
    theirs = [
        (spelt(section["Name"]), section["Size"], max(section["AddressAlignment"], 1))
        for section in sections
        if spelt(section["Type"]) not in STRUCTURE and not flags_of(section) & SHF_COMPRESSED
    ]
    ours = [
        (block.section.name, block.size, block.alignment)
        for block in graph.blocks
        if not block.section.read("flags") & SHF_COMPRESSED
    ]
    assert ours == theirs
    values = [(each["Symbol"]["Value"], each["Symbol"]["Size"]) for each in found["Symbols"]]
    assert [(symbol.offset, symbol.size) for symbol in graph.symbols] == values


# What flags and types mean


def section_of(graph: LinkGraph, name: str) -> Any:
    return next(section for section in graph.sections if section.name == name)


def test_flags_and_types_become_protections_and_purposes() -> None:
    """What running code may do with a section, and what the linker has to know of it."""
    graph = jitlink.read(OBJECTS["everything"](), zig_cc(C, "-O1"), zig_cc(CPP, "-O1", language="c++"))
    code, data = Protection.READ | Protection.EXECUTE, Protection.READ | Protection.WRITE
    for name, protection, purpose in (
        (".text.a", code, Purpose.ORDINARY),
        (".data", data, Purpose.ORDINARY),
        (".bss", data, Purpose.ORDINARY),
        (".rodata.cst8", Protection.READ, Purpose.ORDINARY),
        (".data.rel.ro", Protection.READ, Purpose.ORDINARY),
        (".init_array.200", Protection.READ, Purpose.INIT_ARRAY),
        ("plugins", data, Purpose.NAMED_SET),
        (".note.mine", Protection.READ, Purpose.NOTE),
        (".eh_frame", Protection.READ, Purpose.EH_FRAME),
    ):
        section = section_of(graph, name)
        assert (section.name, section.protection, section.purpose) == (name, protection, purpose)


def test_mergeable_sections_keep_their_flags_and_entry_size() -> None:
    """SHF_MERGE and SHF_STRINGS are kept with the size of an entry; nothing is merged."""
    graph = jitlink.read(OBJECTS["everything"]())
    strings, constants = section_of(graph, ".rodata.str1.1"), section_of(graph, ".rodata.cst8")
    assert (strings.read("flags") & 0x30, strings.read("entry_size")) == (0x30, 1)
    assert (constants.read("flags") & 0x30, constants.read("entry_size")) == (0x10, 8)


def test_excluded_sections_are_not_linked() -> None:
    """SHF_EXCLUDE: a linker leaves the section out (gABI supplement), with an error for who refers to it."""
    image = jitlink.link(
        assemble('.section .out,"ae",@progbits\n.globl gone\ngone: .quad 1\n.data\n.globl here\nhere: .quad 2\n'),
        base=BASE,
    )
    assert set(image.symbols()) == {"here"}
    with pytest.raises(LinkFailure, match=r"refers to .* in a section that is not part of the image"):
        jitlink.link(assemble('.section .out,"ae",@progbits\nlocal: .quad 1\n.data\n.quad local\n'), base=BASE)


def test_linked_sections_follow_and_groups_hold_their_members() -> None:
    """SHF_LINK_ORDER and SHT_GROUP become ties between blocks."""
    graph = jitlink.read(OBJECTS["everything"]())
    function, meta = section_of(graph, ".text.a").blocks[0], section_of(graph, ".meta").blocks[0]
    assert meta.read("follows") == function.row
    assert [group.signature.name for group in graph.groups] == ["a"]
    assert graph.groups[1].read("comdat")
    assert [block.section.name for block in graph.blocks if block.read("group")] == [".text.a"]


def test_large_sections_are_marked() -> None:
    """SHF_X86_64_LARGE: out of reach of the others (psABI 4.2.1)."""
    graph = jitlink.read(OBJECTS["everything"]())
    assert [section.name for section in graph.sections if section.read("large")] == [".ldata"]


def test_common_absolute_and_section_symbols() -> None:
    """A common's offset is its alignment; an absolute's its address; a section symbol has its section's name."""
    graph = jitlink.read(OBJECTS["everything"]())
    shared, absolute = graph.symbols["shared"], graph.symbols["absolute"]
    assert (shared.definition, shared.offset, shared.size) == (Definition.COMMON, 16, 24)
    assert (absolute.definition, absolute.offset) == (Definition.ABSOLUTE, 0x1234_5678_9ABC)
    data = section_of(graph, ".data").blocks[0]
    to_itself = next(edge for edge in data.edges)
    assert (to_itself.target.name, to_itself.target.kind, to_itself.addend) == (".data", SymbolKind.SECTION, 8)
    inside = graph.symbols["inside"]
    assert (inside.scope, inside.definition, inside.size) == (Scope.LOCAL, Definition.DEFINED, 8)


# Objects that compilers do not make every day


def test_more_sections_than_16_bits_count() -> None:
    """With 65,280 sections or more, numbers stand in section 0 and indices in SHT_SYMTAB_SHNDX (gABI)."""
    count = 66_000
    source = "".join(f'.section .d{row},"aw"\n.globl s{row}\ns{row}: .long {row}\n' for row in range(count))
    pointers = ".data\n.globl table\ntable:\n" + "".join(f".quad s{row}\n" for row in (0, 65_279, 65_280, count - 1))
    content = assemble(source + pointers)
    header = struct.unpack_from("<QIHHHHHH", content, 40)
    assert header[6] == 0, "the object has few enough sections for e_shnum"
    graph = jitlink.read(content)
    assert len(graph.sections) > count
    for row in (0, 65_276, 65_279, 65_280, 65_281, count - 1):
        symbol = graph.symbols[f"s{row}"]
        assert symbol.block is not None
        assert (symbol.block.section.name, symbol.block.content) == (f".d{row}", struct.pack("<I", row))
    image = jitlink.link(content, base=BASE)
    table = struct.unpack("<4Q", image.read(image.address_of("table"), 32))
    assert [int.from_bytes(image.read(at, 4), "little") for at in table] == [0, 65_279, 65_280, count - 1]


def as_rel(content: bytes) -> bytes:
    """Rewrite the RELA sections of an object as REL: the addend goes into the field (gABI, Relocation)."""
    made = bytearray(content)
    elf = ELFFile(BytesIO(content))
    headers, entry = elf["e_shoff"], elf["e_shentsize"]
    for index, section in enumerate(elf.iter_sections()):
        if not isinstance(section, RelocationSection):
            continue
        relocated = elf.get_section(section["sh_info"])
        records = b""
        for each in section.iter_relocations():
            kind = KINDS[int(KINDS.rows_of_numbers("elf", np.array([each["r_info_type"]]))[0])]
            size = kind.field.size
            at = relocated["sh_offset"] + each["r_offset"]
            made[at : at + size] = (each["r_addend"] % 2 ** (8 * size)).to_bytes(size, "little")
            records += struct.pack("<QQ", each["r_offset"], each["r_info"])
        made[section["sh_offset"] : section["sh_offset"] + len(records)] = records
        at = headers + index * entry
        struct.pack_into("<I", made, at + 4, 9)
        struct.pack_into("<Q", made, at + 32, len(records))
        struct.pack_into("<Q", made, at + 56, 16)
    return bytes(made)


@pytest.mark.parametrize("name", ["c", "c-sections-debug", "c++", "everything"])
def test_rel_and_rela_of_one_object_say_the_same(name: str) -> None:
    """A REL relocation's addend is what its field holds, with the sign of the field."""
    rela = OBJECTS[name]()
    rel = as_rel(rela)

    def edges(content: bytes) -> list[tuple[object, ...]]:
        graph = jitlink.read(content)
        return [(edge.block.row, edge.offset, edge.kind, edge.target.row, edge.addend) for edge in graph.edges]

    assert rel != rela
    assert edges(rel) == edges(rela)


def test_a_rel_object_links_like_its_rela_twin() -> None:
    """The image is the same, addends in fields and all."""
    content = assemble("""
        .text
        .globl start
start:  call start
        leaq datum+0x1000(%rip), %rax
        movl $datum-3, %eax
        .data
        .globl datum
datum:  .quad start - 0x100000000
        .byte 1
        .reloc ., R_X86_64_PC16, datum-0x100
        .word 0
    """)
    images = [jitlink.link(each, base=BASE).to_bytes() for each in (content, as_rel(content))]
    assert images[0] == images[1]


def test_an_object_without_symbols_or_sections_is_an_empty_graph() -> None:
    """A header alone is a sound object: nothing is in it."""
    header = bytearray(assemble("")[:64])
    struct.pack_into("<Q", header, 40, 0)
    struct.pack_into("<HHH", header, 58, 0, 0, 0)
    graph = jitlink.read(bytes(header))
    assert (len(graph.sections), len(graph.blocks), len(graph.symbols), len(graph.edges)) == (1, 1, 1, 1)
