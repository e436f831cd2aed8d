"""SBPF in native code does what the interpreter does: results, faults, units, registers, memory, what syscalls see.

JITLINK_MUTATIONS=N is how many programs each test tries.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitlink.bpf.sbpf.llvm import bodies, functions, modules
from jitlink.errors import MalformedInput
from tests.bpf.machines import needs_native_code
from tests.bpf.sbpf_machines import machine_of, outcome
from tests.bpf.sbpf_programs import VERSIONS, arguments, budgets, inputs, programs

runs_of_one = st.lists(st.tuples(inputs, arguments, budgets), min_size=2, max_size=2)
FEWER = 10
"""LLVM takes this much longer for a program, and so do emulated CPUs: they get as many fewer."""
EMULATED = [f"{target}{way}" for target in ("aarch64", "riscv64") for way in ("", " hardened")]


def check(tier, version, fewer=1):
    """Compare a tier with the interpreter, in two runs of each program."""
    profile = settings.get_profile("mutations")

    @settings(profile, max_examples=max(profile.max_examples // fewer, 5))
    @given(
        programs(version), st.lists(st.tuples(inputs, arguments, budgets), min_size=2, max_size=2), st.integers(0, 99)
    )
    def compare(file, runs, seed):
        try:
            machines = [machine_of(each, file, seed) for each in ("interpreter", tier)]
        except MalformedInput:
            return
        for data, registers, budget in runs:
            expected, found = (outcome(machine, data, registers, budget) for machine in machines)
            assert found == expected

    compare()


@needs_native_code
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tier", ["jit", "jit hardened"])
def test_any_program_comes_to_the_same_in_one_pass_code(tier, version):
    """A random program, verified or not, has the interpreter's outcome in one-pass code."""
    check(tier, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tier", EMULATED)
def test_any_program_comes_to_the_same_on_other_machines(tier, version):
    """So it has in the code for AArch64 and RISC-V, in the emulated CPU."""
    pytest.importorskip("unicorn", reason="the emulated CPU is unicorn")
    check(tier, version, FEWER)


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "in parts"])
@pytest.mark.parametrize("version", VERSIONS)
def test_any_program_comes_to_the_same_in_the_optimising_tier(version, parts, monkeypatch):
    """So it has in LLVM's code, also where functions are cut into parts and checks are not inline, as in large ones."""
    pytest.importorskip("llvmlite", reason="the tier llvm needs llvmlite")
    if parts:
        monkeypatch.setattr(functions, "LONGEST_BLOCK", 2)
        monkeypatch.setattr(bodies, "LONGEST_PART", 4)
        monkeypatch.setattr(modules, "INLINE_AT_MOST", 1)
    check("llvm", version, FEWER)
