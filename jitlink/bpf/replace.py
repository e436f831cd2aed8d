"""A new version of a function, put into a program that is in use.

    program.replace("classify", "classify_v2.o")

The new version is linked against the maps of the program, compiled together with what calls it, and laid beside
the old one; then the program changes hands in one step. A run that has begun ends in the code that it began in;
every run that begins later, also of packets that other threads are in the midst of (jitlink.bpf.many), enters the
new one. The old code is given back when the last run has left it. Maps and variables keep their contents; a new
version may bring variables of its own (jitlink.bpf.version_memory).

In the instructions of a program the new functions come behind the others. Every call of the old one and every
pointer to it is aimed at the new one, and functions that nobody calls any more are left out. A function that the
new version calls comes with it from the new object, also where the program has one of that name: the two were
compiled for each other. The rest of the program keeps its own, until that is replaced by its name. One that the
new object only declares is the program's, in its newest version.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from jitlink.bpf.btf_ext import LineTable
from jitlink.bpf.control_flow import control_flow
from jitlink.bpf.instructions import SLOT, ByteOrder, Instructions, decode, encode
from jitlink.bpf.linking import LinkedObject, link
from jitlink.bpf.machine import Code
from jitlink.bpf.maps.references import ReferenceMap
from jitlink.bpf.program_code import ProgramCode, SourceLines
from jitlink.bpf.sections import TEXT
from jitlink.bpf.variables import Variable
from jitlink.bpf.version_memory import VersionMemory, bind_variables
from jitlink.columns import Rows, starts_of
from jitlink.errors import UsageError
from jitlink.graph import Definition, LinkGraph, SymbolKind
from jitlink.inputs import Source
from jitlink.protection import Protection

if TYPE_CHECKING:
    from jitlink.bpf.loader import BpfObject
    from jitlink.bpf.program import Program

EXTERNAL = int(Definition.EXTERNAL)
EXIT = encode([(0x95, 0, 0, 0, 0)])
"""What stands for a function that is elsewhere. It has the same bytes in either order."""


@dataclass(frozen=True)
class Version:
    """A new version of a function.

    Attributes: linked (with what it calls); memory (that its variables are in); declared (functions of the program
    that it calls; it has something in their place that is never run).
    """

    linked: ProgramCode
    memory: tuple[VersionMemory, ...]
    declared: frozenset[str]


@dataclass(frozen=True)
class Versions:
    """A program with what has been replaced in it. Attributes: first (as it was loaded); newer (by name)."""

    first: ProgramCode
    newer: dict[str, Version]

    @property
    def memory(self) -> list[VersionMemory]:
        """All memory that the newer versions use."""
        return list(dict.fromkeys(memory for version in self.newer.values() for memory in version.memory))

    @property
    def variables(self) -> list[Variable]:
        """The variables that they have brought along, those of the last version first."""
        return [variable for memory in reversed(self.memory) for variable in memory.variables]


def replace_function(program: Program, versions: Versions, name: str, sources: Sequence[Source]) -> Versions:
    """Put a new version of a function into a program; see Program.replace. Returns the versions that there are now."""
    object = program.object
    if name not in versions.first.functions.values():
        known = ", ".join(versions.first.functions.values())
        raise UsageError(f"{program.name} has no function {name!r}; it has {known}")
    fresh, declared = _linked(sources, versions.first.functions.values())
    if name not in fresh.functions.names:
        raise UsageError(
            f"the new object has no function {name!r}; it has {', '.join(fresh.functions.names) or 'none'}"
        )
    if fresh.byte_order != object.linked.byte_order:
        raise UsageError(f"the new object is {fresh.byte_order}-endian, unlike the program")
    _use_maps(object, fresh)
    memory = bind_variables(object, fresh, versions.memory)
    made = object.link_function(fresh, fresh.functions.names.index(name))
    newer = Versions(versions.first, {**versions.newer, name: Version(made, tuple(memory), declared)})
    old = program.code
    program.take_over(combined(newer, program.name))
    _follow_in_arrays(object, old, program.code)
    # Whoever is still in it has it in hand; with them it goes.
    old.made.clear()
    return newer


def _linked(sources: Sequence[Source], known: Collection[str]) -> tuple[LinkedObject, frozenset[str]]:
    """Link the new objects, with something in the place of those functions of the program that they only declare.

    known: the functions of the program. Returns also the names of those. Raises LinkError.
    """
    fresh = link(*sources)
    names = {name.decode(errors="surrogateescape") for name in fresh.resolution.undefined.values()}
    declared = frozenset(names.intersection(known))
    if not declared:
        return fresh, declared
    places = LinkGraph(fresh.target, name="(the program)")
    section = places.add_section(TEXT, Protection.READ | Protection.EXECUTE)
    for name in declared:
        block = places.add_block(section, EXIT, alignment=SLOT)
        places.add_symbol(name, block, size=SLOT, kind=SymbolKind.FUNCTION)
    return link(*sources, places), declared


def _use_maps(object: BpfObject, fresh: LinkedObject) -> None:
    """Aim what the new object says of maps at those that there are. Raises UsageError for others, or another shape."""
    symbols = fresh.graph.symbols
    for linked in fresh.maps:
        wanted = object.completed(linked.declaration.definition)
        found = object.maps.get(wanted.name)
        if found is None:
            raise UsageError(f"the new object has a map {wanted.name}, and the program has none of that name")
        have = found.definition
        shape = ("type", "key_size", "value_size", "max_entries")
        for part in shape:
            if getattr(have, part) != getattr(wanted, part):
                what = part.replace("_", " ")
                pair = f"{getattr(wanted, part)}, and in the program it is {getattr(have, part)}"
                raise UsageError(f"the {what} of the map {wanted.name} of the new object is {pair}")
        symbols.definition[linked.symbol], symbols.offset[linked.symbol] = EXTERNAL, found.address


def _follow_in_arrays(object: BpfObject, old: Code, new: Code) -> None:
    """Let prog arrays that hold the old program hold the new one."""
    for map in object.maps.values():
        if isinstance(map, ReferenceMap):
            for key, held in list(map.held.items()):
                if held is old:
                    map.held[key] = new


def combined(versions: Versions, name: str) -> ProgramCode:
    """Lay the newer functions behind the program, aim calls and pointers at them, and leave out what nobody calls."""
    parts = [versions.first, *(version.linked for version in versions.newer.values())]
    order = versions.first.instructions.byteorder
    starts = starts_of(np.array([len(part.instructions) for part in parts])).tolist()
    placed = list(zip(starts, parts, strict=False))
    functions = {start + index: text for start, part in placed for index, text in part.functions.items()}
    references = {start + index: text for start, part in placed for index, text in part.references.items()}
    columns = {each: np.concatenate([part.instructions.field(each) for part in parts]) for each in FIELDS}
    newest = dict(zip(versions.newer, starts[1:], strict=False))
    rows, target = _aimed(decode(_encoded(columns, order), order), _moved(versions, newest))
    columns["imm"][rows] = target - 1 - rows
    # The program begins with the newest version of its own first function.
    needed = _needed(decode(_encoded(columns, order), order), functions, newest.get(name, 0))
    kept = np.concatenate([np.arange(each.start, each.stop) for each in needed])
    position = np.full(starts[-1], -1, np.int64)
    position[kept] = np.arange(len(kept))
    columns["imm"][rows] = position[target] - 1 - position[rows]
    code = decode(_encoded({each: column[kept] for each, column in columns.items()}, order), order)
    source = SourceLines(lambda: _lines(placed, needed, position))
    return ProgramCode(
        Code(code, name, source.place, holds=tuple(versions.memory)),
        {int(position[index]): text for index, text in functions.items() if position[index] >= 0},
        {int(position[index]): text for index, text in references.items() if position[index] >= 0},
        {each: number for part in parts for each, number in part.outside.items()},
        source,
    )


FIELDS = ("opcode", "dst", "src", "offset", "imm")


def _encoded(columns: dict[str, Rows], order: ByteOrder) -> bytes:
    return encode(list(zip(*(columns[each].tolist() for each in FIELDS), strict=True)), order)


def _moved(versions: Versions, newest: dict[str, int]) -> dict[int, int]:
    """Where a reference to a function is to lead instead, by where the function begins, to the newest of its name.

    newest: where the newer versions begin, by name.
    """
    moved = {index: newest[name] for index, name in versions.first.functions.items() if name in newest}
    latest = {name: index for index, name in versions.first.functions.items()} | newest
    for function, version in versions.newer.items():
        for index, name in version.linked.functions.items():
            if name in version.declared:
                moved[newest[function] + index] = latest[name]
    return moved


def _aimed(code: Instructions, moved: dict[int, int]) -> tuple[Rows, Rows]:
    """The instructions that refer to functions, and where each is to lead. moved: where, instead of where."""
    flow = control_flow(code)
    rows = flow.refers.nonzero()[0]
    target = flow.function_target[rows]
    for place, instead in moved.items():
        target[flow.function_target[rows] == place] = instead
    return rows, target


def _needed(code: Instructions, functions: dict[int, str], first: int) -> list[range]:
    """The slots of each function that the one at first needs, itself in front."""
    flow = control_flow(code)
    begins = sorted(functions)
    whole = {begin: range(begin, end) for begin, end in pairwise([*begins, len(code)])}
    work, needed = [first], [first]
    while work:
        slots = whole[work.pop()]
        rows = slots.start + flow.refers[slots.start : slots.stop].nonzero()[0]
        for target in dict.fromkeys(flow.function_target[rows].tolist()):
            if target in whole and target not in needed:
                needed.append(target)
                work.append(target)
    return [whole[begin] for begin in needed]


def _lines(placed: list[tuple[int, ProgramCode]], needed: list[range], position: Rows) -> LineTable:
    """The source lines of the functions that are needed, each at its place."""
    lines = LineTable.joined([part.lines.moved(start) for start, part in placed])
    return LineTable.joined([lines.part(each.start, len(each)).moved(int(position[each.start])) for each in needed])
