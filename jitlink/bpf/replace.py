"""A new version of a function, put into a program that is in use.

    program.replace("classify", "classify_v2.o")

The new version is linked against the maps of the program, compiled together with what calls it, and laid beside
the old one; then the program changes hands in one step. A run that has begun ends in the code that it began in;
every run that begins later, also of packets that other threads are in the midst of (jitlink.bpf.many), enters the
new one. The old code is given back when the last run has left it. Maps and variables stay as they are.

In the instructions of a program the new functions come behind the others. Every call of the old one and every
pointer to it is aimed at the new one, and functions that nobody calls any more are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from jitlink.bpf.btf_ext import LineTable
from jitlink.bpf.control_flow import control_flow
from jitlink.bpf.instructions import ByteOrder, Instructions, decode, encode
from jitlink.bpf.linking import LinkedObject, link
from jitlink.bpf.machine import Code
from jitlink.bpf.maps.references import ReferenceMap
from jitlink.bpf.program_code import ProgramCode, place_of_line
from jitlink.bpf.variables import data_blocks
from jitlink.columns import Rows, starts_of
from jitlink.errors import UnsupportedInput, UsageError
from jitlink.graph import Definition
from jitlink.inputs import Source

if TYPE_CHECKING:
    from jitlink.bpf.loader import BpfObject
    from jitlink.bpf.program import Program

EXTERNAL = int(Definition.EXTERNAL)


@dataclass(frozen=True)
class Versions:
    """A program with what has been replaced in it. Attributes: first (as it was loaded); newer (by name)."""

    first: ProgramCode
    newer: dict[str, ProgramCode]


def replace_function(program: Program, versions: Versions, name: str, sources: Sequence[Source]) -> Versions:
    """Put a new version of a function into a program; see Program.replace. Returns the versions that there are now."""
    object = program.object
    if name not in versions.first.functions.values():
        known = ", ".join(versions.first.functions.values())
        raise UsageError(f"{program.name} has no function {name!r}; it has {known}")
    fresh = link(*sources)
    if name not in fresh.functions.names:
        raise UsageError(
            f"the new object has no function {name!r}; it has {', '.join(fresh.functions.names) or 'none'}"
        )
    if fresh.byte_order != object.linked.byte_order:
        raise UsageError(f"the new object is {fresh.byte_order}-endian, unlike the program")
    _use_maps(object, fresh)
    made = object.link_function(fresh, fresh.functions.names.index(name))
    newer = Versions(versions.first, {**versions.newer, name: made})
    old = program.code
    program.take_over(combined(newer, program.name))
    _follow_in_arrays(object, old, program.code)
    # Whoever is still in it has it in hand; with them it goes.
    old.made.clear()
    return newer


def _use_maps(object: BpfObject, fresh: LinkedObject) -> None:
    """Aim what the new object says of maps at those that there are. Raises UsageError for others, or another shape."""
    symbols = fresh.graph.symbols
    for linked in fresh.maps:
        wanted = linked.declaration.definition
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
    sections = data_blocks(fresh)
    if sections:
        raise UnsupportedInput(
            f"the new object has variables of its own, in {', '.join(sections)}",
            hint="What a replaced function keeps belongs in a map of the program",
        )


def _follow_in_arrays(object: BpfObject, old: Code, new: Code) -> None:
    """Let prog arrays that hold the old program hold the new one."""
    for map in object.maps.values():
        if isinstance(map, ReferenceMap):
            for key, held in list(map.held.items()):
                if held is old:
                    map.held[key] = new


def combined(versions: Versions, name: str) -> ProgramCode:
    """Lay the newer functions behind the program, aim calls and pointers at them, and leave out what nobody calls."""
    parts = [versions.first, *versions.newer.values()]
    order = versions.first.instructions.byteorder
    starts = starts_of(np.array([len(part.instructions) for part in parts])).tolist()
    placed = list(zip(starts, parts, strict=False))
    functions = {start + index: text for start, part in placed for index, text in part.functions.items()}
    references = {start + index: text for start, part in placed for index, text in part.references.items()}
    columns = {each: np.concatenate([part.instructions.field(each) for part in parts]) for each in FIELDS}
    newest = dict(zip(versions.newer, starts[1:], strict=False))
    rows, target = _aimed(decode(_encoded(columns, order), order), versions.first.functions, newest)
    columns["imm"][rows] = target - 1 - rows
    # The program begins with the newest version of its own first function.
    needed = _needed(decode(_encoded(columns, order), order), functions, newest.get(name, 0))
    kept = np.concatenate([np.arange(each.start, each.stop) for each in needed])
    position = np.full(starts[-1], -1, np.int64)
    position[kept] = np.arange(len(kept))
    columns["imm"][rows] = position[target] - 1 - position[rows]
    code = decode(_encoded({each: column[kept] for each, column in columns.items()}, order), order)
    made = ProgramCode(
        Code(code, name),
        {int(position[index]): text for index, text in functions.items() if position[index] >= 0},
        {int(position[index]): text for index, text in references.items() if position[index] >= 0},
        {each: number for part in parts for each, number in part.outside.items()},
        lambda: _lines(placed, needed, position),
    )
    made.code.lines = lambda index: place_of_line(made.lines, index)
    return made


FIELDS = ("opcode", "dst", "src", "offset", "imm")


def _encoded(columns: dict[str, Rows], order: ByteOrder) -> bytes:
    return encode(list(zip(*(columns[each].tolist() for each in FIELDS), strict=True)), order)


def _aimed(code: Instructions, functions: dict[int, str], newest: dict[str, int]) -> tuple[Rows, Rows]:
    """The instructions that refer to functions, and where each is to lead: to the newest of its name."""
    flow = control_flow(code)
    rows = flow.refers.nonzero()[0]
    target = flow.function_target[rows]
    for index, name in functions.items():
        if name in newest:
            target[target == index] = newest[name]
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
