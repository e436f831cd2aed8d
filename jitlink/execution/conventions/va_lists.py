"""va_list, in its three forms.

On Apple's platforms, Windows and RISC-V it is a pointer to the next argument in memory. System V on
x86-64 and AAPCS64 keep the register arguments in one or two save areas, and remember how far each has
been read (x86-64 psABI, figure 3.34; AAPCS64, appendix B).
"""

from __future__ import annotations

from jitlink.execution.c_types import CType, Kind
from jitlink.execution.conventions.base import SLOT, Reader

VECTOR = 16
"""Bytes of a vector register in a save area."""
X64_GENERAL_END = 6 * SLOT
X64_VECTORS_END = X64_GENERAL_END + 8 * VECTOR


def word(memory: Reader, address: int) -> int:
    """Read a pointer."""
    return int.from_bytes(memory.read(address, SLOT), "little")


def offset(memory: Reader, address: int) -> int:
    """Read an int."""
    return int.from_bytes(memory.read(address, 4), "little", signed=True)


class InMemory:
    """Arguments one behind the other, in slots; the va_list is the address of the next one."""

    def __init__(self, memory: Reader, address: int, *, by_reference_above: int, align_pairs: bool) -> None:
        """Begin at an address.

        by_reference_above: the size from which on a pointer is passed instead; align_pairs: whether a
        value of 16-byte alignment starts at an even slot.
        """
        self.memory = memory
        self.address = address
        self.by_reference_above = by_reference_above
        self.align_pairs = align_pairs

    def next(self, c_type: CType) -> bytes:
        """The bytes of the next argument."""
        if c_type.size > self.by_reference_above:
            at = word(self.memory, self._take(SLOT, SLOT))
            return self.memory.read(at, c_type.size)
        at = self._take(c_type.size, c_type.alignment if self.align_pairs else SLOT)
        return self.memory.read(at, c_type.size)

    def _take(self, size: int, alignment: int) -> int:
        alignment = max(alignment, SLOT)
        at = -(-self.address // alignment) * alignment
        self.address = at + -(-size // SLOT) * SLOT
        return at


class SystemV:
    """struct { unsigned gp_offset, fp_offset; void *overflow_arg_area, *reg_save_area; }."""

    def __init__(self, memory: Reader, address: int) -> None:
        self.memory = memory
        self.general, self.vectors = offset(memory, address), offset(memory, address + 4)
        self.overflow, self.saved = word(memory, address + 8), word(memory, address + 16)

    def next(self, c_type: CType) -> bytes:
        """The bytes of the next argument, a scalar."""
        if c_type.kind is Kind.FLOATING and self.vectors < X64_VECTORS_END:
            at, self.vectors = self.saved + self.vectors, self.vectors + VECTOR
        elif c_type.kind is Kind.INTEGER and self.general + c_type.size <= X64_GENERAL_END:
            at, self.general = self.saved + self.general, self.general + -(-c_type.size // SLOT) * SLOT
        else:
            alignment = max(c_type.alignment, SLOT)
            at = -(-self.overflow // alignment) * alignment
            self.overflow = at + -(-c_type.size // SLOT) * SLOT
        return self.memory.read(at, c_type.size)


class Aapcs64:
    """struct { void *__stack, *__gr_top, *__vr_top; int __gr_offs, __vr_offs; }; offsets are negative."""

    def __init__(self, memory: Reader, address: int) -> None:
        self.memory = memory
        self.stack, self.general_top, self.vectors_top = (word(memory, address + 8 * row) for row in range(3))
        self.general, self.vectors = offset(memory, address + 24), offset(memory, address + 28)

    def next(self, c_type: CType) -> bytes:
        """The bytes of the next argument, a scalar."""
        if c_type.kind is Kind.FLOATING and self.vectors < 0:
            at, self.vectors = self.vectors_top + self.vectors, self.vectors + VECTOR
        elif c_type.kind is Kind.INTEGER and self.general < 0:
            alignment = max(c_type.alignment, SLOT)
            start = -(-self.general // alignment) * alignment
            # What does not fit into the registers is on the stack whole, and the registers are then used up.
            self.general = start + -(-c_type.size // SLOT) * SLOT
            at = self.general_top + start if self.general <= 0 else self._take_from_stack(c_type)
        else:
            at = self._take_from_stack(c_type)
        return self.memory.read(at, c_type.size)

    def _take_from_stack(self, c_type: CType) -> int:
        alignment = max(c_type.alignment, SLOT)
        at = -(-self.stack // alignment) * alignment
        self.stack = at + -(-c_type.size // SLOT) * SLOT
        return at
