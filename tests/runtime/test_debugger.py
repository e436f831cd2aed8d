"""A debugger sees linked code: GDB itself, and readers of ELF for the files that we make for it."""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import jitlink
from jitlink.runtime import debugger as interface
from jitlink.runtime.descriptor_library import DESCRIPTOR, REGISTER, descriptor_library, library_file
from jitlink.runtime.observers import DEBUG_VARIABLE
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

SOURCE = """\
__attribute__((noinline)) int inner_function(int x) {
    return x * 3 + 1;
}
__attribute__((noinline)) int outer_function(int x) {
    int y = inner_function(x);
    return y + 2;
}
"""
PROGRAM = """
import ctypes, sys, jitlink
with jitlink.Session() as session:
    dylib = session.dylib().add(*sys.argv[2:], debug=sys.argv[1] == "lines")
    print("result", dylib["outer_function"].ctypes(ctypes.c_int, ctypes.c_int)(5))
"""
X86_64 = 62
PAUSE = "34"
"""The number of pause on x86-64."""


def run_gdb(tmp_path: Path, objects: list[bytes], *commands: str, lines: bool = False) -> str:
    """Run a program that links the objects under GDB; returns what GDB says."""
    toolchain.needs("gdb")
    paths = []
    for number, content in enumerate(objects):
        paths.append(tmp_path / f"input{number}.o")
        paths[-1].write_bytes(content)
    # The program itself has no symbols that GDB would have to read; the interpreter's take it seconds.
    start = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex", "set breakpoint pending on"]
    wanted = [argument for command in commands for argument in ("-ex", command)]
    program = [sys.executable, "-c", PROGRAM, "lines" if lines else "names", *map(str, paths)]
    environment = {**os.environ, DEBUG_VARIABLE: "1", "PYTHONPATH": str(Path(jitlink.__file__).parent.parent)}
    result = subprocess.run(
        [*start, *wanted, "--args", *program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
    )
    if "Operation not permitted" in result.stderr:
        pytest.skip("this host does not allow one process to trace another")
    return result.stdout


def test_gdb_shows_names_of_linked_functions(tmp_path):
    """A pending breakpoint on a linked function hits, and the backtrace goes on through its linked caller."""
    content = toolchain.zig_cc(SOURCE, "-O1", "-fomit-frame-pointer")
    said = run_gdb(tmp_path, [content], "break inner_function", "run", "backtrace 3")
    frames = [line for line in said.splitlines() if line.startswith("#")]
    assert "in inner_function ()" in frames[0]
    assert "in outer_function ()" in frames[1]


def test_gdb_shows_lines_of_linked_functions(tmp_path):
    """With debug sections, frames have files and lines, in each of two inputs."""
    first, second = SOURCE.split("}\n")[:2]
    declaration = "int inner_function(int x);\n\n"
    objects = [
        toolchain.compile_with(first + "}\n", "-O1", "-g", compiler="gcc"),
        toolchain.compile_with(declaration + second + "}\n", "-O1", "-g", compiler="gcc"),
    ]
    commands = "break inner_function", "run", "backtrace 2", "finish"
    said = run_gdb(tmp_path, objects, *commands, lines=True)
    assert "inner_function (x=5) at source.c:" in said
    assert "outer_function (x=" in said
    assert "source.c:4" in said
    assert "Value returned is $1 = 16" in said


def test_gdb_that_attaches_later_finds_linked_functions(tmp_path):
    """A debugger that comes after the link reads the list of what is there."""
    toolchain.needs("gdb")
    path = tmp_path / "input.o"
    path.write_bytes(toolchain.zig_cc("int pause(void); int waits(void) { pause(); return 0; }", "-O1"))
    program = "import sys, jitlink; print(1, flush=True); jitlink.load(sys.argv[1]).function('waits')()"
    environment = {**os.environ, DEBUG_VARIABLE: "1", "PYTHONPATH": str(Path(jitlink.__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "-c", program, path], env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            wait_until_paused(process.pid)
            command = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", str(process.pid)]
            said = subprocess.run(
                [*command, "-ex", "backtrace 3"], capture_output=True, text=True, timeout=240, check=False
            )
        finally:
            process.kill()
    if "not permitted" in said.stderr:
        pytest.skip("this host does not allow one process to attach to another")
    assert "in waits ()" in said.stdout


def wait_until_paused(process: int) -> None:
    """Wait until a process is in pause(2), as its system call number under /proc says."""
    for _ in range(600):
        try:
            call = Path(f"/proc/{process}/syscall").read_text().split()[0]
        except PermissionError:
            pytest.skip("this host does not allow one process to look at another")
        if call == PAUSE:
            return
        time.sleep(0.1)
    pytest.fail("the function was not reached")


def test_the_descriptor_library_is_sound():
    """Readers of ELF find both symbols in the library that we write, in the sections where they are."""
    elf = ELFFile(io.BytesIO(library_file(X86_64, 0)))
    table = elf.get_section_by_name(".dynsym")
    assert isinstance(table, SymbolTableSection)
    symbols = {symbol.name: symbol for symbol in table.iter_symbols()}
    found = {name: elf.get_section(symbols[name]["st_shndx"]).name for name in (REGISTER, DESCRIPTOR)}
    assert found == {REGISTER: ".text", DESCRIPTOR: ".data"}
    assert {segment["p_type"] for segment in elf.iter_segments()} == {"PT_LOAD", "PT_DYNAMIC", "PT_GNU_STACK"}
    assert not any(segment["p_flags"] & 3 == 3 for segment in elf.iter_segments())


def entries() -> list[bytes]:
    """The symbol files that a debugger would find now, along the list in memory."""
    head = interface.Descriptor.in_dll(descriptor_library(X86_64), DESCRIPTOR)
    assert head.version == 1
    found, entry, before = [], head.first, 0
    while entry:
        previous = ctypes.cast(entry.contents.previous, ctypes.c_void_p).value or 0
        assert previous == before
        found.append(ctypes.string_at(entry.contents.file, entry.contents.size))
        before, entry = ctypes.addressof(entry.contents), entry.contents.next
    return found


def test_symbol_files_come_and_go_with_their_dylibs():
    """Each link adds an entry to the list, and the close of its dylib, first, middle or last, removes it."""
    content = toolchain.zig_cc(SOURCE, "-O1")
    before = len(entries())
    with jitlink.Session(debugger=True) as session:
        for name in "abc":
            session.dylib(name).add(content).link()
        assert len(entries()) == before + 3
        for name in "bca":
            session.dylib(name).close()
            entries()
        assert len(entries()) == before


def test_symbol_file_has_every_function_at_its_address():
    """A symbol of the file is the address of its section plus its value: where the function is; local ones too."""
    local = "static __attribute__((noinline)) int local_function(int x) { return x * x + 1; }\n"
    caller = "int caller(int x) { return local_function(x) + 1; }\n"
    content = toolchain.zig_cc(SOURCE + local + caller, "-O1")
    with jitlink.Session(debugger=True) as session:
        dylib = session.dylib().add(content)
        dylib.link()
        elf = ELFFile(io.BytesIO(entries()[0]))
        symbols = {}
        table, frames = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".eh_frame")
        assert isinstance(table, SymbolTableSection)
        assert frames is not None
        for symbol in table.iter_symbols():
            if symbol.name:
                section = elf.get_section(symbol["st_shndx"])
                symbols[symbol.name] = (section["sh_addr"] + symbol["st_value"], symbol["st_size"])
        for name in ("inner_function", "outer_function", "caller"):
            assert symbols[name] == (dylib[name].address, dylib[name].size)
        assert "local_function" in symbols
        assert ctypes.string_at(frames["sh_addr"], frames["sh_size"]) == frames.data()


def test_nobody_is_told_unless_asked(monkeypatch):
    """By default, and with JITLINK_DEBUG=0, a session has no observers; an argument goes before the environment."""
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    assert jitlink.Session().observers == []
    monkeypatch.setenv(DEBUG_VARIABLE, "0")
    assert jitlink.Session().observers == []
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    assert len(jitlink.Session().observers) == 1
    assert jitlink.Session(debugger=False).observers == []
