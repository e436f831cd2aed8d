"""RISC-V linker relaxation of addresses: `lui; use` and `auipc; use` become a use of x0 or gp.

A group is an upper part and everything that goes with it; all of a group is relaxed, or nothing. Its
addresses differ only by their addends, so that the lowest and the highest say whether it fits.

Source: RISC-V ELF psABI, Linker Relaxation (Global-pointer, Zero-page and Compressed LUI Relaxation). The psABI has the
zero page for lui alone. GNU ld does the same for auipc, and so do we: it is how weak symbols that nothing
defines, whose address is 0, are reached from code that is 2 GiB away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitlink.arches.riscv64_calls import CutsOfRows
from jitlink.arches.riscv64_fields import ADDI, LUI, OPCODE, OPCODE_AND_FUNCT3
from jitlink.arches.riscv64_pairs import ABSOLUTE_KIND_OF, OF_NOTHING, change_kinds, find_pairs, of_kinds
from jitlink.columns import Buffer, Column, Rows, load_records, store_records
from jitlink.fields import Addresses
from jitlink.graph import LinkGraph, SymbolKind

INSTRUCTION = np.dtype("<u4")
AUIPC = 0x17
DESTINATION_SHIFT, BASE_SHIFT, REGISTER = 7, 15, 31
SP, GP = 2, 3
C_LUI = 0x6001

AS_WRITTEN, FROM_ZERO, FROM_GP = range(3)
REACH = 1 << 11
SECTION_SYMBOL = int(SymbolKind.SECTION)
LOADS_AS_ADDI = "PCREL_LO12_I, ld to addi"


@dataclass
class Groups:
    """Upper and lower parts that are relaxed together.

    Attributes: upper, lower (int64, edges); group_of_upper, group_of_lower (int64, the number of the group of
    each); target (int64[groups], the symbol); lowest, highest (int64[groups], of the addends); paired
    (int64[groups], the upper part whose target and addend are those of the lower ones too, or 0).
    """

    upper: Rows
    lower: Rows
    group_of_upper: Rows
    group_of_lower: Rows
    target: Rows
    lowest: Rows
    highest: Rows
    paired: Rows


class AddressGroups:
    """The addresses that may be relaxed."""

    def __init__(
        self,
        graph: LinkGraph,
        marked: npt.NDArray[np.bool_],
        compressed: npt.NDArray[np.bool_],
        global_pointer: int,
    ) -> None:
        """marked: bool[edges]. compressed: bool[blocks]. global_pointer: the symbol that gp holds, or 0."""
        self.graph = graph
        self.global_pointer = global_pointer
        self.groups = groups = _joined(_absolute_groups(graph, marked), _relative_groups(graph, marked))
        self.state = np.zeros(len(groups.target), np.int64)
        self.refused = np.zeros(len(groups.target), np.bool_)
        self._find_compressible(marked, compressed)

    def _find_compressible(self, marked: npt.NDArray[np.bool_], compressed: npt.NDArray[np.bool_]) -> None:
        """Find the lui that could be c.lui: that has no form for the stack pointer, and x0 is a hint."""
        graph, edges = self.graph, self.graph.edges
        rows = marked.nonzero()[0]
        rows = rows[of_kinds(graph, edges.kind[rows], ("R_RISCV_HI20",))]
        rows = rows[compressed[edges.block[rows]]]
        words = _instructions(graph, rows)
        register = (words >> DESTINATION_SHIFT) & REGISTER
        usable = (words & OPCODE == LUI) & (register != 0) & (register != SP)
        self.lui, self.lui_register = rows[usable], register[usable]
        self.short = np.zeros(len(self.lui), np.bool_)
        self.lui_refused = np.zeros(len(self.lui), np.bool_)
        group_of_edge = np.full(len(edges), -1, np.int64)
        group_of_edge[self.groups.upper] = self.groups.group_of_upper
        self.group_of_lui = group_of_edge[self.lui]

    def rows(self) -> tuple[Rows, Rows]:
        """All edges whose instructions may change, upper and lower parts: two int64 arrays."""
        return np.union1d(self.groups.upper, self.lui), self.groups.lower

    def choose(self, addresses: Addresses, *, more: bool) -> bool:
        """Choose what each group is relaxed to; says whether anything changed."""
        groups, signed = self.groups, addresses.view(np.int64)
        base = signed[groups.target]
        lowest, highest = base + groups.lowest, base + groups.highest
        state = np.zeros(len(base), np.int64)
        if self.global_pointer:
            gp = signed[self.global_pointer]
            near = (lowest - gp >= -REACH) & (highest - gp < REACH)
            state[near & (groups.target != self.global_pointer)] = FROM_GP
        state[(lowest >= -REACH) & (highest < REACH)] = FROM_ZERO
        self.refused |= (self.state != AS_WRITTEN) & (state != self.state)
        state[self.refused] = AS_WRITTEN
        if not more:
            state = np.where(self.state == AS_WRITTEN, AS_WRITTEN, state)
        changed = bool(np.count_nonzero(state != self.state))
        self.state = state
        return self._choose_lui(signed, more=more) or changed

    def _choose_lui(self, addresses: npt.NDArray[np.int64], *, more: bool) -> bool:
        edges = self.graph.edges
        upper = (addresses[edges.target[self.lui]] + edges.addend[self.lui] + 0x800) >> 12
        fits = (upper >= -32) & (upper < 32) & (upper != 0)
        self.lui_refused |= self.short & ~fits
        short = fits & ~self.lui_refused & (more | self.short)
        grouped = self.group_of_lui >= 0
        short[grouped] &= self.state[self.group_of_lui[grouped]] == AS_WRITTEN
        changed = bool(np.count_nonzero(short != self.short))
        self.short = short
        return changed

    def give_up(self) -> None:
        """Leave all addresses as they were written."""
        self.state[:] = AS_WRITTEN
        self.short[:] = False

    def cuts(self) -> list[CutsOfRows]:
        """What is cut out: whole upper parts, and what c.lui is shorter than lui."""
        gone = self.state[self.groups.group_of_upper] != AS_WRITTEN
        return [(self.groups.upper[gone], 0, 4), (self.lui[self.short], 2, 2)]

    def rewrite(self, content: Buffer, edge_at: Column, addresses: Addresses) -> None:
        """Let uses take x0 or gp as their base; edge_at: int64[edges], in content. Needs final addresses."""
        graph, edges, groups = self.graph, self.graph.edges, self.groups
        self._write_bases(content, edge_at)
        changed = self.state[groups.group_of_lower] != AS_WRITTEN
        lower, upper = groups.lower[changed], groups.paired[groups.group_of_lower[changed]]
        relative = upper > 0
        edges.target[lower[relative]] = edges.target[upper[relative]]
        edges.addend[lower[relative]] = edges.addend[upper[relative]]
        change_kinds(graph, lower, ABSOLUTE_KIND_OF)
        from_gp = groups.lower[self.state[groups.group_of_lower] == FROM_GP]
        edges.addend[from_gp] -= addresses[self.global_pointer : self.global_pointer + 1].view(np.int64)
        edges.kind[groups.upper[self.state[groups.group_of_upper] != AS_WRITTEN]] = 0
        c_lui = (C_LUI | self.lui_register[self.short] << DESTINATION_SHIFT).astype("<u2")
        store_records(content, edge_at[self.lui[self.short]], c_lui)
        edges.kind[self.lui[self.short]] = graph.target.kind_number("HI20, c.lui")

    def _write_bases(self, content: Buffer, edge_at: Column) -> None:
        graph, lower = self.graph, self.groups.lower
        state = self.state[self.groups.group_of_lower]
        lower, state = lower[state != AS_WRITTEN], state[state != AS_WRITTEN]
        words = load_records(content, edge_at[lower], INSTRUCTION).astype(np.int64)
        words &= ~(REGISTER << BASE_SHIFT)
        words |= np.where(state == FROM_GP, GP, 0) << BASE_SHIFT
        loads = graph.edges.kind[lower] == graph.target.kind_number(LOADS_AS_ADDI)
        words[loads] = words[loads] & ~OPCODE_AND_FUNCT3 | ADDI
        store_records(content, edge_at[lower], words.astype(INSTRUCTION))


def _absolute_groups(graph: LinkGraph, marked: npt.NDArray[np.bool_]) -> Groups:
    """Group the parts of absolute addresses: all of one input with one target."""
    edges, blocks, symbols = graph.edges, graph.blocks, graph.symbols
    rows = of_kinds(graph, edges.kind, ("R_RISCV_HI20", "R_RISCV_LO12_I", "R_RISCV_LO12_S")).nonzero()[0]
    rows = rows[blocks.live[edges.block[rows]]]
    input = graph.sections.input[blocks.section[edges.block[rows]]]
    keys, group = np.unique(input * len(symbols) + edges.target[rows], return_inverse=True)
    is_upper = of_kinds(graph, edges.kind[rows], ("R_RISCV_HI20",))
    good = marked[rows] & (symbols.kind[edges.target[rows]] != SECTION_SYMBOL)
    uppers = rows[is_upper & good]
    good[is_upper & good] = _instructions(graph, uppers) & OPCODE == LUI
    lowest, highest = np.full(len(keys), np.iinfo(np.int64).max), np.full(len(keys), np.iinfo(np.int64).min)
    np.minimum.at(lowest, group, edges.addend[rows])
    np.maximum.at(highest, group, edges.addend[rows])
    whole = (np.bincount(group[~good], minlength=len(keys)) == 0) & (
        np.bincount(group[~is_upper], minlength=len(keys)) > 0
    )
    return _of_whole(
        Groups(
            rows[is_upper],
            rows[~is_upper],
            group[is_upper],
            group[~is_upper],
            keys % len(symbols),
            lowest,
            highest,
            np.zeros(len(keys), np.int64),
        ),
        whole,
    )


def _relative_groups(graph: LinkGraph, marked: npt.NDArray[np.bool_]) -> Groups:
    """Group the parts of addresses relative to their place: one auipc, and those whose labels are at it."""
    edges, symbols = graph.edges, graph.symbols
    lower, upper_of_lower = find_pairs(graph, graph.blocks.live[edges.block].nonzero()[0])
    upper, group = np.unique(upper_of_lower, return_inverse=True)
    target, addend = edges.target[upper], edges.addend[upper]
    good = marked[upper] & of_kinds(graph, edges.kind[upper], ("R_RISCV_PCREL_HI20", OF_NOTHING))
    good &= symbols.kind[target] != SECTION_SYMBOL
    good[good] = _instructions(graph, upper[good]) & OPCODE == AUIPC
    good &= np.bincount(group[~marked[lower]], minlength=len(upper)) == 0
    groups = Groups(upper, lower, np.arange(len(upper)), group, target, addend, addend, upper)
    return _of_whole(groups, good)


def _of_whole(groups: Groups, whole: npt.NDArray[np.bool_]) -> Groups:
    """Leave the other groups out."""
    number = np.cumsum(whole) - 1
    upper, lower = whole[groups.group_of_upper], whole[groups.group_of_lower]
    return Groups(
        groups.upper[upper],
        groups.lower[lower],
        number[groups.group_of_upper[upper]],
        number[groups.group_of_lower[lower]],
        groups.target[whole],
        groups.lowest[whole],
        groups.highest[whole],
        groups.paired[whole],
    )


def _joined(one: Groups, other: Groups) -> Groups:
    count = len(one.target)
    return Groups(
        np.concatenate((one.upper, other.upper)),
        np.concatenate((one.lower, other.lower)),
        np.concatenate((one.group_of_upper, other.group_of_upper + count)),
        np.concatenate((one.group_of_lower, other.group_of_lower + count)),
        np.concatenate((one.target, other.target)),
        np.concatenate((one.lowest, other.lowest)),
        np.concatenate((one.highest, other.highest)),
        np.concatenate((one.paired, other.paired)),
    )


def _instructions(graph: LinkGraph, rows: Rows) -> Rows:
    """Read the instructions that edges are in, whose blocks are in the pool: int64[n] of int64[n]."""
    place = graph.blocks.content[graph.edges.block[rows]] + graph.edges.offset[rows]
    words: Rows = load_records(graph.pool, place, INSTRUCTION).astype(np.int64)
    return words
