"""What takes the room: the bytes that each input, section and symbol adds to an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from jitlink.escaping import escaped
from jitlink.graph import Definition, SymbolKind
from jitlink.inspect.stages import Snapshot, Watched
from jitlink.inspect.text import Paper
from jitlink.inspect.words import Demangler, counted, names_of

MOST_ROWS = 40
SMALLEST_TILE = 4.0
"""Pixels of width or height below which a tile has no text."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of an image.

    Attributes: total; inputs, sections, symbols (name and bytes, the largest first); tiles (input, section
    and bytes).
    """

    total: int
    inputs: list[tuple[str, int]]
    sections: list[tuple[str, int]]
    symbols: list[tuple[str, int]]
    tiles: list[tuple[str, str, int]]

    def lines(self, paper: Paper) -> Iterator[str]:
        """As text."""
        yield paper.heading(f"{counted(self.total, 'byte')} of {counted(len(self.inputs), 'input')}")
        for title, rows in (("inputs", self.inputs), ("sections", self.sections), ("symbols", self.symbols)):
            yield from ("", paper.aside(title))
            shown = [(f"{size:,}", f"{100 * size / max(self.total, 1):.1f}%", name) for name, size in rows[:MOST_ROWS]]
            yield from paper.table(shown, right=(0, 1))
            if len(rows) > MOST_ROWS:
                yield f"  and {len(rows) - MOST_ROWS:,} more"


def size_of(link: Watched, *, demangle: Demangler | None = None) -> Sizes:
    """Add up what each part of a link contributes, behind the prune. Raises the error of a link that failed before."""
    snapshot: Snapshot = link.snapshots.get("fixed_up") or link.snapshot("post_prune")
    graph = snapshot.graph
    section_names = names_of(graph, graph.sections.name)
    symbol_names = names_of(graph, graph.symbols.name, demangle)
    inputs, sections, tiles = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for block in graph.blocks.live.nonzero()[0][1:].tolist():
        section = int(graph.blocks.section[block])
        input = escaped(graph.inputs[int(graph.sections.input[section])])
        size = int(graph.blocks.size[block])
        inputs[input] += size
        sections[section_names[section]] += size
        tiles[input, section_names[section]] += size
    symbols = graph.symbols
    counted_rows = (symbols.definition == Definition.DEFINED) & graph.blocks.live[symbols.block] & (symbols.size > 0)
    counted_rows &= symbols.kind != SymbolKind.SECTION
    rows = counted_rows.nonzero()[0].tolist()
    by_symbol = [(symbol_names[row], int(symbols.size[row])) for row in rows]
    return Sizes(
        sum(inputs.values()),
        _largest_first(inputs),
        _largest_first(sections),
        sorted(by_symbol, key=lambda row: (-row[1], row[0])),
        [(input, section, size) for (input, section), size in tiles.most_common() if size],
    )


def _largest_first(sizes: Counter[str]) -> list[tuple[str, int]]:
    return sorted(((name, size) for name, size in sizes.items() if size), key=lambda row: (-row[1], row[0]))


@dataclass(frozen=True)
class Tile:
    """A rectangle of a treemap, in pixels."""

    x: float
    y: float
    width: float
    height: float


def treemap(sizes: Sizes, width: int = 1200, height: int = 800) -> str:
    """Draw the inputs and their sections as tiles of their sizes: a page of HTML that needs nothing else."""
    by_input: dict[str, list[tuple[str, int]]] = {}
    for input, section, size in sizes.tiles:
        by_input.setdefault(input, []).append((section, size))
    order = [(name, sum(size for _, size in parts)) for name, parts in by_input.items()]
    order.sort(key=lambda row: -row[1])
    shapes = []
    for number, ((name, total), tile) in enumerate(
        zip(order, tiled([size for _, size in order], Tile(0, 0, width, height)), strict=True)
    ):
        hue = number * 47 % 360
        shapes.append(_drawn(tile, f"{name}: {total:,} bytes", name, f"hsl({hue} 35% 30%)"))
        inner = Tile(tile.x + 2, tile.y + 16, max(tile.width - 4, 0), max(tile.height - 18, 0))
        parts = by_input[name]
        for (section, size), part in zip(parts, tiled([size for _, size in parts], inner), strict=True):
            shapes.append(_drawn(part, f"{name} {section}: {size:,} bytes", section, f"hsl({hue} 45% 75%)"))
    title = f"{sizes.total:,} bytes"
    style = (
        "body{margin:1rem;font:14px system-ui}svg{width:100%;height:auto}text{font:11px monospace;pointer-events:none}"
    )
    box = f'viewBox="0 0 {width} {height}" role="img" aria-label="{title}"'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
        f"<h1>{title}</h1><svg {box}>{''.join(shapes)}</svg></html>\n"
    )


def _drawn(tile: Tile, tip: str, label: str, colour: str) -> str:
    """A tile with its tip, and with its label where that fits."""
    if tile.width < 0.5 or tile.height < 0.5:
        return ""
    box = f'x="{tile.x:.1f}" y="{tile.y:.1f}" width="{tile.width:.1f}" height="{tile.height:.1f}"'
    fitting = int((tile.width - SMALLEST_TILE) / 7)
    text = ""
    if fitting >= 3 and tile.height >= 14:
        dark = "30%" in colour
        cut = label if len(label) <= fitting else f"{label[: fitting - 1]}…"
        text = (
            f'<text x="{tile.x + 3:.1f}" y="{tile.y + 11:.1f}" fill="{"#fff" if dark else "#000"}">{escape(cut)}</text>'
        )
    return f'<g><title>{escape(tip)}</title><rect {box} fill="{colour}" stroke="#fff" stroke-width="0.5"/>{text}</g>'


def tiled(sizes: list[int], space: Tile) -> list[Tile]:
    """Divide a rectangle into tiles of given sizes, each nearly square. sizes: the largest first.

    Source: Bruls, Huizing and van Wijk, "Squarified Treemaps" (2000).
    """
    total = sum(sizes)
    if not total or space.width <= 0 or space.height <= 0:
        return [Tile(space.x, space.y, 0, 0)] * len(sizes)
    areas = [size * space.width * space.height / total for size in sizes]
    tiles: list[Tile] = []
    first = 0
    while first < len(areas):
        side = min(space.width, space.height)
        last = first + 1
        while last < len(areas) and _worst(areas[first : last + 1], side) <= _worst(areas[first:last], side):
            last += 1
        row, space = _laid(areas[first:last], space)
        tiles += row
        first = last
    return tiles


def _worst(areas: list[float], side: float) -> float:
    """The largest ratio of sides in a row of tiles along a side."""
    total = sum(areas)
    if not total or not side:
        return float("inf")
    smallest = min(areas)
    if not smallest:
        return float("inf")
    return max(side * side * max(areas) / total**2, total**2 / (side * side * smallest))


def _laid(areas: list[float], space: Tile) -> tuple[list[Tile], Tile]:
    """Lay a row of tiles along the shorter side; returns them and what is left."""
    total = sum(areas)
    tiles = []
    if space.width >= space.height:
        depth = min(total / space.height, space.width) if space.height else 0.0
        at = space.y
        for area in areas:
            length = area / depth if depth else 0.0
            tiles.append(Tile(space.x, at, depth, length))
            at += length
        return tiles, Tile(space.x + depth, space.y, max(space.width - depth, 0), space.height)
    depth = min(total / space.width, space.height) if space.width else 0.0
    at = space.x
    for area in areas:
        length = area / depth if depth else 0.0
        tiles.append(Tile(at, space.y, length, depth))
        at += length
    return tiles, Tile(space.x, space.y + depth, space.width, max(space.height - depth, 0))
