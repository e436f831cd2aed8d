"""Objects that nobody wrote for these tests: of another compiler, and those that Debian's packages ship.

Tools that load BPF carry their objects with them, as files or inside of their executables (libbpf's skeletons).
Where such packages are installed, what is found is loaded, looked at, compiled in every tier and, where it runs on
packets, run in all of them. What cannot be loaded has to say why.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from jitlink import bpf
from jitlink.bpf import tiers
from jitlink.bpf.sections import ContextKind, program_type
from jitlink.cli import main
from jitlink.errors import LinkError, MalformedInput, UsageError
from tests import toolchain
from tests.bpf import test_c_programs
from tests.bpf.machines import needs_native_code
from tests.bpf.sources import assembled, compiled
from tests.bpf.test_examples import EXAMPLES, run_tests

TIERS = [pytest.param(name, marks=needs_native_code if name != "interpreter" else ()) for name in tiers.TIERS]
GCC = "bpf-gcc"
LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
BENCH = Path(__file__).parents[2] / "bench" / "bpf_programs.c"
WITH_MAPS = ("counter", "lookups", "updates", "deletes")
"""Programs of the benchmark whose result is another one each time, since their map remembers."""
SWAPS = "u32 __bswapsi2(u32 x) { return __builtin_bswap32(x); } u64 __bswapdi2(u64 x) { return __builtin_bswap64(x); }"


def gcc(source: str, *flags: str) -> bytes:
    """Compile C by GCC's BPF back end; skips the test where there is none."""
    return toolchain.compile_with(source, *flags, compiler=GCC, language="c")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("source", list(test_c_programs.FUNCTIONS))
def test_what_gcc_compiles_computes_what_it_computes_natively(source, level, order, tier):
    """GCC's code gives the machine's own results; the functions of its library come from an object of clang's."""
    flags = (level, "-gbtf", f"-m{order}-endian")
    objects = gcc((test_c_programs.SOURCES / f"{source}.c").read_text(), *flags), compiled(SWAPS, order=order)
    loaded = bpf.load_object(*objects, tier=tier, cache=False)
    names = test_c_programs.FUNCTIONS[source]
    answers = [loaded[name].call(*arguments) for name in names for arguments in test_c_programs.ARGUMENTS]
    assert answers == test_c_programs.expected(source)


VARIABLES = """
typedef unsigned long long u64;
u64 first = 1, second = 2;
static u64 third = 3;
u64 array[10] = {0, 10, 20, 30, 40, 50};
u64 *pointer = &second, *other = &third, *inside = &array[3];
const char *names[] = {"abc", "defg"};
__attribute__((noinline)) u64 early(u64 x) { return x + first; }
__attribute__((noinline)) u64 late(u64 x) { return early(x) + second; }
u64 entry(u64 x) {
    u64 *volatile element = &array[x + 2];
    return late(x) + *pointer * 10 + *other * 100 + *inside * 1000 + array[5] * 100000 + names[x & 1][0] + *element;
}
"""


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("debug", [(), ("-g",), ("-gbtf",)], ids=["plain", "DWARF", "BTF"])
@pytest.mark.parametrize("level", LEVELS)
def test_references_of_old_gnu_objects_are_taken_as_they_are_meant(level, debug, order):
    """A reference by name leads to that variable or function, though its field holds the symbol's value as well."""
    loaded = bpf.load_object(gcc(VARIABLES, level, *debug, f"-m{order}-endian"))
    late, inside, element = 1 + 1 + 2, 30, 30
    assert loaded["entry"].call(1) == late + 20 + 300 + 1000 * inside + 100000 * 50 + ord("d") + element


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_programs_of_the_benchmark_agree_with_native_code(level, tier):
    """The programs of bench/bpf_programs.c as GCC compiles them give what the native compiler's give."""
    if tier == "interpreter":
        pytest.skip("the interpreter would take a minute")
    native = ctypes.CDLL(str(toolchain.link_shared([toolchain.zig_cc(BENCH.read_text(), "-O1")])))
    content = bytes(number * 7 % 251 for number in range(1 << 13)) * 8
    loaded = bpf.load_object(gcc(BENCH.read_text(), level), tier=tier, cache=False)
    for name in [name for name in loaded if name not in WITH_MAPS]:
        function = getattr(native, name)
        function.restype, function.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_uint64]
        memory = ctypes.create_string_buffer(content, len(content))
        assert loaded[name].run(content, budget=1 << 40) == function(memory, len(content)), name


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("example", "level"),
    [(path, "-O2" if "limiter" in path.name else "-O1") for path in EXAMPLES],
    ids=lambda each: Path(each).name,
)
def test_an_example_passes_when_gcc_compiles_it(tmp_path, example, level, tier):
    """Maps, types, constants and loops of GCC's objects: the tests of the example pass with one, in every tier.

    GCC 12 refuses calls through constant pointers, which is how helpers are declared, except where it folds them.
    """
    directory = Path(shutil.copytree(example, tmp_path / example.name))
    (source,) = directory.glob("*.c")
    source.with_suffix(".o").write_bytes(gcc(source.read_text(), level, "-gbtf"))
    run_tests(directory, tier)


