"""RISC-V: R_RISCV_ALIGN, the alignment of code whose length the linker decides.

Where code may shrink, an assembler cannot align what follows. It puts in as many bytes of nops as could be
needed, and an R_RISCV_ALIGN over them, and the linker takes out what is too much. That is no optimisation
but needed for any link, also of code in which nothing else is shortened.

How many bytes stay at one place depends on what was taken out before it, those of the places before it
included. That chain is cut by working from the smallest alignment to the largest: where the place before
is aligned at least as much, the bytes needed depend on the distance from there alone.

Source: RISC-V ELF psABI, Relocation for Alignment.
"""

from __future__ import annotations

import numpy as np

from jitlink.columns import Buffer, Rows, rows_of, store_records
from jitlink.errors import MalformedInput
from jitlink.graph import LinkGraph
from jitlink.shrinking import Cuts, ShrinkingBlocks

NOP = np.array([0x00000013], "<u4")
C_NOP = np.array([0x0001], "<u2")


def prepare_alignment(graph: LinkGraph) -> None:
    """Check the alignments in live code, and align blocks as much as what is in them.

    Then what has to be aligned in a block does not depend on where the block is. Raises MalformedInput.
    """
    edges, blocks = graph.edges, graph.blocks
    rows = alignments(graph)
    if not len(rows):
        return
    block, padding = edges.block[rows], edges.addend[rows]
    outside = (padding < 0) | (padding > blocks.size[block] - edges.offset[rows]) | blocks.zero_fill[block]
    if outside.any():
        row = graph.edges[int(rows[outside.argmax()])]
        raise MalformedInput(
            f"an R_RISCV_ALIGN of {row.addend} bytes, which its section does not have",
            input=row.block.input,
            section=row.block.section.name,
            offset=row.offset,
        )
    np.maximum.at(blocks.alignment, block, boundary(padding))


def alignments(graph: LinkGraph) -> Rows:
    """The R_RISCV_ALIGN edges of live blocks: int64[n], ascending."""
    edges = graph.edges
    rows: Rows = (edges.kind == graph.target.kind_number("R_RISCV_ALIGN")).nonzero()[0]
    live: Rows = rows[graph.blocks.live[edges.block[rows]]]
    return live


def boundary(padding: Rows) -> Rows:
    """The alignment that an R_RISCV_ALIGN asks for: the smallest power of two that is greater than its addend.

    for each in padding:
        yield 1 << each.bit_length()
    """
    powers = np.int64(1) << np.arange(62)
    found: Rows = powers[powers.searchsorted(padding, "right")]
    return found


class Alignment:
    """The alignments in some blocks.

    Attributes: rows (int64[n], edges, by their place).
    """

    def __init__(self, code: ShrinkingBlocks, rows: Rows) -> None:
        order = code.edge_at[rows].argsort(kind="stable")
        self.code = code
        self.rows = rows[order]
        self.at = code.edge_at[self.rows]
        self.padding = code.graph.edges.addend[self.rows]
        self.boundary = boundary(self.padding)
        self.number = code.number[code.graph.edges.block[self.rows]]
        self.first_of_block = self.number.searchsorted(self.number)
        self.padding_before = self._before(self.padding)

    def _before(self, counts: Rows) -> Rows:
        """What counts add up to before each place in its block: int64[n] of int64[n]."""
        before = counts.cumsum() - counts
        within: Rows = before - before[self.first_of_block]
        return within

    def cuts(self, others: Cuts) -> tuple[Rows, Rows]:
        """What is to be cut out, given the other cuts: start and count, int64[n] each.

        Raises MalformedInput where the padding is not enough.
        """
        needed = self.needed(others)
        excess = self.padding - needed
        bad = (excess < 0) | (needed & 1 != 0)
        if np.count_nonzero(bad):
            row = int(bad.argmax())
            fault = f"an R_RISCV_ALIGN of {self.padding[row]} bytes where it takes {needed[row]} to align what follows"
            raise self.code.malformed(int(self.rows[row]), fault)
        return self.at + needed, excess

    def needed(self, others: Cuts) -> Rows:
        """How many bytes of padding are needed at each place, given the other cuts: int64[n].

        at = 0 for each block
        for place in its places:
            at += place.code_before
            yield -at % place.boundary
            at += -at % place.boundary
        """
        needed = np.zeros(len(self.rows), np.int64)
        # Where each place would be if no padding were needed anywhere.
        bare = others.moved(self.at) - others.moved(self.code.first)[self.number] - self.padding_before
        for boundary in np.unique(self.boundary).tolist():
            places = (self.boundary >= boundary).nonzero()[0]
            # Smaller alignments have what they need by now, and no place among these has anything yet.
            at = (bare + self._before(needed))[places]
            aligned = np.zeros(len(places), np.int64)
            same_block = self.number[places[1:]] == self.number[places[:-1]]
            aligned[1:][same_block] = at[:-1][same_block]
            ours = self.boundary[places] == boundary
            needed[places[ours]] = (aligned - at)[ours] & (boundary - 1)
        return needed

    def write_nops(self, content: Buffer, others: Cuts) -> None:
        """Write what stays of each padding that is cut as nops, of 4 bytes as far as they go."""
        needed = self.needed(others)
        shorter = needed < self.padding
        at, needed = self.at[shorter], needed[shorter]
        places = rows_of(at, needed // 4, 4)
        store_records(content, places, NOP.repeat(len(places)))
        places = (at + needed // 4 * 4)[needed % 4 > 0]
        store_records(content, places, C_NOP.repeat(len(places)))
