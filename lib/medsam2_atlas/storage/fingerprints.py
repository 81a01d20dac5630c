"""Tells whether two image files hold the same image, however they were written: compressed anew, renamed, converted.

A fingerprint is kept for each checksum of an image that a label map was drawn on (`.medsam2_atlas/fingerprints/SHA256.json`),
so that a later file can be compared with an image that is not there any more.
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
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.safely import make_folder, temporary, write_safely

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """An image without its file. voxels: digest of the values in LPS orientation. grid: in LPS orientation."""

    voxels: str
    grid: Geometry

    def alike(self, other: Fingerprint) -> bool:
        """Returns whether both are of one image; formats round the grid differently."""
        return self.voxels == other.voxels and self.grid.matches(other.grid)


def fingerprint(file: Path) -> Fingerprint:
    """Returns the fingerprint of an image; a reader process decodes it.

    Raises:
        InputError: it cannot be read as a CT.
    """
    told, _ = run_task("fingerprint", file, path=str(file.absolute()))
    return _parsed(told)


def same_image(first: Path, second: Path) -> bool:
    """Returns whether two files hold the same voxels on the same grid.

    Raises:
        InputError: one of them cannot be read.
    """
    return sha256(first) == sha256(second) or fingerprint(first).alike(fingerprint(second))


def same_image_as(file: Path, checksum: str, former: str, known: Fingerprints) -> bool:
    """Returns whether a file holds the image of a former one that is only known by its fingerprint; keeps nothing.

    Args:
        file: to compare.
        checksum: its SHA-256.
        former: SHA-256 of the former file.
        known: fingerprints that are kept; without the former one's, the images count as different.
    """
    before = known.known(former)
    try:
        return before is not None and (known.known(checksum) or fingerprint(file)).alike(before)
    except MedSAM2AtlasError:
        return False


class Fingerprints:
    """The kept fingerprints, by the SHA-256 of the file."""

    def __init__(self, work: WorkFolder) -> None:
        """
        Args:
            work: work folder of the studies.
        """
        self._work = work

    def known(self, checksum: str) -> Fingerprint | None:
        """Returns a kept fingerprint; None if there is none."""
        try:
            return _parsed(json.loads(text_of(self._file(checksum))))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the fingerprint %s cannot be read (%s)", checksum, error)
            return None

    def of(self, file: Path, checksum: str) -> Fingerprint:
        """Returns the fingerprint of a file that has this checksum, and keeps it; decodes the file if it is not known.

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
            except (OSError, MedSAM2AtlasError) as error:  # a full or read-only disk: it is computed again
                log.warning("the fingerprint of %s is not kept: %s", file.name, error)
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
