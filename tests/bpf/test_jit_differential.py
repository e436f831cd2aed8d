"""Native code does what the interpreter does: results, faults, counts, memory, and what helpers see.

JITLINK_MUTATIONS=N is how many programs each test tries. A tier that is new joins by a line in MACHINES.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.contexts import SkbContext, XdpContext
from jitlink.bpf.instructions import decode
from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.jit.hardening import Hardening
from jitlink.bpf.machine import Code
from tests.bpf.differential import PacketWorld, World, packet_programs, values
from tests.bpf.faultless import any_programs
from tests.bpf.machines import llvm_machine, native_machine, needs_native_code

MAY_GOTO_LIMIT = 5
MACHINES: dict[str, Callable[[int], Interpreter]] = {
    "jit": lambda seed: native_machine(may_goto_limit=MAY_GOTO_LIMIT),
    "jit hardened": lambda seed: native_machine(may_goto_limit=MAY_GOTO_LIMIT, hardening=Hardening(seed)),
    "llvm": lambda seed: llvm_machine(may_goto_limit=MAY_GOTO_LIMIT),
    "llvm, as a large program": lambda seed: llvm_machine(may_goto_limit=MAY_GOTO_LIMIT, most_inlined=0),
    "jit without BMI2": lambda seed: native_machine(may_goto_limit=MAY_GOTO_LIMIT, bmi2=False),
}
"""The machines that are compared, each made from a number at random."""

pytestmark = needs_native_code
budgets = st.integers(0, 300)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("name", list(MACHINES))
def test_any_program_comes_to_the_same(name, byteorder):
    """A random program has the interpreter's outcome, twice in a row, in either byte order."""

    @settings(settings.get_profile("mutations"))
    @given(any_programs(byteorder), st.tuples(values, values, values), budgets, st.integers(0, 1000))
    def check(program, arguments, budget, seed):
        world = World(MACHINES[name](seed))
        code = Code(decode(program, byteorder), "random")
        expected = world.interpreted(code, arguments, budget)
        assert world.outcome(code, arguments, budget) == expected
        assert world.outcome(code, arguments, budget) == expected
        world.close()

    check()


@pytest.mark.parametrize("context", [XdpContext, SkbContext], ids=lambda context: context.title)
@pytest.mark.parametrize("name", list(MACHINES))
def test_any_packet_program_comes_to_the_same(name, context):
    """So has a program that walks a packet and looks up maps: no proof says that an access is good which is not."""

    @settings(settings.get_profile("mutations"))
    @given(st.data(), st.sampled_from([0, 0, 0, 4, 1000]), budgets, st.integers(0, 1000))
    def check(data, lies, budget, seed):
        world = PacketWorld(MACHINES[name](seed), context)
        world.take_maps()
        code = Code(decode(data.draw(packet_programs(context, world.map.address))), "random")
        expected = world.interpreted(code, lies, budget)
        assert world.outcome(code, lies, budget) == expected
        assert world.outcome(code, 0, budget) == world.interpreted(code, 0, budget)
        world.close()

    check()
