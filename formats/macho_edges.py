"""Edges under construction: columns of the graph's table, gathered from several sources and filled in once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitlink.columns import NO_ROWS, Rows
from jitlink.graph import LinkGraph


@dataclass
class EdgeColumns:
    """Some edges, in any order: int64[n] each, with the meanings of the columns of jitlink.graph.tables.Edges."""

    block: Rows = field(default_factory=lambda: NO_ROWS)
    offset: Rows = field(default_factory=lambda: NO_ROWS)
    kind: Rows = field(default_factory=lambda: NO_ROWS)
    target: Rows = field(default_factory=lambda: NO_ROWS)
    addend: Rows = field(default_factory=lambda: NO_ROWS)

    def __len__(self) -> int:
        return len(self.block)

    def fill(self, graph: LinkGraph, keep: npt.NDArray[np.bool_] | None = None) -> None:
        """Fill the table of edges, sorted by block. keep: bool[n], which of them."""
        block = self.block
        order = block.argsort(kind="stable") if (block[1:] < block[:-1]).any() else None
        if keep is not None:
            order = keep.nonzero()[0] if order is None else order[keep[order]]
        null = np.zeros(1, np.int64)
        columns = vars(self).items()
        graph.edges.fill(
            **{name: np.concatenate((null, column if order is None else column[order])) for name, column in columns}
        )


def together(parts: Sequence[EdgeColumns]) -> EdgeColumns:
    """All edges of some parts; those of one part stay in their order."""
    parts = [part for part in parts if len(part)]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return EdgeColumns()
    return EdgeColumns(
        *(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True))
    )
