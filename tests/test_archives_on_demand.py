"""Archives give the members that somebody asks for, and no others.

Which members were linked can be seen by their names: each defines a symbol of its own. The rules are
those of static linkers (gABI, Symbol Table: an undefined weak symbol extracts no member), but the order
in which archives are given never leaves a symbol undefined.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

import jitlink
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")


def function(name: str, *calls: str, result: int = 1) -> bytes:
    """An object with a function that returns result and the sum of what it calls; `member_of_NAME` marks it."""
    calling = "\n".join(f"call {callee}@PLT\naddl %eax, %ebx" for callee in calls)
    return toolchain.assemble(
        f"""
        .globl {name}, member_of_{name}
    {name}: pushq %rbx
        movl ${result}, %ebx
        {calling}
        movl %ebx, %eax
        popq %rbx
        ret
        .set member_of_{name}, 1
        """
    )


def archive(members: Mapping[str, bytes], magic: bytes = b"!<arch>\n") -> bytes:
    """An archive without a symbol index, as `ar rcS` makes it."""
    parts = [magic]
    for name, content in members.items():
        parts.append(f"{name + '/':<16}{'0':<12}{'0':<6}{'0':<6}{'644':<8}{len(content):<10}`\n".encode())
        if magic == b"!<arch>\n":
            parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


def linked_members(library: jitlink.Library) -> set[str]:
    """The functions whose members have been linked, told by their marks; asks for nothing."""
    return {name.removeprefix("member_of_") for name in library.dylib.symbols() if name.startswith("member_of_")}


CHAIN = {
    "a.o": function("a", "b", result=1),
    "b.o": function("b", "c", "d", result=10),
    "c.o": function("c", result=100),
    "d.o": function("d", "b_alone", result=1000),
    "e.o": function("e", "a"),
    "b_alone.o": function("b_alone", result=10_000),
    "unused.o": function("unused", "nowhere"),
}


@pytest.mark.parametrize("format", ["gnu", "bsd"])
def test_a_lookup_links_the_chain_of_members_that_it_needs(format):
    """A name brings its member, what that refers to, and so on; other members stay out, with their needs."""
    with jitlink.load(toolchain.archive_of(CHAIN, format)) as library:
        assert linked_members(library) == set()
        assert library.function("c")() == 100
        assert linked_members(library) == {"c"}
        assert library.function("a")() == 11_111
        assert linked_members(library) == {"a", "b", "c", "d", "b_alone"}


def test_an_object_brings_the_members_that_it_refers_to():
    """Undefined symbols of an object are served by archives given before or after it."""
    user, members = function("user", "d"), toolchain.archive_of(CHAIN)
    for sources in ((user, members), (members, user)):
        with jitlink.load(*sources) as library:
            assert linked_members(library) == {"user", "d", "b_alone"}
            assert library.function("user")() == 11_001


def test_archives_that_need_each_other_link_in_any_order():
    """Members of two archives that refer to each other back and forth are all found."""
    first = toolchain.archive_of({"a.o": function("a", "b"), "c.o": function("c", "d")})
    second = toolchain.archive_of({"b.o": function("b", "c"), "d.o": function("d")})
    for sources in ((first, second), (second, first)):
        with jitlink.load(*sources) as library:
            assert library.function("a")() == 4
            assert linked_members(library) == {"a", "b", "c", "d"}


def test_of_two_archives_the_first_one_serves_a_name():
    """A name that two archives define comes from the one that was given first, without a conflict."""
    one, two = (toolchain.archive_of({"f.o": function("f", result=number)}) for number in (1, 2))
    with jitlink.load(one, two) as library:
        assert library.function("f")() == 1
    with jitlink.load(two, one) as library:
        assert library.function("f")() == 2


def test_a_definition_in_an_object_keeps_the_member_out():
    """A name that an object defines needs no member."""
    own = function("c", result=5)
    with jitlink.load(function("user", "c"), own, toolchain.archive_of(CHAIN)) as library:
        assert library.function("user")() == 6
        assert linked_members(library) == {"user", "c"}


def test_an_undefined_weak_symbol_brings_no_member():
    """A weak reference alone is left at zero although an archive defines the name."""
    weak = toolchain.assemble(".globl probe\n.weak c\nprobe: movq c@GOTPCREL(%rip), %rax\nret")
    with jitlink.load(weak, toolchain.archive_of(CHAIN)) as library:
        assert library.function("probe", ctypes.c_void_p)() is None
        assert linked_members(library) == set()


def test_a_weak_reference_uses_a_member_that_others_need():
    """When a strong reference brings the member, the weak one sees its definition."""
    weak = toolchain.assemble(".globl probe\n.weak c\nprobe: movq c@GOTPCREL(%rip), %rax\nret")
    with jitlink.load(weak, function("user", "c"), toolchain.archive_of(CHAIN)) as library:
        assert library.function("probe", ctypes.c_void_p)() == library["c"].address


def test_a_common_symbol_needs_no_member():
    """A tentative definition is a definition: it keeps the member that defines the name out."""
    user = toolchain.assemble(".comm counter, 4, 4\n.globl user\nuser: movl counter(%rip), %eax\nret")
    member = toolchain.assemble(".globl counter, member_of_counter\n.data\ncounter: .long 7\n.set member_of_counter, 1")
    with jitlink.load(user, toolchain.archive_of({"counter.o": member})) as library:
        assert library.function("user")() == 0
        assert linked_members(library) == set()


def test_an_archive_without_an_index_is_searched_all_the_same():
    """Where `ar` wrote no symbol index, the members' own symbol tables serve."""
    with jitlink.load(archive(CHAIN)) as library:
        assert library.function("a")() == 11_111
        assert linked_members(library) == {"a", "b", "c", "d", "b_alone"}


