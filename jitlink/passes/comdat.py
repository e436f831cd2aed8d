"""COMDAT: of several copies of one thing, the link keeps one.

The name of a symbol, the signature, identifies the thing. ELF keeps the first group of a signature (gABI,
Section Groups). COFF says with each section how to choose:

    any            one of them
    no duplicates  there must be one only
    same size      one of them, and all must have its size
    exact match    one of them, and all must have its content
    largest        the largest
    newest         that of the object with the latest time stamp

What goes with a section (an associative one) is in its group. The definitions of a copy that was dropped are
forgotten, so that the references of its object find those of the copy that is kept.

Source: gABI, Section Groups; Microsoft PE Format specification, "COMDAT Sections (Object Only)". That
"largest" and "any" agree with each other is the practice of Microsoft's linker and of lld.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, lowest_by, rows_by
from jitlink.errors import DuplicateDefinitions, LinkFailure, Place
from jitlink.escaping import escaped
from jitlink.graph import Definition, LinkGraph

UNDEFINED = int(Definition.UNDEFINED)


class Selection(IntEnum):
    """How COFF chooses, by the numbers of IMAGE_COMDAT_SELECT; FIRST is ELF's only way."""

    FIRST = 0
    NO_DUPLICATES = 1
    ANY = 2
    SAME_SIZE = 3
    EXACT_MATCH = 4
    LARGEST = 6
    NEWEST = 7


WAYS = {selection: selection.name.lower().replace("_", " ") for selection in Selection}
DEMANDING = np.zeros(8, np.bool_)
"""By selection, whether the copies must be looked at."""
DEMANDING[[Selection.NO_DUPLICATES, Selection.SAME_SIZE, Selection.EXACT_MATCH]] = True
AGREEING = {Selection.ANY, Selection.LARGEST}


def drop_losing_groups(graph: LinkGraph, rows: Rows, number: Rows) -> None:
    """Of the COMDAT groups with one signature keep one, and forget what the others define.

    rows: int64[n], the global symbols; number: int64[n], the number of the name of each. Raises
    DuplicateDefinitions and LinkFailure where COFF does not allow the copies.
    """
    groups, blocks, symbols = graph.groups, graph.blocks, graph.symbols
    signature = _group_names(graph, rows, number)
    comdat = groups.comdat.nonzero()[0]
    if not len(comdat):
        return
    key = signature[comdat]
    if np.count_nonzero(groups.selection):
        _check_copies(graph, comdat, key)
        # The highest precedence goes first, and among equals the first group.
        comdat = comdat[np.lexsort((comdat, -groups.precedence[comdat]))]
        order = np.arange(len(comdat))
        first = comdat[lowest_by(signature[comdat], order, int(signature.max()) + 1, 0)]
    else:
        first = lowest_by(key, comdat, int(signature.max()) + 1, len(groups))
    lost = np.zeros(len(groups), np.bool_)
    lost[comdat] = first[signature[comdat]] != comdat
    dropped = lost[blocks.group]
    if not np.count_nonzero(dropped):
        return
    blocks.live &= ~dropped
    symbols.definition[dropped[symbols.block]] = UNDEFINED


def _group_names(graph: LinkGraph, rows: Rows, number: Rows) -> Rows:
    """Number the names of the groups' signatures, equal names alike: int64[groups].

    A signature is usually a global symbol, whose name has a number; a local one's name gets a new one.
    """
    number_of_symbol = np.full(len(graph.symbols), -1, np.int64)
    number_of_symbol[rows] = number
    signature: Rows = number_of_symbol[graph.groups.signature]
    local = (signature[1:] < 0).nonzero()[0] + 1
    if len(local):
        names = graph.names_at(graph.symbols.name[graph.groups.signature[local]])
        known: dict[bytes, int] = {}
        fresh = np.fromiter(map(known.setdefault, names, range(len(names))), np.int64, len(names))
        signature[local] = fresh + len(number)
        _merge_with_globals(graph, local, names, signature)
    return signature


