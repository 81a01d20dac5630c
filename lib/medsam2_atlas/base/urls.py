"""Distinguishes URLs of servers from paths of folders."""

from __future__ import annotations

from pathlib import Path


def is_url(studies: str | Path) -> bool:
    """Returns whether the location of studies is the URL of a server (`http` or `https`) rather than a folder."""
    return str(studies).startswith(("http://", "https://"))
