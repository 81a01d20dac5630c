"""The infer task: a strategy of `medsam2_atlas.pipeline` behind MONAI Label's interface."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medsam2_atlas.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.labels import organ_table
from medsam2_atlas.pipeline import Case, Options, segment
from medsam2_atlas.volume import read_volume, write_volume
from models import Models

log = logging.getLogger(__name__)

_NETWORK = threading.Lock()
"""Held while a case is segmented: one case at a time on the device."""


class SegmentationTask(InferTask):
    """Segments a CT by one of several strategies; the client chooses strategy, organs and weights by name."""

    def __init__(self, models: Models, strategies: Sequence[str], description: str) -> None:
        """
        Args:
            models: atlas and weights, loaded when first needed.
            strategies: names; the first is the default.
            description: for people.
        """
        organs = organ_table().organs
        super().__init__(InferType.SEGMENTATION, {o.name: o.index for o in organs}, 3, description)
        self._models = models
        self._strategies = tuple(strategies)
        self._needs_network = any(s != "atlas" for s in strategies)

    def config(self) -> dict[str, Any]:
        """Options for viewers: lists become drop-downs, texts become fields."""
        options: dict[str, Any] = {"strategy": list(self._strategies), "organs": ""}
        if self._needs_network:
            options["weights"] = self._models.weight_names()
        return options

    def info(self) -> dict[str, Any]:
        """MONAI Label's description, with colours and what the weights are."""
        about: dict[str, Any] = super().info()
        about["label_colors"] = {o.name: list(o.colour) for o in organ_table().organs}
        about["atlas"] = self._models.atlas_version()
        if self._needs_network:
            about["weights_mark"] = self._models.weights().mark
        return about

    def missing(self) -> str:
        """What keeps the task from running, with its remedy; empty where nothing does."""
        try:
            self._models.atlas()
            if self._needs_network:
                self._models.weights()
        except MedSAM2AtlasError as error:
            return str(error)
        return ""

    def is_valid(self) -> bool:
        """Whether atlas and weights are there and fit."""
        return not self.missing()

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segments `request["image"]`, a file or folder that the data store named.

        Returns:
            The label map's file, on the grid of the image, and a JSON body with the report.

        Raises:
            MONAILabelException: something is missing, or the image or an option cannot be used.
        """
        try:
            options = Options(organs=tuple(organ_table().select(_organs(request))))
            strategy = _one(request.get("strategy"), self._strategies[0])
            if strategy not in self._strategies:
                raise InputError(strategy, "is not a strategy of this model.", f"Choose from: {', '.join(self._strategies)}.")
            weights = self._models.weights(_one(request.get("weights"), "")) if self._needs_network else None
            atlas = self._models.atlas()
            volume = read_volume(request["image"])
            with _NETWORK:
                result = segment(Case(volume, atlas, weights, options=options), strategy)
            suffix = str(request.get("result_extension") or ".nii.gz")
            suffix = suffix if suffix in {".nii.gz", ".nii", ".nrrd", ".mha"} else ".nii.gz"
            with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as stream:
                file = Path(stream.name)
            write_volume(result.labels, file)
        except MedSAM2AtlasError as error:
            log.warning("%s", error)
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, str(error)) from error
        names = {organ_table()[k].name: k for k in options.organs}
        return str(file), {"label_names": names, "report": result.report, "result": {"report": result.report}}


def _one(value: Any, default: str) -> str:
    """An option's value: viewers send a text, or the whole list that they were offered."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return str(value) if value else default


def _organs(request: dict[str, Any]) -> list[str]:
    value = request.get("organs") or ""
    names = value if isinstance(value, list) else str(value).split(",")
    return [str(name) for name in names if str(name).strip()]
