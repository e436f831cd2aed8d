"""Fixups: one engine that applies a relocation kind to all its edges at once.

The kinds are data (see jitlink.formulas). For each kind that occurs, the engine gathers the letters of
its formula as columns over the edges, computes all values, checks all of them, and only then writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jitlink.columns import Buffer, Column, Rows, as_address
from jitlink.errors import LinkFailure, OutOfRange, Place, UnsupportedRelocation
from jitlink.fields import Addresses
from jitlink.formulas import LETTERS_OF_STORAGE, Kind
from jitlink.graph import LinkGraph, Purpose


class EdgeLetters(dict[str, Any]):
    """The letters of a formula for some edges, each computed when the formula first asks for it."""

    def __init__(self, graph: LinkGraph, rows: Rows, addresses: Addresses, got: np.uint64) -> None:
        super().__init__()
        self.graph = graph
        self.rows = rows
        self.addresses = addresses
        self.got = got

    def __missing__(self, letter: str) -> Any:
        value = self[letter] = self._compute(letter)
        return value

    def _compute(self, letter: str) -> Any:
        edges = self.graph.edges
        if letter in ("S", "L"):
            return self.addresses[edges.target[self.rows]]
        if letter == "A":
            return as_address(edges.addend[self.rows])
        if letter == "P":
            block = edges.block[self.rows]
            return self.graph.blocks.address[block] + as_address(edges.offset[self.rows])
        if letter == "G":
            return self["S"] - self.got
        if letter == "GOT":
            return self.got
        if letter == "Z":
            return self.graph.symbols.size[edges.target[self.rows]]
        if letter in ("ImageBase", "SectionStart", "SectionNumber"):
            return self._of_image(letter)
        if letter == "B":
            return self.addresses[edges.target[self._edges_behind()]]
        if letter in LETTERS_OF_STORAGE and self.graph.storage_letters is not None:
            return self.graph.storage_letters.column(letter, self.graph, self.rows)
        raise KeyError(letter)

    def _of_image(self, letter: str) -> Any:
        """What COFF counts from: the image, or the section of it that each target is in."""
        graph = self.graph
        if letter == "ImageBase":
            return np.uint64(graph.image_base)
        block = graph.symbols.block[graph.edges.target[self.rows]]
        address = graph.blocks.address[block]
        # Debug sections are no part of the image: each of them starts at address 0.
        number = graph.image_sections.searchsorted(address, "right")
        if letter == "SectionNumber":
            return number.astype(np.uint64)
        starts = np.concatenate((np.zeros(1, np.uint64), graph.image_sections))
        start: Addresses = starts[number]
        thread_local = graph.sections.purpose[graph.blocks.section] == Purpose.TLS
        if np.count_nonzero(thread_local):
            placed = thread_local & graph.blocks.live
            template = graph.blocks.address[placed].min(initial=np.iinfo(np.uint64).max)
            start = np.where(thread_local[block], template, start)
        return start

    def _edges_behind(self) -> Rows:
        """The edge behind each one, which a reader has put there. Raises LinkFailure if it is not at the same place."""
        edges = self.graph.edges
        behind = np.minimum(self.rows + 1, len(edges) - 1)
        same = (edges.block[behind] == edges.block[self.rows]) & (edges.offset[behind] == edges.offset[self.rows])
        same &= behind > self.rows
        if np.count_nonzero(same) < len(same):
            lone = int(self.rows[(~same).argmax()])
            raise LinkFailure(f"{place_of(self.graph, lone)}: a difference of which the second symbol is missing")
        return behind


def values_of(kind: Kind, letters: EdgeLetters) -> Addresses:
    """Compute the formula of a kind for the edges of letters. Returns uint64[edges]."""
    values: Addresses = kind.value.of(letters)
    return values


def apply_fixups(
    graph: LinkGraph,
    image: Buffer,
    positions: Column,
    addresses: Addresses,
    got: int,
    advise: Callable[[Kind, int], str],
    *,
    of_storage: bool = False,
) -> None:
    """Apply every edge of live blocks. Needs final addresses; leaves a checked image.

    image: uint8[bytes]. positions: int64[blocks], where each block starts in image. addresses:
    uint64[symbols]. got: address of the GOT. advise: says what a person can do about an edge that is
    out of range, given its kind and its row. of_storage: apply those that depend on where threads have
    their storage, and only those; else all others. Raises OutOfRange before anything of that kind is written.
    """
    edges = graph.edges
    kinds = graph.target.kinds
    kind_of_edge = edges.kind
    live = graph.blocks.live[edges.block]
    all_live = np.count_nonzero(live) == len(live)
    for number in np.bincount(kind_of_edge).nonzero()[0].tolist():
        kind: Kind = kinds[number]  # type: ignore[assignment]
        if (not kind.applied and not kind.reason) or of_storage == LETTERS_OF_STORAGE.isdisjoint(kind.value.letters):
            continue
        of_kind = kind_of_edge == number
        rows = (of_kind if all_live else of_kind & live).nonzero()[0]
        if kind.applied:
            apply_kind(graph, image, positions, kind, EdgeLetters(graph, rows, addresses, np.uint64(got)), advise)
        elif len(rows):
            # Readers refuse these kinds; a graph that was built by hand may still hold one.
            places = [place_of(graph, row) for row in rows.tolist()]
            raise UnsupportedRelocation(kind.name, kind.number, kind.reason, places)


def apply_kind(
    graph: LinkGraph,
    image: Buffer,
    positions: Column,
    kind: Kind,
    letters: EdgeLetters,
    advise: Callable[[Kind, int], str],
) -> None:
    """Apply one kind to the edges of letters: compute all, check all, then write all."""
    values = values_of(kind, letters)
    bad = kind.check.bad(values)
    if bad is not None and np.count_nonzero(bad):
        raise out_of_range(graph, kind, letters.rows[bad], values[bad], advise)
    edges = graph.edges
    places = positions[edges.block[letters.rows]] + edges.offset[letters.rows]
    kind.field.store(image, places, values)
    for distance, byte in kind.rewrites:
        image[places + distance] = byte


def out_of_range(
    graph: LinkGraph, kind: Kind, rows: Rows, values: Addresses, advise: Callable[[Kind, int], str]
) -> OutOfRange:
    """Make the error for edges whose values do not fit."""
    readable = [kind.check.readable(value) for value in values]
    return OutOfRange(
        kind=kind.name,
        formula=str(kind.value),
        rule=kind.check.rule(readable[0]),
        places=[place_of(graph, row) for row in rows.tolist()],
        targets=[graph.edges[row].target.name or graph.edges[row].target.kind.name.lower() for row in rows.tolist()],
        values=readable,
        hint=advise(kind, int(rows[0])),
    )


def place_of(graph: LinkGraph, edge: int) -> Place:
    """Say where an edge is, in the words of an error."""
    row = graph.edges[edge]
    return Place(row.block.input, row.block.section.name, row.offset)
