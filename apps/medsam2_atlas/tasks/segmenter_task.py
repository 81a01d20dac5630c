"""The infer task of every segmenter: the registry's models behind MONAI Label's interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.segmenters.base import Segmenter
from medsam2_atlas.segmenters.registry import Model
from medsam2_atlas.studies.models import Models
from tasks import replies
from tasks.predictions import Predictions
from tasks.requests import CLICKS


class SegmenterTask(InferTask):
    """Segments a CT by one of a model's segmenters; the client chooses it, and its options, by name."""

    def __init__(self, models: Models, predictions: Predictions, model: Model) -> None:
        """
        Args:
            models: atlas and networks, loaded when first needed.
            predictions: runs segmenters.
            model: of the registry.
        """
        clicks = model.role == "interactive"
        kind = InferType.DEEPGROW if clicks else InferType.SEGMENTATION
        super().__init__(kind, {o.name: o.index for o in organ_table().organs}, 3, model.description)
        self.inputs = CLICKS if clicks else frozenset[str]()
        """Keys of a request besides the options of `config`."""
        self._models, self._predictions, self._model = models, predictions, model

    @property
    def uses_network(self) -> bool:
        """Returns whether a work process for it may need a GPU."""
        return self._default.uses_network

    def config(self) -> dict[str, Any]:
        """Returns options for viewers: lists become drop-downs, texts become fields."""
        names = {"strategy": list(self._model.names)} if self._model.role == "prompted" else {}
        return names | self._default.available_options()

    def info(self) -> dict[str, Any]:
        """Returns MONAI Label's description, with colours and the segmenter's own information."""
        about: dict[str, Any] = super().info()
        about["label_colors"] = {o.name: list(o.colour) for o in organ_table().organs}
        return about | self._default.describe()

    def missing(self) -> str:
        """Returns what keeps the task from running, with its remedy; empty if nothing does."""
        try:
            return self._default.missing()
        except MedSAM2AtlasError as error:  # its folder is gone
            return str(error)

    def is_valid(self) -> bool:
        """Returns whether nothing keeps the task from running."""
        return not self.missing()

    def get_path(self, validate: bool = True) -> str | None:
        """Returns the file of the weights, for MONAI Label's model download; None if there is no single one."""
        try:
            file = self._default.weights_file()
        except MedSAM2AtlasError:
            return None
        return None if file is None else str(file)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segments `request["image"]`; returns the label map's file, on the grid of the image, and JSON with the report."""
        result = self._predictions.once(self._model.tag, Path(request["image"]), request)
        report = result.report.to_json()
        return replies.as_file(result.labels, request), replies.as_json(report, {n: self.labels[n] for n in report["organs"]})

    @property
    def _default(self) -> Segmenter:
        return self._models.segmenter(self._model.names[0])
