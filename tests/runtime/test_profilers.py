"""Profilers see linked code: the map file and the jitdump are read back against perf's documents."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jitlink
from jitlink.runtime.perf_map import map_path, open_own_file
from tests import toolchain

pytestmark = pytest.mark.skipif(toolchain.NATIVE_TARGET != "x86_64-linux-gnu", reason="the code here is for x86-64")

SOURCE = """\
static int __attribute__((noinline)) local_function(int x) { return x * 3 + 1; }
int exported_function(int x) {
    return local_function(x) + 2;
}
"""
X86_64 = 62
LOAD_AND_SHOW = """
import os, sys, jitlink
with jitlink.Session() as session:
    dylib = session.dylib().add(sys.argv[1], debug=True)
    symbol = dylib["exported_function"]
    code = __import__("ctypes").string_at(symbol.address, symbol.size)
    print(os.getpid(), symbol.address, symbol.size, code.hex())
"""


def test_map_has_a_line_for_every_function():
    """jit-interface.txt: START SIZE NAME, hexadecimal without 0x, in /tmp/perf-PID.map."""
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    assert map_path() == str(path)
    there_before = path.exists()
    try:
        with jitlink.Session(profiler="map") as session:
            symbol = session.dylib().add(toolchain.zig_cc(SOURCE, "-O1"))["exported_function"]
            lines = path.read_text().splitlines()
            found = {
                name: (int(start, 16), int(size, 16)) for start, size, name in (line.split(" ", 2) for line in lines)
            }
            assert found["exported_function"] == (symbol.address, symbol.size)
            assert "local_function" in found
    finally:
        if not there_before:
            path.unlink()


def test_map_is_not_written_through_a_symbolic_link(tmp_path):
    """A link that somebody has put in the place of the file leads nowhere."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    with pytest.raises(OSError, match="link"):
        open_own_file(str(link), os.O_TRUNC)
    assert target.read_text() == "precious"


def test_names_cannot_break_the_lines_of_the_map():
    """A name with a newline is still one line of the map."""
    path = Path(map_path())
    there_before = path.exists()
    graph = jitlink.new_graph("answer")
    text = graph.add_section(".text", jitlink.Protection.READ | jitlink.Protection.EXECUTE)
    graph.add_symbol("bad\nname", graph.add_block(text, bytes.fromhex("b830000000c3")))
    try:
        with jitlink.Session(profiler="map") as session:
            session.dylib().add(graph).link()
            assert path.read_text().splitlines()[-1].endswith(" 6 bad?name")
    finally:
        if not there_before:
            path.unlink()


def records(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, time and body of each record behind the header of 40 bytes."""
    at = 40
    while at < len(content):
        kind, size, timestamp = struct.unpack_from("<IIQ", content, at)
        assert size >= 16
        yield kind, timestamp, content[at + 16 : at + size]
        at += size
    assert at == len(content)


def test_jitdump_is_laid_out_as_its_specification_says(tmp_path):
    """Header, records of lines before the function that they describe, machine code, and the record of the end."""
    made_of = tmp_path / "input.o"
    made_of.write_bytes(toolchain.zig_cc(SOURCE, "-O1", "-g"))
    environment = {
        **os.environ,
        "JITLINK_PERF": "dump",
        "JITDUMPDIR": str(tmp_path),
        "PYTHONPATH": str(Path(jitlink.__file__).parent.parent),
    }
    result = subprocess.run(
        [sys.executable, "-c", LOAD_AND_SHOW, made_of],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    process, address, size, code = result.stdout.split()
    content = (tmp_path / f"jit-{process}.dump").read_bytes()
    assert struct.unpack_from("<6I", content) == (0x4A695444, 1, 40, X86_64, 0, int(process))
    kinds, times, bodies = zip(*records(content), strict=True)
    assert kinds[-1] == 3  # JIT_CODE_CLOSE
    assert list(times) == sorted(times)
    assert struct.unpack_from("<Q", content, 24)[0] <= times[0]
    found: dict[bytes, tuple[int, int, bytes, int]] = {}
    for row, (kind, body) in enumerate(zip(kinds, bodies, strict=True)):
        if kind == 0:  # JIT_CODE_LOAD
            owner, _, virtual, start, length, number = struct.unpack_from("<IIQQQQ", body)
            name, _, machine_code = body[40:].partition(b"\0")
            assert (owner, virtual, len(machine_code), number) == (int(process), start, length, len(found))
            found[name] = (start, length, machine_code, row)
    start, length, machine_code, row = found[b"exported_function"]
    assert (start, length, machine_code.hex()) == (int(address), int(size), code)
    assert kinds[row - 1] == 2  # JIT_CODE_DEBUG_INFO
    described, count = struct.unpack_from("<QQ", bodies[row - 1])
    assert described == int(address)
    entries, rest = [], bodies[row - 1][16:]
    while rest:
        place, line, _ = struct.unpack_from("<QII", rest)
        path, _, rest = rest[16:].partition(b"\0")
        entries.append((place, path.rpartition(b"/")[2], line))
    assert len(entries) == count
    assert entries[0] == (int(address), b"source.c", 2)
    assert {line for _, _, line in entries} <= {2, 3}


def test_a_profiler_that_does_not_exist_is_refused():
    """The error names the profilers that there are."""
    with pytest.raises(jitlink.UsageError, match="'map', 'dump'"):
        jitlink.Session(profiler="graph")  # type: ignore[arg-type]


def test_a_dump_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Somebody who asked for a profile learns at once that there will be none."""
    monkeypatch.setenv("JITDUMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(jitlink.UsageError, match="jitdump"):
        jitlink.Session(profiler="dump")


def test_code_runs_as_before_while_it_is_profiled(tmp_path, monkeypatch):
    """Being written down changes nothing about the code."""
    monkeypatch.setenv("JITDUMPDIR", str(tmp_path))
    with jitlink.Session(profiler="dump") as session:
        function = session.dylib().add(toolchain.zig_cc(SOURCE, "-O1"))["exported_function"]
        assert function.ctypes(ctypes.c_int, ctypes.c_int)(5) == 18
