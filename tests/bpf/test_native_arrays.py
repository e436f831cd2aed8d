"""Lookups in arrays without a call, in the one-pass tier of every machine: what the helper in Python finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jitlink import bpf
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.helpers import HelperTable, Host
from jitlink.bpf.instructions import decode
from jitlink.bpf.jit.aarch64 import AArch64
from jitlink.bpf.jit.backend import Shapes
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.riscv64 import Riscv64
from jitlink.bpf.machine import Code
from jitlink.bpf.maps import MapDefinition, MapFlag, Maps, MapType
from tests.bpf.machines import native_machine, needs_native_code

INDICES = [0, 1, 4, 5, 6, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]
SUM = """
    r6 = r1
    *(u32 *)(r10 - 4) = r1
    r2 = r10
    r2 += -4
    r1 = {map:#x} ll
    call 1
    r7 = r1
    r7 ^= r2
    r7 ^= r3
    r7 ^= r4
    r7 ^= r5
    if r0 == 0 goto none
    r8 = *(u64 *)(r0 + 8)
    *(u32 *)(r0 + 0) = r6
    r0 ^= r7
    r0 += r8
    exit
none:
    r0 = r7
    exit
"""
"""Looks r1 up, reads and writes the value, and gives its address, what it holds, and what is in r1 to r5."""


def emulated(backend: Any) -> Callable[..., Any]:
    """Make machines of another processor."""

    def make(**plan: Any) -> Any:
        pytest.importorskip("unicorn", reason="the emulated CPU is unicorn")
        from jitlink.bpf.jit.emulated import EmulatedMachine

        return EmulatedMachine(Shapes(backend()), Plan(**plan))

    return make


MACHINES = [
    pytest.param(native_machine, id="x86-64", marks=needs_native_code),
    pytest.param(emulated(AArch64), id="AArch64"),
    pytest.param(emulated(Riscv64), id="RISC-V"),
]


class World:
    """A machine with a map of 5 entries; it counts what passes through Python."""

    def __init__(self, machine: Any, type: MapType = MapType.ARRAY, flags: int = 0, cpus: int = 1) -> None:
        self.machine = machine
        self.maps = Maps(machine.regions, cpus)
        create: Any = self.maps.create
        self.map = create(MapDefinition("map", type, 4, 20, 5, flags))
        values = self.map.values_region.data
        values[:] = bytes(at % 251 for at in range(len(values)))
        machine.helpers.update(HelperTable(Host(self.maps)).by_number)
        machine.maps = self.maps.by_address
        self.code = self.assembled(SUM)
        self.called_outside = 0
        outside = machine.outside

        def counting() -> None:
            self.called_outside += 1
            outside()

        machine.outside = counting

    def assembled(self, text: str) -> Code:
        """A program, with the address of the map in it."""
        return Code(decode(bpf.assemble(text.format(map=self.map.address))), "program")

    def outcomes(self, index: int, code: Code | None = None) -> list[Any]:
        """What the interpreter and the machine's own code make of a program: r0, the count, and the values."""
        found = []
        for hook in (lambda machine: None, None):
            self.machine.hook = hook
            before = bytes(self.map.values_region.data)
            try:
                result: Any = self.machine.run(code or self.code, index)
            except BpfFault as fault:
                result = str(fault), fault.pc
            found.append((result, self.machine.instructions, bytes(self.map.values_region.data)))
            self.map.values_region.data[:] = before
        return found


@pytest.mark.parametrize(
    "plan", [{}, {"sandbox": False}, {"metered": False}], ids=["sandboxed", "trusted", "unmetered"]
)
@pytest.mark.parametrize("make", MACHINES)
def test_an_array_is_indexed_in_place(make, plan):
    """Indices below max_entries have a value and others have none; r1 to r5 are poison; Python has no part in it."""
    world = World(make(**plan))
    for index in INDICES:
        interpreted, ran = world.outcomes(index)
        assert ran[0] == interpreted[0]
        assert ran[2] == interpreted[2]
        assert ran[1] == interpreted[1] or not plan.get("metered", True)
    assert world.called_outside == 0
    world.machine.regions.close()


@pytest.mark.parametrize("make", MACHINES)
def test_the_map_may_be_known_from_far_above(make):
    """The address of the map is followed through registers and branches to the call that looks it up."""
    world = World(make())
    text = """
        r6 = {map:#x} ll
        r7 = r10
        r7 += -8
        if r1 > 3 goto other
        *(u32 *)(r10 - 8) = r1
        goto look
    other:
        *(u32 *)(r10 - 8) = 2
    look:
        r2 = r7
        r1 = r6
        call 1
        if r0 == 0 goto end
        r0 = *(u64 *)(r0 + 0)
    end:
        exit
    """
    code = world.assembled(text)
    for index in (0, 3, 4):
        interpreted, ran = world.outcomes(index, code)
        assert ran == interpreted
    assert world.called_outside == 0
    world.machine.regions.close()


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize(
    "text",
    [
        # The key is not all in the frame; it is in no memory; the map is not known; the map is none.
        "r2 = r10\nr2 += -3\nr1 = {map:#x} ll\ncall 1\nr0 = *(u8 *)(r0 + 0)\nexit",
        "r2 = 8\nr1 = {map:#x} ll\ncall 1\nr0 = *(u8 *)(r0 + 0)\nexit",
        "r6 = {map:#x} ll\nr6 += r1\nr2 = r10\nr2 += -8\nr1 = r6\ncall 1\nexit",
        "r6 = {map:#x} ll\nr6 += 8\nr2 = r10\nr2 += -8\nr1 = r6\ncall 1\nexit",
    ],
)
def test_what_is_not_known_is_left_to_the_helper(make, text):
    """Faults of keys and maps are those of the interpreter."""
    world = World(make())
    interpreted, ran = world.outcomes(0, world.assembled(text))
    assert ran == interpreted
    world.machine.regions.close()


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize(
    ("type", "flags", "cpus"),
    [(MapType.ARRAY, MapFlag.WRONLY_PROG, 1), (MapType.PERCPU_ARRAY, 0, 1), (MapType.PERCPU_ARRAY, 0, 2)],
)
def test_other_arrays_come_to_the_same(make, type, flags, cpus):
    """Arrays that programs may not read have no values for them, and those of CPUs have one for this CPU."""
    world = World(make(), type, int(flags), cpus)
    for index in INDICES:
        interpreted, ran = world.outcomes(index)
        assert ran == interpreted
    world.machine.regions.close()


@pytest.mark.parametrize("make", MACHINES)
def test_a_lookup_that_was_replaced_is_called(make):
    """Whoever puts another helper in the place of map_lookup_elem has it called from the next run on."""
    world = World(make())
    found = world.outcomes(1)
    world.machine.helpers[1] = lambda machine, *registers: 0
    assert world.outcomes(1)[1] != found[1]
    assert world.called_outside == 1
    world.machine.regions.close()


@needs_native_code
def test_hardened_code_holds_no_size_of_a_map():
    """Who makes a map chooses its sizes; they are not in hardened code, which calls a helper instead."""
    from jitlink.bpf.jit.hardening import Hardening

    for hardening in (None, Hardening(7)):
        machine = native_machine(hardening=hardening)
        maps = Maps(machine.regions)
        map: Any = maps.create(MapDefinition("map", MapType.ARRAY, 4, 4, 0x0012_3457))
        machine.helpers.update(HelperTable(Host(maps)).by_number)
        machine.maps = maps.by_address
        code = Code(decode(bpf.assemble(SUM.format(map=map.address).replace("r0 + 8", "r0 + 0"))), "program")
        machine.run(code, 3)
        (image,) = code.made[machine].images.values()
        assert (bytes.fromhex("57341200") in bytes(image.code.code)) == (hardening is None)
        machine.regions.close()
