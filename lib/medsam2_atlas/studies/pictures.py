"""Pictures of studies, drawn once and kept in the work folder up to a limit in bytes.

The name of a picture's file is a digest of everything that it shows, so a picture never changes. Reader processes decode CTs
and label maps, and return one slice only.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medsam2_atlas.base.files import replacing
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule, examine
from medsam2_atlas.imaging.thumbnail import draw_thumbnail
from medsam2_atlas.storage import WorkFolder

_FOLDER = "pictures"
_USED_SECONDS = 3600.0
"""Age of a file's time from which a use renews it. The files that were used longest ago are removed first."""
_LESS = 0.9
"""Fraction of the limit to which files are removed, so that not every new picture removes one."""


class Pictures:
    """The pictures of a set of studies. Several threads and processes may use it."""

    def __init__(self, work: WorkFolder, max_bytes: int) -> None:
        """Reads nothing yet.

        Args:
            work: the work folder of the studies.
            max_bytes: max size of all pictures together, in bytes.
        """
        self._work, self._max_bytes = work, max_bytes

    def find(self, key: str) -> Path | None:
        """Returns the file (PNG) of the picture with a key; None if it is not drawn, or was removed."""
        file = self._file(key)
        try:
            age = time.time() - file.stat().st_mtime
        except FileNotFoundError:
            return None
        if age > _USED_SECONDS:
            with suppress(OSError):  # the disk may be read-only
                os.utime(file)
        return file

    def draw(self, key: str, image: Path, label: Path | None = None, hu: HuRule = CHECK) -> Path:
        """Draws the middle of a CT and returns the file.

        Args:
            key: a text that differs for different pictures.
            image: file or folder of the CT.
            label: file of its label map; None for none.
            hu: rule that converts the CT's values to HU. Values that it refuses are drawn unchanged.

        Raises:
            InputError: the CT or the label map cannot be read.
            OSError: the picture cannot be written.
        """
        about, slices = run_task("middle_slice", image, path=str(image), label=str(label or ""))
        return self._put(key, about, slices[0], slices[1] if label is not None else None, hu)

    def draw_object(self, key: str, file: Path, hu: HuRule = CHECK) -> Path:
        """Draws the slice in a DICOM file and returns the file of the picture; see `draw`."""
        about, slices = run_task("middle_frame", file, path=str(file))
        return self._put(key, about, slices[0], None, hu)

    def put(self, pictures: Mapping[str, Image.Image]) -> None:
        """Stores pictures by their keys; those that were used longest ago make room for them.

        Raises:
            OSError: a picture cannot be written.
        """
        new = {self._file(key): picture for key, picture in pictures.items()}
        for file, picture in new.items():
            with replacing(file) as part:
                picture.save(part, "PNG", optimize=True)
        self._make_room(frozenset(map(str, new)))

    def remove(self, key: str) -> None:
        """Removes a picture, for example because its study was erased while it was drawn."""
        self._file(key).unlink(missing_ok=True)

    def _put(self, key: str, about: Mapping[str, Any], values: np.ndarray, labels: np.ndarray | None, hu: HuRule) -> Path:
        added = hu.offset
        if hu.name == "auto":
            added -= examine(values[None], added).shift
        rows, columns = (float(distance) for distance in about["spacing"])
        self.put({key: draw_thumbnail(values + np.float32(added), (rows, columns), labels)})
        return self._file(key)

    def _make_room(self, new: frozenset[str]) -> None:
        """Removes the pictures that were used longest ago if all together exceed the limit; keeps the new ones."""
        with os.scandir(self._work.folder(_FOLDER)) as entries:
            states = [(entry.path, state) for entry in entries if (state := _state(entry)) is not None]
        total = sum(state.st_size for _, state in states)
        if total <= self._max_bytes:
            return
        for path, state in sorted(states, key=lambda item: item[1].st_mtime):
            if total <= _LESS * self._max_bytes:
                return
            if path not in new:
                Path(path).unlink(missing_ok=True)
                total -= state.st_size

    def _file(self, key: str) -> Path:
        return self._work.folder(_FOLDER) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.png"


def _state(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Returns the state of a picture's file; None if it was just removed, or another thread is writing it."""
    try:
        state = entry.stat() if entry.name.endswith(".png") else None
    except FileNotFoundError:
        return None
    # A file that is being written has another name; an old one is left over from a process that was killed.
    being_written = state is not None and entry.name.startswith(".") and time.time() - state.st_mtime < _USED_SECONDS
    return None if being_written else state
