"""What the relocations of Mach-O have in common on all machines, and what an architecture says about its own.

A relocation of Mach-O is told by three things: its type, whether it is relative to its place (r_pcrel),
and the size of its field (r_length, a power of two). The addend stands in the field. The target is a
symbol (r_extern) or a section; then the field holds, in the terms of the object's own addresses, what it
would hold if nothing moved, and the reader finds the block by that address.

Two types come in pairs, told by the first of the two:

- SUBTRACTOR names B and is followed by UNSIGNED with A: the field becomes A + addend - B. Where one of
  them lies in the same block as the field, as in unwind records, that is a distance to the place, and one
  edge says it. Else it takes two edges in a row: one with the formula S + A - B, and behind it one that
  changes nothing and holds the symbol that is B.
- ADDEND (arm64) holds the addend of the relocation that follows it, since instructions have no room.

Source: <mach-o/reloc.h>, <mach-o/x86_64/reloc.h>, <mach-o/arm64/reloc.h>.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

import numpy as np
import numpy.typing as npt

from jitlink.formulas import Kind, KindTable

RELATIVE, LENGTH_SHIFT, EXTERNAL, NUMBER_SHIFT = 1, 1, 8, 4
"""Where in the last byte of a relocation r_pcrel, r_length, r_extern and r_type stand."""
FORMS = 1 << 8


@dataclass(frozen=True)
class MachORules:
    """How the relocations of one machine are to be read; kinds are named.

    Attributes:
        cpu_type: of its objects.
        unsigned, subtractor, addend: the numbers of these types; addend is None where there is none.
        takes_addend: the types that an ADDEND may stand before.
        bias: how far behind the start of its field a relative kind counts from.
        distance: for fields of 4 and of 8 bytes, the kind S + A - P that a SUBTRACTOR pair becomes whose
            second symbol lies in the block of the field.
        distance_to_here: the kind P + A - S, for a first symbol that lies in the block of the field.
        difference: the kind S + A - B, for all other pairs.
        pointer: the kind S + A for fields of 4 and of 8 bytes.
        second_symbol: the kind of the edge behind it, which names B.
        personality: the kind that refers to a personality routine from an unwind record.
        instructions: for kinds that belong into some sorts of instructions: mask and word of each sort, and
            what they are in words. Instructions hold no addend, so their fields are 0.
        by_instruction: a kind whose field depends on the instruction, and for that which kind it becomes:
            pairs of mask, word and kind, of which the first that fits counts.
    """

    cpu_type: int
    unsigned: int
    subtractor: int
    addend: int | None
    takes_addend: tuple[int, ...]
    bias: Mapping[str, int]
    distance: Mapping[int, str]
    distance_to_here: Mapping[int, str]
    difference: Mapping[int, str]
    pointer: Mapping[int, str]
    second_symbol: str
    personality: str
    instructions: Mapping[str, tuple[tuple[tuple[int, int], ...], str]] = field(default_factory=dict)
    by_instruction: Mapping[str, tuple[tuple[int, int, str], ...]] = field(default_factory=dict)


@cache
def rules_of(architecture: str) -> MachORules:
    """The rules of an architecture by name, from its file arches/NAME_macho.py."""
    rules: MachORules = import_module(f"jitlink.arches.{architecture}_macho").RULES
    return rules


def rows_by_form(kinds: KindTable) -> npt.NDArray[np.int64]:
    """The kind of each form, which is the last byte of a relocation: int64[FORMS].

    0, the kind that does nothing, where a number does not have a form. A kind has the form that its formula
    and its field say. A kind that is not supported stands for all forms of its number. Of several kinds with
    one form the first is taken.
    """
    rows = np.zeros(FORMS, np.int64)
    for row, kind in reversed(list(enumerate(kinds))):
        if kind.format == "macho" and kind.number >= 0:
            rows[_forms_of(kind)] = row
    return rows


def _forms_of(kind: Kind) -> list[int]:
    number = kind.number << NUMBER_SHIFT
    if not kind.applied:
        return [number | rest for rest in range(1 << NUMBER_SHIFT)]
    form = number | (kind.field.size.bit_length() - 1) << LENGTH_SHIFT
    if "P" in kind.value.letters:
        form |= RELATIVE
    return [form, form | EXTERNAL]
