"""x86-64: the relocation kinds of Mach-O.

The addends are those of the formulas: the reader adds to what it finds in the field that the CPU counts
from the end of the field (4 bytes on), or from the end of an immediate behind it (SIGNED_1, _2, _4).

Source: <mach-o/x86_64/reloc.h>, whose comments show what an assembler writes for each instruction.
"""

from __future__ import annotations

from jitlink.arches.macho import MachORules
from jitlink.fields import WORD32, WORD64
from jitlink.formulas import GOT, A, B, G, Kind, L, P, S, Through, kinds_of, signed, unsigned

RELOC_H = "<mach-o/x86_64/reloc.h>"
SLOT = Through.GOT_ENTRY
RELAX = Through.RELAXABLE_GOT_ENTRY
BRANCH = Through.BRANCH


# fmt: off
ROWS = [
    #    name                       number  value            field   check
    Kind("UNSIGNED",                0,      S + A,           WORD64),
    Kind("UNSIGNED, 4 bytes",       0,      S + A,           WORD32, unsigned(32)),
    Kind("SIGNED",                  1,      S + A - P,       WORD32, signed(32)),
    Kind("BRANCH",                  2,      L + A - P,       WORD32, signed(32), BRANCH),
    Kind("GOT_LOAD",                3,      G + GOT + A - P, WORD32, signed(32), RELAX),
    Kind("GOT",                     4,      G + GOT + A - P, WORD32, signed(32), SLOT),
    Kind("SUBTRACTOR",              5),
    Kind("SIGNED_1",                6,      S + A - P,       WORD32, signed(32)),
    Kind("SIGNED_2",                7,      S + A - P,       WORD32, signed(32)),
    Kind("SIGNED_4",                8,      S + A - P,       WORD32, signed(32)),
    # The address of a descriptor of a thread-local variable: see jitlink.passes.thread_descriptors.
    Kind("TLV",                     9,      G + GOT + A - P, WORD32, signed(32), RELAX),
    # What a pair of SUBTRACTOR and UNSIGNED becomes.
    Kind("SUBTRACTOR, 8 bytes",         -1, S + A - B,       WORD64),
    Kind("SUBTRACTOR, 4 bytes",         -1, S + A - B,       WORD32, signed(32)),
    Kind("SUBTRACTOR of here, 8 bytes", -1, S + A - P,       WORD64),
    Kind("SUBTRACTOR of here, 4 bytes", -1, S + A - P,       WORD32, signed(32)),
    Kind("SUBTRACTOR from here, 8 bytes", -1, P + A - S,     WORD64),
    Kind("SUBTRACTOR from here, 4 bytes", -1, P + A - S,     WORD32, signed(32)),
]
# fmt: on

KINDS = kinds_of(ROWS, "X86_64_RELOC_", "macho", RELOC_H)
"""The rows with the names of the header."""

PC_RELATIVE = tuple(f"X86_64_RELOC_{name}" for name in ("SIGNED", "SIGNED_1", "SIGNED_2", "SIGNED_4"))
"""The kinds that may be out of reach of their target."""

FIELD = 4
"""Bytes of a relative field, at whose end RIP points unless an immediate follows."""

RULES = MachORules(
    cpu_type=0x01000007,
    unsigned=0,
    subtractor=5,
    addend=None,
    takes_addend=(),
    bias={
        "X86_64_RELOC_SIGNED": FIELD,
        "X86_64_RELOC_BRANCH": FIELD,
        "X86_64_RELOC_GOT_LOAD": FIELD,
        "X86_64_RELOC_GOT": FIELD,
        "X86_64_RELOC_SIGNED_1": FIELD + 1,
        "X86_64_RELOC_SIGNED_2": FIELD + 2,
        "X86_64_RELOC_SIGNED_4": FIELD + 4,
        "X86_64_RELOC_TLV": FIELD,
    },
    distance={8: "X86_64_RELOC_SUBTRACTOR of here, 8 bytes", 4: "X86_64_RELOC_SUBTRACTOR of here, 4 bytes"},
    distance_to_here={8: "X86_64_RELOC_SUBTRACTOR from here, 8 bytes", 4: "X86_64_RELOC_SUBTRACTOR from here, 4 bytes"},
    difference={8: "X86_64_RELOC_SUBTRACTOR, 8 bytes", 4: "X86_64_RELOC_SUBTRACTOR, 4 bytes"},
    pointer={8: "X86_64_RELOC_UNSIGNED", 4: "X86_64_RELOC_UNSIGNED, 4 bytes"},
    second_symbol="X86_64_RELOC_SUBTRACTOR",
    personality="X86_64_RELOC_GOT",
)