RUST = """
#![no_std]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[no_mangle]
pub static mut TOTAL: u64 = 5;
static TABLE: [u64; 8] = [2, 3, 5, 7, 11, 13, 17, 19];
#[inline(never)]
fn mixed(a: u64, b: u64) -> u64 { a.rotate_left((b % 63) as u32) ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
#[no_mangle]
pub extern "C" fn summed(a: u64, b: u64) -> u64 {
    let mut numbers = [0u64; 16];
    for (i, each) in numbers.iter_mut().enumerate() {
        *each = mixed(a.wrapping_add(i as u64), b).wrapping_add(TABLE[(i + b as usize) & 7]);
    }
    numbers.sort_unstable();
    unsafe { TOTAL = TOTAL.wrapping_add(numbers[3]); }
    numbers.iter().fold(0u64, |sum, each| sum.wrapping_mul(31).wrapping_add(*each)).wrapping_add(unsafe { TOTAL })
}
"""
"""Slices, iterators and sorting of Rust's core library; the functions of it that are not inlined come along."""


def summed(a: int, b: int, total: int) -> tuple[int, int]:
    """What the function of that name returns, and what TOTAL is then."""
    mask, turn = (1 << 64) - 1, b % 63
    product, numbers = b * 0x9E37_79B9_7F4A_7C15 & mask, []
    for i in range(16):
        x = a + i & mask
        rotated = (x << turn | x >> (64 - turn)) & mask
        numbers.append((rotated ^ product) + (2, 3, 5, 7, 11, 13, 17, 19)[i + b & 7] & mask)
    numbers.sort()
    result, total = 0, total + numbers[3] & mask
    for number in numbers:
        result = result * 31 + number & mask
    return result + total & mask, total


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("order", ["el", "eb"])
def test_what_rust_compiles_computes_what_the_source_says(order, tier):
    """Rust's objects for BPF are LLVM bitcode; its core library for BPF is Debian's libstd-rust-web-dev-bpf."""
    toolchain.needs("rustc")
    target = f"bpf{order}-unknown-none"
    root = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(root, "lib", "rustlib", target).exists():
        pytest.skip("rustc has no core library for BPF")
    flags = ("--target", target, "-O", "-C", "panic=abort", "-C", "overflow-checks=off")
    loaded = bpf.load_object(toolchain.compile_with(RUST, *flags, compiler="rustc"), tier=tier, cache=False)
    total = 5
    for a, b in test_c_programs.ARGUMENTS:
        expected, total = summed(a, b, total)
        assert loaded["summed"].call(a, b) == expected
    assert loaded.globals["TOTAL"] == total


# What such objects hold, made here


@pytest.mark.parametrize("triple", ["bpfel", "bpfeb"])
def test_bitcode_for_bpf_is_compiled_for_bpf(triple):
    """A module that names BPF as its machine is given to LLVM's back end for it, and not to the host's."""
    binding = pytest.importorskip("llvmlite.binding")
    text = f'target triple = "{triple}"\ndefine i64 @twice(i64 %x) {{ %y = shl i64 %x, 1\nret i64 %y }}'
    loaded = bpf.load_object(binding.parse_assembly(text).as_bitcode())
    assert loaded["twice"].call(21) == 42
    assert loaded.linked.byte_order == ("little" if triple == "bpfel" else "big")


