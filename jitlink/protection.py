"""What code may do with a page: read it, write it, execute it. Never write and execute at once."""

from __future__ import annotations

import enum


class Protection(enum.IntFlag):
    """Memory protection, with the values that POSIX systems use (PROT_READ, PROT_WRITE, PROT_EXEC)."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXECUTE = 4

    @property
    def letters(self) -> str:
        """The three letters of /proc/self/maps, such as "r-x"."""
        return "".join(letter if flag & self else "-" for letter, flag in zip("rwx", Protection, strict=True))
