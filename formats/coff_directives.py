"""Linker directives: the options that an object gives its linker, as text in its section .drectve.

    /alternatename:A=B   where nobody defines A, it is B
    /export:A=B          B is seen outside under the name A
    /include:A           A is needed, though nothing refers to it
    /merge:A=B           the section A is part of B
    -aligncomm:A,N       the common symbol A is aligned to 2**N bytes (GNU)

These are followed. All are recorded in LinkGraph.directives, those too that mean nothing here: which
libraries to search (/defaultlib) is the caller's business, and the rest speaks of an executable file.

Source: Microsoft PE Format specification, "The .drectve Section (Object Only)"; the linker options of the
Microsoft C++ documentation; for -aligncomm, GNU binutils, bfd/cofflink.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jitlink.columns import Rows
from jitlink.errors import MalformedInput
from jitlink.formats.coff_names import is_named
from jitlink.graph import Definition, Linkage, LinkGraph
from jitlink.protection import Protection

if TYPE_CHECKING:
    from jitlink.formats.coff import CoffReader

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An argument may be quoted in part, with spaces inside: /export:"a b",data
TOKEN = re.compile(rb'(?:[^\s\0"]|"[^"]*")+')
LARGEST_COMMON_SHIFT = 30


class Directive(NamedTuple):
    """One option of one object: its name in small letters, and what stands behind the colon, unquoted."""

    name: str
    argument: bytes


@cache
def parse(text: bytes) -> tuple[Directive, ...]:
    """Split the text of a .drectve section into its options."""
    found = []
    for token in TOKEN.findall(text.removeprefix(BYTE_ORDER_MARK)):
        name, _, argument = token.replace(b'"', b"").partition(b":")
        if name[:1] in (b"/", b"-"):
            found.append(Directive(name[1:].lower().decode("ascii", "replace"), argument))
    return tuple(found)


def apply_directives(reader: CoffReader, graph: LinkGraph) -> None:
    """Follow the directives of all objects, and record them. Raises MalformedInput."""
    rows = (is_named(reader.section_words, b".drectve") & (reader.size > 0) & ~reader.zero_fill).nonzero()[0]
    follower = _Follower(graph)
    places = zip(reader.owner[rows].tolist(), reader.position[rows].tolist(), reader.size[rows].tolist(), strict=True)
    for owner, start, size in places:
        input = owner + 1
        for directive in parse(reader.batch.pool[start : start + size].tobytes()):
            graph.directives.append((input, directive.name, directive.argument.decode(errors="surrogateescape")))
            follow = follower.by_name.get(directive.name)
            if follow is not None:
                follow(input, directive.argument)
    follower.finish()


class _Follower:
    """Does what directives say."""

    def __init__(self, graph: LinkGraph) -> None:
        self.graph = graph
        self.merged: dict[bytes, bytes] = {}
        self.common_shifts: dict[tuple[int, bytes], int] = {}
        self.needed: dict[int, list[int]] = {}
        self.by_name: dict[str, Callable[[int, bytes], None]] = {
            "alternatename": self.alternate_name,
            "export": self.export,
            "include": self.include,
            "merge": self.merge,
            "aligncomm": self.align_common,
        }

    def alternate_name(self, input: int, argument: bytes) -> None:
        """Let one name stand in for another."""
        name, _, other = argument.partition(b"=")
        if not name or not other:
            raise self._fault(input, "alternatename", argument)
        self._stand_in(input, name, other)

    def export(self, input: int, argument: bytes) -> None:
        """Give a symbol another name outside; the attributes behind commas speak of DLLs."""
        names = argument.partition(b",")[0]
        name, renamed, internal = names.partition(b"=")
        if not name:
            raise self._fault(input, "export", argument)
        if renamed and internal != name:
            self._stand_in(input, name, internal)

    def include(self, input: int, argument: bytes) -> None:
        """Need a symbol."""
        if not argument:
            raise self._fault(input, "include", argument)
        self.needed.setdefault(input, []).append(self._refer(input, argument))

    def merge(self, input: int, argument: bytes) -> None:
        """Give a section another name, of the whole link."""
        name, _, other = argument.partition(b"=")
        if not name or not other:
            raise self._fault(input, "merge", argument)
        self.merged[name] = other

    def align_common(self, input: int, argument: bytes) -> None:
        """Align a common symbol of the same object."""
        name, _, shift = argument.rpartition(b",")
        if not name or not shift.isdigit() or len(shift) > 2 or int(shift) > LARGEST_COMMON_SHIFT:
            raise self._fault(input, "aligncomm", argument)
        self.common_shifts[input, name] = int(shift)

    def finish(self) -> None:
        """Do what concerns several inputs or rows at once."""
        if self.merged:
            self._rename_sections()
        if self.common_shifts:
            self._align_commons()
        if self.needed:
            self._keep_needed()

    def _rename_sections(self) -> None:
        sections = self.graph.sections
        for row, name in enumerate(self.graph.names_at(sections.name)):
            seen = {name}
            # A section may be merged into one that is merged itself; in a circle it keeps a name of it.
            while name in self.merged and self.merged[name] not in seen:
                name = self.merged[name]
                seen.add(name)
            if len(seen) > 1:
                sections.name[row] = self.graph.add_name(name)

    def _align_commons(self) -> None:
        symbols = self.graph.symbols
        rows = (symbols.definition == Definition.COMMON).nonzero()[0]
        names = self.graph.names_at(symbols.name[rows])
        for row, input, name in zip(rows.tolist(), symbols.input[rows].tolist(), names, strict=True):
            shift = self.common_shifts.get((input, name), 0)
            symbols.offset[row] = max(int(symbols.offset[row]), 1 << shift)

    def _keep_needed(self) -> None:
        """Refer to what is needed from an empty block that is always kept, by an edge that writes nothing."""
        graph = self.graph
        inputs = np.array(list(self.needed))
        sections = graph.sections.append(
            len(inputs),
            name=graph.add_name(b".drectve"),
            input=inputs,
            protection=int(Protection.READ),
            retained=True,
        )
        blocks = graph.blocks.append(len(inputs), section=sections, alignment=1, live=True)
        targets = list(self.needed.values())
        counts = np.array([len(several) for several in targets])
        flat: Rows = np.array([target for several in targets for target in several])
        graph.edges.append(len(flat), block=blocks.repeat(counts), target=flat)
        graph.sort_edges()

    def _stand_in(self, input: int, name: bytes, other: bytes) -> None:
        self._refer(input, name, linkage=Linkage.WEAK, alias=self._refer(input, other))

    def _refer(self, input: int, name: bytes, *, linkage: Linkage = Linkage.STRONG, alias: int = 0) -> int:
        graph = self.graph
        row = graph.add_symbol(name, linkage=linkage)
        graph.symbols.input[row] = input
        graph.symbols.alias[row] = alias
        return row

    def _fault(self, input: int, name: str, argument: bytes) -> MalformedInput:
        text = argument.decode(errors="replace")
        return MalformedInput(
            f"the directive /{name}:{text} has not the form that it must have", input=self.graph.inputs[input]
        )
