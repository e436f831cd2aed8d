"""Unwind records of Mach-O objects: references that no relocation says, and records that say things twice.

The records of __eh_frame refer to functions and exception tables relative to their own place. Objects of
older assemblers and of arm64 have relocations for that. Those of newer ones for x86-64 have none: the
distances in the fields are right as long as the object stays in one piece, and a static linker has to know
what the fields mean. So the records are walked here, and a field without a relocation gets the edge that
its relocation would have made.

Compilers describe many functions twice, here and in __compact_unwind. Of those only the record here is
kept. What only a compact record describes is left to jitlink.passes.compact_unwind.

Source: Linux Standard Base Core 5.0, sections 10.5 and 10.6 (which Mach-O's __eh_frame follows).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, load_records, starts_of
from jitlink.errors import MalformedInput, UnsupportedInput
from jitlink.formats.macho_edges import EdgeColumns, together
from jitlink.formats.macho_sections import name_of
from jitlink.graph import LinkGraph, Purpose

if TYPE_CHECKING:
    from jitlink.formats.macho import MachOReader

WORD = struct.Struct("<I")
HEADER = np.dtype([("length", "<u4"), ("cie", "<u4")])
FIRST_FIELD = 4
"""Where what the length counts begins: the CIE pointer."""
LONGEST_FIELDS = np.dtype("V64")
"""What the fields of a CIE may take before its call frame instructions; they take some 20 bytes. A pool goes on
for as many behind its last input."""
CIES_REMEMBERED = 256
WIDTHS = {0x0: 8, 0x3: 4, 0x4: 8, 0xB: 4, 0xC: 8}
"""Bytes of a pointer by the low half of its encoding, for those that a field of an object can have here."""
OMITTED, RELATIVE_TO_PLACE, INDIRECT = 0xFF, 0x10, 0x80
COMPACT_RECORD = 32
NO_PLACE = -1


@dataclass(frozen=True)
class Pointers:
    """What a CIE says about the pointers in its FDEs.

    Attributes: width and relative (of the function and, as far as the width goes, of its length);
    table_width and table_relative (of the pointer to the exception table; 0 where there is none or where it
    goes through another pointer); augmented (whether a length of further data stands before that).
    """

    width: int
    relative: bool
    table_width: int
    table_relative: bool
    augmented: bool


@dataclass
class _Fields:
    """Fields of records that hold pointers: int64[n] each but relative (bool[n]).

    Attributes: section (row of the section header), position (in the pool), width, relative, is_function.
    """

    section: Rows
    position: Rows
    width: Rows
    relative: npt.NDArray[np.bool_]
    is_function: npt.NDArray[np.bool_]


def fill_edges(reader: MachOReader, graph: LinkGraph, edges: EdgeColumns) -> None:
    """Fill the table of edges: with those that the records of __eh_frame imply, and without doubled ones."""
    sections = reader.sections
    fields = _find_fields(reader, sections.kept[1:][sections.purpose[1:] == Purpose.EH_FRAME])
    if fields is None:
        edges.fill(graph)
        return
    own = (graph.sections.purpose[graph.blocks.section] == Purpose.EH_FRAME)[edges.block].nonzero()[0]
    has_edge = _among(fields.position, graph.blocks.content[edges.block[own]] + edges.offset[own])
    edges = together((edges, *_edges_of(reader, fields, ~has_edge)))
    edges.fill(graph, ~_doubled_records(graph, edges, fields.position[fields.is_function]))


# Walking the records


def _find_fields(reader: MachOReader, sections: Rows) -> _Fields | None:
    """Find the fields of all FDEs of some sections; None if there are none. Raises MalformedInput."""
    section, start = _walk(reader, sections)
    if not len(start):
        return None
    header = load_records(reader.batch.pool, start, HEADER)
    length, distance = header["length"].astype(np.int64), header["cie"].astype(np.int64)
    is_cie = distance == 0
    cies, fdes = is_cie.nonzero()[0], (~is_cie).nonzero()[0]
    sorts: dict[Pointers, int] = {}
    sort_of_cie = np.array(
        [sorts.setdefault(each, len(sorts)) for each in _read_cies(reader, section, start, length, cies)]
    )
    # The second word of an FDE is the distance from there back to its CIE.
    wanted = start[fdes] + FIRST_FIELD - distance[fdes]
    cie = np.minimum(start[cies].searchsorted(wanted), max(len(cies) - 1, 0))
    lost = np.ones(len(fdes), np.bool_)
    if len(cies):
        lost = (start[cies[cie]] != wanted) | (section[cies[cie]] != section[fdes])
    _refuse(reader, section[fdes], start[fdes], lost, "an unwind record that refers to no CIE")
    section, start, length, sort = section[fdes], start[fdes], length[fdes], sort_of_cie[cie]
    width, relative, table_width, table_relative, augmented = (
        np.array([getattr(each, name) for each in sorts])[sort] if len(sort) else np.zeros(0, np.int64)
        for name in Pointers.__dataclass_fields__
    )
    # Behind the function and its length stands the size of what comes then, in one byte, and the table.
    least = FIRST_FIELD + 2 * width + augmented
    _refuse(reader, section, start, length < least, "an unwind record that is too short to say what it describes")
    table = start + FIRST_FIELD + least
    further = np.where(augmented > 0, reader.batch.pool[table - 1], 0)
    has_table = ((table_width > 0) & (table_width <= further) & (least + table_width <= length)).nonzero()[0]
    return _Fields(
        np.concatenate((section, section[has_table])),
        np.concatenate((start + HEADER.itemsize, table[has_table])),
        np.concatenate((width, table_width[has_table])),
        np.concatenate((relative, table_relative[has_table])).astype(np.bool_),
        np.concatenate((np.ones(len(start), np.bool_), np.zeros(len(has_table), np.bool_))),
    )


def _walk(reader: MachOReader, sections: Rows) -> tuple[Rows, Rows]:
    """Find where each record of some sections starts, which is where the one before it ends.

    Returns the section and the position in the pool of each, int64[n]. Raises MalformedInput.
    """
    view, word = reader.batch.pool.data, WORD.unpack_from
    found: list[int] = []
    counts: list[int] = []
    starts = reader.position[sections]
    for at, end in zip(starts.tolist(), (starts + reader.size[sections]).tolist(), strict=True):
        before = len(found)
        while at + HEADER.itemsize <= end:
            (length,) = word(view, at)
            if not length:
                break
            found.append(at)
            at += WORD.size + length
            if at > end or length < WORD.size:
                section = sections[len(counts) : len(counts) + 1]
                fault = "an unwind record that goes past the end of its section"
                _refuse(reader, section, np.array(found[-1:]), np.ones(1, np.bool_), fault)
        counts.append(len(found) - before)
    return sections.repeat(counts), np.array(found, np.int64)


def _refuse(reader: MachOReader, section: Rows, position: Rows, faulty: npt.NDArray[np.bool_], fault: str) -> None:
    """Raise MalformedInput for the first faulty record, by its section and its position in the pool."""
    if np.count_nonzero(faulty):
        row = int(faulty.argmax())
        own = int(section[row])
        raise MalformedInput(
            fault,
            input=reader.batch.names[int(reader.owner[own])],
            section=name_of(reader.headers["names"][own].tobytes()),
            offset=int(position[row] - reader.position[own]),
        )


def _read_cies(reader: MachOReader, section: Rows, start: Rows, length: Rows, cies: Rows) -> Iterator[Pointers]:
    """Read the CIEs among some records. Raises MalformedInput and UnsupportedInput."""
    bodies = load_records(reader.batch.pool, start[cies] + HEADER.itemsize, LONGEST_FIELDS).tolist()
    sizes = (length[cies] - FIRST_FIELD).tolist()
    for row, body, size in zip(cies.tolist(), bodies, sizes, strict=True):
        try:
            yield _pointers(body[:size])
        except UnsupportedInput as error:
            error.input = reader.batch.names[int(reader.owner[section[row]])]
            raise
        except (IndexError, ValueError):
            one = section[row : row + 1], start[row : row + 1], np.ones(1, np.bool_)
            _refuse(reader, *one, "a CIE that ends before its fields do")


@lru_cache(CIES_REMEMBERED)
def _pointers(body: bytes) -> Pointers:
    """Read the fields of a CIE behind its CIE pointer. Raises IndexError and ValueError behind its end."""
    end = body.index(0, 1)
    augmentation, at = body[1:end], end + 1
    at = _skip_leb128(body, _skip_leb128(body, at))
    # The register of the return address is a byte in version 1, and a number of variable length since.
    at = at + 1 if body[0] == 1 else _skip_leb128(body, at)
    function, table = 0, OMITTED
    if augmentation.startswith(b"z"):
        at = _skip_leb128(body, at)
        for letter in augmentation[1:]:
            if letter == ord("R"):
                function, at = body[at], at + 1
            elif letter == ord("L"):
                table, at = body[at], at + 1
            elif letter == ord("P"):
                at += 1 + WIDTHS.get(body[at] & 0xF, 8)
    has_table = table != OMITTED and not table & INDIRECT
    if function & 0xF not in WIDTHS or function & 0xF0 not in (0, RELATIVE_TO_PLACE):
        raise UnsupportedInput(f"a CIE whose functions have the pointer encoding {function:#x}")
    return Pointers(
        WIDTHS[function & 0xF],
        function & 0x70 == RELATIVE_TO_PLACE,
        WIDTHS.get(table & 0xF, 0) if has_table else 0,
        table & 0x70 == RELATIVE_TO_PLACE,
        augmentation.startswith(b"z"),
    )


def _skip_leb128(body: bytes, at: int) -> int:
    while body[at] & 0x80:
        at += 1
    return at + 1


# Edges


def _edges_of(reader: MachOReader, fields: _Fields, wanted: npt.NDArray[np.bool_]) -> Iterator[EdgeColumns]:
    """Make the edges of the wanted fields, each to the block at the address that its distance leads to."""
    rules, kinds, pool = reader.rules, reader.target.kinds, reader.batch.pool
    for width in (4, 8):
        for relative in (False, True):
            rows = (wanted & (fields.width == width) & (fields.relative == relative)).nonzero()[0]
            value = load_records(pool, fields.position[rows], np.dtype(f"<i{width}")).astype(np.int64)
            rows, value = rows[value != 0], value[value != 0]
            if not len(rows):
                continue
            section = fields.section[rows]
            offset = fields.position[rows] - reader.position[section]
            place = reader.address[section] + offset
            target, addend = _aim(reader, section, value + place if relative else value)
            block = reader.blocks.at(section, offset)
            kind = kinds.by_name[rules.distance[width] if relative else rules.pointer[width]]
            yield EdgeColumns(block, offset - reader.blocks.start_of(block), np.full(len(rows), kind), target, addend)


def _aim(reader: MachOReader, user: Rows, address: Rows) -> tuple[Rows, Rows]:
    """Find what lies at addresses of objects: a symbol at the start of its block, and the rest.

    user: int64[n], rows of the sections that refer to it. Raises MalformedInput where nothing lies there.
    """
    input = reader.owner[user]
    # One number line for the addresses of all objects, in their order.
    end = np.zeros(len(reader.batch), np.int64)
    np.maximum.at(end, reader.owner, reader.address + reader.size)
    base = starts_of(end + 1)[:-1]
    key = base[reader.owner] + reader.address
    order = key.argsort(kind="stable")
    inside = (address >= 0) & (address <= end[input])
    nearest = order[np.maximum(key[order].searchsorted(base[input] + np.where(inside, address, 0), "right") - 1, 0)]
    offset = address - reader.address[nearest]
    found = inside & (reader.owner[nearest] == input) & (offset >= 0) & (offset <= reader.size[nearest])
    block = reader.blocks.at(nearest, np.where(found, offset, 0))
    found &= block > 0
    reader.batch.refuse_any(~found, "an unwind record that describes nothing of the object", input)
    return reader.anchors.at(block), offset - reader.blocks.start_of(block)


def _doubled_records(graph: LinkGraph, edges: EdgeColumns, function_fields: Rows) -> npt.NDArray[np.bool_]:
    """Find the edges of compact records of functions that __eh_frame describes: bool[edges].

    function_fields: positions in the pool.
    """
    blocks = graph.blocks
    purpose = graph.sections.purpose[blocks.section]
    compact = (purpose == Purpose.COMPACT_UNWIND)[edges.block].nonzero()[0]
    frames = (purpose == Purpose.EH_FRAME)[edges.block].nonzero()[0]
    position = blocks.content[edges.block[frames]] + edges.offset[frames]
    describing = frames[_among(position, function_fields)]
    field = edges.offset[compact] % COMPACT_RECORD
    record = blocks.content[edges.block[compact]] + edges.offset[compact] - field
    described = _among(_places(graph, edges, compact[field == 0]), _places(graph, edges, describing))
    doubled = np.zeros(len(edges), np.bool_)
    doubled[compact] = _among(record, record[field == 0][described])
    return doubled


def _among(values: Rows, some: Rows) -> npt.NDArray[np.bool_]:
    """Which values are among some others: bool[n]. Much faster than numpy.isin on positions, which are sparse."""
    if not len(some):
        return np.zeros(len(values), np.bool_)
    ordered = np.sort(some)
    nearest = np.minimum(ordered.searchsorted(values), len(ordered) - 1)
    same: npt.NDArray[np.bool_] = ordered[nearest] == values
    return same


def _places(graph: LinkGraph, edges: EdgeColumns, rows: Rows) -> Rows:
    """Number the places that edges point at, each place of a block alike: int64[n]."""
    target = edges.target[rows]
    starts = starts_of(graph.blocks.size + 1)
    place = graph.symbols.offset[target].view(np.int64) + edges.addend[rows]
    block = graph.symbols.block[target]
    return np.where((block > 0) & (place >= 0) & (place <= graph.blocks.size[block]), starts[block] + place, NO_PLACE)
