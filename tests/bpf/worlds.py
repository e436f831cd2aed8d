"""A machine with its helpers, maps and memory, as tests of helpers need it."""

from __future__ import annotations

import random
from typing import Any

from jitlink.bpf.assembler import assemble
from jitlink.bpf.helpers import HelperTable, Host, number_of
from jitlink.bpf.instructions import decode
from jitlink.bpf.machine import Code
from jitlink.bpf.maps import MapDefinition, Maps
from tests.bpf.machines import machine_of

MASK = 0xFFFF_FFFF_FFFF_FFFF
ETHERNET = bytes.fromhex("ffffffffffff 020000000001 0800".replace(" ", ""))
PACKET = ETHERNET + bytes(range(60))


class World:
    """A machine with its helpers, and buffers of memory to pass to them."""

    def __init__(self) -> None:
        self.machine = machine_of()
        self.maps = Maps(self.machine.regions, cpus=2)
        self.host = Host(self.maps, random=random.Random(1))
        self.table = HelperTable(self.host)
        self.machine.helpers = self.table.by_number

    def call(self, name: str, *arguments: int) -> int:
        """Call a helper as a program does; the result as a signed number."""
        registers = [argument & MASK for argument in arguments] + [0] * (5 - len(arguments))
        result = self.table.by_number[number_of(name)](self.machine, *registers) & MASK
        return result - (1 << 64) if result >> 63 else result

    def memory(self, data, name="buffer", writable=True) -> Any:
        region = self.machine.regions.allocate(len(data), name, writable=writable)
        region.data[:] = data
        return region

    def map(self, type, key=4, value=8, entries=8, **more) -> Any:
        return self.maps.create(MapDefinition(f"map{len(self.maps)}", type, key, value, entries, **more))

    def run(self, text, *arguments):
        return self.machine.run(Code(decode(assemble(text))), *arguments)
