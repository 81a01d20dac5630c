"""Writes ZIP archives of signed-off cases, for training with other programs."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import NotFoundError, StorageError
from medsam2_atlas.base.scratch import scratch_file
from server.paths import without_paths

log = logging.getLogger(__name__)


def dataset_archive(name: str, pairs: Mapping[str, tuple[Path, Path]], about: Mapping[str, Any]) -> Path:
    """Writes cases to a temporary ZIP file, as `write_archive` does; the caller removes the file.

    Args:
        name: name of the studies, for error messages.
        pairs: image and label map of each case, by study.
        about: content of `metadata.json`.

    Raises:
        NotFoundError: there is no case, or none can be read.
        StorageError: the archive cannot be written.
    """
    if not pairs:
        raise NotFoundError(name, "has no signed-off label maps yet.", "Sign off a case first.")
    archive = scratch_file(".zip")
    try:
        left_out = write_archive(archive, pairs, about)
    except OSError as error:
        archive.unlink(missing_ok=True)
        raise StorageError("archive", f"cannot be written ({error}).", "Free some space on the server.") from error
    except BaseException:
        archive.unlink(missing_ok=True)
        raise
    if len(left_out) == len(pairs):
        archive.unlink(missing_ok=True)
        raise NotFoundError(name, f"has no case that can be read: {'; '.join(left_out.values())[:2000]}")
    return archive


def write_archive(archive: Path, pairs: Mapping[str, tuple[Path, Path]], about: Mapping[str, Any]) -> dict[str, str]:
    """Writes a ZIP file with images in `image/`, label maps in `label/`, and `metadata.json`.

    Args:
        archive: file to write.
        pairs: image and label map of each case, by study.
        about: content of `metadata.json`, to which the studies that are left out are added as `left_out`.

    Returns:
        The reasons why studies were left out, by study: one of their files cannot be read.

    Raises:
        OSError: the archive cannot be written.
    """
    left_out: dict[str, str] = {}
    with zipfile.ZipFile(archive, "w") as stream:
        for study, files in pairs.items():
            try:
                for file in files:
                    file.open("rb").close()
            except OSError as error:
                left_out[study] = str(error)
                log.warning("%s is left out of the archive: %s", study, error)
                continue
            for kind, file in zip(("image", "label"), files, strict=True):
                stream.write(file, f"{kind}/{file.name}")
        metadata = json.dumps({**about, "left_out": left_out}, indent=2, default=str)
        stream.writestr("metadata.json", without_paths(metadata))  # clients must not see the server's paths
    return left_out
