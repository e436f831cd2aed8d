"""Each way in which an input can be wrong is an error that names the input and the fault, and nothing else.

Wrong fields of ELF objects are listed in broken_objects.py; here are also the wrong sorts of input and
those that ask for memory. Faults of archives are in test_archive.py, those of compressed sections in
test_debug_sections.py.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import jitlink
from tests import toolchain
from tests.broken_objects import FAULTS, HEADER, SHT_GROUP, Object, first_member

BASE = 0x1000_0000


@pytest.fixture
def sound() -> Object:
    return Object()


def link(content: bytes | Path) -> jitlink.Image:
    return jitlink.link(content, base=BASE, define={"outside": BASE}, target="x86_64")


def test_the_sound_object_links(sound):
    """Unchanged, the object of these tests is linked: what the tests change is what is refused."""
    assert link(bytes(sound.content)).address_of("entry") >= BASE


# Fields


@pytest.mark.parametrize(("fault", "change"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named_with_its_input(sound, tmp_path, fault, change):
    """One wrong field is MalformedInput with this fault and the name of the input, from bytes, file and archive."""
    numbers = {"data": sound.number(".data")}
    numbers |= {name: (sound.symbol(name) - sound.record(".symtab", 24, 0)) // 24 for name in ("entry", "shared")}
    change(sound)
    content = bytes(sound.content)
    path = tmp_path / "broken.o"
    path.write_bytes(content)
    member_header = f"{'broken.o/':<16}{'0':<12}{'0':<6}{'0':<6}{'644':<8}{len(content):<10}`\n"
    archive = b"!<arch>\n" + member_header.encode() + content
    for source, name in ((content, "(bytes)"), (path, str(path)), (archive, "(bytes)(broken.o)")):
        with pytest.raises(jitlink.MalformedInput) as caught:
            jitlink.link(source, base=BASE, define={"outside": BASE}, target="x86_64", whole_archive=True)
        assert caught.value.fault == fault.format(**numbers)
        assert caught.value.input == name
        assert str(caught.value).startswith(f"{name}: ")


def test_a_fault_is_found_beside_sound_inputs(sound):
    """In a batch, the error names the one input that is wrong."""
    content = bytes(sound.content)
    sound.set_relocation(0, "offset", 1 << 20)
    for position in range(3):
        sources = [content] * 3
        sources[position] = bytes(sound.content)
        with pytest.raises(jitlink.MalformedInput, match="lies outside its section") as caught:
            jitlink.link(*sources, base=BASE)
        assert caught.value.input == ("(bytes)", "(bytes 2)", "(bytes 3)")[position]


# Truncation


def test_every_truncation_is_refused(sound):
    """Cut off at any byte, the object is refused: its section headers are at its end."""
    content = bytes(sound.content)
    assert sound.get(0, HEADER["shoff"]) + 64 * sound.get(0, HEADER["shnum"]) == len(content)
    for size in range(len(content)):
        with pytest.raises(jitlink.MalformedInput) as caught:
            link(content[:size])
        if size == 0:
            assert caught.value.fault == "the file is empty"
        elif size < 4:
            assert caught.value.fault == "neither an object nor an archive nor LLVM IR"
        elif size < 64:
            assert caught.value.fault == "the file ends inside its ELF header"
        elif size < sound.get(0, HEADER["shoff"]) + 64:
            assert caught.value.fault == "its section headers lie past the end of the file"
        else:
            assert caught.value.fault == "its section headers go past the end of the file"


def test_an_object_without_sections_is_an_empty_input(sound):
    """A header that says that there are no sections is sound, and brings nothing."""
    for field in ("shoff", "shnum", "shstrndx"):
        sound.set_header(field, 0)
    assert len(jitlink.read(bytes(sound.content)).symbols) == 1
    image = jitlink.link(bytes(sound.content), toolchain.assemble(".globl f\nf: ret"), base=BASE)
    assert image.symbols().keys() == {"f"}


# The wrong sort of input


def test_an_empty_file_is_refused(tmp_path):
    """A file of zero bytes is named and called empty."""
    path = tmp_path / "empty.o"
    path.touch()
    with pytest.raises(jitlink.MalformedInput, match=r"empty\.o: the file is empty"):
        jitlink.load(path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    """A directory, a missing file, a named pipe, a socket and a device are refused without being opened."""
    with pytest.raises(jitlink.UnsupportedInput, match="a directory; give the objects in it"):
        jitlink.load(tmp_path)
    with pytest.raises(jitlink.UnreadableInput, match=r"missing\.o: No such file or directory"):
        jitlink.load(tmp_path / "missing.o")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path(os.devnull)):
            with pytest.raises(jitlink.UnsupportedInput, match="not a regular file"):
                jitlink.load(path)
    with pytest.raises(jitlink.UnreadableInput, match="Not a directory"):
        jitlink.load(Path(__file__) / "below.o")


def test_an_unreadable_input_is_an_os_error(tmp_path):
    """UnreadableInput can be caught as the OSError that it is."""
    with pytest.raises(OSError, match=r"missing\.o"):
        jitlink.read(tmp_path / "missing.o")


@pytest.mark.parametrize("content", [b"\0" * 100, b"text\n", b"\x7fEL", b"!<arch>", b"#!/bin/sh\n", b"MZ" + bytes(70)])
def test_other_content_is_refused(content):
    """What is no object, no archive and no LLVM IR is refused, and a known format by its name."""
    with pytest.raises(jitlink.InputError, match=r"neither an object nor an archive|a Windows exec"):
        jitlink.load(content)


@pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the executables here are for x86-64")
def test_executables_and_shared_objects_are_refused_with_a_way_out():
    """An executable or shared object given as an input says what it is and what can be done."""
    source = toolchain.zig_cc("int main(void) { return 0; }", "-fPIC")
    shared, executable = toolchain.link_shared([source]), toolchain.link_executable([source], "-no-pie")
    for path, sort in ((shared, "a shared object"), (executable, "an executable"), (Path(sys.executable), "a")):
        with pytest.raises(jitlink.UnsupportedInput, match=rf"{sort}.*only relocatable objects are linked") as caught:
            jitlink.load(path)
        assert "jitlink.shared_library()" in str(caught.value)


@pytest.mark.parametrize(
    ("file_type", "sort"),
    [
        (0, "no file type"),
        (2, "an executable"),
        (3, "a shared object"),
        (4, "a core file"),
        (99, "a file of ELF type 99"),
    ],
)
def test_every_other_elf_type_is_named(sound, file_type, sort):
    """ELF files of the other types are UnsupportedInput, by their type."""
    sound.set_header("type", file_type)
    with pytest.raises(jitlink.UnsupportedInput, match=f"{sort}; only relocatable objects are linked"):
        link(bytes(sound.content))


@pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="these are other machines than x86-64")
@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("aarch64-linux-gnu", "an object for machine 183; this link is for x86_64"),
        ("riscv64-linux-gnu", "an object for machine 243; this link is for x86_64"),
        ("x86-linux-gnu", "a 32-bit ELF file; only 64-bit objects are linked"),
        ("arm-linux-gnueabi", "a 32-bit ELF file"),
        ("powerpc64-linux-gnu", "a big-endian ELF file"),
        ("s390x-linux-gnu", "a big-endian ELF file"),
    ],
)
def test_objects_of_other_machines_are_refused(target, fault):
    """An object for another machine, word size or byte order cannot be loaded into this process."""
    content = toolchain.zig_cc("int f(void) { return 1; }", "-O1", target=target)
    with pytest.raises(jitlink.UnsupportedInput, match=fault):
        jitlink.load(content)


def test_an_unknown_target_is_refused_with_those_that_there_are():
    """A target name that means nothing is an error that lists the targets."""
    with pytest.raises(jitlink.UnsupportedInput, match=r"there is no target 'vax'. There are .*x86_64"):
        jitlink.link(toolchain.assemble("ret"), base=BASE, target="vax")


# Protection


def test_a_section_that_is_writable_and_executable_is_refused(sound):
    """A section with both SHF_WRITE and SHF_EXECINSTR is UnsupportedInput, by its name."""
    sound.set_section(".text", "flags", 7)
    with pytest.raises(jitlink.UnsupportedInput, match="writable and executable at once") as caught:
        link(bytes(sound.content))
    assert caught.value.section == ".text"


def test_a_set_of_code_and_writable_data_is_refused():
    """Sections of one C identifier lie side by side (__start_, __stop_); code and writable data cannot."""
    code = toolchain.assemble('.section my_set,"ax",@progbits\n.globl f\nf: ret')
    data = toolchain.assemble('.section my_set,"aw",@progbits\n.quad 0')
    with pytest.raises(jitlink.LinkFailure, match="my_set"):
        jitlink.link(code, data, base=BASE)


# Cycles


def test_sections_that_follow_each_other_end_the_link(sound):
    """Sections with SHF_LINK_ORDER that follow each other in a circle are linked or refused, not followed for ever."""
    flags = 0x2 | 0x80  # SHF_ALLOC, SHF_LINK_ORDER
    for section, other in ((".text", ".data"), (".data", ".text")):
        sound.set_section(section, "flags", flags | (4 if section == ".text" else 1))
        sound.set_section(section, "link", sound.number(other))
    image = jitlink.link(bytes(sound.content), base=BASE, define={"outside": BASE}, dead_strip=True, exports=["entry"])
    assert image.address_of("table")


def test_two_groups_that_share_a_member_are_refused(sound):
    """Groups that claim each other's members are refused, so that none can keep or drop the other's."""
    place = sound.record(".data", 4, 0)
    struct.pack_into("<4I", sound.content, place, 1, *[first_member(sound)] * 3)
    sound.set_section(".data", "type", SHT_GROUP)
    sound.set_section(".data", "flags", 0)
    with pytest.raises(jitlink.MalformedInput, match="a section is in two section groups"):
        link(bytes(sound.content))


# Unwind records


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        (".long 0xffffffff\n.quad 16\n.zero 16", "a record with a 64-bit length"),
        (".long 100\n.long 0\n.zero 8", "a record that goes past the end of its section"),
        (".long 2\n.zero 8", "a record that goes past the end of its section"),
    ],
    ids=["64-bit length", "too long", "too short"],
)
def test_unwind_records_that_do_not_add_up_are_refused(records, fault):
    """A dead strip, which must know the records of .eh_frame, refuses those whose lengths are wrong."""
    section = '.section .eh_frame,"a",@progbits'
    source = f"{section}\nstart: {records}\n.reloc start+4, R_X86_64_NONE, f\n.text\n.globl f\nf: ret"
    with pytest.raises(jitlink.MalformedInput, match=fault) as caught:
        jitlink.link(toolchain.assemble(source), base=BASE, dead_strip=True, exports=["f"])
    assert caught.value.section == ".eh_frame"


# Memory


HUGE = {
    "bss": ".bss\n.zero {size}\n.data\n.globl f\nf: .quad 1",
    "read-only zero-fill": '.section .zeroes,"a",@nobits\n.zero {size}\n.data\n.globl f\nf: .quad 1',
    "large zero-fill": '.section .lbss,"awl",@nobits\n.zero {size}\n.data\n.globl f\nf: .quad 1',
    "common": ".comm f, {size}, 16",
    "several": "".join(f'.section .bss.{number},"aw",@nobits\n.zero {{size}}\n' for number in range(4)),
}
LIMITED = """
import resource, sys
import jitlink
kind, path = sys.argv[1:]
jitlink.load(b"!<arch>\\n").close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)
try:
    if kind == "load":
        jitlink.load(path, define={"outside": 0x10000000})
    else:
        jitlink.link(path, base=0x10000000, target="x86_64")
    print("linked")
