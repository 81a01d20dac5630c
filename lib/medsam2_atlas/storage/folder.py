"""A folder of studies as MONAI Label lays it out, and the work folder that this project keeps for it.

Images lie at its top, label maps of the same names under `labels/TAG/`: `final` for what a person signed off, a model's
name for what that model made. Everything else that is kept for the studies lies in the work folder.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.errors import InputError
from medsam2_atlas.resource import model_folder
from medsam2_atlas.volume import SUFFIXES

log = logging.getLogger(__name__)

FINAL = "final"
WORK_FOLDER = ".medsam2_atlas"


@dataclass(frozen=True)
class Study:
    """A CT of a study folder. final: its signed-off label map."""

    name: str
    image: Path
    final: Path | None = None


@dataclass(frozen=True)
class WorkFolder:
    """What is kept for a set of studies besides images and labels.

    atlas/: versions of the grown atlas. unet_2d/, unet_3d/: training runs. registrations/: of studies to common spaces.
    reports/: how each prediction was made. learning.sqlite: what the choice of the next case rests on. versions/: all
    versions of all label maps. images/: what is kept with images. studies.sqlite: index of a local folder. removed/: images
    that were removed.
    """

    path: Path

    @classmethod
    def of(cls, studies: str | Path) -> WorkFolder:
        """The work folder of a study folder, or, for a DICOMweb URL, one in the model folder."""
        if str(studies).startswith(("http://", "https://")):
            return cls(model_folder() / "studies" / hashlib.sha256(str(studies).strip().rstrip("/").encode()).hexdigest()[:16])
        return cls(Path(studies) / WORK_FOLDER)

    def folder(self, name: str) -> Path:
        """A folder in it, made where it does not exist."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class StudyFolder:
    """Studies in a local folder."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InputError: not a folder.
        """
        if not path.is_dir():
            raise InputError(path, "is not a folder.", "Name the folder that holds the CTs.")
        self.path = path
        self.work = WorkFolder.of(path)

    def studies(self) -> list[Study]:
        """All studies by name."""
        finals = self.labels(FINAL)
        return [Study(name, file, finals.get(name)) for name, file in sorted(by_name(self.path).items())]

    def labels(self, tag: str) -> dict[str, Path]:
        """Label maps of a tag by study."""
        return by_name(self.label_folder(tag))

    def label_folder(self, tag: str) -> Path:
        """Where label maps of a tag lie."""
        return self.path / "labels" / tag


def by_name(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """Image files of a folder by name without suffix; empty where there is no such folder."""
    found: dict[str, Path] = {}
    if folder.is_dir():
        for file in sorted(folder.iterdir()):
            suffix = suffix_in(file.name, suffixes)
            if not encodable(file.name):
                log.warning("%r is left out: its name is not UTF-8", file)
            elif suffix and not file.name.startswith(".") and file.is_file():
                found[file.name.removesuffix(suffix)] = file
    return found


def suffix_in(name: str, suffixes: Sequence[str] = SUFFIXES) -> str:
    """The suffix of an image file's name; empty where it has none of them."""
    return next((s for s in suffixes if name.endswith(s)), "")


def encodable(text: str) -> bool:
    """Whether a text can be a name in files and replies: names on disk may hold bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
