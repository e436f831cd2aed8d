"""What a call of a helper costs in native code: `python bench/bpf_helpers.py`.

Each program is a loop around one call, with what it takes to make its arguments. Times are of a round: processor
time of this thread, the shortest of several runs. The first row is a call of a C function that returns at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

import jitlink
from jitlink import bpf
from jitlink.bpf.helpers import HelperTable, Host, NativeHelper
from jitlink.bpf.instructions import decode
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.hosts import host_shapes
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.llvm_tier.machine import LlvmMachine
from jitlink.bpf.machine import Code
from jitlink.bpf.maps import MapDefinition, Maps, MapType

ROUNDS, RUNS, ELEMENTS = 100_000, 9, 1024
UNLIMITED = 1 << 40
MACHINES: dict[str, Callable[[Plan], Any]] = {
    "one pass": lambda plan: NativeMachine(host_shapes(), plan),
    "LLVM": lambda plan: LlvmMachine(host_shapes(), plan),
}
RETURNS = b"define i64 @returns() { ret i64 0 }"
LOOP = """
    r6 = {rounds}
again:
    r7 = r6
    r7 &= {mask}
    *(u64 *)(r10 - 32) = r7
    *(u64 *)(r10 - 24) = 0
    *(u64 *)(r10 - 16) = r6
{arguments}
    call {number}
{result}
    r6 += -1
    if r6 != 0 goto again
    r0 = 0
    exit
"""
KEY, VALUE = "r2 = r10\nr2 += -32\nr1 = {map:#x} ll", "r3 = r10\nr3 += -16\nr4 = 0"
READ = "if r0 == 0 goto missing\nr1 = *(u64 *)(r0 + 0)\nmissing:"
RING = "r1 = {map:#x} ll\nr2 = r10\nr2 += -32\nr3 = 24\nr4 = 0"
SUM = "r1 = r10\nr1 += -32\nr2 = 16\nr3 = r1\nr4 = 16\nr5 = r6"
TURNS = f"r8 = r6\nr8 &= 1\nif r8 == 0 goto delete\n{KEY}\n{VALUE}\ncall 2\ngoto done\ndelete:\n{KEY}"
# fmt: off
ROWS: list[tuple[str, MapType, int, int, str, str]] = [  # name, map, bytes of a key, helper, arguments, what follows
    ("C function that returns",       MapType.ARRAY,            4,  200, "", ""),
    ("lookup, array",                 MapType.ARRAY,            4,  1,   KEY, READ),
    ("lookup, hash",                  MapType.HASH,             4,  1,   KEY, READ),
    ("lookup, hash, key of 20 bytes", MapType.HASH,             20, 1,   KEY, READ),
    ("lookup, LRU",                   MapType.LRU_HASH,         4,  1,   KEY, READ),
    ("update, array",                 MapType.ARRAY,            4,  2,   f"{KEY}\n{VALUE}", ""),
    ("update, hash",                  MapType.HASH,             4,  2,   f"{KEY}\n{VALUE}", ""),
    ("update, LRU",                   MapType.LRU_HASH,         4,  2,   f"{KEY}\n{VALUE}", ""),
    ("insert or delete, hash",        MapType.HASH,             4,  3,   TURNS, "done:"),
    ("ring buffer, 24 bytes",         MapType.RINGBUF,          0,  130, RING, ""),
    ("prandom",                       MapType.ARRAY,            4,  7,   "", ""),
    ("ktime",                         MapType.ARRAY,            4,  5,   "", ""),
    ("checksum, 16 and 16 bytes",     MapType.ARRAY,            4,  28,  SUM, ""),
]
# fmt: on


class World:
    """A machine with one map of a sort, which is filled."""

    def __init__(self, make: Callable[[Plan], Any], plan: Plan, type: MapType, key_size: int) -> None:
        self.machine = make(plan)
        self.maps = Maps(self.machine.regions)
        if type is MapType.RINGBUF:
            self.map: Any = self.maps.create(MapDefinition("ring", type, 0, 0, 1 << 23))
        else:
            self.map = self.maps.create(MapDefinition("map", type, key_size, 8, ELEMENTS))
            for number in range(ELEMENTS):
                self.map.update_elem(number.to_bytes(4, "little").ljust(key_size, b"\0"), bytes(8))
        self.machine.helpers.update(HelperTable(Host(self.maps)).by_number)
        self.machine.helpers[200] = NativeHelper(jitlink.load(RETURNS)["returns"])
        self.machine.maps = self.maps.by_address

    def seconds(self, number: int, arguments: str, result: str) -> float:
        """The shortest time of a round of a loop around a call."""
        text = LOOP.format(
            rounds=ROUNDS,
            mask=ELEMENTS - 1,
            arguments=arguments.format(map=self.map.address),
            number=number,
            result=result,
        )
        code = Code(decode(bpf.assemble(text)), "loop")
        shortest = float("inf")
        for _ in range(RUNS):
            start = time.thread_time()
            self.machine.run(code, budget=UNLIMITED)
            shortest = min(shortest, time.thread_time() - start)
            if self.map.type is MapType.RINGBUF:
                self.map.read()
        return shortest / ROUNDS


def main() -> None:
    """Print the table."""
    plans = {"sandboxed": Plan(), "trusted": Plan(sandbox=False)}
    table = Table("ns a round", *(f"{tier}, {mode}" for tier in MACHINES for mode in plans))
    for name, type, key_size, number, arguments, result in ROWS:
        worlds = (World(make, plan, type, key_size) for make in MACHINES.values() for plan in plans.values())
        table.add_row(name, *(f"{world.seconds(number, arguments, result) * 1e9:.1f}" for world in worlds))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