except jitlink.LinkError as error:
    print(type(error).__name__, error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 64 << 10, f"{grown} KiB for a file of some hundred bytes"
"""


@pytest.mark.parametrize("size", [1 << 33, 1 << 45, (1 << 62) - 1], ids=hex)
@pytest.mark.parametrize("source", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize("way", ["load", "link"])
def test_what_claims_much_memory_takes_little(tmp_path, way, source, size):
    """Gigabytes of zero-fill in a small file are linked or refused, in little memory, with a gibibyte of addresses."""
    if way == "load" and toolchain.NATIVE_TARGET != "x86_64-linux-gnu":
        pytest.skip("the object is for x86-64")
    path = tmp_path / "huge.o"
    path.write_bytes(toolchain.assemble(source.format(size=size)))
    outcome = in_limited_python(way, path)
    assert outcome.split()[0] in ("linked", "MemoryRefused", "LinkFailure")
    if way == "load" or size > 1 << 60:
        assert "linked" not in outcome


def test_alignments_that_cost_much_memory_are_refused(sound, tmp_path):
    """Sections that ask to be aligned to a gibibyte each are refused where the padding would take memory."""
    for section in (".text", ".text.grouped", ".data", ".data.grouped"):
        sound.set_section(section, "addralign", 1 << 30)
    content = bytes(sound.content)
    with pytest.raises(jitlink.LinkFailure, match="the alignments of the sections cost more than"):
        jitlink.link(content, base=1 << 30, define={"outside": BASE})
    path = tmp_path / "aligned.o"
    path.write_bytes(content)
    assert in_limited_python("load", path).split()[0] in ("MemoryRefused", "LinkFailure")


def in_limited_python(way: str, path: Path) -> str:
    """Link in another Python that may grow by a gibibyte; says how that ended."""
    root = str(Path(jitlink.__file__).parent.parent)
    command = [sys.executable, "-c", LIMITED, way, str(path)]
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_failed_read_keeps_no_file_open(sound, tmp_path):
    """Inputs that are refused leave no file descriptor and no mapping behind."""
    sound.set_symbol("entry", "shndx", 4000)
    path = tmp_path / "broken.o"
    path.write_bytes(bytes(sound.content))
    before = os.listdir("/proc/self/fd")
    for _ in range(50):
        with pytest.raises(jitlink.MalformedInput):
            jitlink.load(path)
    assert os.listdir("/proc/self/fd") == before
    assert str(path) not in Path("/proc/self/maps").read_text()
