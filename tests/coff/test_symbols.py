"""Weak externals, alternate names, imports and the symbols that a linker defines for COFF objects."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path

import pytest

import jitlink
from jitlink import LinkFailure, MalformedInput, UndefinedSymbols
from jitlink.graph import Linkage
from tests import toolchain
from tests.coff.writer import ABSOLUTE, AMD64, ARM64, CODE, DATA, INFO, READ_ONLY, REMOVE, Object, import_member

BASE = 0x2345_0000
ADDR64, REL32 = 1, 4
NOLIBRARY, LIBRARY, ALIAS = 1, 2, 3


def table(*names: str, **options) -> Object:
    """An object with a table of pointers to names, which is called table."""
    made = Object(**options)
    data = made.section(".data", bytes(8 * len(names)), DATA)
    made.symbol("table", section=data)
    for row, name in enumerate(names):
        made.relocate(data, 8 * row, made.symbol(name), ADDR64)
    return made


def defining(*names: str) -> bytes:
    """An object that defines names, 16 bytes apart."""
    made = Object()
    data = made.section(".rdata", bytes(16 * len(names)), READ_ONLY)
    for row, name in enumerate(names):
        made.symbol(name, 16 * row, data)
    return made.write()


def directives(text: str, *names: str) -> Object:
    """An object with linker directives, and a table of names."""
    made = table(*names)
    made.section(".drectve", text.encode(), INFO | REMOVE)
    return made


def pointers(image: jitlink.Image) -> tuple[int, ...]:
    """What the table of pointers holds."""
    block = image.graph.symbols["table"].block
    assert block is not None
    return struct.unpack(f"<{block.size // 8}Q", image.read(block.address, block.size))


# Weak externals


def test_the_default_of_a_weak_external_stands_in_for_it():
    """Where nobody defines a weak external, it is its default."""
    made = table("wanted")
    data = made.section(".rdata", bytes(8), READ_ONLY)
    made.weak("wanted", made.symbol("default", section=data))
    image = jitlink.link(made.write(), base=BASE)
    assert pointers(image) == (image.address_of("default"),)
    assert image.address_of("wanted") == image.address_of("default")


def test_a_definition_goes_before_the_default():
    """Where another object defines the name, its definition is taken, whichever comes first."""
    made = Object()
    data = made.section(".data", bytes(8), DATA)
    made.symbol("table", section=data)
    weak = made.weak("wanted", made.symbol("default", section=data))
    made.relocate(data, 0, weak, ADDR64)
    for order in ((made.write(), defining("wanted")), (defining("wanted"), made.write())):
        image = jitlink.link(*order, base=BASE)
        assert pointers(image) == (image.address_of("wanted"),)
        assert image.address_of("wanted") != image.address_of("default")


def test_an_absolute_default_of_zero_is_the_null_pointer():
    """Compilers give an undefined weak reference a default of absolute zero."""
    made = table("wanted")
    made.weak("wanted", made.symbol(".weak.wanted.default", 0, ABSOLUTE))
    assert pointers(jitlink.link(made.write(), base=BASE)) == (0,)


def test_defaults_are_followed_through_others():
    """A default may be a weak external of another object."""
    first, second = table("a"), Object()
    first.weak("a", first.symbol("b"))
    second.weak("b", second.symbol("c"))
    image = jitlink.link(first.write(), second.write(), defining("c"), base=BASE)
    assert pointers(image) == (image.address_of("c"),)


@pytest.mark.parametrize("names", ["a", "ab", "abcd"])
def test_weak_externals_in_a_circle_are_refused(names):
    """Weak externals that stand in for each other mean nothing, and are named."""
    made = table(names[0])
    rows = {}
    for name in names:
        rows[name] = made.weak(name, 0)
    for name, following in zip(names, names[1:] + names[0], strict=True):
        made.records[rows[name] + 1] = struct.pack("<II10x", rows[following], ALIAS)
    with pytest.raises(LinkFailure, match=f"weak symbols stand in for each other in a circle: {', '.join(names)}"):
        jitlink.link(made.write(), base=BASE)


@pytest.mark.parametrize(("search", "taken"), [(NOLIBRARY, False), (LIBRARY, True), (ALIAS, False)])
def test_the_search_kind_decides_whether_archives_are_asked(search, taken):
    """Only with IMAGE_WEAK_EXTERN_SEARCH_LIBRARY does a weak external take a member of an archive."""
    made = table("wanted")
    made.records.pop()
    made.sections[0].relocations = []
    data = made.section(".rdata", bytes(8), READ_ONLY)
    weak = made.weak("wanted", made.symbol("default", section=data), search)
    made.relocate(1, 0, weak, ADDR64)
    archive = toolchain.archive_of({"member.obj": defining("wanted")}, "coff")
    image = jitlink.link(made.write(), archive, base=BASE)
    assert (pointers(image)[0] == image.address_of("default")) != taken


def test_weak_definitions_of_zig_are_replaced_by_strong_ones():
    """A weak function in C is a weak external whose default is the function."""
    weak = toolchain.zig_cc(
        "__attribute__((weak)) int f(void) { return 1; } int g(void) { return f(); }",
        "-O1",
        target="x86_64-windows-gnu",
    )
    strong = toolchain.zig_cc("int f(void) { return 2; }", "-O1", target="x86_64-windows-gnu")
    with jitlink.load(weak) as library:
        assert library.function("g")() == 1
    with jitlink.load(weak, strong) as library:
        assert library.function("g")() == 2


def test_a_definition_of_an_earlier_link_goes_before_the_default():
    """What the dylib has defined before is what a weak external of a later object means."""
    strong = toolchain.zig_cc("int f(void) { return 2; }", "-O1", target="x86_64-windows-gnu")
    weak = toolchain.zig_cc(
        "__attribute__((weak)) int f(void) { return 1; } int g(void) { return f(); }",
        "-O1",
        target="x86_64-windows-gnu",
    )
    with jitlink.Session() as session:
        dylib = session.dylib("a").add(strong)
        dylib.link()
        dylib.add(weak)
        assert dylib["g"].ctypes()() == 2


# Directives


def test_an_alternate_name_stands_in_for_an_undefined_one():
    """/alternatename:A=B makes A mean B, if nobody defines A."""
    made = directives("/alternatename:wanted=other", "wanted").write()
    image = jitlink.link(made, defining("other"), base=BASE)
    assert pointers(image) == (image.address_of("other"),)
    image = jitlink.link(made, defining("other", "wanted"), base=BASE)
    assert pointers(image) == (image.address_of("wanted"),) != (image.address_of("other"),)


def test_an_unused_alternate_name_asks_for_nothing():
    """An alternate name that nobody needs may be defined nowhere."""
    jitlink.link(directives("/alternatename:a=b").write(), base=BASE)


def test_an_export_under_another_name_is_found_under_it():
    """/export:A=B gives B the further name A; attributes behind commas say nothing here."""
    made = directives('-export:"public name"=inner,@7,DATA /EXPORT:inner', "inner")
    image = jitlink.link(made.write(), defining("inner"), base=BASE)
    assert image.address_of("public name") == image.address_of("inner")


def test_an_included_symbol_is_kept():
    """/include:A keeps A where nothing refers to it, and must find it."""
    made = directives("/include:needed")
    image = jitlink.link(made.write(), defining("needed"), base=BASE, dead_strip=True, exports=["table"])
    assert [each.section.name for each in image.graph.blocks if each.live and each.size] == [".rdata"]
    with pytest.raises(UndefinedSymbols, match="needed"):
        jitlink.link(made.write(), base=BASE)


def test_an_included_symbol_takes_its_archive_member():
    """/include:A takes the member of an archive that defines A."""
    archive = toolchain.archive_of({"member.obj": defining("needed")}, "coff")
    image = jitlink.link(directives("/include:needed").write(), archive, base=BASE, exports=["table"])
    assert image.address_of("needed")


def test_merged_sections_have_the_name_of_the_other():
    """/merge:A=B gives all sections A the name B, through further merges too."""
    made = directives("/merge:mine$a=.data$x /merge:.data$x=.data$y")
    made.section("mine$a", b"abcd", DATA)
    graph = jitlink.read(made.write(), Object().write())
    assert ".data$y" in [each.name for each in graph.sections]


def test_merges_in_a_circle_end():
    """Sections that are merged into each other keep one of their names."""
    made = directives("/merge:.a=.b /merge:.b=.a")
    made.section(".a", b"abcd", DATA)
    assert jitlink.read(made.write()).sections[3].name in (".a", ".b")


def test_a_common_is_aligned_as_gnu_tools_say():
    """-aligncomm:A,N aligns the common symbol A of the object to 2**N bytes."""
    made = directives('-aligncomm:"shared",6')
    made.symbol("shared", 4)
    image = jitlink.link(made.write(), base=BASE)
    assert image.address_of("shared") % 64 == 0
    block = image.graph.symbols["shared"].block
    assert block is not None
    assert block.alignment == 64


def test_all_directives_are_recorded():
    """What is not followed is recorded too: the libraries to search are the caller's business."""
    made = directives('\ufeff/DEFAULTLIB:"libcmt.lib" -stack:65536 /failifmismatch:"a=b c" nonsense')
    assert jitlink.read(made.write()).directives == [
        (1, "defaultlib", "libcmt.lib"),
        (1, "stack", "65536"),
        (1, "failifmismatch", "a=b c"),
    ]


