"""What the linker has to know of a machine: its relocation kinds, its stub, how far a branch reaches.

An architecture file declares these as data. The passes are written once, over this declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from jitlink.arches.thread_locals import ThreadLocalRules
from jitlink.columns import Buffer, Rows
from jitlink.fields import Addresses
from jitlink.formulas import KindTable

if TYPE_CHECKING:
    from jitlink.graph import LinkGraph


@dataclass(frozen=True)
class Routine:
    """A short piece of machine code that the linker can add.

    Attributes: content; edges (offset, kind, name of the target and addend of each reference); always
    (whether it is taken even where the process has a function of its name); requires (a name without which
    it is not taken).
    """

    content: bytes
    edges: tuple[tuple[int, str, str, int], ...]
    always: bool
    requires: str = ""


Near = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Stub:
    """A short sequence that jumps on: a stub through a GOT entry, a veneer to the target itself.

    Attributes: content (machine code), alignment, edges (offset, kind and addend of each reference to
    the GOT entry, or to the target), changes_registers (whether it needs those that the ABI lets a linker
    change at a call).
    """

    content: bytes
    alignment: int
    edges: tuple[tuple[int, str, int], ...]
    changes_registers: bool = True


class Relaxations(Protocol):
    """Code of a link that can be made shorter (see jitlink.passes.relaxation)."""

    def choose(self, addresses: Addresses, *, more: bool) -> bool:
        """Choose what to shorten by the addresses of the last layout; says whether that changes anything.

        more: whether anything may be shortened that was not before.
        """

    def give_up(self) -> None:
        """Shorten nothing but what must be."""

    def cut(self) -> None:
        """Say in the graph where everything is after what was chosen."""

    def rewrite(self, addresses: Addresses) -> None:
        """Write the shorter code, given final addresses."""


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
        reaches: the bytes that PC-relative kinds span which span less than reach.
        veneers: the kinds of branch instructions that may be out of reach of code in the same image, and
            what then carries them on. Their addend is a part of where they go.
        of_nothing: the kinds whose instruction becomes another where the target is a weak symbol that
            nothing defines, and the kind that it gets.
        shorten: changes the kinds of edges whose instructions have shorter forms for targets that turn out
            to be near, or None. It is given the graph, the image with the content of all blocks, the
            position of each block in it, and the final address of each symbol.
        thread_locals: what there is to know of its thread-local storage, or None where it is not linked.
        addressed_branches: the kinds of branch instructions, besides those of veneers, whose addend is a
            part of where they go.
        prepare: checks what inputs demand of the machine, before a place is chosen, or None. It is given the
            graph and whether code may be relaxed.
        find_relaxations: finds code that can be made shorter, or None. It is given the graph, after GOT
            entries and stubs were made, and a function from a name to the symbol that it stands for.
        settle_pairs: makes single relocations of those that are a value only together, or None. It is given
            the graph, edges, the image with the content of all blocks, the position of each block in it,
            and the final address of each symbol.
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
    reaches: Mapping[str, int] = field(default_factory=dict)
    veneers: Mapping[str, Stub] = field(default_factory=dict)
    of_nothing: Mapping[str, str] = field(default_factory=dict)
    shorten: Callable[[LinkGraph, Buffer, Rows, Addresses], None] | None = None
    thread_locals: ThreadLocalRules | None = None
    addressed_branches: tuple[str, ...] = ()
    prepare: Callable[[LinkGraph, bool], None] | None = None
    find_relaxations: Callable[[LinkGraph, Callable[[bytes], int]], Relaxations | None] | None = None
    settle_pairs: Callable[[LinkGraph, Rows, Buffer, Rows, Addresses], None] | None = None

    @cached_property
    def reach_of_kind(self) -> Rows:
        """Bytes that each kind in reaches spans, 0 for the others: int64[kinds]."""
        reach = np.zeros(len(self.kinds), np.int64)
        for name, span in self.reaches.items():
            reach[self.kind_number(name)] = span
        return reach

    @cached_property
    def has_veneer(self) -> npt.NDArray[np.bool_]:
        """Which kinds are in veneers: bool[kinds]."""
        return np.array([kind.name in self.veneers for kind in self.kinds.rows])

    @cached_property
    def goes_beside(self) -> npt.NDArray[np.bool_]:
        """Which kinds are of branches whose addend is a part of where they go: bool[kinds]."""
        return np.array([kind.name in (*self.veneers, *self.addressed_branches) for kind in self.kinds.rows])

    @cached_property
    def lacks_addend(self) -> npt.NDArray[np.bool_]:
        """Which kinds have a formula without an addend: bool[kinds]."""
        return np.array(["A" not in kind.value.letters for kind in self.kinds.rows])

    def kind_number(self, name: str) -> int:
        """The row of a kind by its ABI name. Raises KeyError when there is none."""
        return self.kinds.by_name[name]

    def __repr__(self) -> str:
        return f"<architecture {self.name}>"