OLD_GNU = """
    .section .comment, "", @progbits
    .asciz "GCC: (Debian 12.2.0-14+deb12u1+) {version}.2.0"
    .data
    .globl first, second
first:
    .quad 1
    .size first, 8
second:
    .quad 2
    .quad 3
    .size second, 16
    .text
    .globl start, other
    .type other, @function
other:
    r0 = 7
    exit
    .type start, @function
start:
    r1 = second + {field} ll
    r0 = *(u64 *)(r1 + 0)
    exit
"""


@pytest.mark.parametrize(
    ("version", "field", "found"),
    [(12, 8, 2), (12, 16, 3), (12, 0, 2), (14, 0, 2), (14, 8, 3)],
    ids=["value", "value and addend", "no value", "newer", "newer with addend"],
)
def test_the_value_of_a_symbol_is_taken_off_where_an_old_assembler_has_put_it(version, field, found):
    """Of a compiler before 14, a field that holds at least its symbol's value holds that and the addend; else it is
    the addend, as it always is for a newer one."""
    loaded = bpf.load_object(assembled(OLD_GNU.format(version=version, field=field)))
    assert loaded["start"].call() == found


def test_functions_without_a_type_begin_at_names_that_others_may_see():
    """LLVM before 8 wrote no STT_FUNC; a section with such symbols is left as it is."""
    text = ".globl one, two\none:\nr0 = 1\nexit\ntwo:\ncall one\nr0 += 1\nexit\n"
    loaded = bpf.load_object(assembled(text))
    assert loaded["one"].call() == 1
    assert loaded["two"].call() == 2
    typed = ".type one, @function\n.globl one, inside\none:\nr0 = 1\ninside:\nr0 += 1\nexit\n"
    assert bpf.load_object(assembled(typed))["one"].call() == 2


OPEN_MAP = """
struct { __uint(type, 2); __type(key, u32); __type(value, u64); __uint(max_entries, 0); } open SEC(".maps");
struct { __uint(type, 4); } events SEC(".maps");
SEC("xdp") int program(void *context) { u32 key = 2; return map_lookup(&open, &key) ? 1 : 2; }
"""


def test_what_a_loader_sets_can_be_given():
    """Maps that are declared without entries get them by name; events get what the kernel asks of them."""
    content = compiled(OPEN_MAP)
    with pytest.raises(MalformedInput, match=r"map_entries=\{'open': n\}"):
        bpf.load(content)
    program = bpf.load(content, map_entries={"open": 3}, cpus=2)
    assert program.run(bytes(20)) == 1
    events = program.maps["events"]
    assert (events.key_size, events.value_size, events.max_entries) == (4, 4, 2)
    assert bpf.load(content, map_entries={"open": 2}).run(bytes(20)) == 2
    assert bpf.load(content, assume_externs=True).maps["open"].max_entries == 1


@pytest.mark.parametrize("given", [{"closed": 3}, {"open": 0}, {"open": 1 << 32}, {"open": -1}], ids=str)
def test_entries_that_no_map_can_have_are_refused(given):
    """A name that no map has, and numbers that no map can have, are errors that name them."""
    with pytest.raises(UsageError, match=next(iter(given))):
        bpf.load(compiled(OPEN_MAP), map_entries=given)


# What packages ship

