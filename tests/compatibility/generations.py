"""Reads generations: packed installations of earlier versions, each with a record of its content."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from medsam2_atlas.atlas import atlas_config
from medsam2_atlas.base import resource as resources
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.prompting.confidence import confidence_config
from medsam2_atlas.registration import registration_config
from medsam2_atlas.scoremaps import fusion_config

FOLDER = Path(__file__).parent
ARCHIVE, MADE_BY, EXPECTED, MAPS = "installation.tar.xz", "made-by.json", "expected.json", "score-maps.npz"
MAPPED = "open"
"""The study whose score maps are stored in the generation."""
_CACHED: tuple[Callable[..., Any], ...] = (
    registration_config,
    fusion_config,
    atlas_config,
    organ_table,
    confidence_config,
)
_TEXTS = (".json", ".yaml", ".info")


@dataclass(frozen=True)
class Generation:
    """A generation in the folder `folder`."""

    folder: Path

    @property
    def name(self) -> str:
        """The date and commit of the version that made it."""
        return self.folder.name

    @cached_property
    def made_by(self) -> dict[str, Any]:
        """The commit, version and libraries, and `notes`: facts that are not in the files."""
        found: dict[str, Any] = json.loads((self.folder / MADE_BY).read_text(encoding="utf-8"))
        return found

    @cached_property
    def expected(self) -> dict[str, Any]:
        """The recorded content of the installation; see `facts.QUESTIONS`."""
        found: dict[str, Any] = json.loads((self.folder / EXPECTED).read_text(encoding="utf-8"))
        return found

    @cached_property
    def maps(self) -> dict[str, np.ndarray]:
        """The score maps `[z, y, x]` of the study `MAPPED`, uint8, by organ."""
        with np.load(self.folder / MAPS) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def unpack(self, target: Path, *, in_place: bool = False) -> Path:
        """Unpacks the installation's files.

        Args:
            target: folder to create.
            in_place: replace the old folder's path in texts by the new one, as if the files had never been moved.

        Returns:
            The folder.
        """
        with tarfile.open(self.folder / ARCHIVE) as archive:
            archive.extractall(target, filter="data")
        if in_place:
            for file in target.rglob("*"):
                if file.suffix in _TEXTS and file.is_file() and not file.is_symlink():
                    text = file.read_text(encoding="utf-8")
                    if self.made_by["home"] in text:
                        file.write_text(text.replace(self.made_by["home"], str(target)), encoding="utf-8")
        return target


def generations() -> list[Generation]:
    """Returns all generations, the oldest first."""
    found = [Generation(file.parent) for file in FOLDER.glob(f"*/{MADE_BY}")]
    return sorted(found, key=lambda generation: datetime.fromisoformat(generation.made_by["date"]))


@contextmanager
def in_use(home: Path, version: str, work: Path) -> Iterator[None]:
    """Runs the block with the installation's settings (merged into those of today), its model folder and its version.

    Args:
        home: files of the installation.
        version: version of the package that made it; stored predictions depend on it.
        work: a new folder for the settings.
    """
    checkout = resources._CHECKOUT
    work.mkdir(parents=True)
    for part in ("apps", "weights", "sample-data"):
        (work / part).symlink_to(checkout / part)
    shutil.copytree(checkout / "configs", work / "configs")
    shutil.copytree(home / "settings" / "configs", work / "configs", dirs_exist_ok=True)
    with (
        patch.object(resources, "_CHECKOUT", work),
        patch("medsam2_atlas.segmenters.base.package_version", lambda: version),
        patch.dict("os.environ", {"MEDSAM2_ATLAS_MODELS": str(home / "models")}),
    ):
        _forget()
        try:
            yield
        finally:
            _forget()


def differences(expected: Any, found: Any, place: str = "") -> list[str]:
    """Returns the places in which an answer differs from the expected one; additional entries do not count."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        lost = [f"{place}/{key} is missing" for key in expected if key not in found]
        return lost + [d for key in expected if key in found for d in differences(expected[key], found[key], f"{place}/{key}")]
    if isinstance(expected, list) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        return [d for n, pair in enumerate(zip(expected, found, strict=True)) for d in differences(*pair, f"{place}/{n}")]
    numbers = isinstance(expected, float) and isinstance(found, (int, float))
    same = math.isclose(expected, found, rel_tol=1e-3, abs_tol=1e-4) if numbers else expected == found
    return [] if same else [f"{place} is {found!r}, not {expected!r}"]


def _forget() -> None:
    for function in _CACHED:
        getattr(function, "cache_clear")()  # noqa: B009 - the type of a function has no such attribute
