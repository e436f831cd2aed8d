"""What compilers write for RISC-V is linked and runs, with relaxation and without it, and computes the same.

The code runs in unicorn, without the rest of an environment. What it has to compute is what the same source
computes on this machine.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import jitlink
from tests import toolchain
from tests.riscv64.objects import BASE, TARGET, Machine
from tests.toolchain import llvm_object, zig, zig_cc

SOURCE = """
typedef long (*operation)(long, long);
static long add(long a, long b) { return a + b; }
static long scale(long a, long b) { return (long)((double)a * 1.5 + (float)b / 4); }
__attribute__((noinline)) long mix(long a, long b) { return a * 31 ^ b >> 3; }
static operation const operations[] = {add, scale, mix};
long counters[40], *cursor = counters + 7;
const char *const words[] = {"alpha", "beta", "gamma"};
__attribute__((weak)) extern long absent;
__attribute__((weak)) long replaceable(long x) { return x + 1; }
int common_one;

long fibonacci(long n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

long choose(long which) {
    switch (which) {
    case 0: return 5;
    case 1: return counters[3];
    case 2: return words[1][2];
    case 3: return (long)&absent;
    case 4: return replaceable(which);
    case 5: return cursor - counters;
    case 6: return ++common_one;
    case 7: return words[2][4];
    default: return fibonacci(which);
    }
}

long checksum(long rounds) {
    unsigned long sum = 1;
    for (long i = 0; i < rounds; i++) {
        counters[i % 40] += operations[i % 3](i, (long)sum);
        sum = sum * 1103515245 + choose(i % 12) + counters[(i * 7) % 40];
    }
    return sum;
}
"""
EXTRA = "\n".join(
    f"__attribute__((noinline)) long step{n}(long x) {{ return x % {n + 3} ? step{n + 1}(x + {n}) : x; }}"
    if n < 60
    else f"long step{n}(long x) {{ return x; }}"
    for n in range(60, -1, -1)
)


@cache
def expected(source: str, function: str, argument: int) -> int:
    """What a function computes on this machine."""
    if jitlink.arches.host_architecture() is None:
        pytest.skip("this machine's own code is not linked")
    with jitlink.Session() as session:
        dylib = session.dylib("native").add(zig_cc(source, "-O1", target=toolchain.NATIVE_TARGET))
        import ctypes

        address = dylib[function].address
        return int(ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(address)(argument))


@pytest.mark.parametrize("relax", [True, False], ids=["relaxed", "as written"])
@pytest.mark.parametrize("marked", ["-mrelax", "-mno-relax"])
@pytest.mark.parametrize("flags", ["-O0", "-O2", "-Os -fPIC -ffunction-sections", "-O2 -mcmodel=medany"])
def test_a_program_computes_the_same(flags: str, marked: str, relax: bool):
    """Calls, tables of pointers and of distances, weak symbols, statics, floating point and recursion."""
    source = SOURCE + EXTRA
    content = zig_cc(source, *flags.split(), marked, target=TARGET)
    machine = Machine(jitlink.link(content, base=BASE, relax=relax, debug=True))
    assert machine.call("checksum", 100) == expected(source, "checksum", 100)
    assert machine.call("step0", 12345) == expected(source, "step0", 12345)


def test_relaxation_makes_a_program_shorter():
    """Every call inside of a small program is a jal of 4 bytes, where auipc and jalr took 8."""
    content = zig_cc(SOURCE + EXTRA, "-O2", "-mrelax", target=TARGET)
    relaxed, written = (jitlink.link(content, base=BASE, relax=relax) for relax in (True, False))

    def size(image: jitlink.Image) -> int:
        return sum(block.size for block in image.graph.blocks if block.section.name == ".text" and block.live)

    assert size(written) - size(relaxed) > 4 * 60


IR = """
@table = global [3 x ptr] [ptr @double, ptr @triple, ptr @double]
@scale = internal constant double 2.5
define i64 @double(i64 %x) #0 { %r = shl i64 %x, 1 ret i64 %r }
define i64 @triple(i64 %x) #0 { %r = mul i64 %x, 3 ret i64 %r }
define i64 @start(i64 %x) #0 {
  %which = urem i64 %x, 3
  %slot = getelementptr [3 x ptr], ptr @table, i64 0, i64 %which
  %function = load ptr, ptr %slot
  %first = call i64 %function(i64 %x)
  %wide = sitofp i64 %first to double
  %factor = load volatile double, ptr @scale
  %product = fmul double %wide, %factor
  %narrow = fptosi double %product to i64
  %last = tail call i64 @triple(i64 %narrow)
  ret i64 %last
}
attributes #0 = { noinline "target-features"="+relax" }
!llvm.module.flags = !{!0}
!0 = !{i32 1, !"target-abi", !"lp64d"}
"""


@pytest.mark.parametrize("opt", [0, 1, 2, 3])
@pytest.mark.parametrize("model", ["static", "pic"])
@pytest.mark.parametrize("relax", [True, False])
def test_code_of_llvm_runs_at_each_level(opt: int, model, relax: bool):
    """Objects from llvmlite link and run, and compute what Python does."""
    pytest.importorskip("llvmlite")
    content = llvm_object(IR, target="riscv64-unknown-linux-gnu", opt=opt, relocation_model=model, cpu="sifive-u54")
    machine = Machine(jitlink.link(content, base=BASE, relax=relax))
    assert machine.call("start", 7) == int(7 * 3 * 2.5) * 3


@pytest.fixture(scope="module")
def musl(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The C library musl and the compiler's routines, which zig builds from source for the first program it links."""
    directory = tmp_path_factory.mktemp("musl")
    (directory / "main.c").write_text("int main(void) { return 0; }")
    cache_of_zig = str(toolchain._directory() / "zig")
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache_of_zig, "ZIG_LOCAL_CACHE_DIR": cache_of_zig}
    command = (*zig("cc"), "-target", TARGET, "-static", "-v", "-o", "main", "main.c")
    said = subprocess.run(
        command, cwd=directory, env=environment, check=True, capture_output=True, text=True, timeout=600
    )
    paths = re.findall(r"\S+/(?:libc|libcompiler_rt)\.a", said.stdout + said.stderr)
    return [directory / path for path in dict.fromkeys(paths)]


def test_a_c_library_is_linked_whole(musl: list[Path]):
    """All of musl in one image; what it does not define is given."""
    image = jitlink.link(*musl, base=BASE, whole_archive=True, define=lambda name: BASE + 0x100_0000)
    assert len(image.symbols()) > 1000


def test_a_function_of_a_c_library_runs(musl: list[Path]):
    """snprintf of musl, with all that it needs from the archives, writes what the C standard says."""
    # What zig has rewritten is in a library of its own.
    rewritten = zig_cc(
        "unsigned long strnlen(const char *s, unsigned long n) {"
        "    unsigned long i = 0; while (i < n && s[i]) i++; return i; }"
        "long double frexpl(long double x, int *power) { return x; }",
        "-fno-builtin",
        target=TARGET,
    )
    image = jitlink.link(rewritten, *musl, base=BASE, exports=["snprintf"])
    machine = Machine(image)
    text, pattern, number = machine.data, machine.data + 0x100, machine.data + 0x200
    machine.cpu.mem_write(pattern, b"%d %s %x\0")
    machine.cpu.mem_write(number, b"-1234xyz\0")
    assert machine.call("snprintf", text, 64, pattern, -42, number, 0xBEEF) == 17
    assert bytes(machine.cpu.mem_read(text, 18)) == b"-42 -1234xyz beef\0"
