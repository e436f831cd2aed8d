"""Link graphs in notebooks: tables of HTML for graphs and their tables. Every text in them is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from jitlink.escaping import escaped

if TYPE_CHECKING:
    from jitlink.graph.link_graph import LinkGraph

MOST_ROWS = 20
"""Rows of a table that are shown; the rest is counted."""
LONGEST_CELL = 80


def graph_html(graph: LinkGraph) -> str:
    """A graph: its inputs, each with what it holds."""
    sections, symbols = graph.sections.input, graph.symbols.input
    edges = sections[graph.blocks.section[graph.edges.block]]
    rows = [
        (name, *(int((column[1:] == number).sum()) for column in (sections, symbols, edges)))
        for number, name in enumerate(graph.inputs)
    ]
    title = f"link graph for {graph.target.name}: {len(graph.inputs) - 1:,} inputs"
    return html_table(title, ("input", "sections", "symbols", "edges"), [row for row in rows if any(row[1:])])


def table_html(table: Any) -> str:
    """A table of a graph: all columns of its first rows."""
    names = list(table.declarations)
    shown = range(1, min(len(table), MOST_ROWS + 1))
    rows = [(row, *(_value(table, name, row) for name in names)) for row in shown]
    title = f"{type(table).__name__.lower()}: {len(table) - 1:,} rows"
    return html_table(title, ("row", *names), rows, len(table) - 1 - len(rows))


def _value(table: Any, name: str, row: int) -> object:
    """A value for people: names as names, references and numbers as numbers."""
    value = getattr(table, name)[row].item()
    return table.graph.name_at(value) if name == "name" else value


def html_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], more: int = 0) -> str:
    """A table of HTML, in which no text can be markup."""
    rows = list(rows)
    more = more or max(len(rows) - MOST_ROWS, 0)
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows[:MOST_ROWS])
    rest = f"<p>and {more:,} more</p>" if more > 0 else ""
    caption = f"<caption>{escape(title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _cell(value: object) -> str:
    text = escaped(str(value))
    return escape(text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…")
