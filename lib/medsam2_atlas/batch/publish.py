"""Moves the result of a case to its final place, and tells whether a result that is there is still valid."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import replacing, sha256
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.job import Job
from medsam2_atlas.batch.manifest import Entry
from medsam2_atlas.batch.outcomes import Done
from medsam2_atlas.batch.place import Place
from medsam2_atlas.imaging.kinds import stem_of
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.segmenters.base import Report, Segmentation
from medsam2_atlas.segmenters.registry import model_of
from medsam2_atlas.storage import StudyFolder
from medsam2_atlas.studies import PredictionStore


class Publisher(Protocol):
    """Puts results where the user wants them."""

    def publish(self, item: Item, done: Done) -> dict[str, Any]:
        """Moves a result to its final place, and returns the field `output` of its entry in the manifest.

        Raises:
            MedSAM2AtlasError: the result cannot be stored there.
            OSError: the disk cannot be written.
        """
        ...

    def is_there(self, entry: Entry) -> bool:
        """Returns whether the result of an entry is still there, unchanged."""
        ...

    def withdraw(self, item: Item) -> None:
        """Removes an earlier result of an item that has failed now."""
        ...


@dataclass(frozen=True)
class FilePublisher:
    """Puts results into the folder of the batch as files, each replaced in one step.

    Attributes:
        place: the folder of the batch.
        job: the job.
    """

    place: Place
    job: Job

    def publish(self, item: Item, done: Done) -> dict[str, Any]:
        """Moves a result to its final place; see `Publisher`."""
        target = self.place.output(item.name, self.job.suffix)
        report = self.place.report(item.name)
        for file in (target, report):
            file.parent.mkdir(exist_ok=True)
        with replacing(report) as part:
            part.write_text(json.dumps(done.report, ensure_ascii=False), encoding="utf-8")
        os.replace(done.part, target)
        state = target.stat()
        relative = target.relative_to(self.place.folder).as_posix()
        return {"file": relative, "sha256": done.sha256, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}

    def is_there(self, entry: Entry) -> bool:
        """Returns whether a result is still there, unchanged. Its checksum is computed only if its state has changed."""
        output = entry.get("output", {})
        file = self.place.output(entry["case"], self.job.suffix)
        try:
            self.place.report(entry["case"]).stat()
            state = file.stat()
        except OSError:
            return False
        if (state.st_size, state.st_mtime_ns) == (output.get("bytes"), output.get("mtime_ns")):
            return True
        return state.st_size == output.get("bytes") and sha256(file) == output.get("sha256")

    def withdraw(self, item: Item) -> None:
        """Removes an earlier result and its report."""
        for file in (self.place.output(item.name, self.job.suffix), self.place.report(item.name)):
            file.unlink(missing_ok=True)


class StudiesPublisher:
    """Stores results as versions of a studies folder, under the model's tag, where annotators see them as the model's label."""

    def __init__(self, studies: StudyFolder, job: Job) -> None:
        """Keeps the studies folder.

        Args:
            studies: the studies folder. CTs that it lacks are added.
            job: the job.
        """
        self._studies, self._job = studies, job
        self._tag = model_of(job.segmenter)
        self._store = PredictionStore(studies.work, studies.store)

    def publish(self, item: Item, done: Done) -> dict[str, Any]:
        """Stores a result; see `Publisher`."""
        if item.kind != "file":
            raise InputError(item.path, "is not an image file, as a studies folder has.", "Use --results seg or pacs.")
        path = image = Path(item.path)
        study = stem_of(path.name)
        if path.resolve().parent != self._studies.path.resolve():
            study, image = item.name, self._studies.store.add_image(item.name, path, {"batch": item.id}).file
        labels = read_labels(done.part, image=image)
        made = Segmentation(labels, Report.from_json(done.report))
        kept = self._store.keep(self._tag, study, image, done.provenance, made)
        done.part.unlink(missing_ok=True)
        return {"study": study, "tag": self._tag, "sha256": sha256(kept.label)}

    def is_there(self, entry: Entry) -> bool:
        """Returns whether the studies folder still has the stored prediction."""
        output = entry.get("output", {})
        found = self._store.latest(self._tag, str(output.get("study")))
        return found is not None and sha256(found.label) == output.get("sha256")

    def withdraw(self, item: Item) -> None:
        """Does nothing: the studies folder itself marks label maps of an image that was replaced."""
