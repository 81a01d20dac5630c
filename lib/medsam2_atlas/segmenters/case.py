"""One CT while prompted strategies segment it: its inputs, and the work that several strategies share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, Weights
from medsam2_atlas.prompting import (
    OrganPrompt,
    PromptOrigin,
    Prompts,
    SourceQuality,
    choose_prompts,
    prompting_config,
    prompts_from_labels,
    prompts_from_scores,
)
from medsam2_atlas.scoremaps import ScoreMaps
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Resources, Segmenter
from medsam2_atlas.segmenters.fusion import fuse_logits
from medsam2_atlas.segmenters.registry import family_of, trainable


@dataclass
class Clock:
    """Wall time of each stage of a run, seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the block's wall time to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


class Case:
    """A CT, the resources and options that it is segmented with, and the work that strategies share.

    Score maps, coarse masks, encoded slices and the first pass of B, C and D are made when they are first needed; their time
    counts for the strategy that needed them. Networks and atlas stay the same for the whole case, whatever training publishes
    meanwhile. A case belongs to one device; another step of the memory ladder takes another case.
    """

    def __init__(self, image: Volume, resources: Resources, options: Options = DEFAULTS) -> None:
        """
        Args:
            image: the CT in HU.
            resources: atlas and networks; only what a strategy needs is asked for.
            options: for all strategies that run on this case.
        """
        self.image, self.options = image, options
        self._resources = resources
        self._scores: ScoreMaps | None = None
        self._coarse: np.ndarray | None = None
        self._volume: MedSAM2Volume | None = None
        self._first: tuple[Prompts, np.ndarray] | None = None

    @cached_property
    def atlas(self) -> Atlas:
        """The atlas; raises AtlasError if there is none."""
        return self._resources.atlas()

    @cached_property
    def weights(self) -> Weights:
        """MedSAM2 on the case's device; raises WeightsError if there are no weights."""
        return self._resources.weights(self.options.weights, self._resources.ladder.device_of(self.options.memory))

    @cached_property
    def prompter(self) -> Segmenter | None:
        """The segmenter whose coarse masks prompt; None if the atlas alone does."""
        return prompter_of(self.options, self._resources)

    def used(self, what: str) -> bool:
        """Returns whether `atlas` or `weights` has been needed so far."""
        return what in self.__dict__

    @property
    def organs(self) -> list[int]:
        """Numbers of the organs to segment."""
        return self.options.labels

    def scores(self, clock: Clock) -> ScoreMaps:
        """Returns the score maps of the organs; one registration."""
        if self._scores is None:
            atlas = self.atlas
            with clock.stage("registration and score maps"):
                found = self._resources.score_maps(self.image, atlas)
            self._scores = replace(found, maps={k: found.maps[k] for k in self.organs if k in found.maps})
        return self._scores

    def first_prompts(self, fractions: tuple[float, ...], clock: Clock) -> Prompts:
        """Returns prompts that need no pass of MedSAM2: from score maps, from coarse masks, or per organ the better ones."""
        prompter = self.prompter
        if prompter is None:
            return self._from_scores(fractions, clock)
        source = "unet" if self.options.prompts in ("unet", "both") else prompter.name
        coarse = self.from_labels(self._coarse_labels(prompter, clock), fractions, _NOTHING[source == "unet"], clock)
        if self.options.prompts != "both":
            return replace(coarse, origins={p.label: PromptOrigin(source, "asked for") for p in coarse.prompts})
        from_atlas = self._from_scores(fractions, clock)
        known = prompter.validation()
        return choose_prompts(from_atlas, coarse, SourceQuality(known.dice, known.cases, self.atlas.agreement), self.organs)

    def _from_scores(self, fractions: tuple[float, ...], clock: Clock) -> Prompts:
        return self.prompts_of(self.scores(clock), self.organs, fractions, clock)

    def prompts_of(self, scores: ScoreMaps, organs: Sequence[int], fractions: tuple[float, ...], clock: Clock) -> Prompts:
        """Returns prompts from score maps, by the case's threshold rule."""
        with clock.stage("prompts"):
            return prompts_from_scores(scores, organ_table(), organs, fractions, self.options.thresholds)

    def from_labels(self, labels: np.ndarray, fractions: tuple[float, ...], reason: str, clock: Clock) -> Prompts:
        """Returns prompts from a label map `[z, y, x]`; `reason` is given for organs that it lacks."""
        with clock.stage("prompts"):
            return prompts_from_labels(labels, self.organs, fractions, reason)

    def true_labels(self) -> np.ndarray:
        """Returns the true label map `[z, y, x]`, for reference strategies alone.

        Raises:
            InputError: none was given.
        """
        if self.options.truth is None:
            raise InputError("truth", "is needed for the reference strategies.", "Name the true label map by --truth.")
        return self.options.truth.array

    def logits(self, prompts: Sequence[OrganPrompt], clock: Clock) -> dict[int, OrganLogits]:
        """Returns the logits of one pass of MedSAM2 for prompts."""
        options = self.options
        if self._volume is None:
            weights = self.weights
            with clock.stage("network"):
                self._volume = MedSAM2Volume(weights, self.image.array, memory=options.memory)
        with clock.stage("network"):
            return self._volume.segment(prompts, loop=options.loop, fill_holes=options.fill_holes, progress=current())

    def fused(self, logits: dict[int, OrganLogits], clock: Clock) -> np.ndarray:
        """Returns the label map `[z, y, x]` of logits."""
        with clock.stage("fusion"):
            return fuse_logits(logits, self.image.array.shape)

    def prompted(self, prompts: Prompts, clock: Clock) -> np.ndarray:
        """Returns the label map `[z, y, x]` of one pass of MedSAM2."""
        return self.fused(self.logits(prompts.prompts, clock), clock)

    def first_pass(self, clock: Clock) -> tuple[Prompts, np.ndarray]:
        """Returns three boxes per organ, and the label map `[z, y, x]` that they give."""
        if self._first is None:
            prompts = self.first_prompts(prompting_config().three_boxes, clock)
            self._first = prompts, self.prompted(prompts, clock)
        return self._first

    def _coarse_labels(self, prompter: Segmenter, clock: Clock) -> np.ndarray:
        if self._coarse is None:
            with clock.stage("U-Net" if prompter.name.startswith("unet") else "coarse masks"):
                options = Options(organs=self.options.organs, memory=self.options.memory)
                self._coarse = prompter.segment(self.image, options).labels.array
        return self._coarse


_NOTHING = {True: "the U-Net found nothing", False: "the coarse masks lack it"}


def prompter_of(options: Options, resources: Resources) -> Segmenter | None:
    """Returns the segmenter whose coarse masks prompt MedSAM2; None if the atlas alone does.

    `unet` and `both` stand for the first U-Net that can run.

    Raises:
        InputError: the name is not one of a trained segmenter.
        WeightsError: no U-Net has weights.
    """
    if options.prompts == "atlas":
        return None
    if options.prompts in ("unet", "both"):
        unets = [resources.segmenter(name) for name in trainable()]
        able = next((unet for unet in unets if not unet.missing()), None)
        if able is None:
            unets[0].check()  # says what is missing
        return able
    if family_of(options.prompts).role != "trained":
        raise InputError(
            options.prompts, "gives no coarse masks to prompt from.", "Choose atlas, unet, both or a trained segmenter."
        )
    return resources.segmenter(options.prompts)
