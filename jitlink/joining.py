"""Joining link graphs: several graphs, read or built apart, into the one that is linked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from jitlink.columns import Rows
from jitlink.errors import UnsupportedInput
from jitlink.graph import NO_NAME, TABLES, LinkGraph


def join(graphs: Sequence[LinkGraph]) -> LinkGraph:
    """Put the rows of all graphs into one graph, in order; a single graph is copied.

    The graphs are not changed, and share no column with the result. Raises UnsupportedInput when they
    are for different machines or of different formats, whose names and sections mean different things.
    """
    first = graphs[0]
    for graph in graphs:
        if graph.target is not first.target:
            raise UnsupportedInput(
                f"an object for {graph.target.name} in a link for {first.target.name}",
                input=graph.inputs[1] if len(graph.inputs) > 1 else "a link graph",
            )
        if graph.format != first.format:
            raise UnsupportedInput(
                f"a graph of format {graph.format} in a link of format {first.format}",
                input=graph.inputs[1] if len(graph.inputs) > 1 else "a link graph",
                hint="Give each format a dylib of its own, and link one against the other",
            )
    joined = LinkGraph(first.target, format=first.format)
    content_shift = _join_pools(joined, graphs)
    name_shift = _join_names(joined, graphs)
    # How many rows, and how many inputs, of the graphs before go before those of each graph.
    rows_before = {name: _before([len(getattr(graph, name)) - 1 for graph in graphs]) for name in TABLES}
    inputs_before = _before([len(graph.inputs) - 1 for graph in graphs])
    for table_name in TABLES:
        tables = [getattr(graph, table_name) for graph in graphs]
        columns = {}
        for column_name, declared in tables[0].declarations.items():
            parts = [getattr(tables[0], column_name)[:1]]
            for number, table in enumerate(tables):
                part = getattr(table, column_name)[1:]
                if declared.refers:
                    part = np.where(part > 0, part + rows_before[declared.refers][number], 0)
                elif column_name == "input":
                    part = np.where(part > 0, part + inputs_before[number], 0)
                elif column_name == "content":
                    part = _shifted_content(part, graphs[number], *content_shift[number])
                elif column_name == "name":
                    part = _shifted_names(part, content_shift[number][0], name_shift[number])
                parts.append(part)
            columns[column_name] = np.concatenate(parts)
        getattr(joined, table_name).fill(**columns)
    joined.sort_edges()
    return joined


def _before(counts: list[int]) -> list[int]:
    """The sum of the counts before each one, and of all of them."""
    return [0, *accumulate(counts)]


def _join_pools(joined: LinkGraph, graphs: Sequence[LinkGraph]) -> list[tuple[int, int]]:
    """Join pools and added content; returns for each graph by how much positions in either move.

    Graphs that were read from one pool share it.
    """
    pools: list[LinkGraph] = []
    pool_start: dict[int, int] = {}
    end = 0
    for graph in graphs:
        if id(graph.pool) not in pool_start:
            pool_start[id(graph.pool)] = end
            pools.append(graph)
            end += len(graph.pool)
    joined.pool = pools[0].pool if len(pools) == 1 else np.concatenate([graph.pool for graph in pools])
    shifts = []
    for graph in graphs:
        added_start = end + len(joined.added)
        joined.added += graph.added
        shifts.append((pool_start[id(graph.pool)], added_start - len(graph.pool)))
    starts = [graph.string_tables[0] + pool_start[id(graph.pool)] for graph in graphs]
    sizes = [graph.string_tables[1] for graph in graphs]
    all_starts, all_sizes = np.concatenate(starts), np.concatenate(sizes)
    order = all_starts.argsort(kind="stable")
    joined.string_tables = (all_starts[order], all_sizes[order])
    for graph in graphs:
        before = len(joined.inputs) - 1
        joined.directives += [(before + input, option, argument) for input, option, argument in graph.directives]
        joined.inputs += graph.inputs[1:]
    joined.input_places = _join_places(graphs, [pool_start[id(graph.pool)] for graph in graphs])
    return shifts


def _join_places(graphs: Sequence[LinkGraph], pool_shift: list[int]) -> tuple[Rows, Rows]:
    """Join the places of the inputs; those that were built by hand have none, which is a size of 0."""
    starts = [np.zeros(len(graph.inputs) - 1, np.int64) for graph in graphs]
    sizes = [np.zeros(len(graph.inputs) - 1, np.int64) for graph in graphs]
    for number, graph in enumerate(graphs):
        known = len(graph.input_places[0])
        starts[number][:known] = graph.input_places[0] + pool_shift[number]
        sizes[number][:known] = graph.input_places[1]
    return np.concatenate(starts), np.concatenate(sizes)


def _join_names(joined: LinkGraph, graphs: Sequence[LinkGraph]) -> list[int]:
    """Join the added names, the empty name of each once; returns how many go before those of each graph."""
    shifts = []
    for graph in graphs:
        shifts.append(len(joined.added_names) - 1)
        joined.added_names += graph.added_names[1:]
    return shifts


def _shifted_content(content: Rows, graph: LinkGraph, pool_shift: int, added_shift: int) -> Rows:
    return np.where(content < len(graph.pool), content + pool_shift, content + added_shift)


def _shifted_names(names: Rows, pool_shift: int, added_before: int) -> Rows:
    return np.where(names >= 0, names + pool_shift, np.where(names < NO_NAME, names - added_before, NO_NAME))
