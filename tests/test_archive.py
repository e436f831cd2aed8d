"""Archives of every family give their members, their names and their index; broken ones are refused.

The archives come from LLVM's ar, as zig brings it, and from binutils where it is installed; the oracles
are what was put in, and what `ar t`, `ar p` and `nm -s` say. What no archiver writes is made by hand.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jitlink.errors import LinkError, MalformedInput, UnsupportedInput
from jitlink.formats.archive import Archive, is_archive, read_archive
from jitlink.formats.archive_index import IndexLayout, SymbolIndex
from tests.toolchain import ArchiveFormat, archive_of, debian_library, llvm_object, needs, zig

LONG_NAME = "a_name_that_is_longer_than_the_field.o"
NAME_WITH_SPACES = "a name with spaces.o"
NAMES = ["alpha.o", LONG_NAME, NAME_WITH_SPACES, "übung.o"]
TRIPLES = {
    "gnu": "x86_64-unknown-linux-gnu",
    "bsd": "x86_64-unknown-freebsd",
    "darwin": "x86_64-apple-macosx11",
    "coff": "x86_64-pc-windows-msvc",
}
FORMATS: list[ArchiveFormat] = ["gnu", "bsd", "darwin", "coff"]
every_format = pytest.mark.parametrize("format", FORMATS)


def defining(*symbols: str, format: str = "gnu") -> bytes:
    """An object that defines these symbols."""
    functions = (f"define i32 @{symbol}() {{ ret i32 {len(symbol)} }}" for symbol in symbols)
    return llvm_object("\n".join(functions), target=TRIPLES[format])


def members_for(format: str) -> dict[str, bytes]:
    """An object for each of NAMES; row i defines own_i, and all of them define common."""
    return {name: defining(f"own_{row}", "common", format=format) for row, name in enumerate(NAMES)}


def index_for(format: str) -> dict[bytes, int]:
    prefix = b"_" if format == "darwin" else b""
    return {prefix + b"common": 0} | {prefix + b"own_%d" % row: row for row in range(len(NAMES))}


def read(content: bytes, name: str = "lib.a") -> Archive:
    return read_archive(np.frombuffer(content, np.uint8), 0, len(content), name)


def contents(archive: Archive, buffer: bytes) -> list[bytes]:
    return [
        buffer[start : start + size]
        for start, size in zip(archive.starts.tolist(), archive.sizes.tolist(), strict=True)
    ]


def run(*command: str, directory: Path, **environment: str) -> str:
    """Run a tool and return what it prints; bytes that are not UTF-8 become surrogate escapes."""
    zig_cache = {"ZIG_GLOBAL_CACHE_DIR": str(directory), "ZIG_LOCAL_CACHE_DIR": str(directory)}
    environment = {**os.environ, **zig_cache, **environment}
    result = subprocess.run(command, cwd=directory, env=environment, capture_output=True, check=True)
    return result.stdout.decode("utf-8", "surrogateescape")


def write_members(directory: Path, members: Mapping[str, bytes]) -> list[str]:
    for name, content in members.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
    return list(members)


def needs_gnu_ar() -> None:
    needs("ar", "nm")
    if "GNU" not in subprocess.run(["ar", "--version"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("ar is not the one of binutils")


# --- archives made by hand -------------------------------------------------------------------------


def member(field: bytes, content: bytes = b"", size: bytes | None = None, end_mark: bytes = b"`\n") -> bytes:
    """A header and its content, padded to an even size."""
    size = b"%d" % len(content) if size is None else size
    date_owner_group_mode = b"0           0     0     644     "
    header = field.ljust(16) + date_owner_group_mode + size.ljust(10) + end_mark
    assert len(header) == 60
    return header + content + b"\n" * (len(content) % 2)


def archive(*parts: bytes) -> bytes:
    return b"!<arch>\n" + b"".join(parts)


def gnu_index(count: int, offsets: list[int], names: bytes) -> bytes:
    return member(b"/", struct.pack(f">I{len(offsets)}I", count, *offsets) + names)


def bsd_index(pairs: list[tuple[int, int]], strings: bytes, table_size: int | None = None) -> bytes:
    table = b"".join(struct.pack("<II", *pair) for pair in pairs)
    table_size = len(table) if table_size is None else table_size
    return member(b"__.SYMDEF", struct.pack("<I", table_size) + table + struct.pack("<I", len(strings)) + strings)


# --- what an archive is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"!<arch>\n", True),
        (b"!<thin>\n", True),
        (b"<bigaf>\n", True),
        (b"!<arch>", False),
        (b"!<arch>\r\n", False),
        (b"\x7fELF\x02\x01\x01\0", False),
        (b"", False),
    ],
)
def test_an_archive_is_known_by_its_first_eight_bytes(content, expected):
    """Neither the name of a file nor what follows the magic counts."""
    assert is_archive(np.frombuffer(b"..." + content + b"...", np.uint8), 3, len(content)) is expected


def test_bytes_behind_a_range_are_not_taken_for_its_magic():
    """A range shorter than the magic is no archive, also where the buffer goes on with the rest of it."""
    pool = np.frombuffer(b"!<arch>\n", np.uint8)
    assert not is_archive(pool, 0, 7)
    with pytest.raises(MalformedInput):
        read_archive(pool, 0, 7, "short.a")


# --- members ---------------------------------------------------------------------------------------


@every_format
def test_members_are_what_was_put_in(format):
    """Names of any length and content come back in order, and index and name table are no members."""
    members = members_for(format)
    content = archive_of(members, format)
    found = read(content)
    assert found.member_names == NAMES
    # Darwin pads members to a multiple of 8 bytes, and counts the padding as content.
    assert [inner.rstrip(b"\0\n") for inner in contents(found, content)] == [
        inner.rstrip(b"\0\n") for inner in members.values()
    ]
    if format != "darwin":
        assert found.sizes.tolist() == list(map(len, members.values()))
    assert not found.thin


@every_format
def test_the_index_gives_the_first_member_that_defines_a_name(format):
    """A symbol that all members define belongs to the first of them, the others to their own."""
    found = read(archive_of(members_for(format), format))
    assert found.index() == index_for(format)


@pytest.mark.parametrize(("format", "special"), [("gnu", b"/SYM64/ "), ("darwin", b"__.SYMDEF_64")])
def test_an_index_may_have_64_bit_words(format, special, tmp_path):
    """LLVM's ar writes such an index for archives that are too large for 32 bits, or when it is told to."""
    names = write_members(tmp_path, members_for(format))
    run(*zig("ar"), f"--format={format}", "rcsD", "lib.a", *names, directory=tmp_path, SYM64_THRESHOLD="1")
    content = (tmp_path / "lib.a").read_bytes()
    assert special in content
    found = read(content)
    assert found.member_names == NAMES
    assert found.index() == index_for(format)


