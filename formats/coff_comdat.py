"""COMDAT sections: copies of one thing in many objects, of which a link keeps one.

A section with the COMDAT flag has two symbols before all others: the first stands for the section, and its
auxiliary record says how to choose; the name of the second identifies the thing. An associative section has
no name of its own: it goes with another section of its object, which may itself be associative. That is how
unwind records and initialisers follow the function or the variable that they belong to.

GNU tools know no associative sections. They call the unwind records of a function in `.text$NAME`
`.pdata$NAME` and `.xdata$NAME`, and their `strip` takes away the symbols of sections that nothing refers to, as of
these. So such a section without a symbol goes with the function of its name.

Source: Microsoft PE Format specification, "COMDAT Sections (Object Only)", "Auxiliary Format 5: Section
Definitions"; GNU's names are those of GCC's libraries for Windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jitlink.columns import NO_ROWS, Rows, lowest_by
from jitlink.formats import coff_layout as coff
from jitlink.graph import Scope

if TYPE_CHECKING:
    from jitlink.formats.coff import CoffReader

ZERO = np.zeros(1, np.int64)
CODE_PREFIX = b".text$"
SIX_BYTES = np.uint64((1 << 48) - 1)


@dataclass(frozen=True)
class Comdats:
    """The COMDAT sections of a batch.

    Attributes: group_of (int64[sections], the group of each section, from 1, or 0); parent_of
    (int64[sections], the section that an associative one goes with, or 0); and for each group its signature
    (int64[groups], a symbol), selection (int64[groups], the number that COFF gives it), comdat (bool[groups],
    whether others may replace it) and precedence (int64[groups], of several the one with the highest wins).
    """

    group_of: Rows
    parent_of: Rows
    signature: Rows
    selection: Rows
    comdat: npt.NDArray[np.bool_]
    precedence: Rows

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of the graph's groups, null row first."""
        return {
            "signature": np.concatenate((ZERO, self.signature)),
            "comdat": np.concatenate((ZERO > 0, self.comdat)),
            "selection": np.concatenate((ZERO, self.selection)),
            "precedence": np.concatenate((ZERO, self.precedence)),
        }


def read_comdats(reader: CoffReader) -> Comdats:
    """Read what the objects say of their COMDAT sections. Raises MalformedInput."""
    sections = len(reader.flags)
    parent = np.zeros(sections, np.int64)
    group_of = np.zeros(sections, np.int64)
    is_comdat = (reader.flags & np.uint64(coff.SCN_LNK_COMDAT)) != 0
    rows = is_comdat.nonzero()[0]
    if not len(rows):
        return Comdats(group_of, parent, NO_ROWS, NO_ROWS, np.empty(0, np.bool_), NO_ROWS)
    definition = _definitions(reader, is_comdat)
    refuse = reader.batch.refuse_any
    nameless = rows[definition[rows] == 0]
    if len(nameless):
        parent[nameless] = _functions_of_same_name(reader, nameless)
        fault = "a COMDAT section has no symbol that says how to choose it"
        refuse(parent[nameless] == 0, fault, reader.owner[nameless])
        rows = rows[definition[rows] > 0]
    owner = reader.owner[rows]
    record_at = reader.symbol_at[definition[rows]] + reader.symbol_size[owner]
    record = reader.load(record_at, coff.AUX_SECTION)
    selection = record["selection"].astype(np.int64)
    unknown = (selection < coff.SELECT_NODUPLICATES) | (selection > coff.SELECT_NEWEST)
    refuse(unknown, "a COMDAT section is to be chosen in an unknown way", owner)
    associative = selection == coff.SELECT_ASSOCIATIVE
    number = record["number"].astype(np.int64)
    number += np.where(reader.is_big[owner], record["high_number"], 0).astype(np.int64) << 16
    refuse(
        associative & ((number == 0) | (number > reader.section_count[owner])),
        "an associative section goes with a section that is not there",
        owner,
    )
    parent[rows[associative]] = reader.first_section[owner[associative]] + number[associative]
    followers = np.concatenate((rows[associative], nameless))
    leading = rows[~associative]
    group_of[leading] = np.arange(1, len(leading) + 1)
    group_of = group_of[_heads(reader, parent, followers)]
    signature, named = _signatures(reader, definition, leading)
    selection = selection[~associative]
    precedence = np.zeros(len(leading), np.int64)
    largest, newest = selection == coff.SELECT_LARGEST, selection == coff.SELECT_NEWEST
    precedence[largest] = reader.size[leading[largest]]
    precedence[newest] = reader.time[reader.owner[leading[newest]]]
    return Comdats(group_of, parent, signature, selection, named, precedence)


def _definitions(reader: CoffReader, is_comdat: npt.NDArray[np.bool_]) -> Rows:
    """The symbol that stands for each COMDAT section, or 0: int64[sections]."""
    symbols = (reader.is_section_symbol() & is_comdat[reader.symbol_section]).nonzero()[0]
    return lowest_by(reader.symbol_section[symbols], symbols, len(is_comdat), 0)


def _functions_of_same_name(reader: CoffReader, sections: Rows) -> Rows:
    """The section of the function whose name each section has behind its dollar sign, or 0: int64[n]."""
    prefix = np.uint64(int.from_bytes(CODE_PREFIX, "little"))
    of_code = (reader.section_words[0] & SIX_BYTES == prefix) & np.isin(reader.owner, reader.owner[sections])
    functions = {
        (int(reader.owner[row]), reader.names.raw(int(reader.section_name[row])).partition(b"$")[2]): row
        for row in reversed(of_code.nonzero()[0].tolist())
    }
    wanted = [(int(reader.owner[row]), reader.names.raw(int(reader.section_name[row]))) for row in sections.tolist()]
    return np.array([functions.get((owner, name.partition(b"$")[2]), 0) for owner, name in wanted], np.int64)


def _heads(reader: CoffReader, parent: Rows, followers: Rows) -> Rows:
    """Follow associative sections to those that they go with in the end: int64[sections].

    Each round looks twice as far as the one before. Raises MalformedInput for a circle.
    """
    head = np.where(parent > 0, parent, np.arange(len(parent)))
    for _ in range(len(followers).bit_length()):
        head = head[head]
    circular = parent[head[followers]] > 0
    reader.batch.refuse_any(circular, "associative sections go with each other in a circle", reader.owner[followers])
    return head


def _signatures(reader: CoffReader, definition: Rows, sections: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """The symbol whose name identifies each section, and whether other objects may have it too.

    It is the second symbol of the section. One that no other object sees identifies nothing, and the
    section is always kept. GNU tools write sections without a second symbol, which their own names identify.
    """
    in_section = reader.symbol_section
    behind = (in_section > 0) & reader.is_symbol & (np.arange(len(in_section)) > definition[in_section])
    behind &= definition[in_section] > 0
    symbols = behind.nonzero()[0]
    second = lowest_by(in_section[symbols], symbols, len(definition), 0)[sections]
    alone = second == 0
    signature = np.where(alone, definition[sections], second)
    return signature, alone | (reader.scope[signature] != Scope.LOCAL)
