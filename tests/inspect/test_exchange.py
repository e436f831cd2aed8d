"""Link graphs in notebooks and as the objects of other packages."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from typing import Any

import pytest

import jitlink
from jitlink import MissingExtra, Protection
from jitlink.graph import LinkGraph
from tests.inspect.objects import sample
from tests.inspect.test_hostile_names import HOSTILE


@pytest.fixture(scope="module")
def graph() -> LinkGraph:
    """The sample, read."""
    return jitlink.read(sample("x86_64-linux"))


def test_networkx_has_the_blocks_and_edges(graph):
    """A node for each block and each undefined symbol, an edge for each edge, with its kind and addend."""
    pytest.importorskip("networkx")
    made = graph.to_networkx()
    assert made.number_of_edges() == len(graph.edges) - 1
    blocks = [node for node in made if node[0] == "block"]
    assert len(blocks) == len(graph.blocks) - 1
    called = {made.nodes[to]["name"] for _, to, kind in made.edges(data="kind") if kind == "R_X86_64_PLT32"}
    assert "outside" in called
    for row, (_, _, key) in zip(
        range(1, len(graph.edges)), sorted(made.edges(keys=True), key=lambda edge: edge[2]), strict=True
    ):
        assert key == row


@pytest.mark.parametrize("table", ["sections", "blocks", "symbols", "edges"])
def test_pandas_and_arrow_have_all_rows_and_columns(graph, table):
    """Every column of every row but the null row, names and kinds as text."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = getattr(graph, table)
    frame, arrow = rows.to_pandas(), rows.to_arrow()
    assert isinstance(frame, pandas.DataFrame)
    assert set(frame.columns) == set(rows.declarations)
    assert len(frame) == arrow.num_rows == len(rows) - 1
    assert frame.index[0] == arrow["row"][0].as_py() == 1
    if table == "symbols":
        assert "entry" in set(frame["name"]) & set(arrow["name"].to_pylist())
    if table == "edges":
        assert set(frame["kind"]) == {edge.kind for edge in graph.edges}


@pytest.mark.parametrize(
    ("package", "use"), [("networkx", "to_networkx"), ("pandas", "to_pandas"), ("pyarrow", "to_arrow")]
)
def test_a_missing_package_names_the_extra(graph, monkeypatch, package, use):
    """Without the package, the error says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    owner = graph if use == "to_networkx" else graph.edges
    with pytest.raises(MissingExtra, match=r"jitlink\[data\]"):
        getattr(owner, use)()


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


def test_notebooks_show_tables_and_no_markup_of_the_input():
    """Whatever names say, the only tags are those of a table."""
    graph = jitlink.new_graph(HOSTILE[0], "x86_64")
    for name in HOSTILE:
        graph.add_symbol(name, graph.add_block(graph.add_section(name, Protection.READ), b"content"))
    shown: list[Any] = [graph, graph.sections, graph.symbols, graph.edges, jitlink.link(graph, base=0x10000)]
    for each in shown:
        html = each._repr_html_()
        parser = Tags()
        parser.feed(html)
        assert parser.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
        assert len(html) < 100_000
        assert "\x1b" not in html


def test_long_tables_are_cut_and_counted():
    """A notebook does not get a hundred thousand rows."""
    graph = jitlink.new_graph("many", "x86_64")
    section = graph.add_section(".data", Protection.READ)
    for number in range(100):
        graph.add_symbol(f"name{number}", graph.add_block(section, b"x"))
    html = graph.symbols._repr_html_()
    assert "name19" in html
    assert "name20" not in html
    assert "and 80 more" in html