@every_format
def test_positions_count_from_the_buffer_and_header_offsets_from_the_archive(format):
    """An archive at an odd position, with other bytes around it, reads as it does alone."""
    content = archive_of(members_for(format), format)
    pool = np.frombuffer(b"before!" + content + b"behind", np.uint8)
    alone, inside = read(content), read_archive(pool, 7, len(content), "lib.a")
    assert inside.starts.tolist() == (alone.starts + 7).tolist()
    assert inside.sizes.tolist() == alone.sizes.tolist()
    assert inside.header_offsets.tolist() == alone.header_offsets.tolist()
    assert inside.index() == alone.index()


def test_an_archive_without_index_has_none(tmp_path):
    """No index and an index without symbols are two things."""
    names = write_members(tmp_path, members_for("gnu"))
    run(*zig("ar"), "rcSD", "lib.a", *names, directory=tmp_path)
    assert read((tmp_path / "lib.a").read_bytes()).index() is None
    assert read(archive(gnu_index(0, [], b""))).index() == {}


def test_an_empty_archive_has_no_members():
    """Eight bytes are a whole archive."""
    found = read(archive())
    assert found.member_names == []
    assert found.starts.tolist() == found.sizes.tolist() == found.header_offsets.tolist() == []
    assert found.index() is None


def test_the_last_member_may_lack_its_padding():
    """A last member of odd size may end with the archive."""
    content = archive(member(b"a.o/", b"odd"), member(b"b.o/", b"odd")).removesuffix(b"\n")
    assert contents(read(content), content) == [b"odd", b"odd"]


