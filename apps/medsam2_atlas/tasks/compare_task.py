"""The infer task `compare`: compares two models on a study."""

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
    """The comparison of two models on a study.

    Attributes:
        labels: label map of the differences; `DISAGREEMENT_LABELS` gives the meaning of its numbers.
        report: measures of the differences, as JSON values.
    """

    labels: Volume
    report: dict[str, Any]


class CompareTask(InferTask):
    """An infer task that returns a label map and measures of the differences between two models' stored predictions."""

    def __init__(self, predictions: Predictions) -> None:
        super().__init__(InferType.SEGMENTATION, dict(DISAGREEMENT_LABELS), 3, "The differences between two models on a study")
        self._predictions = predictions

    def config(self) -> dict[str, Any]:
        """Returns the models that a viewer can choose; the defaults are the first prompted and the first trained model."""
        first, second = self._predictions.available("prompted"), self._predictions.available("trained")
        return {"first": [*first, *second[1:]] if first else [], "second": second}

    def missing(self) -> str:
        """Returns the reason why the task cannot run; an empty string if it can."""
        for role in ("prompted", "trained"):
            if not self._predictions.available(role):
                return self._predictions.missing(next(t for t, m in self._predictions.models().items() if m.role == role))
        return ""

    def is_valid(self) -> bool:
        """Returns whether there are two models to compare."""
        return not self.missing()

    def compare(self, study: str, request: dict[str, Any], datastore: Datastore) -> StudyComparison:
        """Compares two models on a study.

        Args:
            study: name of the study.
            request: the client's request; `first` and `second` name the models.
            datastore: the studies; the report also compares each model with the study's final label map, if there is one.

        Raises:
            MedSAM2AtlasError: a model cannot run, both models are the same or have no organ in common, or the image cannot be
                used.
        """
        available = self.config()
        chosen = [replies.choice(request, key, available[key]) for key in ("first", "second")]
        results = {tag: self._predictions.get(tag, study)[0] for tag in chosen}
        if len(results) == 1:
            raise InputError(chosen[0], "cannot be compared with itself.", "Choose two models.")
        first, second = (results[tag].labels for tag in chosen)
        known = [results[tag].report.organ_numbers for tag in chosen]
        common = [k for k in known[0] if k in known[1]]
        if not common:
            raise InputError(" and ".join(chosen), "have no organ in common.", "Choose two models of the same organs.")
        agreement = compare_segmentations(first, second, common)
        final, problem = None, ""
        try:
            final = _final(datastore, study, first)
        except Exception as error:  # noqa: BLE001 - the two models can be compared without the final label map
            problem = str(error)
            log.warning("%s is compared without its final label map: %s", study, error)
        report = comparison_report(agreement, results, final) | {"image": study, "seconds": {}}
        if problem:
            report["final_problem"] = problem
        return StudyComparison(agreement.labels, report)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Refuses an image that is not a study; `compare` handles studies.

        Raises:
            InputError: always.
        """
        raise InputError(
            str(request.get("image")), "is not a study of this server.", "Upload the image first, then send its id."
        )


def _final(datastore: Datastore, study: str, like: Volume) -> Volume | None:
    """Returns the final label map of a study, checked against the grid of `like`; None if there is none."""
    file = usable_label(datastore, study, FINAL)
    return None if file is None else read_labels(file, like)
