"""RISC-V linker relaxation: code that was written for any distance, made shorter for the real ones.

A compiler does not know how far away anything is, and writes sequences that reach 2 GiB. Where the assembler
has marked them by R_RISCV_RELAX, the linker may take shorter ones:

    call          auipc + jalr             jal within 1 MiB; c.j within 2 KiB if nothing is to return
    lui           lui + use                use of x0 near address 0, or of gp near __global_pointer$;
                                           c.lui where the upper part has 6 bits
    auipc         auipc + use              use of x0 or gp, as for lui
    GOT load      auipc + ld               auipc + addi (riscv64_pairs, before entries are made), then as auipc
    alignment     nops                     as many as are needed (riscv64_alignment; that is no choice)

A use is any instruction with a lower part. An upper part may only go if all that goes with it can do
without; so they are taken together as a group: of auipc those whose labels are at it, of lui those to one
symbol in one input (the psABI says: in one section, but compilers split functions into two).

gp is used only where the inputs themselves define __global_pointer$: elsewhere the register belongs to the
program that we are linked into. Compressed instructions are used in code of objects that have them
(EF_RISCV_RVC), and not beside padding that was made for code without them.

What is shortened brings other code nearer, and sometimes alignment pushes some farther away. So there are
rounds: choose by the addresses of the last layout, cut, lay out. What turns out not to fit is put back and
left alone from there on. In later rounds nothing more is shortened, and if even that does not come to rest,
everything is left as it was written. That bounds the work by a fixed number of layouts.

Source: RISC-V ELF psABI, Linker Relaxation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from jitlink.arches.riscv64_addresses import AddressGroups
from jitlink.arches.riscv64_alignment import Alignment, alignments, prepare_alignment
from jitlink.arches.riscv64_calls import Calls
from jitlink.arches.riscv64_flags import check_flags, compressed_blocks
from jitlink.arches.riscv64_pairs import marked_for_relaxation
from jitlink.columns import Buffer, Rows
from jitlink.fields import Addresses
from jitlink.graph import Definition, LinkGraph
from jitlink.shrinking import Cuts, ShrinkingBlocks

GLOBAL_POINTER = b"__global_pointer$"


def prepare(graph: LinkGraph, relax: bool) -> None:
    """Check what the inputs say of themselves and of their alignments; forget marks if nothing is to be relaxed.

    Leaves blocks aligned as much as what is in them. Raises UnsupportedInput, MalformedInput, LinkFailure.
    """
    check_flags(graph)
    prepare_alignment(graph)
    if not relax:
        edges = graph.edges
        edges.kind[edges.kind == graph.target.kind_number("R_RISCV_RELAX")] = 0


def find_relaxations(graph: LinkGraph, symbol_named: Callable[[bytes], int]) -> Relaxations | None:
    """Find the code that may be shortened; None if there is none.

    symbol_named: the symbol that a name stands for, or 0. Needs aimed edges, GOT entries and stubs.
    """
    edges, blocks = graph.edges, graph.blocks
    marked = marked_for_relaxation(graph) & (blocks.live & ~blocks.zero_fill)[edges.block]
    padded = alignments(graph)
    if not len(padded) and not np.count_nonzero(marked):
        return None
    # A pass may have given some of this code content of its own.
    graph.settle()
    return Relaxations(graph, marked, padded, symbol_named(GLOBAL_POINTER))


class Relaxations:
    """The relaxations of a link.

    Attributes: code (the blocks that may shrink).
    """

    def __init__(self, graph: LinkGraph, marked: npt.NDArray[np.bool_], padded: Rows, global_pointer: int) -> None:
        """marked: bool[edges], those that may be relaxed. padded: int64[n], the alignments."""
        compressed = compressed_blocks(graph, padded)
        symbols = graph.symbols
        if symbols.definition[global_pointer] not in (Definition.DEFINED, Definition.ABSOLUTE):
            global_pointer = 0
        self.calls = Calls(graph, marked, compressed)
        self.addresses = AddressGroups(graph, marked, compressed, global_pointer)
        changing = np.concatenate((self.calls.rows, *self.addresses.rows(), padded))
        block = np.unique(graph.edges.block[changing])
        self.code = ShrinkingBlocks(graph, block)
        self.alignment = Alignment(self.code, padded)
        self._refuse_overlaps()

    def _refuse_overlaps(self) -> None:
        """Refuse instructions and padding that share bytes: cuts of them would be cuts of each other."""
        upper, lower = self.addresses.rows()
        rows = np.concatenate((self.calls.rows, upper, lower, self.alignment.rows))
        size = np.concatenate(
            (
                np.full(len(self.calls.rows), 8),
                np.full(len(upper) + len(lower), 4),
                self.alignment.padding,
            )
        )
        order = self.code.edge_at[rows].argsort(kind="stable")
        rows, size = rows[order], size[order]
        at = self.code.edge_at[rows]
        overlap = at[:-1] + size[:-1] > at[1:]
        if np.count_nonzero(overlap):
            fault = "instructions that are marked for relaxation share bytes"
            raise self.code.malformed(int(rows[overlap.argmax()]), fault)

    def choose(self, addresses: Addresses, *, more: bool) -> bool:
        """Choose what to shorten by the addresses of the last layout; says whether that changes anything.

        addresses: uint64[symbols]. more: whether anything may be shortened that was not in the last round.
        """
        changed = self.calls.choose(addresses, more=more)
        return self.addresses.choose(addresses, more=more) or changed

    def give_up(self) -> None:
        """Leave everything as it was written, but for the alignments."""
        self.calls.give_up()
        self.addresses.give_up()

    def cut(self) -> None:
        """Say in the graph where everything is after what was chosen. Raises MalformedInput."""
        self.code.cut(self._all_cuts(self._code_cuts()))

    def _code_cuts(self) -> Cuts:
        parts = (*self.calls.cuts(), *self.addresses.cuts())
        rows = np.concatenate([row for row, _, _ in parts])
        skipped = np.concatenate([np.full(len(row), distance) for row, distance, _ in parts])
        count = np.concatenate([np.full(len(row), size) for row, _, size in parts])
        return Cuts(self.code.edge_at[rows] + skipped, count)

    def _all_cuts(self, code: Cuts) -> Cuts:
        start, count = self.alignment.cuts(code)
        return Cuts(np.concatenate((code.start, start)), np.concatenate((code.count, count)))

    def rewrite(self, addresses: Addresses) -> None:
        """Rewrite the instructions. Needs final addresses; leaves content and edges of what was chosen."""
        code_cuts = self._code_cuts()
        cuts = self._all_cuts(code_cuts)
        content: Buffer = self.code.content()
        self.calls.rewrite(content, self.code.edge_at)
        self.addresses.rewrite(content, self.code.edge_at, addresses)
        self.alignment.write_nops(content, code_cuts)
        self.code.refuse_damage(cuts)
        self.code.replace_content(content, cuts)
