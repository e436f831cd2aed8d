"""Write the pages that come from the code: one for each architecture, from its table of relocation kinds.

What a page says beside the tables comes from the docstrings of the modules that do it.

Usage:

    python docs/generate.py            write them
    python docs/generate.py --check    say which of them are out of date; exits with 1 if any is
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import getdoc
from pathlib import Path

from jitlink import formulas
from jitlink.arches import FILE_OF, architecture
from jitlink.arches.architecture import Architecture
from jitlink.formulas import Kind, Through

DOCS = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """A page to be written: what the ABI documents call the architecture, and modules that say more about it."""

    title: str
    modules: tuple[str, ...] = ()


ARCHITECTURES = {
    "x86_64": Page("x86-64"),
    "aarch64": Page("AArch64", ("jitlink.arches.aarch64_relaxation", "jitlink.passes.veneers")),
    "riscv64": Page(
        "RISC-V",
        (
            "jitlink.arches.riscv64_pairs",
            "jitlink.arches.riscv64_relaxation",
            "jitlink.arches.riscv64_alignment",
            "jitlink.arches.riscv64_flags",
        ),
    ),
}
FORMATS = {"elf": "ELF", "macho": "Mach-O", "coff": "COFF"}
"""The object formats, in the order of the sections about them."""
THROUGH = {
    Through.DIRECT: "",
    Through.GOT_ENTRY: "GOT entry",
    Through.RELAXABLE_GOT_ENTRY: "GOT entry, or relaxed where the target is near",
    Through.BRANCH: "stub where the target is far",
}
BRANCH_WITH_VENEER = "stub or veneer where the target is far"
LETTER = re.compile(r" {4}((?:[A-Za-z]+(?:\(S\))?(?:, )?)+)(?: {2,}(\S.*))?")
"""A line of the list of letters in the docstring of jitlink.formulas: one letter or several, and a meaning."""
FUNCTIONS = {
    "Page(": ("Page(x)", "x with its low 12 bits cleared"),
    "G(GDAT(S))": ("G(GDAT(S))", "address of the symbol's GOT entry"),
}
"""What formulas write beside letters, by how it looks in them."""


def page(target: Architecture, about: Page) -> str:
    """Make the page of an architecture."""
    module = FILE_OF[target.name][0]
    made_kinds = list(made(target))
    lines = [
        f"# Relocations of {about.title}",
        "",
        "This page is generated from the tables that the linker itself applies: docs/generate.py, from"
        f" arches/{module}.py.",
        "",
        *paragraphs(f"jitlink.arches.{module}"),
        "",
        "In the formulas:",
        "",
        *letters(target),
        "",
        "A value that does not pass its check is an error that names the place; nothing is cut off.",
        *(line for format in FORMATS for line in section(target, format)),
        "",
        "## Made by the linker",
        "",
        "Kinds that no object holds under these names: what instructions become, and what one number of a format",
        "stands for in different places.",
        "",
        *table(("name", "value", "field", "check"), made_kinds),
    ]
    for name in about.modules:
        heading, *rest = paragraphs(name)
        lines += ["", f"## {heading.rstrip('.')}", *rest]
    return "\n".join([*lines, ""])


def section(target: Architecture, format: str) -> Iterator[str]:
    """Write about the relocations of one object format, if the architecture has any."""
    kinds = [kind for kind in target.kinds if kind.format == format and kind.number >= 0]
    if not kinds:
        return
    columns = ("number", "name", "value", "field", "check", "reached through", "source")
    yield from ("", f"## {FORMATS[format]}", "", *table(columns, applied(target, kinds)))
    refused = [(str(kind.number), f"`{kind.name}`", kind.reason) for kind in kinds if kind.reason]
    if refused:
        yield from ("", "Not supported: an object that holds one of these is refused, with the reason.", "")
        yield from table(("number", "name", "reason"), refused)


def paragraphs(module: str) -> list[str]:
    """The lines of the docstring of a module."""
    return (getdoc(import_module(module)) or "").splitlines()


def letters(target: Architecture) -> Iterator[str]:
    """List the letters that occur in the formulas of an architecture, with their meanings."""
    used = frozenset[str]().union(*(kind.value.letters for kind in target.kinds))
    for names, meaning in meanings():
        if used.intersection(names):
            yield f"- {', '.join(name for name in names if name in used)}: {meaning}"
    for sign, (written, meaning) in FUNCTIONS.items():
        if any(sign in str(kind.value) for kind in target.kinds):
            yield f"- {written}: {meaning}"


def meanings() -> Iterator[tuple[list[str], str]]:
    """The letters of all formulas and their meanings, from the docstring of jitlink.formulas."""
    lines = paragraphs("jitlink.formulas") if formulas.__doc__ else []
    for number, line in enumerate(lines):
        found = LETTER.fullmatch(line)
        if found:
            # Several letters that are long stand on a line of their own.
            yield found[1].split(", "), found[2] or lines[number + 1].strip()


def applied(target: Architecture, kinds: Sequence[Kind]) -> Iterator[tuple[str, ...]]:
    """The rows of the kinds that the linker knows what to do with."""
    for kind in kinds:
        if not kind.reason:
            through = BRANCH_WITH_VENEER if kind.name in target.veneers else THROUGH[kind.through]
            yield (str(kind.number), f"`{kind.name}`", *value_field_check(kind), through, kind.source)


def made(target: Architecture) -> Iterator[tuple[str, ...]]:
    """The kinds that passes and readers make."""
    for kind in target.kinds:
        if kind.number < 0:
            yield (kind.name, *value_field_check(kind))


def value_field_check(kind: Kind) -> tuple[str, str, str]:
    """The formula, the field and the check of a kind; a kind without a field writes nothing."""
    return (str(kind.value), str(kind.field), str(kind.check)) if kind.applied else ("none", "none", "none")


def table(heading: tuple[str, ...], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Write rows as a Markdown table."""
    yield f"| {' | '.join(heading)} |"
    yield f"| {' | '.join('---' for _ in heading)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


def main(arguments: list[str]) -> int:
    """Write or check all pages; returns the exit code."""
    stale = []
    for name, about in ARCHITECTURES.items():
        path = DOCS / f"{name}.md"
        text = page(architecture(name), about)
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
