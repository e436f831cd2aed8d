"""A link graph as a drawing of Graphviz: `jitlink show --dot a.o | dot -Tsvg`.

A node is a block, named by the symbols that it defines, or a symbol that is not defined here; boxes
around them are the inputs. An arrow is all edges between two nodes, with their kinds. Whole libraries
make drawings that nobody can read: filters choose a part.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jitlink.escaping import escaped
from jitlink.graph import Definition, LinkGraph, SymbolKind
from jitlink.inspect.selection import Selection, select
from jitlink.protection import Protection

NAMES_A_NODE = 4
"""More symbols of a block are counted and not named."""
KINDS_AN_ARROW = 3
LONGEST_LABEL = 60
SHAPE = {True: "box", False: "note"}
"""Of code and of data."""


def dot_lines(graph: LinkGraph, keep: Selection | None = None) -> Iterator[str]:
    """Write a graph in the DOT language, as lines without their newline. keep: the rows to draw, by default all."""
    return _Drawing(graph, keep or select(graph)).lines()


class _Drawing:
    def __init__(self, graph: LinkGraph, keep: Selection) -> None:
        self.graph = graph
        self.keep = keep
        self.names_of_block = self._names_of_blocks()

    def lines(self) -> Iterator[str]:
        """The whole drawing."""
        yield "digraph link {"
        yield "  rankdir=LR;"
        yield '  node [fontname="monospace", fontsize=10];'
        yield '  edge [fontname="monospace", fontsize=8];'
        yield from self._inputs()
        arrows = self._arrows()
        yield from self._symbols_outside({to for _, to in arrows})
        for (start, to), kinds in arrows.items():
            label = ", ".join(kinds[:KINDS_AN_ARROW]) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "")
            yield f"  {start} -> {to} [label={_quoted(label)}];"
        yield "}"

    def _names_of_blocks(self) -> dict[int, list[str]]:
        """The symbols that each block defines, section symbols left out."""
        symbols = self.graph.symbols
        named = (symbols.block > 0) & (symbols.kind != SymbolKind.SECTION)
        rows = named.nonzero()[0]
        names: dict[int, list[str]] = {}
        for block, name in zip(symbols.block[rows].tolist(), self.graph.names_at(symbols.name[rows]), strict=True):
            if name:
                names.setdefault(block, []).append(escaped(name.decode(errors="surrogateescape")))
        return names

    def _inputs(self) -> Iterator[str]:
        """The blocks, in a box for each input."""
        graph = self.graph
        input_of_block = graph.sections.input[graph.blocks.section[self.keep.blocks]]
        for input in np.unique(input_of_block).tolist():
            yield f"  subgraph cluster_{input} {{"
            yield f"    label={_quoted(escaped(graph.inputs[input]))};"
            for block in self.keep.blocks[input_of_block == input].tolist():
                yield f"    b{block} [label={self._label(block)}, shape={self._shape(block)}{self._style(block)}];"
            yield "  }"

    def _label(self, block: int) -> str:
        section = escaped(self.graph.blocks[block].section.name)
        names = self.names_of_block.get(block, [])
        more = [f"and {len(names) - NAMES_A_NODE} more"] if len(names) > NAMES_A_NODE else []
        size = f"{int(self.graph.blocks.size[block]):,} bytes"
        return _quoted("\n".join([*names[:NAMES_A_NODE], *more, f"{section}, {size}"]))

    def _shape(self, block: int) -> str:
        protection = int(self.graph.sections.protection[self.graph.blocks.section[block]])
        return SHAPE[bool(protection & Protection.EXECUTE)]

    def _style(self, block: int) -> str:
        return "" if self.graph.blocks.live[block] else ", style=dashed"

    def _arrows(self) -> dict[tuple[str, str], list[str]]:
        """The kinds of the edges between each two nodes."""
        edges, symbols = self.graph.edges, self.graph.symbols
        drawn = np.zeros(len(self.graph.blocks), np.bool_)
        drawn[self.keep.blocks] = True
        arrows: dict[tuple[str, str], list[str]] = {}
        rows = self.keep.edges[drawn[edges.block[self.keep.edges]]]
        for block, kind, target in zip(
            *(column[rows].tolist() for column in (edges.block, edges.kind, edges.target)), strict=True
        ):
            held = int(symbols.block[target])
            if not target or (held and not drawn[held]):
                continue
            kinds = arrows.setdefault((f"b{block}", f"b{held}" if held else f"s{target}"), [])
            name = self.graph.target.kinds[kind].name
            if name not in kinds:
                kinds.append(name)
        return arrows

    def _symbols_outside(self, nodes: set[str]) -> Iterator[str]:
        """What arrows point at that no block defines."""
        for node in sorted(node for node in nodes if node.startswith("s")):
            symbol = self.graph.symbols[int(node[1:])]
            label = "\n".join((escaped(symbol.name), Definition(symbol.definition).name.lower()))
            yield f"  {node} [label={_quoted(label)}, shape=ellipse];"


def _quoted(text: str) -> str:
    """A string of DOT; each line of the text is one of the label, cut to a readable length."""
    lines = [line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1]}…" for line in text.split("\n")]
    written = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return f'"{written}"'
