"""Small pictures of cases for the worklist: a slice of the CT with the final label map, or else a model's.

Of a series that has not been fetched from the PACS, only one object is fetched. A picture that cannot be drawn is not tried
again for a while, so that a list of broken cases causes no endless work.

Concurrency contract. `find` is fast and may be called at any time. `draw` may be slow; the server calls it in turn. One lock
guards the failures and is held only to read or change them.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datastores.folder_datastore import FolderDatastore
from datastores.pacs_datastore import PacsDatastore
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, NotFoundError
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.storage import FINAL, Label, stamp
from medsam2_atlas.studies.pictures import Pictures
from tasks.known import unknown_study

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 600.0
"""Time in seconds before a picture that could not be drawn is tried again."""
_PACS_PAUSE_SECONDS = 30.0
"""The same if the PACS did not answer or send the slice."""
_MAX_FAILURES = 10_000
_VERSION = "small-1"
"""Part of each key; a new way of drawing gets a new one."""


@dataclass(frozen=True)
class Wanted:
    """A picture.

    Attributes:
        study: name of the case.
        key: a text that differs for different pictures.
        image: the file of the CT; None if it has not been fetched from the PACS.
        label: the label map that it shows; None for none.
        study_uid: Study Instance UID of a series of a PACS.
        file: the file of the picture; None if it must be drawn.
    """

    study: str
    key: str
    image: Path | None
    label: Label | None
    study_uid: str
    file: Path | None

    @property
    def mark(self) -> str:
        """A text that changes with the picture, and that contains no names."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:32]


class CasePictures:
    """The pictures of a server's cases. Thread-safe.

    Attributes:
        kept: the files of all pictures.
    """

    def __init__(self, datastore: StudyDatastore, models: tuple[str, ...], hu: HuRule, max_bytes: int) -> None:
        """Draws nothing yet.

        Args:
            datastore: the studies.
            models: names of the models. A picture shows the final label map, or else the prediction of the first that has one.
            hu: conversion of the CT's values to HU.
            max_bytes: max size of all pictures together, in bytes.
        """
        self._datastore, self._tags, self._hu = datastore, (FINAL, *models), hu
        self.kept = Pictures(datastore.store.work, max_bytes)
        self._lock = threading.Lock()
        self._failed: dict[str, float] = {}

    def find(self, study: str) -> Wanted:
        """Returns what the picture of a case shows, and its file if it is drawn already.

        Raises:
            NotFoundError: the case is unknown.
        """
        store = self._datastore.store
        image, series = store.images().get(study), self._series().get(study)
        problems = self._datastore.problems()
        if image is None and series is None and study not in problems:
            raise unknown_study(study)
        broken = "image" in problems.get(study, {})
        labels: Mapping[str, Label] = store.labels().get(study, {})
        usable = (labels[tag] for tag in self._tags if tag in labels and not labels[tag].problem)
        label = next(usable, None) if image is not None and not broken else None
        parts = [_VERSION, study, str(self._hu), "broken" if broken else ""]
        parts += [_stamp(image.file)] if image is not None else ["not fetched"]
        parts += [label.tag, label.version.sha256] if label is not None else []
        key = "/".join(parts)
        file = image.file if image is not None else None
        uid = (series or {}).get("StudyInstanceUID", "")
        return Wanted(study, key, file, label, uid, None if broken else self.kept.find(key))

    def draw(self, wanted: Wanted) -> Path | None:
        """Draws a picture and returns its file; None if it cannot be drawn now. Never raises because of the case."""
        file = self.kept.find(wanted.key)  # another request may have drawn it meanwhile
        if file is not None or not self._due(wanted.key):
            return file
        instances = self._datastore.instances if isinstance(self._datastore, FolderDatastore) else None
        seen = instances.stamp(wanted.study) if instances is not None and wanted.label is None else None
        try:
            file = self._drawn(wanted)
            self._check_not_erased(wanted.study)
        except MedSAM2AtlasError as error:
            log.info("%s has no picture: %s", wanted.study, error)
            if isinstance(error, InputError) and instances is not None and seen is not None:
                instances.note_picture(wanted.study, seen, error)  # so that the list says so
        except Exception:  # a picture must not make a list fail
            log.exception("%s has no picture", wanted.study)
        else:
            if instances is not None and seen is not None:
                instances.note_picture(wanted.study, seen, None)
            return file
        self.kept.remove(wanted.key)
        with self._lock:
            if len(self._failed) >= _MAX_FAILURES:
                self._failed.clear()
            pause = _PAUSE_SECONDS if wanted.image is not None else _PACS_PAUSE_SECONDS
            self._failed[wanted.key] = time.monotonic() + pause
        return None

    def _drawn(self, wanted: Wanted) -> Path:
        if wanted.image is not None:
            label = wanted.label.file if wanted.label is not None else None
            return self.kept.draw(wanted.key, wanted.image, label, self._hu)
        if not isinstance(self._datastore, PacsDatastore) or not wanted.study_uid:
            raise NotFoundError(repr(wanted.study[:80]), "has no image that can be used.", "See its problem in the worklist.")
        with scratch_folder() as folder:
            slice_file = self._datastore.web.fetch_middle(wanted.study_uid, wanted.study, folder)
            return self.kept.draw_object(wanted.key, slice_file, self._hu)

    def _check_not_erased(self, study: str) -> None:
        """Raises a NotFoundError if a case was removed or erased while its picture was drawn."""
        if study not in self._datastore.store.images() and study not in self._series():
            raise unknown_study(study)

    def _due(self, key: str) -> bool:
        with self._lock:
            return self._failed.get(key, 0.0) <= time.monotonic()

    def _series(self) -> Mapping[str, Mapping[str, str]]:
        return (self._datastore.listed() or {}) if isinstance(self._datastore, PacsDatastore) else {}


def _stamp(file: Path) -> str:
    try:
        return stamp(file.stat())
    except OSError:  # it was just removed
        return ""