TOOLS = (
    *("bindsnoop", "biolatency", "biopattern", "biosnoop", "biostacks", "cachestat", "capable", "cpudist", "drsnoop"),
    *("execsnoop", "exitsnoop", "filelife", "filetop", "fsdist", "fsslower", "funclatency", "gethostlatency"),
    *("hardirqs", "klockstat", "ksnoop", "llcstat", "mdflush", "mountsnoop", "offcputime", "oomkill", "opensnoop"),
    *("readahead", "runqlat", "runqslower", "sigsnoop", "softirqs", "solisten", "statsnoop", "syscount", "tcpconnect"),
    *("tcpconnlat", "tcplife", "tcprtt", "tcpstates", "tcptop", "tcptracer", "vfsstat", "wakeuptime"),
    *("xdp-bench", "xdp-filter", "xdp-loader", "xdp-monitor", "xdp-trafficgen", "xdpdump"),
)
"""Programs of Debian's libbpf-tools and xdp-tools, which have BPF objects inside."""
DIRECTORIES = ("/usr/lib/x86_64-linux-gnu/bpf", "/usr/lib/aarch64-linux-gnu/bpf", "/usr/lib64/bpf", "/usr/lib/bpf")
GO = Path("/usr/share/gocode/src/github.com/cilium/ebpf")
"""The sources of Debian's golang-github-cilium-ebpf-dev, with objects by three versions of clang in both orders."""
KERNEL = Path("/sys/kernel/btf/vmlinux")
HEADER = struct.Struct("<16s2HI3QI6H")
SECTION = struct.Struct("<2I4Q2I2Q")
EM_BPF, NOBITS = 247, 8


def objects_in(content: bytes) -> list[bytes]:
    """Cut the BPF objects out of an executable: from each ELF header to the end of what its sections take."""
    found = []
    for match in re.finditer(rb"\x7fELF\x02\x01\x01", content):
        at = match.start()
        header = HEADER.unpack(content[at : at + HEADER.size].ljust(HEADER.size))
        sections, count = header[6], header[12]
        if header[1:3] != (1, EM_BPF):
            continue
        end = sections + count * SECTION.size
        for place in range(at + sections, at + end, SECTION.size):
            _, type, _, _, offset, size, *_ = SECTION.unpack_from(content, place)
            end = max(end, offset + size if type != NOBITS else 0)
        found.append(content[at : at + end])
    return found


@cache
def shipped() -> dict[str, bytes]:
    """The objects of all packages that are installed, by a name."""
    found: dict[str, bytes] = {}
    for tool in TOOLS:
        path = shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")
        for number, content in enumerate(objects_in(Path(path).read_bytes()) if path else ()):
            found[f"{tool} {number}"] = content
    for directory in DIRECTORIES:
        found |= {path.name: path.read_bytes() for path in sorted(Path(directory).glob("*.o"))}
    found |= {path.name: path.read_bytes() for path in sorted(GO.rglob("*.elf"))}
    return found


SHIPPED = [pytest.param(content, id=name) for name, content in shipped().items()] or [
    pytest.param(b"", marks=pytest.mark.skip(reason="neither xdp-tools nor libbpf-tools is installed"))
]
REASONS = (
    r"calls (a helper|\d+ helpers) that there (is|are) not:\n  bpf_\w+, called at instruction \d+",
    r"symbol \w+: maps of type \w+ are not supported: there are no \w+",
    r"symbol \w+: a map with fields of another loader",
    r"symbol \w+: ARRAY_OF_MAPS map: the definition does not say what the inner maps are",
)
"""What cannot be loaded, and what it has to say: which helper or map, and why there is none."""


def says_why(text: str) -> bool:
    """Whether an error states one of the reasons for which an object may be refused."""
    return any(re.search(reason, text) for reason in REASONS)


@contextmanager
def refused_for_a_reason() -> Iterator[None]:
    """Pass over errors that say why an object cannot be loaded, and over no others."""
    try:
        yield
    except LinkError as error:
        if not says_why(str(error)):
            raise


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("content", SHIPPED)
def test_a_shipped_object_is_loaded_or_says_why_not(content, tier):
    """Each of its programs is linked, verified and compiled, and can be disassembled; a refusal names the reason."""
    with refused_for_a_reason():
        loaded = bpf.load_object(content, tier=tier, cache=False, assume_externs=True)
        for name in loaded:
            text = loaded[name].disassemble()
            assert text.count("\n") >= len(loaded[name].instructions) // 2


@pytest.mark.parametrize("content", SHIPPED)
def test_a_shipped_object_is_relocated_for_this_kernel(content):
    """CO-RE relocations against the types of the running kernel end in a program, too."""
    if not KERNEL.exists():
        pytest.skip("the kernel does not show its types")
    with refused_for_a_reason():
        loaded = bpf.load_object(content, target_btf=kernel_types(), assume_externs=True)
        for name in loaded:
            assert len(loaded[name].instructions)


