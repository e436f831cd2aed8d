"""Helpers that users give as C functions, and the contract between programs and any helper in machine code."""

from __future__ import annotations

import ctypes
import gc
import struct
from collections.abc import Iterator
from typing import Any

import pytest

import jitlink
from jitlink import bpf
from jitlink.bpf.faults import BpfFault
from jitlink.bpf.helpers import NativeHelper
from jitlink.bpf.instructions import decode
from jitlink.bpf.jit.abi import OFFSET, Status
from jitlink.bpf.jit.compiler import Plan
from jitlink.bpf.jit.machine import NativeMachine
from jitlink.bpf.machine import POISON, Code
from jitlink.memory import Protection, page_size, reserve
from tests.bpf.machines import needs_native_code, shapes

pytest.importorskip("llvmlite")
pytestmark = needs_native_code

WEIGH = b"""
define i64 @weigh(i64 %a, i64 %b, i64 %c, i64 %d, i64 %e) {
  %b10 = mul i64 %b, 10
  %c100 = mul i64 %c, 100
  %d1000 = mul i64 %d, 1000
  %e10000 = mul i64 %e, 10000
  %ab = add i64 %a, %b10
  %abc = add i64 %ab, %c100
  %abcd = add i64 %abc, %d1000
  %all = add i64 %abcd, %e10000
  ret i64 %all
}
"""
# mov qword [r9 + status], DECLINED; mov rax, -1; and that into rdi, rsi, rdx, rcx, r8 to r11; ret.
SPOIL = (
    b"\x49\xc7\x81"
    + struct.pack("<2i", OFFSET["status"], Status.DECLINED)
    + bytes.fromhex("48c7c0ffffffff 4889c7 4889c6 4889c2 4889c1 4989c0 4989c1 4989c2 4989c3 c3")
)
"""Declines, and leaves nothing in the registers that a C function need not keep (System V ABI, 3.2.1)."""
CALL = """
    r0 = 70
    r2 = 2
    r3 = 3
    r4 = 4
    r5 = 5
    r6 = 60
    call 200
    r0 += r6
    r7 = r5
    r0 ^= r7
    exit
"""
TIERS = ["interpreter", "jit", "llvm"]


@pytest.mark.parametrize("tier", TIERS)
def test_a_c_function_that_was_linked_is_a_helper(tier):
    """Every tier calls a C function with r1 to r5 and takes r0 from it; its library stays as long as the program."""
    library = jitlink.load(WEIGH)
    helper = NativeHelper(library["weigh"])
    program = bpf.load(bpf.assemble(CALL), tier=tier, helpers={200: helper}, cache=False)
    del library
    gc.collect()
    assert program.call(1) == (54321 + 60) ^ POISON
    assert "weigh" in repr(helper)


@pytest.mark.parametrize("tier", TIERS)
def test_a_helper_is_replaced_by_a_c_function(tier):
    """A helper of the kernel's can be a C function too, also one that takes the place of one in Python later."""
    program = bpf.load(bpf.assemble("r1 = 1\nr2 = 0\nr3 = 0\nr4 = 0\nr5 = 0\ncall 7\nexit"), tier=tier, cache=False)
    program.helper("get_prandom_u32")(lambda machine: 5)
    assert program.call() == 5
    program.helper("get_prandom_u32")(NativeHelper(jitlink.load(WEIGH)["weigh"]))
    assert program.call() == 1
    program.helper("get_prandom_u32")(lambda machine: 6)
    assert program.call() == 6


@pytest.mark.parametrize("tier", ["jit", "llvm"])
@pytest.mark.parametrize("sandbox", [True, False])
def test_a_c_function_is_called_without_python(tier, sandbox):
    """Native code calls the function itself: nothing passes through the machine's callback."""
    called: list[int] = []

    @ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5)
    def function(*registers):
        called.append(1)
        return 9

    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    program = bpf.load(
        bpf.assemble(CALL), tier=tier, sandbox=sandbox, helpers={200: NativeHelper(address)}, cache=False
    )
    machine: Any = program.object.machine
    machine.outside = lambda: called.append(2)
    assert program.call(1) == (9 + 60) ^ POISON
    assert called == [1]


@pytest.fixture
def spoil() -> Iterator[int]:
    """The address of SPOIL in memory."""
    with reserve(page_size()) as reservation:
        segment = reservation.commit(0, page_size(), Protection.READ | Protection.EXECUTE)
        segment.working[: len(SPOIL)] = list(SPOIL)
        segment.seal()
        yield segment.address


def spoiling_machine(tier: str, spoil: int, helper: Any) -> NativeMachine:
    """A machine whose helper 200 in machine code declines, and is in Python as given."""
    from jitlink.bpf.llvm_tier.machine import LlvmMachine

    return (LlvmMachine if tier == "llvm" else NativeMachine)(
        shapes(), Plan(helpers={200: spoil}), helpers={200: helper}
    )


@pytest.mark.parametrize("tier", ["jit", "llvm"])
def test_where_a_helper_declines_python_sees_the_registers_of_the_call(tier, spoil):
    """What the C function has left in registers is nothing to the helper in Python, nor to the program behind it."""
    seen = []

    def helper(machine: Any, *registers: int) -> int:
        seen.append((registers, tuple(machine.registers[:7]), machine.budget_left))
        return 40

    machine = spoiling_machine(tier, spoil, helper)
    code = Code(decode(bpf.assemble(CALL)), "call")
    assert machine.run(code, 1, budget=100) == (40 + 60) ^ POISON
    assert seen == [((1, 2, 3, 4, 5), (70, 1, 2, 3, 4, 5, 60), 93)]
    assert machine.instructions == 11


@pytest.mark.parametrize("tier", ["jit", "llvm"])
def test_the_fault_of_a_helper_that_declines_is_the_interpreters(tier, spoil):
    """Text, instruction and count of a fault are those of the interpreter, with the registers of the call."""

    def helper(machine: Any, *registers: int) -> int:
        return int.from_bytes(machine.read(registers[1] + registers[4], 8))

    machine = spoiling_machine(tier, spoil, helper)
    code = Code(decode(bpf.assemble(CALL)), "call")
    faults = []
    for hook in (None, lambda machine: None):
        machine.hook = hook
        with pytest.raises(BpfFault) as raised:
            machine.run(code, 1)
        faults.append((str(raised.value), raised.value.pc, raised.value.address, machine.instructions))
    assert faults[0] == faults[1]
    assert faults[0][2] == 7


@pytest.mark.parametrize("tier", ["jit", "llvm"])
def test_a_helper_that_declines_may_call_back(tier, spoil):
    """The helper in Python in the place of one that declines can call functions of the program, as any other."""
    text = "r1 = code_addr(f)\nr6 = 1\ncall 200\nr0 += r6\nexit\nf: r0 = 30\nexit"
    machine = spoiling_machine(tier, spoil, lambda machine, function, *rest: machine.call_function(function) + 10)
    assert machine.run(Code(decode(bpf.assemble(text)), "call")) == 41
