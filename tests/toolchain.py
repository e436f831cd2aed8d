"""The tools of the tests: compilers, archivers and the libraries of the machine.

Most objects come from zig, a C compiler, assembler and archiver for every target and format that is
installed by pip (package ziglang): tests of the linker then need nothing from the machine. Objects of
other compilers, and libraries of the system, are used where they are there:

    object_file = zig_cc("int twice(int x) { return 2 * x; }", "-O2", target="aarch64-linux-gnu")
    needs("gcc")                                  # skips the test where there is no gcc
    object_file = compile_with("int zero;", compiler="gcc")
    archive = archive_of({"twice.o": object_file})

With JITLINK_REQUIRE_TOOLS=1, as continuous integration sets it after it has installed them, a missing
tool is a failure and not a skip. What zig and the compilers made is kept on disk under a hash of
everything that it was made from, so that the second run of the tests starts none of them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

Language = Literal["c", "c++", "assembler", "assembler-with-cpp"]
ArchiveFormat = Literal["gnu", "bsd", "darwin", "coff"]

NATIVE_TARGET = f"{platform.machine()}-linux-gnu"
"""The machine that the tests run on, as zig names it; no macOS or Windows machine links natively here."""

INSTALLED_BY_CI = {
    "gcc": "gcc",
    "g++": "g++",
    "clang": "clang",
    "clang++": "clang",
    "gfortran": "gfortran",
    "rustc": "rustc",
    "gdb": "gdb",
    "ld": "binutils",
    "readelf": "binutils",
    "objdump": "binutils",
    "strip": "binutils",
    "ar": "binutils",
    "ld.lld": "lld",
    "ld64.lld": "lld",
    "lld-link": "lld",
    "mold": "mold",
    "llvm-mc": "llvm",
    "llvm-objdump": "llvm",
    "llvm-readobj": "llvm",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "dot": "graphviz",
    "bpf-gcc": "gcc-bpf",
    "libcrypto.a": "libssl-dev",
    "libssl.a": "libssl-dev",
    "libsqlite3.a": "libsqlite3-dev",
    "libz.a": "zlib1g-dev",
    "libc.a": "libc6-dev",
    "libm.a": "libc6-dev",
}
"""Tools and libraries that .ci/run installs, with the Debian package of each: only these must be there."""

SUFFIXES = {
    "c": ".c",
    "c++": ".cpp",
    "assembler": ".s",
    "assembler-with-cpp": ".S",
    "fortran": ".f90",
    "rust": ".rs",
}
LANGUAGES = {"gcc": "c", "clang": "c", "g++": "c++", "clang++": "c++", "gfortran": "fortran", "rustc": "rust"}

PLAIN = {
    r"-g": "-g0",
    r"-f(no-)?sanitize": "-fno-sanitize=undefined",
    r"-f(no-)?stack-protector": "-fno-stack-protector",
    r"-f(no-)?stack-check": "-fno-stack-check",
    r"-f(no-)?omit-frame-pointer": "-fomit-frame-pointer",
    r"-f(no-)?addrsig": "-fno-addrsig",
}
"""What zig adds to C by itself, taken away: the object holds what its source says.

Each by the start of the flags with which a caller decides the matter otherwise. Ours is left out beside
one of those: zig keeps to -g0 and -fno-stack-protector also when their opposites follow.
"""

STEP_TIMEOUT = 240
"""Seconds for one tool; zig builds its start files and libc stubs when it links the first time."""


class ToolFailed(Exception):
    """A tool refused its input; the text is the command and what the tool said."""


def needs(*tools: str) -> None:
    """Skip the test unless all these programs are on the PATH; fail it where CI has installed them."""
    for tool in tools:
        if shutil.which(tool) is None:
            _missing(tool, f"{tool} is not installed")


def needs_library(*names: str) -> None:
    """Skip the test unless the machine has these static libraries; fail it where CI has installed them."""
    for name in names:
        if _find_library(name) is None:
            _missing(name, f"{name} is in none of {', '.join(map(str, library_directories()))}")


def debian_library(name: str) -> Path:
    """Find a static library, such as "libz.a", where Debian keeps them; skips the test where it is absent."""
    needs_library(name)
    found = _find_library(name)
    assert found is not None
    return found


@cache
def library_directories() -> tuple[Path, ...]:
    """The directories of the machine's own libraries: multiarch first, then the older places."""
    roots = (Path("/usr/lib") / NATIVE_TARGET, Path("/lib") / NATIVE_TARGET, Path("/usr/lib64"), Path("/usr/lib"))
    return tuple(root for root in roots if root.is_dir())


