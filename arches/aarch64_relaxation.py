"""AArch64: shorter forms of the pairs of instructions that find an address.

Code that was compiled for shared objects loads the address of a symbol from the GOT, code that was not
computes it; each takes an ADRP and an instruction that holds the low bits:

    ADRP x0, :got:symbol                ADRP x0, symbol             NOP
    LDR  x0, [x0, :got_lo12:symbol]     ADD  x0, x0, :lo12:symbol   ADR x0, symbol

The first form becomes the second where the symbol is within 4 GiB, which is known before the layout, and
then needs no entry. The second becomes the third where the symbol is within 1 MiB, which the layout says.

AAELF64 lets a linker do either where the two instructions are consecutive, use one register and one symbol,
and, for the first, where the two relocations do not appear apart from each other: a load that shares the
ADRP of another one reads the GOT, and must find its page there. As ld.lld, we look for that in each block.

Source: AAELF64, "Relocation optimization".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.arches.aarch64_fields import ADRP21, LO12, LO12_64, WORD, fills
from jitlink.columns import Buffer, Rows, as_address, load_records
from jitlink.fields import Addresses, BitField
from jitlink.formulas import KindTable, Through
from jitlink.graph import LinkGraph

Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint32]

ADRP, ADD, LDR = (0x9F000000, 0x90000000), (0xFFC00000, 0x91000000), (0xFFC00000, 0xF9400000)
"""Mask and bits of the instructions: ADD and LDR of 64 bits, the ADD without a shift."""
REGISTER_31 = 31
"""The zero register to an ADRP, the stack pointer to an ADD and to the base of an LDR."""


class AddressPairs:
    """The relaxations, for a table that has the kinds "GOT page, to page" and its like.

    The kinds that are relaxed are told by how they find their target and by their field, so that those of
    all object formats are.
    """

    def __init__(self, kinds: KindTable) -> None:
        self.kinds = kinds
        self.to_page, self.to_add = kinds.by_name["GOT page, to page"], kinds.by_name["GOT load, to add"]
        self.to_nop, self.to_adr = kinds.by_name["page, to nop"], kinds.by_name["add, to adr"]
        self.got_page = self._that(Through.RELAXABLE_GOT_ENTRY, ADRP21)
        self.got_load = self._that(Through.RELAXABLE_GOT_ENTRY, LO12_64)
        self.page = self._that(Through.DIRECT, ADRP21)
        self.add = self._that(Through.DIRECT, LO12)

    def _that(self, through: Through, *fields: BitField) -> Mask:
        """Which kinds find their target in a way and fill the bits of one of some fields: bool[kinds]."""
        return np.array(
            [not kind.reason and kind.through == through and fills(kind.field, *fields) for kind in self.kinds.rows]
        )

    def relax(self, graph: LinkGraph, rows: Rows) -> tuple[Rows, Rows]:
        """Find the relaxed form of GOT loads whose target is near; see Architecture.relax.

        rows: int64[n], edges. Returns (kind, shift), int64[n] each.
        """
        edges = graph.edges
        users = _in_order(graph, self.got_page | self.got_load)
        first = _pairs(graph, users, self.got_page)
        apart = np.ones(len(users), np.bool_)
        apart[first] = apart[first + 1] = False
        mixed = np.zeros(len(graph.blocks), np.bool_)
        mixed[edges.block[users[apart]]] = True
        pages, loads = users[first], users[first + 1]
        usable = (edges.addend[pages] == 0) & (edges.addend[loads] == 0) & ~mixed[edges.block[pages]]
        usable &= _one_register(_in_pool(graph, pages), _in_pool(graph, loads), LDR)
        relaxed = np.zeros(len(edges), np.int64)
        relaxed[pages[usable]], relaxed[loads[usable]] = self.to_page, self.to_add
        return relaxed[rows], np.zeros(len(rows), np.int64)

    def shorten(self, graph: LinkGraph, image: Buffer, positions: Rows, addresses: Addresses) -> None:
        """Let an ADR take the place of pairs whose target is within 1 MiB; see Architecture.shorten."""
        edges = graph.edges
        users = _in_order(graph, self.page | self.add)
        users = users[graph.blocks.live[edges.block[users]]]
        first = _pairs(graph, users, self.page)
        if not len(first):
            return
        pages, adds = users[first], users[first + 1]
        place = positions[edges.block[pages]] + edges.offset[pages]
        words, following = (load_records(image, place + distance, WORD) for distance in (0, 4))
        # Where the second is still the load that it was, relax has looked at the registers.
        usable = _one_register(words, following, ADD) | (edges.kind[adds] == self.to_add)
        usable &= edges.addend[pages] == edges.addend[adds]
        target = addresses[edges.target[adds]] + as_address(edges.addend[adds])
        here = graph.blocks.address[edges.block[adds]] + as_address(edges.offset[adds])
        beyond = self.kinds.rows[self.to_adr].check.bad(target - here)
        assert beyond is not None
        usable &= ~beyond
        edges.kind[pages[usable]], edges.kind[adds[usable]] = self.to_nop, self.to_adr


def _in_order(graph: LinkGraph, of_kind: Mask) -> Rows:
    """The edges of some kinds by block and offset: int64[n]. Objects need not have them in that order."""
    edges = graph.edges
    rows = of_kind[edges.kind].nonzero()[0]
    ordered: Rows = rows[np.lexsort((edges.offset[rows], edges.block[rows]))]
    return ordered


def _pairs(graph: LinkGraph, users: Rows, is_first: Mask) -> Rows:
    """Find where a fixup of one sort is followed, in the next instruction, by another with the same target.

    users: int64[n], edges by block and offset; is_first: bool[kinds]. Returns int64[pairs], places in users.
    """
    edges = graph.edges
    block, offset, target = edges.block[users], edges.offset[users], edges.target[users]
    first = is_first[edges.kind[users]]
    pair = first[:-1] & ~first[1:] & (block[1:] == block[:-1]) & (target[1:] == target[:-1])
    found: Rows = (pair & (offset[1:] == offset[:-1] + 4)).nonzero()[0]
    return found


def _one_register(words: Words, following: Words, instruction: tuple[int, int]) -> Mask:
    """Whether words are ADRPs, and those that follow an instruction that reads and writes the same register."""
    mask, bits = instruction
    register = words & 0x1F
    one: Mask = ((words & ADRP[0]) == ADRP[1]) & ((following & mask) == bits)
    one &= ((following & 0x1F) == register) & ((following >> 5 & 0x1F) == register)
    one &= register != REGISTER_31
    return one


def _in_pool(graph: LinkGraph, rows: Rows) -> Words:
    """Read the instruction of each fixup as the inputs have it; 0 for what is not in the pool. uint32[n]."""
    block = graph.edges.block[rows]
    place = graph.blocks.content[block] + graph.edges.offset[rows]
    readable = (place + WORD.itemsize <= len(graph.pool)) & ~graph.blocks.zero_fill[block]
    words = np.zeros(len(rows), WORD)
    words[readable] = load_records(graph.pool, place[readable], WORD)
    return words
