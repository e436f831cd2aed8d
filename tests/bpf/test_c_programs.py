"""C programs give what the same C code gives natively, at every optimisation level and every -mcpu.

The oracle is the same source, compiled for this machine by the same compiler and called through ctypes.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path

import pytest

from jitlink import bpf
from tests import toolchain
from tests.bpf.machines import TIERS

SOURCES = Path(__file__).parent / "programs"
FUNCTIONS = {
    "arithmetic": ("mixed", "compared", "swapped"),
    "memory": ("sorted", "walked"),
    "calls": ("called",),
}
ARGUMENTS = [
    (0, 0),
    (1, 2),
    (2**63, 2**63 - 1),
    (2**64 - 1, 1),
    (0xFFFF_FFFF, 0x1_0000_0000),
    (0x8000_0000, 0x7FFF_FFFF),
    (0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210),
    (7, 2**64 - 3),
]
TARGETS = {"little": "bpfel-freestanding", "big": "bpfeb-freestanding"}

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the oracle is a shared library of 64-bit Linux",
)


@cache
def native(source: str) -> ctypes.CDLL:
    """The functions of a source, compiled for this machine; its variables live as long as the tests."""
    machine_code = toolchain.zig_cc((SOURCES / f"{source}.c").read_text(), "-O1", target=toolchain.NATIVE_TARGET)
    return ctypes.CDLL(str(toolchain.link_shared([machine_code])))


@cache
def expected(source: str) -> list[int]:
    """What the machine answers, in order: programs with variables remember the calls before."""
    library = native(source)
    answers = []
    for name in FUNCTIONS[source]:
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_uint64, [ctypes.c_uint64] * 2
        answers += [function(*arguments) for arguments in ARGUMENTS]
    return answers


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("cpu", ["v1", "v2", "v3", "v4"])
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2"])
@pytest.mark.parametrize("source", list(FUNCTIONS))
def test_a_c_program_computes_what_it_computes_natively(source, level, cpu, order, tier):
    """Every function gives the machine's own result for the same arguments, in either byte order."""
    text = (SOURCES / f"{source}.c").read_text()
    machine_code = toolchain.zig_cc(text, level, f"-mcpu={cpu}", target=TARGETS[order])
    loaded = bpf.load_object(machine_code, tier=tier)
    answers = [loaded[name].call(*arguments) for name in FUNCTIONS[source] for arguments in ARGUMENTS]
    assert answers == expected(source)