@pytest.mark.parametrize(
    "text", ["/alternatename:a", "/alternatename:=b", "/export:=x", "/include:", "/merge:.a", "-aligncomm:x,99"]
)
def test_a_directive_without_its_parts_is_refused(text):
    """A directive that is followed must have the form that it is documented with."""
    with pytest.raises(MalformedInput, match="has not the form that it must have"):
        jitlink.read(directives(text).write())


def test_joined_graphs_keep_the_inputs_of_their_directives():
    """After a join a directive is still that of its own input."""
    first, second = (jitlink.read(directives(f"/stack:{size}").write()) for size in (1, 2))
    assert jitlink.read(first, second).directives == [(1, "stack", "1"), (2, "stack", "2")]


# Imports


def test_an_import_pointer_is_made_for_what_another_object_defines():
    """__imp_NAME is a pointer to NAME, also where that is in the same link."""
    image = jitlink.link(table("__imp_thing", "thing").write(), defining("thing"), base=BASE)
    pointer, thing = pointers(image)
    assert thing == image.address_of("thing")
    assert struct.unpack("<Q", image.read(pointer, 8)) == (thing,)


def test_an_import_pointer_is_made_for_what_is_outside():
    """__imp_NAME points at a NAME that the caller gives; and all references share one pointer."""
    image = jitlink.link(table("__imp_x").write(), Object().write(), base=BASE, define={"x": 0x7FFF_1234_5678})
    assert struct.unpack("<Q", image.read(pointers(image)[0], 8)) == (0x7FFF_1234_5678,)


