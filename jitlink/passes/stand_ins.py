"""Stand-ins: what a symbol means that nobody defines, where its object says so.

A weak external of COFF names a default, and the directive /alternatename another symbol for one that is
undefined. Both stand in only if no input defines the name itself, nor an earlier link of the same dylib. A
stand-in may be undefined too, and have one of its own.

Source: Microsoft PE Format specification, "Auxiliary Format 3: Weak Externals".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jitlink.errors import LinkFailure
from jitlink.escaping import escaped
from jitlink.graph import Definition, LinkGraph, Scope
from jitlink.passes.resolve import Resolution

UNDEFINED, LOCAL = int(Definition.UNDEFINED), int(Scope.LOCAL)


def take_stand_ins(graph: LinkGraph, resolution: Resolution, already_defined: Callable[[str], int | None]) -> None:
    """Aim references to undefined names at what stands in for them. Needs aimed edges.

    already_defined: the address of a name that this dylib has defined before. Raises LinkFailure where names
    stand in for each other in a circle.
    """
    symbols = graph.symbols
    rows = ((symbols.alias > 0) & (symbols.definition == UNDEFINED) & (symbols.scope != LOCAL)).nonzero()[0]
    if not len(rows):
        return
    # The name of each that is really undefined, with the first stand-in that some input gives it.
    stand_in: dict[bytes, int] = {}
    for name, other in zip(graph.names_at(symbols.name[rows]), symbols.alias[rows].tolist(), strict=True):
        wanted = resolution.symbol(name) in resolution.undefined
        if wanted and name not in stand_in and already_defined(graph.c_name(name)) is None:
            stand_in[name] = other
    if not stand_in:
        return
    resolved = np.arange(len(symbols))
    for name in stand_in:
        found = _end_of_chain(graph, resolution, stand_in, name)
        number = resolution.number_of[name]
        resolved[resolution.winner[number]] = found
    for name in stand_in:
        number = resolution.number_of[name]
        undefined = int(resolution.winner[number])
        resolution.winner[number] = resolved[undefined]
        resolution.undefined.pop(undefined, None)
        resolution.weak.discard(undefined)
    graph.edges.target = resolved[graph.edges.target]


def _end_of_chain(graph: LinkGraph, resolution: Resolution, stand_in: dict[bytes, int], name: bytes) -> int:
    """Follow stand-ins from a name to the symbol that it means in the end."""
    seen = {name: None}
    while True:
        row = stand_in[name]
        name = graph.raw_name_at(int(graph.symbols.name[row]))
        if graph.symbols.scope[row] == LOCAL or not name:
            return row
        if name in seen:
            circle = ", ".join(escaped(each.decode(errors="surrogateescape")) for each in seen)
            raise LinkFailure(f"weak symbols stand in for each other in a circle: {circle}")
        if name not in stand_in:
            return resolution.symbol(name)
        seen[name] = None
