"""Writes a table as HTML that can be sorted by its columns. It needs no `style` attributes."""

from __future__ import annotations

import html

from medsam2_atlas.base.printable import printable
from medsam2_atlas.experiment.reporting.table import Cell, Column, Row, Table


def html_table(table: Table) -> str:
    """Returns a table with caption and notes as HTML, without its title.

    Cells with a number have the attribute `data-value`, summaries are in `<tfoot>`. Classes: `sortable` (the table),
    `published` (columns of published figures), `best` (the best values), `notes` (the remarks below).

    Args:
        table: the table.
    """
    lines = ['<table class="sortable">', f"<caption>{_text(table.caption)}</caption>", "<thead>"]
    groups = list(table.groups())
    grouped = any(title for title, _ in groups)
    rows = ' rowspan="2"' if grouped else ""
    head = f'<th scope="col"{rows}>{_text(table.head)}</th>'
    if grouped:
        titles = "".join(f'<th scope="colgroup" colspan="{width}">{_text(title)}</th>' for title, width in groups)
        lines.append(f"<tr>{head}{titles}</tr>")
        head = ""
    lines.append(f"<tr>{head}{''.join(_title(column) for column in table.columns)}</tr>")
    lines += ["</thead>", "<tbody>", *(_row(row, table) for row in table.body), "</tbody>"]
    if table.summaries:
        lines += ["<tfoot>", *(_row(row, table) for row in table.summaries), "</tfoot>"]
    lines.append("</table>")
    lines += [f'<p class="notes">{_text(note)}</p>' for note in table.notes]
    return "\n".join(lines) + "\n"


def _row(row: Row, table: Table) -> str:
    cells = "".join(_cell(*pair) for pair in zip(row.cells, table.columns, strict=True))
    return f'<tr><th scope="row">{_text(row.title)}</th>{cells}</tr>'


def _title(column: Column) -> str:
    return f'<th scope="col"{_classes(published=column.published)}>{_text(column.title)}</th>'


def _cell(cell: Cell, column: Column) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    text = _text(cell.text)
    classes = _classes(best=cell.best, published=column.published)
    return f"<td{classes}{value}>{f'<strong>{text}</strong>' if cell.best else text}</td>"


def _classes(**classes: bool) -> str:
    found = " ".join(name for name, holds in classes.items() if holds)
    return f' class="{found}"' if found else ""


def _text(text: str) -> str:
    return html.escape(printable(text))
