"""The flags in the ELF headers of this process's libraries, which those that we write must have too.

On RISC-V they name the calling convention of floating-point values, and the loader takes a library with
another one for a file that is not there.

Source: RISC-V ELF psABI, "File Header"; gABI, e_flags.
"""

from __future__ import annotations

import struct
from functools import cache

from jitlink.errors import MemoryRefused

FLAGS = struct.Struct("<48xI")


@cache
def host_elf_flags() -> int:
    """The e_flags of the program of this process. Raises MemoryRefused where they cannot be read."""
    try:
        with open("/proc/self/exe", "rb") as program:
            head = program.read(FLAGS.size)
        return int(FLAGS.unpack(head)[0])
    except (OSError, struct.error) as error:
        raise MemoryRefused(f"the program of this process cannot be read: {error}") from error
