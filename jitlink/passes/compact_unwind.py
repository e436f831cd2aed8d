"""Compact unwind records of Mach-O, turned into the records of .eh_frame that unwinders of other systems read.

A compact record describes the frame of a whole function in one word, its **encoding**: where the caller's
frame begins, and which registers are saved where. On macOS the static linker gathers them into a table for
the unwinder of that system. An unwinder that knows only DWARF needs the same as call frame instructions,
of which a few bytes do: the encoding says nothing about single instructions, so one state holds from the
first to the last.

Functions of one encoding have the same instructions. So the work is done for each distinct encoding, and
their records are then copied as arrays. All of them go into one block, behind one CIE for each personality
routine; from there they are unwind records like all others (see jitlink.passes.eh_frame).

An encoding that refers to DWARF is passed over, since the reader has dropped the records that an FDE of
the same object doubles; so is 0, which describes nothing.

Source: <mach-o/compact_unwind_encoding.h>; Linux Standard Base Core 5.0, sections 10.5 and 10.6; the
register numbers of the x86-64 psABI (figure 3.36) and of Arm's DWARF for AArch64 (section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jitlink.arches.macho import MachORules, rules_of
from jitlink.columns import Buffer, Rows, load_records, rows_of
from jitlink.errors import MalformedInput
from jitlink.graph import LinkGraph, Purpose
from jitlink.passes.compact_encodings import INSTRUCTIONS, RETURN_ADDRESS, is_indirect, stack_size_field
from jitlink.protection import Protection

RECORD = np.dtype(
    [("function", "<u8"), ("length", "<u4"), ("encoding", "<u4"), ("personality", "<u8"), ("table", "<u8")]
)
FUNCTION, PERSONALITY, TABLE = 0, 16, 24
MODE = 0x0F000000
ENCODING_BITS = 0x0FFFFFFF
"""Without the flags about personality and exception table, which the fields of the record say themselves."""

RELATIVE_4_BYTES = 0x1B
"""DW_EH_PE_pcrel | DW_EH_PE_sdata4."""
RELATIVE_INDIRECT = 0x9B
VERSION, CODE_ALIGNMENT, DATA_ALIGNMENT = 1, 1, 0x78
"""As LEB128 numbers: offsets of saved registers count in units of -8."""
CIE_PERSONALITY = 4 + 4 + 1 + len("zPLR\0") + 3 + 1 + 1
FDE_CIE, FDE_FUNCTION, FDE_LENGTH, FDE_TABLE = 4, 8, 12, 17
RECORD_ALIGNMENT = 8
UINT32 = np.dtype("<u4")


@dataclass
class Compact:
    """Compact records: int64[n] each.

    Attributes: encoding (without flags; with the size of the frame in place of where it can be found),
    length (bytes of the function), function, personality and table (the edges to them, 0 for none).
    """

    encoding: Rows
    length: Rows
    function: Rows
    personality: Rows
    table: Rows


def convert_compact_unwind(graph: LinkGraph) -> None:
    """Make records of .eh_frame for the functions that only compact unwind records describe.

    Needs aimed edges; leaves one more block of unwind records. Raises MalformedInput.
    """
    if graph.format != "macho" or not np.count_nonzero(graph.sections.purpose == Purpose.COMPACT_UNWIND):
        return
    graph.sort_edges()
    records = _read(graph)
    if not len(records.encoding):
        return
    rules = rules_of(graph.target.name)
    section = graph.add_section("__TEXT,__eh_frame", Protection.READ, purpose=Purpose.EH_FRAME)
    _Writer(graph, rules, records).write(section)
    graph.sort_edges()


def _read(graph: LinkGraph) -> Compact:
    """Gather the records that describe something, with the edges of each."""
    edges, blocks = graph.edges, graph.blocks
    # Edges are in the order of their blocks.
    compact = (graph.sections.purpose == Purpose.COMPACT_UNWIND)[blocks.section].nonzero()[0]
    first = edges.block.searchsorted(compact)
    rows = rows_of(first, edges.block.searchsorted(compact, "right") - first)
    field = edges.offset[rows] % RECORD.itemsize
    start = blocks.content[edges.block[rows]] + edges.offset[rows] - field
    positions, record = np.unique(start, return_inverse=True)
    by_field = {}
    for offset in (FUNCTION, PERSONALITY, TABLE):
        by_field[offset] = np.zeros(len(positions), np.int64)
        by_field[offset][record[field == offset]] = rows[field == offset]
    content = load_records(graph.pool, positions, RECORD)
    encoding = content["encoding"].astype(np.int64) & ENCODING_BITS
    described = np.isin(encoding & MODE, list(INSTRUCTIONS[graph.target.name])) & (by_field[FUNCTION] > 0)
    function = by_field[FUNCTION][described]
    pointer = graph.target.kind_number(rules_of(graph.target.name).pointer[8])
    _refuse(graph, function[edges.kind[function] != pointer], "a compact unwind record whose function is no address")
    return Compact(
        _with_sizes(graph, encoding[described], function),
        content["length"][described].astype(np.int64),
        function,
        by_field[PERSONALITY][described],
        by_field[TABLE][described],
    )


def _with_sizes(graph: LinkGraph, encoding: Rows, function: Rows) -> Rows:
    """Put the sizes of frames, which some functions only have in an instruction, above their encodings."""
    rows = is_indirect(graph.target.name, encoding).nonzero()[0]
    if not len(rows):
        return encoding
    edges, symbols, blocks = graph.edges, graph.symbols, graph.blocks
    target = edges.target[function[rows]]
    block = symbols.block[target]
    inside = symbols.offset[target].view(np.int64) + edges.addend[function[rows]] + stack_size_field(encoding[rows])
    outside = (block == 0) | blocks.zero_fill[block] | (inside < 0) | (inside + UINT32.itemsize > blocks.size[block])
    _refuse(graph, function[rows[outside]], "a compact unwind record that finds no stack size in its function")
    sizes = load_records(graph.pool, blocks.content[block] + inside, UINT32).astype(np.int64)
    encoding = encoding.copy()
    encoding[rows] |= sizes << 32
    return encoding


def _refuse(graph: LinkGraph, edges: Rows, fault: str) -> None:
    if len(edges):
        edge = graph.edges[int(edges[0])]
        raise MalformedInput(fault, input=edge.block.input, section=edge.block.section.name, offset=edge.offset)


class _Writer:
    """Writes CIEs and FDEs into one buffer, and the edges that they need."""

    def __init__(self, graph: LinkGraph, rules: MachORules, records: Compact) -> None:
        self.graph = graph
        self.rules = rules
        self.records = records
        self.pieces: list[Buffer] = []
        self.end = 0
        self.block = 0
        self.edges: list[tuple[Rows, str, Rows, Rows]] = []

    def write(self, section: int) -> None:
        """Write all records into a block of a section."""
        edges, records = self.graph.edges, self.records
        personality = np.where(records.personality > 0, edges.target[records.personality], 0)
        has_table = records.table > 0
        instructions = INSTRUCTIONS[self.graph.target.name]
        for routine in np.unique(personality).tolist():
            cie = self._write_cie(routine)
            of_routine = personality == routine
            for table in (False, True):
                rows = (of_routine & (has_table == table)).nonzero()[0]
                for encoding in np.unique(records.encoding[rows]).tolist():
                    code = instructions[encoding & MODE](encoding)
                    self._write_fdes(rows[records.encoding[rows] == encoding], cie, code, table)
        block = self.graph.add_block(section, b"".join(piece.tobytes() for piece in self.pieces), alignment=8)
        for offset, kind, target, addend in self.edges:
            number = self.graph.target.kind_number(kind)
            self.graph.edges.append(len(offset), block=block, offset=offset, kind=number, target=target, addend=addend)

    def _append(self, content: Buffer) -> int:
        """Put content behind what there is; returns where it starts."""
        start = self.end
        self.pieces.append(content)
        self.end += len(content)
        return start

    def _write_cie(self, routine: int) -> int:
        """Write a CIE for functions with a personality routine, a symbol, or without one (0)."""
        name = self.graph.target.name
        numbers = bytes((CODE_ALIGNMENT, DATA_ALIGNMENT, RETURN_ADDRESS[name]))
        if routine:
            data = bytes((7, RELATIVE_INDIRECT, 0, 0, 0, 0, RELATIVE_4_BYTES, RELATIVE_4_BYTES))
            body = bytes((VERSION,)) + b"zPLR\0" + numbers + data
        else:
            body = bytes((VERSION,)) + b"zLR\0" + numbers + bytes((2, RELATIVE_4_BYTES, RELATIVE_4_BYTES))
        start = self._append(_record(bytes(4) + body))
        if routine:
            self._add_edges(np.array([start + CIE_PERSONALITY]), self.rules.personality, np.array([routine]), 0)
        return start

    def _write_fdes(self, rows: Rows, cie: int, instructions: bytes, table: bool) -> None:
        """Write the FDEs of functions that differ in nothing but their place, their length and their table."""
        edges, records = self.graph.edges, self.records
        # The pointer to the table has its place also where there is none: 0 means that.
        one = _record(bytes(4 + 4 + 4) + bytes((4,)) + bytes(4) + instructions)
        size = len(one)
        copies = np.tile(one, (len(rows), 1))
        starts = self.end + size * np.arange(len(rows))
        copies[:, FDE_CIE : FDE_CIE + 4] = _words(starts + FDE_CIE - cie)
        copies[:, FDE_LENGTH : FDE_LENGTH + 4] = _words(records.length[rows])
        self._append(copies.reshape(-1))
        relative = self.rules.distance[4]
        function = records.function[rows]
        self._add_edges(starts + FDE_FUNCTION, relative, edges.target[function], edges.addend[function])
        if table:
            found = records.table[rows]
            self._add_edges(starts + FDE_TABLE, relative, edges.target[found], edges.addend[found])

    def _add_edges(self, offset: Rows, kind: str, target: Rows, addend: Rows | int) -> None:
        self.edges.append((offset, kind, target, np.broadcast_to(np.asarray(addend), offset.shape)))


def _record(body: bytes) -> Buffer:
    """A record of .eh_frame: its length, and body, filled up with instructions that do nothing."""
    size = -(-(4 + len(body)) // RECORD_ALIGNMENT) * RECORD_ALIGNMENT
    record = (size - 4).to_bytes(4, "little") + body.ljust(size - 4, b"\0")
    return np.frombuffer(record, np.uint8)


def _words(values: Rows) -> Buffer:
    """Values as the bytes of 32-bit words: uint8[n, 4]."""
    words: Buffer = values.astype(UINT32).view(np.uint8).reshape(len(values), 4)
    return words
