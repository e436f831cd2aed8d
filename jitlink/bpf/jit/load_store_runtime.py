"""The routines that every program brings along, for load-store machines.

    enter           a C function: starts a run (see jitlink.bpf.jit.abi)
    fault           leaves; LINK says from where
    out_of_budget   leaves
    outside         gives an instruction to the callback, and goes on as it says
    native_helper   calls the helper whose address is in the first scratch register
    search          finds the region of an access, and keeps it in a site
    forget          clears the sites

All but the first are called with LINK, and change nothing but LINK and scratch registers, except what they are
there to change. The stack pointer is a multiple of 16 throughout.
"""

from __future__ import annotations

from jitlink.bpf.isa import STACK_SIZE
from jitlink.bpf.jit.abi import FRAME_STRIDE, OFFSET, REGION, SITE_SIZE, SITES, SIZES, STACK_BYTES, Status
from jitlink.bpf.jit.backend import SIZE_SHIFT, WRITE_SHIFT, Runtime
from jitlink.bpf.jit.load_store import SLOT, STACK_UNIT, LoadStoreAssembler
from jitlink.bpf.machine import POISON

_COLUMN = {name: 8 * number for number, name in enumerate(REGION.names or ())}
"""Where each column of a row of the table of regions lies."""
_BOUNDS = 8
"""Where the bounds begin in a site."""
_FRAME_BITS = FRAME_STRIDE.bit_length() - 1
_SITE_BITS = 16


