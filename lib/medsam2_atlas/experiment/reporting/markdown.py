"""Writes a table as Markdown. Published figures are in italics, the best values in bold."""

from __future__ import annotations

import re

from medsam2_atlas.base.printable import printable
from medsam2_atlas.experiment.reporting.table import Cell, Column, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def markdown(table: Table, *, level: int = 2) -> str:
    """Returns a table with its title, caption and notes as Markdown.

    Markdown has one row of titles, so the titles of groups are omitted.

    Args:
        table: the table.
        level: level of its title, 1 to 6.
    """
    titles = [escaped(table.head), *(_title(column) for column in table.columns)]
    lines = [f"{'#' * level} {escaped(table.title)}", "", escaped(table.caption), ""]
    lines += [_line(titles), _line(["---", *("---:" for _ in table.columns)])]
    for row in table.rows:
        title = escaped(row.title)
        cells = [_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
        lines.append(_line([f"*{title}*" if row.summary else title, *cells]))
    for note in table.notes:
        lines += ["", escaped(note)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    r"""Returns a text in which no character has a meaning in Markdown.

    >>> escaped("nnunet:my_model")
    'nnunet:my\\_model'
    """
    return _SPECIAL.sub(r"\\\1", printable(text))


def _title(column: Column) -> str:
    return f"*{escaped(column.title)}*" if column.published else escaped(column.title)


def _cell(cell: Cell, column: Column) -> str:
    text = escaped(cell.text)
    if not text:
        return ""
    return f"**{text}**" if cell.best else f"*{text}*" if column.published else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
