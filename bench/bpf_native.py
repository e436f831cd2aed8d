"""What bench/bpf.py measures of native code: programs beside their native form, maps, compiling, runs, packets.

Times are those of the processor, for this thread, and the shortest of some: what disturbs a run only makes it longer.
What is short is done often enough in a row to be measured. Packets are run on one core.
"""

from __future__ import annotations

import ctypes
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jitlink import bpf
from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.hosts import host_shapes
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.machine import Code

SOURCE = Path(__file__).with_name("bpf_programs.c")
PROGRAMS = ("primes", "copy", "hashes", "matrix", "tokens", "calls", "divisions", "packets")
"""What geometric means are of."""
MAP_PROGRAM = "counter"
OPERATIONS = {"lookup, add, store": "lookups", "update": "updates", "delete and insert": "deletes"}
"""Programs that are nothing but a loop over an operation of a hash map."""
BUFFER = 1 << 16
PACKET = 128
UNLIMITED = 1 << 60
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "jit, trusted, no meter": {"tier": "jit", "sandbox": False, "meter": False},
    "jit, trusted": {"tier": "jit", "sandbox": False},
    "jit, sandboxed": {"tier": "jit"},
    "jit, hardened": {"tier": "jit", "hardened": True, "seed": 1},
    "llvm, trusted, no meter": {"tier": "llvm", "sandbox": False, "meter": False, "cache": False},
    "llvm, sandboxed, no meter": {"tier": "llvm", "meter": False, "cache": False},
    "llvm, sandboxed": {"tier": "llvm", "cache": False},
}
MANY = 1_000_000
PARSER = """
    r2 = *(u32 *)(r1 + 0)
    r3 = *(u32 *)(r1 + 4)
    r0 = 1
    r4 = r2
    r4 += 34
    if r4 > r3 goto end
    r5 = *(u16 *)(r2 + 12)
    if r5 != 8 goto end
    r5 = *(u8 *)(r2 + 14)
    r5 &= 15
    r5 <<= 2
    if r5 < 20 goto end
    r4 = r2
    r4 += 14
    r4 += r5
    r6 = r4
    r6 += 8
    if r6 > r3 goto end
    r7 = *(u8 *)(r2 + 23)
    r0 = 2
    if r7 == 17 goto end
    r0 = *(u16 *)(r4 + 2)
end:
    exit
"""
"""Ethernet, IPv4, and the ports of UDP or TCP."""
COMPILED = (20, 200, 2_000, 20_000, 60_000)
COMPILED_BY_LLVM = (4_200, 60_000)
SPAN, SHORTEST = 1e-3, 1e-7


def quickest(action: Callable[[], object], runs: int) -> float:
    """The shortest of the seconds of processor time that an action takes."""
    return min(processor_times(action, runs))


def processor_times(action: Callable[[], object], runs: int) -> list[float]:
    """The seconds of this thread's processor time that an action takes, each of them the mean of a millisecond's."""
    # The first time tells nothing of how often fits a millisecond.
    action()
    start = thread_time()
    action()
    times = max(1, round(SPAN / max(thread_time() - start, SHORTEST)))
    samples = []
    for _ in range(runs):
        start = thread_time()
        for _ in range(times):
            action()
        samples.append((thread_time() - start) / times)
    return samples


def compiler() -> list[str]:
    """A C compiler: clang, or zig's."""
    return ["clang"] if shutil.which("clang") else [sys.executable, "-m", "ziglang", "cc"]


def build(directory: Path) -> tuple[ctypes.CDLL, bytes]:
    """Compile the programs natively and for BPF, both with -O2."""
    library, machine_code = directory / "programs.so", directory / "programs.o"
    c = compiler()
    target = ["-target", "bpf"] if c == ["clang"] else ["-target", "bpfel-freestanding", "-fno-sanitize=undefined"]
    subprocess.run([*c, "-O2", "-fPIC", "-shared", "-o", str(library), str(SOURCE)], check=True)
    subprocess.run([*c, *target, "-mcpu=v3", "-O2", "-c", "-o", str(machine_code), str(SOURCE)], check=True)
    return ctypes.CDLL(str(library)), machine_code.read_bytes()


