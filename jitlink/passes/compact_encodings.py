"""The encodings of compact unwind records, as call frame instructions of DWARF.

x86-64 has three sorts. A function with a frame pointer (RBP) says how far below it the saved registers
begin, and which five at the most there are. A function without one says the size of its stack, or where in
its code the number stands that it subtracts from RSP; the saved registers lie below the return address, and
their order is the number of a permutation. arm64 has two sorts: with a frame pointer, below which pairs of
registers lie in the order of their numbers, and without one, for functions that call no others.

Source: <mach-o/compact_unwind_encoding.h>.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows

DEF_CFA, OFFSET, OFFSET_EXTENDED = 0x0C, 0x80, 0x05
LARGEST_SHORT_REGISTER = 63

# x86-64; the DWARF numbers of RBX, R12 to R15 and RBP by those of the encoding.
X86_64_RBP_FRAME, X86_64_STACK_IMMEDIATE, X86_64_STACK_INDIRECT = 0x01000000, 0x02000000, 0x03000000
X86_64_REGISTERS = {1: 3, 2: 12, 3: 13, 4: 14, 5: 15, 6: 6}
RBP, RSP, RIP = 6, 7, 16
MOST_IN_FRAME = 5

# arm64
ARM64_FRAMELESS, ARM64_FRAME = 0x02000000, 0x04000000
ARM64_PAIRS = {
    0x001: (19, 20),
    0x002: (21, 22),
    0x004: (23, 24),
    0x008: (25, 26),
    0x010: (27, 28),
    0x100: (72, 73),
    0x200: (74, 75),
    0x400: (76, 77),
    0x800: (78, 79),
}
"""By the bit of each pair the DWARF numbers of its registers: X19 to X28, D8 to D15."""
FP, LR, SP = 29, 30, 31


def x86_64_frame(encoding: int) -> bytes:
    """A function that has RBP: the caller's frame begins two words above it."""
    code = _def_cfa(RBP, 16) + _saved(RIP, 1) + _saved(RBP, 2)
    lowest = 2 + (encoding >> 16 & 0xFF)
    for place in range(MOST_IN_FRAME):
        register = X86_64_REGISTERS.get(encoding >> 3 * place & 7)
        # Of seven numbers six are registers; 0 is none, and 7 means nothing.
        if register is not None and lowest > place:
            code += _saved(register, lowest - place)
    return code


def x86_64_immediate(encoding: int) -> bytes:
    """A function without a frame pointer, whose stack has up to 255 words."""
    return _x86_64_frameless(encoding, 8 * (encoding >> 16 & 0xFF))


def x86_64_indirect(encoding: int) -> bytes:
    """A function without a frame pointer, whose stack size (bits 32 to 63) comes from its code."""
    return _x86_64_frameless(encoding, (encoding >> 32) + 8 * (encoding >> 13 & 7))


def _x86_64_frameless(encoding: int, stack_size: int) -> bytes:
    code = _def_cfa(RSP, stack_size) + _saved(RIP, 1)
    count = min(encoding >> 10 & 7, len(X86_64_REGISTERS))
    for place, register in enumerate(permuted_registers(count, encoding & 0x3FF)):
        code += _saved(X86_64_REGISTERS[register], 1 + count - place)
    return code


def permuted_registers(count: int, permutation: int) -> list[int]:
    """Which of six registers are saved, in the order of their places: a permutation by its number.

    The number is written in the mixed base of choices that are left, as in numbering permutations
    lexicographically: of count registers the first is one of 6, the next one of 5, and so on.
    """
    left = list(X86_64_REGISTERS)
    weight = 1
    weights = []
    for place in reversed(range(count)):
        weights.append(weight)
        weight *= 6 - place
    order = []
    for step in reversed(weights):
        digit, permutation = divmod(permutation, step)
        order.append(left.pop(min(digit, len(left) - 1)))
    return order


def arm64_frame(encoding: int) -> bytes:
    """A function that has a frame pointer: FP and LR lie at it, the other registers below."""
    return _def_cfa(FP, 16) + _saved(LR, 1) + _saved(FP, 2) + _arm64_pairs(encoding, 3)


def arm64_frameless(encoding: int) -> bytes:
    """A function that calls no others: its return address stays in LR."""
    return _def_cfa(SP, 16 * (encoding >> 12 & 0xFFF)) + _arm64_pairs(encoding & 0xFFF, 1)


def _arm64_pairs(encoding: int, place: int) -> bytes:
    code = b""
    for bit, pair in ARM64_PAIRS.items():
        if encoding & bit:
            code += _saved(pair[0], place) + _saved(pair[1], place + 1)
            place += 2
    return code


def _def_cfa(register: int, offset: int) -> bytes:
    """The caller's frame begins at a register plus an offset."""
    return bytes((DEF_CFA,)) + _uleb128(register) + _uleb128(offset)


def _saved(register: int, words: int) -> bytes:
    """A register is saved that many words below where the caller's frame begins."""
    if register <= LARGEST_SHORT_REGISTER:
        return bytes((OFFSET | register,)) + _uleb128(words)
    return bytes((OFFSET_EXTENDED,)) + _uleb128(register) + _uleb128(words)


def _uleb128(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


INSTRUCTIONS: Mapping[str, Mapping[int, Callable[[int], bytes]]] = {
    "x86_64": {
        X86_64_RBP_FRAME: x86_64_frame,
        X86_64_STACK_IMMEDIATE: x86_64_immediate,
        X86_64_STACK_INDIRECT: x86_64_indirect,
    },
    "aarch64": {ARM64_FRAMELESS: arm64_frameless, ARM64_FRAME: arm64_frame},
}
"""By architecture and mode: what makes instructions of an encoding. All other modes describe no frame."""
RETURN_ADDRESS = {"x86_64": RIP, "aarch64": LR}
"""The DWARF number of the register that stands for the return address."""


def is_indirect(architecture: str, encoding: Rows) -> npt.NDArray[np.bool_]:
    """Whether the size of the stack stands in the code of the function: bool[n] of int64[n]."""
    found: npt.NDArray[np.bool_] = (encoding & 0x0F000000 == X86_64_STACK_INDIRECT) & (architecture == "x86_64")
    return found


def stack_size_field(encoding: Rows) -> Rows:
    """Where in the code of their function the sizes stand: int64[n] of int64[n]."""
    return encoding >> 16 & 0xFF
