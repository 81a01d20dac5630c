"""DICOM series."""

from __future__ import annotations

from pathlib import Path

from files.kind import Writer, image
from series_files import Change, write_series


def series(change: Change | None = None) -> Writer:
    """A folder of single-frame files; `change` alters each dataset, given its number, before it is saved."""

    def write(folder: Path) -> Path:
        write_series(folder, image(), change)
        return folder

    return write
