"""Text for terminals: tables that fit, with names that cannot do harm there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

GAP = 2
NARROWEST = 16
"""Characters that the last column has on the narrowest terminal."""
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class Paper:
    """What a view is written on.

    Attributes: width (characters; None where lines may be as long as they are); colour (whether it
    understands ANSI escapes).
    """

    width: int | None = None
    colour: bool = False

    def fit(self, text: str) -> str:
        """A line, cut to the width."""
        return fitted(text, self.width) if self.width else text

    def heading(self, text: str) -> str:
        """A line that stands out."""
        return f"{BOLD}{self.fit(text)}{PLAIN}" if self.colour else self.fit(text)

    def aside(self, text: str) -> str:
        """A line that stands back."""
        return f"{DIM}{self.fit(text)}{PLAIN}" if self.colour else self.fit(text)

    def table(self, rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), indent: int = 2) -> Iterator[str]:
        """Lay out rows in columns, two spaces apart; the last column takes what is left of the width.

        right: the columns that are aligned to the right.
        """
        rows = list(rows)
        if not rows:
            return
        widths = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        rest = None
        if self.width:
            widths = [min(width, max(self.width // 3, NARROWEST)) for width in widths]
            rest = max(self.width - indent - sum(widths) - GAP * len(widths), NARROWEST)
        for row in rows:
            parts = [
                padded(fitted(cell, width), width, column in right)
                for column, (cell, width) in enumerate(zip(row[:-1], widths, strict=True))
            ]
            last = fitted(row[-1], rest) if rest else row[-1]
            line = f"{' ' * indent}{(' ' * GAP).join([*parts, last])}".rstrip()
            # Many columns on a very narrow terminal: what does not fit at all is cut.
            yield fitted(line, self.width) if self.width else line


def padded(text: str, width: int, right: bool = False) -> str:
    """Fill a text with spaces up to a width."""
    spaces = " " * (width - cells(text))
    return spaces + text if right else text + spaces


def fitted(text: str, width: int) -> str:
    """Cut a text to a width; a cut one ends with an ellipsis."""
    if cells(text) <= width:
        return text
    if text.isascii():
        return f"{text[: width - 1]}…"
    from rich.cells import set_cell_size

    return f"{set_cell_size(text, width - 1)}…"


def cells(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
