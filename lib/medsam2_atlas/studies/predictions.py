"""Stores models' predictions for studies: label maps under the models' own tags, each with its provenance and report.

A stored prediction is valid as long as its inputs are unchanged: image, weights, atlas, options.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.base.files import sha256, write_json
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.imaging.decoding import file_states
from medsam2_atlas.imaging.volume import read_labels, write_volume
from medsam2_atlas.segmenters.base import Provenance, Report, Segmentation
from medsam2_atlas.storage import FINAL, Label, StudyStore, WorkFolder

log = logging.getLogger(__name__)

_TICK_NS = 1_000_000_000
"""Time in ns after a change of a folder in which another change may leave its time as it is."""
_NONE: Mapping[str, tuple[int, int]] = {}
_CPU = {"device": "cpu", "precision": "float32"}


def file_stamp(image: Path) -> str:
    """Returns a hash of names, sizes and modification times of a file, or of the files of a DICOM folder."""
    return hashlib.sha256(json.dumps(file_states(image)).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Prediction:
    """A stored prediction.

    Attributes:
        label: file of the label map.
        report: report of the run that made it.
        provenance: see `Provenance`.
        made: time of the run, ISO 8601.
    """

    label: Path
    report: Report
    provenance: dict[str, Any]
    made: str

    def segmentation(self, image: Path) -> Segmentation:
        """Reads the label map; the report is marked as coming from the cache. The image's voxels are not read.

        Args:
            image: file of the study's image, for its grid.

        Raises:
            InputError: if the label map cannot be read, or its grid differs from the image's.
        """
        return Segmentation(read_labels(self.label, image=image), self.cached_report)

    @property
    def cached_report(self) -> Report:
        """The report, marked as coming from the cache."""
        return self.report.with_fields(from_cache=True)


class PredictionStore:
    """The stored predictions of all models for a set of studies."""

    def __init__(self, work: WorkFolder, studies: StudyStore) -> None:
        """Sets the work folder and the store of label maps; reads nothing.

        Args:
            work: work folder of the studies, for reports.
            studies: store of the label maps.
        """
        self._work, self._studies = work, studies
        self._stamps: dict[str, tuple[int, Mapping[str, tuple[int, int]]]] = {}

    def find(self, model: str, study: str, image: Path, *provenances: Provenance) -> Prediction | None:
        """Returns the stored prediction if it is valid: made from this image, with one of the provenances, file unchanged.

        Args:
            model: name of the model.
            study: name of the study.
            image: file of the study's image.
            *provenances: provenances that are accepted.
        """
        found = self.latest(model, study)
        if found is None:
            return None
        made = [found.provenance]
        if "device" not in found.provenance and (found.report.device or "cpu") == "cpu":
            # Earlier releases recorded the device in the report only. On GPUs they used TF32, so those predictions are invalid.
            made.append({**found.provenance, **_CPU})
        stamp = {"image": file_stamp(image)}
        # Earlier releases recorded no settings, so their predictions are valid with any settings.
        unnamed = {"settings"} - found.provenance.keys()
        accepted = ({k: v for k, v in _plain(provenance).items() if k not in unnamed} | stamp for provenance in provenances)
        return found if any(provenance in made for provenance in accepted) else None

    def latest(self, model: str, study: str) -> Prediction | None:
        """Returns the stored prediction, regardless of its weights and options.

        Returns None if there is none, if a person has changed its file, or if the study's image may have been replaced since.
        """
        try:
            entry = self._entry(model, study)
            label = self._studies.label(study, model)
            if label.unsure:  # it may belong to a different image
                return None
            if label.version.sha256 != entry["label_sha256"] or sha256(label.file) != entry["label_sha256"]:
                return None
            return Prediction(label.file, Report.from_json(entry["report"]), entry["provenance"], entry["made"])
        except (OSError, ValueError, KeyError, TypeError, MedSAM2AtlasError):
            return None

    def stamps(self, model: str) -> Mapping[str, tuple[int, int]]:
        """Returns time and size of the reports of a model's predictions by study; the same object until one changes."""
        folder = self._work.path / "reports" / model
        try:
            changed = folder.stat().st_mtime_ns
            known, stamps = self._stamps.get(model, (0, {}))
            # A report that is written in the same tick of the clock does not change the time of the folder any more.
            if changed != known or time.time_ns() - changed < _TICK_NS:
                with os.scandir(folder) as entries:
                    states = {entry.name.removesuffix(".json"): entry.stat() for entry in entries}
                found = {study: (state.st_mtime_ns, state.st_size) for study, state in states.items()}
                stamps = stamps if stamps == found else found
                self._stamps[model] = (changed, stamps)
        except OSError:  # there is no prediction yet, or one was just removed
            return _NONE
        return stamps

    def report(self, model: str, study: str) -> dict[str, Any]:
        """Returns the report of the stored prediction without checking its file; empty if there is none."""
        try:
            report = self._entry(model, study)["report"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return report if isinstance(report, dict) else {}

    def save(self, model: str, study: str, image: Path, provenance: Provenance, result: Segmentation) -> Prediction | None:
        """Stores a label map as `keep` does, but only warns if that fails, so that the model still returns its result.

        Returns:
            The stored prediction; None if a person's label already exists under the tag, or if it cannot be written.

        Raises:
            ValueError, InputError, NotFoundError: see `keep`.
        """
        try:
            return self.keep(model, study, image, provenance, result)
        except (StorageError, OSError) as error:
            log.warning("a prediction cannot be stored: %s", error)
            return None

    def keep(self, model: str, study: str, image: Path, provenance: Provenance, result: Segmentation) -> Prediction:
        """Stores a label map under the model's tag, and its report. Without its report, it will be computed again.

        Args:
            model: name of the model: the tag of the label map.
            study: name of the study.
            image: file of the study's image.
            provenance: provenance of the result.
            result: label map and report.

        Raises:
            ConflictError: if a person's label already exists under the tag.
            StorageError, OSError: if it cannot be written.
            ValueError: if the tag is reserved for people (`final`).
            InputError: if the label map does not fit the image.
            NotFoundError: if the study was removed or erased meanwhile.
        """
        if model == FINAL:
            raise ValueError("a model's prediction is never stored as final")
        made_of = _plain(provenance) | {"image": file_stamp(image)}
        label = self._keep(model, study, made_of, result)
        entry: dict[str, Any] = {
            "model": model,
            "study": study,
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "file": label.file.name,
            "label_sha256": label.version.sha256,
            "provenance": made_of,
            "report": result.report.to_json(),
        }
        write_json(entry, self._report_file(model, study))
        try:
            self._studies.image(study)
        except NotFoundError:  # the study was erased or removed meanwhile
            self._report_file(model, study).unlink(missing_ok=True)
            raise
        return Prediction(label.file, Report.from_json(entry["report"]), entry["provenance"], entry["made"])

    def _keep(self, model: str, study: str, made_of: Mapping[str, Any], result: Segmentation) -> Label:
        with scratch_folder() as folder:
            file = folder / "label.nii.gz"
            write_volume(result.labels, file)
            info = {"model": model, "provenance": made_of}
            return self._studies.save_prediction(study, model, file, info).label

    def _entry(self, model: str, study: str) -> dict[str, Any]:
        entry: dict[str, Any] = stored_json(self._report_file(model, study).read_text(encoding="utf-8"))
        return entry

    def _report_file(self, model: str, study: str) -> Path:
        return self._work.folder(f"reports/{model}") / f"{study}.json"


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Converts values to what JSON returns, so that new and stored provenances can be compared."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain
