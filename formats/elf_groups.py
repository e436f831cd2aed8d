"""Section groups of ELF (SHT_GROUP): sections that are kept or dropped together.

A group is a table of section numbers behind a word of flags; the name of a symbol identifies it. Of
COMDAT groups with one name, from all objects, a link keeps one.

Source: gABI, Section Groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.columns import NO_ROWS, Rows, rows_of
from jitlink.formats import elf_layout as elf

if TYPE_CHECKING:
    from jitlink.formats.elf import ElfReader


@dataclass(frozen=True)
class SectionGroups:
    """The groups of a batch.

    Attributes: group_of (int64[sections], the number of the group of each section, from 1, or 0);
    signature (int64[groups], the symbol whose name identifies it); comdat (bool[groups]).
    """

    group_of: Rows
    signature: Rows
    comdat: npt.NDArray[np.bool_]


def read_groups(reader: ElfReader) -> SectionGroups:
    """Read the section groups. Raises MalformedInput for members that are not there, nested or shared."""
    tables = (reader.type == elf.SHT_GROUP).nonzero()[0]
    group_of = np.zeros(len(reader.type), np.int64)
    if not len(tables):
        return SectionGroups(group_of, NO_ROWS, np.empty(0, np.bool_))
    owner = reader.owner[tables]
    refuse = reader.batch.refuse_any
    size = reader.size[tables].view(np.int64)
    refuse((size < 4) | (size % 4 != 0), "a section group is not a table of 4-byte words", owner)
    flags = reader.load(reader.position[tables], elf.WORD)
    signature = reader.headers["info"][tables].astype(np.int64)
    refuse(signature >= reader.symbol_count[owner], "the signature of a section group is not there", owner)
    count = size // 4 - 1
    index = reader.load(rows_of(reader.position[tables] + 4, count, 4), elf.WORD).astype(np.int64)
    member_owner = owner.repeat(count)
    refuse(
        (index == 0) | (index >= reader.section_count[member_owner]),
        "a section group has a member that is not there",
        member_owner,
    )
    member = reader.first_section[member_owner] + index
    refuse(reader.type[member] == elf.SHT_GROUP, "a section group has a group as its member", member_owner)
    refuse(
        np.bincount(member, minlength=len(reader.type))[member] > 1,
        "a section is in two section groups",
        member_owner,
    )
    group_of[member] = np.arange(1, len(tables) + 1).repeat(count)
    return SectionGroups(group_of, reader.first_symbol[owner] + signature, (flags & elf.GRP_COMDAT) != 0)
