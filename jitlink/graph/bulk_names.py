"""Reading the names of thousands of symbols at once, out of the string tables that hold them.

A string table is names with a NUL behind each, so one `split` gives all names of all tables. A name that
is wanted may start inside another one: assemblers let `f` share the bytes of `.text.f`. Where such a
string is wanted from one place only, it is cut there before the split. Where it is wanted from several
places, as `f` and `xf`, the later ones are cut out of the longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.columns import lowest_by, starts_of
from jitlink.errors import MalformedInput

if TYPE_CHECKING:
    from jitlink.graph.link_graph import LinkGraph

MOST_SHARED_BYTES = 1 << 20
"""Bytes that names which share their bytes with longer ones may take, beside SHARED_TIMES their tables."""
SHARED_TIMES = 8


def read_names(graph: LinkGraph, positions: npt.NDArray[np.int64]) -> list[bytes]:
    """Read the names at positions of the pool, or of names that were added (negative positions).

    positions: int64[n]. Raises MalformedInput where names share bytes so often that reading them would
    take memory out of proportion to the input.
    """
    starts, sizes = graph.string_tables
    ends = starts + sizes
    table = starts.searchsorted(positions, "right") - 1
    # Added names and names outside of the tables are read one by one.
    inside_table = (table >= 0) & (positions < ends[table])
    # Assemblers write the names of local symbols first, and mostly those of global ones are wanted.
    wanted_tables, wanted_positions = table[inside_table], positions[inside_table]
    starts = np.minimum(lowest_by(wanted_tables, wanted_positions, len(starts), np.iinfo(np.int64).max), ends)
    pool = graph.pool.data
    strings = b"".join([pool[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])
    characters = np.frombuffer(strings, np.uint8)
    nuls = (characters == 0).nonzero()[0]
    place = np.where(inside_table, positions - starts[table] + starts_of(ends - starts)[:-1][table], 0)
    string = nuls.searchsorted(place)
    beginning = np.concatenate(([0], nuls + 1))
    wanted_from = lowest_by(string, place, len(nuls) + 1, 0)
    inside = (wanted_from > beginning).nonzero()[0]
    if len(inside):
        cut = characters.copy()
        cut[wanted_from[inside] - 1] = 0
        strings = cut.tobytes()
    pieces = strings.split(b"\0")
    cuts_before = np.zeros(len(nuls) + 1, np.int64)
    cuts_before[inside] = 1
    piece = string + cuts_before.cumsum()[string]
    names = list(map(pieces.__getitem__, piece.tolist()))
    later = place - wanted_from[string]
    shared = later.nonzero()[0]
    if len(shared):
        _refuse_excess(int((nuls[string[shared]] - place[shared]).sum()), len(strings))
        for row, skipped in zip(shared.tolist(), later[shared].tolist(), strict=True):
            names[row] = names[row][skipped:]
    outside = (~inside_table).nonzero()[0]
    added = graph.added_names
    for row, position in zip(outside.tolist(), positions[outside].tolist(), strict=True):
        names[row] = added[-position - 1] if position < 0 else graph.raw_name_at(position)
    return names


def _refuse_excess(shared: int, held: int) -> None:
    if shared > MOST_SHARED_BYTES + SHARED_TIMES * held:
        raise MalformedInput(f"names of {shared} bytes share the {held} bytes of the string tables")
