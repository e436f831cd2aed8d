"""Reading .BTF.ext: what the compiler says about single instructions.

    func_info       which function, with which type, begins at an instruction
    line_info       the source line of an instruction, with its text
    core_relo       where the program depends on the layout of a type (CO-RE)

Each part is a list of groups, one for each section of code, and a group is a list of records that
share a size given once for the part: a newer compiler may write longer records, of which we read the
beginning. Names are offsets into the strings of .BTF.

A line table answers which line an instruction belongs to: that of the last record at or before it.

Source: Documentation/bpf/btf.rst, "The .BTF.ext section".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.bpf.btf_types import Btf
from jitlink.columns.rows import Rows
from jitlink.errors import MalformedInput, UnsupportedInput

MAGIC = 0xEB9F
HEADER_SIZE = 24
HEADER_SIZE_WITH_CORE = 32
INSTRUCTION_SIZE = 8

FUNCTION_WORDS = ("offset", "type")
LINE_WORDS = ("offset", "file", "text", "place")
CORE_WORDS = ("offset", "type", "access", "kind")

Records = dict[str, npt.NDArray[np.uint32]]


@dataclass(frozen=True)
class Line:
    """A place in the source: file, line and column (both from 1, 0 when unknown), and the text."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"
        return f"{place}: {self.text.strip()}" if self.text.strip() else place


class LineTable:
    """The source lines of a run of instructions.

    Columns, sorted by instruction: instruction (int64, in 8-byte slots), file and text (numbers of
    strings), line, column. An instruction belongs to the last row at or before it.
    """

    def __init__(
        self,
        instruction: Rows,
        file: Rows,
        text: Rows,
        line: Rows,
        column: Rows,
        strings: list[str],
    ) -> None:
        order = instruction.argsort(kind="stable")
        self.instruction, self.file, self.text = instruction[order], file[order], text[order]
        self.line, self.column = line[order], column[order]
        self.strings = strings

    @classmethod
    def empty(cls) -> LineTable:
        """Make a table that knows no line."""
        none = np.empty(0, np.int64)
        return cls(none, none, none, none, none, [])

    def __len__(self) -> int:
        return len(self.instruction)

    def __call__(self, instruction: int) -> Line | None:
        """Give the line of an instruction, None before the first record."""
        row = int(self.instruction.searchsorted(instruction, "right")) - 1
        return self.row(row) if row >= 0 else None

    def row(self, row: int) -> Line:
        """Give the line of one row of the table."""
        file, text = self.strings[self.file[row]], self.strings[self.text[row]]
        return Line(file, int(self.line[row]), int(self.column[row]), text)

    def rows_for(self, count: int) -> Rows:
        """Find the row of each of the first count instructions, -1 where there is none. Returns int64[count]."""
        return self.instruction.searchsorted(np.arange(count), "right").astype(np.int64) - 1

    def lines(self, count: int) -> list[Line | None]:
        """Give the lines of the first count instructions, one Line object for each row."""
        made = [self.row(row) for row in range(len(self))]
        return [made[row] if row >= 0 else None for row in self.rows_for(count).tolist()]

    def part(self, first: int, count: int) -> LineTable:
        """Cut out the lines of count instructions from first on, which become instruction 0, 1, ..."""
        inside = (self.instruction >= first) & (self.instruction < first + count)
        before = int(self.instruction.searchsorted(first, "right")) - 1
        rows = np.flatnonzero(inside)
        if before >= 0 and not (len(rows) and self.instruction[rows[0]] == first):
            rows = np.concatenate((np.array([before]), rows))
        return self._rows(rows, np.maximum(self.instruction[rows], first) - first)

    def moved(self, by: int) -> LineTable:
        """Make the same table for instructions that were placed by slots later."""
        return self._rows(np.arange(len(self)), self.instruction + by)

    def _rows(self, rows: Rows, instruction: Rows) -> LineTable:
        file, text, line, column = self.file[rows], self.text[rows], self.line[rows], self.column[rows]
        return LineTable(instruction, file, text, line, column, self.strings)

    @classmethod
    def joined(cls, tables: Iterable[LineTable]) -> LineTable:
        """Make one table of several whose instructions have been moved to their final places."""
        tables = list(tables) or [cls.empty()]
        strings: list[str] = []
        files, texts = [], []
        for table in tables:
            files.append(table.file + len(strings))
            texts.append(table.text + len(strings))
            strings += table.strings
        rest = [
            np.concatenate([getattr(table, name) for table in tables]) for name in ("instruction", "line", "column")
        ]
        return cls(rest[0], np.concatenate(files), np.concatenate(texts), rest[1], rest[2], strings)


@dataclass(frozen=True)
class CoreRecord:
    """One CO-RE relocation as the compiler wrote it.

    offset: bytes from the start of the section; type: the local type at the root of the access;
    access: the access string, such as "0:1:3"; kind: the number of a CoreKind.
    """

    offset: int
    type: int
    access: str
    kind: int


