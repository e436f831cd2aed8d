"""The versions of SBPF: what each changed, by the proposals (SIMD) that brought it.

An executable says its version in e_flags. Version 0 is what the first programs on Solana were; each later
one adopts proposals, and version 3 takes most of those of version 2 back, to be near to upstream BPF again.

    proposal   what it is about                                            versions
    SIMD-0166  frames that the program sizes itself, no gaps               1, 2
    SIMD-0173  other encodings of memory access, hor64 for lddw, callx src 2
    SIMD-0174  product, quotient and remainder; sub of and from a constant 2
    SIMD-0178  static calls: syscalls and functions need no relocation     3
    SIMD-0189  strict ELF headers, constants at 0 and code at 2**32        3
    SIMD-0377  conditions of 32 bits, callx dst, fixed frames without gaps 3

Sources: the proposals; where a proposal leaves a detail open, what the public implementation (anza-xyz/sbpf,
doc/bytecode.md and the comments of program.rs) says.
"""

from __future__ import annotations

from enum import IntEnum

from jitlink.errors import UnsupportedInput


class Version(IntEnum):
    """A version of SBPF."""

    V0 = 0
    V1 = 1
    V2 = 2
    V3 = 3

    @property
    def moves_frames(self) -> bool:
        """Whether a call moves r10 by a frame; else the program does, by adding a constant to r10."""
        return self in (Version.V0, Version.V3)

    @property
    def has_gaps(self) -> bool:
        """Whether between two frames lies a gap of the size of one."""
        return self is Version.V0

    @property
    def adjusts_frame_pointer(self) -> bool:
        """Whether a program may add a constant to r10."""
        return self in (Version.V1, Version.V2)

    @property
    def has_products(self) -> bool:
        """Whether it has the instructions of SIMD-0173 and SIMD-0174, and not those that they replace."""
        return self is Version.V2

    @property
    def has_short_conditions(self) -> bool:
        """Whether it has branches that compare 32 bits."""
        return self >= Version.V3

    @property
    def is_static(self) -> bool:
        """Whether calls are final in the file, and the headers strict: no relocations."""
        return self >= Version.V3


def version_of(flags: int) -> Version:
    """The version that e_flags stands for. Raises UnsupportedInput for one that there is not here."""
    try:
        return Version(flags)
    except ValueError:
        raise UnsupportedInput(f"SBPF version {flags} is not supported; versions 0 to 3 are") from None
