"""What a relocation kind says: formulas, fields and checks, against plain Python integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitlink.arches import architecture
from jitlink.fields import NO_FIELD, WORD8, WORD16, WORD32, WORD64, Field, bits
from jitlink.formulas import (
    ANY_VALUE,
    GOT,
    NOTHING,
    A,
    Check,
    G,
    Kind,
    KindTable,
    P,
    S,
    Through,
    either,
    page,
    signed,
    unsigned,
)

LETTERS = sorted(frozenset().union(*(kind.value.letters for kind in architecture("x86_64").kinds)))
UINT64 = st.integers(0, 2**64 - 1)
WORDS = (WORD8, WORD16, WORD32, WORD64)


def bad(check: Check, *values: int) -> list[bool]:
    """Which values a check refuses, given as integers of either sign."""
    found = check.bad(np.array([value % 2**64 for value in values], np.uint64))
    return [False] * len(values) if found is None else found.tolist()


def test_a_formula_prints_as_the_abi_prints_it() -> None:
    """The text of a formula is the ABI's, in the order in which it was written."""
    assert str(G + GOT + A - P) == "G + GOT + A - P"
    assert str(GOT - P + A) == "GOT - P + A"
    assert (S + A - P).letters == {"S", "A", "P"}
    assert str(NOTHING) == "none"


@pytest.mark.parametrize(
    "kind", [kind for kind in architecture("x86_64").kinds if kind.applied], ids=lambda kind: kind.name
)
@given(values=st.fixed_dictionaries(dict.fromkeys(LETTERS, UINT64)))
def test_a_formula_computes_what_it_prints(kind: Kind, values: dict[str, int]) -> None:
    """Evaluating the columns gives what Python makes of the printed text, modulo 2**64."""
    columns = {name: np.array([value], np.uint64) for name, value in values.items()}
    with np.errstate(over="ignore"):
        computed = int(kind.value.of(columns)[0])
    assert computed == eval(str(kind.value), {}, values) % 2**64


@pytest.mark.parametrize("bits", [8, 16, 32, 33, 63])
def test_signed_allows_what_twos_complement_holds(bits: int) -> None:
    """[-2**(n-1), 2**(n-1)): both ends are in, one step further is out."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    assert bad(signed(bits), low - 1, low, -1, 0, high - 1, high) == [True, False, False, False, False, True]


@pytest.mark.parametrize("bits", [8, 16, 32, 63])
def test_unsigned_allows_what_has_no_sign(bits: int) -> None:
    """[0, 2**n): a negative value is not the large one that it would be as an unsigned word."""
    assert bad(unsigned(bits), -1, 0, 2**bits - 1, 2**bits) == [True, False, False, True]


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_either_allows_both_readings(bits: int) -> None:
    """[-2**(n-1), 2**n): what fits the field with or without a sign."""
    low, high = -(2 ** (bits - 1)), 2**bits
    assert bad(either(bits), low - 1, low, -1, high - 1, high) == [True, False, False, False, True]


def test_an_open_check_refuses_nothing() -> None:
    """A field of 64 bits holds every value."""
    assert bad(ANY_VALUE, 0, 2**64 - 1, -(2**63)) == [False, False, False]
    assert ANY_VALUE.bad(np.array([1], np.uint64)) is None


def test_an_alignment_is_checked_beside_the_interval() -> None:
    """A value in range that is no multiple is refused, negative ones as well."""
    assert bad(signed(28, align=4), 0, 4, -4, 2, -2, 2**27 - 4, 2**27) == [False, False, False, True, True, False, True]
    assert bad(Check(0, 0, align=8), 8, 12) == [False, True]


@given(st.sampled_from([signed(8), signed(16), signed(32), unsigned(32), either(16), signed(28, align=4)]), UINT64)
def test_a_check_is_its_interval(check: Check, value: int) -> None:
    """For every value, refused means outside of [low, high) or misaligned, read with the check's sign."""
    fits = any(
        check.low <= reading < check.high for reading in {value, value - 2**64} if reading < 2**63 or check.low >= 0
    )
    assert bad(check, value) == [not fits or value % check.align != 0]


@pytest.mark.parametrize(
    ("check", "value", "rule"),
    [
        (signed(32), 2**31, "is outside [-0x80000000, 0x80000000)"),
        (unsigned(32), 2**32, "is outside [0x0, 0x100000000)"),
        (signed(28, align=4), 6, "is not a multiple of 4"),
    ],
)
def test_a_broken_rule_is_named(check: Check, value: int, rule: str) -> None:
    """The text says which part of the check the value breaks."""
    assert check.rule(value) == rule


def test_a_check_prints_as_an_interval() -> None:
    """What the inspector and the documentation show."""
    assert str(signed(32)) == "[-2**31, 2**31)"
    assert str(unsigned(32)) == "[0, 2**32)"
    assert str(either(8)) == "[-2**7, 2**8)"
    assert str(signed(28, align=4)) == "[-2**27, 2**27), multiple of 4"
    assert str(ANY_VALUE) == "no check"


