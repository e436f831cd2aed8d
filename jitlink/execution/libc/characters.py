"""<ctype.h>, in the C locale."""

from __future__ import annotations

import string
from collections.abc import Callable

from jitlink.execution.libc.provided import LibraryCall, provides

CONTROL = frozenset([*range(32), 127])
CLASSES: dict[str, frozenset[int]] = {
    "isalpha": frozenset(string.ascii_letters.encode()),
    "isdigit": frozenset(string.digits.encode()),
    "isalnum": frozenset((string.ascii_letters + string.digits).encode()),
    "isspace": frozenset(b" \t\n\v\f\r"),
    "isupper": frozenset(string.ascii_uppercase.encode()),
    "islower": frozenset(string.ascii_lowercase.encode()),
    "isxdigit": frozenset(string.hexdigits.encode()),
    "ispunct": frozenset(string.punctuation.encode()),
    "isprint": frozenset(range(32, 127)),
    "isgraph": frozenset(range(33, 127)),
    "iscntrl": CONTROL,
    "isblank": frozenset(b" \t"),
    "isascii": frozenset(range(128)),
}
CASE = ord("a") - ord("A")


def _member_of(members: frozenset[int]) -> Callable[[LibraryCall, int], int]:
    return lambda call, character: int(character in members)


for _name, _members in CLASSES.items():
    provides(_name, types="i i")(_member_of(_members))


@provides("tolower", types="i i")
def tolower(call: LibraryCall, character: int) -> int:
    """The small letter of a capital one."""
    return character + CASE if character in CLASSES["isupper"] else character


@provides("toupper", types="i i")
def toupper(call: LibraryCall, character: int) -> int:
    """The capital letter of a small one."""
    return character - CASE if character in CLASSES["islower"] else character
