"""What the linker has to know of a machine: its relocation kinds, its stub, how far a branch reaches.

An architecture file declares these as data. The passes are written once, over this declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows
from jitlink.formulas import KindTable

if TYPE_CHECKING:
    from jitlink.graph import LinkGraph


@dataclass(frozen=True)
class Routine:
    """A short piece of machine code that the linker can add.

    Attributes: content; edges (offset, kind, name of the target and addend of each reference); always
    (whether it is taken even where the process has a function of its name).
    """

    content: bytes
    edges: tuple[tuple[int, str, str, int], ...]
    always: bool


Near = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Stub:
    """A short sequence that jumps through a GOT entry.

    Attributes: content (machine code), alignment, edges (offset, kind and addend of each reference to
    the GOT entry).
    """

    content: bytes
    alignment: int
    edges: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True)
class Architecture:
    """A machine to link for.

    Attributes:
        name: as in `target=` and in messages.
        elf_machine: e_machine of its ELF objects.
        kinds: its relocation kinds.
        pointer: the kind of a GOT entry, which holds an address.
        resolver_pointer: the kind of a GOT entry that an IFUNC resolver fills.
        stub: how to reach a far function.
        reach: bytes that a PC-relative reference of the usual sort spans, either way.
        absolute: the kinds that hold an address in 32 bits or fewer, and the first address past each.
        pc_relative: the kinds that hold a distance in 32 bits and may be out of reach of their target.
        is_branch: which of the edges at rows sit in a call or jump instruction: bool[rows].
        relax: the relaxed kind and the shift of the fixup for GOT loads at rows whose target is near,
            as int64[rows] and int64[rows]; kind 0 where the instruction has no relaxed form.
        trap: the byte that fills what no code uses.
        large_section_flag: the flag of ELF sections that may lie out of reach of the rest, or 0.
        support: what C libraries have only in their static part, as code of our own.
        byte_order: of its ELF objects.
    """

    name: str
    elf_machine: int
    kinds: KindTable
    pointer: str
    resolver_pointer: str
    stub: Stub
    reach: int
    absolute: dict[str, int]
    pc_relative: tuple[str, ...]
    is_branch: Callable[[LinkGraph, Rows], npt.NDArray[np.bool_]]
    relax: Callable[[LinkGraph, Rows], tuple[Rows, Rows]]
    trap: int
    large_section_flag: int
    support: Mapping[str, Routine]
    byte_order: Literal["little", "big"] = "little"

    def kind_number(self, name: str) -> int:
        """The row of a kind by its ABI name. Raises KeyError when there is none."""
        return self.kinds.by_name[name]

    def __repr__(self) -> str:
        return f"<architecture {self.name}>"
