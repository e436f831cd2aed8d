"""Names that cannot do harm where they are shown.

A name in an object file is any run of bytes. Printed as it is, it could move the cursor, colour the
screen, forge lines of our output or reorder them (U+202E). So every name is escaped before it is shown,
in listings and in errors; what is left is printable, on one line, and says exactly which bytes it
stands for.
"""

from __future__ import annotations

LONGEST_NAME = 4096
"""Characters of a name that are shown at most: many symbols can share one string of any length."""


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
