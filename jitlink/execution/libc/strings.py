"""<string.h>: strings."""

from __future__ import annotations

from jitlink.execution.libc.memory import aligned
from jitlink.execution.libc.provided import LibraryCall, provides


@provides("strlen", types="z p")
def strlen(call: LibraryCall, text: int) -> int:
    """Bytes before the NUL."""
    return len(call.string(text))


@provides("strnlen", types="z pz")
def strnlen(call: LibraryCall, text: int, limit: int) -> int:
    """Bytes before the NUL, or limit."""
    return len(call.memory.read_string(text, limit))


@provides("strcpy", "__strcpy_chk", types="p pp")
def strcpy(call: LibraryCall, to: int, text: int) -> int:
    """Copy."""
    call.memory.write(to, call.string(text) + b"\0")
    return to


@provides("stpcpy", "__stpcpy_chk", types="p pp")
def stpcpy(call: LibraryCall, to: int, text: int) -> int:
    """Copy, and return the end."""
    return strcpy(call, to, text) + len(call.string(to))


@provides("strncpy", "__strncpy_chk", types="p ppz")
def strncpy(call: LibraryCall, to: int, text: int, size: int) -> int:
    """Copy, and fill up with NULs."""
    call.memory.write(to, call.memory.read_string(text, size).ljust(size, b"\0"))
    return to


@provides("strcat", "__strcat_chk", types="p pp")
def strcat(call: LibraryCall, to: int, text: int) -> int:
    """Append."""
    strcpy(call, to + len(call.string(to)), text)
    return to


@provides("strncat", "__strncat_chk", types="p ppz")
def strncat(call: LibraryCall, to: int, text: int, size: int) -> int:
    """Append at most size bytes, and a NUL."""
    call.memory.write(to + len(call.string(to)), call.memory.read_string(text, size) + b"\0")
    return to


@provides("strlcpy", types="z ppz")
def strlcpy(call: LibraryCall, to: int, text: int, size: int) -> int:
    """Copy what fits, with its NUL; returns what was wanted."""
    source = call.string(text)
    if size:
        call.memory.write(to, source[: size - 1] + b"\0")
    return len(source)


def _order(one: bytes, other: bytes) -> int:
    return (one > other) - (one < other)


@provides("strcmp", "strcoll", types="i pp")
def strcmp(call: LibraryCall, one: int, other: int) -> int:
    """Compare."""
    return _order(call.string(one), call.string(other))


@provides("strncmp", types="i ppz")
def strncmp(call: LibraryCall, one: int, other: int, size: int) -> int:
    """Compare at most size bytes."""
    return _order(call.memory.read_string(one, size), call.memory.read_string(other, size))


@provides("strcasecmp", "_stricmp", types="i pp")
def strcasecmp(call: LibraryCall, one: int, other: int) -> int:
    """Compare without case."""
    return _order(call.string(one).lower(), call.string(other).lower())


@provides("strncasecmp", "_strnicmp", types="i ppz")
def strncasecmp(call: LibraryCall, one: int, other: int, size: int) -> int:
    """Compare at most size bytes without case."""
    first, second = call.memory.read_string(one, size), call.memory.read_string(other, size)
    return _order(first.lower(), second.lower())


def _found(text: int, at: int) -> int:
    return text + at if at >= 0 else 0


@provides("strchr", "index", types="p pi")
def strchr(call: LibraryCall, text: int, character: int) -> int:
    """The first of a character; its NUL is part of a string."""
    return _found(text, (call.string(text) + b"\0").find(character & 0xFF))


@provides("strrchr", "rindex", types="p pi")
def strrchr(call: LibraryCall, text: int, character: int) -> int:
    """The last of a character."""
    return _found(text, (call.string(text) + b"\0").rfind(character & 0xFF))


@provides("strstr", types="p pp")
def strstr(call: LibraryCall, text: int, wanted: int) -> int:
    """The first of a string in another."""
    return _found(text, call.string(text).find(call.string(wanted)))


def _span(text: bytes, of: bytes, inside: bool) -> int:
    return next((at for at, byte in enumerate(text) if (byte in of) is not inside), len(text))


@provides("strspn", types="z pp")
def strspn(call: LibraryCall, text: int, of: int) -> int:
    """How many characters at the start are of a set."""
    return _span(call.string(text), call.string(of), True)


@provides("strcspn", types="z pp")
def strcspn(call: LibraryCall, text: int, of: int) -> int:
    """How many characters at the start are not of a set."""
    return _span(call.string(text), call.string(of), False)


@provides("strpbrk", types="p pp")
def strpbrk(call: LibraryCall, text: int, of: int) -> int:
    """The first character of a set."""
    source = call.string(text)
    at = _span(source, call.string(of), False)
    return text + at if at < len(source) else 0


@provides("strtok", types="p pp")
def strtok(call: LibraryCall, text: int, of: int) -> int:
    """The next token; null goes on where the last call ended."""
    token, call.library.cursor = _token(call, text or call.library.cursor, call.string(of))
    return token


@provides("strtok_r", "strtok_s", types="p ppp")
def strtok_r(call: LibraryCall, text: int, of: int, cursor: int) -> int:
    """The next token, with the place to go on kept by the caller."""
    kept = text or int.from_bytes(call.memory.read(cursor, 8), "little")
    token, following = _token(call, kept, call.string(of))
    call.memory.write(cursor, following.to_bytes(8, "little"))
    return token


def _token(call: LibraryCall, text: int, of: bytes) -> tuple[int, int]:
    """The token at or behind a place, cut off by a NUL, and the place behind it; 0 at the end."""
    if not text:
        return 0, 0
    text += _span(call.string(text), of, True)
    source = call.string(text)
    if not source:
        return 0, 0
    end = text + _span(source, of, False)
    if end == text + len(source):
        return text, 0
    call.memory.write(end, b"\0")
    return text, end + 1


@provides("strdup", "_strdup", types="p p")
def strdup(call: LibraryCall, text: int) -> int:
    """A copy on the heap."""
    return _duplicate(call, call.string(text))


@provides("strndup", types="p pz")
def strndup(call: LibraryCall, text: int, size: int) -> int:
    """A copy of at most size bytes on the heap."""
    return _duplicate(call, call.memory.read_string(text, size))


def _duplicate(call: LibraryCall, text: bytes) -> int:
    address = aligned(call, len(text) + 1)
    if address:
        call.memory.write(address, text + b"\0")
    return address


@provides("strerror", types="p i")
def strerror(call: LibraryCall, number: int) -> int:
    """Python's text for an error number, on the heap."""
    import os

    return _duplicate(call, os.strerror(number).encode())
