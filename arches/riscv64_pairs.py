"""RISC-V: relocations that are a value only together.

An address relative to the place needs two instructions, auipc for its upper part and another one for the
lower. Only the distance from the auipc counts, so the lower relocation does not name what is addressed: its
symbol is a label at the auipc, and there the upper relocation has the rest. Several lower ones may go with
one upper one, and they need not stand near it, nor in the same block.

    label:  auipc a0, %pcrel_hi(datum)         R_RISCV_PCREL_HI20    datum
            ...
            ld    a1, %pcrel_lo(label)(a0)     R_RISCV_PCREL_LO12_I  label

When addresses are final, a lower relocation is given the target and the addend of its upper one, with the
distance between the two places added, so that S + A - P is the upper one's value.

A distance between two labels in ULEB128 form is a pair too: SET_ULEB128 and SUB_ULEB128 at one place, one
behind the other. Neither means anything alone, since an address does not fit where the distance does.

Source: RISC-V ELF psABI, Relocations (PC-Relative Symbol Addresses; SET_ULEB128 and SUB_ULEB128).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from jitlink.arches.riscv64_fields import LONGEST_ULEB128, OPCODE_AND_FUNCT3, uleb128_lengths
from jitlink.columns import Buffer, Column, Rows, load_records
from jitlink.errors import MalformedInput, OutOfRange
from jitlink.fields import Addresses
from jitlink.fixups import place_of
from jitlink.graph import LinkGraph

OF_NOTHING = "PCREL_HI20 of nothing, auipc to lui"
"""What an upper part becomes for a weak symbol that nothing defines: the address 0 is out of reach of auipc."""
UPPER_KINDS = (
    "R_RISCV_PCREL_HI20",
    "R_RISCV_GOT_HI20",
    "R_RISCV_TLS_GOT_HI20",
    "R_RISCV_TLS_GD_HI20",
    "R_RISCV_TLSDESC_HI20",
    OF_NOTHING,
)
PAIRED_KIND_OF = {
    "R_RISCV_PCREL_LO12_I": "PCREL_LO12_I, paired",
    "R_RISCV_PCREL_LO12_S": "PCREL_LO12_S, paired",
    "PCREL_LO12_I, ld to addi": "PCREL_LO12_I, ld to addi, paired",
    "R_RISCV_TLSDESC_LOAD_LO12": "PCREL_LO12_I, paired",
    "R_RISCV_TLSDESC_ADD_LO12": "PCREL_LO12_I, paired",
}
"""The lower kinds, and what they become once they have their upper part's target."""
ABSOLUTE_KIND_OF = {
    "R_RISCV_PCREL_LO12_I": "R_RISCV_LO12_I",
    "R_RISCV_PCREL_LO12_S": "R_RISCV_LO12_S",
    "PCREL_LO12_I, ld to addi": "R_RISCV_LO12_I",
}
"""What they become where the address is no longer one relative to the place."""
INSTRUCTION = np.dtype("<u4")
LD = 0x3003


def settle_pairs(graph: LinkGraph, rows: Rows, image: Buffer, positions: Column, addresses: Addresses) -> None:
    """Make single relocations of the pairs among the edges at rows. Needs final addresses.

    image: uint8[bytes], with the content of the blocks. positions: int64[blocks], where each one starts in
    it. addresses: uint64[symbols]. Raises MalformedInput for a lower part without an upper one and for half
    a ULEB128 pair, OutOfRange for a distance that needs more bytes than there are.
    """
    _settle_lower_parts(graph, rows)
    _settle_uleb128(graph, rows, image, positions, addresses)


def _settle_lower_parts(graph: LinkGraph, rows: Rows) -> None:
    lower, upper = find_pairs(graph, rows)
    if not len(lower):
        return
    edges = graph.edges
    place = graph.blocks.address[edges.block].view(np.int64) + edges.offset
    absolute = edges.kind[upper] == graph.target.kind_number(OF_NOTHING)
    edges.target[lower] = edges.target[upper]
    edges.addend[lower] = edges.addend[upper] + np.where(absolute, 0, place[lower] - place[upper])
    change_kinds(graph, lower[absolute], ABSOLUTE_KIND_OF)
    change_kinds(graph, lower[~absolute], PAIRED_KIND_OF)


