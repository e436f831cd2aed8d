"""The fixup engine: one kind at a time, all values checked before the first one is written."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitlink
from jitlink import LinkGraph, OutOfRange, Protection
from jitlink.fixups import EdgeLetters, apply_fixups, values_of
from jitlink.graph import Definition

BASE = 0x2345_6780
PATTERN = bytes(range(0x40, 0x80))
DATA = Protection.READ | Protection.WRITE


def data_graph(*edges: tuple[int, str, int, int]) -> LinkGraph:
    """A block of data with edges of (offset, kind, address of the target, addend), at BASE."""
    graph = jitlink.new_graph("fixups", "x86_64")
    block = graph.add_block(graph.add_section(".data", DATA), PATTERN)
    for number, (offset, kind, address, addend) in enumerate(edges):
        target = graph.add_symbol(f"target{number}", offset=address, definition=Definition.ABSOLUTE)
        graph.add_edge(block, offset, kind, target, addend)
    graph.blocks.address[block] = BASE
    return graph


def apply(graph: LinkGraph, image: npt.NDArray[np.uint8], got: int = 0) -> None:
    """Apply the edges to an image whose only block starts at byte 8."""
    positions = np.array([0, 8])
    apply_fixups(graph, image, positions, graph.symbols.addresses(), got, lambda kind, edge: f"advice for {edge}")


def fresh_image() -> npt.NDArray[np.uint8]:
    return np.frombuffer(bytes(8) + PATTERN + bytes(8), np.uint8).copy()


def written(image: npt.NDArray[np.uint8]) -> set[int]:
    """The offsets in the block whose bytes are no longer those of the pattern."""
    return set((image[8:-8] != np.frombuffer(PATTERN, np.uint8)).nonzero()[0].tolist())


def test_a_field_is_written_at_its_place() -> None:
    """The position of the block plus the offset of the edge, and no other byte."""
    graph = data_graph((5, "R_X86_64_64", 0x1122334455667788, 1))
    image = fresh_image()
    apply(graph, image)
    assert image[13:21].tobytes() == (0x1122334455667789).to_bytes(8, "little")
    assert written(image) == set(range(5, 13))
    assert not image[:8].any()
    assert not image[-8:].any()


def test_a_field_of_the_last_bytes_is_written() -> None:
    """A field may end where its block ends."""
    graph = data_graph((len(PATTERN) - 1, "R_X86_64_8", 0x11, 0))
    image = fresh_image()
    apply(graph, image)
    assert image[8 + len(PATTERN) - 1] == 0x11
    assert written(image) == {len(PATTERN) - 1}


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=6))
def test_many_edges_of_one_kind_are_each_their_own(pairs: list[tuple[int, int]]) -> None:
    """Every edge has its own target, addend and place; sums are modulo 2**64 (psABI 4.4.1)."""
    graph = data_graph(*((8 * row, "R_X86_64_PC64", *pair) for row, pair in enumerate(pairs)))
    image = fresh_image()
    apply(graph, image)
    for row, (address, addend) in enumerate(pairs):
        expected = (address + addend - (BASE + 8 * row)) % 2**64
        assert int.from_bytes(image[8 + 8 * row : 16 + 8 * row].tobytes(), "little") == expected


def test_the_letters_are_computed_from_the_graph() -> None:
    """S, A, P, G, GOT and Z as the psABI defines them, each in its own column."""
    graph = data_graph((3, "R_X86_64_64", 0x1000, -7), (20, "R_X86_64_64", 0x2000, 9))
    graph.symbols.size[1:3] = (11, 12)
    letters = EdgeLetters(graph, np.array([1, 2]), graph.symbols.addresses(), np.uint64(0x400))
    assert letters["S"].tolist() == letters["L"].tolist() == [0x1000, 0x2000]
    assert letters["A"].tolist() == [2**64 - 7, 9]
    assert letters["P"].tolist() == [BASE + 3, BASE + 20]
    assert letters["G"].tolist() == [0xC00, 0x1C00]
    assert int(letters["GOT"]) == 0x400
    assert letters["Z"].tolist() == [11, 12]
    with pytest.raises(KeyError):
        letters["X"]


def test_the_one_got_gives_a_value_for_each_edge() -> None:
    """GOT is one address for all edges, and a formula with it still has a value for each of them."""
    graph = data_graph((0, "R_X86_64_GOTPC64", 0, 0), (8, "R_X86_64_GOTPC64", 0, 0))
    kind = graph.target.kinds[graph.edges.kind[1]]
    letters = EdgeLetters(graph, np.array([1, 2]), graph.symbols.addresses(), np.uint64(BASE))
    assert values_of(kind, letters).tolist() == [0, 2**64 - 8]


def test_a_value_that_does_not_fit_stops_all_of_its_kind() -> None:
    """OutOfRange is raised before anything of that kind is written, and holds all offending edges."""
    graph = data_graph(
        (0, "R_X86_64_32", 0x1000, 0),
        (4, "R_X86_64_32", 2**32, 0),
        (8, "R_X86_64_32", 0, -1),
        (12, "R_X86_64_32", 1, 0),
    )
    image = fresh_image()
    with pytest.raises(OutOfRange) as caught:
        apply(graph, image)
    assert written(image) == set()
    error = caught.value
    assert (error.kind, error.formula) == ("R_X86_64_32", "S + A")
    assert error.targets == ["target1", "target2"]
    assert error.values == [2**32, 2**64 - 1]
    assert [str(place) for place in error.places] == ["fixups: .data+0x4", "fixups: .data+0x8"]
    assert str(error) == (
        "fixups: .data+0x4: R_X86_64_32 to target1: S + A = 0x100000000 is outside [0x0, 0x100000000); "
        "1 more edge like it. advice for 2. See `jitlink explain reloc fixups .data+0x4`."
    )


def test_edges_of_dropped_blocks_are_not_applied() -> None:
    """A block that is no longer part of the link has no place; its edges are neither checked nor written."""
    graph = data_graph((0, "R_X86_64_32", 2**32, 0))
    graph.blocks.live[1] = False
    image = fresh_image()
    apply(graph, image)
    assert written(image) == set()


def test_r_x86_64_none_changes_nothing() -> None:
    """NONE writes no field, whatever its symbol and addend are (psABI, table 4.9)."""
    graph = data_graph((7, "R_X86_64_NONE", 2**64 - 1, 2**62))
    image = fresh_image()
    apply(graph, image)
    assert written(image) == set()


def test_kinds_are_applied_side_by_side() -> None:
    """Different kinds in one block meet at their borders and do not touch each other."""
    edges = [
        (0, "R_X86_64_8", 0x11, 0),
        (1, "R_X86_64_16", 0x2222, 0),
        (3, "R_X86_64_32", 0x33333333, 0),
        (7, "R_X86_64_64", 0x4444444444444444, 0),
    ]
    image = fresh_image()
    apply(data_graph(*edges), image)
    assert image[8:23].tobytes() == b"\x11" + b"\x22" * 2 + b"\x33" * 4 + b"\x44" * 8
    assert written(image) == set(range(15))