def test_an_archive_in_an_archive_is_an_ordinary_member():
    """What a member holds is the caller's affair."""
    inner = archive_of(members_for("gnu"))
    content = archive(member(b"inner.a/", inner), member(b"b.o/", b"b"))
    found = read(content)
    assert found.member_names == ["inner.a", "b.o"]
    start, size = int(found.starts[0]), int(found.sizes[0])
    nested = read_archive(np.frombuffer(content, np.uint8), start, size, "lib.a(inner.a)")
    assert nested.member_names == NAMES
    assert nested.index() == index_for("gnu")


def test_members_may_share_a_name():
    """Import libraries name all members after the DLL; the name table then has the name once."""
    content = archive(member(b"//", b"one_name_for_all.dll\0"), member(b"/0", b"first"), member(b"/0", b"second"))
    found = read(content)
    assert found.member_names == ["one_name_for_all.dll"] * 2
    assert contents(found, content) == [b"first", b"second"]


def test_a_name_that_is_not_utf_8_keeps_its_bytes():
    """File names are bytes: what cannot be decoded becomes surrogate escapes, in every place for names."""
    latin = "größe.o".encode("latin-1")
    content = archive(
        member(b"//", b"a" + latin + b"/\nplain_name.o/\n"),
        member(b"/0"),
        member(b"/10"),
        member(latin + b"/"),
        member(b"#1/%d" % len(latin), latin),
    )
    names = [name.encode("utf-8", "surrogateescape") for name in read(content).member_names]
    assert names == [b"a" + latin, b"plain_name.o", latin, latin]


@pytest.mark.parametrize("terminator", [b"/\n", b"\n", b"\0"], ids=["GNU", "System V", "COFF"])
def test_a_name_table_has_the_terminators_of_its_family(terminator):
    """GNU ends a name with a slash and a line feed, old System V with a line feed, COFF with a NUL byte."""
    table = b"first.o" + terminator + b"dir/second.o" + terminator
    second = b"/%d" % (len(b"first.o") + len(terminator))
    content = archive(member(b"//", table), member(second), member(b"/0"))
    assert read(content).member_names == ["dir/second.o", "first.o"]


def test_a_gnu_member_may_have_the_name_of_a_bsd_index():
    """GNU ends the name with a slash, so that __.SYMDEF/ is an ordinary member."""
    found = read(archive(member(b"__.SYMDEF/", b"text")))
    assert found.member_names == ["__.SYMDEF"]
    assert found.index() is None


@pytest.mark.parametrize("machine", ["i386:x86-64", "arm64ec"])
def test_an_import_library_has_two_linker_members_and_an_index(machine, tmp_path):
    """The sorted second `/` and, for ARM64EC, /<ECSYMBOLS>/ are no members; the first `/` is the index."""
    (tmp_path / "x.def").write_text("LIBRARY imported.dll\nEXPORTS\nzeta\nalpha\n")
    run(*zig("dlltool"), "-m", machine, "-d", "x.def", "-l", "x.lib", directory=tmp_path)
    content = (tmp_path / "x.lib").read_bytes()
    assert content.count(b"/".ljust(16) + b"0") == 2
    assert (b"/<ECSYMBOLS>/" in content) == (machine == "arm64ec")
    found = read(content)
    assert set(found.member_names) == {"imported.dll"}
    index = found.index()
    assert index is not None
    if machine == "i386:x86-64":
        by_name = contents(found, content)
        assert b"zeta\0imported.dll" in by_name[index[b"__imp_zeta"]]
        assert b"alpha\0imported.dll" in by_name[index[b"alpha"]]


# --- thin archives ---------------------------------------------------------------------------------


