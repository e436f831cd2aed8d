"""Arithmetic, byte swaps and constants in LLVM IR (the operations themselves: jitlink.bpf.llvm_tier.operations)."""

from __future__ import annotations

from jitlink.bpf.isa import Form
from jitlink.bpf.llvm_tier.accesses import Accesses
from jitlink.bpf.llvm_tier.operations import LINES
from jitlink.bpf.machine import FUNCTION_BASE


class Arithmetic(Accesses):
    """Instructions that only compute."""

    def _arithmetic(self, slot: int, shape: Form) -> bool:
        program, bits, operation = self.program, shape.bits, shape.operation
        dst, src, imm = program.dst[slot], program.src[slot], program.imm[slot]
        if operation.startswith("movsx"):
            narrow = self._set(f"trunc i64 {self._get(src)} to i{operation[5:]}")
            self._give(dst, self._set(f"sext i{operation[5:]} {narrow} to i{bits}"), bits)
            return True
        second = self._operand(src, bits) if shape.from_register else str(imm)
        if operation == "mov":
            if shape.from_register or bits == 64:
                self._give(dst, second, bits)
            else:
                self._put(dst, str(imm & 0xFFFF_FFFF))
            return True
        number = self._new()
        first = self._operand(dst, bits)
        words = {"a": first, "b": second, "t": f"i{bits}", "n": number, "mask": bits - 1}
        self._add(LINES[operation].format_map(words))
        self._give(dst, f"%v{number}", bits)
        if operation == "add" and bits == 64 and not shape.from_register and first in self._frame_offset:
            self._frame_offset[f"%v{number}"] = self._frame_offset[first] + imm
        return True

    def _byte_order(self, slot: int, shape: Form) -> bool:
        dst, bits = self.program.dst[slot], shape.bits
        order = self.program.slots.code.byteorder
        swaps = shape.operation == "bswap" or {"le": "little", "be": "big"}[shape.operation] != order
        value = self._get(dst)
        if bits < 64:
            value = self._set(f"trunc i64 {value} to i{bits}")
        if swaps:
            value = self._set(f"call i{bits} @llvm.bswap.i{bits}(i{bits} {value})")
        self._put(dst, value if bits == 64 else self._set(f"zext i{bits} {value} to i64"))
        return True

    def _constant(self, slot: int, shape: Form) -> bool:
        program = self.program
        symbol = self.choices.symbols.get(slot)
        value = program.constant[slot]
        if shape.operation == "code":
            value = FUNCTION_BASE + 8 * (slot + 1 + program.imm[slot])
        value = (value & (1 << 64) - 1 ^ 1 << 63) - (1 << 63)
        text = f"ptrtoint (ptr @{symbol} to i64)" if symbol else str(value)
        if symbol:
            self._symbol_of[text] = symbol
        self._put(program.dst[slot], text)
        return True