def change_kinds(graph: LinkGraph, rows: Rows, becomes: Mapping[str, str]) -> None:
    """Give edges at rows other kinds, as far as becomes has one for theirs."""
    new_kind = np.arange(len(graph.target.kinds))
    for name, new_name in becomes.items():
        new_kind[graph.target.kind_number(name)] = graph.target.kind_number(new_name)
    graph.edges.kind[rows] = new_kind[graph.edges.kind[rows]]


def find_pairs(graph: LinkGraph, rows: Rows) -> tuple[Rows, Rows]:
    """Find the lower parts among the edges at rows, and the upper part of each.

    rows: int64[n], ascending. Returns two int64[pairs], edges. Raises MalformedInput for a lower part
    whose label is at no upper one.
    """
    edges, symbols = graph.edges, graph.symbols
    kind = edges.kind[rows]
    lower = rows[of_kinds(graph, kind, tuple(PAIRED_KIND_OF))]
    if not len(lower):
        return lower, lower
    upper = rows[of_kinds(graph, kind, UPPER_KINDS)]
    label = edges.target[lower]
    block, offset = symbols.block[label], symbols.offset[label]
    # A place as one number: offsets of upper parts are below width, and what is not is no place of one.
    width = int(edges.offset[upper].max(initial=0)) + 1
    inside = (block > 0) & (offset < np.uint64(width))
    wanted = block * width + np.where(inside, offset, 0).view(np.int64)
    there = edges.block[upper] * width + edges.offset[upper]
    order = there.argsort(kind="stable")
    upper, there = upper[order], there[order]
    nearest = np.minimum(there.searchsorted(wanted), max(len(there) - 1, 0))
    found = inside & (there[nearest] == wanted) if len(there) else np.zeros(len(lower), np.bool_)
    if not found.all():
        raise _lost(graph, int(lower[(~found).argmax()]))
    return lower, upper[nearest]


