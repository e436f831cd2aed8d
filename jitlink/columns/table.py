"""Tables of columns, declared like a schema, and the row views that people hold.

A table is a class whose attributes are columns; each instance holds one NumPy array for each column.
Row 0 is the null row: a reference to nothing is 0, and gathering through it gives neutral values
without a mask (ELF reserves symbol 0 for the same reason).

Passes work on whole columns (`blocks.address[edges.block]`). People ask for a row (`blocks[3]`) and
get a thin view that holds the table and the row number and reads the columns when asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

from jitlink.columns.rows import Rows

LEAST_ROOM = 64
"""Rows that a table can grow by, at the least, before its columns are moved."""


class ColumnDeclaration:
    """What a column holds: its dtype, what its values mean, and the table that they refer to."""

    def __init__(self, dtype: str, *, doc: str, unit: str = "", refers: str = "", null: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        # What the null row holds. Tables without rows share this array, so nobody may write to it.
        self.empty = np.full(1, null, self.dtype)
        self.empty.flags.writeable = False
        self.doc = doc
        self.unit = unit
        self.refers = refers
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    # The array of an instance lies in its __dict__, which Python prefers to a descriptor without
    # __set__: passes read a column at the price of a plain attribute.
    @overload
    def __get__(self, table: None, owner: type) -> ColumnDeclaration: ...
    @overload
    def __get__(self, table: Table[Any], owner: type) -> npt.NDArray[Any]: ...
    def __get__(self, table: Table[Any] | None, owner: type) -> ColumnDeclaration | npt.NDArray[Any]:
        if table is None:
            return self
        raise AttributeError(f"{owner.__name__} holds no column {self.name}")


def column(dtype: str, *, doc: str, unit: str = "", refers: str = "", null: int = 0) -> Any:
    """Declare a column of a Table; typed as Any since instances hold the array itself.

    null: what the null row holds.
    """
    return ColumnDeclaration(dtype, doc=doc, unit=unit, refers=refers, null=null)


class Row:
    """One row of a table, seen as an object. Reads the columns live."""

    __slots__ = ("_moves", "row", "table")

    def __init__(self, table: Table[Any], row: int) -> None:
        self.table = table
        self.row = row
        self._moves = len(table.moves)

    def read(self, column: str) -> Any:
        """Read the value of a column in this row, as a Python value.

        Raises RuntimeError when a pass has moved the rows since this view was made.
        """
        if self._moves != len(self.table.moves):
            raise RuntimeError(f"this view is stale: {self.table.moves[-1]} moved the rows of {self.table!r}")
        return getattr(self.table, column)[self.row].item()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and other.table is self.table and other.row == self.row

    def __hash__(self) -> int:
        return hash((id(self.table), self.row))


View = TypeVar("View", bound=Row)


class Table(Generic[View]):
    """Columns of equal length whose row 0 is the null row."""

    declarations: ClassVar[dict[str, ColumnDeclaration]] = {}
    empty: ClassVar[dict[str, npt.NDArray[Any]]] = {}
    moves: list[str]
    # By column, the array with room at its end that the column is the beginning of.
    _roomy: dict[str, npt.NDArray[Any]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {name: made for name, made in vars(cls).items() if isinstance(made, ColumnDeclaration)}
        cls.declarations = {**cls.declarations, **own}
        cls.empty = {name: declared.empty for name, declared in cls.declarations.items()}

    def __init__(self) -> None:
        self.moves = []
        self._roomy = {}
        self.__dict__.update(self.empty)

    def __len__(self) -> int:
        for name in self.declarations:
            return len(self.__dict__[name])
        return 0

    def fill(self, **columns: npt.NDArray[Any]) -> Self:
        """Take whole columns, null row included; a column that is not given is all zero.

        columns: arrays of one length, of the declared dtype (a column of another dtype is converted).
        """
        rows = len(next(iter(columns.values())))
        own = self.__dict__
        for name, declared in self.declarations.items():
            given = columns.get(name)
            if given is None:
                own[name] = np.zeros(rows, declared.dtype)
            else:
                own[name] = given if given.dtype == declared.dtype else given.astype(declared.dtype)
        return self

    def append(self, count: int, **columns: Any) -> Rows:
        """Add count rows at the end; each column is given an array or one value for all of them.

        Returns int64[count], the new row numbers. A column that is not given is zero.

        The first append moves a column to where it has room to grow, and those that follow write behind
        it: a linker that adds a few rows to a hundred thousand must not copy them every time. A pass may
        put another array in the place of a column, which then has to be moved again.
        """
        own, first = self.__dict__, len(self)
        end = first + count
        for name, declared in self.declarations.items():
            roomy = self._roomy.get(name)
            if roomy is None or own[name].base is not roomy or len(roomy) < end:
                roomy = self._roomy[name] = np.empty(end + max(end >> 3, LEAST_ROOM), declared.dtype)
                roomy[:first] = own[name]
            roomy[first:end] = columns.get(name, 0)
            own[name] = roomy[:end]
        return np.arange(first, end)

    def take(self, rows: Rows, by: str) -> None:
        """Reorder or drop rows; by names the pass, for the message of a view that went stale."""
        for name in self.declarations:
            self.__dict__[name] = self.__dict__[name][rows]
        self.moves.append(by)

    def view(self, row: int) -> View:
        """Make the view of one row. Subclasses say which sort of view."""
        raise NotImplementedError

    def __getitem__(self, row: int) -> View:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {self!r}")
        return self.view(row % len(self))

    def __iter__(self) -> Iterator[View]:
        return (self.view(row) for row in range(1, len(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()}: {len(self) - 1} rows>"
