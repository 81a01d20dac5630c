"""The infer task of a model: the registry's segmenters behind MONAI Label's interface."""

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
from tasks.requests import CLICKS, MASK


class SegmenterTask(InferTask):
    """An infer task that segments a CT with one of a model's segmenters. The client chooses the segmenter and its options."""

    def __init__(self, models: Models, predictions: Predictions, model: Model) -> None:
        """Creates the task of a model.

        Args:
            models: atlas and networks, which are loaded when they are first needed.
            predictions: runs the segmenters.
            model: entry of the registry.
        """
        clicks = model.role == "interactive"
        kind = InferType.DEEPGROW if clicks else InferType.SEGMENTATION
        super().__init__(kind, {o.name: o.index for o in organ_table().organs}, 3, model.description)
        self.inputs = CLICKS | MASK if clicks else frozenset[str]()
        """The keys of a request that are not options of `config`."""
        self._models, self._predictions, self._model = models, predictions, model

    @property
    def uses_network(self) -> bool:
        """Whether a work process of the task may need a GPU."""
        return self._default.uses_network

    def config(self) -> dict[str, Any]:
        """Returns the options for viewers, which show a list as a drop-down menu and a text as a field."""
        names = {"strategy": list(self._model.names)} if self._model.role == "prompted" else {}
        return names | self._default.available_options()

    def info(self) -> dict[str, Any]:
        """Returns MONAI Label's description, with colours and the segmenter's own information."""
        about: dict[str, Any] = super().info()
        about["label_colors"] = {o.name: list(o.colour) for o in organ_table().organs}
        return about | self._default.describe()

    def missing(self) -> str:
        """Returns the reason why the task cannot run, and the remedy; an empty string if it can."""
        try:
            return self._default.missing()
        except MedSAM2AtlasError as error:  # the folder of the model was removed
            return str(error)

    def version(self) -> str:
        """Returns a text that changes with the weights, such as the beginning of their checksum; empty without weights."""
        return self._default.version()

    def is_valid(self) -> bool:
        """Returns whether the task can run."""
        return not self.missing()

    def get_path(self, validate: bool = True) -> str | None:
        """Returns the weights file, for MONAI Label's model download; None if the model has no single weights file."""
        try:
            file = self._default.weights_file()
        except MedSAM2AtlasError:
            return None
        return None if file is None else str(file)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segments the file `request["image"]` without storing the result.

        Returns:
            The path of the label map, which has the grid of the image; and the JSON part of the reply, with the report.
        """
        result = self._predictions.once(self._model.tag, Path(request["image"]), request)
        report = result.report.to_json()
        return replies.as_file(result.labels, request), replies.as_json(report, {n: self.labels[n] for n in report["organs"]})

    @property
    def _default(self) -> Segmenter:
        return self._models.segmenter(self._model.names[0])
