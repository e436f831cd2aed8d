"""What a relocation kind says: its formula, the field it is written to, and the check on the way.

A kind is a row of a table that reads like the table in its ABI document::

    Kind("R_X86_64_PC32", 2, S + A - P, WORD32, signed(32)),

`S + A - P` is a Value: it prints as the ABI prints it and evaluates over whole columns, so what the
documentation shows and what the linker computes are the same object. The letters are those of the
x86-64 psABI (section 4.4.1) and of AAELF64, in one common meaning:

    S    address of the symbol that the edge points at
    A    addend
    P    place: address of the fixup
    G    offset of the symbol's GOT entry from the start of the GOT
    GOT  address of the GOT
    L    address of the symbol's PLT entry, or of the symbol where it needs none
    Z    size of the symbol
    B    address of the symbol of the edge behind, which is there for nothing else (Mach-O's SUBTRACTOR)
    TLS  start of the storage block of the module that has the thread-local symbol, in the terms of S
    TP   what the thread pointer points at, in the terms of S
    MODULE, RESOLVER, ARGUMENT
         number of that module; the two words of a TLS descriptor of the symbol

and those that COFF adds, where a section is a part of the image with one protection:

    ImageBase      address that relative addresses count from (__ImageBase)
    SectionStart   of the section of the image that the symbol is in; of the template, for a thread-local
    SectionNumber  of that section, from 1

and Page(x), as AAELF64 has it, is x with its low 12 bits cleared. Where bits of a value go is the
business of its field (jitlink.fields).

Arithmetic is modulo 2**64, on uint64 columns, as the ABI documents have it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jitlink.columns import Rows, as_signed
from jitlink.fields import NO_FIELD, Addresses, Field

Letters = Mapping[str, Any]


class Value:
    """A formula over the letters of the ABI documents; prints as they print it."""

    def __init__(self, text: str, letters: frozenset[str], of: Callable[[Letters], Any]) -> None:
        self.text = text
        self.letters = letters
        self.of = of

    def __add__(self, other: Value | int) -> Value:
        if isinstance(other, int):
            other = constant(other)
        left, right = self.of, other.of
        return Value(
            f"{self.text} + {other.text}", self.letters | other.letters, lambda columns: left(columns) + right(columns)
        )

    def __sub__(self, other: Value) -> Value:
        left, right = self.of, other.of
        subtracted = f"({other.text})" if " " in other.text and not other.text.startswith("Page(") else other.text
        return Value(
            f"{self.text} - {subtracted}", self.letters | other.letters, lambda columns: left(columns) - right(columns)
        )

    def __str__(self) -> str:
        return self.text


def letter(name: str) -> Value:
    """Make the formula that is one letter."""
    return Value(name, frozenset((name,)), lambda columns: columns[name])


def constant(number: int) -> Value:
    """Make the formula that is one number."""
    return Value(f"{number:#x}" if number > 9 else str(number), frozenset(), lambda columns: np.uint64(number))


def page(value: Value) -> Value:
    """Page(x) of AAELF64: the start of the 4 KiB page that an address lies in."""
    inner = value.of
    start_of_page = np.uint64(-PAGE & (1 << 64) - 1)
    return Value(f"Page({value.text})", value.letters, lambda columns: inner(columns) & start_of_page)


PAGE = 1 << 12
S, A, P, G, GOT, L, Z, B = map(letter, ("S", "A", "P", "G", "GOT", "L", "Z", "B"))
TLS, TP, MODULE, RESOLVER, ARGUMENT = map(letter, ("TLS", "TP", "MODULE", "RESOLVER", "ARGUMENT"))
LETTERS_OF_STORAGE = TLS.letters | TP.letters | MODULE.letters | RESOLVER.letters | ARGUMENT.letters
IMAGE_BASE, SECTION, SECTION_NUMBER = map(letter, ("ImageBase", "SectionStart", "SectionNumber"))
NOTHING = Value("none", frozenset(), lambda columns: None)


@dataclass(frozen=True)
class Check:
    """Which values fit: a half-open interval and an alignment; low is high where all values do."""

    low: int
    high: int
    align: int = 1

    def bad(self, values: Addresses) -> npt.NDArray[np.bool_] | None:
        """Find the values that do not fit. values: uint64[n]. Returns bool[n], or None for an open check."""
        wrong = None
        if self.low < self.high:
            # One comparison for both ends: values below low wrap around to the top.
            wrong = (values - np.uint64(self.low & (1 << 64) - 1)) >= np.uint64(self.high - self.low)
        if self.align > 1:
            misaligned = (values & np.uint64(self.align - 1)) != 0
            wrong = misaligned if wrong is None else wrong | misaligned
        return wrong

    def readable(self, value: np.uint64) -> int:
        """The value as people read it under this check: signed where the interval reaches below zero."""
        return int(as_signed(np.array([value]))[0]) if self.low < 0 else int(value)

    def rule(self, value: int) -> str:
        """Say which part of the check a value breaks."""
        if self.low < self.high and not self.low <= value < self.high:
            low = f"-{-self.low:#x}" if self.low < 0 else f"{self.low:#x}"
            return f"is outside [{low}, {self.high:#x})"
        return f"is not a multiple of {self.align}"

    def __str__(self) -> str:
        interval = "no check" if self.low >= self.high else f"[{_as_power(self.low)}, {_as_power(self.high)})"
        return f"{interval}, multiple of {self.align}" if self.align > 1 else interval


def _as_power(bound: int) -> str:
    """A bound as people think of it: 2**31, or 2**31 - 2**11 where another power is taken off."""
    if not bound:
        return "0"
    size = abs(bound)
    power = 1 << (size - 1).bit_length()
    # What lies a little above a power is written as the power and the rest, as in -2**31 - 2**11.
    nearest = power if power - size < size - (power >> 1) else power >> 1
    text = f"{'-' if bound < 0 else ''}2**{nearest.bit_length() - 1}"
    rest = bound - (nearest if bound > 0 else -nearest)
    return f"{text} {'-' if rest < 0 else '+'} {_as_power(abs(rest))}" if rest else text


def signed(bits: int, align: int = 1) -> Check:
    """Allow what a two's complement field of that many bits can hold."""
    return Check(-(1 << bits - 1), 1 << bits - 1, align)


