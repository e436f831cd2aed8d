"""Aliases: symbols that are second names for other symbols, which may be anywhere.

Mach-O has them as N_INDR: a name that stands for whatever another name stands for, in the same object, in
another one, or outside of the link. So an alias has no place of its own. It takes part in resolution as a
definition of its name; then everything that refers to it is aimed at what it stands for, and the name
itself becomes another name of that. An alias may stand for an alias; a circle of them stands for nothing.
"""

from __future__ import annotations

import numpy as np

from jitlink.columns import Rows
from jitlink.errors import LinkFailure
from jitlink.escaping import escaped
from jitlink.graph import Definition, LinkGraph
from jitlink.passes.resolve import Resolution


def follow_aliases(graph: LinkGraph, resolution: Resolution) -> None:
    """Aim what refers to aliases at what they stand for. Needs aimed edges; leaves no name that means an alias.

    Raises LinkFailure for aliases that stand for each other.
    """
    symbols = graph.symbols
    aliases = (symbols.definition == Definition.ALIAS).nonzero()[0]
    if not len(aliases):
        return
    target = _meanings(graph, resolution, symbols.alias[aliases])
    following = np.arange(len(symbols))
    following[aliases] = target
    # Twice as far in every round, as jitlink.columns.follow goes: a chain of n aliases takes log2(n) rounds.
    for _ in range(len(aliases).bit_length()):
        following = following[following]
    circular = symbols.definition[following[aliases]] == Definition.ALIAS
    if np.count_nonzero(circular):
        alias = symbols[int(aliases[circular.argmax()])]
        where = graph.inputs[int(symbols.input[alias.row])]
        raise LinkFailure(f"{escaped(where)}: {escaped(alias.name)} is an alias that stands for itself in the end")
    graph.edges.target = following[graph.edges.target]
    # Names whose winner is an alias go on to mean what that stands for.
    names = np.fromiter(resolution.number_of.values(), np.int64, len(resolution.number_of))
    before = resolution.winner[names]
    resolution.winner[names] = following[before]
    resolution.second_names = names[before != following[before]]


def _meanings(graph: LinkGraph, resolution: Resolution, references: Rows) -> Rows:
    """The symbol that each reference means, by its name: int64[n]."""
    names = graph.names_at(graph.symbols.name[references])
    return np.array([resolution.symbol(name) or row for name, row in zip(names, references.tolist(), strict=True)])
