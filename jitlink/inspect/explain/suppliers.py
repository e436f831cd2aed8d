"""Who could supply a name that the inputs do not define: this process, or a library of the machine."""

from __future__ import annotations

import ctypes.util
from functools import cached_property
from pathlib import Path

from jitlink.resolvers import process

WELL_KNOWN = (
    "m",
    "stdc++",
    "c++",
    "gcc_s",
    "gfortran",
    "quadmath",
    "gomp",
    "ssl",
    "crypto",
    "z",
    "sqlite3",
    "dl",
    "rt",
)
"""Libraries that objects often ask for, by the name that -l takes."""


class Suppliers:
    """Looks names up, without loading a library."""

    PROCESS = "this process"

    def supplier_of(self, name: str) -> str | None:
        """Who has a name, in words; None if nobody is known to."""
        if process().address_of(name) is not None:
            return self.PROCESS
        library = self._library_of.get(name)
        return f"{library} (add it with link_against, or -l on the command line)" if library else None

    @cached_property
    def _library_of(self) -> dict[str, str]:
        """The first well-known library that exports each name."""
        found: dict[str, str] = {}
        for short in WELL_KNOWN:
            library = ctypes.util.find_library(short)
            path = _path_of(library) if library else None
            for name in _exports(path) if path else ():
                found.setdefault(name, str(library))
        return found


def _path_of(library: str) -> Path | None:
    """Where the loader would find a library."""
    directories = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", *map(str, Path("/usr/lib").glob("*-linux-gnu"))]
    return next((path for each in directories if (path := Path(each) / library).exists()), None)


def _exports(path: Path) -> list[str]:
    """The names that a library exports; none where it cannot be read."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        with open(path, "rb") as file:
            table = ELFFile(file).get_section_by_name(".dynsym")
            if not isinstance(table, SymbolTableSection):
                return []
            return [symbol.name for symbol in table.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"]
    except (OSError, ELFError):
        return []
