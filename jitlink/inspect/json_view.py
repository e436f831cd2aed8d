"""A link graph as JSON, for other programs: the schema is jitlink/inspect/schema.json.

One document holds the inputs, the relocation kinds that occur with their formulas, and the rows of all
tables. Rows are named by their numbers in the graph, from 1; a reference to nothing is left out. The
text is made in pieces straight from the columns, so that a large archive is not held a second time.

JSON has no bytes, and names of objects need not be UTF-8. A name that is not has its wrong bytes written
as \\xNN, and beside it, as `name_hex`, all bytes of the name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import numpy as np

from jitlink.columns import Rows
from jitlink.formulas import Kind, Through
from jitlink.graph import Definition, Lifetime, Linkage, LinkGraph, Purpose, Scope, SymbolKind
from jitlink.inspect.selection import Selection, select
from jitlink.inspect.stages import Snapshot
from jitlink.protection import Protection

SCHEMA = "jitlink-graph"
VERSION = 1
"""Of the schema; rises when a reader of the old one would go wrong."""
ROWS_AT_ONCE = 4096
READ = "read"
"""The stage of a graph that was read and not linked."""
PROTECTION_LETTERS = [json.dumps(Protection(number).letters) for number in range(8)]


def json_pieces(
    graph: LinkGraph,
    *,
    snapshot: Snapshot | None = None,
    placeholders: Sequence[str] = (),
    faults: Iterable[tuple[str, str]] = (),
    keep: Selection | None = None,
) -> Iterator[str]:
    """Write a graph as a JSON document, in pieces whose concatenation is the document.

    snapshot: the stage that the graph is of; without one it is as it was read, and there are no
    addresses. placeholders: names that have a made-up address. faults: (input, error) of what could not
    be read. keep: the rows to show, all by default.
    """
    return _Writer(graph, snapshot, keep or select(graph)).pieces(placeholders, faults)


class _Writer:
    def __init__(self, graph: LinkGraph, snapshot: Snapshot | None, keep: Selection) -> None:
        self.graph = graph
        self.snapshot = snapshot
        self.allocated = snapshot is not None and snapshot.allocated
        self.keep = keep

    def pieces(self, placeholders: Sequence[str], faults: Iterable[tuple[str, str]]) -> Iterator[str]:
        """The whole document."""
        head: dict[str, Any] = {
            "schema": SCHEMA,
            "version": VERSION,
            "stage": self.snapshot.stage if self.snapshot else READ,
            "target": self.graph.target.name,
        }
        yield json.dumps(head)[:-1]
        inputs = ({"number": number, "name": _text(name)} for number, name in enumerate(self.graph.inputs))
        yield from self._array("inputs", map(json.dumps, inputs))
        yield from self._array("kinds", map(json.dumps, self._kinds()))
        yield from self._array("sections", self._sections())
        yield from self._array("blocks", self._blocks())
        yield from self._array("symbols", self._symbols())
        yield from self._array("edges", self._edges())
        yield from self._array("placeholders", (json.dumps(_text(name)) for name in placeholders))
        found = ({"input": _text(input), "error": _text(error)} for input, error in faults)
        yield from self._array("faults", map(json.dumps, found))
        yield "\n}\n"

    def _array(self, name: str, rows: Iterable[str]) -> Iterator[str]:
        """An array of the document, a row a line, in pieces of many rows."""
        rows = iter(rows)
        yield f',\n"{name}": ['
        before = "\n"
        while part := list(islice(rows, ROWS_AT_ONCE)):
            yield before + ",\n".join(part)
            before = ",\n"
        yield "]"

    def _kinds(self) -> Iterator[dict[str, Any]]:
        """The relocation kinds that occur, each with what its row in the table says."""
        for number in np.unique(self.graph.edges.kind[self.keep.edges]).tolist():
            kind = self.graph.target.kinds[number]
            if isinstance(kind, Kind):
                yield {
                    "kind": number,
                    "name": kind.name,
                    "format": kind.format,
                    "number": kind.number,
                    "formula": str(kind.value),
                    "field": str(kind.field),
                    "check": str(kind.check),
                    "through": Through(kind.through).name.lower(),
                    "reason": kind.reason,
                    "source": kind.source,
                }

    def _columns(self, table: Any, rows: Rows, *names: str) -> Iterator[tuple[Any, ...]]:
        """The values of some columns of a table, row by row, with the row's number in front."""
        return zip(rows.tolist(), *(getattr(table, name)[rows].tolist() for name in names), strict=True)

    def _names(self, table: Any, rows: Rows) -> Iterator[str]:
        """The members name and, where it is needed, name_hex of rows, as JSON."""
        return map(_name_members, self.graph.names_at(table.name[rows]))

    def _sections(self) -> Iterator[str]:
        sections, rows = self.graph.sections, self.keep.sections
        lifetime, purpose = _words(Lifetime), _words(Purpose)
        columns = self._columns(sections, rows, "input", "protection", "lifetime", "purpose", "type", "flags")
        for name, (row, input, protection, lives, what, type, flags) in zip(
            self._names(sections, rows), columns, strict=True
        ):
            yield (
                f'{{"row": {row}, {name}, "input": {input}, "protection": {PROTECTION_LETTERS[protection & 7]}, '
                f'"lifetime": {lifetime(lives)}, "purpose": {purpose(what)}, "type": {type}, "flags": {flags}}}'
            )

    def _blocks(self) -> Iterator[str]:
        blocks, rows = self.graph.blocks, self.keep.blocks
        columns = self._columns(blocks, rows, "section", "size", "alignment", "zero_fill", "live", "group", "address")
        for row, section, size, alignment, zero_fill, live, group, address in columns:
            extra = f', "group": {group}' if group else ""
            extra += f', "address": {address}' if self.allocated and live else ""
            yield (
                f'{{"row": {row}, "section": {section}, "size": {size}, "alignment": {alignment}, '
                f'"zero_fill": {_truth(zero_fill)}, "live": {_truth(live)}{extra}}}'
            )

    def _symbols(self) -> Iterator[str]:
        symbols, rows = self.graph.symbols, self.keep.symbols
        linkage, scope, definition, kind = map(_words, (Linkage, Scope, Definition, SymbolKind))
        columns = self._columns(
            symbols, rows, "input", "block", "offset", "size", "linkage", "scope", "definition", "kind"
        )
        addresses = symbols.addresses()[rows].tolist()
        for name, address, (row, input, block, offset, size, link, seen, defined, sort) in zip(
            self._names(symbols, rows), addresses, columns, strict=True
        ):
            extra = f', "block": {block}' if block else ""
            extra += f', "address": {address}' if self.allocated and defined != Definition.UNDEFINED else ""
            yield (
                f'{{"row": {row}, {name}, "input": {input}, "offset": {offset}, "size": {size}, '
                f'"linkage": {linkage(link)}, "scope": {scope(seen)}, "definition": {definition(defined)}, '
                f'"kind": {kind(sort)}{extra}}}'
            )

    def _edges(self) -> Iterator[str]:
        edges, rows = self.graph.edges, self.keep.edges
        columns = self._columns(edges, rows, "block", "offset", "kind", "target", "addend")
        values = self.snapshot.values(rows).tolist() if self.snapshot and self.allocated else None
        for number, (row, block, offset, kind, target, addend) in enumerate(columns):
            value = f', "value": {values[number]}' if values else ""
            yield (
                f'{{"row": {row}, "block": {block}, "offset": {offset}, "kind": {kind}, "target": {target}, '
                f'"addend": {addend}{value}}}'
            )


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _words(enumeration: Any) -> Callable[[int], str]:
    """Write members of an enumeration as words, and numbers that it does not have as numbers in quotes."""
    known = {member.value: quoted(member.name.lower()) for member in enumeration}
    return lambda number: known.get(number) or f'"{number}"'


def _name_members(name: bytes) -> str:
    try:
        return f'"name": {quoted(name.decode())}'
    except UnicodeDecodeError:
        return f'"name": {quoted(name.decode(errors="backslashreplace"))}, "name_hex": "{name.hex()}"'


def _text(text: str) -> str:
    """Text that may hold surrogate escapes, as text that does not."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
