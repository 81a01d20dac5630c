"""The state of one CT while prompted strategies segment it: its inputs, and intermediate results that strategies share."""

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
from medsam2_atlas.base.stages import stage
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import OrganLogits, Weights
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
from medsam2_atlas.segmenters.joint_fusion import Fused, fuse_jointly
from medsam2_atlas.segmenters.joint_weights import joint_weights
from medsam2_atlas.segmenters.open_images import OpenImage
from medsam2_atlas.segmenters.registry import family_of, trainable


@dataclass
class Clock:
    """Measures the wall time of each stage of a run, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, *, whole: bool = False) -> Iterator[None]:
        """Adds the block's wall time to a stage, and names the stage for observers; `whole`: see `stages.stage`."""
        with stage(name, whole=whole), self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the block's wall time to an entry that is not a stage, such as `total`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class FirstPass:
    """A first pass of MedSAM2.

    Attributes:
        prompts: its prompts, three boxes per organ.
        logits: its logits by organ number.
    """

    prompts: Prompts
    logits: dict[int, OrganLogits]


class Case:
    """A CT with resources and options, and the intermediate results that strategies share.

    Score maps, coarse masks, encoded slices and the first pass of B, C, D and F are computed at first use; their time is added
    to the strategy that uses them first. Slices that an earlier case of the same CT encoded may still be there
    (`open_images`). Networks and atlas stay the same for the whole case, even if training publishes new
    weights meanwhile. A case belongs to one device; another step of the memory ladder needs a new case.
    """

    def __init__(self, image: Volume, resources: Resources, options: Options = DEFAULTS) -> None:
        """Starts a case without intermediate results.

        Args:
            image: the CT, `[z, y, x]` in HU.
            resources: source of atlas and networks; each is loaded only if a strategy needs it.
            options: options of all strategies that run on this case.
        """
        self.image, self.options = image, options
        self._resources = resources
        self._scores: ScoreMaps | None = None
        self._coarse: np.ndarray | None = None
        self._open: OpenImage | None = None
        self._first: FirstPass | None = None
        self._first_labels: np.ndarray | None = None

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
        """The segmenter whose coarse masks give prompts; None if prompts come from the atlas alone."""
        return prompter_of(self.options, self._resources)

    def used(self, name: str) -> bool:
        """Returns whether `atlas` or `weights` has been used so far."""
        return name in self.__dict__

    @property
    def organs(self) -> list[int]:
        """The numbers of the organs to segment."""
        return self.options.labels

    def scores(self, clock: Clock) -> ScoreMaps:
        """Returns the score maps of the requested organs; the first call registers the CT."""
        if self._scores is None:
            atlas = self.atlas
            with clock.stage("registration and score maps"):
                found = self._resources.score_maps(self.image, atlas)
            self._scores = replace(found, maps={k: found.maps[k] for k in self.organs if k in found.maps})
        return self._scores

    def first_prompts(self, fractions: tuple[float, ...], clock: Clock) -> Prompts:
        """Returns the prompts of the first pass: from score maps, from coarse masks, or the better of both for each organ.

        Args:
            fractions: positions of the boxes in the prompting region along z, 0..1.
            clock: measures the stages.
        """
        prompter = self.prompter
        if prompter is None:
            return self._from_scores(fractions, clock)
        source = "unet" if self.options.prompts in ("unet", "both") else prompter.name
        reason = _NO_UNET_MASK if source == "unet" else _NO_COARSE_MASK
        coarse = self.from_labels(self._coarse_labels(prompter, clock), fractions, reason, clock)
        if self.options.prompts != "both":
            return replace(coarse, origins={p.label: PromptOrigin(source, "requested") for p in coarse.prompts})
        from_atlas = self._from_scores(fractions, clock)
        known = prompter.validation()
        return choose_prompts(from_atlas, coarse, SourceQuality(known.dice, known.cases, self.atlas.agreement), self.organs)

    def _from_scores(self, fractions: tuple[float, ...], clock: Clock) -> Prompts:
        return self.prompts_of(self.scores(clock), self.organs, fractions, clock)

    def prompts_of(self, scores: ScoreMaps, organs: Sequence[int], fractions: tuple[float, ...], clock: Clock) -> Prompts:
        """Returns the prompts of score maps, by the threshold rule of the options.

        Args:
            scores: the score maps.
            organs: numbers of the organs to prompt.
            fractions: positions of the boxes in the prompting region along z, 0..1.
            clock: measures the stage.
        """
        with clock.stage("prompts"):
            return prompts_from_scores(scores, organ_table(), organs, fractions, self.options.thresholds)

    def from_labels(self, labels: np.ndarray, fractions: tuple[float, ...], reason: str, clock: Clock) -> Prompts:
        """Returns the prompts of a label map.

        Args:
            labels: organ numbers `[z, y, x]`.
            fractions: positions of the boxes in the organ along z, 0..1.
            reason: why an organ that the label map does not contain gets no prompt.
            clock: measures the stage.
        """
        with clock.stage("prompts"):
            return prompts_from_labels(labels, self.organs, fractions, reason)

    def true_labels(self) -> np.ndarray:
        """Returns the ground truth `[z, y, x]`, for reference strategies only.

        Raises:
            InputError: if the options contain no ground truth.
        """
        if self.options.truth is None:
            raise InputError(
                "ground truth", "is needed for the reference strategies.", "Name the label map of the annotator by --truth."
            )
        return self.options.truth.array

    def logits(self, prompts: Sequence[OrganPrompt], clock: Clock) -> dict[int, OrganLogits]:
        """Runs one pass of MedSAM2 and returns its logits by organ number."""
        options = self.options
        if self._open is None:
            weights = self.weights
            with clock.stage("network"):
                self._open = self._resources.images.open(self.image, weights, memory=options.memory, mode=options.mode)
        with clock.stage("network"), self._open.used() as prepared:
            return prepared.segment(prompts, loop=options.loop, fill_holes=options.fill_holes, progress=current())

    def fused(self, logits: dict[int, OrganLogits], clock: Clock) -> np.ndarray:
        """Fuses the logits of organs to a label map `[z, y, x]`."""
        with clock.stage("fusion"):
            return fuse_logits(logits, self.image.array.shape)

    def fused_jointly(self, logits: dict[int, OrganLogits], clock: Clock) -> Fused:
        """Fuses the logits of organs with their score maps; see `joint_fusion`."""
        scores = self.scores(clock)
        with clock.stage("fusion"):
            return fuse_jointly(logits, scores, joint_weights(self.atlas, self.weights.sha256))

    def prompted(self, prompts: Prompts, clock: Clock) -> np.ndarray:
        """Runs one pass of MedSAM2 and returns its label map `[z, y, x]`."""
        return self.fused(self.logits(prompts.prompts, clock), clock)

    def first_pass(self, clock: Clock) -> FirstPass:
        """Returns prompts and logits of the first pass of the strategies B, C, D and F."""
        if self._first is None:
            prompts = self.first_prompts(prompting_config().three_boxes, clock)
            logits = self.logits(prompts.prompts, clock)
            self._first = FirstPass(prompts, logits)
        return self._first

    def first_labels(self, clock: Clock) -> np.ndarray:
        """Returns the label map of the first pass, organ numbers `[z, y, x]`, fused from its logits alone."""
        if self._first_labels is None:
            self._first_labels = self.fused(self.first_pass(clock).logits, clock)
        return self._first_labels

    def kept(self, logits: dict[int, OrganLogits]) -> dict[int, OrganLogits]:
        """Returns the logits that a second pass may use again: all in fast mode, none in exact mode, where it repeats all."""
        return logits if self.options.mode == "fast" else {}

    def _coarse_labels(self, prompter: Segmenter, clock: Clock) -> np.ndarray:
        if self._coarse is None:
            with clock.stage("U-Net" if prompter.name.startswith("unet") else "coarse masks", whole=True):
                options = Options(organs=self.options.organs, memory=self.options.memory)
                self._coarse = prompter.segment(self.image, options).labels.array
        return self._coarse


_NO_UNET_MASK, _NO_COARSE_MASK = "the U-Net found nothing", "the coarse masks do not contain it"
"""Reasons why an organ has no prompt."""


def prompter_of(options: Options, resources: Resources) -> Segmenter | None:
    """Returns the segmenter whose coarse masks prompt MedSAM2; None if prompts come from the atlas alone.

    `unet` and `both` mean the first U-Net that can run.

    Raises:
        InputError: if `options.prompts` does not name a trained segmenter.
        WeightsError: if no U-Net has weights.
    """
    if options.prompts == "atlas":
        return None
    if options.prompts in ("unet", "both"):
        unets = [resources.segmenter(name) for name in trainable()]
        ready = next((unet for unet in unets if not unet.missing()), None)
        if ready is None:
            unets[0].check()  # raises an error that names the missing weights
        return ready
    if family_of(options.prompts).role != "trained":
        raise InputError(
            options.prompts, "gives no coarse masks to prompt from.", "Choose atlas, unet, both or a trained segmenter."
        )
    return resources.segmenter(options.prompts)
