"""What clients send: files in a safe place, and JSON that is what it should be."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from medsam2_atlas.errors import InputError, StorageError


def received(upload: UploadFile, suffix: str) -> Path:
    """An upload as a temporary file with a name of our own; who asked removes it.

    Raises:
        StorageError: no room.
    """
    with tempfile.NamedTemporaryFile(prefix="medsam2_atlas-", suffix=suffix, delete=False) as stream:
        try:
            shutil.copyfileobj(upload.file, stream, 1 << 20)
        except OSError as error:
            Path(stream.name).unlink()
            raise StorageError("upload", f"cannot be kept ({error}).", "Free some space on the server.") from error
    return Path(stream.name)


def json_object(text: str) -> dict[str, Any]:
    """A form field that holds a JSON object; an empty one for an empty field.

    Raises:
        InputError: something else.
    """
    try:
        content = json.loads(text or "{}")
    except ValueError as error:
        raise InputError("params", f"is not JSON ({error}).", "Send an object, such as {}.") from error
    if not isinstance(content, dict):
        raise InputError("params", "is not a JSON object.", "Send an object, such as {}.")
    return content
