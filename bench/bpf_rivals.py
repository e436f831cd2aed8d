"""Other machines for BPF, side by side with ours: the one of DPDK, where Debian's librte-bpf is installed.

rte_bpf has a verifier and a one-pass x86-64 back end, without checks at run time and without a meter. Its verifier
refuses loops and goes through every path, so it is given straight code of arithmetic, loads and stores, and a
parser of one packet. The functions that it makes are called from Python (straight code) or from a loop in C (packets).

ubpf, rbpf and llvmbpf are not looked for here; what their authors and others have measured is
quoted in docs/performance.md.
"""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library

import numpy as np
from bpf_native import quickest
from rich.console import Console
from rich.table import Table

from jitlink import bpf
from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.hosts import host_shapes
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.machine import Code

LIBRARY = "rte_bpf"
POINTER = 0x10
"""RTE_BPF_ARG_PTR: the program's argument is the address of a buffer."""
MEMORY = 256
STRAIGHT = (20, 200, 2_000, 20_000, 60_000)
PACKETS, PACKET = 65_536, 128
PARSER = """
    r0 = 1
    r5 = *(u16 *)(r1 + 12)
    if r5 != 8 goto end
    r5 = *(u8 *)(r1 + 14)
    r5 &= 15
    r5 <<= 2
    r0 = 2
    if r5 < 20 goto end
    r7 = *(u8 *)(r1 + 23)
    r0 = 3
    if r7 == 17 goto end
    r4 = r1
    r4 += r5
    r0 = *(u16 *)(r4 + 16)
end:
    exit
"""
"""Ethernet, IPv4 and the destination port of TCP, of a packet of PACKET bytes at r1."""


class Argument(ctypes.Structure):
    """struct rte_bpf_arg."""

    _fields_ = (("type", ctypes.c_int), ("size", ctypes.c_size_t), ("buf_size", ctypes.c_size_t))


class Parameters(ctypes.Structure):
    """struct rte_bpf_prm."""

    _fields_ = (
        ("ins", ctypes.c_void_p),
        ("nb_ins", ctypes.c_uint32),
        ("xsym", ctypes.c_void_p),
        ("nb_xsym", ctypes.c_uint32),
        ("prog_arg", Argument),
    )


class Compiled(ctypes.Structure):
    """struct rte_bpf_jit."""

    _fields_ = (("func", ctypes.c_void_p), ("sz", ctypes.c_size_t))


FUNCTION = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)


class Dpdk:
    """The BPF machine of DPDK."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.rte_bpf_load.restype = ctypes.c_void_p
        self._library.rte_bpf_get_jit.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._library.rte_bpf_destroy.argtypes = [ctypes.c_void_p]

    @contextmanager
    def loaded(self, program: bytes, size: int) -> Iterator[int]:
        """Verify and compile a program on a buffer of so many bytes; gives the address of its function, 0 for none."""
        code = ctypes.create_string_buffer(program, len(program))
        given = Parameters(ctypes.addressof(code), len(program) // 8, None, 0, Argument(POINTER, size, 0))
        handle = self._library.rte_bpf_load(ctypes.byref(given))
        made = Compiled()
        if handle:
            self._library.rte_bpf_get_jit(handle, ctypes.byref(made))
        try:
            yield made.func or 0
        finally:
            if handle:
                self._library.rte_bpf_destroy(handle)


def dpdk() -> Dpdk | None:
    """Find DPDK's machine."""
    name = find_library(LIBRARY)
    return None if name is None or os.uname().machine != "x86_64" else Dpdk(name)


def straight_code(slots: int) -> bytes:
    """Arithmetic, loads from the buffer and stores to the stack, without a branch; no register is read unset."""
    chooser = random.Random(3)
    made = [(0xB7, register, 0, 0, 1000 * register) for register in (0, 2, 3, 4, 5, 6, 7, 8)]
    while len(made) < slots - 1:
        dst, src, number = chooser.randrange(2, 9), chooser.randrange(2, 9), chooser.randrange(1, 60)
        match chooser.choices(range(4), (50, 15, 15, 10))[0]:
            case 0:
                opcode = chooser.choice((0x07, 0x0F, 0xA7, 0xBF, 0x67, 0x27, 0x57, 0x04, 0x0C))
                by_register = bool(opcode & 8)
                made.append((opcode, dst, src * by_register, 0, number * (not by_register)))
            case 1:
                made.append((0x79, dst, 1, 8 * (number % 30), 0))
            case 2:
                made.append((0x7B, 10, src, -8 * number, 0))
            case _:
                made.append((0x0F, 0, src, 0, 0))
    return encode([*made[: slots - 1], (0x95, 0, 0, 0, 0)])