def test_a_thin_archive_names_files_from_its_own_directory(tmp_path):
    """Each member is a path and the size that the file had; nothing of it is in the archive."""
    members = {"alpha.o": defining("own_0", "common"), f"sub/{LONG_NAME}": defining("own_1", "common")}
    names = write_members(tmp_path, members)
    (tmp_path / "lib").mkdir()
    run(*zig("ar"), "--thin", "rcsD", "lib/thin.a", *names, directory=tmp_path)
    content = (tmp_path / "lib/thin.a").read_bytes()
    found = read(content)
    assert found.thin
    assert found.member_names == ["../alpha.o", f"../sub/{LONG_NAME}"]
    assert found.starts.tolist() == [-1, -1]
    assert found.sizes.tolist() == list(map(len, members.values()))
    assert found.index() == {b"common": 0, b"own_0": 0, b"own_1": 1}


def test_a_thin_archive_may_record_any_size():
    """The recorded size takes no room in the archive, so it cannot go past its end."""
    headers = member(b"//", b"big.o/\nlast.o/\n"), member(b"/0", size=b"9999999999"), member(b"/7")
    found = read(b"!<thin>\n" + b"".join(headers))
    assert found.sizes.tolist() == [9_999_999_999, 0]
    assert found.member_names == ["big.o", "last.o"]


def test_a_thin_archive_has_no_bsd_index():
    """Only GNU's special members are stored in a thin archive: any other name is that of a file."""
    found = read(b"!<thin>\n" + member(b"__.SYMDEF", size=b"100") + member(b"b.o/"))
    assert found.member_names == ["__.SYMDEF", "b.o"]
    assert found.index() is None


def test_a_thin_archive_that_refers_into_another_archive_is_refused(tmp_path):
    """GNU ar adds the members of an archive one by one, as /name:offset; the error says what to do."""
    needs_gnu_ar()
    (tmp_path / "inner.a").write_bytes(archive_of(members_for("gnu")))
    run("ar", "rcT", "thin.a", "inner.a", directory=tmp_path)
    with pytest.raises(UnsupportedInput, match=r"thin\.a.*another archive.*Give that archive itself"):
        read((tmp_path / "thin.a").read_bytes(), "thin.a")


# --- other writers, real libraries -----------------------------------------------------------------


@pytest.mark.parametrize("flags", ["rcsD", "rcSD", "rcsDT"], ids=["index", "no index", "thin"])
def test_what_gnu_ar_writes_is_read_as_gnu_ar_lists_it(flags, tmp_path):
    """Names and content agree with ar, the index with what was put in."""
    needs_gnu_ar()
    members = members_for("gnu")
    run("ar", flags, "lib.a", *write_members(tmp_path, members), directory=tmp_path)
    content = (tmp_path / "lib.a").read_bytes()
    found = read(content)
    assert found.member_names == run("ar", "t", "lib.a", directory=tmp_path).splitlines()
    assert found.thin == ("T" in flags)
    if not found.thin:
        assert contents(found, content) == list(members.values())
    assert found.index() == (None if "S" in flags else index_for("gnu"))


@pytest.mark.parametrize("library", ["libz.a", "libsqlite3.a", "libcrypto.a", "libc.a"])
def test_a_library_of_the_system_is_read_as_binutils_lists_it(library):
    """Names as `ar t` has them, content as `ar p`, and the index as `nm -s`."""
    needs_gnu_ar()
    path = debian_library(library)
    content = path.read_bytes()
    if not content.startswith(b"!<arch>\n"):
        pytest.skip(f"{library} is not an archive here")
    found = read(content, library)
    assert found.member_names == run("ar", "t", str(path), directory=path.parent).splitlines()
    printed = subprocess.run(["ar", "p", str(path)], capture_output=True, check=True).stdout
    assert b"".join(contents(found, content)) == printed
    index = found.index()
    assert index is not None
    assert {symbol.decode(): found.member_names[row] for symbol, row in index.items()} == armap(path)


def armap(path: Path) -> dict[str, str]:
    """The index as nm prints it, a line `symbol in member` each; the first line of a symbol counts."""
    lines = run("nm", "-s", str(path), directory=path.parent).split("\n\n")[0].splitlines()
    first: dict[str, str] = {}
    for line in lines:
        symbol, separator, name = line.partition(" in ")
        if separator:
            first.setdefault(symbol, name)
    return first


# --- bad input -------------------------------------------------------------------------------------

