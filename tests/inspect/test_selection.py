"""Filters: each narrows to what it names, and what is tied to it stays."""

from __future__ import annotations

import pytest

import jitlink
from jitlink.graph import LinkGraph
from jitlink.inspect.selection import Filter, Selection, select
from tests.inspect.objects import sample


@pytest.fixture(scope="module")
def graph() -> LinkGraph:
    """The sample, read."""
    return jitlink.read(sample("x86_64-linux"))


def names(graph: LinkGraph, selection: Selection) -> tuple[set[str], set[str], set[str]]:
    """Sections and symbols by name, and the kinds of the edges."""
    return (
        {graph.sections[row].name for row in selection.sections.tolist()},
        {graph.symbols[row].name for row in selection.symbols.tolist()} - {""},
        {graph.edges[row].kind for row in selection.edges.tolist()},
    )


def test_no_filter_shows_everything(graph):
    """Without a filter every row but the null rows is there."""
    for filter in (None, Filter()):
        chosen = select(graph, filter)
        tables = (graph.sections, graph.blocks, graph.symbols, graph.edges)
        shown = (chosen.sections, chosen.blocks, chosen.symbols, chosen.edges)
        assert [len(rows) for rows in shown] == [len(table) - 1 for table in tables]
        assert not filter


def test_a_section_brings_its_symbols_and_edges(graph):
    """A pattern of sections leaves what is defined and what is patched there."""
    sections, symbols, kinds = names(graph, select(graph, Filter(sections=[".data*"])))
    assert sections == {".data"}
    assert symbols == {".data", "table", "chosen"}
    assert kinds == {"R_X86_64_64"}


def test_a_symbol_brings_the_edges_in_it_and_to_it(graph):
    """The edges of a symbol are those that lie in it and those that point at it."""
    chosen = select(graph, Filter(symbols=["table"]))
    assert [graph.edges[row].target.name for row in chosen.edges.tolist()] == ["table"]
    inside = select(graph, Filter(symbols=["entry"]))
    start = graph.symbols["entry"].offset
    end = start + int(graph.symbols.size[graph.symbols["entry"].row])
    assert {graph.edges[row].target.name for row in inside.edges.tolist()} >= {"outside", "shared_counter", "table"}
    in_code = [row for row in inside.edges.tolist() if graph.edges[row].block.section.name == ".text"]
    assert all(start <= graph.edges[row].offset < end for row in in_code)


def test_undefined_shows_what_is_asked_for(graph):
    """Only undefined symbols, and the references to them."""
    _, symbols, _ = names(graph, select(graph, Filter(undefined=True)))
    assert symbols == {"outside", "shared_counter"}


def test_a_kind_shows_its_edges_and_what_they_join(graph):
    """Edges of one kind, the symbols at their ends and the sections that hold them."""
    sections, symbols, kinds = names(graph, select(graph, Filter(kinds=["R_X86_64_PLT32"])))
    assert kinds == {"R_X86_64_PLT32"}
    assert sections == {".text"}
    assert symbols <= {"outside", "maybe"}


def test_filters_narrow_each_other(graph):
    """Two filters leave what both leave; an input that is not there leaves nothing."""
    assert not len(select(graph, Filter(sections=[".data*"], kinds=["R_X86_64_PLT32"])).edges)
    nothing = select(graph, Filter(inputs=["another.o"]))
    assert not len(nothing.sections) + len(nothing.symbols) + len(nothing.edges)
    assert len(select(graph, Filter(inputs=["*bytes*"])).edges) == len(graph.edges) - 1