def test_an_import_pointer_takes_the_archive_member_of_its_name():
    """A reference to __imp_NAME takes the member that defines NAME, where no import library has it."""
    archive = toolchain.archive_of({"member.obj": defining("thing")}, "coff")
    image = jitlink.link(table("__imp_thing").write(), archive, base=BASE)
    assert struct.unpack("<Q", image.read(pointers(image)[0], 8)) == (image.address_of("thing"),)


def test_a_missing_import_is_reported_by_its_own_name():
    """What an import pointer points at must be somewhere."""
    with pytest.raises(UndefinedSymbols) as error:
        jitlink.link(table("__imp_nowhere").write(), base=BASE)
    assert error.value.names == ["nowhere"]


@pytest.mark.parametrize(
    ("member", "looked_up"),
    [
        (import_member("f"), "f"),
        (import_member("_f@8", name_type=2), "f@8"),
        (import_member("?f@8@9", name_type=2), "f@8@9"),
        (import_member("_f@8", name_type=3), "f"),
        (import_member("plain@8", name_type=3), "plain"),
        (import_member("f", name_type=4, exported="other"), "other"),
        (import_member("f", "KERNEL.dll", name_type=0, ordinal=12), "KERNEL.dll#12"),
    ],
    ids=["name", "no prefix", "no prefix of C++", "undecorated", "undecorated without prefix", "export as", "ordinal"],
)
def test_import_members_look_up_the_exported_name(member, looked_up):
    """The name type of an import says under which name the DLL exports it; both symbols stand for that."""
    symbol = member[20:].partition(b"\0")[0].decode()
    made = table(f"__imp_{symbol}", symbol)
    image = jitlink.link(made.write(), member, base=BASE, define={looked_up: 0x1234_5678})
    pointer, function = pointers(image)
    assert function == 0x1234_5678
    assert struct.unpack("<Q", image.read(pointer, 8)) == (0x1234_5678,)