OBJECT = member(b"a.o/", b"content!")
TABLE = member(b"//", b"some_name.o/\n")  # 13 bytes
AFTER_MAGIC = 8
AFTER_OBJECT = AFTER_MAGIC + len(OBJECT)
AFTER_TABLE = AFTER_MAGIC + len(TABLE)

BAD_ARCHIVES = {
    # name of the case: (the archive, offset of the header at fault, the fault in words)
    "size is no number": (archive(OBJECT, member(b"b.o/", size=b"12x")), AFTER_OBJECT, "decimal"),
    "size is empty": (archive(member(b"b.o/", size=b"")), AFTER_MAGIC, "decimal"),
    "size is negative": (archive(member(b"b.o/", size=b"-60")), AFTER_MAGIC, "decimal"),
    "size has a sign": (archive(member(b"b.o/", size=b"+0")), AFTER_MAGIC, "decimal"),
    "size has an underscore": (archive(member(b"b.o/", b"0123456789", size=b"1_0")), AFTER_MAGIC, "decimal"),
    "size goes past the end": (archive(OBJECT, member(b"b.o/", b"12", size=b"3")), AFTER_OBJECT, "1 bytes past"),
    "size is huge": (archive(OBJECT, member(b"b.o/", size=b"9999999999")), AFTER_OBJECT, "past the end"),
    "size is too small": (archive(member(b"a.o/", b"0" * 100, size=b"50"), OBJECT), AFTER_MAGIC + 110, "header ends"),
    "no end mark": (archive(OBJECT, member(b"b.o/", end_mark=b"\n`")), AFTER_OBJECT, "header ends"),
    "truncated header": (archive(OBJECT, OBJECT[:59]), AFTER_OBJECT, "middle of a member header"),
    "one byte more": (archive(OBJECT, b"\n"), AFTER_OBJECT, "middle of a member header"),
    "name past the table": (archive(TABLE, member(b"/13")), AFTER_TABLE, "13 of the name table"),
    "name far past the table": (archive(TABLE, member(b"/999999999999999")), AFTER_TABLE, "999999999999999"),
    "name inside a name": (archive(TABLE, member(b"/1")), AFTER_TABLE, "no terminated name starts"),
    "unterminated name": (archive(member(b"//", b"no_end.o"), member(b"/0")), 8 + 60 + 8, "no terminated name"),
    "no name table": (archive(OBJECT, member(b"/0")), AFTER_OBJECT, "no name table"),
    "name table too late": (archive(member(b"/0"), TABLE), AFTER_MAGIC, "no name table"),
    "two name tables": (archive(TABLE, TABLE), AFTER_TABLE, "second name table"),
    "BSD name over the member": (archive(member(b"#1/9", b"12345678")), AFTER_MAGIC, "name of 9"),
    "BSD name without length": (archive(member(b"#1/x", b"12345678")), AFTER_MAGIC, "#1/x"),
    "BSD name with sign": (archive(member(b"#1/-4", b"12345678")), AFTER_MAGIC, "#1/-4"),
    "BSD name in a thin archive": (b"!<thin>\n" + member(b"#1/4"), AFTER_MAGIC, "#1/4"),
    "unknown special name": (archive(OBJECT, member(b"/what/")), AFTER_OBJECT, "/what/"),
    "name with a NUL byte": (archive(member(b"a\0b.o/")), AFTER_MAGIC, "NUL"),
    "two indexes": (archive(gnu_index(0, [], b""), bsd_index([], b"")), AFTER_MAGIC + 64, "second symbol index"),
    "three indexes": (archive(*[gnu_index(0, [], b"")] * 3), AFTER_MAGIC + 128, "second symbol index"),
    "not an archive": (b"\x7fELF\x02\x01\x01\0", 0, "not an archive"),
    "empty": (b"", 0, "not an archive"),
}


