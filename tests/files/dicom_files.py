"""DICOM series."""

from __future__ import annotations

from pathlib import Path

from files.kind import Writer, image
from series_files import Change, compress, write_series


def series(change: Change | None = None) -> Writer:
    """A folder of single-frame files; `change` alters each dataset, given its number, before it is saved."""

    def write(folder: Path) -> Path:
        write_series(folder, image(), change)
        return folder

    return write


def compressed(compressor: str) -> Writer:
    """A folder of single-frame files whose pixels are compressed without loss; see `series_files.compress`."""

    def write(folder: Path) -> Path:
        for file in write_series(folder, image()):
            compress(file, compressor)
        return folder

    return write
