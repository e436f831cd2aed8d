"""Write the pages that come from the code: one for each architecture, from its table of relocation kinds.

Usage:

    python docs/generate.py            write them
    python docs/generate.py --check    say which of them are out of date; exits with 1 if any is
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from jitlink.arches import architecture
from jitlink.arches.architecture import Architecture
from jitlink.formulas import Kind, Through

DOCS = Path(__file__).parent
ARCHITECTURES = {"x86_64": "x86-64"}
"""The architectures that have a page, and what their ABI documents call them."""
THROUGH = {
    Through.DIRECT: "",
    Through.GOT_ENTRY: "GOT entry",
    Through.RELAXABLE_GOT_ENTRY: "GOT entry, or relaxed where the target is near",
    Through.BRANCH: "stub where the target is far",
}


def page(target: Architecture, title: str) -> str:
    """Make the page of an architecture."""
    return "\n".join(
        [
            f"# Relocations of {title}",
            "",
            "This page is generated from the table that the linker itself applies: docs/generate.py, from"
            f" arches/{target.name}.py.",
            "",
            "S is the address of the symbol, A the addend, P the address of the field, G the offset of the symbol's",
            "GOT entry in the GOT, GOT the address of the GOT, L the address of the symbol or of its stub, Z the size",
            "of the symbol. A value that does not pass its check is an error that names the place; nothing is cut off.",
            "",
            "## Applied",
            "",
            *table(("number", "name", "value", "field", "check", "reached through", "source"), applied(target)),
            "",
            "## Not supported",
            "",
            "An object that holds one of these is refused when it is linked, with the reason.",
            "",
            *table(("number", "name", "reason"), unsupported(target)),
            "",
            "## Made by the linker",
            "",
            "Kinds that no object holds. A relaxed instruction is rewritten beside its field.",
            "",
            *table(("name", "value", "field", "check"), made(target)),
            "",
        ]
    )


def applied(target: Architecture) -> Iterator[tuple[str, ...]]:
    """The kinds of the ABI that the linker knows what to do with."""
    for kind in target.kinds:
        if kind.number >= 0 and not kind.reason:
            yield (str(kind.number), f"`{kind.name}`", *value_field_check(kind), THROUGH[kind.through], kind.source)


def unsupported(target: Architecture) -> Iterator[tuple[str, ...]]:
    """The kinds of the ABI that are refused."""
    for kind in target.kinds:
        if kind.reason:
            yield str(kind.number), f"`{kind.name}`", kind.reason


def made(target: Architecture) -> Iterator[tuple[str, ...]]:
    """The kinds that passes make."""
    for kind in target.kinds:
        if kind.number < 0:
            yield (kind.name, *value_field_check(kind))


def value_field_check(kind: Kind) -> tuple[str, str, str]:
    """The formula, the field and the check of a kind; a kind without a field writes nothing."""
    return (str(kind.value), str(kind.field), str(kind.check)) if kind.applied else ("none", "none", "none")


def table(heading: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """Write rows as a Markdown table."""
    yield f"| {' | '.join(heading)} |"
    yield f"| {' | '.join('---' for _ in heading)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


def main(arguments: list[str]) -> int:
    """Write or check all pages; returns the exit code."""
    stale = []
    for name, title in ARCHITECTURES.items():
        path = DOCS / f"{name}.md"
        text = page(architecture(name), title)
        if not path.exists() or path.read_text() != text:
            stale.append(path.name)
        if "--check" not in arguments:
            path.write_text(text)
    if "--check" in arguments and stale:
        print(f"out of date, run docs/generate.py: {', '.join(stale)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