@cache
def kernel_types() -> bpf.Btf:
    """The types of the running kernel."""
    return bpf.parse_btf(KERNEL.read_bytes())


@pytest.mark.parametrize("content", SHIPPED)
def test_a_shipped_object_can_be_shown(content, tmp_path):
    """`jitlink bpf show` lists programs, maps, variables and types of any of them."""
    path = tmp_path / "shipped.o"
    path.write_bytes(content)
    done = CliRunner().invoke(main, ["bpf", "show", "--types", str(path)])
    if done.exit_code:
        assert says_why(done.output), done.output
    else:
        assert done.output.startswith(str(path))


def packet(port: int, length: int) -> bytes:
    """An Ethernet frame with IPv4 and UDP to a port, so many bytes long."""
    ethernet = bytes(range(12)) + b"\x08\x00"
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length - 14, 1, 0, 64, 17, 0, b"\x0a\0\0\x01", b"\x0a\0\0\x02")
    return (ethernet + ip + struct.pack(">HHHH", 1234, port, max(length - 34, 0), 0)).ljust(length, b"\0")[:length]


PACKETS = [packet(53, 60), packet(53, 30), packet(80, 200), bytes(14), bytes(64)]


@needs_native_code
@pytest.mark.parametrize("content", SHIPPED)
def test_shipped_xdp_programs_do_the_same_in_every_tier(content):
    """XDP programs of others return, write and fault alike in all tiers, and in batches."""
    outcomes = {}
    for tier in tiers.TIERS:
        with refused_for_a_reason():
            loaded = bpf.load_object(content, tier=tier, cache=False, assume_externs=True)
            outcomes[tier] = {name: outcome(loaded[name]) for name in loaded if runs_on_packets(loaded, name)}
    if not outcomes or not outcomes["interpreter"]:
        pytest.skip("it is not loaded, or has no program for XDP")
    assert len(outcomes) == len(tiers.TIERS)
    for tier, outcome_there in outcomes.items():
        assert outcome_there == outcomes["interpreter"], tier


def runs_on_packets(loaded: bpf.BpfObject, name: str) -> bool:
    """Whether a program is one for XDP, in the byte order of this machine."""
    linked = loaded.linked
    section = linked.section_of(linked.programs[name])
    return program_type(section).context is ContextKind.XDP and linked.byte_order == sys.byteorder


def outcome(program: bpf.Program) -> list[object]:
    """What becomes of each packet, one by one and all together."""
    alone: list[object] = []
    for data in PACKETS:
        try:
            result = program.run(data)
            alone.append((result.retval, result.data, result.instructions))
        except bpf.BpfFault as fault:
            alone.append((fault.kind, fault.pc))
    together = program.run_many(PACKETS)
    faults = {number: (fault.kind, fault.pc) for number, fault in together.faults.items()}
    return [*alone, together.retval.tolist(), together.instructions.tolist(), faults]


UDP_TO_PORT = 8 | 2
"""The flags of a port in xdp-filter (xdp-filter/common_kern_user.h): UDP, and the port that a packet is sent to."""


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("policy", "listed", "others"), [("dny", 2, 1), ("alw", 1, 2)], ids=["deny", "allow"])
def test_xdp_filter_filters_by_port(policy, listed, others, tier):
    """xdp-filter passes (2) or drops (1) packets to the ports in its map, and counts both in another map."""
    name = f"xdpfilt_{policy}_udp.o"
    if name not in shipped():
        pytest.skip("xdp-tools is not installed")
    program = bpf.load(shipped()[name], tier=tier, cache=False)
    program.maps["filter_ports"][int.from_bytes((53).to_bytes(2, "big"), "little")] = [UDP_TO_PORT]
    packets = [packet(53, 60), packet(80, 100), packet(53, 80), packet(1234, 60)]
    assert program.run_many(packets).retval.tolist() == [listed, others, listed, others]
    assert [program.run(data).retval for data in packets] == [listed, others, listed, others]
    (counted,) = program.maps["xdp_stats_map"][listed]
    assert (counted["packets"], counted["bytes"]) == (4, 280)
