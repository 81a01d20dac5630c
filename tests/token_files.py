"""Writes token files: the tokens are long enough, and other users may not read the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def token_of(name: str) -> str:
    """Returns the token of a person."""
    return f"token-of-{name}-".ljust(43, "x")


def bearer(token: str) -> dict[str, str]:
    """Returns the header that sends a token."""
    return {"Authorization": f"Bearer {token}"}


def write_tokens(file: Path, text: str) -> Path:
    """Writes a token file that its owner and group may read."""
    file.touch(0o640)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o640)
    return file


def tokens_for(file: Path, people: Mapping[str, str]) -> Path:
    """Writes a file with people and their roles."""
    return write_tokens(file, "".join(f"- {{name: {n}, role: {r}, token: {token_of(n)}}}\n" for n, r in people.items()))
