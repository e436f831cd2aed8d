"""Lines of assembly as tokens, each with its place, and the error that names a place.

A comment begins with `#`, `;` or `//`. A token is a register, a number, a word, or punctuation, of
which the longest fits: `s>>=` is one token, as are `+=` and `s<`. Words hold letters, digits, `_`,
`.` and `$`, as labels of compilers do.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jitlink.errors import MalformedInput

_COMMENT = re.compile(r"#|;|//")
_TOKEN = re.compile(
    r"""
      (?P<slot>\{[%\w]+:\w+\})
    | (?P<register>%?[rw]\d+(?![\w.$]))
    | (?P<number>(?:0[xX][0-9a-fA-F]+|\d+)(?![\w.$]))
    | (?P<punctuation>s?>>=|<<=|s[/%]=|s[<>]=?|[=!<>]=|[-+*/%|&^]=|[-+*/%|&^=<>()\[\],:])
    | (?P<word>[A-Za-z_.$][\w.$]*)
    """,
    re.VERBOSE,
)


class AssemblyError(MalformedInput):
    """Text that is no assembly. Attributes: line and column (from 1), and those of MalformedInput."""

    def __init__(self, fault: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {fault}")
        self.line = line
        self.column = column


class Token(NamedTuple):
    """A token: its sort (register, number, punctuation, word, slot or end), text and column from 1."""

    sort: str
    text: str
    column: int

    def __str__(self) -> str:
        return "the end of the line" if self.sort == "end" else f"'{self.text}'"


def tokenize(text: str, line: int) -> list[Token]:
    """Cut a line into tokens; the last one is the end of the line. line: its number, for errors.

    Raises AssemblyError at a character that begins no token.
    """
    comment = _COMMENT.search(text)
    end = comment.start() if comment else len(text)
    tokens: list[Token] = []
    at = 0
    while at < end:
        if text[at].isspace():
            at += 1
            continue
        found = _TOKEN.match(text, at, end)
        if found is None:
            raise AssemblyError(f"{text[at : at + 10].split()[0]!r} is no number, name or operator", line, at + 1)
        tokens.append(Token(str(found.lastgroup), found[0], at + 1))
        at = found.end()
    tokens.append(Token("end", "", len(text[:end].rstrip()) + 1))
    return tokens
