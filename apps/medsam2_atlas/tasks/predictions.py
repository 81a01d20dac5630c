"""Runs the server's models on its studies, for tasks and for the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Options, Segmentation, Segmenter
from medsam2_atlas.segmenters.registry import Model, models
from medsam2_atlas.studies import Prediction, PredictionStore
from medsam2_atlas.studies.models import Models
from medsam2_atlas.studies.runner import Runner
from tasks import replies
from tasks.requests import GivenMask, marks_of, masked_of, options_of


class Predictions:
    """Computes and stores the predictions of a server's models."""

    def __init__(self, resources: Models, datastore: Callable[[], StudyDatastore]) -> None:
        """Connects the models with the studies.

        Args:
            resources: atlas and networks.
            datastore: returns the server's datastore; called at each use, because the datastore is created after the tasks.
        """
        self._resources, self._datastore = resources, datastore
        self._runner = Runner(resources, self.store)

    def models(self) -> dict[str, Model]:
        """Returns the server's models, by name."""
        return {model.tag: model for model in models(self._resources.folders())}

    def available(self, role: str) -> list[str]:
        """Returns the names of a role's models that can run now, in the order of the registry."""
        return [tag for tag, model in self.models().items() if model.role == role and not self.missing(tag)]

    def segmenter(self, tag: str) -> Segmenter:
        """Returns the default segmenter of a model."""
        return self._resources.segmenter(self.models()[tag].names[0])

    def missing(self, tag: str) -> str:
        """Returns the reason why a model cannot run; an empty string if it can."""
        return self.segmenter(tag).missing()

    def get(self, tag: str, study: str, request: Mapping[str, Any] | None = None) -> tuple[Segmentation, Prediction | None]:
        """Segments a study with a model, unless a valid stored prediction exists.

        Args:
            tag: name of the model.
            study: name of the study.
            request: the client's options; default options if None.

        Returns:
            The segmentation, and its stored prediction; None if only some organs were requested, which are not stored.

        Raises:
            MedSAM2AtlasError: a requirement of the model is missing, or the image or an option cannot be used.
        """
        segmenter, options = self._chosen(tag, request or {})
        result = self._runner.get(segmenter, study, self.image(study), options)
        return result.segmentation, result.stored

    def stored(self, tag: str, study: str, request: Mapping[str, Any]) -> Prediction | None:
        """Returns a model's stored prediction for a study; None if it does not exist or is outdated.

        Raises:
            MedSAM2AtlasError: as for `get`.
        """
        segmenter, options = self._chosen(tag, request)
        return self._runner.stored(segmenter, study, self.image(study), options)

    def once(self, tag: str, image: Path, request: Mapping[str, Any]) -> Segmentation:
        """Segments an image without storing the result: an image that is not a study, or an organ that a person marks.

        Args:
            tag: name of the model.
            image: file, or folder of a series.
            request: the client's options, and for an interactive model the marks, and the mask to refine (`given_mask`).

        Raises:
            MedSAM2AtlasError: as for `get`.
        """
        segmenter, options = self._chosen(tag, request)
        if self.models()[tag].role != "interactive":
            return self._runner.once(segmenter, image, options)

        given = request.get("given_mask")

        def marked(volume: Volume) -> Options:
            if request.get(replies.VIEWER_GRID):
                volume = replace(volume, file_geometry=volume.geometry)
            if isinstance(given, GivenMask):
                return replace(options, masked=masked_of(request, volume, given))
            first, *others = marks_of(request, volume)
            return replace(options, marks=first, more_marks=tuple(others))

        return self._runner.once(segmenter, image, marked)

    def store(self) -> PredictionStore:
        """Returns the store of the studies' predictions."""
        return PredictionStore(self._resources.work, self._datastore().store)

    def image(self, study: str) -> Path:
        """Returns the file or folder of a study."""
        return Path(self._datastore().get_image_uri(study))

    def _chosen(self, tag: str, request: Mapping[str, Any]) -> tuple[Segmenter, Options]:
        """Returns the segmenter of a model that the request selects, and the options in the request."""
        names = self.models()[tag].names
        key = "segmenter" if request.get("segmenter") else "strategy"
        segmenter = self._resources.segmenter(replies.choice(request, key, names) if len(names) > 1 else names[0])
        return segmenter, options_of(request, segmenter)
