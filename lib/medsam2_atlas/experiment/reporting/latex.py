"""Writes a table as a LaTeX fragment, in the style of `booktabs`. Published figures are in italics, the best values in bold."""

from __future__ import annotations

from medsam2_atlas.base.printable import printable
from medsam2_atlas.experiment.reporting.table import Cell, Column, Row, Table

PACKAGES = r"% Needs \usepackage{booktabs} and \usepackage{graphicx}." + "\n"
"""The first line of a file of tables."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # the straight quote depends on the font encoding
    "[": "{[}",  # at the start of a row, a bracket would be the argument of the line break before it
    "±": r"$\pm$",
    "−": "$-$",
    "≤": r"$\leq$",
    "₂": r"\textsubscript{2}",
}


def latex(table: Table) -> str:
    r"""Returns a table with caption and notes as a `table` environment.

    A table that is wider than the line is scaled down. Nothing else depends on the document that includes it.

    Args:
        table: the table.
    """
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(f'{table.title}. {table.caption}')}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"    \toprule",
        *_groups(table),
        _line([escaped(table.head), *(_title(column) for column in table.columns)]),
        r"    \midrule",
        *(_row(row, table) for row in table.body),
    ]
    if table.body and table.summaries:
        lines.append(r"    \midrule")
    lines += [*(_row(row, table) for row in table.summaries), r"    \bottomrule", r"  \end{tabular}}"]
    lines += [rf"  \par\smallskip{{\footnotesize {escaped(note)}\par}}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    r"""Returns a text in which no character has a meaning in LaTeX; other characters outside ASCII stay as they are.

    >>> escaped("my_model, 5 %")
    'my\\_model, 5 \\%'
    """
    found = "".join(_SPECIAL.get(character, character) for character in printable(text))
    return found.replace("--", "-{}-")  # two hyphens would become a dash


def _groups(table: Table) -> list[str]:
    """Returns the lines with the titles of groups and the rules below them; no lines without groups."""
    groups = list(table.groups())
    if not any(title for title, _ in groups):
        return []
    cells, rules, at = [""], [], 2
    for title, width in groups:
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(title)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    return [_line(cells), f"    {' '.join(rules)}"]


def _row(row: Row, table: Table) -> str:
    return _line([escaped(row.title), *(_cell(*pair) for pair in zip(row.cells, table.columns, strict=True))])


def _title(column: Column) -> str:
    return rf"\textit{{{escaped(column.title)}}}" if column.published else escaped(column.title)


def _cell(cell: Cell, column: Column) -> str:
    text = escaped(cell.text)
    if not text:
        return ""
    return rf"\textbf{{{text}}}" if cell.best else rf"\textit{{{text}}}" if column.published else text


def _line(cells: list[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"
