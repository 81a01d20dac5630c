"""Runs segmenters on studies: returns a valid stored result, or computes a new one and stores it.

The device runs one case at a time. The run measures energy, and uses smaller steps if GPU memory is short. A stored result is
valid as long as image, segmenter and options are the same. Results are stored under the segmenters' own tags only, so a
person's label is never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medsam2_atlas.base.energy import measured
from medsam2_atlas.base.memory import Ladder, Step
from medsam2_atlas.base.stages import stage
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Resources, Segmentation, Segmenter
from medsam2_atlas.segmenters.registry import model_of
from medsam2_atlas.studies.models import Models
from medsam2_atlas.studies.predictions import Prediction, PredictionStore

AnyOptions = Options | Callable[[Volume], Options]
"""Options, or a function that returns the options for a CT, because a person's marks are voxel indices of its file."""


@dataclass(frozen=True)
class Result:
    """A study's segmentation, and its stored prediction (None if it is not stored)."""

    segmentation: Segmentation
    stored: Prediction | None


class Runner:
    """Runs segmenters on the studies of one store."""

    def __init__(self, models: Models, store: Callable[[], PredictionStore]) -> None:
        """Keeps models and store.

        Args:
            models: provides the memory ladder and the lock of the device.
            store: returns the store of predictions; called at each use, because a server creates its store late.
        """
        self._models, self._store = models, store

    def get(self, segmenter: Segmenter, study: str, image: Path, options: Options = DEFAULTS) -> Result:
        """Returns the valid stored result of a study, or runs the segmenter and stores its result.

        Only results with all organs are stored, so that some organs never replace all of them.

        Args:
            segmenter: the segmenter.
            study: name of the study.
            image: file of the study's image.
            options: the user's choices.

        Raises:
            MedSAM2AtlasError: if something is missing, or the image or an option cannot be used.
        """
        found = self.stored(segmenter, study, image, options)
        if found is not None:
            return Result(found.segmentation(image), found)
        on_cpu = replace(options, memory="cpu")
        with self._models.busy:
            before = segmenter.provenance(on_cpu)  # taken now, because models may have changed while this run was waiting
            ran = run(segmenter, image, options, self._models)
        result, made_of = ran.segmentation, segmenter.provenance(replace(options, memory=ran.step.memory))
        # If a model was replaced during the run, it is unknown which version made the result.
        if not options.all_organs or segmenter.provenance(on_cpu) != before:
            return Result(result, None)
        return Result(result, self._store().save(model_of(segmenter.name), study, image, made_of, result))

    def stored(self, segmenter: Segmenter, study: str, image: Path, options: Options = DEFAULTS) -> Prediction | None:
        """Returns a segmenter's stored prediction for a study; None if there is no valid one.

        Args:
            segmenter: the segmenter.
            study: name of the study.
            image: file of the study's image.
            options: the user's choices.

        Raises:
            MedSAM2AtlasError: if something is missing, or an option cannot be used.
        """
        return self._store().find(model_of(segmenter.name), study, image, *self._provenances(segmenter, options))

    def once(self, segmenter: Segmenter, image: Path | Volume, options: AnyOptions = DEFAULTS) -> Segmentation:
        """Runs a segmenter without storing the result, for an image outside of the studies or an organ that a person marks.

        Args:
            segmenter: the segmenter.
            image: a CT (`[z, y, x]` in HU), or its file or folder.
            options: the user's choices.

        Raises:
            MedSAM2AtlasError: if something is missing, or the image or an option cannot be used.
        """
        with self._models.busy:
            return run(segmenter, image, options, self._models).segmentation

    def _provenances(self, segmenter: Segmenter, options: Options) -> Iterator[Provenance]:
        """Yields the provenance of each step of the memory ladder, so that a stored result of any step is found."""
        for memory in _ladder(segmenter, self._models).steps:
            yield segmenter.provenance(replace(options, memory=memory))


@dataclass(frozen=True)
class Run:
    """A segmentation with energy and memory in its report, and the step of the memory ladder that it ran in."""

    segmentation: Segmentation
    step: Step


def run(segmenter: Segmenter, image: Path | Volume, options: AnyOptions, models: Resources, no_energy: str = "") -> Run:
    """Runs a segmenter once on the memory ladder, and measures its energy by stage.

    Args:
        segmenter: the segmenter to run.
        image: a CT (`[z, y, x]` in HU), or its file or folder; its values are converted to HU by `models.hu`.
        options: options of the run; the ladder sets `memory`.
        models: provides the ladder and the HU rule.
        no_energy: why no energy is measured; empty: it is measured.

    Raises:
        MedSAM2AtlasError: if something is missing, or the image or an option cannot be used.
    """
    with measured(by_stage=True, off=no_energy) as energy:
        volume = image if isinstance(image, Volume) else _read(image, models)
        chosen = options(volume) if callable(options) else options
        result, step = _ladder(segmenter, models).run(
            model_of(segmenter.name), lambda memory: segmenter.segment(volume, replace(chosen, memory=memory))
        )
    report = result.report.with_fields(energy=energy, **({"memory": step.note} if step.note else {}))
    return Run(Segmentation(result.labels, report), step)


def _read(image: Path, models: Resources) -> Volume:
    with stage("reading"):
        return models.images.read(image, models.hu)


def _ladder(segmenter: Segmenter, models: Resources) -> Ladder:
    """Returns the ladder of a segmenter. A segmenter without a network gets a ladder of the CPU, and no GPU is tested."""
    return models.ladder if segmenter.uses_network else Ladder(torch.device("cpu"))
