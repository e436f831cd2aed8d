"""Tables hold columns of equal length behind a null row, and row views read them live."""

from __future__ import annotations

import numpy as np
import pytest

from jitlink.columns import ColumnDeclaration, Row, Table, column
from jitlink.graph import TABLES, Blocks, Edges, Groups, Sections, Symbols


class Town(Row):
    __slots__ = ()

    @property
    def people(self) -> int:
        return int(self.read("people"))


class Towns(Table[Town]):
    """A small table of our own."""

    people = column("uint64", unit="person", doc="who live there")
    county = column("int64", refers="counties", doc="county of the town")

    def view(self, row: int) -> Town:
        return Town(self, row)


def towns(*people: int) -> Towns:
    table = Towns()
    table.append(len(people), people=people)
    return table


def test_a_new_table_holds_the_null_row_alone() -> None:
    """Row 0 is there from the start and is neutral: all columns are zero."""
    table = Towns()
    assert len(table) == 1
    assert (table.people[0], table.county[0]) == (0, 0)
    assert list(table) == []


def test_columns_have_their_declared_types() -> None:
    """A column keeps its dtype through append and fill, whatever it is given."""
    table = towns(5, 2**63)
    assert table.people.dtype == np.uint64
    assert table.people.tolist() == [0, 5, 2**63]
    table.fill(people=np.array([0, 1], np.int32))
    assert table.people.dtype == np.uint64


def test_append_returns_the_new_rows_and_spreads_one_value_over_them() -> None:
    """append takes an array or one value for a column, and zero for a column that is not given."""
    table = towns(7)
    assert table.append(3, people=[1, 2, 3], county=9).tolist() == [2, 3, 4]
    assert table.people.tolist() == [0, 7, 1, 2, 3]
    assert table.county.tolist() == [0, 0, 9, 9, 9]
    assert table.append(0).tolist() == []


def test_fill_replaces_every_column() -> None:
    """fill takes whole columns; what is not given is all zero, not what was there before."""
    table = towns(1, 2, 3)
    table.append(1, county=4)
    table.fill(people=np.array([0, 8], np.uint64))
    assert len(table) == 2
    assert table.county.tolist() == [0, 0]


def test_a_view_reads_the_columns_live() -> None:
    """A view holds no values: a change of the column shows, and values are Python's own."""
    table = towns(10)
    view = table[1]
    table.people[1] = 11
    assert view.people == 11
    assert type(view.read("people")) is int


def test_rows_are_counted_from_both_ends_and_iterated_without_the_null_row() -> None:
    """Indexing follows Python's sequences; iteration leaves the null row out."""
    table = towns(10, 20)
    assert table[-1].people == 20
    assert [town.people for town in table] == [10, 20]
    for row in (3, -4):
        with pytest.raises(IndexError, match="<towns: 2 rows>"):
            table[row]


def test_views_of_one_row_are_equal() -> None:
    """Two views are equal and hash alike when they show the same row of the same table."""
    table = towns(1, 1)
    assert table[1] == table[1]
    assert len({table[1], table[1], table[2]}) == 2
    assert table[1] != table[2]
    assert table[1] != towns(1, 1)[1]


def test_a_stale_view_says_which_pass_moved_it() -> None:
    """After rows have moved, an old view refuses to read, and names the pass; a new view reads."""
    table = towns(1, 2, 3)
    view = table[3]
    table.take(np.array([0, 3]), "census")
    with pytest.raises(RuntimeError, match="census"):
        view.read("people")
    assert table[1].people == 3


def test_growing_a_table_leaves_views_valid() -> None:
    """append moves no row, so a view from before still reads."""
    table = towns(1)
    view = table[1]
    table.append(100)
    assert view.people == 1


@pytest.mark.parametrize("table", [Sections, Blocks, Symbols, Edges, Groups], ids=lambda table: table.__name__)
def test_every_column_says_what_it_means(table: type[Table[Row]]) -> None:
    """The declaration is the schema: each column has a meaning, and refers only to tables that exist."""
    for name, declared in table.declarations.items():
        assert isinstance(declared, ColumnDeclaration)
        assert declared.name == name
        assert declared.doc
        assert declared.refers in ("", *TABLES)
        assert getattr(table, name) is declared


def test_a_column_that_a_table_does_not_hold_is_an_attribute_error() -> None:
    """A table that was not initialised has no arrays, and says so in terms of the table."""
    with pytest.raises(AttributeError, match="Towns holds no column people"):
        Towns.__new__(Towns).people  # noqa: B018
