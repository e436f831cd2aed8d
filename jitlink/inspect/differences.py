"""What changes between two stages of a link.

What dead strip dropped, and from which root the rest is reached; which GOT entries, stubs and other
blocks the linker made; which instructions were relaxed; and the bytes that fixups changed, before and
after.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

from jitlink.columns import Rows
from jitlink.formulas import KindTable
from jitlink.graph import SymbolKind
from jitlink.inspect.instructions import Instruction, instructions
from jitlink.inspect.reached import ROOT, UNREACHED, reached_from
from jitlink.inspect.stages import STAGES, Snapshot
from jitlink.inspect.text import Paper
from jitlink.inspect.words import Demangler, counted, names_of, signed_hex

FIELD_SHOWN = 8
"""Bytes of a field that are shown, at the most."""


def stage_difference(
    before: Snapshot,
    after: Snapshot,
    paper: Paper | None = None,
    *,
    exports: Sequence[str] | None = None,
    demangle: Demangler | None = None,
) -> Iterator[str]:
    """Say what changed from one stage of a link to another, as lines without their newline.

    exports: the roots of the link, as it was given them.
    """
    order = list(STAGES)
    if order.index(before.stage) > order.index(after.stage):
        before, after = after, before
    return _Difference(before, after, paper or Paper(), exports, demangle).lines()


class _Code:
    """The instructions of a block, to be found by offset."""

    def __init__(self, block: int, found: list[Instruction]) -> None:
        self.block = block
        self.found = found
        self.starts = [instruction.offset for instruction in found]

    def at(self, offset: int) -> Instruction | None:
        """The instruction that an offset is in."""
        row = bisect_right(self.starts, offset) - 1
        return self.found[row] if row >= 0 and offset < self.found[row].end else None


class _Difference:
    def __init__(
        self, before: Snapshot, after: Snapshot, paper: Paper, exports: Sequence[str] | None, demangle: Demangler | None
    ) -> None:
        self.before, self.after = before, after
        self.paper = paper
        self.exports = exports
        graph = after.graph
        assert isinstance(graph.target.kinds, KindTable)
        self.kinds = graph.target.kinds
        self.symbol_names = names_of(graph, graph.symbols.name, demangle)
        self.labels = self._labels()
        self.code: dict[str, _Code] = {}

    def _labels(self) -> list[str]:
        """A name for each block: its first symbol, else section and input."""
        graph = self.after.graph
        sections = names_of(graph, graph.sections.name)
        labels = [sections[section] for section in graph.blocks.section.tolist()]
        symbols = graph.symbols
        named = (symbols.block > 0) & (symbols.kind != SymbolKind.SECTION) & (symbols.name != symbols.name[0])
        for row in named.nonzero()[0][::-1].tolist():
            block = int(symbols.block[row])
            if symbols.offset[row] == 0:
                labels[block] = f"{self.symbol_names[row]} in {sections[int(graph.blocks.section[block])]}"
        return labels

    def lines(self) -> Iterator[str]:
        """All that changed."""
        yield self.paper.heading(f"from {self.before.stage} to {self.after.stage}")
        parts = [self._dropped(), self._roots(), self._made(), self._relaxed(), self._bytes()]
        nothing = True
        for part in parts:
            for number, line in enumerate(part):
                nothing = False
                if number == 0:
                    yield from ("", self.paper.aside(line))
                else:
                    yield line
        if nothing:
            yield "nothing changed"

    def _live_before(self) -> Rows:
        rows: Rows = self.before.graph.blocks.live.nonzero()[0][1:]
        return rows

    def _dropped(self) -> Iterator[str]:
        """The blocks that were part of the link before and are not after."""
        blocks = self.after.graph.blocks
        rows = self._live_before()
        rows = rows[~blocks.live[rows] & (blocks.size[rows] > 0)]
        if not len(rows):
            return
        yield f"dropped: {counted(len(rows), 'block')}, {counted(int(blocks.size[rows].sum()), 'byte')}"
        yield from self.paper.table(
            (
                (f"{int(blocks.size[row]):#x}", self.labels[row], self.after.graph.input_of_block(row))
                for row in rows.tolist()
            ),
            right=(0,),
        )

    def _roots(self) -> Iterator[str]:
        """From which root each block that was kept is reached; only where something was dropped."""
        graph = self.after.graph
        rows = self._live_before()
        if graph.blocks.live[rows].all():
            return
        reached = reached_from(graph, self.exports)
        kept = rows[graph.blocks.live[rows] & (graph.blocks.size[rows] > 0)]
        kept = kept[reached.by_edge[kept] != UNREACHED]
        yield f"kept: {counted(len(kept), 'block')}, with the root that reaches each and the reference to it"
        table = []
        for row in kept.tolist():
            edge = int(reached.by_edge[row])
            if edge == ROOT:
                table.append((self.labels[row], "root", ""))
                continue
            holder = self.labels[int(graph.edges.block[edge])]
            table.append((self.labels[row], f"from {self.labels[reached.root_of(row)]}", f"referred to by {holder}"))
        yield from self.paper.table(table)

    def _made(self) -> Iterator[str]:
        """The blocks that the linker added."""
        graph = self.after.graph
        rows = np.arange(len(self.before.graph.blocks), len(graph.blocks))
        rows = rows[graph.blocks.live[rows]]
        if not len(rows):
            return
        yield f"made by the linker: {counted(len(rows), 'block')}"
        sections = names_of(graph, graph.sections.name)
        table = []
        for row in rows.tolist():
            targets = ", ".join(dict.fromkeys(self._leads_to(row)))
            place = f"at {int(graph.blocks.address[row]):#x}" if self.after.allocated else ""
            table.append(
                (sections[int(graph.blocks.section[row])], f"{int(graph.blocks.size[row]):#x}", place, targets)
            )
        yield from self.paper.table(table, right=(1,))

    def _leads_to(self, block: int, depth: int = 0) -> Iterator[str]:
        """The names that a block of the linker leads to; a stub's through its GOT entry."""
        graph = self.after.graph
        first, last = np.searchsorted(graph.edges.block, (block, block + 1)).tolist()
        for target in graph.edges.target[first:last].tolist():
            held = int(graph.symbols.block[target])
            if held >= len(self.before.graph.blocks) and depth < 2:
                yield from self._leads_to(held, depth + 1)
            else:
                yield self._target(target)

    def _target(self, symbol: int) -> str:
        named = self.after.graph.symbols.name[symbol] != self.after.graph.symbols.name[0]
        return self.symbol_names[symbol] if named else self.labels[int(self.after.graph.symbols.block[symbol])]

    def _relaxed(self) -> Iterator[str]:
        """The instructions that have another relocation kind now, which the linker made."""
        graph = self.after.graph
        made = np.array([kind.number < 0 for kind in self.kinds], np.bool_)
        rows = made[graph.edges.kind] & graph.blocks.live[graph.edges.block]
        rows &= graph.edges.block < len(self.before.graph.blocks)
        if not rows.any() or self.before.allocated:
            return
        found = rows.nonzero()[0]
        yield f"relaxed: {counted(len(found), 'instruction')}"
        table = []
        for row in found.tolist():
            block, offset = int(graph.edges.block[row]), int(graph.edges.offset[row])
            old, new = (self._code(snapshot, block).at(offset) for snapshot in (self.before, self.after))
            table.append(
                (
                    f"{self.labels[block]}+{offset:#x}",
                    graph.target.kinds[int(graph.edges.kind[row])].name,
                    f"{self._target(int(graph.edges.target[row]))}{signed_hex(int(graph.edges.addend[row]))}",
                    f"{old.text} -> {new.text}" if old and new and old.content != new.content else "",
                )
            )
        yield from self.paper.table(table)

    def _code(self, snapshot: Snapshot, block: int) -> _Code:
        """The instructions of a block at a stage; those of the last block asked for are kept."""
        known = self.code.get(snapshot.stage)
        if known is None or known.block != block:
            address = int(self.after.graph.blocks.address[block])
            found = list(instructions(self.after.graph, block, snapshot.bytes_of(block), address))
            known = self.code[snapshot.stage] = _Code(block, found)
        return known

    def _bytes(self) -> Iterator[str]:
        """The fields whose bytes changed, before and after."""
        graph = self.after.graph
        if self.after.graph.working is None:
            return
        table = []
        rows = (graph.blocks.live[graph.edges.block] & (graph.edges.kind > 0)).nonzero()[0]
        for block in np.unique(graph.edges.block[rows]).tolist():
            table += self._changed_fields(block)
        if table:
            yield f"bytes of {counted(len(table), 'place')}, before and after"
            yield from self.paper.table(table)

    def _changed_fields(self, block: int) -> list[tuple[str, str, str, str]]:
        graph = self.after.graph
        made_here = block >= len(self.before.graph.blocks)
        old = graph.content_of(block) if made_here else self.before.bytes_of(block)
        new = self.after.bytes_of(block)
        changed = []
        for part in _parts(old, new, self._field_bounds(block)):
            start, end = part
            place = f"{self.labels[block]}+{start:#x}"
            targets = ", ".join(dict.fromkeys(self._targets_between(block, start, end)))
            changed.append((place, old[start:end].hex(" "), new[start:end].hex(" "), targets))
        return changed

    def _field_bounds(self, block: int) -> list[tuple[int, int]]:
        graph = self.after.graph
        first, last = np.searchsorted(graph.edges.block, (block, block + 1)).tolist()
        sizes = np.maximum(self.kinds.size, 1).tolist()
        return [
            (offset, min(offset + sizes[kind], offset + FIELD_SHOWN))
            for offset, kind in zip(
                graph.edges.offset[first:last].tolist(), graph.edges.kind[first:last].tolist(), strict=True
            )
        ]

    def _targets_between(self, block: int, start: int, end: int) -> Iterator[str]:
        graph = self.after.graph
        first, last = np.searchsorted(graph.edges.block, (block, block + 1)).tolist()
        for offset, target in zip(
            graph.edges.offset[first:last].tolist(), graph.edges.target[first:last].tolist(), strict=True
        ):
            if start <= offset < end:
                yield self._target(target)


def _parts(old: bytes, new: bytes, bounds: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The fields that differ, each place once."""
    for start, end in sorted(set(bounds)):
        if old[start:end] != new[start:end]:
            yield start, end
