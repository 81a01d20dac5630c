"""Runs models on studies: one case at a time on the device, with its energy measured, stored under the model's own tag.

What is asked for again is not computed again as long as image, models and options are the same. A person's label is
never touched: models store under their own names only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.energy import measured
from medsam2_atlas.base.memory import Ladder
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.studies import Prediction, PredictionStore
from tasks.models import Models


class Segmenter(Protocol):
    """An infer task of this project. `request["memory"]`: how sparing networks are with a GPU's memory (`choices.Memory`)."""

    uses_network: bool
    """Whether it needs a network, and so may need a GPU."""

    def segment(self, request: dict[str, Any]) -> Segmentation:
        """Its result."""
        ...


class Predictor(Segmenter, Protocol):
    """An infer task whose results are stored."""

    labels: dict[str, int]

    def missing(self) -> str:
        """What keeps it from running."""
        ...

    def provenance(self, request: dict[str, Any]) -> dict[str, Any]:
        """What its result will depend on besides the image."""
        ...


class Predictions:
    """The predictions of a server's models."""

    def __init__(self, models: Models, datastore: Callable[[], StudyDatastore]) -> None:
        """`datastore`: gives the server's; asked for at each use, since it is made after the tasks."""
        self._models, self._datastore = models, datastore
        self.tasks: dict[str, Predictor] = {}

    def get(self, model: str, study: str, request: Mapping[str, Any] | None = None) -> tuple[Segmentation, Prediction | None]:
        """A study's segmentation by a model, from the store or made now; and what is stored of it.

        Only predictions of all organs are stored: a part must not take the place of the whole.

        Raises:
            MedSAM2AtlasError: something is missing, or the image or an option cannot be used.
        """
        task, image = self.tasks[model], self.image(study)
        asked = dict(request or {}) | {"image": str(image), "model": model}
        store = self.store()
        found = store.find(model, study, image, *self._provenances(task, asked))
        if found is not None:
            return found.segmentation(image), found
        with self._models.busy:
            before = task.provenance(asked | {"memory": "cpu"})  # models may have changed while waiting
            result, memory = self._run(model, task, asked)
        made_of = task.provenance(asked | {"memory": memory})
        whole = set(before["organs"]) == set(organ_table().indices)
        if not whole or task.provenance(asked | {"memory": "cpu"}) != before:  # or a model was replaced just when this began
            return result, None
        return result, store.save(model, study, image, made_of, result)

    def stored(self, model: str, study: str, request: Mapping[str, Any]) -> Prediction | None:
        """What is stored of a model for a study, if it has been made and nothing has changed since.

        Raises:
            MedSAM2AtlasError: as `get`.
        """
        image = self.image(study)
        asked = dict(request) | {"image": str(image), "model": model}
        return self.store().find(model, study, image, *self._provenances(self.tasks[model], asked))

    def once(self, task: Segmenter, image: Path, request: Mapping[str, Any]) -> Segmentation:
        """A segmentation that is not stored: of an image that is no study, or of an organ that somebody points at.

        Raises:
            MedSAM2AtlasError: as `get`.
        """
        with self._models.busy:
            return self._run(str(request.get("model")), task, dict(request) | {"image": str(image)})[0]

    def store(self) -> PredictionStore:
        """Where predictions lie: under the models' tags."""
        return PredictionStore(self._models.work, self._datastore().store)

    def image(self, study: str) -> Path:
        """The file or folder of a study."""
        return Path(self._datastore().get_image_uri(study))

    def _provenances(self, task: Predictor, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields what a stored result may have been made of: memory that is short now spoils no result made before."""
        for memory in self._ladder(task).steps:
            yield task.provenance(request | {"memory": memory})

    def _ladder(self, task: Segmenter) -> Ladder:
        """Returns the ladder of a task. For one without a network, no GPU is asked."""
        return self._models.ladder if task.uses_network else Ladder(torch.device("cpu"))

    def _run(self, model: str, task: Segmenter, request: dict[str, Any]) -> tuple[Segmentation, Memory]:
        """A segmentation with its energy, with as much of a GPU's memory as there is; and how sparing that was."""
        with measured() as energy:
            result, step = self._ladder(task).run(model, lambda memory: task.segment(request | {"memory": memory}))
        result.report["energy"] = energy
        if step.note:
            result.report["memory"] = step.note
        return result, step.memory
