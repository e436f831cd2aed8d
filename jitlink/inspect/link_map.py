"""The link map: where everything of an image is.

The segments with their protections, then by rising address every section of every input with the
symbols that it defines. Blocks that were dropped are not in it; the linker's own blocks (GOT entries,
stubs) are, under the input "(linker)".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jitlink.columns import Rows, rows_by
from jitlink.escaping import escaped
from jitlink.graph import Definition, SymbolKind
from jitlink.image import Image
from jitlink.inspect.text import Paper
from jitlink.inspect.words import NO_NAME, counted, names_of


def link_map(image: Image, paper: Paper | None = None) -> Iterator[str]:
    """Describe an image, as lines without their newline."""
    return _LinkMap(image, paper or Paper()).lines()


class _LinkMap:
    """An image and how its addresses are written: all with as many digits as the highest one has."""

    def __init__(self, image: Image, paper: Paper) -> None:
        self.image = image
        self.graph = image.graph
        self.paper = paper
        self.digits = len(f"{max(image.base + image.size, 1):x}")

    def address(self, value: int) -> str:
        """Write an address."""
        return f"0x{value:0{self.digits}x}"

    def lines(self) -> Iterator[str]:
        """The whole map."""
        image = self.image
        yield self.paper.heading(f"image at {self.address(image.base)}, {image.size:#x} bytes")
        yield from ("", self.paper.aside("segments: address, size, bytes with content, protection"))
        yield from self.paper.table(
            (
                (self.address(part.address), f"{part.size:#x}", f"{len(part.content):#x}", part.protection.letters)
                for part in image.segments
            ),
            right=(1, 2),
        )
        yield from ("", self.paper.aside("sections: address, size, alignment, name, input; under each its symbols"))
        yield from self._sections()
        outside = self._outside()
        if outside:
            yield from ("", self.paper.aside("symbols outside of the image: address, name"))
            yield from self.paper.table(outside)
        if image.initialisers:
            count = counted(len(image.initialisers), "initialiser")
            yield from ("", self.paper.aside(f"{count}, to be called in this order before anything else"))
            yield from self.paper.table([(self.address(function),) for function in image.initialisers])

    def _sections(self) -> Iterator[str]:
        """One line for each live block, and its symbols below it."""
        blocks, sections = self.graph.blocks, self.graph.sections
        rows = blocks.live.nonzero()[0][1:]
        rows = rows[np.lexsort((rows, blocks.size[rows] > 0, blocks.address[rows]))]
        names = names_of(self.graph, sections.name)
        inputs = [escaped(name) for name in self.graph.inputs]
        symbols, first_symbol = self._symbols_by_block()
        symbol_names = names_of(self.graph, self.graph.symbols.name)
        addresses = self.graph.symbols.addresses()
        table = [
            (
                self.address(int(blocks.address[row])),
                f"{int(blocks.size[row]):#x}",
                str(int(blocks.alignment[row])),
                names[int(blocks.section[row])],
                inputs[int(sections.input[blocks.section[row]])],
            )
            for row in rows.tolist()
        ]
        for row, line in zip(rows.tolist(), self.paper.table(table, right=(1, 2)), strict=True):
            yield line
            of_block = symbols[first_symbol[row] : first_symbol[row + 1]]
            yield from self.paper.table(
                (
                    (
                        self.address(int(addresses[symbol])),
                        f"{int(self.graph.symbols.size[symbol]):#x}",
                        symbol_names[symbol],
                    )
                    for symbol in of_block.tolist()
                ),
                right=(1,),
                indent=6,
            )

    def _symbols_by_block(self) -> tuple[Rows, Rows]:
        """The named symbols of each block by rising address; section symbols repeat their section's name."""
        symbols = self.graph.symbols
        named = (symbols.definition == Definition.DEFINED) & (symbols.kind != SymbolKind.SECTION)
        named &= symbols.name != symbols.name[0]
        rows = named.nonzero()[0]
        rows = rows[symbols.offset[rows].argsort(kind="stable")]
        grouped, first = rows_by(symbols.block[rows], len(self.graph.blocks))
        return rows[grouped], first

    def _outside(self) -> list[tuple[str, str]]:
        """What the image refers to at addresses that the caller gave, and absolute symbols."""
        symbols = self.graph.symbols
        given = (symbols.definition == Definition.EXTERNAL) | (symbols.definition == Definition.ABSOLUTE)
        rows = (given & (symbols.kind != SymbolKind.FILE)).nonzero()[0]
        found = zip(symbols.offset[rows].tolist(), names_of(self.graph, symbols.name[rows]), strict=True)
        return [(self.address(address), name) for address, name in sorted(set(found)) if name != NO_NAME]
