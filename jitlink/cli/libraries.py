"""What -l names: a shared library for the dynamic loader, or an archive to link.

As for ld, in each directory of -L libNAME.so goes before libNAME.a, and the directories of the system
come last. There the dynamic loader is asked by the name that it knows (libm.so.6), since the
/usr/lib/*/libm.so of a development package is often a script for ld.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from jitlink import UnreadableInput

SYSTEM_DIRECTORIES = ("/usr/local/lib", "/usr/lib64", "/usr/lib", "/lib")


def find_library(name: str, directories: Sequence[str]) -> tuple[str, bool]:
    """Find a library: its path or the loader's name for it, and whether it is an archive.

    Raises UnreadableInput, which says where was looked.
    """
    for directory in directories:
        for suffix in (".so", ".a"):
            path = Path(directory) / f"lib{name}{suffix}"
            if path.is_file():
                return str(path.absolute()), suffix == ".a"
    known_to_loader = ctypes.util.find_library(name)
    if known_to_loader:
        return known_to_loader, False
    for directory in system_directories():
        path = Path(directory) / f"lib{name}.a"
        if path.is_file():
            return str(path), True
    looked = ", ".join([*directories, "where the dynamic loader looks", *system_directories()])
    raise UnreadableInput(f"there is no lib{name}.so or lib{name}.a in {looked}", input=f"-l {name}")


def system_directories() -> tuple[str, ...]:
    """Where the system keeps archives: the directory of its architecture on Debian, then the usual ones."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    return (*([f"/usr/lib/{multiarch}"] if multiarch else []), *SYSTEM_DIRECTORIES)
