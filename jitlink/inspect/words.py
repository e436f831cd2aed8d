"""Numbers and names of a graph, in words for people."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from jitlink.columns import Rows
from jitlink.escaping import escaped
from jitlink.formulas import Kind, Through
from jitlink.graph import LinkGraph, SymbolKind

NO_NAME = "(no name)"
LETTER_WORDS = {
    "S": "symbol",
    "A": "addend",
    "P": "place",
    "G": "GOT entry in the GOT",
    "GOT": "GOT",
    "L": "symbol or its stub",
    "Z": "size of the symbol",
}
THROUGH_WORDS = {
    Through.DIRECT: "",
    Through.BRANCH: "through a stub where the symbol is far",
    Through.GOT_ENTRY: "through the GOT entry of the symbol",
    Through.RELAXABLE_GOT_ENTRY: "through the GOT entry of the symbol, or straight to it where it is near",
}
LETTER = re.compile(r"[A-Za-z]+")
Demangler = Callable[[str], str]


def names_of(graph: LinkGraph, positions: Rows, demangle: Demangler | None = None) -> list[str]:
    """Read names for printing. positions: int64[n] of LinkGraph.name_at; demangle: applied before escaping."""
    names = [name.decode(errors="surrogateescape") for name in graph.names_at(positions)]
    if demangle is not None:
        names = [demangle(name) for name in names]
    return [escaped(name) or NO_NAME for name in names]


def kind_word(number: int) -> str:
    """What a symbol stands for, in a word; the number where the ELF specification leaves it to others."""
    try:
        return SymbolKind(number).name.lower()
    except ValueError:
        return f"type {number}"


def signed_hex(addend: int) -> str:
    """An addend as it follows a name: nothing for zero."""
    return f" {'-' if addend < 0 else '+'} {abs(addend):#x}" if addend else ""


def counted(number: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def kind_in_words(kind: Kind) -> str:
    """Say what a relocation kind does, in a sentence without its end."""
    if kind.reason:
        return f"not supported: {kind.reason}"
    if not kind.applied:
        return "writes nothing"
    formula = str(kind.value)
    words = with_letters(formula, LETTER_WORDS)
    through = THROUGH_WORDS.get(kind.through, f"through {Through(kind.through).name.lower().replace('_', ' ')}")
    parts = [f"{formula} ({words}) into {kind.field}", str(kind.check), *([through] if through else [])]
    return "; ".join(parts)


def with_letters(formula: str, meanings: Mapping[str, str]) -> str:
    """A formula with something else in the place of its letters."""
    return LETTER.sub(lambda letter: meanings.get(letter[0], letter[0]), formula)
