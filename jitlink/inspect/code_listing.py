"""The listing of code: instructions with their bytes, labels, source lines, and on each instruction the
relocations that patch it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jitlink.graph import Definition, LinkGraph, SymbolKind
from jitlink.inspect.instructions import Instruction, edges_by_instruction, instructions
from jitlink.inspect.text import Paper, padded
from jitlink.inspect.words import NO_NAME

BYTES_SHOWN = 8
TEXT_WIDTH = 40
FindLine = Callable[[int, int], tuple[str, int] | None]


class CodeListing:
    """Writes the code of blocks.

    graph; edge_words (what stands beside an instruction for an edge, by its row); label_of (the name of a
    symbol by its row); bytes_of (the bytes of a block); find_line (the source line of a place in a block).
    """

    def __init__(
        self,
        graph: LinkGraph,
        edge_words: Callable[[int], str],
        label_of: Callable[[int], str],
        bytes_of: Callable[[int], bytes],
        find_line: FindLine | None,
    ) -> None:
        self.graph = graph
        self.edge_words = edge_words
        self.label_of = label_of
        self.bytes_of = bytes_of
        self.find_line = find_line

    def lines(self, block: int, paper: Paper) -> Iterator[str]:
        """The code of one block, as lines without their newline."""
        address = int(self.graph.blocks.address[block])
        found = list(instructions(self.graph, block, self.bytes_of(block), address))
        labels = self._labels(block)
        held = edges_by_instruction(self.graph, block, found)
        digits = max(len(f"{address + instruction.offset:x}") for instruction in found[-1:]) if found else 1
        last_line: tuple[str, int] | None = None
        for number, instruction in enumerate(found):
            for offset in range(instruction.offset, instruction.end):
                for label in labels.get(offset, ()):
                    yield paper.fit(f"  {label}:" if offset == instruction.offset else f"  {label}: (inside)")
            line = self.find_line(block, instruction.offset) if self.find_line else None
            if line is not None and line != last_line:
                yield paper.aside(f"  {line[0]}:{line[1]}")
            last_line = line or last_line
            yield from self._instruction(instruction, held.get(number, []), address, digits, paper)

    def _labels(self, block: int) -> dict[int, list[str]]:
        """The names of the places in a block, by offset."""
        symbols = self.graph.symbols
        rows = ((symbols.block == block) & (symbols.definition == Definition.DEFINED)).nonzero()[0]
        labels: dict[int, list[str]] = {}
        for row in rows.tolist():
            if symbols.kind[row] != SymbolKind.SECTION and self.label_of(row) != NO_NAME:
                labels.setdefault(int(symbols.offset[row]), []).append(self.label_of(row))
        return labels

    def _instruction(
        self, instruction: Instruction, edges: list[int], address: int, digits: int, paper: Paper
    ) -> Iterator[str]:
        """An instruction, on further lines the rest of its bytes and of its relocations."""
        place = f"{address + instruction.offset:{digits}x}"
        parts = [
            instruction.content[at : at + BYTES_SHOWN].hex(" ")
            for at in range(0, len(instruction.content), BYTES_SHOWN)
        ]
        width = 3 * BYTES_SHOWN - 1
        words = [self.edge_words(edge) for edge in edges]
        for number in range(max(len(parts), len(words), 1)):
            shown = parts[number] if number < len(parts) else ""
            text = instruction.text if number == 0 else ""
            note = f"  {words[number]}" if number < len(words) else ""
            start = place if number == 0 else " " * len(place)
            yield paper.fit(
                f"  {start}  {padded(shown, width)}  {padded(text, TEXT_WIDTH) if note else text}{note}".rstrip()
            )