def test_imported_data_is_reached_through_its_pointer_only():
    """An import of data defines the pointer; a constant's own name stands for the pointer too."""
    data = jitlink.read(import_member("x", sort=1))
    assert [each.name for each in data.defined()] == ["__imp_x"]
    constant = jitlink.read(import_member("x", sort=2))
    assert sorted(each.name for each in constant.defined()) == ["__imp_x", "x"]


def test_imports_of_one_name_from_two_libraries_are_no_conflict():
    """Two import libraries may have one name, and an object may define it as well."""
    members = [import_member("f", "a.dll"), import_member("f", "b.dll")]
    image = jitlink.link(table("__imp_f").write(), *members, defining("f"), base=BASE)
    assert struct.unpack("<Q", image.read(pointers(image)[0], 8)) == (image.address_of("f"),)


def import_library(tool: str, directory: Path) -> Path:
    """An import library that one of LLVM's tools, which zig brings, has made of a module definition."""
    definition, library = directory / "sample.def", directory / "sample.lib"
    definition.write_text("LIBRARY sample.dll\nEXPORTS\n  plain\n  byordinal @5 NONAME\n  value DATA\n")
    if tool == "lib":
        options = [f"/def:{definition}", "/machine:x64", f"/out:{library}"]
    else:
        options = ["-m", "i386:x86-64", "-d", str(definition), "-l", str(library)]
    subprocess.run([*toolchain.zig(tool), *options], check=True, capture_output=True)
    return library


@pytest.mark.parametrize("tool", ["lib", "dlltool"])
def test_import_libraries_of_llvm_are_searched(tool, tmp_path):
    """A library that LLVM's lib or dlltool has made gives its imports on demand, by name and by ordinal."""
    library = str(import_library(tool, tmp_path))
    made = table("plain", "__imp_byordinal", "__imp_value")
    define = {"plain": 0x1000, "sample.dll#5": 0x2000, "value": 0x3000}
    image = jitlink.link(made.write(), library, base=BASE, define=define)
    plain, ordinal, value = pointers(image)
    assert plain == 0x1000
    assert [struct.unpack("<Q", image.read(each, 8))[0] for each in (ordinal, value)] == [0x2000, 0x3000]
    # The members for Windows' loader are read like other objects.
    assert len(jitlink.read(library).inputs) > 4


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (import_member("f")[:-1], "the names of an import go past the end of the file"),
        (import_member("f")[:-1].replace(b"\x0a\0\0\0", b"\x09\0\0\0", 1), "do not end with NUL bytes"),
        (import_member(""), "do not end with NUL bytes"),
        (import_member("f", name_type=4), "do not end with NUL bytes"),
        (import_member("f", sort=3), "an import of an unknown type"),
        (import_member("f", name_type=5), "an import of an unknown type"),
    ],
)
def test_malformed_import_members_are_refused(content, fault):
    """Names without their ends, and types that there are not, are refused."""
    with pytest.raises(MalformedInput, match=fault):
        jitlink.read(content)


# What a linker defines


