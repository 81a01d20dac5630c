"""The mask that an interactive request refines: an uploaded label map, or a stored version of the study's label map.

A request names only a tag and a version of its own study, never a file or another study. Whoever may run a model may also
download the study's label maps, so naming one gives access to nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import check_same_size
from medsam2_atlas.storage import FINAL, suffix_of
from server.uploads import received
from tasks.requests import GivenMask

_REMEDY = "Send the label map as part `mask`, or name the tag of one stored with the study."


def _stored(tag: str, number: int | None, study: str, datastore: StudyDatastore) -> GivenMask:
    """Returns a stored version, which never changes; the newest one if no number is given."""
    if not study:
        raise InputError("mask", "names a stored label map, but the image is not a study.", _REMEDY)
    tag = tag or FINAL
    chosen = number or datastore.store.versions(study, tag)[-1].number
    return GivenMask(datastore.store.version_file(study, tag, chosen), f"{tag}, version {chosen}")


def discard(mask: GivenMask | None) -> None:
    """Removes the file of an uploaded mask. Stored versions stay."""
    if mask is not None and mask.uploaded:
        mask.file.unlink(missing_ok=True)


def given_mask(
    upload: UploadFile | None, options: Mapping[str, Any], study: str, image: Path | None, datastore: StudyDatastore
) -> GivenMask | None:
    """Returns the mask of a request; None if it has none. The caller removes the file of an uploaded mask (`discard`).

    Args:
        upload: the part `mask` of the form.
        options: the checked parameters; `mask` is a tag, `mask_version` a version of it (the newest by default).
        study: name of the study; empty if the image is not a study.
        image: file or folder of the image.
        datastore: the datastore of the studies.

    Raises:
        InputError: the request has two masks, names a stored one for an image that is not a study, or the upload has another
            size than the image or an unsupported type.
        NotFoundError: the study has no such label map or version.
        StorageError: the upload cannot be stored, or the stored file has changed.
    """
    tag, number = str(options.get("mask") or ""), options.get("mask_version")
    if upload is None or not upload.filename:
        return _stored(tag, number, study, datastore) if tag or number else None
    if tag or number:
        raise InputError("mask", "is given twice: as a file and by its tag.", "Send only one of them.")
    file = received(upload, suffix_of(upload.filename, labels=True))
    try:
        if image is not None and image.is_file():
            check_same_size(file, image)  # this cheap check comes before a reader process
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return GivenMask(file, "upload", uploaded=True)
