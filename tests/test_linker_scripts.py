"""Linker scripts: a text that says which files to link in its place, as `libm.a` of Debian is one."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import pytest

import jitlink
from jitlink import MalformedInput, UnreadableInput, UnsupportedInput
from tests import toolchain

ONE = "int one(void) { return 1; }"
TWO = "int one(void); int two(void) { return one() + one(); }"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one.o, and libtwo.a whose member needs it."""
    (tmp_path / "one.o").write_bytes(toolchain.zig_cc(ONE))
    (tmp_path / "libtwo.a").write_bytes(toolchain.archive_of({"two.o": toolchain.zig_cc(TWO)}))
    return tmp_path


def defined(path: Path) -> set[str]:
    """What an image defines for which `two` is wanted."""
    return set(jitlink.link(path, base=0x10000000, exports=["two"], dead_strip=False).symbols())


def script(folder: Path, text: str, name: str = "library.a") -> Path:
    """Write a script."""
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "GROUP ( libtwo.a one.o )",
        "INPUT(one.o, -ltwo)",
        "/* GNU ld script\n*/\nOUTPUT_FORMAT(elf64-x86-64)\nINPUT(one.o)\nINPUT ( libtwo.a )",
        '  GROUP("one.o" AS_NEEDED ( libtwo.a ));',
        "INPUT(one.o one.o libtwo.a ./one.o)",
        "SEARCH_DIR(/nowhere) TARGET(elf64-x86-64) OUTPUT_ARCH(i386:x86-64) GROUP(AS_NEEDED(lib.so.6) one.o libtwo.a)",
    ],
)
def test_a_script_stands_for_the_files_that_it_names(folder: Path, text: str) -> None:
    """Names lie beside the script; -lNAME is libNAME.a; a file that is named twice is linked once (GNU ld, INPUT)."""
    assert {"one", "two"} <= defined(script(folder, text))


def test_a_file_of_an_absolute_path_and_one_of_the_current_directory_are_found(folder: Path, monkeypatch) -> None:
    """What does not lie beside the script is looked for where the process is."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(folder)
    path = script(elsewhere, f"INPUT({folder}/one.o libtwo.a)")
    assert {"one", "two"} <= defined(path)


def test_a_script_may_name_scripts_and_itself(folder: Path) -> None:
    """Of scripts that name each other each is read once."""
    script(folder, "GROUP(inner.a outer.a one.o)", "outer.a")
    script(folder, "GROUP(outer.a libtwo.a)", "inner.a")
    assert {"one", "two"} <= defined(folder / "outer.a")


@pytest.mark.parametrize(
    ("text", "error", "fault"),
    [
        ("GROUP(one.o", MalformedInput, r"without \) behind GROUP"),
        ("INPUT one.o", MalformedInput, r"without \( behind INPUT"),
        ("INPUT(one.o (", MalformedInput, r"with \( in INPUT"),
        ("GROUP(one.o AS_NEEDED", MalformedInput, r"without \( behind AS_NEEDED"),
        ("GROUP(absent.o)", UnreadableInput, "names absent.o, and there is no such file"),
        ("GROUP(-labsent)", UnreadableInput, "names -labsent, and there is no such file"),
        ("INPUT(one.o) SECTIONS { .text : { *(.text) } }", UnsupportedInput, "linker script with 'SECTIONS'"),
        ("INPUT(one.o) ENTRY(one)", UnsupportedInput, "linker script with 'ENTRY'"),
        ("GROUP(/dev/zero)", UnsupportedInput, "not a regular file"),
        ("GROUP(" + "one.o " * 20_000 + ")", UnsupportedInput, "a linker script of more than 65536 bytes"),
    ],
)
def test_a_bad_script_is_refused(folder: Path, text: str, error: type[Exception], fault: str) -> None:
    """The error names the script, or the file that it names, and the rule."""
    with pytest.raises(error, match=fault):
        defined(script(folder, text))


def test_deep_nesting_is_refused(folder: Path) -> None:
    """A chain of scripts that has no use ends."""
    for number in range(20):
        script(folder, f"INPUT(s{number + 1}.a)", f"s{number}.a")
    with pytest.raises(UnsupportedInput, match="nested more than"):
        defined(folder / "s0.a")


def test_bytes_of_a_script_and_a_script_in_an_archive_name_no_files(folder: Path) -> None:
    """Content that comes from elsewhere opens no file of this machine."""
    script(folder, "GROUP(one.o)")
    outer = folder / "outer.a"
    outer.write_bytes(toolchain.archive_of({"library.a": b"GROUP(one.o)"}))
    for source in (b"GROUP(one.o)", outer):
        with pytest.raises(UnsupportedInput, match="a linker script, which names files"):
            jitlink.link(source, base=0x10000000, whole_archive=True)


def test_the_mathematics_library_of_debian_is_a_script() -> None:
    """libm.a names the archives that have the functions, and these can be called."""
    path = toolchain.debian_library("libm.a")
    if not path.read_bytes().startswith(b"/* GNU ld script"):
        pytest.skip("libm.a is an archive here")
    with jitlink.Session() as session:
        hypot = session.dylib().add(path)["hypot"].address
        assert ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_double)(hypot)(0.3, 0.4) == math.hypot(
            0.3, 0.4
        )
