"""From an address in linked code to the symbol, the object and the line that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

# A session makes an object of this module at every link; what it works with is for those who ask.
if TYPE_CHECKING:
    from jitlink.graph import LinkGraph
    from jitlink.passes.debug import DebugSections
    from jitlink.runtime.functions import NamedPlaces
    from jitlink.runtime.lines import Lines


@dataclass(frozen=True)
class Location:
    """What an address belongs to.

    Attributes: symbol; offset (bytes from where that starts); object (the input that defines it, archive
    member included); file and line (of the source; None where there is no debug information, or it was
    not asked for with debug=True).
    """

    symbol: str
    offset: int
    object: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        source = f" at {self.file}:{self.line}" if self.file else ""
        return f"{self.symbol}+{self.offset:#x} ({self.object}){source}"


class Names:
    """The names of one link. Tables are made when the first address is asked about."""

    def __init__(self, graph: LinkGraph, base: int, size: int, debug_sections: DebugSections) -> None:
        self.base = base
        self.size = size
        self._graph = graph
        self._debug_sections = debug_sections
        self._lines: dict[str, Lines] = {}

    def locate(self, address: int) -> Location | None:
        """What an address belongs to; None if no symbol of the link covers it."""
        if not self.base <= address < self.base + self.size:
            return None
        for places in (self._functions, self._variables):
            row = places.find(address)
            if row is not None:
                name = places.name[row].decode(errors="surrogateescape")
                input = self._graph.inputs[int(places.input[row])]
                source = self._lines_of(input).find(address) if places is self._functions else None
                return Location(name, address - int(places.address[row]), input, *(source or ()))
        return None

    def input_of(self, address: int) -> tuple[LinkGraph, int] | None:
        """The graph, and the number of the input in it, that defines what is at an address of the link."""
        if self.base <= address < self.base + self.size:
            for places in (self._functions, self._variables):
                row = places.find(address)
                if row is not None:
                    return self._graph, int(places.input[row])
        return None

    def inputs(self) -> list[tuple[LinkGraph, int]]:
        """All inputs of the link: the graph, and the number of each in it."""
        return [(self._graph, number) for number in range(1, len(self._graph.inputs))]

    @cached_property
    def _functions(self) -> NamedPlaces:
        return self._places(code=True)

    @cached_property
    def _variables(self) -> NamedPlaces:
        return self._places(code=False)

    def _places(self, *, code: bool) -> NamedPlaces:
        from jitlink.runtime.functions import named_places

        return named_places(self._graph, code=code)

    def _lines_of(self, input: str) -> Lines:
        from jitlink.runtime.lines import read_lines

        if input not in self._lines:
            self._lines[input] = read_lines(self._debug_sections.get(input, {}))
        return self._lines[input]
