"""The infer task `compare`: foundation model and U-Net side by side."""

from __future__ import annotations

import logging
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.evaluation import DISAGREEMENT_LABELS, compare_segmentations, comparison_report
from medsam2_atlas.imaging.volume import Volume, read_labels
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.storage import FINAL
from tasks import replies
from tasks.finals import usable_label
from tasks.predictions import Predictions

log = logging.getLogger(__name__)

FOUNDATION = ("medsam2_atlas", "atlas")
BASELINE = ("unet_3d", "unet_2d")


class CompareTask(InferTask):
    """Where two models differ on a study, as a label map, and by how much, as JSON. Uses stored predictions."""

    def __init__(self, predictions: Predictions) -> None:
        super().__init__(
            InferType.SEGMENTATION, dict(DISAGREEMENT_LABELS), 3, "Where MedSAM2 and U-Net differ, and by how much"
        )
        self._predictions = predictions

    def config(self) -> dict[str, Any]:
        """Options for viewers: which models."""
        return {"first": self._able(FOUNDATION), "second": self._able(BASELINE)}

    def missing(self) -> str:
        """What keeps the task from running; empty where nothing does."""
        for models in (FOUNDATION, BASELINE):
            if not self._able(models):
                return self._predictions.tasks[models[0]].missing()
        return ""

    def is_valid(self) -> bool:
        """Whether there are two models to compare."""
        return not self.missing()

    def compare(self, study: str, request: dict[str, Any], datastore: Datastore) -> Segmentation:
        """The comparison of a study.

        Raises:
            MedSAM2AtlasError: a model is missing, or the image cannot be used.
        """
        chosen = [
            replies.choice(request, key, self._able(models)) for key, models in (("first", FOUNDATION), ("second", BASELINE))
        ]
        results = {model: self._predictions.get(model, study)[0] for model in chosen}
        first, second = (results[model].labels for model in chosen)
        agreement = compare_segmentations(first, second)
        final, problem = None, ""
        try:
            final = _final(datastore, study, first)
        except Exception as error:  # noqa: BLE001 - the two models are compared all the same
            problem = str(error)
            log.warning("%s is compared without its final label: %s", study, error)
        report = comparison_report(agreement, results, final) | {"image": study, "seconds": {}}
        if problem:
            report["final_problem"] = problem
        return Segmentation(agreement.labels, report)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Refused: a comparison is of a study, whose predictions and final label are known.

        Raises:
            InputError: always.
        """
        raise InputError(
            str(request.get("image")), "is not a study of this server.", "Upload the image first, then name its id."
        )

    def _able(self, models: tuple[str, ...]) -> list[str]:
        return [model for model in models if not self._predictions.tasks[model].missing()]


def _final(datastore: Datastore, study: str, like: Volume) -> Volume | None:
    """The label that a person signed off."""
    file = usable_label(datastore, study, FINAL)
    return None if file is None else read_labels(file, like)
