"""The routines that programs whose addresses are translated bring along besides, on AArch64 and RISC-V.

    find             finds the region of an access, keeps it in a site, and translates the address
    native_syscall   calls the syscall whose address is in the first scratch register

They are called as those of BPF are, with LINK, and change scratch registers alone.
"""

from __future__ import annotations

from jitlink.bpf.jit.abi import SIZES
from jitlink.bpf.jit.backend import SIZE_SHIFT, WRITE_SHIFT, Runtime
from jitlink.bpf.jit.load_store_features import ROUTINE_BYTES
from jitlink.bpf.jit.load_store_runtime import Routines
from jitlink.bpf.sbpf.abi import OFFSET, WINDOW_SIZE, Status, Window
from jitlink.bpf.sbpf.jit.backend import NUMBER_SHIFT
from jitlink.bpf.sbpf.memory import FRAME_BITS, FRAME_SIZE, REGION_BITS, REGIONS

SPARE = 3
"""Which of the scratch registers is the spare one."""
WINDOW = {name: OFFSET["readable"] + getattr(Window, name).offset for name, _ in Window._fields_}
"""Where each field of the first window is in the record."""
_WINDOW_BITS = WINDOW_SIZE.bit_length() - 1
_SITE_BITS = 16


class TranslatingRoutines(Routines):
    """Writes BPF's routines, and these behind them."""

    def write(self) -> Runtime:
        """Write them all."""
        runtime = super().write()
        self._find()
        self._native_syscall()
        assert len(self.code) <= ROUTINE_BYTES
        return runtime

    def _find(self) -> None:
        """First scratch register: the address; second one: what FIND says. The result goes to the spare one."""
        address, said, size, have, host, distance, limit, other = self.SCRATCH
        self._begin("find")
        self.shift_right(size, said, SIZE_SHIFT)
        self.low_bits(size, size, WRITE_SHIFT - SIZE_SHIFT)
        self.shift_right(limit, address, REGION_BITS)
        self.constant(other, REGIONS)
        fails = [self.skip("hs", limit, other)]
        self.shift_left(limit, limit, _WINDOW_BITS)
        self.add(limit, limit, self.RECORD)
        self.shift_right(other, said, WRITE_SHIFT)
        self.low_bits(other, other, 1)
        reads = self.skip("eq", other, self.ZERO)
        self.add_number(limit, limit, OFFSET["writable"] - OFFSET["readable"])
        self.land(reads)
        self.low_bits(distance, address, REGION_BITS)
        self.load(other, limit, WINDOW["start"])
        self.subtract(distance, distance, other)
        self.load(have, limit, WINDOW["size"])
        self.load(host, limit, WINDOW["host"])
        self.load(other, limit, WINDOW["gapped"])
        self.move(limit, have)
        whole = self.skip("eq", other, self.ZERO)
        # Every other frame is a gap. In the host's memory frames lie side by side.
        self.shift_right(limit, distance, FRAME_BITS)
        self.low_bits(other, limit, 1)
        fails.append(self.skip("ne", other, self.ZERO))
        self.shift_left(limit, limit, FRAME_BITS - 1)
        fails.append(self.skip("hs", limit, have))
        self.subtract(have, have, limit)
        self.add(host, host, limit)
        self.low_bits(distance, distance, FRAME_BITS)
        self.constant(limit, FRAME_SIZE)
        self.land(whole)
        fails.append(self.skip("hs", distance, have))
        self.add(size, size, distance)
        fails.append(self.skip("hi", size, have))
        self._fill_site()
        self.add(self.SCRATCH[SPARE], host, distance)
        self.jump_register(self.LINK)
        self.land(*fails)
        self._go("fault")

    def _fill_site(self) -> None:
        """Write what was found into the site that was named."""
        start, said, bound, have, host, distance, limit, _ = self.SCRATCH
        self.subtract(start, start, distance)
        self.shift_right(bound, said, NUMBER_SHIFT)
        self.shift_left(bound, bound, 3)
        self.add(bound, bound, self.RECORD)
        self.store(host, bound, OFFSET["hosts"])
        self.low_bits(said, said, _SITE_BITS)
        self.add(said, said, self.RECORD)
        self.store(start, said)
        for number, size in enumerate(SIZES):
            self.add_number(bound, have, 1 - size)
            fits = self.skip("ls", bound, have)
            self.constant(bound, 0)
            self.land(fits)
            within = self.skip("ls", bound, limit)
            self.move(bound, limit)
            self.land(within)
            self.store(bound, said, 8 + 8 * number)

    def _native_syscall(self) -> None:
        """r1 to r5 stay as they are; so does r0 where the syscall fails."""
        syscall, status, result = self.SCRATCH[:3]
        kept = (self.LINK, self.RETURN, *self.ARGUMENTS[:5], self.BPF[0])
        self._begin("native_syscall")
        self.store_record(self.BUDGET, "budget")
        self.store_record(self.LINK, "place")
        self._push(*kept)
        self.move(self.ARGUMENTS[5], self.RECORD)
        self.call_register(syscall)
        self.move(result, self.RESULT)
        self._pop(*kept)
        self.load_record(self.BUDGET, "budget")
        self.load_record(status, "status")
        failed = self.skip("ne", status, self.ZERO)
        overdrawn = self.skip("lt", self.BUDGET, self.ZERO)
        self.move(self.BPF[0], result)
        self.jump_register(self.LINK)
        self.land(failed, overdrawn)
        self.constant(status, Status.SYSCALL_FAILED)
        self.store_record(status, "status")
        self._go("stop")
