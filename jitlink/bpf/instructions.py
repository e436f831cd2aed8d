"""A BPF program as columns: every slot decoded at once.

Decoding is array work. The opcode column picks which other field is the selector; opcode and
selector together are one integer; a binary search over the sorted integers of all forms finds the
form of every slot. Properties of the instructions are then gathers: `USES["src"][code.form]`.

The one thing that depends on what comes before is which slots are second halves of a wide
constant: 0x18 begins one, unless the slot before it does. In a run of slots with opcode 0x18 every
other slot therefore begins one, and that is arithmetic on the position in the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jitlink.bpf.isa import FORMS, Form
from jitlink.errors import MalformedInput

ByteOrder = Literal["little", "big"]

SLOT = 8
"""Bytes of an instruction slot."""
WIDE = 0x18
"""The opcode of the one instruction that takes two slots."""
FIELDS = ("dst", "src", "offset", "imm")

# The two register fields share a byte; dst is the low half in little-endian programs and the high
# half in big-endian ones (RFC 9669 section 3.1).
RECORD: dict[str, np.dtype[Any]] = {
    order: np.dtype([("opcode", "u1"), ("registers", "u1"), ("offset", f"{mark}i2"), ("imm", f"{mark}i4")])
    for order, mark in (("little", "<"), ("big", ">"))
}

_SELECTORS = ("src", "offset", "imm")

_selects = np.zeros((len(_SELECTORS), 256), np.int64)
"""For each field that can be a selector and each opcode, all bits of a field, or none where it is not the selector."""
for _form in FORMS:
    if _form.selector:
        _selects[_SELECTORS.index(_form.selector[0]), _form.opcode] = 0xFFFF_FFFF
_src_selects, _offset_selects, _imm_selects = _selects


_keys = np.array([form.opcode << 32 | (form.selector[1] & 0xFFFF_FFFF if form.selector else 0) for form in FORMS])
_order = _keys.argsort()
# One more key behind the last one, so that a search always ends at a key.
_sorted_keys, _numbers = np.append(_keys[_order], np.iinfo(np.int64).max), np.append(_order, 0)

USES: dict[str, npt.NDArray[np.bool_]] = {
    field: np.array([field in form.operands for form in FORMS]) for field in (*FIELDS, "next_imm")
}
"""For each field, which forms have it as an operand: bool[forms]."""

SELECTS: dict[str, npt.NDArray[np.bool_]] = {
    field: np.array([form.selector is not None and form.selector[0] == field for form in FORMS]) for field in FIELDS
}
"""For each field, which forms have it as their selector: bool[forms]."""


@dataclass(frozen=True)
class Instructions:
    """The slots of a program, in columns of one row a slot.

    form: int64, row of FORMS, 0 for an encoding that nobody defines and for a second slot.
    opcode, dst, src, offset, imm: int64, the fields as they are encoded, signed where they are.
    constant: uint64, the immediate as a 64-bit value: both halves of a wide one, else sign-extended.
    is_second: bool, the second slot of a wide constant. byteorder: of the program.
    """

    form: npt.NDArray[np.int64]
    opcode: npt.NDArray[np.int64]
    dst: npt.NDArray[np.int64]
    src: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    imm: npt.NDArray[np.int64]
    constant: npt.NDArray[np.uint64]
    is_second: npt.NDArray[np.bool_]
    byteorder: ByteOrder

    def __len__(self) -> int:
        return len(self.form)

    def form_of(self, index: int) -> Form:
        """The form of one instruction."""
        return FORMS[int(self.form[index])]

    def field(self, name: str) -> npt.NDArray[np.int64]:
        """The column of a field by its name."""
        column: npt.NDArray[np.int64] = getattr(self, name)
        return column


def decode(
    program: bytes | bytearray | memoryview | npt.NDArray[np.uint8], byteorder: ByteOrder = "little"
) -> Instructions:
    """Decode a whole program, also one that breaks every rule: what is wrong is the verifier's to say.

    Raises MalformedInput when the program is not a whole number of slots. Source: RFC 9669 section 3.
    """
    size = len(program)
    if size % SLOT:
        raise MalformedInput(f"a BPF program of {size} bytes is not a whole number of {SLOT}-byte slots")
    records = np.frombuffer(program, RECORD[byteorder])
    opcode, registers = records["opcode"].astype(np.int64), records["registers"].astype(np.int64)
    low, high = registers & 15, registers >> 4
    dst, src = (low, high) if byteorder == "little" else (high, low)
    offset, imm = records["offset"].astype(np.int64), records["imm"].astype(np.int64)

    selected = src & _src_selects[opcode] | offset & _offset_selects[opcode] | imm & _imm_selects[opcode]
    key = opcode << 32 | selected
    place = _sorted_keys.searchsorted(key)
    form = _numbers[place]
    form[_sorted_keys[place] != key] = 0

    constant, is_second = imm.copy(), np.zeros(size // SLOT, bool)
    low_half = _low_halves(opcode)
    if len(low_half):
        is_second[low_half + 1] = True
        form[low_half + 1] = 0
        constant[low_half] = imm[low_half] & 0xFFFF_FFFF | imm[low_half + 1] << 32
    return Instructions(
        form=form,
        opcode=opcode,
        dst=dst,
        src=src,
        offset=offset,
        imm=imm,
        constant=constant.view(np.uint64),
        is_second=is_second,
        byteorder=byteorder,
    )


def encode(slots: Iterable[tuple[int, int, int, int, int]], byteorder: ByteOrder = "little") -> bytes:
    """Encode slots given as (opcode, dst, src, offset, imm), each within its field's range."""
    low, high = (1, 2) if byteorder == "little" else (2, 1)
    rows = [(slot[0], slot[low] | slot[high] << 4, slot[3], slot[4]) for slot in slots]
    return np.array(rows, RECORD[byteorder]).tobytes()


def _low_halves(opcode: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Find the slots at which wide constants begin of which there is a second half."""
    wide: npt.NDArray[np.int64] = (opcode == WIDE).nonzero()[0]
    if not len(wide):
        return wide
    begins_run = np.ones(len(wide), bool)
    begins_run[1:] = wide[1:] != wide[:-1] + 1
    run_start = np.maximum.accumulate(np.where(begins_run, wide, 0))
    low_halves: npt.NDArray[np.int64] = wide[((wide - run_start) % 2 == 0) & (wide < len(opcode) - 1)]
    return low_halves
