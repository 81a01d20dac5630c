"""Fingerprints show whether two files contain the same image, even if one was compressed again, renamed or converted.

`.medsam2_atlas/fingerprints/SHA256.json` stores a fingerprint for each image that a label map was drawn on, so that a later
file can be compared with an image that no longer exists.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.files import sha256, text_of
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.safely import make_folder, temporary, write_safely

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """The identity of an image, independent of its file format.

    Attributes:
        voxels: a checksum of the voxel values in LPS orientation.
        grid: the grid in LPS orientation.
    """

    voxels: str
    grid: Geometry

    def matches(self, other: Fingerprint) -> bool:
        """Returns whether both belong to the same image. Grids match within a tolerance, since formats round differently."""
        return self.voxels == other.voxels and self.grid.matches(other.grid)


def fingerprint(file: Path) -> Fingerprint:
    """Returns the fingerprint of an image; a reader process decodes the file.

    Raises:
        InputError: the file cannot be read as a CT.
    """
    result, _ = run_task("fingerprint", file, path=str(file.absolute()))
    return _parsed(result)


def same_image(first: Path, second: Path) -> bool:
    """Returns whether two files contain the same voxels on the same grid.

    Raises:
        InputError: a file cannot be read.
    """
    return sha256(first) == sha256(second) or fingerprint(first).matches(fingerprint(second))


def same_image_as(file: Path, checksum: str, previous: str, known: Fingerprints) -> bool:
    """Returns whether a file contains the same image as a previous file of which only the fingerprint is known.

    This function stores nothing.

    Args:
        file: the file to compare.
        checksum: its SHA-256.
        previous: the SHA-256 of the previous file.
        known: the stored fingerprints. If the previous file's is missing, the images count as different.
    """
    before = known.known(previous)
    try:
        return before is not None and (known.known(checksum) or fingerprint(file)).matches(before)
    except MedSAM2AtlasError:
        return False


class Fingerprints:
    """The stored fingerprints, by the SHA-256 of the file.

    Args:
        work: the work folder of the studies.
    """

    def __init__(self, work: WorkFolder) -> None:
        self._work = work

    def known(self, checksum: str) -> Fingerprint | None:
        """Returns the stored fingerprint of a file with this SHA-256; None if there is none."""
        try:
            return _parsed(stored_json(text_of(self._file(checksum))))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the fingerprint %s cannot be read (%s)", checksum, error)
            return None

    def of(self, file: Path, checksum: str) -> Fingerprint:
        """Returns the fingerprint of a file. If it is unknown, decodes the file and stores the fingerprint.

        Args:
            file: the image file.
            checksum: its SHA-256.

        Raises:
            InputError: the file cannot be read as a CT.
        """
        found = self.known(checksum)
        if found is None:
            found = fingerprint(file)
            try:
                self._keep(checksum, found)
                if not file.exists():  # it was erased while it was decoded
                    self._file(checksum).unlink(missing_ok=True)
            except (OSError, MedSAM2AtlasError) as error:  # a full or read-only disk: it is computed again next time
                log.warning("the fingerprint of %s is not stored: %s", file.name, error)
        return found

    def _keep(self, checksum: str, found: Fingerprint) -> None:
        file = self._file(checksum)
        make_folder(self._work.folder(file.parent.name))
        with temporary(file.parent, ".json") as part:
            write_safely(part, json.dumps({"voxels": found.voxels, "geometry": asdict(found.grid)}) + "\n")
            os.replace(part, file)

    def _file(self, checksum: str) -> Path:
        return self._work.path / "fingerprints" / f"{checksum}.json"


def _parsed(content: dict[str, Any]) -> Fingerprint:
    return Fingerprint(str(content["voxels"]), Geometry.parse(content["geometry"]))
