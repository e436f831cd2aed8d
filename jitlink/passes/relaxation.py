"""Linker relaxation: the layout of code that gets shorter when it is known where everything is.

Which code may be shortened and into what, the architecture knows (arches/riscv64_relaxation.py). Here are the
rounds: choose by the addresses of the last layout, cut, lay out again, until nothing changes any more. At
that point every choice holds under the layout that it has led to.

That point is usually reached in two or three rounds, and need not be reached at all: shortening one call can
push another one out of reach, by the padding that alignment puts between. So after some rounds nothing
more is shortened and only what does not fit is put back, and if that does not end either, everything is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from jitlink.arches.architecture import Architecture
from jitlink.graph import LinkGraph

GROWING_ROUNDS = 8
ROUNDS = 16

Places = TypeVar("Places")


def prepare_relaxation(graph: LinkGraph, relax: bool) -> None:
    """Look at what inputs demand of the machine, before a place is chosen. relax: whether code may be shortened.

    Raises InputError and LinkFailure.
    """
    target = graph.target
    assert isinstance(target, Architecture)
    if target.prepare is not None:
        target.prepare(graph, relax)


def lay_out_relaxed(graph: LinkGraph, symbol_named: Callable[[bytes], int], lay_out: Callable[[], Places]) -> Places:
    """Lay out a graph, and shorten its code as far as that layout allows.

    symbol_named: the symbol that a name stands for, or 0. lay_out: gives all blocks and symbols their
    addresses; what it returned last is returned. Needs aimed edges, GOT entries and stubs. Leaves offsets,
    sizes, kinds and content of shortened code. Raises MalformedInput for code that cannot be what it says.
    """
    target = graph.target
    assert isinstance(target, Architecture)
    relaxations = None
    if target.find_relaxations is not None:
        relaxations = target.find_relaxations(graph, symbol_named)
    if relaxations is None:
        return lay_out()
    relaxations.cut()
    places = lay_out()
    for number in range(ROUNDS):
        if not relaxations.choose(graph.symbols.addresses(), more=number < GROWING_ROUNDS):
            break
        relaxations.cut()
        places = lay_out()
    else:
        relaxations.give_up()
        relaxations.cut()
        places = lay_out()
    relaxations.rewrite(graph.symbols.addresses())
    return places
