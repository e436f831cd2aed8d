"""`jitlink bpf`: what its commands print and exit with. Each test starts the command as a person would."""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jitlink import bpf
from tests.bpf.sources import compiled

ROOT = Path(__file__).parents[2]
FIREWALL = ROOT / "examples" / "bpf_xdp_firewall" / "firewall.o"
SYN = (
    "000000000000000000000000 0800"
    "4500 0028 0001 0000 4006 0000 c0000201 c6336407"
    "9c40 0017 00000001 00000000 5002 00ff 0000 0000"
)


def command(*arguments, stdin=""):
    """Run `jitlink bpf`; returns the finished process, its output as text."""
    return subprocess.run(
        [sys.executable, "-m", "jitlink", "bpf", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": ""},
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def printed(*arguments, stdin=""):
    """What a command prints that must succeed."""
    done = command(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments, code=1):
    """The message of a command that must fail, without a traceback."""
    done = command(*arguments)
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def object_file(tmp_path):
    """Compile C to a file."""

    def make(source, *flags):
        path = tmp_path / "made.o"
        path.write_bytes(compiled(source, *flags))
        return path

    return make


# run


def test_run_prints_the_verdict():
    """The action of an XDP program has its name, and the instructions are counted."""
    text = printed("run", FIREWALL, "--data", SYN)
    assert "result: XDP_PASS (2)" in text
    assert "instructions: " in text


def test_run_reads_a_file_and_shows_changed_data(tmp_path, object_file):
    """Data comes from a file, and is shown where the program has changed it."""
    packet = tmp_path / "packet"
    packet.write_bytes(bytes(20))
    path = object_file("u64 run(u8 *data, u64 n) { data[1] = 0xab; return n; }")
    text = printed("run", path, "--file", packet)
    assert "result: 20 (0x14)" in text
    assert "00 ab 00" in text


def test_run_takes_assembly(tmp_path):
    """A file of assembly is assembled and run."""
    path = tmp_path / "program.s"
    path.write_text("r0 = r2\nr0 += 1\nexit\n")
    assert "result: 4 (0x4)" in printed("run", path, "--data", "aa bb cc")


def test_run_gives_settings_fields_and_types(object_file):
    """--kconfig, --field and --btf reach the program."""
    path = object_file("""
    extern int CONFIG_HZ __kconfig;
    SEC("xdp") int run(struct xdp_md *c) { return CONFIG_HZ + c->ingress_ifindex; }
    """)
    text = printed("run", path, "--kconfig", "CONFIG_HZ=100", "--field", "ingress_ifindex=7", "--btf", path)
    assert "result: 107 (0x6b)" in text


def test_run_prints_traces_and_maps(object_file):
    """Printed lines and the contents of maps are shown, with escapes for what a terminal must not see."""
    path = object_file("""
    struct { __uint(type, 2); __uint(max_entries, 2); __type(key, u32); __type(value, u64); } counts SEC(".maps");
    u64 run(u8 *data, u64 n) {
        static const char format[] = "seen %d";
        u32 key = 1; u64 *value = map_lookup(&counts, &key);
        if (value) *value += n;
        return trace_printk(format, sizeof format, n);
    }
    """)
    text = printed("run", path, "--data", "aabb", "--maps")
    assert "trace: seen 2" in text
    assert "map counts (array)" in text
    assert "  1: 2" in text


def test_run_writes_coverage(tmp_path):
    """--lcov leaves a tracefile with the lines of the source."""
    path = tmp_path / "out.info"
    printed("run", FIREWALL, "--data", SYN, "--lcov", path)
    text = path.read_text()
    assert "SF:" in text
    assert "firewall.c" in text
    assert "FNDA:1,xdp_firewall" in text


@pytest.mark.skipif(importlib.util.find_spec("dpkt") is None, reason="the extra pcap (dpkt) is not installed")
@pytest.mark.parametrize("format", ["pcap", "pcapng"])
def test_run_goes_over_a_capture(tmp_path, format):
    """Every packet of a capture is run, and the verdicts are counted."""
    path = tmp_path / "capture"
    packets = [bytes.fromhex(SYN), bytes(60), b"short"]
    path.write_bytes(capture(packets) if format == "pcap" else capture_ng(packets))
    text = printed("run", FIREWALL, "--pcap", path)
    assert "packets: 3" in text
    assert "XDP_PASS  2  66.7%" in text
    assert "XDP_DROP  1  33.3%" in text


def capture(packets):
    """Write a pcap file: a header of 24 bytes, then records."""
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return header + b"".join(struct.pack("<IIII", 0, 0, len(each), len(each)) + each for each in packets)


def capture_ng(packets):
    """Write a pcapng file: a section header, an interface, and an enhanced packet block for each packet."""

    def block(type, body):
        body += bytes(-len(body) % 4)
        size = len(body) + 12
        return struct.pack("<II", type, size) + body + struct.pack("<I", size)

    parts = [block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)), block(1, struct.pack("<HHI", 1, 0, 65535))]
    parts += [block(6, struct.pack("<IIIII", 0, 0, 0, len(each), len(each)) + each) for each in packets]
    return b"".join(parts)


