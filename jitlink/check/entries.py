"""GOT entries and stubs: where those of a link are, and making those that rules ask for.

Where a target is near, our linker makes none: it knows the addresses before it decides. LLVM's makes all
that the code asks for, and afterwards rewrites code that does not need them. A rule may speak of one that
is not used; it is then added before layout, so that it is there, with what it should hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from jitlink.arches.architecture import Architecture
from jitlink.columns import Rows
from jitlink.graph import LinkGraph
from jitlink.protection import Protection

GOT, STUBS = b".got", b".stubs"
CODE = Protection.READ | Protection.EXECUTE


class Entries:
    """The entries of a finished link."""

    def __init__(self, graph: LinkGraph) -> None:
        self.graph = graph

    @cached_property
    def slots(self) -> dict[bytes, int]:
        """The address of the GOT entry of each name; one that code uses, where there are several."""
        return {name: int(self.graph.blocks.address[block]) for block, name in self._slot_blocks.items()}

    @cached_property
    def stubs(self) -> dict[bytes, int]:
        """The address of the stub of each name; one that code uses, where there are several."""
        graph, edges = self.graph, self.graph.edges
        found = {}
        for block in self._blocks_of(STUBS):
            for row in self._edges_of(block):
                slot = int(graph.symbols.block[edges.target[row]])
                if slot in self._slot_blocks:
                    found[self._slot_blocks[slot]] = int(graph.blocks.address[block])
        return found

    @cached_property
    def _slot_blocks(self) -> dict[int, bytes]:
        """The name that each GOT entry is for, by its block: unused ones first."""
        graph, edges, symbols = self.graph, self.graph.edges, self.graph.symbols
        found = {}
        for block in self._blocks_of(GOT):
            for row in self._edges_of(block)[:1]:
                found[block] = graph.raw_name_at(int(symbols.name[edges.target[row]]))
        return found

    def _blocks_of(self, section: bytes) -> list[int]:
        """The live blocks of the linker's own sections of a name; those that nothing refers to come first."""
        graph = self.graph
        own = (graph.sections.input == 0).nonzero()[0].tolist()
        rows = [row for row in own if row and graph.raw_name_at(int(graph.sections.name[row])) == section]
        blocks: list[int] = (np.isin(graph.blocks.section, rows) & graph.blocks.live).nonzero()[0].tolist()
        return sorted(blocks, key=lambda block: bool(self._used[block]))

    @cached_property
    def _used(self) -> npt.NDArray[np.bool_]:
        """Which blocks something refers to: bool[blocks]."""
        graph = self.graph
        used = np.zeros(len(graph.blocks), np.bool_)
        live = graph.blocks.live[graph.edges.block]
        used[graph.symbols.block[graph.edges.target[live]]] = True
        return used

    def _edges_of(self, block: int) -> list[int]:
        block_column = self.graph.edges.block
        first, last = np.searchsorted(block_column, [block, block + 1]).tolist()
        return list(range(first, last))


def add_entries(graph: LinkGraph, with_slot: Iterable[str], with_stub: Iterable[str]) -> None:
    """Add GOT entries and stubs for symbols by name; a name that nobody knows gets none."""
    target = graph.target
    assert isinstance(target, Architecture)
    stubs = set(with_stub)
    names = sorted({*with_slot, *stubs})
    rows = {name: row for name in names if (row := _row_of(graph, name))}
    if not rows:
        return
    size = target.kinds[target.kind_number(target.pointer)].field.size
    section = graph.add_section(GOT.decode(), Protection.READ)
    targets = np.array(list(rows.values()), np.int64)
    slots = graph.add_pieces(section, bytes(size), len(rows), [(0, target.pointer, targets, 0)], alignment=size)
    through_stub: Rows = np.array(
        [slot for name, slot in zip(rows, slots.tolist(), strict=True) if name in stubs], np.int64
    )
    if len(through_stub):
        code = graph.add_section(STUBS.decode(), CODE)
        edges = [(offset, kind, through_stub, addend) for offset, kind, addend in target.stub.edges]
        graph.add_pieces(code, target.stub.content, len(through_stub), edges, alignment=target.stub.alignment)
    graph.sort_edges()


def _row_of(graph: LinkGraph, name: str) -> int:
    """The row of a symbol, or 0."""
    try:
        return graph.symbols.named(name).row
    except KeyError:
        return 0
