"""A link, watched: the link graph as it is after each step.

Nothing is mapped and nothing runs. The graph is linked to a base address, and copied at each stage:

    pre_prune        as read
    post_prune       every edge aimed at the definition of its name, without what dead strip and COMDAT dropped
    post_allocation  with GOT entries and stubs, kinds of relaxed instructions, and all addresses
    fixed_up         the same, with the bytes as they will run

A link that fails can be watched as well: the stages that it reached are there, and the error. Names that
nobody defines get placeholder addresses, so that one missing library does not hide all the rest.

Rows of sections, blocks and symbols are only added between stages, so that a row number means the same
in all of them; edges are ordered anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jitlink.columns import Rows
from jitlink.errors import InputError, LinkError, UndefinedSymbols
from jitlink.fields import Addresses
from jitlink.fixups import EdgeLetters, values_of
from jitlink.formulas import LETTERS_OF_STORAGE, Kind
from jitlink.graph import LinkGraph, WorkingMemory
from jitlink.image import Image, link_image
from jitlink.inputs import Source
from jitlink.joining import join

STAGES = {
    "pre_prune": "pre_prune",
    "post_prune": "post_prune",
    "post_allocation": "post_allocation",
    "fixed_up": "post_fixup",
}
"""The stages of a watched link, and the point of the linker at which each is seen."""
ALLOCATED = ("post_allocation", "fixed_up")
DEFAULT_BASE = 0x1000_0000
"""Low enough for code that holds addresses in 32 bits."""
FIRST_PLACEHOLDER = 0x0F00_0000
"""Below the image, in reach of the branches of every machine."""
PLACEHOLDER_SIZE = 16


@dataclass(frozen=True)
class Snapshot:
    """A link graph at one stage.

    Attributes: stage; graph (a copy); got (address of the GOT; 0 before there is one).
    """

    stage: str
    graph: LinkGraph
    got: int = 0

    @property
    def allocated(self) -> bool:
        """Whether blocks and symbols have their addresses."""
        return self.stage in ALLOCATED

    def bytes_of(self, block: int) -> bytes:
        """The bytes of a block: as they will run at the last stage, else as its input has them."""
        memory, blocks = self.graph.working, self.graph.blocks
        if memory is None or not blocks.live[block] or blocks.zero_fill[block]:
            return self.graph.content_of(block)
        start = int(memory.position[block])
        return memory.image[start : start + int(blocks.size[block])].tobytes()

    def letters(self, edges: Rows) -> EdgeLetters:
        """The letters of the formulas of edges, as columns. edges: int64[n]. Needs addresses."""
        return EdgeLetters(self.graph, edges, self.graph.symbols.addresses(), np.uint64(self.got))

    def values(self, edges: Rows) -> Addresses:
        """What the formulas of edges give: uint64[n]; 0 for kinds that write nothing. Needs addresses.

        0 too for what depends on where threads have their storage, before they have any.
        """
        kind_of_edge = self.graph.edges.kind[edges]
        values = np.zeros(len(edges), np.uint64)
        for number in np.unique(kind_of_edge).tolist():
            kind = self.graph.target.kinds[number]
            of_kind = (kind_of_edge == number).nonzero()[0]
            if isinstance(kind, Kind) and kind.applied and self._knows(kind):
                values[of_kind] = values_of(kind, self.letters(edges[of_kind]))
        return values

    def _knows(self, kind: Kind) -> bool:
        return self.graph.storage_letters is not None or LETTERS_OF_STORAGE.isdisjoint(kind.value.letters)


@dataclass
class Watched:
    """A link that was watched.

    Attributes: snapshots (by stage, as far as the link came); placeholders (address of each name that
    nobody defines); image (None if the link failed, or cannot be used without a process, as with indirect
    functions); error (why it failed, or None).
    """

    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    placeholders: dict[str, int] = field(default_factory=dict)
    image: Image | None = None
    error: LinkError | None = None

    def snapshot(self, stage: str) -> Snapshot:
        """The graph at a stage. Raises the error of a link that failed before, KeyError for no such stage."""
        if stage not in STAGES:
            raise KeyError(stage)
        if stage not in self.snapshots:
            assert self.error is not None
            raise self.error
        return self.snapshots[stage]


def watch(
    *sources: Source,
    base: int = DEFAULT_BASE,
    define: Mapping[str, Any] | Callable[[str], Any] | None = None,
    **options: Any,
) -> Watched:
    """Link inputs into an image, and keep the graph as it is at each stage.

    base, define and the other options are those of jitlink.link. A link that fails is no error here, see
    Watched.error; inputs that cannot be read are: raises InputError.
    """
    watched = Watched()
    for _ in range(2):
        watched.snapshots.clear()
        watched.error = None
        passes = {at: [_Camera(watched, stage)] for stage, at in STAGES.items()}
        names = _with_placeholders(define, watched.placeholders)
        try:
            watched.image = link_image(*sources, base=base, define=names, passes=passes, **options)
        except InputError:
            raise
        except UndefinedSymbols as error:
            watched.error = error
            watched.placeholders |= _placeholders(error.names)
            continue
        except LinkError as error:
            # Behind the last stage there is nothing left that could fail, but for a use that is not ours.
            watched.error = None if len(watched.snapshots) == len(STAGES) else error
        break
    return watched


def _placeholders(names: Sequence[str]) -> dict[str, int]:
    return {name: FIRST_PLACEHOLDER + PLACEHOLDER_SIZE * number for number, name in enumerate(names)}


def _with_placeholders(
    define: Mapping[str, Any] | Callable[[str], Any] | None, placeholders: Mapping[str, int]
) -> Mapping[str, Any] | Callable[[str], Any]:
    """What the caller defines, and behind it the placeholders."""
    if not callable(define):
        return {**placeholders, **(define or {})}

    def look_up(name: str) -> Any:
        given = define(name)
        return placeholders.get(name) if given is None else given

    return look_up


class _Camera:
    """A user pass that keeps a copy of the graph it is shown."""

    def __init__(self, watched: Watched, stage: str) -> None:
        self.watched = watched
        self.stage = stage

    def __call__(self, graph: LinkGraph) -> None:
        copy = join([graph])
        copy.storage_letters = graph.storage_letters
        if graph.working is not None:
            copy.working = WorkingMemory(graph.working.image.copy(), graph.working.position)
        self.watched.snapshots[self.stage] = Snapshot(self.stage, copy, _address_of_got(copy))


def _address_of_got(graph: LinkGraph) -> int:
    """The address of the GOT: of the first block in the section that the linker made for it, or 0."""
    made = [row for row in (graph.sections.input == 0).nonzero()[0].tolist() if row]
    named = [row for row in made if graph.raw_name_at(int(graph.sections.name[row])) == b".got"]
    blocks = np.isin(graph.blocks.section, named).nonzero()[0]
    return int(graph.blocks.address[blocks].min()) if len(blocks) else 0
