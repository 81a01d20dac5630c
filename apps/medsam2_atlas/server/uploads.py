"""Receives clients' data: stores uploaded files under safe names and checks JSON objects."""

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
    """Stores an upload as a temporary file with a name of the server's. The caller removes the file.

    Args:
        upload: the uploaded file.
        suffix: suffix of the temporary file, such as `.nii.gz`.

    Raises:
        StorageError: the file cannot be written.
    """
    mention(stem_of(upload.filename or ""))
    file = scratch_file(suffix)
    try:
        with file.open("wb") as stream:
            shutil.copyfileobj(upload.file, stream, 1 << 20)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise StorageError("upload", f"cannot be stored ({error}).", "Free some space on the server.") from error
    return file


def json_object(text: str) -> dict[str, Any]:
    """Returns the JSON object in a form field; an empty one for an empty field.

    Raises:
        InputError: the field contains anything else.

    >>> json_object('{"label": "spleen"}'), json_object("")
    ({'label': 'spleen'}, {})
    """
    try:
        content = from_json(text or "{}")
    except ValueError as error:
        raise InputError("params", f"is not JSON ({error}).", "Send an object, such as {}.") from error
    if not isinstance(content, dict):
        raise InputError("params", "is not a JSON object.", "Send an object, such as {}.")
    return content