@pytest.mark.skipif(importlib.util.find_spec("dpkt") is None, reason="the extra pcap (dpkt) is not installed")
@pytest.mark.parametrize("content", [b"", b"nothing like it at all, whatever it may be"])
def test_a_capture_that_is_none_is_refused(tmp_path, content):
    """Bytes that are no capture are named, without a traceback."""
    path = tmp_path / "capture"
    path.write_bytes(content)
    assert "no capture that can be read" in refused("run", FIREWALL, "--pcap", path)


def test_run_refuses_what_cannot_be_run(tmp_path, object_file):
    """Faults, missing names, unknown programs and bad hexadecimal are messages and exit code 1."""
    path = object_file("u64 run(u8 *data, u64 n) { return data[1000000]; }")
    assert "made.o" not in refused("run", path)
    assert "outside the program's memory" in refused("run", path, "--data", "00")
    assert "there is no program 'other'" in refused("run", path, "--program", "other")
    assert "not bytes in hexadecimal" in refused("run", path, "--data", "xyz")
    assert "No such file" in refused("run", tmp_path / "absent.o")
    assert "one of --data, --file and --pcap" in refused("run", path, "--data", "00", "--file", path)


# verify


def test_verify_reports_every_fault(object_file):
    """All faults of all programs are printed with their lines, and the exit code is 1."""
    assert "xdp_firewall has no faults" in printed("verify", FIREWALL)
    path = object_file("""
    extern int unknown(int) __ksym;
    SEC("xdp") int bad(void *c) { asm volatile("*(u64 *)(r10 - 600) = r1" ::: "memory"); return unknown(1); }
    SEC("tc") int good(void *c) { return 0; }
    """)
    done = command("verify", path)
    assert done.returncode == 1
    assert "source.c:" in done.stdout
    assert "[stack access]" in done.stdout
    assert "good has no faults" in done.stdout
    assert "good" in printed("verify", path, "--program", "good")


# assemble and disassemble


def test_assemble_and_disassemble_invert_each_other(tmp_path):
    """Text to bytes and back, in both syntaxes and byte orders, through files and standard input."""
    text = "r1 = 5\nr0 = *(u32 *)(r1 + 8)\nif r0 == 3 goto +1\nr0 = 1311768467463790320 ll\nexit\n"
    out = tmp_path / "code"
    for flags, code in (((), bpf.assemble(text)), (("--big-endian",), bpf.assemble(text, byteorder="big"))):
        printed("assemble", "-", "-o", out, *flags, stdin=text)
        assert out.read_bytes() == code
        assert printed("disassemble", out, *flags) == text
    assert printed("assemble", "-", stdin="exit\n") == "95 00 00 00 00 00 00 00\n"
    assert printed("disassemble", "--hex", "95 00 00 00 00 00 00 00", "--syntax", "mnemonic") == "exit\n"


def test_a_mistake_in_assembly_names_its_line(tmp_path):
    """The message says line and column."""
    path = tmp_path / "program.s"
    path.write_text("r0 = 1\nr0 = banana(\nexit\n")
    assert "line 2" in refused("assemble", path)


def test_disassemble_shows_the_functions_of_an_object():
    """Sections, functions, references and source lines are shown, with nothing loaded."""
    text = printed("disassemble", FIREWALL)
    for expected in ("section xdp", "xdp_firewall:", "# blocked_ports", "bpf_map_lookup_elem", "firewall.c:"):
        assert expected in text


# show


def test_show_lists_what_is_in_an_object(object_file):
    """Programs, maps, variables, externs and types are listed."""
    text = printed("show", FIREWALL, "--types")
    for expected in (
        "license Dual MIT/GPL",
        "xdp_firewall",
        "lpm_trie",
        "struct network to u8",
        "report_events",
        "struct event {",
    ):
        assert expected in text
    path = object_file('extern int CONFIG_X __kconfig WEAK; SEC("xdp") int f(void *c) { return CONFIG_X; }')
    assert "weak" in printed("show", path)


def test_show_of_the_linker_lists_a_bpf_object_as_well():
    """`jitlink show` prints the link graph of a BPF object, with its relocation kinds."""
    done = subprocess.run(
        [sys.executable, "-m", "jitlink", "show", str(FIREWALL)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    assert "R_BPF_64_64" in done.stdout


def test_a_file_that_is_no_object_is_refused(tmp_path):
    """Objects for other machines and broken objects are refused with a message."""
    path = tmp_path / "broken.o"
    path.write_bytes(FIREWALL.read_bytes()[:1000])
    assert "broken.o" in refused("show", path)
