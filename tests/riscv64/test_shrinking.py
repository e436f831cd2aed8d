"""Cutting bytes out of blocks moves everything else as a loop over the cuts would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import jitlink
from jitlink import Protection
from jitlink.arches.riscv64_alignment import Alignment, boundary
from jitlink.graph import SymbolKind
from jitlink.shrinking import Cuts, ShrinkingBlocks

CODE = Protection.READ | Protection.EXECUTE
KEPT_AND_CUT = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


def cuts_of(pieces: list[tuple[int, int]]) -> Cuts:
    """The cuts of a row of pieces, each a number of bytes that are kept and one of bytes that are cut."""
    starts, at = [], 0
    for kept, cut in pieces:
        starts.append(at + kept)
        at += kept + cut
    order = np.array(range(len(pieces))[::-1], np.int64)
    return Cuts(np.array(starts, np.int64)[order], np.array([cut for _, cut in pieces], np.int64)[order])


def moved_in_a_loop(position: int, cuts: Cuts) -> int:
    lost = 0
    for start, end in zip(cuts.start.tolist(), cuts.end.tolist(), strict=True):
        if start < position:
            lost += min(position, end) - start
    return position - lost


@given(KEPT_AND_CUT)
def test_positions_move_back_by_what_was_cut_before_them(pieces):
    """Every position is where a loop over the cuts puts it; one inside a cut is where the cut was."""
    cuts = cuts_of(pieces)
    positions = np.arange(sum(kept + cut for kept, cut in pieces) + 3)
    assert cuts.moved(positions).tolist() == [moved_in_a_loop(each, cuts) for each in positions.tolist()]


@given(KEPT_AND_CUT, st.lists(st.tuples(st.integers(0, 150), st.integers(1, 8)), max_size=8))
def test_ranges_that_lose_a_byte_are_found(pieces, ranges):
    """A range is touched by a cut if one of its bytes is cut out."""
    cuts = cuts_of(pieces)
    lost = {
        byte for start, end in zip(cuts.start.tolist(), cuts.end.tolist(), strict=True) for byte in range(start, end)
    }
    start, size = (np.array([each[side] for each in ranges], np.int64) for side in (0, 1))
    expected = [row for row, (at, count) in enumerate(ranges) if lost & set(range(at, at + count))]
    assert cuts.touch(start, size).tolist() == expected


def graph_of_two_blocks():
    graph = jitlink.new_graph("shrinking", "riscv64")
    text = graph.add_section(".text", CODE)
    first = graph.add_block(text, bytes(range(16)))
    second = graph.add_block(text, bytes(range(100, 120)))
    graph.settle()
    return graph, first, second


def test_everything_that_counts_bytes_follows():
    """Offsets and sizes of symbols, offsets of edges, addends into sections, sizes and content of blocks."""
    graph, first, second = graph_of_two_blocks()
    whole = graph.add_symbol("whole", first, 0, size=16)
    behind = graph.add_symbol("behind", first, 8, size=8)
    section = graph.add_symbol("", second, 0, kind=SymbolKind.SECTION)
    beyond = graph.add_symbol("beyond", second, (1 << 64) - 1, size=(1 << 64) - 1)
    edge = graph.add_edge(first, 12, "R_RISCV_RELAX", section, 10)
    code = ShrinkingBlocks(graph, np.array([first, second]))
    for _ in range(2):
        # Twice: each time it is what was there at first that is cut.
        cuts = Cuts(np.array([4, 17 + 6]), np.array([2, 3]))
        code.cut(cuts)
        assert graph.blocks.size[[first, second]].tolist() == [14, 17]
        assert graph.symbols.offset[[whole, behind]].tolist() == [0, 6]
        assert graph.symbols.size[[whole, behind]].tolist() == [14, 8]
        assert (graph.symbols.offset[beyond], graph.symbols.size[beyond]) == ((1 << 64) - 1 - 3, (1 << 64) - 1)
        assert (graph.edges.offset[edge], graph.edges.addend[edge]) == (10, 7)
    code.replace_content(code.content(), cuts)
    assert graph.content_of(first) == bytes([0, 1, 2, 3, *range(6, 16)])
    assert graph.content_of(second) == bytes([*range(100, 106), *range(109, 120)])


@given(st.integers(0, 1 << 40))
def test_an_alignment_is_the_smallest_power_of_two_above_its_padding(padding):
    """As the psABI's own loop has it."""
    align = 1
    while padding >= align:
        align *= 2
    assert boundary(np.array([padding])).tolist() == [align]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 5), st.integers(0, 4)), max_size=20))
def test_padding_is_what_a_loop_over_the_places_finds(places):
    """Code of any length, parts of it cut out, between alignments of any size, in any number of blocks."""
    graph = jitlink.new_graph("alignment", "riscv64")
    text = graph.add_section(".text", CODE)
    target = graph.add_symbol("")
    expected, rows, starts, counts, blocks = [], [], [], [], []
    contents: list[list[tuple[int, int, int]]] = [[]]
    for new_block, halfwords, cut, power in places:
        if new_block:
            contents.append([])
        contents[-1].append((2 * halfwords, min(2 * cut, 2 * halfwords), max((2 << power) - 2, 0)))
    for pieces in contents:
        size = sum(kept + padding for kept, _, padding in pieces)
        block = graph.add_block(text, bytes(size), alignment=64)
        blocks.append(block)
        at = address = 0
        for length, cut, padding in pieces:
            starts.append((block, at))
            counts.append(cut)
            at += length
            address += length - cut
            rows.append(graph.add_edge(block, at, "R_RISCV_ALIGN", target, padding))
            at += padding
            align = int(boundary(np.array([padding]))[0])
            expected.append(-address % align)
            address += -address % align
    graph.settle()
    code = ShrinkingBlocks(graph, np.array(blocks))
    places_of_cuts = [int(code.first[code.number[block]]) + offset for block, offset in starts]
    cuts = Cuts(np.array(places_of_cuts, np.int64), np.array(counts, np.int64))
    assert Alignment(code, np.array(rows, np.int64)).needed(cuts).tolist() == expected
