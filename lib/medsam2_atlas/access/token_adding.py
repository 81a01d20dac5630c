"""Adds people to a token file."""

from __future__ import annotations

import json
import os
import secrets
from datetime import date, datetime, timezone
from pathlib import Path

from medsam2_atlas.access.token_entries import digest_of, read_tokens, shown_name
from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.base.files import replacing

_BYTES = 32


def add_person(file: Path, name: str, role: str, expires: str = "") -> str:
    """Adds a person to a token file; creates the file if it is missing.

    The file stores only the checksum of the token. Its mode stays; a new file is readable by its owner only (0600).

    Args:
        file: the token file.
        name: the name of the person.
        role: one of `ROLES`.
        expires: the last day of the token (UTC), such as 2027-01-31; empty if it never expires.

    Returns:
        The token, which is not stored.

    Raises:
        InputError: the file cannot be used or already contains the name, or an argument is not valid.
        StorageError: the file cannot be written.
    """
    if not shown_name(name):
        raise InputError(repr(name), "is not a name.", "Give the name of the person.")
    _check_end(expires)
    file = file.resolve()
    present = read_tokens(file) if file.exists() else {}
    if name in {person.name for person in present.values()}:
        raise InputError(file, f"already contains {name}.", "Remove that line first, or choose another name.")
    token = secrets.token_urlsafe(_BYTES)
    end = f", expires: {json.dumps(expires)}" if expires else ""
    line = f"- {{name: {json.dumps(name, ensure_ascii=False)}, role: {role}, sha256: {digest_of(token)}{end}}}\n"
    try:
        text = file.read_text(encoding="utf-8") if present else ""
        with replacing(file) as part:
            _write(part, f"{text.rstrip()}\n{line}".lstrip(), file)
            try:
                added = read_tokens(part)
            except InputError as error:  # it names the temporary file
                raise InputError(file, error.problem, error.remedy) from None
            if len(added) != len(present) + 1:
                remedy = f"Add the line yourself: {line.strip()}"
                raise InputError(file, "has a layout to which no line can be appended.", remedy)
    except OSError as error:
        raise StorageError(
            file, f"cannot be written ({error.strerror}).", "Run this as its owner, on a disk that can be written."
        ) from error
    return token


def _check_end(expires: str) -> None:
    """Checks the last day of a token, so that nobody gets a token that has already expired.

    Raises:
        InputError: the text is not a date, or the day has passed.
    """
    if not expires:
        return
    try:
        end = date.fromisoformat(expires)
    except ValueError as error:
        raise InputError(repr(expires), "is not a date.", "Write the last day (UTC) as in 2027-01-31.") from error
    if end < datetime.now(timezone.utc).date():
        raise InputError(expires, "has passed, so the token would not work.", "Give a later day.")


def _write(part: Path, text: str, like: Path) -> None:
    """Writes a file with the owner, group and mode of another file; if that is missing, for its owner only."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        if like.exists():
            about = like.stat()
            if about.st_uid != os.getuid() or about.st_gid != os.getgid():
                os.fchown(descriptor, about.st_uid if os.getuid() == 0 else -1, about.st_gid)
            os.fchmod(descriptor, about.st_mode & 0o777)
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