def print_rivals(console: Console, runs: int, library: ctypes.CDLL) -> None:
    """Print load and run times beside those of DPDK's machine. library: of bench/bpf_programs.c, native."""
    rival = dpdk()
    if rival is None:
        console.print("DPDK's machine (Debian: librte-bpf23) is not installed: no rival to compare with")
        return
    _print_straight(console, runs, rival)
    _print_parser(console, runs, rival, library)


def _print_straight(console: Console, runs: int, rival: Dpdk) -> None:
    """Load to callable, and one call, of straight code; calls from Python less what an empty program takes."""
    configurations = {"trusted, no meter": Plan(sandbox=False, metered=False), "sandboxed": Plan()}
    columns = [f"{what}, {name}" for what in ("load, ms", "run, us") for name in ("DPDK", *configurations)]
    table = Table("straight code", *columns)
    memory = ctypes.create_string_buffer(bytes(range(MEMORY)), MEMORY)
    machines = {name: NativeMachine(host_shapes(), plan) for name, plan in configurations.items()}
    empty = {name: _ours(machine, straight_code(20), runs)[1] for name, machine in machines.items()}
    none = _theirs(rival, straight_code(20), memory, runs)[1]
    for slots in STRAIGHT:
        program = straight_code(slots)
        load, run, result = _theirs(rival, program, memory, runs)
        ours = {name: _ours(machine, program, runs) for name, machine in machines.items()}
        assert {each[2] for each in ours.values()} == {result}, f"{slots} slots: {result} in DPDK, in ours {ours}"
        loads = [f"{1e3 * seconds:.2f}" for seconds in (load, *(each[0] for each in ours.values()))]
        times = [run - none, *(each[1] - empty[name] for name, each in ours.items())]
        table.add_row(f"{slots:,}", *loads, *(f"{1e6 * seconds:.2f}" if slots > 20 else "" for seconds in times))
    console.print(table)


def _theirs(rival: Dpdk, program: bytes, memory: ctypes.Array[ctypes.c_char], runs: int) -> tuple[float, float, int]:
    """The seconds of loading and of a call in DPDK's machine, and what the program returns."""
    address = ctypes.addressof(memory)

    def load() -> None:
        with rival.loaded(program, MEMORY) as found:
            assert found, "DPDK's verifier refuses the program"

    seconds = quickest(load, runs)
    with rival.loaded(program, MEMORY) as found:
        function = FUNCTION(found)
        return seconds, quickest(lambda: function(address), runs), int(function(address))


def _ours(machine: NativeMachine, program: bytes, runs: int) -> tuple[float, float, int]:
    """The same in ours."""
    region = machine.regions.allocate(MEMORY, "memory")
    region.data[:] = bytes(range(MEMORY))
    seconds = quickest(lambda: machine.prepare(Code(decode(program))), runs)
    code = Code(decode(program))
    result = machine.run(code, region.address)
    run = quickest(lambda: machine.run(code, region.address), runs)
    machine.regions.remove(region)
    return seconds, run, result


def _print_parser(console: Console, runs: int, rival: Dpdk, library: ctypes.CDLL) -> None:
    """A parser on many packets: DPDK's from a loop in C, on the packet itself; ours by run_many, on a copy of it."""
    packets = np.zeros((PACKETS, PACKET), np.uint8)
    packets[:, 12], packets[:, 14], packets[:, 23], packets[:, 37] = 8, 0x45, 6, 80
    packets[::2, 23] = 17
    program = bpf.assemble(PARSER)
    table = Table("parser of packets", "ns a packet")
    library.call_each.restype = ctypes.c_uint64
    library.call_each.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]
    with rival.loaded(program, PACKET) as found:
        if found:
            given = found, packets.ctypes.data, PACKET, PACKETS
            expected = library.call_each(*given)
            table.add_row("DPDK, from C", _nanoseconds(lambda: library.call_each(*given), runs))
        else:
            table.add_row("DPDK", "refused")
            expected = None
    for tier in ("jit", "llvm"):
        for sandbox in (False, True):
            ours = bpf.load(
                program, context="flat", verify=False, tier=tier, sandbox=sandbox, meter=sandbox, cache=False
            )
            assert expected in (None, int(ours.run_many(packets).r0.sum()))
            cell = _nanoseconds(lambda ours=ours: ours.run_many(packets), runs)  # type: ignore[misc]
            table.add_row(f"{tier}, {'sandboxed' if sandbox else 'trusted, no meter'}, run_many", cell)
    console.print(table)


def _nanoseconds(action: Callable[[], object], runs: int) -> str:
    return f"{1e9 * quickest(action, runs) / PACKETS:.1f}"
