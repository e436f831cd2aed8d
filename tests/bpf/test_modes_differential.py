"""Native code that checks nothing, or counts nothing, does what the interpreter does with programs that do no wrong.

Each program is interpreted first, and the test is about those that run to their end. JITLINK_MUTATIONS=N is how many
programs each test makes. Nearly all that are made for it do no wrong, and about a third of the packet programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.contexts import XdpContext
from jitlink.bpf.helpers import HelperTable, Host
from jitlink.bpf.instructions import decode, encode
from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.isa import FORMS, Family
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.machine import Code
from tests.bpf.differential import LOOKUP, PacketWorld, World, packet_programs, slot_of, values
from tests.bpf.faultless import faultless_programs
from tests.bpf.machines import llvm_machine, native_machine, needs_native_code

pytestmark = needs_native_code
MAY_GOTO_LIMIT = 5
BUDGET = 3_000
"""A program that does not end within so many instructions is left out."""
TIERS: dict[str, Callable[..., NativeMachine]] = {"jit": native_machine, "llvm": llvm_machine}
MODES = {
    "trusted": {"sandbox": False},
    "unmetered": {"metered": False},
    "trusted, unmetered": {"sandbox": False, "metered": False},
}


@pytest.fixture(params=TIERS)
def tier(request):
    """A tier in native code."""
    if request.param == "llvm":
        pytest.importorskip("llvmlite")
    return TIERS[request.param]


@pytest.fixture(params=MODES)
def mode(request):
    """What code of the tier leaves out."""
    return MODES[request.param]


def compared(outcome: tuple[Any, ...], mode: dict[str, bool]) -> tuple[Any, ...]:
    """What has to be equal: what is counted only where it is."""
    result, _, memory, *seen = outcome
    if mode.get("metered", True):
        return outcome
    # What helpers have seen is in pairs: one with what was left and what had run (World.helper), and the registers.
    rows = [row[:5] + row[7:] if at % 2 == 0 else row for at, row in enumerate(*seen)] if seen else []
    return result, memory, rows


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_programs_that_do_no_wrong_come_to_the_same(tier, mode, byteorder):
    """A program that runs to its end in the interpreter has the same outcome without checks, and without a meter."""

    @settings(settings.get_profile("mutations"))
    @given(faultless_programs(byteorder), st.tuples(values, values, values))
    def check(program, arguments):
        world = World(tier(may_goto_limit=MAY_GOTO_LIMIT, **mode))
        code = Code(decode(program, byteorder), "random")
        expected = world.interpreted(code, arguments, BUDGET)
        if isinstance(expected[0], int) and not world.caught:
            found = world.outcome(code, arguments, BUDGET)
            assert compared(found, mode) == compared(expected, mode)
        world.close()

    check()


def test_packet_programs_that_do_no_wrong_come_to_the_same(tier, mode):
    """So has a program that walks a packet and looks up maps."""

    @settings(settings.get_profile("mutations"))
    @given(st.data())
    def check(data):
        world = PacketWorld(tier(may_goto_limit=MAY_GOTO_LIMIT, **mode), XdpContext)
        world.take_maps()
        code = Code(decode(data.draw(packet_programs(XdpContext, world.map.address))), "random")
        expected = world.interpreted(code, 0, BUDGET)
        if isinstance(expected[0], int):
            assert compared(world.outcome(code, 0, BUDGET), mode) == compared(expected, mode)
        world.close()

    check()


def test_packet_programs_with_lookups_in_machine_code_come_to_the_same():
    """With the lookup of the project itself, whose code LLVM sees, any packet program has the interpreter's outcome."""
    pytest.importorskip("llvmlite")

    @settings(settings.get_profile("mutations"))
    @given(st.data(), st.integers(0, 300))
    def check(data, budget):
        world = PacketWorld(llvm_machine(may_goto_limit=MAY_GOTO_LIMIT), XdpContext)
        world.take_maps()
        world.machine.helpers[LOOKUP] = HelperTable(Host(world.maps)).by_number[LOOKUP]
        code = Code(decode(data.draw(packet_programs(XdpContext, world.map.address))), "random")
        expected = world.interpreted(code, 0, budget)
        assert world.outcome(code, 0, budget) == expected
        world.close()

    check()


def test_any_instruction_can_be_the_first(tier, mode):
    """A program of one instruction of any arithmetic form comes to what the interpreter says, in every mode."""
    for form in FORMS:
        if form.family in (Family.ARITHMETIC, Family.BYTE_ORDER) and not form.refused:
            program = [slot_of(form, dst=1, src=2, imm=-1), (0xBF, 0, 1, 0, 0), (0x95, 0, 0, 0, 0)]
            code = Code(decode(encode(program)), form.name)
            for second in (3, 0, (1 << 64) - 1):
                expected = Interpreter().run(code, 1 << 63, second)
                assert tier(**mode).run(code, 1 << 63, second) == expected
