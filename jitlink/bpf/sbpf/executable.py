"""What the reader of SBPF's ELF files gives: a program whose references are all in place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jitlink.bpf.instructions import RECORD, SLOT
from jitlink.bpf.sbpf.versions import Version
from jitlink.columns import Buffer, Rows


@dataclass(frozen=True)
class Executable:
    """A program.

    Attributes: version; text (uint8[n], the code); text_address (of its first byte, as the program sees it);
    entry (slot that a run begins at); data, data_address (bytes that the program can read, and where: up to
    version 2 the code is among them); functions (slot by the number that calls have, up to version 2); names
    (of functions, by slot); syscalls (names of what is called by number, as far as the file says them);
    pointers (slots that constants of the program point at); name (of the input).
    """

    version: Version
    text: Buffer
    text_address: int
    entry: int
    data: Buffer
    data_address: int
    functions: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    syscalls: dict[int, str] = field(default_factory=dict)
    pointers: frozenset[int] = frozenset()
    name: str = ""

    @property
    def slots(self) -> Slots:
        """The code, decoded."""
        return Slots(self.text)


class Slots:
    """Code in columns, one row a slot: opcode, dst, src, offset, imm as int64, signed where they are."""

    def __init__(self, text: Buffer) -> None:
        records = text[: len(text) // SLOT * SLOT].view(RECORD["little"])
        self.opcode: Rows = records["opcode"].astype(np.int64)
        self.dst: Rows = records["registers"].astype(np.int64) & 15
        self.src: Rows = records["registers"].astype(np.int64) >> 4
        self.offset: Rows = records["offset"].astype(np.int64)
        self.imm: Rows = records["imm"].astype(np.int64)

    def __len__(self) -> int:
        return len(self.opcode)
