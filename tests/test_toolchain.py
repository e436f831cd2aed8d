"""The objects that other tests link are what their sources say, and a missing tool is a skip only where it may be."""

from __future__ import annotations

import ctypes
import io
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from tests import toolchain
from tests.conftest import pytest_runtest_setup
from tests.toolchain import (
    INSTALLED_BY_CI,
    ToolFailed,
    archive_of,
    assemble,
    compile_with,
    debian_library,
    link_executable,
    link_shared,
    llvm_object,
    needs,
    needs_library,
    zig_cc,
)

ADD = "int add(int a, int b) { return a + b; }"
USES_ARRAYS = "int at(int *a, int i) { int copy[4096]; copy[i & 7] = a[i] + 1; return copy[0]; }"
ABSENT = "no-such-tool-as-this"
MACH_O_64 = bytes.fromhex("cffaedfe")
COFF_X86_64 = bytes.fromhex("6486")
COFF_ARM64 = bytes.fromhex("64aa")

links_natively = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the native oracle is linked for Linux on x86-64 or AArch64",
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results are kept in a new directory during one test."""
    monkeypatch.setattr(toolchain, "_kept_directory", tmp_path / "kept")
    return tmp_path / "kept"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine whose PATH is empty and that has no libraries."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain, "library_directories", tuple)
    toolchain._find_library.cache_clear()
    yield
    toolchain._find_library.cache_clear()


def elf(content: bytes) -> ELFFile:
    return ELFFile(io.BytesIO(content))


def content_of(content: bytes, section: str) -> bytes:
    """The bytes of a section of an ELF object."""
    found = elf(content).get_section_by_name(section)
    assert found is not None
    return bytes(found.data())


def names_in(content: bytes) -> set[str]:
    """The names in the symbol table of an ELF object."""
    table = elf(content).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    return {symbol.name for symbol in table.iter_symbols() if symbol.name}


def relocations_in(content: bytes, section: str) -> list[tuple[int, str]]:
    """Type number and symbol name of each relocation of a section."""
    parsed = elf(content)
    table = parsed.get_section_by_name(f".rela{section}")
    symbols = parsed.get_section_by_name(".symtab")
    assert isinstance(table, RelocationSection)
    assert isinstance(symbols, SymbolTableSection)
    return [(row["r_info_type"], symbols.get_symbol(row["r_info_sym"]).name) for row in table.iter_relocations()]


# zig


@pytest.mark.parametrize(
    ("target", "machine"),
    [
        ("x86_64-linux-gnu", "EM_X86_64"),
        ("aarch64-linux-gnu", "EM_AARCH64"),
        ("riscv64-linux-gnu", "EM_RISCV"),
        ("bpfel-freestanding", "EM_BPF"),
    ],
)
def test_zig_makes_a_relocatable_elf_object_for_the_target(target: str, machine: str) -> None:
    """The ELF header names the machine asked for, and the type ET_REL."""
    header = elf(zig_cc(ADD, target=target)).header
    assert (header["e_machine"], header["e_type"]) == (machine, "ET_REL")


@pytest.mark.parametrize(
    ("target", "magic"),
    [
        ("x86_64-macos", MACH_O_64),
        ("aarch64-macos", MACH_O_64),
        ("x86_64-windows-gnu", COFF_X86_64),
        ("aarch64-windows-gnu", COFF_ARM64),
    ],
)
def test_zig_makes_mach_o_and_coff_objects(target: str, magic: bytes) -> None:
    """Targets of Apple and Microsoft give Mach-O and COFF objects."""
    assert zig_cc(ADD, target=target).startswith(magic)


def test_unoptimised_c_refers_to_nothing_that_its_source_does_not_name() -> None:
    """No sanitizer, stack protector or stack probe calls are put into a C object, and no debug information."""
    content = zig_cc(USES_ARRAYS, "-O0")
    assert names_in(content) <= {"at", "source.c", ".text"}
    assert not [section.name for section in elf(content).iter_sections() if section.name.startswith(".debug")]


def test_flags_of_the_caller_override_the_plain_ones() -> None:
    """Debug information, sanitizers and stack protectors can be asked for, although they are off otherwise."""
    assert elf(zig_cc(ADD, "-g")).get_section_by_name(".debug_info") is not None
    assert "__stack_chk_fail" in names_in(zig_cc(USES_ARRAYS, "-fstack-protector-all"))
    assert any(name.startswith("__ubsan") for name in names_in(zig_cc(USES_ARRAYS, "-fsanitize=undefined")))


def test_freestanding_code_can_be_position_dependent() -> None:
    """Non-PIC code takes the address of a datum with R_X86_64_32S or R_X86_64_32 (psABI types 11 and 10)."""
    source = "extern int datum[]; int get(long i) { return datum[i]; }"
    content = zig_cc(source, "-O2", "-fno-pic", target="x86_64-freestanding")
    assert [(number in (10, 11), name) for number, name in relocations_in(content, ".text")] == [(True, "datum")]


def test_cplusplus_names_are_mangled() -> None:
    """language="c++" compiles C++: the Itanium ABI mangles add(int, int) as _Z3addii."""
    assert "_Z3addii" in names_in(zig_cc(ADD, language="c++"))


def test_assembly_is_taken_as_it_is_written() -> None:
    """The section holds the bytes and the relocation (R_X86_64_PLT32 is 4) of the source, and no others."""
    content = assemble(".text\nstart: nop\n call elsewhere@PLT\n ret\n")
    assert content_of(content, ".text") == bytes.fromhex("90 e800000000 c3")
    assert relocations_in(content, ".text") == [(4, "elsewhere")]


def test_preprocessed_assembly_knows_macros() -> None:
    """language="assembler-with-cpp" runs the C preprocessor first."""
    content = zig_cc("#define ANSWER 42\n.byte ANSWER\n", language="assembler-with-cpp")
    assert content_of(content, ".text") == b"\x2a"


def test_source_that_does_not_compile_raises_with_the_words_of_the_compiler(empty_cache: Path) -> None:
    """ToolFailed quotes the compiler, and nothing is kept for that source."""
    with pytest.raises(ToolFailed, match="undeclared"):
        zig_cc("int f(void) { return undeclared; }")
    assert not list(empty_cache.glob("*.made"))


# What is kept


def test_the_same_source_is_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request starts no program, and gives the same bytes."""
    first = assemble("nop\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a program was started"))
    assert assemble("nop\n") == first


