"""Reads the table of a batch: a CSV file with a column `image` and optionally `name`, as spreadsheets save it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.batch.config import batch_config
from medsam2_atlas.batch.items import Item

_SEPARATORS = (",", ";", "\t")
"""Spreadsheets of some languages separate columns by semicolons."""


def read_table(file: Path) -> tuple[list[Item], dict[str, str]]:
    """Returns the CTs of a table, and why other rows cannot be used, by their text.

    Args:
        file: the table. Its paths are absolute, or relative to its folder.

    Raises:
        InputError: the file is no table, has no column `image`, or is too large.
    """
    if file.stat().st_size > batch_config().max_table_mb * 1e6:
        raise InputError(file, f"is larger than {batch_config().max_table_mb:g} MB.", "Split the table.")
    items, left_out = list[Item](), dict[str, str]()
    lines: dict[str, tuple[int, str]] = {}
    """The line and the name of each CT, by its path without links."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            separator = _separator(stream.readline())
            stream.seek(0)
            rows = csv.reader(stream, delimiter=separator, strict=True)
            columns = [name.strip().lower() for name in next(rows, [])]
            if columns.count("image") != 1:
                raise InputError(file, "has no column `image`.", "Name the columns in its first line: image,name.")
            for row in rows:
                values = dict(zip(columns, (text.strip() for text in row), strict=False))
                text, name = values["image"] if len(row) > columns.index("image") else "", values.get("name", "")
                if not text:
                    continue
                item = _item(file, text, name)
                if item is None:
                    left_out[text] = f"line {rows.line_num}: is neither an image file nor a folder of a series."
                    continue
                real = os.path.realpath(item.path)
                line, other = lines.setdefault(real, (rows.line_num, name))
                if line == rows.line_num:
                    items.append(item)
                elif other != name:
                    left_out[f"line {rows.line_num}"] = f"{text} is the CT of line {line} under another name."
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(file, f"is not a table ({error}).", "Save it as CSV in UTF-8, with commas.") from error
    except OSError as error:
        raise InputError(file, f"cannot be read ({error.strerror}).", "Check its permissions.") from error
    return items, left_out


def _separator(head: str) -> str:
    """Returns the character that separates the columns of a table with this first line."""
    return next((one for one in _SEPARATORS if one in head), _SEPARATORS[0])


def _item(file: Path, text: str, name: str) -> Item | None:
    if "\0" in text:
        return None
    path = file.parent / text
    try:
        if path.is_dir():
            return Item(text, "series", str(path), wished=name)
        return Item(text, "file", str(path), wished=name) if path.is_file() else None
    except (OSError, ValueError):
        return None
