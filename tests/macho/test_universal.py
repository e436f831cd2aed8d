"""Universal files: the slice of the wanted machine is taken, and errors say which there are."""

from __future__ import annotations

import struct

import pytest

import jitlink
from jitlink import MalformedInput, UnsupportedInput
from tests.macho.objects import ARM64, Built, Section, Symbol
from tests.macho.universal_files import universal

X86_64_OBJECT = bytes(Built([Section(content=b"\x90" * 16)], [Symbol("_x86", 1, 0)]))
ARM64_OBJECT = bytes(Built([Section(content=bytes(16))], [Symbol("_arm", 1, 0)], cpu=ARM64))
BOTH = {"x86_64": X86_64_OBJECT, "arm64": ARM64_OBJECT}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("target", "symbol"), [("x86_64", "_x86"), ("amd64", "_x86"), ("aarch64", "_arm"), ("arm64", "_arm")]
)
def test_the_wanted_slice_is_taken(target, symbol, wide):
    """By any name that the machine has, from either form of the table, wherever the slices lie."""
    for alignment in (3, 12):
        graph = jitlink.read(universal(BOTH, wide=wide, alignment=alignment), target=target)
        assert [each.name for each in graph.symbols] == [symbol]


def test_without_a_target_there_is_one_that_we_link_for():
    """The slice of the host, or the only one that there is."""
    assert jitlink.read(universal({"arm64": ARM64_OBJECT, "ppc": b"x"})).target.name == "aarch64"


def test_the_plain_slice_goes_before_special_ones():
    """x86_64h and arm64e run only on some machines of their sort."""
    files = {"x86_64h": bytes(Built([], [])), "x86_64": X86_64_OBJECT}
    assert len(jitlink.read(universal(files), target="x86_64").symbols) == 2
    only = universal({"x86_64h": X86_64_OBJECT})
    assert len(jitlink.read(only, target="x86_64").symbols) == 2


def test_the_error_lists_the_slices():
    """Where the wanted machine is not there."""
    with pytest.raises(UnsupportedInput, match="without code for aarch64; it has x86_64, ppc"):
        jitlink.read(universal({"x86_64": X86_64_OBJECT, "ppc": b"x"}), target="aarch64")
    with pytest.raises(UnsupportedInput, match="it has nothing"):
        jitlink.read(universal({}), target="aarch64")


def test_faults_name_the_slice():
    """An error in a slice names the file and the machine."""
    broken = bytes(Built([], [Symbol("_x", 3, 0)]))
    with pytest.raises(MalformedInput) as caught:
        jitlink.read(universal({"x86_64": broken}))
    assert caught.value.input == "(bytes)(x86_64)"


def table(count: int, *entries: tuple[int, int], size: int = 4096) -> bytes:
    """A universal file whose slices lie at some places."""
    content = struct.pack(">II", 0xCAFEBABE, count)
    for start, length in entries:
        content += struct.pack(">IIIII", 0x01000007, 3, start, length, 3)
    return content.ljust(size, b"\0")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (table(5, size=8), "inside its table"),
        (table(1, (4, 16)), "lies outside"),
        (table(1, (4090, 16)), "lies outside"),
        (table(1, (0xFFFFFFF0, 0x20)), "lies outside"),
    ],
)
def test_broken_tables_are_refused(content, fault):
    """Slices that lie in the table, or past the end."""
    with pytest.raises(MalformedInput, match=fault):
        jitlink.read(content)


def test_files_in_files_end_somewhere():
    """A universal file in a universal file is opened, but not for ever."""
    nested = X86_64_OBJECT
    for _ in range(3):
        nested = universal({"x86_64": nested}, alignment=3)
    assert [each.name for each in jitlink.read(nested).symbols] == ["_x86"]
    for _ in range(20):
        nested = universal({"x86_64": nested}, alignment=3)
    with pytest.raises(UnsupportedInput, match="deep"):
        jitlink.read(nested)


def test_classes_of_java_are_no_universal_files():
    """They have the same magic number, and a version of 45 or more where the number of slices is."""
    with pytest.raises(UnsupportedInput, match="class file of Java"):
        jitlink.read(struct.pack(">II", 0xCAFEBABE, 52) + bytes(100))
