"""Finding rules in a file: comments that begin with the name of the checks.

    # jitlink-check: first = second
    # jitlink-check: *{4}(a_long_name + 8) = \
    # jitlink-check:     another_long_name

A line that ends in a backslash goes on in the next line of the same beginning. Comments may begin as those
of any assembler do: with #, //, ;, or @.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

DEFAULT_NAME = "jitlink-check"


@dataclass(frozen=True)
class Rule:
    """A rule. Attributes: line (where it begins, counted from 1); text."""

    line: int
    text: str


def find_rules(text: str, name: str = DEFAULT_NAME) -> Iterator[Rule]:
    """Go over the rules of a text whose comments begin with a name."""
    beginning = re.compile(rf"\s*(?:#|//|;|@)\s*{re.escape(name)}:(.*)")
    begun: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        found = beginning.match(line)
        if found:
            part = found[1].rstrip()
            first = first if begun else number
            if part.endswith("\\"):
                begun.append(part[:-1])
                continue
            yield Rule(first, " ".join([*begun, part]).strip())
            begun = []
        elif begun:
            # As LLVM: what is not gone on with is complete.
            yield Rule(first, " ".join(begun).strip())
            begun = []
    if begun:
        yield Rule(first, " ".join(begun).strip())
