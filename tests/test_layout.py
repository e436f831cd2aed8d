"""Layout: every block in a segment of its protection, aligned, overlapping nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitlink
from jitlink import LinkFailure, LinkGraph, Protection
from jitlink.graph import Lifetime, Purpose
from jitlink.layout import Layout, lay_out

PAGE = 4096
CODE = Protection.READ | Protection.EXECUTE
DATA = Protection.READ | Protection.WRITE
BASE = 0x2345_6000
SECTIONS = [
    (".text", CODE, Purpose.ORDINARY),
    (".rodata", Protection.READ, Purpose.ORDINARY),
    (".data", DATA, Purpose.ORDINARY),
    ("plugins", DATA, Purpose.NAMED_SET),
    ("hooks", CODE, Purpose.NAMED_SET),
    (".init_array", Protection.READ, Purpose.INIT_ARRAY),
    (".eh_frame", Protection.READ, Purpose.EH_FRAME),
]
BLOCKS = st.lists(
    st.tuples(
        st.integers(0, len(SECTIONS) - 1), st.integers(0, 5000), st.integers(0, 14), st.booleans(), st.booleans()
    ),
    max_size=30,
)


def graph_of(blocks: list[tuple[int, int, int, bool, bool]]) -> LinkGraph:
    """Blocks of (section, size, power of the alignment, whether zero-fill, whether large)."""
    graph = jitlink.new_graph("layout", "x86_64")
    for number, size, power, zero_fill, large in blocks:
        name, protection, purpose = SECTIONS[number]
        section = graph.add_section(name, protection, purpose=purpose)
        graph.sections.large[section] = large and purpose == Purpose.ORDINARY
        graph.add_block(
            section, size if zero_fill and purpose == Purpose.ORDINARY else bytes(size), alignment=1 << power
        )
    return graph


def segment_of(layout: Layout, position: int) -> int:
    """The number of the segment that holds a position."""
    return next(
        number
        for number, segment in reversed(list(enumerate(layout.segments)))
        if segment.offset <= position <= segment.offset + segment.size
    )


@given(BLOCKS)
def test_blocks_are_aligned_and_do_not_overlap(blocks: list[tuple[int, int, int, bool, bool]]) -> None:
    """Whatever the sizes and alignments, each byte of the image belongs to one block at the most."""
    graph = graph_of(blocks)
    layout = lay_out(graph, PAGE)
    rows = range(1, len(graph.blocks))
    for row in rows:
        # Unwind records are read on from one block to the next, and have no gaps.
        if graph.sections.purpose[graph.blocks.section[row]] != Purpose.EH_FRAME:
            assert layout.position[row] % graph.blocks.alignment[row] == 0
    taken = sorted((int(layout.position[row]), int(graph.blocks.size[row])) for row in rows if graph.blocks.size[row])
    assert all(start + size <= following for (start, size), (following, _) in pairwise(taken))
    assert sorted(layout.order.tolist()) == list(rows)
    assert all(before <= after for before, after in pairwise(layout.position[layout.order].tolist()))


@given(BLOCKS)
def test_a_block_lies_in_a_segment_of_its_protection(blocks: list[tuple[int, int, int, bool, bool]]) -> None:
    """Segments start at pages of their own, and hold their blocks, with content before zero-fill."""
    graph = graph_of(blocks)
    layout = lay_out(graph, PAGE)
    for segment, following in pairwise(layout.segments):
        assert segment.offset + segment.size <= following.offset
    for segment in layout.segments:
        assert segment.offset % PAGE == 0
        assert segment.filled <= segment.size
    for row in range(1, len(graph.blocks)):
        start, size = int(layout.position[row]), int(graph.blocks.size[row])
        if not size:
            continue
        segment = layout.segments[segment_of(layout, start)]
        assert segment.protection == graph.sections.protection[graph.blocks.section[row]]
        assert start + size <= segment.offset + segment.size
        if not graph.blocks.zero_fill[row]:
            assert start + size <= segment.offset + segment.filled
        else:
            assert start >= segment.offset + segment.filled
    assert layout.size % PAGE == 0
    assert layout.size >= max((segment.offset + segment.size for segment in layout.segments), default=0)


@given(BLOCKS)
def test_a_set_lies_side_by_side_in_input_order(blocks: list[tuple[int, int, int, bool, bool]]) -> None:
    """Nothing but the padding of the set's own alignment lies between its first and its last block."""
    graph = graph_of(blocks)
    layout = lay_out(graph, PAGE)
    for members in layout.sets.values():
        assert members == sorted(members)
        end = int(layout.position[members[0]])
        for row in members:
            gap = int(layout.position[row]) - end
            assert 0 <= gap < graph.blocks.alignment[row]
            end = int(layout.position[row] + graph.blocks.size[row])


def test_unwind_records_follow_each_other_without_a_gap() -> None:
    """A word of zeroes would end .eh_frame (LSB Core 10.6), so that its blocks have no padding between them."""
    graph = graph_of([(6, 20, 3, False, False), (6, 12, 3, False, False), (6, 4, 3, False, False)])
    layout = lay_out(graph, PAGE)
    assert [int(layout.position[row] - layout.position[1]) for row in (1, 2, 3)] == [0, 20, 32]


