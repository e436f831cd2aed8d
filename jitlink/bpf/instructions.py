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

_NO_SELECTOR = -1
_SELECTORS = ("src", "offset", "imm")

_selector = np.full(256, _NO_SELECTOR, np.int64)
for _form in FORMS:
    if _form.selector:
        _selector[_form.opcode] = _SELECTORS.index(_form.selector[0])


def _key(opcode: npt.NDArray[np.int64], selected: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return opcode << 32 | (selected & 0xFFFF_FFFF)


_keys = _key(
    np.array([form.opcode for form in FORMS], np.int64),
    np.array([form.selector[1] if form.selector else 0 for form in FORMS], np.int64),
)
_number = _keys.argsort()
_sorted_keys = _keys[_number]

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
    opcode = records["opcode"].astype(np.int64)
    low, high = records["registers"].astype(np.int64) & 15, records["registers"].astype(np.int64) >> 4
    dst, src = (low, high) if byteorder == "little" else (high, low)
    offset, imm = records["offset"].astype(np.int64), records["imm"].astype(np.int64)

    is_first = _begins_wide(opcode)
    is_second = np.zeros(size // SLOT, bool)
    is_second[1:] = is_first[:-1]

    selected = np.zeros(len(opcode), np.int64)
    for number, column in enumerate((src, offset, imm)):
        selected = np.where(_selector[opcode] == number, column, selected)
    key = _key(opcode, selected)
    place = np.searchsorted(_sorted_keys, key).clip(max=len(_sorted_keys) - 1)
    known = (_sorted_keys[place] == key) & ~is_second

    constant = imm.copy()
    low_half = is_first[:-1].nonzero()[0]
    constant[low_half] = imm[low_half] & 0xFFFF_FFFF | imm[low_half + 1] << 32
    return Instructions(
        form=np.where(known, _number[place], 0),
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


def _begins_wide(opcode: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    wide = opcode == WIDE
    position = np.arange(len(wide))
    begins_run = wide & ~np.concatenate(([False], wide[:-1]))
    run_start = np.maximum.accumulate(np.where(begins_run, position, 0))
    begins: npt.NDArray[np.bool_] = wide & ((position - run_start) % 2 == 0)
    return begins
