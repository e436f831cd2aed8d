"""What the sections of Mach-O are for: by their type, their attributes, and the segment they name.

An object has one segment without a name; each section names the segment that a static linker would put it
in, and that says what may be done with it. The type of a section says the rest: constructors, literals,
thread-local variables. Only a few sections are known by name: unwind records and debug information.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows
from jitlink.errors import UnsupportedInput
from jitlink.formats import macho_layout as macho
from jitlink.graph import NO_NAME, Lifetime, LinkGraph, Purpose
from jitlink.protection import Protection

if TYPE_CHECKING:
    from jitlink.formats.macho import MachOReader

PURPOSE_OF_TYPE = np.zeros(macho.SECTION_TYPE + 1, np.uint8)
PURPOSE_OF_TYPE[macho.S_MOD_INIT_FUNC_POINTERS] = Purpose.INIT_ARRAY
PURPOSE_OF_TYPE[macho.S_MOD_TERM_FUNC_POINTERS] = Purpose.FINI_ARRAY
PURPOSE_OF_TYPE[macho.S_INIT_FUNC_OFFSETS] = Purpose.INIT_OFFSETS
PURPOSE_OF_TYPE[macho.S_THREAD_LOCAL_REGULAR] = Purpose.TLS
PURPOSE_OF_TYPE[macho.S_THREAD_LOCAL_ZEROFILL] = Purpose.TLS
PURPOSE_OF_TYPE[macho.S_THREAD_LOCAL_VARIABLES] = Purpose.TLS_VARIABLES

REFUSED_TYPES = {
    macho.S_SYMBOL_STUBS: "symbol stubs (S_SYMBOL_STUBS), which static linkers make",
    macho.S_LAZY_DYLIB_SYMBOL_POINTERS: "lazily loaded libraries (S_LAZY_DYLIB_SYMBOL_POINTERS)",
    macho.S_THREAD_LOCAL_VARIABLE_POINTERS: "pointers to thread-local variables, which static linkers make",
    macho.S_THREAD_LOCAL_INIT_FUNCTION_POINTERS: "initialisers of thread-local variables",
}
LAST_TYPE = macho.S_INIT_FUNC_OFFSETS

TEXT, CODE, CONSTANT, DATA = (
    Protection.READ,
    Protection.READ | Protection.EXECUTE,
    Protection.READ,
    Protection.READ | Protection.WRITE,
)
PURPOSE_OF_NAME = {
    "__TEXT,__eh_frame": Purpose.EH_FRAME,
    "__LD,__compact_unwind": Purpose.COMPACT_UNWIND,
}
ONLY_RELOCATED = frozenset(("__DATA,__const", "__DATA,__mod_init_func", "__DATA,__mod_term_func", "__DATA,__got"))
"""Sections of the data segment that nothing but relocation writes; Apple's linker moves them to __DATA_CONST."""
READ_ONLY_SEGMENTS = frozenset(("__TEXT", "__DATA_CONST", "__AUTH_CONST", "__LD"))
SEGMENTS_OUTSIDE = frozenset(("__DWARF", "__LLVM", "__LD"))
"""Segments that take no part in the image: debug information, embedded bitcode, notes to the linker."""
NAME_SIZE = 16


@dataclass
class Sections:
    """The sections that become sections of the graph.

    Attributes: kept (int64[n + 1], their rows among the section headers, behind a null row), number_of
    (int64[headers], the graph's row of each section, or 0), part_of_image (bool[n + 1]); names (distinct
    ones, as "segment,section"), name_number, purpose, protection, input, type, flags: a column each of n + 1.
    """

    kept: Rows
    number_of: Rows
    part_of_image: npt.NDArray[np.bool_]
    names: list[str]
    name_number: Rows
    purpose: npt.NDArray[np.uint8]
    protection: npt.NDArray[np.uint8]
    input: Rows
    type: Rows
    flags: npt.NDArray[np.uint32]

    def fill(self, graph: LinkGraph) -> None:
        """Fill the table of sections."""
        position = np.array([graph.add_name(name) for name in self.names], np.int64)
        name = position[self.name_number] if len(position) else np.zeros(1, np.int64)
        name[0] = NO_NAME
        graph.sections.fill(
            name=name,
            input=self.input,
            protection=self.protection,
            lifetime=np.where(self.part_of_image, Lifetime.STANDARD, Lifetime.NO_ALLOC).astype(np.uint8),
            purpose=self.purpose,
            type=self.type,
            flags=self.flags,
            retained=(self.flags & macho.S_ATTR_NO_DEAD_STRIP) != 0,
            live_support=(self.flags & macho.S_ATTR_LIVE_SUPPORT) != 0,
        )