def test_an_empty_graph_has_no_segments() -> None:
    """Nothing to place is no error, and takes no memory."""
    layout = lay_out(jitlink.new_graph("empty", "x86_64"), PAGE)
    assert (layout.segments, layout.size, layout.filled) == ([], 0, 0)


def test_blocks_without_content_have_a_place_all_the_same() -> None:
    """A symbol in an empty section has an address inside the image."""
    graph = jitlink.new_graph("empty", "x86_64")
    section = graph.add_section(".text", CODE)
    graph.add_symbol("before", graph.add_block(section, b""))
    graph.add_symbol("function", graph.add_block(section, b"\xc3"))
    image = jitlink.link(graph, base=BASE)
    assert BASE <= image.address_of("before") <= image.address_of("function") + 1


def test_dead_blocks_and_those_of_no_alloc_sections_take_no_room() -> None:
    """What is not live is not placed, and its symbols are no part of the image."""
    graph = graph_of([(0, 100, 4, False, False), (0, 100, 4, False, False)])
    graph.blocks.live[1] = False
    layout = lay_out(graph, PAGE)
    assert layout.order.tolist() == [2]
    assert layout.segments[0].size < 200


def test_large_sections_come_last() -> None:
    """Sections of the large model lie behind the others, which stay in reach of each other (psABI 3.5)."""
    graph = graph_of(
        [(2, 100, 4, False, True), (0, 100, 4, False, False), (2, 100, 4, False, False), (0, 9, 0, False, True)]
    )
    layout = lay_out(graph, PAGE)
    near, far = [layout.position[row] for row in (2, 3)], [layout.position[row] for row in (1, 4)]
    assert max(near) < min(far)


def test_a_set_that_would_be_writable_and_executable_is_refused() -> None:
    """Sections of one name lie side by side, and no page is both: the error names the sections."""
    graph = jitlink.new_graph("mixed", "x86_64")
    for protection in (CODE, DATA):
        section = graph.add_section("hooks", protection, purpose=Purpose.NAMED_SET)
        graph.add_symbol(f"in_{protection.letters}", graph.add_block(section, b"\xc3"))
    graph.add_edge(2, 0, "R_X86_64_NONE", graph.add_symbol("__start_hooks"))
    with pytest.raises(LinkFailure, match="'hooks' must lie side by side"):
        jitlink.link(graph, base=BASE)


def test_alignments_that_cost_memory_out_of_proportion_are_refused() -> None:
    """A one-byte section aligned to a gigabyte, several times, is an error and not a gigabyte of zeroes."""
    graph = jitlink.new_graph("wide", "x86_64")
    for _ in range(4):
        graph.add_block(graph.add_section(".data", DATA), b"x", alignment=1 << 30)
    with pytest.raises(LinkFailure, match="padding"):
        lay_out(graph, PAGE)


def test_a_base_that_breaks_an_alignment_is_refused() -> None:
    """An image goes where the caller says, or nowhere: the error says what the base must be a multiple of."""
    graph = jitlink.new_graph("aligned", "x86_64")
    graph.add_symbol("datum", graph.add_block(graph.add_section(".data", DATA), b"x", alignment=1 << 16))
    with pytest.raises(LinkFailure, match="not a multiple of 65536"):
        jitlink.link(graph, base=BASE)
    assert jitlink.link(graph, base=0x2345_0000).address_of("datum") % (1 << 16) == 0


def test_code_is_filled_with_traps_where_no_block_is() -> None:
    """Padding of code is int3, so that a stray jump stops; padding of data is zero."""
    graph = graph_of([])
    text = graph.add_section(".text", CODE)
    first = graph.add_block(text, b"\x90" * 5, alignment=64)
    graph.add_symbol("first", first)
    graph.add_block(text, b"\x90" * 3, alignment=64)
    graph.add_block(graph.add_section("hooks", CODE, purpose=Purpose.NAMED_SET), b"\x90" * 2, alignment=256)
    image = jitlink.link(graph, base=BASE)
    code = image.segments[0].content
    assert code.count(b"\x90") == 10
    assert set(code) == {0x90, 0xCC}


def test_the_bytes_of_every_block_are_copied() -> None:
    """Blocks that lie in the image as in their input are copied as one run, and others one by one."""
    graph = jitlink.new_graph("content", "x86_64")
    contents = {}
    for number in range(200):
        section = graph.add_section(f".data.{number}", DATA if number % 3 else CODE)
        content = bytes([number]) * (number * 7 % 50)
        block = graph.add_block(section, content, alignment=1 << number % 6)
        graph.add_symbol(f"b{number}", block)
        contents[f"b{number}"] = content
    image = jitlink.link(graph, base=BASE)
    for name, content in contents.items():
        assert image.read(image.address_of(name), len(content)) == content


def test_debug_sections_are_not_in_the_image() -> None:
    """A block of a section that is never in memory (lifetime no-alloc) has no place."""
    graph = jitlink.new_graph("debug", "x86_64")
    graph.add_symbol("datum", graph.add_block(graph.add_section(".data", DATA), b"here"))
    debug = graph.add_section(".debug_info", purpose=Purpose.DEBUG, lifetime=Lifetime.NO_ALLOC)
    graph.add_block(debug, b"not here")
    image = jitlink.link(graph, base=BASE)
    assert b"not here" not in image.to_bytes()
