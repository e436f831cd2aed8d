"""Calls across conventions: functions outside that are called in another way than the code of the link calls.

Code from COFF objects for x86-64 calls by Microsoft's convention, also where it runs on another system,
whose own functions follow System V. For each function outside that the graph refers to there is then an
entry, and for each signature a bridge (see jitlink.arches.x86_64_conventions); the references are aimed at
the entry, so that a pointer to the function is one that the code can call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jitlink.arches.x86_64_conventions import (
    ADDEND,
    BRIDGE_FIELD,
    ENTRY,
    FIELD,
    POINTER_FIELD,
    Signature,
    bridge_from_microsoft,
    bridge_to_microsoft,
)
from jitlink.columns import Rows
from jitlink.errors import LinkFailure
from jitlink.escaping import escaped
from jitlink.graph import Definition, LinkGraph, Scope
from jitlink.protection import Protection

CODE = Protection.READ | Protection.EXECUTE
SHOWN_AT_MOST = 20


@dataclass(frozen=True)
class Crossing:
    """A function that is called by another convention.

    Attributes: address; signature (None if nobody knows it); to_microsoft (whether it is the function that
    follows Microsoft's convention, and not the code that calls it).
    """

    address: int
    signature: Signature | None
    to_microsoft: bool = False


FindCrossing = Callable[[str, int], Crossing | None]
"""From the name and the address of something outside to how it is called, if it is not as code of the link is."""


def bridge_externals(graph: LinkGraph, find: FindCrossing) -> None:
    """Aim references to functions of another convention at entries to them. Needs addresses of externals.

    Raises LinkFailure with all functions whose types are not known.
    """
    symbols = graph.symbols
    live = graph.blocks.live[graph.edges.block]
    referenced = np.zeros(len(symbols), np.bool_)
    referenced[graph.edges.target[live]] = True
    rows = (referenced & (symbols.definition == Definition.EXTERNAL) & (symbols.offset > 0)).nonzero()[0]
    names = [graph.c_name(name) for name in graph.names_at(symbols.name[rows])]
    crossings: dict[int, Crossing] = {}
    unknown = []
    for row, name, address in zip(rows.tolist(), names, symbols.offset[rows].tolist(), strict=True):
        found = find(name, address)
        if found is not None and found.signature is None:
            unknown.append(name)
        elif found is not None:
            crossings[row] = found
    if unknown:
        raise _untyped(unknown)
    if crossings:
        _add_entries(graph, crossings)


def _untyped(names: list[str]) -> LinkFailure:
    shown = ", ".join(map(escaped, names[:SHOWN_AT_MOST]))
    more = f" and {len(names) - SHOWN_AT_MOST} more" if len(names) > SHOWN_AT_MOST else ""
    return LinkFailure(
        f"code of another calling convention calls these functions, whose types must be known: {shown}{more}. "
        "Declare them in C, as in link_against=[jitlink.typed(jitlink.process(), 'double name(int, double);')]; "
        "functions that take or return structures by value cannot be called so"
    )


def _add_entries(graph: LinkGraph, crossings: dict[int, Crossing]) -> None:
    """Add an entry for each function, and aim references at it."""
    symbols = graph.symbols
    rows = np.array(list(crossings), np.int64)
    functions = symbols.append(
        len(rows),
        name=symbols.name[rows],
        offset=np.array([each.address for each in crossings.values()], np.uint64),
        scope=Scope.LOCAL,
        definition=Definition.EXTERNAL,
    )
    text = graph.add_section(".bridges", CODE)
    bridges = _bridges(graph, text, list(crossings.values()))
    size = graph.target.kinds[graph.target.kind_number(graph.target.pointer)].field.size  # type: ignore[attr-defined]
    pointer: str = graph.target.pointer  # type: ignore[attr-defined]
    section = graph.add_section(".got", Protection.READ)
    pointers = graph.add_pieces(section, bytes(size), len(rows), [(0, pointer, functions, 0)], alignment=size)
    edges = [(POINTER_FIELD, FIELD, pointers, ADDEND), (BRIDGE_FIELD, FIELD, bridges, ADDEND)]
    entries = graph.add_pieces(text, ENTRY, len(rows), edges, alignment=len(ENTRY))
    symbols.name[entries] = symbols.name[rows]
    resolved = np.arange(len(symbols))
    resolved[rows] = entries
    graph.edges.target = resolved[graph.edges.target]
    graph.sort_edges()


def _bridges(graph: LinkGraph, section: int, crossings: list[Crossing]) -> Rows:
    """Add the bridge of each signature, once: int64[n], the symbol for each crossing."""
    made: dict[tuple[Signature, bool], int] = {}
    found = []
    for each in crossings:
        assert each.signature is not None
        key = each.signature, each.to_microsoft
        if key not in made:
            make = bridge_to_microsoft if each.to_microsoft else bridge_from_microsoft
            code = graph.add_block(section, make(each.signature))
            made[key] = graph.add_symbol(f"bridge {each.signature}", code, scope=Scope.LOCAL)
        found.append(made[key])
    return np.array(found, np.int64)
