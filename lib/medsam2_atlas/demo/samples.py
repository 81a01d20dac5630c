"""Recognises the sample data: synthetic CTs that come with the project."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.resource import resource


def is_sample(file: Path, checksum: Callable[[], str]) -> bool:
    """Returns whether a file is one of the sample CTs.

    Args:
        file: the file.
        checksum: returns its SHA-256; called only if a sample CT has the same size.

    Raises:
        OSError: the file cannot be read.
    """
    sizes, checksums = _samples()
    return file.stat().st_size in sizes and checksum() in checksums


@cache
def _samples() -> tuple[frozenset[int], frozenset[str]]:
    """Returns the sizes in bytes and the SHA-256 of the sample CTs; empty if they did not come with this installation."""
    try:
        files = [file for file in resource("sample-data").glob("*/images/*") if file.is_file()]
    except FileNotFoundError:
        files = []
    return frozenset(file.stat().st_size for file in files), frozenset(sha256(file) for file in files)