def test_a_value_is_read_with_the_sign_of_its_check() -> None:
    """A negative distance reads as one; an address reads as an address."""
    high = np.uint64(2**64 - 4)
    assert signed(32).readable(high) == -4
    assert unsigned(32).readable(high) == 2**64 - 4


@pytest.mark.parametrize("field", WORDS, ids=str)
@given(st.lists(UINT64, min_size=1, max_size=4))
def test_a_field_is_written_where_it_is_and_nowhere_else(field: Field, values: list[int]) -> None:
    """The low bytes of each value, little-endian, at any byte; every other byte keeps its content."""
    buffer = np.arange(60, dtype=np.uint8)
    expected = bytearray(buffer.tobytes())
    positions = np.array([1 + 13 * row for row in range(len(values))])
    for at, value in zip(positions.tolist(), values, strict=True):
        expected[at : at + field.size] = value.to_bytes(8, "little")[: field.size]
    field.store(buffer, positions, np.array(values, np.uint64))
    assert buffer.tobytes() == bytes(expected)


@pytest.mark.parametrize("field", WORDS, ids=str)
@given(st.binary(min_size=11, max_size=11))
def test_a_field_is_read_back_with_its_sign(field: Field, content: bytes) -> None:
    """The addend of a REL relocation is the field's content, sign-extended (gABI, Relocation)."""
    positions = np.array([0, 3])
    expected = [int.from_bytes(content[at : at + field.size], "little", signed=True) for at in (0, 3)]
    assert field.load(np.frombuffer(content, np.uint8), positions).tolist() == expected


def test_fields_print_as_the_abi_prints_them() -> None:
    """word8 to word64; the field of a kind that writes nothing is none (psABI, table 4.9)."""
    assert [str(field) for field in (*WORDS, NO_FIELD)] == ["word8", "word16", "word32", "word64", "none"]


def test_a_kind_table_finds_kinds_by_name_and_number() -> None:
    """Rows are found by ABI name and by ELF number; a number that nobody has gives an unsupported row."""
    table = KindTable(
        [
            Kind("NONE", 0),
            Kind("SEVEN", 7, S + A, WORD32, signed(32)),
            Kind("TWO", 2, reason="because"),
            Kind("made by relaxation", -1, S + A - P, WORD8, through=Through.DIRECT),
        ]
    )
    assert table.rows_of_numbers("elf", np.array([0, 2, 7])).tolist() == [0, 2, 1]
    assert not table.supported[table.rows_of_numbers("elf", np.array([1, 3, 4, 5, 6, 1 << 40]))].any()
    assert [table[table.by_name[name]].number for name in ("SEVEN", "TWO")] == [7, 2]
    assert table.size.tolist() == [0, 4, 0, 1]
    assert table.supported.tolist() == [True, True, False, True]
    assert table.applied.tolist() == [False, True, False, True]
    assert len(table) == 4


def test_no_two_kinds_share_a_name_or_a_number() -> None:
    """In the table of x86-64, a name and an ELF number mean one kind each."""
    kinds = list(architecture("x86_64").kinds)
    numbers = [kind.number for kind in kinds if kind.number >= 0 and kind.format == "elf"]
    assert len(set(numbers)) == len(numbers)
    assert len({kind.name for kind in kinds}) == len(kinds)


@given(st.integers(-(2**20), 2**20 - 1), st.integers(0, 2**32 - 1))
def test_a_bit_field_scatters_a_value_and_leaves_the_rest_of_the_word(value: int, before: int) -> None:
    """The immediate of ADR (AAELF64 5.7.6; Arm ARM C6.2.10): immlo is bits 1:0 at 30:29, immhi the rest at 23:5."""
    image = np.frombuffer(before.to_bytes(4, "little"), np.uint8).copy()
    field, place = bits((0, 2, 29), (2, 19, 5)), np.zeros(1, np.int64)
    field.store(image, place, np.array([value % 2**64], np.uint64))
    word = int.from_bytes(image.tobytes(), "little")
    assert word >> 29 & 3 == value & 3
    assert word >> 5 & (1 << 19) - 1 == value >> 2 & (1 << 19) - 1
    untouched = 0x9F00001F
    assert word & untouched == before & untouched
    assert field.load(image, place).tolist() == [value]


def test_page_clears_twelve_bits() -> None:
    """Page(expr) is expr & ~0xFFF (AAELF64 5.7)."""
    letters = {"S": np.array([0x12345FFF, 0xFFF], np.uint64), "A": np.array([1, 0], np.uint64)}
    assert page(S + A).of(letters).tolist() == [0x12346000, 0]
    assert str(page(S + A) - page(P)) == "Page(S + A) - Page(P)"