@pytest.mark.usefixtures("empty_cache")
def test_another_source_flag_or_target_is_another_object() -> None:
    """Everything that an object depends on tells it apart from the ones that are kept."""
    objects = {
        assemble("nop\n"),
        assemble("ret\n"),
        assemble("nop\n", "-g"),
        assemble("nop\n", target="aarch64-linux-gnu"),
    }
    assert len(objects) == 4


def test_an_object_does_not_say_where_it_was_made(empty_cache: Path) -> None:
    """No directory of this machine gets into an object, so fixtures are the same on every machine."""
    assert str(empty_cache).encode() not in zig_cc(ADD)


# The compilers of the machine


COMPILERS = [
    ("gcc", ADD, "add"),
    ("clang", ADD, "add"),
    ("clang-22", ADD, "add"),
    ("g++", ADD, "_Z3addii"),
    ("gfortran", "subroutine add(a)\n real a\n a = a + 1\nend\n", "add_"),
    ("rustc", '#[no_mangle] pub extern "C" fn add(a: i32) -> i32 { a.wrapping_add(1) }', "add"),
]


@pytest.mark.parametrize(("compiler", "source", "defines"), COMPILERS, ids=[row[0] for row in COMPILERS])
def test_each_compiler_compiles_its_own_language(compiler: str, source: str, defines: str) -> None:
    """The object is relocatable, and defines the symbol that the compiler's ABI makes of the name."""
    content = compile_with(source, compiler=compiler)
    assert elf(content).header["e_type"] == "ET_REL"
    assert defines in names_in(content)


@pytest.mark.parametrize(
    ("triple", "magic"),
    [
        ("x86_64-unknown-linux-gnu", b"\x7fELF"),
        ("aarch64-unknown-linux-gnu", b"\x7fELF"),
        ("riscv64-unknown-linux-gnu", b"\x7fELF"),
        ("bpfel", b"\x7fELF"),
        ("arm64-apple-darwin", MACH_O_64),
        ("x86_64-pc-windows-msvc", COFF_X86_64),
    ],
)
def test_llvm_ir_becomes_an_object_of_the_triple(triple: str, magic: bytes) -> None:
    """Needs no compiler on the machine: llvmlite has the targets that we link for."""
    assert llvm_object("define i32 @zero() { ret i32 0 }", target=triple).startswith(magic)


def test_the_code_model_of_llvm_ir_can_be_chosen() -> None:
    """The large model refers to data by 64-bit absolute address: R_X86_64_64 (1)."""
    ir = "@datum = external global i32\ndefine i32 @get() { %v = load i32, ptr @datum ret i32 %v }"
    content = llvm_object(ir, relocation_model="static", code_model="large")
    section = next(name for name in (".ltext", ".text") if elf(content).get_section_by_name(f".rela{name}"))
    assert relocations_in(content, section) == [(1, "datum")]


