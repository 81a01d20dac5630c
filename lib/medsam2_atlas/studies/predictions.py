"""What models have predicted for studies: label maps under the models' own tags, each with how it was made.

A prediction is found again as long as nothing has changed that it depends on: image, weights, atlas, options.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.base.files import sha256, write_json
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.imaging.decoding import file_states
from medsam2_atlas.imaging.volume import read_labels, write_volume
from medsam2_atlas.segmenters.base import Provenance, Report, Segmentation
from medsam2_atlas.storage import FINAL, Label, StudyStore, WorkFolder

log = logging.getLogger(__name__)

_PROCESSOR = {"device": "cpu", "precision": "float32"}


def file_stamp(image: Path) -> str:
    """Tells a file, or a folder of DICOM files, from what stood there before: name, size and time of change."""
    return hashlib.sha256(json.dumps(file_states(image)).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Prediction:
    """A stored prediction. label: its file. report: of the run that made it. provenance: see `Provenance`. made: ISO time."""

    label: Path
    report: Report
    provenance: dict[str, Any]
    made: str

    def segmentation(self, image: Path) -> Segmentation:
        """Returns the label map with its report, marked as coming from the cache. The image's voxels are not read.

        Raises:
            InputError: the label map cannot be read, or its grid is not the image's.
        """
        return Segmentation(read_labels(self.label, image=image), self.cached_report)

    @property
    def cached_report(self) -> Report:
        """The report, marked as coming from the cache."""
        return self.report.with_fields(from_cache=True)


class PredictionStore:
    """Predictions of all models for a set of studies."""

    def __init__(self, work: WorkFolder, studies: StudyStore) -> None:
        """
        Args:
            work: of the studies; reports are kept there.
            studies: where label maps go.
        """
        self._work, self._studies = work, studies

    def find(self, model: str, study: str, image: Path, *provenances: Provenance) -> Prediction | None:
        """The stored prediction, if it was made of this image with one of these provenances and its file is unchanged."""
        found = self.latest(model, study)
        if found is None:
            return None
        made = [found.provenance]
        if "device" not in found.provenance and (found.report.device or "cpu") == "cpu":
            # Earlier versions named the device in the report only. On GPUs they used TF32: those predictions do not count.
            made.append({**found.provenance, **_PROCESSOR})
        stamp = {"image": file_stamp(image)}
        # Earlier versions named no settings: their predictions count whatever was set.
        unnamed = {"settings"} - found.provenance.keys()
        asked = ({k: v for k, v in _plain(provenance).items() if k not in unnamed} | stamp for provenance in provenances)
        return found if any(provenance in made for provenance in asked) else None

    def latest(self, model: str, study: str) -> Prediction | None:
        """Returns the stored prediction, whatever weights and options made it.

        None if there is none, if a person has changed its file, or if it was made of another image than the one that is there.
        """
        try:
            entry = self._entry(model, study)
            label = self._studies.label(study, model)
            if label.unsure:  # it may be of another image
                return None
            if label.version.sha256 != entry["label_sha256"] or sha256(label.file) != entry["label_sha256"]:
                return None
            return Prediction(label.file, Report.from_json(entry["report"]), entry["provenance"], entry["made"])
        except (OSError, ValueError, KeyError, TypeError, MedSAM2AtlasError):
            return None

    def report(self, model: str, study: str) -> dict[str, Any]:
        """Returns the report of the stored prediction, without a look at its file; empty where there is none."""
        try:
            report = self._entry(model, study)["report"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return report if isinstance(report, dict) else {}

    def save(self, model: str, study: str, image: Path, provenance: Provenance, result: Segmentation) -> Prediction | None:
        """Keeps a label map under the model's tag, and its report.

        If the disk cannot be written, the prediction is not kept, which is logged; the model goes on.

        Returns:
            The prediction as it is kept; None if a person's label already exists under the tag, or if it cannot be written.

        Raises:
            ValueError: a tag that belongs to people.
            InputError: the label map does not fit the image.
            NotFoundError: the study was removed or erased meanwhile.
        """
        if model == FINAL:
            raise ValueError("a model's prediction is never stored as final")
        made_of = _plain(provenance) | {"image": file_stamp(image)}
        try:
            label = self._keep(model, study, made_of, result)
        except (StorageError, OSError) as error:
            log.warning("a prediction is not kept: %s", error)
            return None
        entry: dict[str, Any] = {
            "model": model,
            "study": study,
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "file": label.file.name,
            "label_sha256": label.version.sha256,
            "provenance": made_of,
            "report": result.report.to_json(),
        }
        try:
            write_json(entry, self._report_file(model, study))
        except (StorageError, OSError) as error:  # without it, the prediction is not found again
            log.warning("the report of a prediction is not kept: %s", error)
        try:
            self._studies.image(study)
        except NotFoundError:  # it was erased or removed meanwhile
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
        entry: dict[str, Any] = json.loads(self._report_file(model, study).read_text(encoding="utf-8"))
        return entry

    def _report_file(self, model: str, study: str) -> Path:
        return self._work.folder(f"reports/{model}") / f"{study}.json"


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON, so that what was stored and what is asked for can be compared."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain
