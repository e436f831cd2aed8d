"""Hooks see every instruction of a run, and coverage becomes an lcov file."""

import numpy as np
import pytest

from jitlink.bpf.assembler import assemble
from jitlink.bpf.instructions import decode
from jitlink.bpf.interpreter import Interpreter
from jitlink.bpf.machine import Code
from jitlink.bpf.observation import Coverage, Trace, lcov, together

TEXT = """
    r0 = 1 ll
    if r1 == 0 goto out
    call f
    r0 += 1
out:
    exit
f:  r0 = 5
    exit
"""


@pytest.fixture
def code():
    return Code(decode(assemble(TEXT)), "xdp_main")


def test_trace_lists_every_instruction_with_its_registers(code):
    """A trace has a step for each instruction that ran, with the registers before it, in order."""
    trace = Trace()
    assert Interpreter(hook=trace).run(code, 7) == 6
    assert [pc for _, pc, _ in trace.steps] == [0, 2, 3, 6, 7, 4, 5]
    assert [registers[0] for *_, registers in trace.steps] == [0, 1, 1, 1, 5, 5, 6]
    assert all(of is code for of, *_ in trace.steps)


def test_trace_keeps_the_first_steps(code):
    """A trace with a limit keeps that many steps and no more."""
    trace = Trace(limit=3)
    Interpreter(hook=trace).run(code, 7)
    assert [pc for _, pc, _ in trace.steps] == [0, 2, 3]


def test_coverage_counts_over_runs(code):
    """Coverage counts every instruction over all runs; a second slot never runs."""
    coverage = Coverage()
    machine = Interpreter(hook=coverage)
    machine.run(code, 7)
    machine.run(code, 0)
    assert coverage.programs == [code]
    assert coverage.counts(code).tolist() == [2, 0, 2, 1, 1, 2, 1, 1]
    assert coverage.counts(Code(code.instructions)).tolist() == [0] * 8


def test_coverage_of_a_tail_call_is_that_of_both_programs(code):
    """Each program of a run has its own counts."""
    coverage = Coverage()
    first = Code(decode(assemble("r1 = 0\ncall 12\nexit")))
    machine = Interpreter(hook=coverage, helpers={12: lambda machine, *arguments: machine.tail_call(code)})
    assert machine.run(first) == 1
    assert coverage.counts(first).tolist() == [1, 1, 0]
    assert coverage.counts(code).tolist() == [1, 0, 1, 0, 0, 1, 0, 0]


def test_hooks_run_together_in_order(code):
    """together calls all its hooks before every instruction, in the order given."""
    seen = []
    hook = together(lambda machine: seen.append(("a", machine.pc)), lambda machine: seen.append(("b", machine.pc)))
    Interpreter(hook=hook).run(code, 0)
    assert seen == [(name, pc) for pc in (0, 2, 5) for name in "ab"]


def test_hook_can_stop_a_run(code):
    """An exception of a hook ends the run and comes out."""

    def stop(machine):
        if machine.pc == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        Interpreter(hook=stop).run(code)


LINES = {0: ("a.c", 10), 2: ("a.c", 11), 3: ("a.c", 11), 4: ("a.c", 12), 5: ("a.c", 13), 6: ("b.h", 3)}


def test_lcov_counts_lines_by_file(code):
    """A line has run as often as its most frequent instruction; files come sorted, each as one record."""
    counts = np.array([2, 0, 2, 1, 0, 2, 1, 1])
    text = lcov(counts, code, LINES.get, functions=[("xdp_main", 0), ("f", 6), ("unknown", 7)], test="drops")
    assert text == (
        "TN:drops\nSF:a.c\nFN:10,xdp_main\nFNDA:2,xdp_main\nFNF:1\nFNH:1\n"
        "DA:10,2\nDA:11,2\nDA:12,0\nDA:13,2\nLF:4\nLH:3\nend_of_record\n"
        "TN:drops\nSF:b.h\nFN:3,f\nFNDA:1,f\nFNF:1\nFNH:1\nDA:3,1\nLF:1\nLH:1\nend_of_record\n"
    )


def test_lcov_without_lines_is_empty(code):
    """A program without a line table has no records."""
    assert lcov(np.zeros(8, np.int64), code, lambda index: None) == ""