# Archives and native links


def members_of(archive: bytes) -> list[tuple[bytes, bytes]]:
    """Name field and content of each member, by the layout of ar(5): a header of 60 bytes, even positions."""
    assert archive[:8] == b"!<arch>\n"
    members, at = [], 8
    while at < len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58])
        members.append((header[:16].rstrip(), archive[at + 60 : at + 60 + size]))
        at += 60 + size + size % 2
    return members


def test_gnu_archive_has_an_index_a_name_table_and_the_members_in_order() -> None:
    """A GNU archive starts with the members "/" (index) and "//" (names longer than 15 bytes)."""
    one, two = assemble(".globl one\none: ret\n"), assemble(".globl two\ntwo: ret\n")
    members = members_of(archive_of({"a-name-that-is-too-long-for-the-header.o": one, "short.o": two}))
    assert [name for name, _ in members] == [b"/", b"//", b"/0", b"short.o/"]
    assert [content[: len(part)] for (_, content), part in zip(members[2:], (one, two), strict=True)] == [one, two]


def test_bsd_archive_keeps_long_names_before_the_content() -> None:
    """A BSD archive writes "#1/LENGTH" into the header and the name in front of the member."""
    member = assemble(".globl one\none: ret\n")
    members = members_of(archive_of({"a-name-that-is-too-long-for-the-header.o": member}, format="bsd"))
    name, content = members[-1]
    assert re.fullmatch(rb"#1/\d+", name)
    assert content.startswith(b"a-name-that-is-too-long-for-the-header.o")
    assert member in content


@links_natively
@pytest.mark.parametrize("linker", ["zig", "gcc"])
def test_shared_library_can_be_loaded_and_called(linker: str) -> None:
    """The native oracle: what the machine's own linker makes of an object does what the source says."""
    library = link_shared([zig_cc(ADD, target=toolchain.NATIVE_TARGET)], linker=linker)
    assert ctypes.CDLL(str(library)).add(40, 2) == 42


@links_natively
def test_executable_returns_what_main_returned() -> None:
    """The native oracle for whole programs."""
    program = link_executable([zig_cc("int main(void) { return 42; }", target=toolchain.NATIVE_TARGET)])
    assert subprocess.run([program], check=False).returncode == 42


# What is missing


@pytest.mark.usefixtures("nothing_installed")
def test_missing_tool_skips_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On anybody's machine a test that needs a tool is skipped, and says which."""
    monkeypatch.delenv("JITLINK_REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="gcc is not installed"):
        needs("gcc")
    with pytest.raises(pytest.skip.Exception, match=r"libz\.a"):
        debian_library("libz.a")


@pytest.mark.usefixtures("nothing_installed")
def test_missing_tool_fails_where_ci_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With JITLINK_REQUIRE_TOOLS=1 a tool that CI installs must be there: the error names its package."""
    monkeypatch.setenv("JITLINK_REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.fail.Exception, match="package gfortran"):
        needs("gfortran")
    with pytest.raises(pytest.fail.Exception, match="package libssl-dev"):
        needs_library("libcrypto.a")


def test_tool_that_ci_does_not_install_is_always_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """JITLINK_REQUIRE_TOOLS=1 asks for nothing beyond what .ci/run installs."""
    monkeypatch.setenv("JITLINK_REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.skip.Exception, match=ABSENT):
        needs(ABSENT)


def test_the_needs_marker_skips(request: pytest.FixtureRequest) -> None:
    """@pytest.mark.needs is looked at when the test is set up, and takes programs and libraries."""
    request.node.add_marker(pytest.mark.needs(ABSENT))
    with pytest.raises(pytest.skip.Exception, match=ABSENT):
        pytest_runtest_setup(request.node)
    request.node.add_marker(pytest.mark.needs("libabsent.a"), append=False)
    with pytest.raises(pytest.skip.Exception, match=r"libabsent\.a is in none of"):
        pytest_runtest_setup(request.node)


def test_ci_installs_every_package_that_it_requires() -> None:
    """The packages of INSTALLED_BY_CI are all named in .ci/run."""
    script = Path(__file__).parent.parent / ".ci" / "run"
    if not script.exists():
        pytest.skip("a source distribution has no .ci directory")
    words = set(re.split(r"[\s()]+", script.read_text()))
    assert set(INSTALLED_BY_CI.values()) <= words