@pytest.mark.parametrize("machine", [AMD64, ARM64])
def test_routines_that_compilers_call_are_provided(machine):
    """Stack probes, cookies and handlers of exceptions are there without a C library; a caller's go before."""
    names = ["__chkstk", "__security_check_cookie", "__security_cookie", "__C_specific_handler", "_fltused"]
    kind = {AMD64: 1, ARM64: 14}[machine]
    made = Object(machine=machine)
    data = made.section(".data", bytes(8 * len(names)), DATA)
    made.symbol("table", section=data)
    for row, name in enumerate(names):
        made.relocate(data, 8 * row, made.symbol(name), kind)
    image = jitlink.link(made.write(), base=BASE)
    found = dict(zip(names, pointers(image), strict=True))
    assert found["_fltused"] == 0x9875
    assert image.read(found["__security_cookie"], 8) == (0x2B992DDFA232).to_bytes(8, "little")
    for name in names[:2]:
        assert any(each.address <= found[name] < each.address + each.size for each in image.segments)
    given = jitlink.link(made.write(), base=BASE, define={"__chkstk": 0x77})
    assert pointers(given)[0] == 0x77


def test_imports_of_imports_are_undefined():
    """A pointer to a pointer is nobody's: however often the prefix is repeated, the name ends undefined."""
    with pytest.raises(UndefinedSymbols):
        jitlink.link(table("__imp_" * 2000 + "x").write(), base=BASE)


def test_the_linkage_of_import_pointers_is_weak():
    """What import libraries define may be defined again."""
    graph = jitlink.read(import_member("f"))
    assert graph.symbols["__imp_f"].linkage == Linkage.WEAK


def test_sections_with_suffixes_lie_side_by_side_in_order():
    """Parts of a section are ordered by what follows the dollar sign, from all inputs, without gaps."""
    objects = []
    for suffix, content in (("z", b"zzzz"), ("m", b"mmmm"), ("a", b"aaaa"), ("m", b"nnnn")):
        made = Object()
        section = made.section(f"mine${suffix}", content, DATA, alignment=4)
        made.symbol("start" if suffix == "a" else f"part_{content[:1].decode()}", section=section)
        objects.append(made.write())
    image = jitlink.link(*objects, base=BASE)
    assert image.read(image.address_of("start"), 16) == b"aaaammmmnnnnzzzz"


def test_initialisers_run_by_part_and_terminators_too():
    """.CRT$XI goes before .CRT$XC, each by its suffix; terminators run in order when the code is closed."""
    source = r"""
    typedef void (*function)(void);
    void note(int);
    #define PLACE(part, name, number) \
        static void name(void) { note(number); } \
        __attribute__((section(part), used)) static const function pointer_##name = name;
    PLACE(".CRT$XCZ", last, 5)
    PLACE(".CRT$XCU", middle, 4)
    PLACE(".CRT$XCA", early, 3)
    PLACE(".CRT$XIU", second, 2)
    PLACE(".CRT$XIA", first, 1)
    PLACE(".CRT$XTA", ending, 7)
    PLACE(".CRT$XPA", before, 6)
    __attribute__((constructor)) static void constructed(void) { note(9); }
    """
    content = toolchain.zig_cc(source, "-O1", target="x86_64-windows-gnu")
    noted: list[int] = []
    note = ctypes.CFUNCTYPE(None, ctypes.c_int)(noted.append)
    library = jitlink.load(content, define={"note": note})
    assert noted == [1, 2, 3, 4, 5, 9]
    library.close()
    assert noted[6:] == [6, 7]


def test_a_stack_probe_keeps_all_registers():
    """A function with a large frame runs: ___chkstk_ms touches its pages and leaves RSP and RAX alone."""
    source = """
    int f(int x) {
        volatile char room[1 << 18];
        room[x] = 5;
        room[(1 << 18) - 1] = 2;
        return room[x] + room[(1 << 18) - 1];
    }
    """
    with jitlink.load(toolchain.zig_cc(source, "-O1", target="x86_64-windows-gnu")) as library:
        assert library.function("f", argtypes=[ctypes.c_int])(77) == 7


def test_code_sections_stay_executable():
    """Code of COFF is mapped as code, data as data, and nothing is both."""
    made = Object()
    made.section(".text", b"\xc3", CODE | 0x8000_0000)
    with pytest.raises(jitlink.UnsupportedInput, match="writable and executable at once"):
        jitlink.read(made.write())