def test_a_thin_archive_reads_its_members_beside_it(tmp_path):
    """Members of a thin archive are files, found from the directory of the archive."""
    (tmp_path / "inner").mkdir()
    for name in ("a.o", "b.o", "c.o", "d.o", "b_alone.o"):
        (tmp_path / name).write_bytes(CHAIN[name])
    path = tmp_path / "libthin.a"
    path.write_bytes(archive({name: CHAIN[name] for name in ("a.o", "b.o", "c.o", "d.o", "b_alone.o")}, b"!<thin>\n"))
    with jitlink.load(path) as library:
        assert library.function("a")() == 11_111


@pytest.mark.needs("ar")
def test_a_thin_archive_of_gnu_ar_is_read(tmp_path):
    """A thin archive that GNU ar made, with an index and members in other directories, gives its members."""
    (tmp_path / "objects").mkdir()
    for name, content in CHAIN.items():
        (tmp_path / "objects" / name).write_bytes(content)
    (tmp_path / "library").mkdir()
    members = [f"objects/{name}" for name in CHAIN]
    subprocess.run([str(shutil.which("ar")), "rcsT", "library/libthin.a", *members], cwd=tmp_path, check=True)
    with jitlink.load(tmp_path / "library" / "libthin.a") as library:
        assert library.function("d")() == 11_000
        assert linked_members(library) == {"d", "b_alone"}


def test_a_thin_archive_whose_member_is_gone_is_refused(tmp_path):
    """A member file that is not there is named, with the archive."""
    path = tmp_path / "libthin.a"
    path.write_bytes(archive({"gone.o": b""}, b"!<thin>\n"))
    with pytest.raises(jitlink.UnreadableInput, match=r"gone\.o: No such file"):
        jitlink.load(path)


def test_a_thin_archive_given_as_bytes_is_refused():
    """Without a path there is no directory to look for the members in; the error says what to do."""
    with pytest.raises(jitlink.UnsupportedInput, match=r"thin archive.*Give the archive by its path"):
        jitlink.load(archive({"a.o": CHAIN["a.o"]}, b"!<thin>\n"))


