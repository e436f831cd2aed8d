"""x86-64: the routines that every program brings along, and the registers that they and it agree on.

    enter           a C function: starts a run (see jitlink.bpf.jit.abi)
    fault           leaves; called, so that the return address says from where
    out_of_budget   leaves
    outside         gives an instruction to the callback, and goes on as it says
    native_helper   calls the helper whose address is in r11
    search          finds the region of an access, and keeps it in a site
    forget          clears the sites

Inside a BPF function the host's stack is 8 bytes past a multiple of 16, as in any C function; in a routine
that it calls it is at a multiple, and a C function can be called at once.
"""

from __future__ import annotations

from functools import cache

from jitlink.bpf.isa import STACK_SIZE
from jitlink.bpf.jit.abi import FRAME_STRIDE, OFFSET, REGION, SITE_SIZE, SITES, SIZES, STACK_BYTES, Status
from jitlink.bpf.jit.backend import SIZE_SHIFT, WRITE_SHIFT, Runtime
from jitlink.bpf.jit.templates import Operand
from jitlink.bpf.jit.x86_64_assembler import (
    CONDITIONS,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    Assembler,
    Memory,
)
from jitlink.bpf.machine import POISON

BIAS = 128
BPF_REGISTERS = (RAX, RDI, RSI, RDX, RCX, R8, RBX, R13, R14, R15, RBP)
SAVED = (RBX, R13, R14, R15)
"""r6 to r9."""
BUDGET, RECORD = R9, R12
PUSHED = (RAX, RCX, RDX, RSI, RDI)
"""What a search works with."""
_COLUMN = {name: 8 * number for number, name in enumerate(REGION.names or ())}
"""Where each column of a row of the table of regions lies."""
KEPT_BY_C = (RBX, RBP, R12, R13, R14, R15)


def field(name: str | Operand, within: int = 0, *, size: int = 4) -> Memory:
    """The place of a field of the record, or of one whose displacement is an operand of size bytes."""
    if isinstance(name, Operand):
        return Memory(RECORD, name, size)
    return Memory(RECORD, OFFSET[name] + within - BIAS)


@cache
def runtime() -> Runtime:
    """Write all routines."""
    return Routines().write()


