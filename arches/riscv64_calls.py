"""RISC-V linker relaxation of calls: `auipc; jalr` becomes `jal` or `c.j`.

Source: RISC-V ELF psABI, Linker Relaxation (Function Call, Compressed Tail Call). The compressed
form of a call that returns, c.jal, is one of RV32 alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitlink.arches.riscv64_pairs import of_kinds
from jitlink.columns import Buffer, Column, Rows, load_records, store_records
from jitlink.fields import Addresses
from jitlink.graph import LinkGraph

PAIR = np.dtype("<u8")
OPCODES_OF_PAIR = np.uint64(0x0000707F_0000007F)
AUIPC_AND_JALR = np.uint64(0x00000067_00000017)
LINK_SHIFT, REGISTER = np.uint64(39), np.uint64(31)
"""Where the jalr of a pair names the register that it leaves its return address in."""
JAL, C_J = 0x6F, 0xA001

AS_WRITTEN, AS_JAL, AS_C_J = range(3)
REACH_OF_JAL, REACH_OF_C_J = 1 << 20, 1 << 11
CutsOfRows = tuple[Rows, int, int]
"""Edges, and which bytes go from the place of each: how many stay before them, and how many they are."""


class Calls:
    """The calls that may be relaxed.

    Attributes: rows (int64[n], edges), form (int64[n], AS_WRITTEN, AS_JAL or AS_C_J).
    """

    def __init__(self, graph: LinkGraph, marked: npt.NDArray[np.bool_], compressed: npt.NDArray[np.bool_]) -> None:
        """marked: bool[edges]. compressed: bool[blocks], where compressed instructions may be used."""
        edges, blocks = graph.edges, graph.blocks
        rows = marked.nonzero()[0]
        rows = rows[of_kinds(graph, edges.kind[rows], ("R_RISCV_CALL", "R_RISCV_CALL_PLT"))]
        place = blocks.content[edges.block[rows]] + edges.offset[rows]
        pair = load_records(graph.pool, place, PAIR)
        is_call = (pair & OPCODES_OF_PAIR) == AUIPC_AND_JALR
        self.graph = graph
        self.rows = rows[is_call]
        self.link = ((pair[is_call] >> LINK_SHIFT) & REGISTER).astype(np.int64)
        self.form = np.zeros(len(self.rows), np.int64)
        self.shortest = np.where(compressed[edges.block[self.rows]] & (self.link == 0), AS_C_J, AS_JAL)

    def choose(self, addresses: Addresses, *, more: bool) -> bool:
        """Choose the form of each call; says whether any changed. What does not fit will never be chosen again."""
        edges = self.graph.edges
        place = self.graph.blocks.address[edges.block[self.rows]] + edges.offset[self.rows].view(np.uint64)
        target = addresses[edges.target[self.rows]] + edges.addend[self.rows].view(np.uint64)
        distance = (target - place).view(np.int64)
        form = np.zeros(len(self.rows), np.int64)
        form[(distance >= -REACH_OF_JAL) & (distance < REACH_OF_JAL)] = AS_JAL
        form[(distance >= -REACH_OF_C_J) & (distance < REACH_OF_C_J)] = AS_C_J
        form[distance & 1 != 0] = AS_WRITTEN
        self.shortest = np.where(form < self.form, np.minimum(form, self.shortest), self.shortest)
        form = np.minimum(form, self.shortest if more else np.minimum(self.shortest, self.form))
        changed = bool(np.count_nonzero(form != self.form))
        self.form = form
        return changed

    def give_up(self) -> None:
        """Leave all calls as they were written."""
        self.form[:] = self.shortest[:] = AS_WRITTEN

    def cuts(self) -> list[CutsOfRows]:
        """What is cut out of the calls."""
        return [(self.rows[self.form == AS_JAL], 4, 4), (self.rows[self.form == AS_C_J], 2, 6)]

    def rewrite(self, content: Buffer, edge_at: Column) -> None:
        """Write the shorter instructions, and give the edges their kinds. edge_at: int64[edges], in content."""
        jal, c_j = self.form == AS_JAL, self.form == AS_C_J
        store_records(content, edge_at[self.rows[jal]], (JAL | self.link[jal] << 7).astype("<u4"))
        store_records(content, edge_at[self.rows[c_j]], np.full(np.count_nonzero(c_j), C_J, "<u2"))
        kinds = self.graph.edges.kind
        kinds[self.rows[jal]] = self.graph.target.kind_number("R_RISCV_JAL")
        kinds[self.rows[c_j]] = self.graph.target.kind_number("R_RISCV_RVC_JUMP")
