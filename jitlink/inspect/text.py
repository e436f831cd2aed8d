"""Text for terminals: names that cannot do harm there, and tables that fit.

A name in an object file is any run of bytes. Printed as it is, it could move the cursor, colour the
screen, forge lines of our output or reorder them (U+202E). So every name is escaped before it is shown;
what is left is printable, on one line, and says exactly which bytes it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

LONGEST_NAME = 4096
"""Characters of a name that are shown at most: many symbols can share one string of any length."""
GAP = 2
NARROWEST = 16
"""Characters that the last column has on the narrowest terminal."""
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def escaped(name: str) -> str:
    """Write a name so that it is printable and on one line.

    A byte that is not UTF-8 (a surrogate escape) becomes \\xNN, a character that is not printable its
    escape in Python's notation, and a backslash two.
    """
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}…"
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(map(_escaped_character, name))


def escaped_lines(text: str) -> str:
    """Escape a text of our own that quotes names, such as an error, and keep its lines."""
    return "\n".join(line if line.isprintable() else _escaped_but_backslash(line) for line in text.split("\n"))


def _escaped_but_backslash(line: str) -> str:
    return "".join(character if character == "\\" else _escaped_character(character) for character in line)


def _escaped_character(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code < 0x100:
        # \x85 is the byte; the character of that number is another thing.
        return f"\\u{code:04x}"
    return character.encode("unicode_escape").decode()


@dataclass(frozen=True)
class Paper:
    """What a view is written on.

    Attributes: width (characters; None where lines may be as long as they are); colour (whether it
    understands ANSI escapes).
    """

    width: int | None = None
    colour: bool = False

    def heading(self, text: str) -> str:
        """A line that stands out."""
        line = fitted(text, self.width) if self.width else text
        return f"{BOLD}{line}{PLAIN}" if self.colour else line

    def aside(self, text: str) -> str:
        """A line that stands back."""
        line = fitted(text, self.width) if self.width else text
        return f"{DIM}{line}{PLAIN}" if self.colour else line

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