@pytest.mark.parametrize(("content", "offset", "fault"), BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
def test_a_broken_archive_is_refused_with_name_and_place(content, offset, fault):
    """The error names the archive and the offset of the header at fault, and says what is wrong there."""
    with pytest.raises(MalformedInput) as caught:
        read(content, "broken.a")
    assert caught.value.input == "broken.a"
    assert caught.value.offset == offset
    assert fault in str(caught.value)


INDEX_START = AFTER_MAGIC + 60
GNU_OBJECT = AFTER_MAGIC + len(gnu_index(1, [0], b"f\0"))
BSD_OBJECT = AFTER_MAGIC + len(bsd_index([(0, 0)], b"f\0"))

BAD_INDEXES = {
    # name of the case: (the index, the fault in words)
    "GNU: cut short": (member(b"/", b"\0\0"), "hold"),
    "GNU: empty": (member(b"/"), "hold"),
    "GNU: count too high": (gnu_index(2, [GNU_OBJECT], b"f\0"), "counts 2"),
    "GNU: count huge": (gnu_index(0xFFFF_FFFF, [GNU_OBJECT], b"f\0"), "counts 4294967295"),
    "GNU: 64-bit count huge": (member(b"/SYM64/", b"\xff" * 16), "counts 18446744073709551615"),
    "GNU: fewer names": (gnu_index(1, [GNU_OBJECT], b"ff"), "after 0 names"),
    "GNU: offset of no header": (gnu_index(1, [GNU_OBJECT + 2], b"f\0"), f"{GNU_OBJECT + 2:#x}"),
    "GNU: offset of the index": (gnu_index(1, [AFTER_MAGIC], b"f\0"), "0x8"),
    "GNU: offset past the end": (gnu_index(1, [0xFFFF_FFFF], b"f\0"), "0xffffffff"),
    "GNU: 64-bit offset with its top bit": (
        member(b"/SYM64/", struct.pack(">QQ", 1, (1 << 64) - 1) + b"f\0"),
        "0xffffffffffffffff",
    ),
    "BSD: cut short": (member(b"__.SYMDEF", b"\0\0\0\0\0\0"), "table of 0"),
    "BSD: table too long": (bsd_index([(0, BSD_OBJECT)], b"f\0", 16), "table of 16"),
    "BSD: table huge": (bsd_index([(0, BSD_OBJECT)], b"f\0", 0xFFFF_FFF8), "table of 4294967288"),
    "BSD: half a pair": (bsd_index([(0, BSD_OBJECT)], b"f\0", 4), "table of 4"),
    "BSD: strings past the end": (member(b"__.SYMDEF", struct.pack("<II", 0, 1)), "strings of 1"),
    "BSD: no strings": (bsd_index([(0, BSD_OBJECT)], b""), "a name at 0"),
    "BSD: unterminated name": (bsd_index([(0, BSD_OBJECT)], b"ff"), "a name at 0"),
    "BSD: name past the strings": (bsd_index([(2, BSD_OBJECT)], b"f\0"), "a name at 2"),
    "BSD: name far past the strings": (bsd_index([(0xFFFF_FFFF, BSD_OBJECT)], b"f\0"), "a name at 4294967295"),
    "BSD: name inside a name": (bsd_index([(1, BSD_OBJECT)], b"f\0"), "a name at 1"),
    "BSD: offset of no header": (bsd_index([(0, BSD_OBJECT + 2)], b"f\0"), f"{BSD_OBJECT + 2:#x}"),
}


@pytest.mark.parametrize(("index", "fault"), BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_a_broken_index_is_refused_when_it_is_asked_for(index, fault):
    """The members can still be had: only index() fails, and names the archive and the index."""
    found = read(archive(index, OBJECT), "broken.a")
    assert found.member_names == ["a.o"]
    with pytest.raises(MalformedInput) as caught:
        found.index()
    assert caught.value.input == "broken.a"
    assert caught.value.offset == INDEX_START
    assert fault in str(caught.value)


def test_the_same_indexes_without_the_fault_are_read():
    """The broken indexes above differ from these sound ones in the fault alone."""
    assert read(archive(gnu_index(1, [GNU_OBJECT], b"f\0"), OBJECT)).index() == {b"f": 0}
    assert read(archive(bsd_index([(0, BSD_OBJECT)], b"f\0"), OBJECT)).index() == {b"f": 0}


@pytest.mark.parametrize("far", [1 << 33, (1 << 62) + 2])
def test_an_index_serves_an_archive_of_more_than_4_gib(far):
    """Members near its start are found by 32-bit offsets, those behind 4 GiB by 64-bit ones."""
    header_offsets = np.array([8, far])
    near = SymbolIndex(IndexLayout.GNU, struct.pack(">II", 1, 8) + b"near\0", 68)
    both = SymbolIndex(IndexLayout.GNU_64, struct.pack(">QQQ", 2, far, 8) + b"far\0near\0", 68)
    assert near.member_rows(header_offsets) == {b"near": 0}
    assert both.member_rows(header_offsets) == {b"far": 1, b"near": 0}


def test_an_index_of_an_archive_without_members_has_nothing_to_give():
    """An offset in it cannot be that of a member."""
    for offset in (0, AFTER_MAGIC, 0xFFFF_FFFF):
        with pytest.raises(MalformedInput):
            read(archive(gnu_index(1, [offset], b"f\0"))).index()


@pytest.mark.parametrize("magic", [b"<bigaf>\n", b"<aiaff>\n"])
def test_an_archive_of_aix_is_refused_as_unsupported(magic):
    """It is an archive, of a format that no object we link comes in."""
    with pytest.raises(UnsupportedInput, match=r"old\.a.*AIX"):
        read(magic + b"0" * 120, "old.a")


LONG = 100_000


@pytest.mark.parametrize(
    "content",
    [
        archive(member(b"//", b"a" * LONG + b"/\n"), *(member(b"/%d" % at) for at in range(1000))),
        archive(bsd_index([(at, 8) for at in range(10_000)], b"a" * LONG + b"\0")),
        archive(gnu_index(LONG, [8] * 10, b"f\0")),
        archive(member(b"//", b"\n" * LONG), member(b"/0")),
        archive(bsd_index([], b"\0" * LONG)),
    ],
    ids=["names in names", "index names in names", "count", "empty names", "empty index names"],
)
def test_memory_stays_in_proportion_to_the_archive(content):
    """One long string cannot be had many times, nor can a count make room for what is not there."""
    tracemalloc.start()
    try:
        read(content).index()
    except MalformedInput:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 32 * len(content)


# --- mutations -------------------------------------------------------------------------------------


def mutations(content: bytes) -> st.SearchStrategy[bytes]:
    """Copies of an archive with some bytes changed, most of them in headers and indexes, and maybe cut."""
    headers: list[int] = read(content).header_offsets.tolist()
    in_a_header = st.builds(int.__add__, st.sampled_from([AFTER_MAGIC, *headers]), st.integers(0, 59))
    in_front = st.integers(0, min(headers))
    place = st.one_of(in_a_header, in_front, st.integers(0, len(content) - 1))
    byte = st.one_of(st.sampled_from(b"/#1 0927\n\0-\xff"), st.integers(0, 255))
    changes = st.lists(st.tuples(place, byte), max_size=6)
    return st.builds(_changed, st.just(content), changes, st.none() | st.integers(0, len(content)))


def _changed(content: bytes, changes: list[tuple[int, int]], length: int | None) -> bytes:
    changed = bytearray(content)
    for at, byte in changes:
        changed[at] = byte
    return bytes(changed[:length])


def thin(content: bytes) -> bytes:
    """A thin archive with the headers of a GNU archive."""
    found = read(content)
    front = content[8 : int(found.header_offsets[0])]
    return b"!<thin>\n" + front + b"".join(content[at : at + 60] for at in found.header_offsets.tolist())


@pytest.mark.parametrize("make", [*FORMATS, "thin"])
@settings(settings.get_profile("mutations"))
@given(data=st.data())
def test_a_changed_archive_is_read_or_refused(make, data):
    """Whatever the bytes, there is a LinkError, or members inside the archive and an index of them."""
    sound = thin(archive_of(members_for("gnu"))) if make == "thin" else archive_of(members_for(make), make)
    content = data.draw(mutations(sound))
    try:
        found = read(content)
        index = found.index()
    except LinkError:
        return
    count = len(found.member_names)
    assert len(found.starts) == len(found.sizes) == len(found.header_offsets) == count
    assert (found.sizes >= 0).all()
    assert (found.starts == -1).all() if found.thin else (found.starts + found.sizes <= len(content)).all()
    assert index is None or all(0 <= row < count for row in index.values())
