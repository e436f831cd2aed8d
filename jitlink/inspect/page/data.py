"""The data of the report page: columns of a link graph at each stage, packed for a browser.

A column is the raw little-endian numbers of an array, compressed (zlib) and in base64; equal columns of
several stages are kept once. Text is packed the same way, one line for each string. The page's src/data.ts
reads what this writes; VERSION is checked there.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jitlink.escaping import escaped
from jitlink.formulas import Kind
from jitlink.graph import LinkGraph, SymbolKind
from jitlink.inspect.instructions import instructions
from jitlink.inspect.reached import reached_from
from jitlink.inspect.stages import Snapshot, Watched
from jitlink.inspect.words import kind_in_words
from jitlink.protection import Protection

VERSION = 1
MOST_CONTENT = 1 << 23
"""Bytes of content that a page holds at each of its two states; blocks behind that are shown without."""
MOST_CODE = 1 << 20
"""Bytes of code that are disassembled at each of them."""
LONGEST_NAME = 300
EXECUTE = int(Protection.EXECUTE)
TABLES = {
    "sections": ("name", "input", "protection", "lifetime", "purpose"),
    "blocks": ("section", "size", "alignment", "zero_fill", "live", "address"),
    "symbols": ("name", "block", "offset", "size", "linkage", "scope", "definition", "kind", "input"),
    "edges": ("block", "offset", "kind", "target", "addend"),
}
WIDTH_OF = {"bool": "<u1", "uint8": "<u1", "int64": "<i4", "uint64": "<u8"}
"""How a column of a dtype is packed. Rows, offsets and sizes fit 32 bits; addresses do not."""
WIDE = {("blocks", "size"), ("edges", "addend"), ("edges", "offset")}
"""Columns of int64 that may not fit 32 bits."""


def report_data(link: Watched, title: str, exports: Sequence[str] | None) -> dict[str, Any]:
    """Make the data of a page, ready for JSON."""
    return _Packer(link).data(title, exports)


class _Packer:
    def __init__(self, link: Watched) -> None:
        self.link = link
        self.last = list(link.snapshots.values())[-1]
        self.columns: list[str] = []
        self.number_of_column: dict[bytes, int] = {}
        self.texts: dict[str, int] = {}

    def data(self, title: str, exports: Sequence[str] | None) -> dict[str, Any]:
        """The whole data."""
        graph = self.last.graph
        stages = {name: self._stage(snapshot) for name, snapshot in self.link.snapshots.items()}
        states = {"before": self._state(self.link.snapshots["pre_prune"])}
        if "fixed_up" in self.link.snapshots:
            states["after"] = self._state(self.link.snapshots["fixed_up"])
        return {
            "version": VERSION,
            "title": title,
            "target": graph.target.name,
            "error": escaped(str(self.link.error)) if self.link.error else None,
            "exports": [escaped(name) for name in exports or ()],
            "placeholders": [escaped(name) for name in self.link.placeholders],
            "inputs": _without_directories([_short(escaped(name)) for name in graph.inputs]),
            "kinds": self._kinds(),
            "symbolKinds": {int(kind): kind.name.lower() for kind in SymbolKind},
            "got": str(self.last.got),
            "stages": stages,
            "states": states,
            "roots": self._roots(exports),
            "strings": self._packed("\n".join(self.texts).encode()),
            "columns": self.columns,
        }

    def _stage(self, snapshot: Snapshot) -> dict[str, dict[str, Any]]:
        """The tables of a graph at one stage: the number of the packed column for each name."""
        graph = snapshot.graph
        tables = {table: {name: self._column(graph, table, name) for name in names} for table, names in TABLES.items()}
        if snapshot.allocated:
            edges = np.arange(len(graph.edges))
            tables["edges"]["value"] = self._packed(snapshot.values(edges).astype("<u8").tobytes())
            tables["symbols"]["address"] = self._packed(graph.symbols.addresses().astype("<u8").tobytes())
        return tables

    def _column(self, graph: LinkGraph, table: str, name: str) -> int:
        values = getattr(getattr(graph, table), name)
        if name == "name":
            texts = [_short(escaped(raw.decode(errors="surrogateescape"))) for raw in graph.names_at(values)]
            values = np.array([self.texts.setdefault(text, len(self.texts)) for text in texts], np.int64)
        width = WIDTH_OF[values.dtype.name]
        if (table, name) in WIDE:
            # As far as a page can tell, a size or addend beyond 2**53 is as good as any other.
            width = "<f8"
        if (table, name) == ("symbols", "offset") or (table, name) == ("symbols", "size"):
            width = "<f8"
        return self._packed(values.astype(width).tobytes())

    def _packed(self, content: bytes) -> int:
        """Keep content once; returns its number."""
        if content not in self.number_of_column:
            self.number_of_column[content] = len(self.columns)
            self.columns.append(base64.b64encode(zlib.compress(content, 6)).decode())
        return self.number_of_column[content]

    def _kinds(self) -> dict[int, dict[str, Any]]:
        """What the page says of the relocation kinds that occur at any stage."""
        numbers: set[int] = set()
        for snapshot in self.link.snapshots.values():
            numbers |= set(np.unique(snapshot.graph.edges.kind).tolist())
        found = {}
        for number in sorted(numbers):
            kind = self.last.graph.target.kinds[number]
            if isinstance(kind, Kind):
                found[number] = {
                    "name": kind.name,
                    "formula": str(kind.value) if kind.applied else "",
                    "words": kind_in_words(kind),
                    "field": str(kind.field),
                    "size": kind.field.size,
                    "check": str(kind.check),
                    "signed": kind.check.low < 0,
                    "source": kind.source,
                }
        return found

    def _state(self, snapshot: Snapshot) -> dict[str, int]:
        """The bytes of the blocks and the instructions of code, with unfixed or with final content."""
        graph = snapshot.graph
        starts, contents, room = [0], [], MOST_CONTENT
        code_blocks: list[int] = []
        offsets: list[int] = []
        first = [0]
        texts: list[str] = []
        code_room = MOST_CODE
        for block in range(len(graph.blocks)):
            size = int(graph.blocks.size[block])
            content = b""
            if block and not graph.blocks.zero_fill[block] and size <= room:
                content = snapshot.bytes_of(block)
                room -= size
            contents.append(content)
            starts.append(starts[-1] + len(content))
            if content and len(content) <= code_room and self._is_code(graph, block):
                code_room -= len(content)
                found = instructions(graph, block, content, int(graph.blocks.address[block]))
                code_blocks.append(block)
                for instruction in found:
                    offsets.append(instruction.offset)
                    texts.append(instruction.text)
                first.append(len(offsets))
        return {
            "starts": self._numbers(starts),
            "content": self._packed(b"".join(contents)),
            "codeBlocks": self._numbers(code_blocks),
            "codeFirst": self._numbers(first),
            "codeOffsets": self._numbers(offsets),
            "codeTexts": self._packed("\n".join(texts).encode()),
        }

    @staticmethod
    def _is_code(graph: LinkGraph, block: int) -> bool:
        return bool(int(graph.sections.protection[graph.blocks.section[block]]) & EXECUTE)

    def _numbers(self, values: Iterable[int]) -> int:
        return self._packed(np.array(list(values), "<i4").tobytes())

    def _roots(self, exports: Sequence[str] | None) -> dict[str, int]:
        """How each block is reached behind the prune: the edge's block, and the root."""
        snapshot = self.link.snapshots.get("post_prune") or self.link.snapshots["pre_prune"]
        reached = reached_from(snapshot.graph, exports)
        by_edge = reached.by_edge
        from_block = np.where(by_edge >= 0, snapshot.graph.edges.block[np.maximum(by_edge, 0)], by_edge)
        return {"from": self._packed(from_block.astype("<i4").tobytes())}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def _without_directories(names: list[str]) -> list[str]:
    """The names of inputs without what all of them, the linker aside, begin with: a directory, or one archive."""
    shared = _common_start(names[1:])
    archive = shared.rfind("(") + 1
    if archive and all(name.endswith(")") for name in names[1:]):
        return [*names[:1], *(name[archive:-1] for name in names[1:])]
    cut = shared.rfind("/") + 1
    return [*names[:1], *(name[cut:] for name in names[1:])]


def _common_start(names: list[str]) -> str:
    """The letters that all names begin with."""
    first, last = min(names, default=""), max(names, default="")
    same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[:same]
