"""What one relocation computes: its kind's definition, with the numbers of this link put in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as member
from fnmatch import fnmatch

import numpy as np

from jitlink.errors import UsageError
from jitlink.formulas import Kind
from jitlink.graph import LinkGraph
from jitlink.inspect.explain.places import Places
from jitlink.inspect.instructions import instructions
from jitlink.inspect.stages import Snapshot, Watched
from jitlink.inspect.text import Paper
from jitlink.inspect.words import LETTER_WORDS, THROUGH_WORDS, Demangler, signed_hex, with_letters

PLACE = re.compile(r"(?P<section>.+?)\+(?P<offset>0[xX][0-9a-fA-F]+|\d+)")
RELAXATION_SHIFT = 2
"""Bytes by which a relaxation may move a field."""


@dataclass(frozen=True)
class Relocation:
    """What a relocation is and does.

    Attributes: place; kind (name), format and number; formula, field, check, source (of the kind); reason
    (why it is not supported); target (with addend); steps (what the link made of it, in sentences);
    letters (the numbers of the formula); value (the result, or None before addresses); fits (whether it
    passes the check); before, after (bytes of the field), instruction_before, instruction_after.
    """

    place: str
    kind: str
    format: str
    number: int
    formula: str
    field: str
    check: str
    source: str
    reason: str
    target: str
    steps: list[str] = member(default_factory=list)
    letters: dict[str, int] = member(default_factory=dict)
    value: int | None = None
    fits: bool = True
    before: str = ""
    after: str = ""
    instruction_before: str = ""
    instruction_after: str = ""

    def lines(self, paper: Paper) -> Iterator[str]:
        """As text."""
        yield paper.heading(f"{self.place}: {self.kind} to {self.target}")
        yield ""
        rows = [
            (
                "kind",
                f"{self.kind}, number {self.number} of {self.format}" + (f"; {self.source}" if self.source else ""),
            )
        ]
        if self.reason:
            rows.append(("not supported", self.reason))
        rows += [("formula", self.formula), ("field", self.field), ("range", self.check)]
        rows += [
            (letter, f"{value:#x}  ({LETTER_WORDS.get(letter, letter)})") for letter, value in self.letters.items()
        ]
        if self.value is not None:
            numbers = with_letters(self.formula, {name: f"{value:#x}" for name, value in self.letters.items()})
            rows.append(("result", f"{numbers} = {self.value:#x}{'' if self.fits else ', which does not fit'}"))
        rows += [("then", step) for step in self.steps]
        if self.before or self.after:
            rows.append(("bytes", f"{self.before} -> {self.after}" if self.after else self.before))
        if self.instruction_before:
            after = f" -> {self.instruction_after}" if self.instruction_after else ""
            rows.append(("instruction", f"{self.instruction_before}{after}"))
        yield from paper.table(rows)


def relocation_at(link: Watched, input: str, place: str, *, demangle: Demangler | None = None) -> list[Relocation]:
    """Explain the relocations at a place.

    input: the name of an input, or a shell pattern; place: SECTION+OFFSET, the offset in decimal or with
    0x. Raises UsageError where there is no such place or no relocation at it.
    """
    graph = link.snapshot("pre_prune").graph
    places = Places(graph, demangle)
    section, offset = _parsed(place)
    edges = _edges_at(graph, places, input, section, offset)
    return [_explained(link, places, edge) for edge in edges]


def _parsed(place: str) -> tuple[str, int]:
    matched = PLACE.fullmatch(place)
    if matched is None:
        raise UsageError(f"{place!r} is not of the form SECTION+OFFSET, such as .text+0x1f")
    return matched["section"], int(matched["offset"], 0)


def _edges_at(graph: LinkGraph, places: Places, input: str, section: str, offset: int) -> list[int]:
    """The edges at a place; else those of the instruction or word that it lies in."""
    found, nearest = [], []
    seen = False
    for row in range(1, len(graph.edges)):
        block = int(graph.edges.block[row])
        of = int(graph.blocks.section[block])
        name = graph.inputs[int(graph.sections.input[of])]
        if places.section_names[of] != section or not (
            name == input or name.endswith(f"/{input}") or fnmatch(name, input)
        ):
            continue
        seen = True
        at = places.of_edge(row).offset
        if at == offset:
            found.append(row)
        nearest.append(at)
    if not seen:
        raise UsageError(f"no relocations of a section {section!r} in an input {input!r}")
    if not found:
        close = ", ".join(f"{at:#x}" for at in sorted(set(nearest), key=lambda at: abs(at - offset))[:3])
        raise UsageError(f"no relocation at {section}+{offset:#x} of {input}; the nearest are at {close}")
    return found


def _explained(link: Watched, places: Places, edge: int) -> Relocation:
    before = link.snapshot("pre_prune")
    graph = before.graph
    kind = _kind(graph, edge)
    block, offset = int(graph.edges.block[edge]), int(graph.edges.offset[edge])
    target = f"{places.symbol_names[int(graph.edges.target[edge])]}{signed_hex(int(graph.edges.addend[edge]))}"
    told: dict[str, object] = {}
    after = link.snapshots.get("fixed_up") or link.snapshots.get("post_allocation")
    if after is not None:
        told = _computed(link, before, after, block, offset, kind)
    size = kind.field.size
    content = before.bytes_of(block)
    return Relocation(
        place=str(places.of_edge(edge)),
        kind=kind.name,
        format=kind.format,
        number=kind.number,
        field=str(kind.field),
        source=kind.source,
        reason=kind.reason,
        target=target,
        before=content[offset : offset + size].hex(" "),
        instruction_before=_instruction(before, block, offset),
        **{"formula": str(kind.value), "check": str(kind.check), **told},  # type: ignore[arg-type]
    )


def _kind(graph: LinkGraph, edge: int) -> Kind:
    kind = graph.target.kinds[int(graph.edges.kind[edge])]
    assert isinstance(kind, Kind)
    return kind


def _computed(
    link: Watched, before: Snapshot, after: Snapshot, block: int, offset: int, original: Kind
) -> dict[str, object]:
    """What the link made of the relocation, from the stage where it has addresses."""
    graph = after.graph
    if not graph.blocks.live[block]:
        return {"steps": ["its block was dropped; nothing is written"]}
    edge = _same_edge(graph, block, offset)
    if edge is None:
        return {"steps": ["the link has taken it out, with what it patched"]}
    kind = _kind(graph, edge)
    steps = []
    if kind is not original:
        steps.append(f"the instruction is rewritten, and the kind is now {kind.name}: {kind.value}, {kind.check}")
    target = int(graph.edges.target[edge])
    if target >= len(before.graph.symbols):
        made = graph.symbols[target].block
        how = THROUGH_WORDS.get(kind.through) or THROUGH_WORDS.get(original.through, "")
        steps.append(f"it is aimed at what the linker made in {made.section.name if made else '?'}: {how}")
    symbol = graph.symbols[target]
    if symbol.name in link.placeholders:
        steps.append(f"nobody defines {symbol.name}; its address is made up")
    if not kind.applied:
        return {"steps": steps}
    row = np.array([edge])
    letters = after.letters(row)
    numbers = {name: int(np.asarray(letters[name]).reshape(-1)[0]) for name in sorted(kind.value.letters)}
    readable = {name: _signed(value) if name == "A" else value for name, value in numbers.items()}
    value = after.values(row)
    bad = kind.check.bad(value)
    place = int(graph.edges.offset[edge])
    content = after.bytes_of(block)
    fixed = after.stage == "fixed_up"
    return {
        "steps": steps,
        "formula": str(kind.value),
        "check": str(kind.check),
        "letters": readable,
        "value": kind.check.readable(value[0]),
        "fits": bad is None or not bool(bad[0]),
        "after": content[place : place + kind.field.size].hex(" ") if fixed else "",
        "instruction_after": _instruction(after, block, place) if fixed else "",
    }


def _same_edge(graph: LinkGraph, block: int, offset: int) -> int | None:
    """The edge at a place of a block at a later stage; relaxation may have moved its field a little."""
    first, last = np.searchsorted(graph.edges.block, (block, block + 1)).tolist()
    distance = np.abs(graph.edges.offset[first:last] - offset)
    if not len(distance) or distance.min() > RELAXATION_SHIFT:
        return None
    return int(first + distance.argmin())


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _instruction(snapshot: Snapshot, block: int, offset: int) -> str:
    """The instruction that a place lies in, or "" for data."""
    graph = snapshot.graph
    if not graph.blocks[block].section.protection.letters.endswith("x"):
        return ""
    address = int(graph.blocks.address[block])
    found = instructions(graph, block, snapshot.bytes_of(block), address)
    return next((each.text for each in found if each.offset <= offset < each.end), "")
