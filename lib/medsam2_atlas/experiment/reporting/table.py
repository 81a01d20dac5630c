"""A table of an experiment, independent of the format that it is written in.

`accuracy`, `paired_table` and `cost_table` make tables; `markdown`, `latex` and `html_table` write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: the text, not escaped; empty without a value.
        value: the number to sort by; None: the text is the value.
        best: whether the value is the best of its group in its row.
    """

    text: str = ""
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: the title, not escaped.
        group: title of the neighbouring columns that belong together; empty: none.
        published: whether the column contains published figures, which writers set apart.
    """

    title: str
    group: str = ""
    published: bool = False


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        title: the title, not escaped.
        cells: one cell per column.
        summary: whether the row summarises the rows above; it stays at the end when the table is sorted.
    """

    title: str
    cells: tuple[Cell, ...]
    summary: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what the table shows, in a few words.
        caption: one or more sentences: values, cases and rules.
        head: title of the rows' titles.
        columns: the columns; columns of a group stand side by side.
        rows: the rows; summaries come last.
        notes: remarks below the table.

    Raises:
        ValueError: if a row has another number of cells than the table has columns, or a row follows a summary.
    """

    title: str
    caption: str
    head: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(len(row.cells) != len(self.columns) for row in self.rows):
            raise ValueError("each row needs one cell per column")
        if [row.summary for row in self.rows] != sorted(row.summary for row in self.rows):
            raise ValueError("summaries must be the last rows")

    @property
    def body(self) -> tuple[Row, ...]:
        """The rows without summaries."""
        return tuple(row for row in self.rows if not row.summary)

    @property
    def summaries(self) -> tuple[Row, ...]:
        """The summaries."""
        return tuple(row for row in self.rows if row.summary)

    def groups(self) -> Iterator[tuple[str, int]]:
        """Returns title and number of columns of each group of neighbouring columns, from left to right."""
        for title, columns in groupby(self.columns, key=lambda column: column.group):
            yield title, len(list(columns))