def zig_cc(source: str, *flags: str, target: str = "x86_64-linux-gnu", language: Language = "c") -> bytes:
    """Compile or assemble source to an object, for any target, with zig.

    flags: those of clang; they override PLAIN. target: as zig names it, such as "aarch64-macos",
    "x86_64-windows-msvc", "riscv64-linux-gnu" or "bpfel-freestanding". Code for linux-gnu is always
    position-independent; "x86_64-freestanding" with -fno-pic makes code that is not. Raises ToolFailed.
    """
    front_end = "c++" if language == "c++" else "cc"
    plain = () if language.startswith("assembler") else _plain_beside(flags)
    command = (*zig(front_end), "-target", target, *plain, *flags, "-c")
    return _compile(command, source, SUFFIXES[language], version=_zig_version())


def assemble(source: str, *flags: str, target: str = "x86_64-linux-gnu") -> bytes:
    """Assemble the text of a .s file, AT&T syntax on x86, for any target, with zig. Raises ToolFailed."""
    return zig_cc(source, *flags, target=target, language="assembler")


def compile_with(source: str, *flags: str, compiler: str, language: Language | None = None) -> bytes:
    """Compile source to an object of the native target, with a compiler of the machine.

    compiler: a program such as "gcc", "clang-22", "gfortran" or "rustc", in its own language unless
    another is named. Nothing is added to the flags. Skips the test without it; raises ToolFailed.
    """
    needs(compiler)
    family = re.sub(r"-[\d.]+$", "", compiler)
    suffix = SUFFIXES[language or LANGUAGES[family]]
    command = (compiler, "--emit=obj", "--crate-type=lib") if family == "rustc" else (compiler, "-c")
    return _compile((*command, *flags), source, suffix, version=_version_of(compiler))


def llvm_object(
    ir: str,
    *,
    target: str = "x86_64-unknown-linux-gnu",
    opt: int = 2,
    relocation_model: Literal["default", "static", "pic"] = "pic",
    code_model: Literal["default", "small", "kernel", "medium", "large"] = "default",
    cpu: str = "",
) -> bytes:
    """Compile LLVM IR to an object for any triple, with llvmlite. Raises RuntimeError with LLVM's message."""
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = binding.parse_assembly(ir)
    module.verify()
    machine = binding.Target.from_triple(target).create_target_machine(
        cpu=cpu, opt=opt, reloc=relocation_model, codemodel=code_model
    )
    module.triple, module.data_layout = target, str(machine.target_data)
    return bytes(machine.emit_object(module))


def archive_of(members: Mapping[str, bytes], format: ArchiveFormat = "gnu") -> bytes:
    """Put members into an archive with a symbol index, in their order, with zig's llvm-ar.

    format: who reads it; "gnu" keeps long names in a table, "bsd" and "darwin" before each member.
    """
    names = list(members)
    command = (*zig("ar"), f"--format={format}", "rcsD")

    def build(scratch: Path) -> None:
        for name, content in members.items():
            (scratch / name).write_bytes(content)
        _run((*command, "made", "--", *names), scratch)

    return _kept((*command, _zig_version(), *names, *members.values()), build).read_bytes()


def link_shared(objects: Sequence[bytes], *flags: str, linker: str = "zig") -> Path:
    """Link objects to a shared library of this machine, as the oracle: what a native linker makes of them.

    linker: "zig", or a compiler driver of the machine such as "gcc". Raises ToolFailed.
    """
    return _link(objects, ("-shared", *flags), linker)