class BtfExt:
    """The parts of .BTF.ext, by name of the section whose instructions they describe."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.functions: dict[str, Records] = {}
        self._lines: dict[str, Records] = {}
        self._core: dict[str, Records] = {}

    def function_types(self, section: str) -> dict[int, int]:
        """Give the FUNC type of each function of a section, by its offset in bytes."""
        records = self.functions.get(section)
        if records is None:
            return {}
        return dict(zip(records["offset"].tolist(), records["type"].tolist(), strict=True))

    def line_table(self, section: str) -> LineTable:
        """Give the line table of a section, empty when there is none."""
        records = self._lines.get(section)
        if records is None:
            return LineTable.empty()
        both = np.concatenate((records["file"], records["text"]))
        offsets, position = np.unique(both, return_inverse=True)
        count = len(records["file"])
        return LineTable(
            records["offset"].astype(np.int64) // INSTRUCTION_SIZE,
            position[:count],
            position[count:],
            (records["place"] >> 10).astype(np.int64),
            (records["place"] & 0x3FF).astype(np.int64),
            [self.btf.string(offset) for offset in offsets.tolist()],
        )

    def core_relocations(self, section: str) -> list[CoreRecord]:
        """Give the CO-RE relocations of a section, in order."""
        records = self._core.get(section)
        if records is None:
            return []
        columns = zip(*(records[word].tolist() for word in CORE_WORDS), strict=True)
        return [CoreRecord(offset, type, self.btf.string(access), kind) for offset, type, access, kind in columns]

    @property
    def sections(self) -> list[str]:
        """The sections that any part speaks of."""
        return list({**self.functions, **self._lines, **self._core})


def parse_ext(data: bytes | bytearray | memoryview, btf: Btf) -> BtfExt:
    """Read .BTF.ext; btf is the .BTF of the same object, which holds the strings.

    Raises MalformedInput when parts lie outside the section, records are shorter than their fields, or
    refer to strings or types that there are not; UnsupportedInput for another version.
    """
    data = bytes(data)
    prefix = "<" if btf.byte_order == "little" else ">"
    if len(data) < HEADER_SIZE:
        raise _malformed(f"{len(data)} bytes are too few for a header of {HEADER_SIZE} bytes")
    magic, version, flags, length = struct.unpack_from(prefix + "HBBI", data)
    if magic != MAGIC:
        raise _malformed(f"it starts with {data[:2].hex()}, not with the magic number of its BTF", offset=0)
    if version != 1 or flags:
        raise UnsupportedInput(f".BTF.ext of version {version} with flags {flags:#x}, we know version 1")
    if not HEADER_SIZE <= length <= len(data):
        raise _malformed(f"the header says that it is {length} bytes long")
    parts = 3 if length >= HEADER_SIZE_WITH_CORE else 2
    places = struct.unpack_from(f"{prefix}{2 * parts}I", data, 8)
    ext = BtfExt(btf)
    words: tuple[tuple[str, ...], ...] = (FUNCTION_WORDS, LINE_WORDS, CORE_WORDS)
    found: list[dict[str, Records]] = [
        _groups(data, prefix, btf, length + places[2 * part], places[2 * part + 1], words[part])
        for part in range(parts)
    ]
    ext.functions, ext._lines = found[0], found[1]
    ext._core = found[2] if parts == 3 else {}
    _check_types(btf, [*ext.functions.values(), *ext._core.values()])
    _check_strings(btf, {"file": ext._lines.values(), "text": ext._lines.values(), "access": ext._core.values()})
    return ext


def _groups(data: bytes, prefix: str, btf: Btf, at: int, size: int, words: tuple[str, ...]) -> dict[str, Records]:
    """Read the groups of one part, each with columns named by words."""
    end = at + size
    if end > len(data):
        raise _malformed(f"a part of {size} bytes at {at:#x} reaches past the end at {len(data):#x}")
    if not size:
        return {}
    if size < 4:
        raise _malformed(f"a part of {size} bytes has no room for the size of its records", offset=at)
    (record_size,) = struct.unpack_from(prefix + "I", data, at)
    if record_size < 4 * len(words) or record_size % 4:
        raise _malformed(f"records of {record_size} bytes cannot hold {len(words)} words", offset=at)
    at += 4
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    while at < end:
        if at + 8 > end:
            raise _malformed("a group ends inside its header", offset=at)
        section, count = struct.unpack_from(prefix + "II", data, at)
        at += 8
        if count * record_size > end - at:
            raise _malformed(f"a group counts {count} records of {record_size} bytes, more than there are", offset=at)
        records = np.frombuffer(data, f"{prefix}u4", count * record_size // 4, at)
        parts.setdefault(btf.string(section), []).append(records.reshape(count, record_size // 4)[:, : len(words)])
        at += count * record_size
    groups = {}
    for section, pieces in parts.items():
        rows = np.concatenate(pieces).astype(np.uint32)
        if len(rows) and (rows[:, 0] % INSTRUCTION_SIZE).any():
            raise _malformed(f"a record of section {section} does not point at an instruction")
        groups[section] = {word: rows[:, number] for number, word in enumerate(words)}
    return groups


def _check_types(btf: Btf, groups: Iterable[Records]) -> None:
    for records in groups:
        if len(records["type"]) and records["type"].max() >= len(btf):
            raise _malformed(f"a record refers to type {records['type'].max()}, and there are only {len(btf) - 1}")


def _check_strings(btf: Btf, columns: Mapping[str, Iterable[Records]]) -> None:
    for word, groups in columns.items():
        for records in groups:
            if len(records[word]) and records[word].max() >= len(btf.strings):
                raise _malformed(f"the {word} of a record lies outside the string table of .BTF")


def _malformed(fault: str, offset: int | None = None) -> MalformedInput:
    return MalformedInput(fault, section=".BTF.ext", offset=offset)