def data() -> bytes:
    """Text with the headers of a packet every PACKET bytes, always the same."""
    chooser = random.Random(1)
    made = bytearray(chooser.choices(b"abc 123,.\n XYZ", k=BUFFER))
    for at in range(0, BUFFER, PACKET):
        made[at + 12 : at + 15] = b"\x08\x00\x45"
        made[at + 23] = chooser.choice((1, 6, 17))
    return bytes(made)


def print_programs(console: Console, runs: int, library: ctypes.CDLL, machine_code: bytes) -> None:
    """Print how long each program takes in each configuration, over its native time."""
    table = Table("program", "native, us", *CONFIGURATIONS)
    content = data()
    ratios: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    for program in (*PROGRAMS, MAP_PROGRAM):
        native, expected = _natively(library, program, content, runs)
        cells = []
        for name, options in CONFIGURATIONS.items():
            seconds = _in_bpf(machine_code, options, program, content, expected, runs)
            if program in PROGRAMS:
                ratios[name].append(seconds / native)
            cells.append(f"{seconds / native:.2f}")
        table.add_row(program, f"{native * 1e6:.1f}", *cells)
    means = [math.exp(sum(map(math.log, each)) / len(each)) for each in ratios.values()]
    table.add_row(f"geometric mean, without {MAP_PROGRAM}", "", *(f"{mean:.2f}" for mean in means))
    console.print(table)


def print_maps(console: Console, runs: int, library: ctypes.CDLL, machine_code: bytes) -> None:
    """Print how long a round of a loop with an operation of a hash map takes, natively and in each configuration."""
    table = Table("a round, ns", "native", *CONFIGURATIONS)
    content, rounds = data(), BUFFER // 4
    for what, program in OPERATIONS.items():
        native, expected = _natively(library, program, content, runs)
        given = program, content, expected, runs
        seconds = [_in_bpf(machine_code, options, *given) for options in CONFIGURATIONS.values()]
        table.add_row(what, *(f"{1e9 * each / rounds:.1f}" for each in (native, *seconds)))
    console.print(table)


def _natively(library: ctypes.CDLL, program: str, content: bytes, runs: int) -> tuple[float, int]:
    """The seconds that a program takes natively, and its first result, on a buffer of its own."""
    function = getattr(library, program)
    function.restype, function.argtypes = ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_uint64)
    memory = np.frombuffer(bytearray(content), np.uint8)
    address = memory.ctypes.data
    expected = int(function(address, BUFFER))
    return quickest(lambda: function(address, BUFFER), runs), expected


def _in_bpf(
    machine_code: bytes, options: dict[str, Any], program: str, content: bytes, expected: int, runs: int
) -> float:
    """The seconds that a program takes in BPF, with a buffer and maps of its own, after a look at its result."""
    object = bpf.load_object(machine_code, **options)
    machine, code = object.machine, object[program].code
    region = machine.regions.allocate(BUFFER, "buffer")
    region.data[:] = content
    result = machine.run(code, region.address, BUFFER, budget=UNLIMITED)
    assert result == expected, f"{program} gives {result}, and natively {expected}"
    seconds = quickest(lambda: machine.run(code, region.address, BUFFER, budget=UNLIMITED), runs)
    object.close()
    return seconds


