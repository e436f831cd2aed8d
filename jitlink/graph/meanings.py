"""What the small numbers in the columns of a link graph mean."""

from __future__ import annotations

import enum


class Linkage(enum.IntEnum):
    """Whether a definition may be replaced by another one of its name."""

    STRONG = 0
    WEAK = 1


class Scope(enum.IntEnum):
    """How far a symbol is seen: by other dylibs, inside its own dylib, inside its own input."""

    DEFAULT = 0
    HIDDEN = 1
    LOCAL = 2


class Lifetime(enum.IntEnum):
    """How long a section is needed: as long as its dylib, until the link ends, or never in memory."""

    STANDARD = 0
    FINALIZE = 1
    NO_ALLOC = 2


class Definition(enum.IntEnum):
    """What a symbol's row says about where the symbol is."""

    UNDEFINED = 0
    DEFINED = 1
    ABSOLUTE = 2
    COMMON = 3
    EXTERNAL = 4
    """Outside of the graph; the offset is its address, or 0 for a weak symbol that is nowhere."""
    ALIAS = 5
    """Wherever the symbol in the column alias is, in this graph or outside of it."""


class SymbolKind(enum.IntEnum):
    """What a symbol stands for, with the numbers of ELF's STT_ constants (gABI, Symbol Table)."""

    NONE = 0
    OBJECT = 1
    FUNCTION = 2
    SECTION = 3
    FILE = 4
    COMMON = 5
    TLS = 6
    IFUNC = 10


class Purpose(enum.IntEnum):
    """What a section is for, where the linker has to know it."""

    ORDINARY = 0
    PREINIT_ARRAY = 1
    INIT_ARRAY = 2
    FINI_ARRAY = 3
    CTORS = 4
    DTORS = 5
    EH_FRAME = 6
    NOTE = 7
    DEBUG = 8
    NAMED_SET = 9
    """Reached through __start_NAME and __stop_NAME: its blocks must lie side by side."""
    TLS = 10
    """The initial content of thread-local variables."""
    TLS_VARIABLES = 11
    """Descriptors of thread-local variables, through which Mach-O code reaches them."""
    INIT_OFFSETS = 12
    """Initialisers as 32-bit distances from the start of the image."""
    COMPACT_UNWIND = 13
    """Unwind records of Mach-O's own form, which the link turns into those of .eh_frame."""
    FUNCTION_TABLE = 14
    """Unwind records of COFF's form (.pdata): each describes a function, and refers to more about it."""
