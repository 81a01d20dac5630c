"""From a CT to a label map: the strategies, each a short composition of the rooms.

`atlas`  score maps alone, no network.
`A`      one box in the middle of the prompting region.
`B`      three boxes, at 25, 50 and 75 % of it.
`C`      B, then a second pass prompted by B's masks.
`D`      as C, with boxes 10 % larger in area and ranges 20 % longer.
`E`      the surest organs first; their masks move and trim the score maps of the others, which are prompted then; the second
         pass as D's.
`reference-1`, `reference-3`  one or three boxes from the true label map: what the network could reach.

The first boxes of A to D, and of E's surest organs, come from score maps, or from a U-Net's coarse label map
(`Options.prompts`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.choices import REFERENCE_STRATEGIES, Loop, Memory, PromptSource, ThresholdRule
from medsam2_atlas.base.errors import AtlasError, InputError, WeightsError
from medsam2_atlas.base.memory import Ladder, ran_on
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, Weights
from medsam2_atlas.prompting import (
    Evidence,
    OrganPrompt,
    Prompts,
    by_stability,
    choose_prompts,
    confidence,
    confidence_config,
    constrained,
    describe_prompts,
    enlarged,
    prompting_config,
    prompts_from_labels,
    prompts_from_scores,
)
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.scoremaps import ScoreMaps, score_maps
from medsam2_atlas.segmenters.base import Segmentation, base_report
from medsam2_atlas.segmenters.fusion import fuse_logits, fuse_scores

if TYPE_CHECKING:
    from medsam2_atlas.unet import UNet

__all__ = ["REFERENCE_STRATEGIES", "STRATEGIES", "Case", "Options", "PromptSource", "segment"]


@dataclass(frozen=True)
class Options:
    """How to segment.

    organs: numbers; all of the table where empty. prompts: from the atlas' score maps, from a U-Net's coarse masks, or per
    organ from the one that has shown itself better. loop: see `medsam2.propagation`. thresholds: see `prompting`.
    fill_holes: as the official CUDA build does. memory: how sparing networks are with a GPU's memory.
    """

    organs: tuple[int, ...] = ()
    prompts: PromptSource = "atlas"
    loop: Loop = "symmetric"
    thresholds: ThresholdRule = "atlas"
    fill_holes: bool = False
    memory: Memory = ""


@dataclass
class Case:
    """One CT while it is segmented, by one strategy or by several in turn.

    What strategies share (score maps, encoded slices, B's label map as the first pass of C and D) is made once, when it
    is first asked for; its time counts for the strategy that asked.
    """

    image: Volume
    atlas: Atlas | None = None
    weights: Weights | None = None
    truth: Volume | None = None
    options: Options = Options()
    progress: Progress = silent
    unet: UNet | None = None
    registrations: RegistrationCache | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    passes: list[Prompts] = field(default_factory=list)
    kept: dict[str, ScoreMaps] = field(default_factory=dict)
    """What needs no network: cases that differ in their networks' devices share it."""

    def sparing(self, memory: Memory, device: torch.device) -> Case:
        """The same case with its networks on a device, sparing its memory. Registration is not done again.

        Raises:
            torch.OutOfMemoryError: the device has no memory for the networks.
        """
        weights = None if self.weights is None else self.weights.on(device)
        unet = None if self.unet is None else self.unet.on(device)
        options = replace(self.options, memory=memory)
        return replace(self, weights=weights, unet=unet, options=options, seconds={}, passes=[])

    @property
    def organs(self) -> list[int]:
        """Numbers of the organs to segment."""
        return list(self.options.organs) or organ_table().indices

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the block's wall time to a stage of the report."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    @property
    def scores(self) -> ScoreMaps:
        """Score maps of the organs; one registration."""
        if "scores" in self.kept:
            return self.kept["scores"]
        if self.atlas is None:
            raise AtlasError(
                "atlas", "is needed for this strategy.", "Name one by --atlas, or make one: medsam2-atlas atlas build."
            )
        with self.timed("registration and score maps"):
            found = score_maps(self.image, self.atlas, self.organs, progress=self.progress, cache=self.registrations)
        self.kept["scores"] = found
        return found

    @cached_property
    def coarse_labels(self) -> np.ndarray:
        """The U-Net's label map `[z, y, x]`, to prompt from."""
        if self.unet is None:
            raise WeightsError(
                "U-Net", "is needed to prompt from it.", "Train it or name its weights, or prompt from the atlas."
            )
        from medsam2_atlas.unet import predict  # MONAI, which takes seconds to import, is for the U-Net alone

        with self.timed("U-Net"):
            return predict(self.image, self.unet, memory=self.options.memory, progress=self.progress).labels

    @cached_property
    def volume(self) -> MedSAM2Volume:
        """The CT prepared for the network."""
        if self.weights is None:
            raise WeightsError("weights", "are needed for this strategy.", "Name a checkpoint, or use the strategy `atlas`.")
        with self.timed("network"):
            return MedSAM2Volume(self.weights, self.image.array, memory=self.options.memory)

    def first_prompts(self, fractions: tuple[float, ...]) -> Prompts:
        """Prompts that need no pass of the network: from the score maps, the U-Net, or the better one per organ."""
        source = self.options.prompts
        if source == "atlas":
            return self._from_scores(fractions)
        coarse = self.from_labels(self.coarse_labels, fractions, "the U-Net found nothing")
        if source == "unet":
            return replace(coarse, sources={p.label: "unet: asked for" for p in coarse.prompts})
        assert self.unet is not None, "its label map was just made"
        from_atlas = self._from_scores(fractions)
        agreement = self.atlas.agreement if self.atlas is not None else {}
        evidence = Evidence(self.unet.validation, self.unet.cases, agreement)
        return choose_prompts(from_atlas, coarse, evidence, self.organs)

    def _from_scores(self, fractions: tuple[float, ...]) -> Prompts:
        scores = self.scores
        with self.timed("prompts"):
            return prompts_from_scores(scores, organ_table(), self.organs, fractions, self.options.thresholds)

    def from_labels(self, labels: np.ndarray, fractions: tuple[float, ...], reason: str) -> Prompts:
        """Prompts from a label map."""
        with self.timed("prompts"):
            return prompts_from_labels(labels, self.organs, fractions, reason)

    def true_labels(self) -> np.ndarray:
        """The truth that reference strategies are given."""
        if self.truth is None:
            raise InputError("truth", "is needed for the reference strategies.", "Name the true label map by --truth.")
        return self.truth.array

    def prompted(self, prompts: Prompts) -> np.ndarray:
        """Label map `[z, y, x]` of one pass of the network."""
        self.passes.append(prompts)
        return self._run(prompts)

    def _logits(self, prompts: Sequence[OrganPrompt]) -> dict[int, OrganLogits]:
        volume = self.volume
        with self.timed("network"):
            return volume.segment(prompts, loop=self.options.loop, fill_holes=self.options.fill_holes, progress=self.progress)

    def _run(self, prompts: Prompts) -> np.ndarray:
        logits = self._logits(prompts.prompts)
        with self.timed("fusion"):
            return fuse_logits(logits, self.image.array.shape)

    @cached_property
    def _first(self) -> tuple[Prompts, np.ndarray]:
        prompts = self.first_prompts(prompting_config().three_boxes)
        return prompts, self._run(prompts)

    def first_pass(self) -> np.ndarray:
        """Label map `[z, y, x]` of three boxes per organ from score maps or U-Net."""
        prompts, labels = self._first
        self.passes.append(prompts)
        return labels

    def first_pass_by_stability(self) -> np.ndarray:
        """Label map `[z, y, x]` of two rounds: organs with sure prompts, then the rest within what those leave."""
        prompts = self.first_prompts(prompting_config().three_boxes)
        stable, later = by_stability(prompts)
        if not later or self.options.prompts == "unet":  # a U-Net's organs do not overlap: nothing to constrain
            return self.first_pass()
        given = {p.label: p for p in prompts.prompts}
        logits = self._logits([given[k] for k in stable])
        with self.timed("fusion"):
            labels = fuse_logits(logits, self.image.array.shape)
        with self.timed("prompts"):
            scores = constrained(self.scores, labels, later)
            from_atlas = [k for k in later if not prompts.sources.get(k, "").startswith("unet")]
            again = prompts_from_scores(
                scores, organ_table(), from_atlas, prompting_config().three_boxes, self.options.thresholds
            )
        given |= {p.label: p for p in again.prompts}
        self.passes.append(replace(prompts, prompts=tuple(given[k] for k in (*stable, *later))))
        logits |= self._logits([given[k] for k in later])
        with self.timed("fusion"):
            return fuse_logits(logits, self.image.array.shape)


def _atlas(case: Case) -> np.ndarray:
    scores = case.scores
    with case.timed("fusion"):
        return fuse_scores(scores)


def _a(case: Case) -> np.ndarray:
    return case.prompted(case.first_prompts(prompting_config().one_box))


def _b(case: Case) -> np.ndarray:
    return case.first_pass()


def _second_pass(case: Case) -> Prompts:
    return case.from_labels(case.first_pass(), prompting_config().three_boxes, "the first pass found nothing")


def _c(case: Case) -> np.ndarray:
    return case.prompted(_second_pass(case))


def _d(case: Case) -> np.ndarray:
    return case.prompted(enlarged(_second_pass(case), organ_table(), case.image.array.shape))


def _e(case: Case) -> np.ndarray:
    return case.prompted(
        enlarged(
            case.from_labels(case.first_pass_by_stability(), prompting_config().three_boxes, "the first pass found nothing"),
            organ_table(),
            case.image.array.shape,
        )
    )


def _from_truth(case: Case, fractions: tuple[float, ...]) -> np.ndarray:
    return case.prompted(case.from_labels(case.true_labels(), fractions, "the truth lacks it"))


STRATEGIES: dict[str, Callable[[Case], np.ndarray]] = {
    "atlas": _atlas,
    "A": _a,
    "B": _b,
    "C": _c,
    "D": _d,
    "E": _e,
    "reference-1": lambda case: _from_truth(case, prompting_config().one_box),
    "reference-3": lambda case: _from_truth(case, prompting_config().three_boxes),
}


def segment(case: Case, strategy: str = "D") -> Segmentation:
    """Segments a CT. Only the reference strategies look at `case.truth`, and their report says so.

    Raises:
        InputError: an unknown strategy, a truth for another than a reference strategy, or an image that cannot be used.
        AtlasError: the strategy needs an atlas and there is none.
        WeightsError: the strategy needs weights and there are none.
    """
    if strategy not in STRATEGIES:
        raise InputError(strategy, "is not a strategy.", f"Choose from: {', '.join(STRATEGIES)}.")
    case.passes, case.seconds = [], {}
    with case.timed("total"):
        labels = STRATEGIES[strategy](case)
    wanted = set(case.organs)
    labels = np.where(np.isin(labels, list(wanted)), labels, 0).astype(np.uint8)
    return Segmentation(case.image.with_array(labels), _report(case, strategy, labels))


def segment_within_memory(case: Case, strategy: str, ladder: Ladder) -> tuple[Segmentation, Case]:
    """As `segment`, with as much of a GPU's memory as there is; the case as it was run, besides.

    Args:
        case: its networks lie on the processor; copies of them go to the ladder's device.
        strategy: as `segment`.
        ladder: of that device.

    Raises:
        InputError, AtlasError, WeightsError: as `segment`.
    """

    def attempt(memory: Memory) -> tuple[Segmentation, Case]:
        tried = case.sparing(memory, ladder.device_of(memory))
        return segment(tried, strategy), tried

    (result, ran), step = ladder.run("segmentation", attempt)
    if step.note:
        result.report["memory"] = step.note
    return result, ran


def _ran_on(case: Case, used_network: bool, used_unet: bool) -> dict[str, str]:
    """Device of the networks, and what the label map owes to it."""
    if not used_network or case.weights is None:
        return {"device": "cpu"}
    device = case.weights.device
    return ran_on(device, medsam2=True, unet=used_unet, memory=case.options.memory) | {"device": str(device)}


def _confidences(case: Case, strategy: str) -> list[tuple[int, float]]:
    """Organs with the confidence of their first prompts, or of their score maps where there are none; the least sure first."""
    if strategy == "atlas":
        known = {k: confidence(score.evidence, confidence_config()) for k, score in case.scores.maps.items()}
    else:
        known = {p.label: p.confidence for p in (case.passes[0].prompts if case.passes else ())}
    return sorted(((k, value) for k, value in known.items() if value is not None), key=lambda entry: entry[1])


def _report(case: Case, strategy: str, labels: np.ndarray) -> dict[str, Any]:
    table = organ_table()
    last = case.passes[-1] if case.passes else Prompts(())
    missing: dict[int, str] = {}
    for prompts in case.passes:
        missing |= {k: reason for k, reason in prompts.missing.items() if k not in missing}
    used_network = bool(case.passes) and case.weights is not None
    used_unet = bool(case.passes) and strategy not in REFERENCE_STRATEGIES and case.options.prompts != "atlas"
    report: dict[str, Any] = base_report(case.image, labels, case.organs) | {
        "strategy": strategy,
        "loop": case.options.loop,
        "thresholds": case.options.thresholds,
        "prompts_from": "truth" if strategy in REFERENCE_STRATEGIES else case.options.prompts,
        "prompt_sources": {table[k].name: text for k, text in case.passes[0].sources.items()} if case.passes else {},
        "prompts": describe_prompts(last.prompts, case.image),
        "first_pass_prompts": describe_prompts(case.passes[0].prompts, case.image) if len(case.passes) > 1 else [],
        "confidence": {table[k].name: value for k, value in _confidences(case, strategy)},
        "fallbacks": {table[p.label].name: list(p.notes) for prompts in case.passes for p in prompts.prompts if p.notes},
        "without_prompt": {table[k].name: reason for k, reason in sorted(missing.items())},
        "seconds": {stage: round(value, 3) for stage, value in case.seconds.items()},
        **_ran_on(case, used_network, used_unet),
        "weights": case.weights.describe() if used_network and case.weights else None,
        "unet": case.unet.describe() if used_unet and case.unet else None,
        "atlas": None
        if case.atlas is None
        else {"folder": case.atlas.source, "version": case.atlas.version, "references": len(case.atlas.references)},
        "uses_truth": strategy in REFERENCE_STRATEGIES,
    }
    if "scores" in case.kept and case.scores.turned:
        report["warning"] = "The patient lies the other way round than the file says: left and right may be confused."
    marks = [used.mark for used, yes in ((case.weights, used_network), (case.unet, used_unet)) if yes and used and used.mark]
    if marks:
        report["mark"] = marks[0]
    return report