def link_executable(objects: Sequence[bytes], *flags: str, linker: str = "zig") -> Path:
    """Link objects to a program of this machine, to be run as the oracle. See link_shared."""
    return _link(objects, flags, linker)


def zig(tool: str) -> tuple[str, ...]:
    """The command line of one of zig's tools: "cc", "c++", "ar", "objcopy", ..."""
    return (sys.executable, "-m", "ziglang", tool)


def keep_in(directory: Path) -> None:
    """Keep what the tools make in this directory from now on, also for later runs."""
    global _kept_directory
    _kept_directory = directory


_kept_directory: Path | None = None


def _directory() -> Path:
    """Where results are kept: the directory that conftest.py named, or one for as long as we run."""
    if _kept_directory is None:
        temporary = _temporary_directory()
        return Path(temporary.name)
    return _kept_directory


@cache
def _temporary_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jitlink-tests-")


def _missing(name: str, reason: str) -> None:
    if os.environ.get("JITLINK_REQUIRE_TOOLS") == "1" and name in INSTALLED_BY_CI:
        pytest.fail(f"{reason}, and JITLINK_REQUIRE_TOOLS=1 wants it: package {INSTALLED_BY_CI[name]}", pytrace=False)
    pytest.skip(reason)


@cache
def _find_library(name: str) -> Path | None:
    places = (directory / name for directory in library_directories())
    return next((place for place in places if place.is_file()), None)


def _plain_beside(flags: Sequence[str]) -> tuple[str, ...]:
    """The plain flags, without those whose matter the caller decides."""
    return tuple(plain for matter, plain in PLAIN.items() if not any(re.match(matter, flag) for flag in flags))


def _compile(command: tuple[str, ...], source: str, suffix: str, version: str) -> bytes:
    def build(scratch: Path) -> None:
        # Relative names: what the compiler writes down about its input is the same in every directory.
        (scratch / f"source{suffix}").write_text(source)
        _run((*command, "-o", "made", f"source{suffix}"), scratch)

    return _kept((*command, version, suffix, source), build).read_bytes()


def _link(objects: Sequence[bytes], flags: tuple[str, ...], linker: str) -> Path:
    if linker == "zig":
        command, version = (*zig("cc"), "-target", NATIVE_TARGET), _zig_version()
    else:
        needs(linker)
        command, version = (linker,), _version_of(linker)
    names = [f"{number}.o" for number in range(len(objects))]

    def build(scratch: Path) -> None:
        for name, content in zip(names, objects, strict=True):
            (scratch / name).write_bytes(content)
        _run((*command, "-o", "made", *names, *flags), scratch)

    return _kept((*command, version, "link", *flags, *objects), build)


def _kept(made_from: Sequence[str | bytes], build: Callable[[Path], None]) -> Path:
    """The file for these ingredients: the one on disk, or the one that build now leaves as "made"."""
    place = _directory() / f"{_hash_of(made_from)}.made"
    if not place.exists():
        with _scratch_directory() as scratch:
            build(scratch)
            # Renamed into place whole: other test processes look there at the same time.
            (scratch / "made").replace(place)
    return place


def _hash_of(made_from: Sequence[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in made_from:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:32]


@contextmanager
def _scratch_directory() -> Iterator[Path]:
    """A directory beside the results, so that a result can be renamed to where it is kept."""
    _directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=_directory()) as name:
        yield Path(name)


def _run(command: Sequence[str], directory: Path) -> None:
    # zig writes its cache wherever it is told, and to the home directory where it is not.
    zig_cache = str(_directory() / "zig")
    result = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig_cache, "ZIG_LOCAL_CACHE_DIR": zig_cache},
        capture_output=True,
        text=True,
        timeout=STEP_TIMEOUT,
        check=False,
    )
    if result.returncode:
        raise ToolFailed(f"{' '.join(command)}\n{result.stderr or result.stdout}")


@cache
def _zig_version() -> str:
    return importlib.metadata.version("ziglang")


@cache
def _version_of(tool: str) -> str:
    result = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=STEP_TIMEOUT, check=True)
    return result.stdout
