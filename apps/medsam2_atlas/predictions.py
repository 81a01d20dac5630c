"""Runs models on studies: one case at a time on the device, with its energy measured, stored under the model's own tag.

What is asked for again is not computed again as long as image, models and options are the same. A person's label is
never touched: models store under their own names only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from medsam2_atlas.choices import Memory
from medsam2_atlas.energy import measured
from medsam2_atlas.labels import organ_table
from medsam2_atlas.segmentation import Segmentation
from medsam2_atlas.studies import Prediction, PredictionStore
from models import Models
from study_datastore import StudyDatastore


class Segmenter(Protocol):
    """An infer task of this project. `request["memory"]`: how sparing networks are with a GPU's memory (`choices.Memory`)."""

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
        found = store.find(model, study, image, task.provenance(self._as_now(model, asked)))
        if found is not None:
            return found.segmentation(image), found
        with self._models.busy:
            before = task.provenance(asked | {"memory": ""})  # models may have changed while waiting
            result, memory = self._run(model, task, asked)
        whole = set(before["organs"]) == set(organ_table().indices)
        if not whole or task.provenance(asked | {"memory": ""}) != before:  # or a model was replaced just when this began
            return result, None
        return result, store.save(model, study, image, task.provenance(asked | {"memory": memory}), result)

    def stored(self, model: str, study: str, request: Mapping[str, Any]) -> Prediction | None:
        """What is stored of a model for a study, if it has been made and nothing has changed since.

        Raises:
            MedSAM2AtlasError: as `get`.
        """
        image = self.image(study)
        asked = self._as_now(model, dict(request) | {"image": str(image), "model": model})
        return self.store().find(model, study, image, self.tasks[model].provenance(asked))

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

    def _as_now(self, model: str, request: dict[str, Any]) -> dict[str, Any]:
        """A request as it would be run now: on the GPU or not, as memory was found to suffice."""
        return request | {"memory": self._models.ladder.first(model)}

    def _run(self, model: str, task: Segmenter, request: dict[str, Any]) -> tuple[Segmentation, Memory]:
        """A segmentation with its energy, with as much of a GPU's memory as there is; and how sparing that was."""
        with measured() as energy:
            result, climbed = self._models.ladder.run(model, lambda memory: task.segment(request | {"memory": memory}))
        result.report["energy"] = energy
        if climbed.note:
            result.report["memory"] = climbed.note
        return result, climbed.memory
