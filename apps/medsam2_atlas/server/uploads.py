"""What clients send: files in a safe place, and JSON that is what it should be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.base.json_text import from_json
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.imaging.kinds import stem_of
from server.context import mention


def received(upload: UploadFile, suffix: str) -> Path:
    """An upload as a temporary file with a name of our own; who asked removes it.

    Raises:
        StorageError: no room.
    """
    mention(stem_of(upload.filename or ""))
    file = scratch_file(suffix)
    try:
        with file.open("wb") as stream:
            shutil.copyfileobj(upload.file, stream, 1 << 20)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise StorageError("upload", f"cannot be kept ({error}).", "Free some space on the server.") from error
    return file


def json_object(text: str) -> dict[str, Any]:
    """A form field that holds a JSON object; an empty one for an empty field.

    Raises:
        InputError: something else.
    """
    try:
        content = from_json(text or "{}")
    except ValueError as error:
        raise InputError("params", f"is not JSON ({error}).", "Send an object, such as {}.") from error
    if not isinstance(content, dict):
        raise InputError("params", "is not a JSON object.", "Send an object, such as {}.")
    return content
