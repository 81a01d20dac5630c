"""Tells URLs of servers from paths of folders."""

from __future__ import annotations

from pathlib import Path


def is_url(studies: str | Path) -> bool:
    """Returns whether a text is a URL of a server (`http` or `https`); studies are one or a folder."""
    return str(studies).startswith(("http://", "https://"))