class Routines(LoadStoreAssembler):
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

    def _go(self, name: str) -> None:
        """Jump to a routine that is written already."""
        self.jump_here(self.entries[name] - len(self.code))

    def _push(self, *registers: int) -> None:
        """Put registers on the stack."""
        self.add_number(self.STACK, self.STACK, -_room(len(registers)))
        for number, register in enumerate(registers):
            self.store(register, self.STACK, SLOT * number)

    def _pop(self, *registers: int) -> None:
        """Take registers from the stack."""
        for number, register in enumerate(registers):
            self.load(register, self.STACK, SLOT * number)
        self.add_number(self.STACK, self.STACK, _room(len(registers)))

    def _store_all(self) -> None:
        for number, register in enumerate(self.BPF):
            self.store_record(register, "registers", 8 * number)
        self.store_record(self.BUDGET, "budget")

    def _load_all(self) -> None:
        for number, register in enumerate(self.BPF):
            self.load_record(register, "registers", 8 * number)
        self.load_record(self.BUDGET, "budget")

    def _enter(self) -> None:
        a, b, c = self.SCRATCH[:3]
        self._begin("enter")
        # The last place is for the stack pointer of an outer run.
        self._push(*self.KEPT, self.RETURN, self.ZERO)
        outer = SLOT * (len(self.KEPT) + 1)
        self.load(a, self.ARGUMENTS[0], OFFSET["stack_pointer"])
        self.store(a, self.STACK, outer)
        self.move(self.RECORD, self.ARGUMENTS[0])
        self.add_number(a, self.STACK, 0)
        self.store_record(a, "stack_pointer")
        self.move(c, self.ARGUMENTS[1])
        self.load_record(a, "stack_to_clear")
        clear = self.skip("eq", a, self.ZERO)
        self.load_record(b, "stack")
        again = len(self.code)
        self.store(self.ZERO, b)
        self.add_number(b, b, 8)
        self.add_number(a, a, -1)
        self.back(again, "ne", a, self.ZERO)
        self.store_record(a, "stack_to_clear")
        self.land(clear)
        self._load_all()
        self.call_register(c)
        self._begin("stop")
        self._store_all()
        self._begin("leave")
        self.load_record(a, "stack_pointer")
        self.add_number(self.STACK, a, 0)
        self.load(a, self.STACK, outer)
        self.store_record(a, "stack_pointer")
        self._pop(*self.KEPT, self.RETURN)
        self.ret()

    def _stops(self) -> None:
        """Leave at the place that is in LINK."""
        a = self.SCRATCH[0]
        for status in (Status.FAULT, Status.OUT_OF_BUDGET):
            self._begin(status.name.lower())
            self.store_record(self.LINK, "place")
            self.constant(a, status)
            self.store_record(a, "status")
            self._go("stop")

    def _outside(self) -> None:
        a, b = self.SCRATCH[:2]
        self._begin("outside")
        self.store_record(self.LINK, "place")
        self._store_all()
        self._push(self.LINK, self.RETURN)
        self.move(self.ARGUMENTS[0], self.RECORD)
        self.load_record(a, "callback")
        self.call_register(a)
        self._pop(self.LINK, self.RETURN)
        self.load_record(a, "status")
        special = self.skip("ne", a, self.ZERO)
        self._load_all()
        self.jump_register(self.LINK)
        self.land(special)
        self.constant(b, Status.CONTINUE)
        stays = self.skip("ls", a, b)
        self._go("leave")
        self.land(stays)
        self.store_record(self.ZERO, "status")
        self._load_all()
        goes_on = self.skip("eq", a, b)
        self.ret()
        self.land(goes_on)
        self.load_record(a, "target")
        self.jump_register(a)

    def _native_helper(self) -> None:
        a, b = self.SCRATCH[:2]
        # The C function need not keep them, and the helper in Python may have to do with the same ones.
        kept = self.LINK, self.RETURN, *self.BPF[:6]
        self._begin("native_helper")
        self.store_record(self.BUDGET, "budget")
        self.store_record(self.LINK, "place")
        self._push(*kept)
        self.move(self.ARGUMENTS[5], self.RECORD)
        self.call_register(a)
        self.load_record(self.BUDGET, "budget")
        self.move(a, self.RESULT)
        self.load_record(b, "status")
        self._pop(*kept)
        declined = self.skip("ne", b, self.ZERO)
        self.move(self.BPF[0], a)
        self.constant(self.BPF[1], POISON)
        for register in self.BPF[2:6]:
            self.move(register, self.BPF[1])
        self.jump_register(self.LINK)
        self.land(declined)
        self.store_record(self.ZERO, "status")
        self._go("outside")

    def _forget(self) -> None:
        a, b = self.SCRATCH[:2]
        self._begin("forget")
        self.store_record(self.ZERO, "stack_kept")
        self.add_number(a, self.RECORD, OFFSET["sites"])
        self.constant(b, SITES)
        again = len(self.code)
        for number in range(len(SIZES)):
            self.store(self.ZERO, a, _BOUNDS + 8 * number)
        self.add_number(a, a, SITE_SIZE)
        self.add_number(b, b, -1)
        self.back(again, "ne", b, self.ZERO)
        self.jump_register(self.LINK)

    def _search(self) -> None:
        """First scratch register: the address; second one: what SEARCH says of the access."""
        address, said, size, distance, bound, start, length, _ = self.SCRATCH
        self._begin("search")
        self.shift_right(size, said, SIZE_SHIFT)
        self.low_bits(size, size, WRITE_SHIFT - SIZE_SHIFT)
        self.load_record(distance, "stack")
        self.subtract(distance, address, distance)
        self.constant(bound, STACK_BYTES)
        elsewhere = self.skip("hs", distance, bound)
        self._search_stack(address, size, distance, start, length, bound)
        self.land(elsewhere)
        self._search_regions()

    def _search_stack(self, address: int, size: int, distance: int, start: int, length: int, other: int) -> None:
        """distance: of the address from the start of the stack. Leaves where the frame starts, and its size."""
        self.load_record(other, "frame")
        fails = [self.skip("hs", address, other)]
        self.low_bits(length, distance, _FRAME_BITS)
        self.constant(other, STACK_SIZE)
        fails.append(self.skip("lo", length, other))
        self.subtract(start, address, length)
        self.add(start, start, other)
        self.add(length, length, size)
        self.constant(other, FRAME_STRIDE)
        fails.append(self.skip("hi", length, other))
        first = self.skip("lo", distance, other)
        # Any number but 0 says that the frame of a callee is kept.
        self.store_record(other, "stack_kept")
        self.land(first)
        self.constant(length, STACK_SIZE)
        self._go("keep")
        self.land(*fails)
        self._go("fault")

    def _search_regions(self) -> None:
        """Find the last row that starts at or below the address, by halving."""
        address, said, size, rows, middle, start, length, row = self.SCRATCH
        self.load_record(row, "regions")
        self.load_record(rows, "region_count")
        loop = len(self.code)
        end = self.skip("eq", rows, self.ZERO)
        self.shift_right(middle, rows, 1)
        # A row has 24 bytes.
        self.shift_left(length, middle, 1)
        self.add(length, length, middle)
        self.shift_left(length, length, 3)
        self.add(length, length, row)
        self.load(start, length, _COLUMN["address"])
        below = self.skip("lo", address, start)
        self.add_number(row, length, REGION.itemsize)
        self.subtract(rows, rows, middle)
        self.add_number(rows, rows, -1)
        self.jump_here(loop - len(self.code))
        self.land(below)
        self.move(rows, middle)
        self.jump_here(loop - len(self.code))
        self.land(end)
        self.load_record(start, "regions")
        fails = [self.skip("eq", row, start)]
        self.add_number(row, row, -REGION.itemsize)
        self.load(start, row, _COLUMN["address"])
        self.load(length, row, _COLUMN["size"])
        fails.append(self.skip("lo", length, size))
        self.subtract(middle, length, size)
        self.subtract(rows, address, start)
        fails.append(self.skip("hi", rows, middle))
        self.shift_right(middle, said, WRITE_SHIFT)
        reads = self.skip("eq", middle, self.ZERO)
        self.load(middle, row, _COLUMN["writable"])
        fails.append(self.skip("eq", middle, self.ZERO))
        self.land(reads)
        self._go("keep")
        self.land(*fails)
        self._go("fault")

    def _keep(self) -> None:
        """The end of a search, which has found where a region starts and its size."""
        _, said, bound, _, _, start, length, _ = self.SCRATCH
        self._begin("keep")
        self.low_bits(said, said, _SITE_BITS)
        self.add(said, said, self.RECORD)
        self.store(start, said)
        for number, size in enumerate(SIZES):
            self.add_number(bound, length, 1 - size)
            fits = self.skip("ls", bound, length)
            self.constant(bound, 0)
            self.land(fits)
            self.store(bound, said, _BOUNDS + 8 * number)
        self.jump_register(self.LINK)


def _room(registers: int) -> int:
    """Bytes that registers take on the stack, which keeps its alignment."""
    return -(-SLOT * registers // STACK_UNIT) * STACK_UNIT