class Routines(Assembler):
    """Writes the routines one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, int] = {}

    def write(self) -> Runtime:
        """Write them all."""
        self._enter()
        self._stops()
        self._keep()
        self._search()
        self._outside()
        self._native_helper()
        self._forget()
        return Runtime(self, self.entries)

    def _begin(self, name: str) -> None:
        self.entries[name] = len(self.code)

    def _go(self, name: str, condition: str = "") -> None:
        """Jump to a routine that is written already."""
        self._long_jump(self.entries[name], condition)

    def _long_jump(self, to: int, condition: str = "") -> None:
        self.code += bytes((0x0F, 0x80 | CONDITIONS[condition])) if condition else b"\xe9"
        self.word(to - len(self.code) - 4, 4)

    def _store_all(self) -> None:
        for number, register in enumerate(BPF_REGISTERS):
            self.store(field("registers", 8 * number), register)
        self.store(field("budget"), BUDGET)

    def _load_all(self) -> None:
        for number, register in enumerate(BPF_REGISTERS):
            self.load(register, field("registers", 8 * number))
        self.load(BUDGET, field("budget"))

    def _enter(self) -> None:
        self._begin("enter")
        for register in KEPT_BY_C:
            self.push(register)
        self.address(RECORD, Memory(RDI, BIAS))
        self.push_from(field("stack_pointer"))
        self.store(field("stack_pointer"), RSP)
        self.move(R11, RSI)
        self.load(RCX, field("stack_to_clear"))
        self.test(RCX, RCX)
        clear = self.skip("e")
        self.load(RDI, field("stack"))
        self.constant(RAX, 0)
        self.code += b"\xf3\x48\xab"  # rep stosq
        self.store(field("stack_to_clear"), RCX)
        self.land(clear)
        self._load_all()
        self.call_register(R11)
        self._begin("stop")
        self._store_all()
        self._begin("leave")
        self.load(RSP, field("stack_pointer"))
        self.pop_to(field("stack_pointer"))
        for register in reversed(KEPT_BY_C):
            self.pop(register)
        self.ret()

    def _stops(self) -> None:
        """Leave at the place that is on the stack."""
        for status in (Status.FAULT, Status.OUT_OF_BUDGET):
            self._begin(status.name.lower())
            self.pop(R11)
            self.store(field("place"), R11)
            self.move_signed(field("status"), status)
            self._go("stop")

    def _outside(self) -> None:
        self._begin("outside")
        self.load(R11, Memory(RSP))
        self.store(field("place"), R11)
        self._store_all()
        self.address(RDI, Memory(RECORD, -BIAS))
        self.call_at(field("callback"))
        self.load(R11, field("status"))
        self.test(R11, R11)
        special = self.skip("ne")
        self._load_all()
        self.ret()
        self.land(special)
        self.alu_immediate("cmp", R11, Status.CONTINUE, 1)
        self._go("leave", "a")
        self.move_signed(field("status"), Status.RUNNING)
        self._load_all()
        # Drop the return address; the flags are still those of the comparison.
        self.address(RSP, Memory(RSP, 8))
        goes_on = self.skip("e")
        self.ret()
        self.land(goes_on)
        self.jump_to(field("target"))

    def _native_helper(self) -> None:
        self._begin("native_helper")
        # The C function need not keep them, and the helper in Python may have to do with the same ones.
        for number, register in enumerate(BPF_REGISTERS[:6]):
            self.store(field("registers", 8 * number), register)
        self.store(field("budget"), BUDGET)
        self.load(R10, Memory(RSP))
        self.store(field("place"), R10)
        self.address(R9, Memory(RECORD, -BIAS))
        self.call_register(R11)
        self.load(BUDGET, field("budget"))
        self.alu_immediate("cmp", field("status"), Status.RUNNING, 1)
        declined = self.skip("ne")
        self.constant(RDI, POISON)
        for register in BPF_REGISTERS[2:6]:
            self.move(register, RDI)
        self.ret()
        self.land(declined)
        for number, register in enumerate(BPF_REGISTERS[:6]):
            self.load(register, field("registers", 8 * number))
        self.move_signed(field("status"), Status.RUNNING)
        self._go("outside")

    def _forget(self) -> None:
        self._begin("forget")
        self.move_signed(field("stack_kept"), 0)
        self.address(R10, field("sites"))
        self.constant(R11, SITES)
        again = len(self.code)
        for number in range(len(SIZES)):
            self.move_signed(Memory(R10, 8 + 8 * number), 0)
        self.alu_immediate("add", R10, SITE_SIZE, 1)
        self.alu_immediate("sub", R11, 1, 1)
        self.back(again, "ne")
        self.ret()

    def _search(self) -> None:
        """r10: the address; r11: what SEARCH says of the access. Changes no other register."""
        self._begin("search")
        for register in PUSHED:
            self.push(register)
        # rax: the size of the access.
        self.move(RAX, R11, False)
        self.shift("rsh", RAX, SIZE_SHIFT, False)
        self.op(b"\x0f\xb6", RAX, RAX, False)
        self.move(RCX, R10)
        self.alu("sub", RCX, field("stack"))
        self.alu_immediate("cmp", RCX, STACK_BYTES, 4)
        elsewhere = self.skip("ae")
        self._end_search(self._search_stack())
        self.land(elsewhere)
        self._end_search(self._search_regions())

    def _end_search(self, fails: list[int]) -> None:
        """Keep what was found; where the search has failed, leave."""
        self._go("keep")
        self.land(*fails)
        self._pop_pushed()
        self._go("fault")

    def _pop_pushed(self) -> None:
        for register in reversed(PUSHED):
            self.pop(register)

    def _search_stack(self) -> list[int]:
        """rcx: the distance from the start of the stack. Leaves in rdi and rdx where the frame starts, and its size."""
        self.alu("cmp", R10, field("frame"))
        fails = [self.skip("ae")]
        self.move(RDX, RCX)
        self.alu_immediate("and", RDX, FRAME_STRIDE - 1, 4)
        self.alu_immediate("cmp", RDX, STACK_SIZE, 4)
        fails.append(self.skip("b"))
        self.address(RSI, Memory(RDX, 0, index=RAX))
        self.alu_immediate("cmp", RSI, FRAME_STRIDE, 4)
        fails.append(self.skip("a"))
        self.address(RDI, Memory(R10, STACK_SIZE))
        self.alu("sub", RDI, RDX)
        self.alu_immediate("cmp", RCX, FRAME_STRIDE, 4)
        first = self.skip("b")
        self.move_signed(field("stack_kept"), 1)
        self.land(first)
        self.constant(RDX, STACK_SIZE)
        return fails

    def _search_regions(self) -> list[int]:
        """Find the last row that starts at or below the address, by halving. Leaves rdi and rdx as above."""
        row = REGION.itemsize
        self.load(RSI, field("regions"))
        self.load(RCX, field("region_count"))
        loop = len(self.code)
        self.test(RCX, RCX)
        end = self.skip("e")
        self.move(RDX, RCX)
        self.shift("rsh", RDX, 1)
        self.op(0x6B, RDI, RDX)
        self.word(row, 1)
        self.alu("add", RDI, RSI)
        self.alu("cmp", R10, Memory(RDI))
        below = self.skip("b")
        self.address(RSI, Memory(RDI, row))
        self.alu("sub", RCX, RDX)
        self.alu_immediate("sub", RCX, 1, 1)
        self.back(loop)
        self.land(below)
        self.move(RCX, RDX)
        self.back(loop)
        self.land(end)
        self.alu("cmp", RSI, field("regions"))
        fails = [self.skip("e")]
        self.load(RDI, Memory(RSI, _COLUMN["address"] - row))
        self.load(RDX, Memory(RSI, _COLUMN["size"] - row))
        self.move(RCX, RDX)
        self.alu("sub", RCX, RAX)
        fails.append(self.skip("b"))
        self.move(RAX, R10)
        self.alu("sub", RAX, RDI)
        self.alu("cmp", RAX, RCX)
        fails.append(self.skip("a"))
        self.group3(0, R11, False)
        self.word(1 << WRITE_SHIFT, 4)
        reads = self.skip("e")
        self.alu_immediate("cmp", Memory(RSI, _COLUMN["writable"] - row), 0, 1)
        fails.append(self.skip("e"))
        self.land(reads)
        return fails

    def _keep(self) -> None:
        """The end of a search. rdi, rdx: where the region starts, and its size; the site is in the low bits of r11."""
        self._begin("keep")
        self.op(b"\x0f\xb7", R11, R11, False)
        self.address(R11, Memory(RECORD, -BIAS, index=R11))
        self.store(Memory(R11), RDI)
        for number, size in enumerate(SIZES):
            self.move(RAX, RDX)
            self.alu_immediate("sub", RAX, size - 1, 1)
            fits = self.skip("ae")
            self.constant(RAX, 0)
            self.land(fits)
            self.store(Memory(R11, 8 + 8 * number), RAX)
        self._pop_pushed()
        self.ret()


# cpuid, leaf 7: the host's extensions; the answer is in ebx, which C functions keep.
_ASK = bytes.fromhex("5331c9b8070000000fa289d85bc3")
_BMI2 = 1 << 8


@cache
def has_bmi2() -> bool:
    """Whether the processor has BMI2 (Intel SDM volume 2, CPUID)."""
    import ctypes

    from jitlink.memory import Protection, page_size, reserve

    with reserve(page_size()) as reservation:
        segment = reservation.commit(0, page_size(), Protection.READ | Protection.EXECUTE)
        segment.working[: len(_ASK)] = list(_ASK)
        segment.seal()
        return bool(ctypes.CFUNCTYPE(ctypes.c_uint32)(segment.address)() & _BMI2)
