"""Runs segmenters on studies: a stored result is taken, else one is made now and stored.

One case at a time runs on the device, with its energy measured, and with as much of a GPU's memory as is free. A result is
found again as long as image, segmenter and options are the same. A person's label is never touched: results are stored
under the segmenters' own tags only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medsam2_atlas.base.energy import measured
from medsam2_atlas.base.memory import Ladder, Step
from medsam2_atlas.imaging.hounsfield import read_ct
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Resources, Segmentation, Segmenter
from medsam2_atlas.segmenters.registry import model_of
from medsam2_atlas.studies.models import Models
from medsam2_atlas.studies.predictions import Prediction, PredictionStore

AnyOptions = Options | Callable[[Volume], Options]
"""Options, or a function that makes them of the CT: a person's marks are voxel indices of its file."""


@dataclass(frozen=True)
class Result:
    """A study's segmentation, and its stored prediction; None if it is not stored."""

    segmentation: Segmentation
    stored: Prediction | None


class Runner:
    """Runs segmenters on the studies of one store."""

    def __init__(self, models: Models, store: Callable[[], PredictionStore]) -> None:
        """
        Args:
            models: whose ladder and lock are used.
            store: gives the store of predictions; asked for at each use, as a server's store is made late.
        """
        self._models, self._store = models, store

    def get(self, segmenter: Segmenter, study: str, image: Path, options: Options = DEFAULTS) -> Result:
        """Returns the stored result of a study, or runs the segmenter and stores what it gives.

        Only results of all organs are stored: a part must not take the place of the whole.

        Raises:
            MedSAM2AtlasError: something is missing, or the image or an option cannot be used.
        """
        found = self.stored(segmenter, study, image, options)
        if found is not None:
            return Result(found.segmentation(image), found)
        usual = replace(options, memory="cpu")
        with self._models.busy:
            before = segmenter.provenance(usual)  # models may have changed while this run was waiting
            ran = run(segmenter, image, options, self._models)
        result, made_of = ran.segmentation, segmenter.provenance(replace(options, memory=ran.step.memory))
        if not options.all_organs or segmenter.provenance(usual) != before:  # or a model was replaced just when this began
            return Result(result, None)
        return Result(result, self._store().save(model_of(segmenter.name), study, image, made_of, result))

    def stored(self, segmenter: Segmenter, study: str, image: Path, options: Options = DEFAULTS) -> Prediction | None:
        """Returns a segmenter's stored prediction for a study, if nothing has changed since it was made.

        Raises:
            MedSAM2AtlasError: as `get`.
        """
        return self._store().find(model_of(segmenter.name), study, image, *self._provenances(segmenter, options))

    def once(self, segmenter: Segmenter, image: Path | Volume, options: AnyOptions = DEFAULTS) -> Segmentation:
        """Returns a segmentation that is not stored: of an image that is no study, or of an organ that somebody marks.

        Raises:
            MedSAM2AtlasError: as `get`.
        """
        with self._models.busy:
            return run(segmenter, image, options, self._models).segmentation

    def _provenances(self, segmenter: Segmenter, options: Options) -> Iterator[Provenance]:
        """Yields what a stored result may have been made of: memory that is short now spoils no result made before."""
        for memory in _ladder(segmenter, self._models).steps:
            yield segmenter.provenance(replace(options, memory=memory))


@dataclass(frozen=True)
class Run:
    """A segmentation whose report tells energy and memory, and the step of the memory ladder that it was made with."""

    segmentation: Segmentation
    step: Step


def run(segmenter: Segmenter, image: Path | Volume, options: AnyOptions, models: Resources) -> Run:
    """Runs a segmenter once, with its energy measured and as much of a GPU's memory as is free.

    Args:
        segmenter: to run.
        image: a CT, or its file or folder, whose values become HU by the models' rule.
        options: for the run; `memory` is set by the ladder.
        models: whose ladder is used.

    Raises:
        MedSAM2AtlasError: something is missing, or the image or an option cannot be used.
    """
    with measured() as energy:
        volume = image if isinstance(image, Volume) else read_ct(image, models.hu)
        chosen = options(volume) if callable(options) else options
        result, step = _ladder(segmenter, models).run(
            model_of(segmenter.name), lambda memory: segmenter.segment(volume, replace(chosen, memory=memory))
        )
    report = result.report.with_fields(energy=energy, **({"memory": step.note} if step.note else {}))
    return Run(Segmentation(result.labels, report), step)


def _ladder(segmenter: Segmenter, models: Resources) -> Ladder:
    """Returns the ladder of a segmenter. For one without a network, no GPU is asked."""
    return models.ladder if segmenter.uses_network else Ladder(torch.device("cpu"))