def unsigned(bits: int, align: int = 1) -> Check:
    """Allow what an unsigned field of that many bits can hold."""
    return Check(0, 1 << bits, align)


def either(bits: int) -> Check:
    """Allow what fits the field read either way, since the ABI does not say which it is."""
    return Check(-(1 << bits - 1), 1 << bits)


ANY_VALUE = Check(0, 0)


class Through(enum.IntEnum):
    """What the target of an edge has to be turned into before the formula can be computed."""

    DIRECT = 0
    BRANCH = 1
    """The symbol, or a stub that jumps to it where the symbol is out of reach."""
    GOT_ENTRY = 2
    """The symbol's GOT entry."""
    RELAXABLE_GOT_ENTRY = 3
    """The symbol's GOT entry, or the symbol itself if the instruction is rewritten."""


class Access(enum.IntEnum):
    """How code gets at the thread-local variable that an edge points at: the access models of the TLS ABIs."""

    NONE = 0
    GENERAL_DYNAMIC = 1
    """Calls __tls_get_addr with a GOT entry of two words: the module and the offset in its block."""
    LOCAL_DYNAMIC = 2
    """Calls it with an entry for the start of this module's own block, once for several variables."""
    BLOCK_OFFSET = 3
    """Adds the offset in the block to that."""
    DESCRIPTOR = 4
    """Calls the function in a TLS descriptor, a GOT entry of two words."""
    DESCRIPTOR_CALL = 5
    """Marks an instruction of that sequence; nothing is written."""
    INITIAL_EXEC = 6
    """Reads the distance from the thread pointer in a GOT entry."""
    LOCAL_EXEC = 7
    """Holds the distance from the thread pointer."""
    ENTRY_WORD = 8
    """A word of one of those GOT entries."""


@dataclass(frozen=True)
class Kind:
    """A relocation kind: a row of an ABI document's table.

    Attributes: name and number as the ABI document has them; value, field, check; through (what the
    target becomes first); rewrites (opcode bytes that the kind puts beside its field, as pairs of an
    offset from the field and a byte); reason (why the kind is not supported; empty if it is); source
    (the section of the ABI document); format (of the objects whose relocations have the number); access
    (of a thread-local, if it is one). The kinds that a relaxation makes have a negative number.
    """

    name: str
    number: int
    value: Value = NOTHING
    field: Field = NO_FIELD
    check: Check = ANY_VALUE
    through: Through = Through.DIRECT
    rewrites: tuple[tuple[int, int], ...] = ()
    reason: str = ""
    source: str = ""
    format: str = "elf"
    access: Access = Access.NONE

    @property
    def applied(self) -> bool:
        """Whether the kind writes anything."""
        return self.field.size > 0


def kinds_of(rows: Iterable[Kind], prefix: str, format: str, source: str) -> list[Kind]:
    """Give rows the names that a specification has for them, behind a prefix, their format and their source."""
    return [replace(row, name=f"{prefix}{row.name}", format=format, source=source) for row in rows]


class KindTable(Sequence[Kind]):
    """The kinds of an architecture, numbered by row, with columns over the rows.

    Row 0 is the kind that does nothing. Columns: size (int64[kinds], bytes of the field), through and
    access (uint8[kinds]), supported and applied (bool[kinds]). clearing is, for each size of a field up to 8, a
    kind that writes S + A to it, which is 0 without a symbol and an addend; 0 where there is none.
    """

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.rows = tuple(kinds)
        self.size = np.array([kind.field.size for kind in kinds], np.int64)
        self.through = np.array([kind.through for kind in kinds], np.uint8)
        self.access = np.array([kind.access for kind in kinds], np.uint8)
        self.supported = np.array([not kind.reason for kind in kinds])
        self.applied = np.array([kind.applied for kind in kinds])
        self.by_name = {kind.name: row for row, kind in enumerate(kinds)}
        self._unknown = next(row for row, kind in enumerate(kinds) if kind.reason)
        self.clearing = np.zeros(9, np.int64)
        for row, kind in reversed(list(enumerate(kinds))):
            if kind.value.text == "S + A" and type(kind.field) is Field and kind.through == Through.DIRECT:
                self.clearing[kind.field.size] = row
        self._by_number = {format: self._numbered(format) for format in {kind.format for kind in kinds}}

    def _numbered(self, format: str) -> Rows:
        """The row of each relocation number of a format; the last entry stands for all higher ones."""
        numbered = [(row, kind.number) for row, kind in enumerate(self.rows) if kind.format == format]
        row_of_number = np.full(max(number for _, number in numbered) + 2, self._unknown, np.int64)
        for row, number in numbered:
            if number >= 0:
                row_of_number[number] = row
        return row_of_number

    def rows_of_numbers(self, format: str, numbers: Rows) -> Rows:
        """The row of each relocation number of a format: int64[n] of int64[n].

        A row that is not supported stands for numbers that the format does not have.
        """
        row_of_number = self._by_number[format]
        rows: Rows = row_of_number[np.minimum(numbers, len(row_of_number) - 1)]
        return rows

    def __getitem__(self, row: Any) -> Any:
        return self.rows[row]

    def __len__(self) -> int:
        return len(self.rows)