def _merge_with_globals(graph: LinkGraph, local: Rows, names: list[bytes], signature: Rows) -> None:
    """Let a local signature meet a global one of the same name: the name alone identifies a group."""
    is_local = np.ones(len(graph.groups), np.bool_)
    is_local[1:] = False
    is_local[local] = True
    others = (~is_local).nonzero()[0]
    global_names = graph.names_at(graph.symbols.name[graph.groups.signature[others]])
    meaning = dict(zip(global_names, signature[others].tolist(), strict=True))
    for group, name in zip(local.tolist(), names, strict=True):
        signature[group] = meaning.get(name, signature[group])


def _check_copies(graph: LinkGraph, comdat: Rows, key: Rows) -> None:
    """Refuse copies that COFF does not allow beside each other; let sizes decide where any one asks for the largest.

    comdat: int64[n], groups; key: int64[n], the number of the signature of each.
    """
    groups = graph.groups
    copies = np.bincount(key)[key] > 1
    comdat, key = comdat[copies], key[copies]
    selection = groups.selection[comdat]
    # Of which a group has exactly one: what goes with it follows it.
    leading = ((graph.blocks.group > 0) & (graph.blocks.follows == 0)).nonzero()[0]
    block_of = np.zeros(len(groups), np.int64)
    block_of[graph.blocks.group[leading]] = leading
    highest, lowest = (_extreme(selection, key, extreme) for extreme in (np.maximum, np.minimum))
    mixed = highest[key] != lowest[key]
    unclear = mixed | DEMANDING[selection]
    by_size = mixed & (highest[key] == Selection.LARGEST)
    groups.precedence[comdat[by_size]] = graph.blocks.size[block_of[comdat[by_size]]]
    if np.count_nonzero(unclear):
        rows, names = comdat[unclear], key[unclear]
        order, first = rows_by(np.unique(names, return_inverse=True)[1], len(np.unique(names)))
        for start, end in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
            _check_one(graph, rows[order[start:end]].tolist(), block_of)


def _extreme(selection: npt.NDArray[np.uint8], key: Rows, extreme: np.ufunc) -> npt.NDArray[np.uint8]:
    """The highest or lowest selection of each signature: uint8[keys]."""
    found = np.zeros(int(key.max(initial=0)) + 1, np.uint8)
    found[key] = selection
    extreme.at(found, key, selection)
    return found


def _check_one(graph: LinkGraph, copies: list[int], block_of: Rows) -> None:
    """Refuse the copies of one signature if what they say of each other does not hold. copies: groups."""
    ways = {Selection(way) for way in graph.groups.selection[copies].tolist()}
    name = graph.groups[copies[0]].signature.name
    places = [_place(graph, int(block_of[group])) for group in copies]
    if len(ways) > 1 and ways != AGREEING:
        ways_in_words = " and ".join(WAYS[way] for way in sorted(ways))
        raise LinkFailure(f"{escaped(name)}: its copies are to be chosen by {ways_in_words}, by {_listed(places)}")
    if ways == {Selection.NO_DUPLICATES}:
        raise DuplicateDefinitions([name], [places])
    blocks = block_of[copies].tolist()
    for block, place in zip(blocks[1:], places[1:], strict=True):
        if ways == {Selection.SAME_SIZE} and graph.blocks.size[block] != graph.blocks.size[blocks[0]]:
            raise LinkFailure(
                f"{escaped(name)}: its copies must have the same size, and differ in {places[0]} and {place}"
            )
        if ways == {Selection.EXACT_MATCH} and not _same_content(graph, blocks[0], block):
            raise LinkFailure(f"{escaped(name)}: its copies must be equal, and differ in {places[0]} and {place}")


def _same_content(graph: LinkGraph, one: int, other: int) -> bool:
    """Whether two blocks have the same bytes, and the same relocations to symbols of the same names."""
    if graph.content_of(one) != graph.content_of(other):
        return False
    ours, theirs = (
        [(edge.offset, edge.kind, edge.addend, edge.target.name) for edge in graph.blocks[block].edges]
        for block in (one, other)
    )
    return ours == theirs


def _place(graph: LinkGraph, block: int) -> Place:
    row = graph.blocks[block]
    return Place(row.input, row.section.name)


def _listed(places: list[Place]) -> str:
    return " and ".join(map(str, places))