def straight_code(slots: int) -> bytes:
    """A program of so many slots without loops: arithmetic, accesses, short branches."""
    chooser = random.Random(2)
    made: list[tuple[int, int, int, int, int]] = []
    arithmetic = (0x07, 0x0F, 0xA7, 0xBF, 0x67, 0x27, 0x57, 0x04, 0x0C)
    while len(made) < slots - 8:
        dst, src, number = chooser.randrange(2, 9), chooser.randrange(9), chooser.randrange(1, 60)
        match chooser.choices(range(5), (50, 15, 10, 10, 15))[0]:
            case 0:
                made.append((chooser.choice(arithmetic), dst, src, 0, number))
            case 1:
                made.append((0x79, dst, 1, number, 0))
            case 2:
                made.append((0x7B, 10, src, -8 * number, 0))
            case 3:
                made.append((0x15, dst, 0, 5, number))
            case _:
                made.append((0xB7, dst, 0, 0, number * 1000))
    # The last branches lead in here.
    made += [(0xB7, 0, 0, 0, 0)] * (slots - 1 - len(made))
    return encode([*made, (0x95, 0, 0, 0, 0)])


def print_compiling(console: Console, runs: int) -> None:
    """Print how long it takes from the bytes of a program to code that can be called."""
    table = Table("instructions", "sandboxed, ms", "trusted, ms", "bytes of code, sandboxed")
    for slots in COMPILED:
        program = straight_code(slots)
        cells, size = [], 0
        for sandbox in (True, False):
            machine = NativeMachine(host_shapes(), Plan(sandbox=sandbox))
            seconds = quickest(lambda machine=machine: machine.prepare(Code(decode(program))), 5 * runs)  # type: ignore[misc] # noqa: B023
            cells.append(f"{1e3 * seconds:.2f}")
            if sandbox:
                code = Code(decode(program))
                machine.prepare(code)
                size = sum(len(image.code.code) for image in code.made[machine].images.values())
        table.add_row(f"{slots:,}", *cells, f"{size:,}")
    console.print(table)


def print_llvm_compiling(console: Console, runs: int, content: bytes) -> None:
    """Print how long it takes from bytes to code of LLVM's that can be called. content: an object, of clang's code."""
    table = Table("compiled by LLVM", "trusted, ms", "sandboxed, ms")
    slots = len(bpf.load(content, tier="interpreter").instructions)
    works = {f"{slots:,} slots of clang's, in functions": content}
    works |= {f"{slots:,} slots of straight code": straight_code(slots) for slots in COMPILED_BY_LLVM}
    for name, program in works.items():
        cells = []
        for sandbox in (False, True):
            options: dict[str, Any] = {"sandbox": sandbox, "meter": sandbox, "verify": False, "cache": False}
            seconds = quickest(lambda: bpf.load(program, tier="llvm", **options).object.close(), runs)  # noqa: B023
            cells.append(f"{1e3 * seconds:.0f}")
        table.add_row(name, *cells)
    console.print(table)


def print_runs(console: Console, runs: int) -> None:
    """Print how long a run of an empty program takes from Python."""
    table = Table("an empty program", "us")
    plain = bpf.load(bpf.assemble("r0 = 0\nexit"), tier="jit")
    packet = bpf.load(bpf.assemble("r0 = 0\nexit"), tier="jit", context="xdp")
    content = bytes(64)
    actions: dict[str, Callable[[], object]] = {
        "program.run()": plain.run,
        "program.run(64 bytes)": lambda: plain.run(content),
        "program.call()": plain.call,
        "program.run(packet of 64 bytes) as XDP": lambda: packet.run(content),
    }
    for name, action in actions.items():
        table.add_row(name, f"{1e6 * quickest(action, runs):.2f}")
    console.print(table)


def print_many(console: Console, runs: int) -> None:
    """Print how many packets of 64 bytes run_many runs in a second of one core's time."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    packets = np.zeros((MANY, 64), np.uint8)
    packets[:, 12], packets[:, 14], packets[::2, 23] = 8, 0x45, 17
    table = Table("run_many, packet parser", "million packets a second, best", "median")
    for name, options in CONFIGURATIONS.items():
        program = bpf.load(bpf.assemble(PARSER), context="xdp", **options)
        samples = processor_times(lambda program=program: program.run_many(packets), runs)  # type: ignore[misc]
        table.add_row(name, *(f"{MANY / seconds / 1e6:.1f}" for seconds in (min(samples), median(samples))))
    os.sched_setaffinity(0, cores)
    console.print(table)
