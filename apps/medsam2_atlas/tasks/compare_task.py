"""The infer task `compare`: two models side by side."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.evaluation import DISAGREEMENT_LABELS, compare_segmentations, comparison_report
from medsam2_atlas.imaging.volume import Volume, read_labels
from medsam2_atlas.storage import FINAL
from tasks import replies
from tasks.finals import usable_label
from tasks.predictions import Predictions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyComparison:
    """Differences of two models on a study: a label map (`DISAGREEMENT_LABELS`), and measures as JSON values."""

    labels: Volume
    report: dict[str, Any]


class CompareTask(InferTask):
    """Compares two models on a study: where they differ, and by how much. Uses stored predictions."""

    def __init__(self, predictions: Predictions) -> None:
        super().__init__(InferType.SEGMENTATION, dict(DISAGREEMENT_LABELS), 3, "Where two models differ, and by how much")
        self._predictions = predictions

    def config(self) -> dict[str, Any]:
        """Returns options for viewers: which models. A prompted one and a trained one are the defaults."""
        first, second = self._predictions.able("prompted"), self._predictions.able("trained")
        return {"first": [*first, *second[1:]] if first else [], "second": second}

    def missing(self) -> str:
        """Returns what keeps the task from running; empty if nothing does."""
        for role in ("prompted", "trained"):
            if not self._predictions.able(role):
                return self._predictions.missing(next(t for t, m in self._predictions.models().items() if m.role == role))
        return ""

    def is_valid(self) -> bool:
        """Returns whether there are two models to compare."""
        return not self.missing()

    def compare(self, study: str, request: dict[str, Any], datastore: Datastore) -> StudyComparison:
        """Returns the comparison of a study.

        Raises:
            MedSAM2AtlasError: a model is missing, or the image cannot be used.
        """
        offered = self.config()
        chosen = [replies.choice(request, key, offered[key]) for key in ("first", "second")]
        results = {tag: self._predictions.get(tag, study)[0] for tag in chosen}
        if len(results) == 1:
            raise InputError(chosen[0], "cannot be compared with itself.", "Choose two models.")
        first, second = (results[tag].labels for tag in chosen)
        known = [results[tag].report.organ_numbers for tag in chosen]
        common = [k for k in known[0] if k in known[1]]
        if not common:
            raise InputError(" and ".join(chosen), "know no organ in common.", "Choose two models of the same organs.")
        agreement = compare_segmentations(first, second, common)
        final, problem = None, ""
        try:
            final = _final(datastore, study, first)
        except Exception as error:  # noqa: BLE001 - the two models are compared all the same
            problem = str(error)
            log.warning("%s is compared without its final label: %s", study, error)
        report = comparison_report(agreement, results, final) | {"image": study, "seconds": {}}
        if problem:
            report["final_problem"] = problem
        return StudyComparison(agreement.labels, report)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Refuses: a comparison is of a study, whose predictions and final label are known.

        Raises:
            InputError: always.
        """
        raise InputError(
            str(request.get("image")), "is not a study of this server.", "Upload the image first, then name its id."
        )


def _final(datastore: Datastore, study: str, like: Volume) -> Volume | None:
    """Returns the label that a person signed off."""
    file = usable_label(datastore, study, FINAL)
    return None if file is None else read_labels(file, like)
