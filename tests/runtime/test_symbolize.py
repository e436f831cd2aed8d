"""Addresses in linked code get the names, objects and lines that they belong to."""

from __future__ import annotations

import ctypes
import random
import struct

import pytest

import jitlink
from jitlink.runtime.line_header import has_plausible_tables
from jitlink.runtime.lines import read_lines
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

SOURCE = """\
int counter = 5;
static int __attribute__((noinline)) local_function(int x) {
    return x * counter;
}
int exported_function(int x) {
    return local_function(x) + 2;
}
int (*address_of_local(void))(int) { return local_function; }
"""


@pytest.mark.parametrize("dwarf", ["-gdwarf-4", "-gdwarf-5"])
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
def test_address_in_a_function_has_symbol_object_file_and_line(tmp_path, compiler, dwarf):
    """Of exported and of local functions, with either version of line tables."""
    path = tmp_path / "input.o"
    flags = "-O1", dwarf
    path.write_bytes(
        toolchain.zig_cc(SOURCE, *flags)
        if compiler == "zig"
        else toolchain.compile_with(SOURCE, *flags, compiler="gcc")
    )
    with jitlink.Session() as session:
        dylib = session.dylib().add(path, debug=True)
        exported = session.symbolize(dylib["exported_function"].address + 1)
        assert exported is not None
        assert (exported.symbol, exported.offset, exported.object) == ("exported_function", 1, str(path))
        assert exported.file is not None
        assert exported.file.endswith("/source.c")
        assert exported.line in (5, 6)
        local = session.symbolize(dylib["address_of_local"].ctypes(ctypes.c_void_p)())
        assert local is not None
        assert local.symbol == "local_function"
        assert local.line in (2, 3)


def test_address_in_a_variable_has_a_symbol():
    """Data has names too, and no line."""
    with jitlink.Session() as session:
        counter = session.dylib().add(toolchain.zig_cc(SOURCE, "-O1"))["counter"]
        found = session.symbolize(counter.address + 3)
        assert found is not None
        assert (found.symbol, found.offset, found.file, found.line) == ("counter", 3, None, None)


def test_address_outside_of_linked_code_has_nothing():
    """Before, behind and far from the code there is no name; nor after it was closed."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(toolchain.zig_cc(SOURCE, "-O1"))
        symbol = dylib["exported_function"]
        address = symbol.address
        assert session.symbolize(address) is not None
        assert [session.symbolize(each) for each in (0, -1, 1 << 64, id(session))] == [None] * 4
        dylib.close()
        assert session.symbolize(address) is None


def test_label_without_a_size_reaches_to_the_next():
    """An assembler label holds until the next one, the last until the end of its section."""
    content = toolchain.assemble(".globl first, second\nfirst: nop\nnop\nsecond: nop\nret\n")
    with jitlink.Session() as session:
        dylib = session.dylib().add(content)
        first, second = dylib["first"].address, dylib["second"].address
        found = [session.symbolize(address) for address in (first, first + 1, second, second + 1, second + 2)]
        assert [each and (each.symbol, each.offset) for each in found] == [
            *[("first", 0), ("first", 1), ("second", 0), ("second", 1)],
            None,
        ]


def test_archive_members_and_dropped_copies_are_told_apart():
    """Of a function that two members define, the address is in the member whose copy was kept."""
    inline = "inline int __attribute__((noinline)) shared() { return 48; }\n"
    members = {
        f"{name}.o": toolchain.zig_cc(f'{inline} extern "C" int {name}() {{ return shared(); }}', "-O1", language="c++")
        for name in ("one", "two")
    }
    with jitlink.Session() as session:
        dylib = session.dylib().add(toolchain.archive_of(members), whole_archive=True)
        found = session.symbolize(dylib["_Z6sharedv"].address)
        assert found is not None
        assert found.object.endswith("(one.o)")


def test_broken_debug_sections_give_no_lines_and_no_error():
    """Whatever the bytes of debug sections are, reading lines ends, without an exception."""
    with jitlink.Session() as session:
        dylib = session.dylib().add(toolchain.zig_cc(SOURCE, "-O1", "-g"), debug=True)
        dylib.link()
        (sections,) = dylib.debug_sections.values()
    assert len(read_lines(sections).files) == 1
    chance = random.Random(48)
    for _ in range(60):
        broken = {name: bytearray(content) for name, content in sections.items()}
        for content in broken.values():
            for _ in range(min(len(content), 4)):
                content[chance.randrange(len(content))] = chance.randrange(256)
        read_lines({name: bytes(content) for name, content in broken.items()})
    read_lines({name: content[: len(content) // 2] for name, content in sections.items()})
    assert read_lines({}).find(48) is None


def test_counts_of_entries_without_fields_are_not_believed():
    """A DWARF 5 line table may say that it has 2**62 directories of no bytes each: it is left unread."""
    before = bytes(4) + struct.pack("<HBBI", 5, 8, 0, 0) + bytes([1, 1, 1, 0xFB, 14, 1])
    huge = b"\xff" * 8 + b"\x7f"
    no_tables = bytes([0, 0, 0, 0])
    assert has_plausible_tables(before + no_tables, 0)
    assert not has_plausible_tables(before + bytes([0]) + huge, 0)
    assert not has_plausible_tables(before + bytes([0, 0, 0]) + huge, 0)
    assert not has_plausible_tables(before + bytes([1, 1, 8]) + huge, 0)
    assert not has_plausible_tables(before, len(before))
