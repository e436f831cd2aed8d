"""Two spellings of a name: as an object file has it, and as C has it.

Mach-O puts an underscore before every name that C has (`main` is `_main` in the object); ELF and COFF for
64-bit machines put nothing. A link graph keeps the **raw names** of its inputs. Wherever a name leaves a
graph or enters it (a lookup, a name that the caller defines, a function of this process), it is a **C
name**, so that one world of names serves all formats.

A raw name without the prefix, as assembly and `asm` labels make them, has no C name. It is then written
with the byte 1 before it, as LLVM IR writes names that must not be changed: of the prefix `_`, `\\x01start`
is the raw name `start`. The mapping goes both ways without a loss.
"""

from __future__ import annotations

VERBATIM = b"\x01"
"""Stands before a C name that is a raw name as it is."""

PREFIX_OF_FORMAT = {"macho": b"_"}
"""What stands before C names in the objects of a format; nothing in those that are not here."""


def to_c_name(raw: bytes, prefix: bytes) -> bytes:
    """The C name of a raw name."""
    if not prefix:
        return raw
    return raw[len(prefix) :] if raw.startswith(prefix) else VERBATIM + raw


def to_raw_name(name: bytes, prefix: bytes) -> bytes:
    """The raw name of a C name."""
    if not prefix:
        return name
    return name[len(VERBATIM) :] if name.startswith(VERBATIM) else prefix + name