def of_kinds(graph: LinkGraph, kind: Rows, names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Say which kinds are among those of some names. kind: int64[n]. Returns bool[n]."""
    wanted = np.zeros(len(graph.target.kinds), np.bool_)
    wanted[[graph.target.kind_number(name) for name in names]] = True
    chosen: npt.NDArray[np.bool_] = wanted[kind]
    return chosen


def _lost(graph: LinkGraph, edge: int) -> MalformedInput:
    row = graph.edges[edge]
    return MalformedInput(
        f"{row.kind} is the lower part of an address, and at its label is no upper part (HI20)",
        input=row.block.input,
        section=row.block.section.name,
        offset=row.offset,
        symbol=row.target.name,
    )


def relax_got_loads(graph: LinkGraph, rows: Rows) -> tuple[Rows, Rows]:
    """Compute addresses instead of loading them from the GOT, where the target is near.

    rows: int64[n], edges of kind GOT_HI20. The auipc stays, and each `ld` that goes with it becomes an
    `addi`. Both have to be marked by R_RISCV_RELAX, and all that goes with an auipc has to be an ld.
    Returns (kind, shift), int64[n] each: the new kind, or 0 where the load stays, and 0.
    """
    edges = graph.edges
    live = graph.blocks.live[edges.block].nonzero()[0]
    lower, upper = find_pairs(graph, live)
    state = np.zeros(len(edges), np.int8)
    marked = marked_for_relaxation(graph)
    state[upper] = marked[upper]
    state[upper[~marked[lower] | ~_are_loads(graph, lower)]] = 0
    # The entry of the GOT is 8 bytes, and only its start is an address.
    relaxed = (state[rows] > 0) & (edges.addend[rows] == 0)
    chosen = np.zeros(len(edges), np.bool_)
    chosen[rows[relaxed]] = True
    edges.kind[lower[chosen[upper]]] = graph.target.kind_number("PCREL_LO12_I, ld to addi")
    kind = np.where(relaxed, graph.target.kind_number("R_RISCV_PCREL_HI20"), 0)
    return kind, np.zeros(len(rows), np.int64)


def _are_loads(graph: LinkGraph, rows: Rows) -> npt.NDArray[np.bool_]:
    """Say which of the edges at rows sit in an `ld`: bool[n]."""
    place = graph.blocks.content[graph.edges.block[rows]] + graph.edges.offset[rows]
    readable = (place >= 0) & (place <= len(graph.pool) - INSTRUCTION.itemsize)
    readable &= ~graph.blocks.zero_fill[graph.edges.block[rows]]
    words = load_records(graph.pool, np.where(readable, place, 0), INSTRUCTION) if readable.any() else 0
    loads: npt.NDArray[np.bool_] = readable & (words & OPCODE_AND_FUNCT3 == LD)
    return loads


def marked_for_relaxation(graph: LinkGraph) -> npt.NDArray[np.bool_]:
    """Say which edges have an R_RISCV_RELAX at their place, behind them: bool[edges]."""
    edges = graph.edges
    relax = edges.kind == graph.target.kind_number("R_RISCV_RELAX")
    marked = np.zeros(len(edges), np.bool_)
    same = (edges.block[1:] == edges.block[:-1]) & (edges.offset[1:] == edges.offset[:-1])
    marked[:-1] = relax[1:] & same & ~relax[:-1]
    return marked


def _settle_uleb128(graph: LinkGraph, rows: Rows, image: Buffer, positions: Column, addresses: Addresses) -> None:
    edges, kind = graph.edges, graph.edges.kind
    set_kind, sub_kind = (graph.target.kind_number(f"R_RISCV_{verb}_ULEB128") for verb in ("SET", "SUB"))
    first, second = rows[kind[rows] == set_kind], rows[kind[rows] == sub_kind]
    if not len(first) and not len(second):
        return
    follows = np.minimum(first + 1, len(edges) - 1)
    whole = (kind[follows] == sub_kind) & (edges.block[follows] == edges.block[first])
    whole &= edges.offset[follows] == edges.offset[first]
    lone = np.setdiff1d(np.concatenate((first, second)), np.concatenate((first[whole], follows[whole])))
    if len(lone):
        fault = "SET_ULEB128 and SUB_ULEB128 come in pairs at one place, and here is one alone"
        raise _malformed(graph, int(lone[0]), fault)
    reach = addresses[edges.target] + edges.addend.view(np.uint64)
    distance = reach[first] - reach[second]
    _check_uleb128(graph, first, distance, image, positions)
    edges.addend[first] -= reach[second].view(np.int64)
    edges.kind[second] = 0


def _check_uleb128(graph: LinkGraph, rows: Rows, values: Addresses, image: Buffer, positions: Column) -> None:
    """Refuse numbers that end behind their block, and values that do not fit the bytes of their number."""
    edges, blocks = graph.edges, graph.blocks
    place = positions[edges.block[rows]] + edges.offset[rows]
    length = uleb128_lengths(image, place)
    going_on = image[np.minimum(place + length - 1, len(image) - 1)] >= 0x80
    endless = going_on | (edges.offset[rows] + length > blocks.size[edges.block[rows]])
    if endless.any():
        fault = f"a ULEB128 number that has no end within its section or within {LONGEST_ULEB128} bytes"
        raise _malformed(graph, int(rows[endless.argmax()]), fault)
    bits = np.minimum(7 * length, 63).astype(np.uint64)
    bad = ((values >> bits) != 0) & (length < LONGEST_ULEB128)
    if bad.any():
        raise OutOfRange(
            kind="R_RISCV_SET_ULEB128",
            formula="S + A of it less S + A of R_RISCV_SUB_ULEB128",
            rule=f"does not fit the {int(length[bad][0])} bytes of its number",
            places=[place_of(graph, row) for row in rows[bad].tolist()],
            targets=[graph.edges[row].target.name for row in rows[bad].tolist()],
            values=values[bad].tolist(),
            hint="The assembler left room for the distance in its own code: no pass may move the labels apart",
        )


def _malformed(graph: LinkGraph, edge: int, fault: str) -> MalformedInput:
    row = graph.edges[edge]
    return MalformedInput(fault, input=row.block.input, section=row.block.section.name, offset=row.offset)
