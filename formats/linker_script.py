"""Linker scripts that stand for a library: a text that says which files to link in its place.

On Debian and elsewhere `libm.a` and `libc.so` are such texts:

    OUTPUT_FORMAT(elf64-x86-64)
    GROUP ( /usr/lib/x86_64-linux-gnu/libm-2.36.a /usr/lib/x86_64-linux-gnu/libmvec.a )

Of the language of scripts INPUT, GROUP and AS_NEEDED are read. What says where to look for files and what the
output is like has no meaning here, and is passed over. A script that lays out sections is refused.

Source: the manual of GNU ld, "Commands Dealing with Files".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jitlink.errors import MalformedInput, UnsupportedInput

FILE_COMMANDS = ("INPUT", "GROUP")
AS_NEEDED = "AS_NEEDED"
PASSED_OVER = ("OUTPUT_FORMAT", "OUTPUT_ARCH", "TARGET", "SEARCH_DIR")
"""Commands with names in parentheses that change nothing for us."""
REFUSED = (
    *("SECTIONS", "MEMORY", "PHDRS", "VERSION", "ENTRY", "STARTUP", "INCLUDE", "OUTPUT", "EXTERN", "PROVIDE"),
    *("ASSERT", "INSERT", "FORCE_COMMON_ALLOCATION", "NOCROSSREFS"),
)
BEGINNING = re.compile(
    rb"\s*(/\*.*?\*/\s*)*(" + b"|".join(word.encode() for word in (*FILE_COMMANDS, *PASSED_OVER, *REFUSED)) + rb")\b",
    re.DOTALL,
)
TOKEN = re.compile(r'/\*.*?\*/|"([^"\n]*)"|([(),;])|([^\s(),;"]+)', re.DOTALL)
LARGEST = 1 << 16
"""Bytes of a script; those of libraries have a few hundred."""


@dataclass(frozen=True)
class NamedFile:
    """A file that a script names: its name as it stands there, and whether it is linked only where needed."""

    name: str
    as_needed: bool


def is_linker_script(beginning: bytes) -> bool:
    """Whether a text begins as a linker script does."""
    return BEGINNING.match(beginning) is not None


def read_linker_script(text: bytes, name: str) -> list[NamedFile]:
    """Read the files that a script stands for, in order. Raises MalformedInput and UnsupportedInput."""
    if len(text) > LARGEST:
        raise UnsupportedInput(f"a linker script of more than {LARGEST} bytes", input=name)
    return _Reader(text.decode(errors="surrogateescape"), name).files()


class _Reader:
    """Reads a script token by token."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.tokens = [
            (quoted or mark or word, bool(mark))
            for quoted, mark, word in (match.groups() for match in TOKEN.finditer(text))
            if quoted or mark or word
        ]
        self.tokens.reverse()

    def files(self) -> list[NamedFile]:
        """All files of the script."""
        found: list[NamedFile] = []
        while self.tokens:
            command, is_mark = self.tokens.pop()
            if command == ";":
                continue
            if command in FILE_COMMANDS and not is_mark:
                found += self._names(command)
            elif command in PASSED_OVER and not is_mark:
                self._names(command)
            else:
                raise UnsupportedInput(
                    f"a linker script with {command!r}; those are read that only name files, by INPUT and GROUP",
                    input=self.name,
                )
        return found

    def _names(self, command: str, *, as_needed: bool = False) -> list[NamedFile]:
        """The names in the parentheses that follow a command."""
        if not self.tokens or self.tokens.pop() != ("(", True):
            raise MalformedInput(f"a linker script without ( behind {command}", input=self.name)
        names: list[NamedFile] = []
        while self.tokens:
            token, is_mark = self.tokens.pop()
            if is_mark and token == ")":
                return names
            if is_mark and token == ",":
                continue
            if is_mark:
                raise MalformedInput(f"a linker script with {token} in {command}", input=self.name)
            if token == AS_NEEDED and not as_needed:
                names += self._names(token, as_needed=True)
            else:
                names.append(NamedFile(token, as_needed))
        raise MalformedInput(f"a linker script without ) behind {command}", input=self.name)
