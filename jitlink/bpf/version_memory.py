"""The variables of a new version of a function: those of the program by name, and memory of its own for the rest.

What a program remembers must outlive the code that remembers it, in maps and in variables alike. So a global
variable that the new object declares is the program's of that name, with the value that it has now; the value that
the new object states for it is what a program begins with, and this one has begun. Size and access must be the same,
or else the two would mean different things by one name, and the new version is refused.

What the program does not have gets memory of its own, filled as the object says: new global variables, and all static
ones, since a static name means nothing outside of its file. So do constants: a table in .rodata is part of the code
that reads it, and one whose content has changed belongs to the new code only. A constant that both state alike is
the program's, since Python may have changed it there (`const volatile` settings).

Memory of a version is held by the code that refers to it, and taken back when the last such code is gone. The versions
of one program find each other's global variables by name too, and hold the memory that they use.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jitlink.bpf.linking import LARGEST, LinkedObject, section_name
from jitlink.bpf.maps import Map, MapDefinition, ValueMap
from jitlink.bpf.maps.registry import create
from jitlink.bpf.regions import Region, Regions
from jitlink.bpf.sections import is_read_only
from jitlink.bpf.variables import Variable, data_blocks, load_data, relocate_data
from jitlink.columns import Rows
from jitlink.errors import UsageError
from jitlink.graph import Definition, Scope, SymbolKind

if TYPE_CHECKING:
    from jitlink.bpf.loader import BpfObject

DEFINED, UNDEFINED, EXTERNAL = int(Definition.DEFINED), int(Definition.UNDEFINED), int(Definition.EXTERNAL)
LOCAL, SECTION = int(Scope.LOCAL), int(SymbolKind.SECTION)


@dataclass(frozen=True)
class Shared:
    """What is behind a name that several objects may use.

    Attributes: address; size (bytes, None where nobody says); read_only (to programs); stated (what its object says is
    in it, None where addresses are part of that).
    """

    address: int
    size: int | None = None
    read_only: bool = False
    stated: bytes | None = None


class VersionMemory:
    """The memory that a version brings along; it is taken back when nobody holds this any more.

    Attributes: variables (as Python sees them); shared (those of them that other objects may use, by name).
    """

    def __init__(self, regions: Regions, cpus: int) -> None:
        self.variables: list[Variable] = []
        self.shared: dict[bytes, Shared] = {}
        self._made: dict[str, ValueMap] = {}
        self._regions, self._cpus = regions, cpus
        self._taken: list[Region] = []
        weakref.finalize(self, regions.leave, self._taken).atexit = False

    def load(self, fresh: LinkedObject, sections: dict[str, list[int]]) -> None:
        """Fill sections of a linked object in. Leaves their addresses final. Raises LinkError."""
        self.variables = load_data(fresh, sections, self._create)
        for name, blocks in sections.items():
            relocate_data(fresh, blocks, self._made[name])
        symbols = fresh.graph.symbols
        rows = _global_rows(fresh)
        rows = rows[fresh.graph.blocks.address[symbols.block[rows]] > 0]
        names = fresh.graph.names_at(symbols.name[rows])
        self.shared = {name: _stated(fresh, row) for name, row in zip(names, rows.tolist(), strict=True)}

    def _create(self, definition: MapDefinition) -> Map:
        made = create(definition, self._regions, self._cpus)
        self._taken += made.memory
        assert isinstance(made, ValueMap)
        self._made[definition.name] = made
        return made


def bind_variables(object: BpfObject, fresh: LinkedObject, earlier: Sequence[VersionMemory]) -> list[VersionMemory]:
    """Give all variables that a new version refers to their addresses, in the program or in memory of its own.

    fresh: the new objects, linked. earlier: the memory of the versions that the program has now. Returns all memory
    that the new version has to hold. Raises UsageError for a variable of another size or access than the program's,
    MalformedInput and UnsupportedInput as loading does, MemoryRefused.
    """
    held: dict[VersionMemory, None] = {}
    symbols = fresh.graph.symbols
    rows = np.array([*fresh.resolution.undefined, *_referenced(fresh)], np.int64)
    visible = set(_global_rows(object.linked).tolist())
    for row, name in zip(rows.tolist(), fresh.graph.names_at(symbols.name[rows]), strict=True):
        found, memory = _find(object, visible, earlier, name)
        if found is None or not _is_same(fresh, row, name, found):
            continue
        symbols.definition[row], symbols.block[row], symbols.offset[row] = EXTERNAL, 0, found.address
        if memory is not None:
            held[memory] = None
    sections = _sections_in_use(fresh)
    if sections:
        own = VersionMemory(object.regions, object.maps.cpus)
        own.load(fresh, sections)
        held[own] = None
    return list(held)


Found = tuple[Shared | None, VersionMemory | None]


def _find(object: BpfObject, visible: Collection[int], earlier: Sequence[VersionMemory], name: bytes) -> Found:
    """What a name stands for in a program: a variable of its objects or of its versions, something outside, a map.

    visible: the symbols of its global variables. Returns that, and the memory of a version that it lies in, if any.
    """
    linked = object.linked
    row = linked.resolution.symbol(name)
    symbols, blocks = linked.graph.symbols, linked.graph.blocks
    if symbols.definition[row] == EXTERNAL:
        return Shared(int(symbols.offset[row])), None
    if row in visible and blocks.address[symbols.block[row]]:
        return _stated(linked, row), None
    map = object.maps.get(name.decode(errors="surrogateescape"))
    if map is not None:
        return Shared(map.address), None
    return next(((memory.shared[name], memory) for memory in reversed(earlier) if name in memory.shared), (None, None))


def _is_same(fresh: LinkedObject, row: int, name: bytes, found: Shared) -> bool:
    """Whether a symbol of the new object means what the program has under its name.

    Of a constant, whether it has the same content. Raises UsageError for a variable of another shape.
    """
    if fresh.graph.symbols.definition[row] == UNDEFINED:
        return True
    if found.size is None:
        return False
    wanted = _stated(fresh, row)
    if wanted.read_only and found.read_only:
        return wanted.stated is not None and wanted.stated == found.stated
    shown = name.decode(errors="surrogateescape")
    if wanted.read_only != found.read_only:
        ours, theirs = ("read-only", "writable") if wanted.read_only else ("writable", "read-only")
        raise UsageError(f"the variable {shown} of the new object is {ours}, and in the program it is {theirs}")
    if wanted.size != found.size:
        sizes = f"{wanted.size} bytes, and in the program it has {found.size}"
        raise UsageError(f"the variable {shown} of the new object has {sizes}")
    return True


def _stated(linked: LinkedObject, row: int) -> Shared:
    """What an object says of a global variable. Its address is right once that of its block is final."""
    graph = linked.graph
    symbols = graph.symbols
    block, offset, size = int(symbols.block[row]), int(symbols.offset[row]), int(symbols.size[row])
    places = graph.edges.offset[graph.edges.block == block]
    stated = None
    if not ((places >= offset) & (places < offset + size)).any():
        stated = graph.content_of(block)[offset : offset + size]
    address = int(graph.blocks.address[block]) + offset
    return Shared(address, size, is_read_only(section_name(graph, block)), stated)


def _global_rows(linked: LinkedObject) -> Rows:
    """The symbols of the variables that other objects may refer to, in the order of their places: int64[n]."""
    graph = linked.graph
    symbols = graph.symbols
    blocks = [block for blocks in data_blocks(linked).values() for block in blocks]
    named = np.isin(symbols.block, blocks) & (symbols.definition == DEFINED) & (symbols.kind != SECTION)
    named &= (symbols.scope != LOCAL) & (symbols.size > 0)
    rows = named.nonzero()[0]
    rows = rows[np.isin(rows, linked.resolution.winner)]
    size = graph.blocks.size[symbols.block[rows]].view(np.uint64)
    rows = rows[(symbols.offset[rows] <= size) & (symbols.size[rows] <= size - symbols.offset[rows])]
    order: Rows = rows[np.lexsort((symbols.offset[rows], symbols.block[rows]))]
    return order


def _referenced(fresh: LinkedObject) -> list[int]:
    """The symbols of the global variables that something refers to.

    Aims at them also what refers to them through another symbol: a compiler may go by that of the section.
    """
    rows = _global_rows(fresh)
    if not len(rows):
        return []
    edges, symbols = fresh.graph.edges, fresh.graph.symbols
    used = _into_data(fresh)
    target = edges.target[used]
    place = symbols.offset[target].view(np.int64) + edges.addend[used]
    starts = symbols.block[rows] << 32 | symbols.offset[rows].view(np.int64)
    wanted = symbols.block[target] << 32 | np.clip(place, 0, LARGEST)
    near = rows[np.maximum(starts.searchsorted(wanted, "right") - 1, 0)]
    distance = place - symbols.offset[near].view(np.int64)
    inside = (symbols.block[near] == symbols.block[target]) & (distance >= 0)
    inside &= (distance < symbols.size[near].view(np.int64)) & ~np.isin(target, rows)
    edges.target[used[inside]], edges.addend[used[inside]] = near[inside], distance[inside]
    found: list[int] = np.unique(edges.target[used][np.isin(edges.target[used], rows)]).tolist()
    return found


def _into_data(fresh: LinkedObject) -> Rows:
    """The edges that lead to data: int64[n]."""
    graph = fresh.graph
    edges = graph.edges
    blocks = [block for blocks in data_blocks(fresh).values() for block in blocks]
    leads = np.isin(graph.symbols.block[edges.target], blocks)
    rows: Rows = (leads & graph.blocks.live[edges.block] & (edges.kind > 0)).nonzero()[0]
    return rows


def _sections_in_use(fresh: LinkedObject) -> dict[str, list[int]]:
    """The blocks of data that something still refers to, by the name of their section."""
    used = set(fresh.graph.symbols.block[fresh.graph.edges.target[_into_data(fresh)]].tolist())
    found = {name: [block for block in blocks if block in used] for name, blocks in data_blocks(fresh).items()}
    return {name: blocks for name, blocks in found.items() if blocks}