def test_an_archive_in_an_archive_gives_its_members():
    """Nested archives are searched as if they were given themselves."""
    inner = toolchain.archive_of({name: CHAIN[name] for name in ("b.o", "c.o", "d.o", "b_alone.o")})
    outer = archive({"a.o": CHAIN["a.o"], "inner.a": inner})
    with jitlink.load(outer) as library:
        assert library.function("a")() == 11_111
        assert linked_members(library) == {"a", "b", "c", "d", "b_alone"}


def test_archives_nested_without_end_are_refused():
    """Archives in archives are opened to a depth that no build has, and refused beyond it."""
    nested = archive({"c.o": CHAIN["c.o"]})
    for _ in range(7):
        nested = archive({"nested.a": nested})
    with jitlink.load(nested, whole_archive=True) as library:
        assert library.function("c")() == 100
    with pytest.raises(jitlink.UnsupportedInput, match="archives nested more than 8 deep"):
        jitlink.load(archive({"nested.a": nested}), whole_archive=True)


def test_an_empty_archive_is_an_input_without_members():
    """Eight bytes of magic are a sound archive: beside it, everything links as without it."""
    empty = b"!<arch>\n"
    with jitlink.load(empty, CHAIN["c.o"], empty) as library:
        assert library.function("c")() == 100
    with jitlink.load(empty) as library:
        assert "c" not in library


def test_whole_archive_takes_all_members():
    """whole_archive links every member, so that what each refers to must be there."""
    members = {name: content for name, content in CHAIN.items() if name != "unused.o"}
    with jitlink.load(toolchain.archive_of(members), whole_archive=True) as library:
        assert linked_members(library) == {"a", "b", "c", "d", "e", "b_alone"}
    with pytest.raises(jitlink.UndefinedSymbols) as caught:
        jitlink.load(toolchain.archive_of(CHAIN), whole_archive=True)
    assert caught.value.names == ["nowhere"]
    assert "(unused.o): .text" in str(caught.value)


def test_a_member_that_is_no_object_is_minded_only_when_it_is_needed():
    """A text file in an archive harms no link on demand; with whole_archive it is refused by name."""
    members = archive({"README": b"how to build this\n", "c.o": CHAIN["c.o"]})
    with pytest.raises(jitlink.MalformedInput, match=r"\(README\): neither an object nor an archive"):
        jitlink.load(members, whole_archive=True)


def test_a_failed_link_gives_its_members_back():
    """After a lookup that failed, another one links the same members once what was missing is there."""
    with jitlink.Session() as session:
        dylib = session.dylib("main").link_against({}).add(toolchain.archive_of(CHAIN))
        with pytest.raises(jitlink.UndefinedSymbols, match="nowhere"):
            dylib["unused"]
        assert dylib["c"].ctypes(ctypes.c_int)() == 100
        dylib.add(function("nowhere", "c", result=7))
        assert dylib["unused"].ctypes(ctypes.c_int)() == 108


def test_members_are_linked_once():
    """A member that an earlier lookup linked serves later ones: its data is one."""
    counter = toolchain.zig_cc("static int count; int next(void) { return ++count; }")
    user = toolchain.zig_cc("int next(void); int twice(void) { next(); return next(); }")
    with jitlink.load(toolchain.archive_of({"counter.o": counter, "user.o": user})) as library:
        assert library.function("next")() == 1
        assert library.function("twice")() == 3


def test_exports_are_taken_out_of_archives_at_once():
    """Names given as exports bring their members without a lookup, and no others can be looked up."""
    with jitlink.load(toolchain.archive_of(CHAIN), exports=["d"]) as library:
        assert library.function("d")() == 11_000
        assert "a" not in library
        with pytest.raises(jitlink.SymbolNotFound):
            library["b_alone"]


def test_objects_and_archives_are_told_apart_by_content(tmp_path: Path):
    """An archive may be called .o and an object .a."""
    (tmp_path / "archive.o").write_bytes(toolchain.archive_of(CHAIN))
    (tmp_path / "object.a").write_bytes(function("user", "c"))
    with jitlink.load(tmp_path / "object.a", tmp_path / "archive.o") as library:
        assert library.function("user")() == 101