def choose_sections(reader: MachOReader, everything: bool) -> Sections:
    """Decide which sections become sections of the graph, and what each is for.

    everything: also those that take no part in the image. Raises UnsupportedInput.
    """
    _refuse_types(reader)
    names, number = _distinct_names(reader)
    facts = [_facts_of_name(name) for name in names]
    purpose_of_name, protection_of_name, outside = (
        np.array([fact[column] for fact in facts], np.uint8) for column in range(3)
    )
    purpose = PURPOSE_OF_TYPE[reader.type]
    named = purpose_of_name[number] if len(names) else purpose
    purpose = np.where(named > 0, named, purpose).astype(np.uint8)
    protection = protection_of_name[number] if len(names) else purpose
    code = (reader.flags & (macho.S_ATTR_PURE_INSTRUCTIONS | macho.S_ATTR_SOME_INSTRUCTIONS)) != 0
    protection = np.where(code, CODE, protection).astype(np.uint8)
    protection[purpose == Purpose.INIT_OFFSETS] = CONSTANT
    not_in_image = (reader.flags & macho.S_ATTR_DEBUG) != 0
    not_in_image |= reader.type == macho.S_DTRACE_DOF
    if len(names):
        not_in_image |= outside[number] > 0
    compact = purpose == Purpose.COMPACT_UNWIND
    purpose[not_in_image & ~compact & (purpose != Purpose.DEBUG)] = Purpose.ORDINARY
    rows = (~not_in_image | compact | everything).nonzero()[0]
    number_of = np.zeros(len(number), np.int64)
    number_of[rows] = np.arange(1, len(rows) + 1)
    return Sections(
        kept=np.concatenate(([0], rows)),
        number_of=number_of,
        part_of_image=np.concatenate(([False], ~not_in_image[rows])),
        names=names,
        name_number=np.concatenate(([0], number[rows])),
        purpose=np.concatenate((np.zeros(1, np.uint8), purpose[rows])),
        protection=np.concatenate((np.full(1, TEXT, np.uint8), protection[rows])),
        input=np.concatenate(([0], reader.owner[rows] + 1)),
        type=np.concatenate(([0], reader.type[rows])),
        flags=np.concatenate((np.zeros(1, np.uint32), reader.flags[rows])),
    )


def _refuse_types(reader: MachOReader) -> None:
    unknown = reader.type > LAST_TYPE
    reader.batch.refuse_any(unknown, "section {} is of unknown type", reader.owner, reader.first_section)
    for number, words in REFUSED_TYPES.items():
        rows = (reader.type == number).nonzero()[0]
        if len(rows):
            row = int(rows[0])
            raise UnsupportedInput(
                f"it has a section of {words}",
                input=reader.batch.names[int(reader.owner[row])],
                section=name_of(reader.headers["names"][row].tobytes()),
            )


def name_of(names: bytes) -> str:
    """The name of a section as people write it, "segment,section", from the 32 bytes of its header."""
    section, segment = (
        part.partition(b"\0")[0].decode(errors="surrogateescape") for part in (names[:NAME_SIZE], names[NAME_SIZE:])
    )
    return f"{segment},{section}"


def _distinct_names(reader: MachOReader) -> tuple[list[str], Rows]:
    """The distinct names of sections, and which of them each section has. There are a dozen, however many objects."""
    raw = reader.headers["names"].tolist()
    known: dict[bytes, int] = {}
    # Each name is numbered by its first occurrence, which setdefault hands out by itself.
    first = np.fromiter(map(known.setdefault, raw, range(len(raw))), np.int64, len(raw))
    return [name_of(name) for name in known], np.array([*known.values()], np.int64).searchsorted(first)


def _facts_of_name(name: str) -> tuple[int, int, int]:
    """What a name says: purpose (ORDINARY where it says none), protection, and whether it is outside of the image."""
    segment = name.partition(",")[0]
    purpose = Purpose.DEBUG if segment == "__DWARF" else PURPOSE_OF_NAME.get(name, Purpose.ORDINARY)
    protection = CONSTANT if segment in READ_ONLY_SEGMENTS or name in ONLY_RELOCATED else DATA
    return purpose, protection, segment in SEGMENTS_OUTSIDE
