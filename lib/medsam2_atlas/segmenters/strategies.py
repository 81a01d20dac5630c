"""The prompted strategies. Each is a short function that combines score maps, prompts, MedSAM2 and fusion.

`atlas`  score maps alone, without a network.
`A`      one box in the middle of the prompting region.
`B`      three boxes, at 25, 50 and 75 % of the prompting region.
`C`      as B, then a second pass prompted by the masks of the first.
`D`      as C, with boxes 10 % larger in area and regions 20 % longer.
`E`      segments the organs with the most reliable prompts first. Their masks move and trim the score maps of the other organs,
         which are then prompted. The second pass is as in D.
`reference-1`, `reference-3`  one or three boxes from the ground truth: an upper bound of the network's accuracy. With a jitter
         (`Options.jitter`), the accuracy with boxes that are off by a given distance.

The first boxes of A to D, and of E's first organs, come from score maps, or from the coarse masks of a trained segmenter
(`Options.prompts`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from medsam2_atlas.base.choices import MODES
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import OrganLogits, describe_engine, engine_mode, medsam2_config
from medsam2_atlas.prompting import (
    PromptOrigin,
    Prompts,
    by_stability,
    confidence,
    confidence_config,
    constrained,
    describe_prompts,
    enlarged,
    jittered,
    prompting_config,
    unmoved,
)
from medsam2_atlas.scoremaps import fusion_config
from medsam2_atlas.segmenters.base import (
    DEFAULTS,
    Options,
    Provenance,
    Report,
    Resources,
    Segmentation,
    Segmenter,
    base_report,
    only,
)
from medsam2_atlas.segmenters.case import Case, Clock, prompter_of
from medsam2_atlas.segmenters.changed_settings import changed_options, foundation_settings
from medsam2_atlas.segmenters.fusion import fuse_scores
from medsam2_atlas.segmenters.registry import models, ready_made, trainable

ATLAS_ALONE = "atlas"
_TURNED = "The patient's orientation contradicts the file: left and right may be confused."


@dataclass(frozen=True)
class Outcome:
    """The result of a strategy.

    Attributes:
        labels: organ numbers `[z, y, x]`.
        passes: prompts of each pass of MedSAM2, in order.
        logits: the last pass's logits that a second pass may use again, by organ number.
    """

    labels: np.ndarray
    passes: tuple[Prompts, ...] = ()
    logits: dict[int, OrganLogits] = field(default_factory=dict)


def _atlas(case: Case, clock: Clock) -> Outcome:
    scores = case.scores(clock)
    with clock.stage("fusion"):
        return Outcome(fuse_scores(scores))


def _a(case: Case, clock: Clock) -> Outcome:
    return _one_pass(case, case.first_prompts(prompting_config().one_box, clock), clock)


def _b(case: Case, clock: Clock) -> Outcome:
    first = case.first_pass(clock)
    return Outcome(first.labels, (first.prompts,), first.logits)


def _c(case: Case, clock: Clock) -> Outcome:
    return _second_pass(case, _b(case, clock), clock, enlarge=False)


def _d(case: Case, clock: Clock) -> Outcome:
    return _second_pass(case, _b(case, clock), clock, enlarge=True)


def _e(case: Case, clock: Clock) -> Outcome:
    return _second_pass(case, _by_stability(case, clock), clock, enlarge=True)


def _reference(places: Callable[[], tuple[float, ...]]) -> Callable[[Case, Clock], Outcome]:
    def run(case: Case, clock: Clock) -> Outcome:
        prompts = case.from_labels(case.true_labels(), places(), "the ground truth does not contain it", clock)
        if case.options.jitter is not None:
            prompts = jittered(prompts, case.options.jitter, case.image.geometry, case.image.digest)
        return _one_pass(case, prompts, clock)

    return run


def _one_pass(case: Case, prompts: Prompts, clock: Clock) -> Outcome:
    return Outcome(case.prompted(prompts, clock), (prompts,))


def _second_pass(case: Case, first: Outcome, clock: Clock, *, enlarge: bool) -> Outcome:
    """Runs a second pass, prompted by the masks of the first. Fast mode keeps organs whose prompts hardly change."""
    prompts = case.from_labels(first.labels, prompting_config().three_boxes, "the first pass found nothing", clock)
    same = unmoved(first.passes[-1], prompts, medsam2_config().fast_min_overlap) & first.logits.keys()
    if enlarge:
        prompts = enlarged(prompts, organ_table(), case.image.array.shape)
    before = {p.label: p for p in first.passes[-1].prompts}
    prompts = replace(prompts, prompts=tuple(before[p.label] if p.label in same else p for p in prompts.prompts))
    logits = case.logits([p for p in prompts.prompts if p.label not in same], clock) | {k: first.logits[k] for k in same}
    return Outcome(case.fused(logits, clock), (*first.passes, prompts))


def _by_stability(case: Case, clock: Clock) -> Outcome:
    """Segments the organs with reliable prompts first; their masks then constrain the score maps of the other organs."""
    prompts = case.first_prompts(prompting_config().three_boxes, clock)
    stable, later = by_stability(prompts)
    # The organs of coarse masks do not overlap, so there is nothing to constrain.
    if not later or case.options.prompts not in ("atlas", "both"):
        return _b(case, clock)
    given = {p.label: p for p in prompts.prompts}
    logits = case.logits([given[k] for k in stable], clock)
    labels = case.fused(logits, clock)
    scores = case.scores(clock)
    with clock.stage("prompts"):
        scores = constrained(scores, labels, later)
    from_atlas = [k for k in later if prompts.origins.get(k, _FROM_ATLAS).source == "atlas"]
    given |= {p.label: p for p in case.prompts_of(scores, from_atlas, prompting_config().three_boxes, clock).prompts}
    used = replace(prompts, prompts=tuple(given[k] for k in (*stable, *later)))
    logits |= case.logits([given[k] for k in later], clock)
    return Outcome(case.fused(logits, clock), (used,), case.kept(logits))


_FROM_ATLAS = PromptOrigin("atlas", "")

STRATEGIES: dict[str, Callable[[Case, Clock], Outcome]] = {
    ATLAS_ALONE: _atlas,
    "A": _a,
    "B": _b,
    "C": _c,
    "D": _d,
    "E": _e,
    "reference-1": _reference(lambda: prompting_config().one_box),
    "reference-3": _reference(lambda: prompting_config().three_boxes),
}
REFERENCE_STRATEGIES = frozenset(name for model in models(roles=["reference"]) for name in model.names)


class Strategy(Segmenter):
    """The segmenter that runs one strategy."""

    def __init__(self, name: str, resources: Resources) -> None:
        super().__init__(name, resources)
        self.uses_network, self.uses_truth = name != ATLAS_ALONE, name in REFERENCE_STRATEGIES

    def check(self) -> None:
        """Loads the atlas and the weights."""
        if not self.uses_truth:
            self._resources.atlas()
        if self.uses_network:
            self._resources.weights()

    def available_options(self) -> dict[str, Any]:
        """Returns the organs and, for strategies with a network, the weights, sources of prompts, and modes of MedSAM2."""
        found = super().available_options()
        if not self.uses_network:
            return found
        return found | {"weights": self._resources.weight_names(), "prompts": self._sources(), "mode": list(MODES)}

    def describe(self) -> dict[str, Any]:
        """Returns the atlas' version and number of references, and the mark of the weights."""
        atlas = self._resources.atlas()
        found: dict[str, Any] = {"atlas": atlas.version, "references": len(atlas.references)}
        return found | {"weights_mark": self._resources.weights().mark} if self.uses_network else found

    def used_weights(self) -> dict[str, Any]:
        """Returns file, checksum and mark of MedSAM2's weights; empty without a network."""
        return self._resources.weights().describe() if self.uses_network else {}

    def version(self) -> str:
        """Returns the first twelve digits of the weights' checksum; empty without a network."""
        return self._resources.weights().sha256[:12] if self.uses_network else ""

    def provenance(self, options: Options) -> Provenance:
        """Returns versions of atlas and prompter, checksum of the weights, options, and the device (`memory.ran_on`)."""
        _check_jitter(self.name, options)
        resources = self._resources
        found: Provenance = self._basis(options) | {"strategy": self.name}
        if not self.uses_truth:  # the reference strategies need no atlas
            found |= {"atlas": resources.atlas().version, "fusion": fusion_config().provenance()}
        prompter = prompter_of(options, resources) if self.uses_network and not self.uses_truth else None
        found |= foundation_settings(network=self.uses_network, unet=prompter is not None)
        if not self.uses_network:
            return found
        changed = changed_options(options, "loop", "mode", "thresholds", "fill_holes")
        changed |= {"jitter": str(options.jitter)} if options.jitter else {}
        device = resources.ladder.device_of(options.memory)
        return (
            found
            | {
                "weights": resources.weights(options.weights).sha256,
                "prompts": options.prompts,
                "unet": prompter.version() if prompter else None,
            }
            | changed
            | self._ready_made(prompter, options)
            | ran_on(device, medsam2=True, unet=prompter is not None, memory=options.memory, **engine_mode(options.mode))
        )

    def _ready_made(self, prompter: Segmenter | None, options: Options) -> Provenance:
        """Returns the provenance of coarse masks of a team's own model; its version alone does not cover the used packages."""
        if prompter is None or prompter.name in trainable():
            return {}
        return {"prompter": prompter.provenance(Options(organs=options.organs, memory=options.memory))}

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Segments a CT with this strategy; see the function `segment` of this module."""
        return segment(Case(volume, self._resources, options), self.name)

    def _sources(self) -> list[str]:
        """Returns the currently available sources of first prompts."""
        unets = [name for name in trainable() if not self._resources.segmenter(name).missing()]
        pretrained = [n for n in ready_made(self._resources.folders()) if not self._resources.segmenter(n).missing()]
        return ["atlas", *(["unet", "both"] if unets else []), *pretrained]


def segment(case: Case, strategy: str = "D") -> Segmentation:
    """Segments a CT. Only the reference strategies read the ground truth, and their reports state it.

    Args:
        case: the CT, with resources and options.
        strategy: name of the strategy.

    Raises:
        InputError: if the strategy is unknown or refuses an option, or the image cannot be used.
        AtlasError: if the strategy needs an atlas and there is none.
        WeightsError: if the strategy needs weights and there are none.
    """
    if strategy not in STRATEGIES:
        raise InputError(strategy, "is not a strategy.", f"Choose from: {', '.join(STRATEGIES)}.")
    _check_jitter(strategy, case.options)
    clock = Clock()
    with clock.timed("total"):
        outcome = STRATEGIES[strategy](case, clock)
    labels = only(outcome.labels, case.organs)
    return Segmentation(case.image.with_array(labels), _report(case, strategy, outcome, labels, clock))


def _check_jitter(strategy: str, options: Options) -> None:
    """Raises an InputError if a strategy without true prompts gets a jitter, which would have no effect."""
    if options.jitter is not None and strategy not in REFERENCE_STRATEGIES:
        raise InputError(
            strategy, "has no true prompts that a jitter could displace.", "Use a jitter with reference-1 or reference-3 only."
        )


def _confidences(case: Case, strategy: str, passes: tuple[Prompts, ...]) -> list[tuple[int, float]]:
    """Returns organs and confidences of their first prompts (strategy `atlas`: of their score maps), in ascending order."""
    if strategy == ATLAS_ALONE:
        maps = case.scores(Clock()).maps
        known = {k: confidence(score.evidence, confidence_config()) for k, score in maps.items()}
    else:
        known = {p.label: p.confidence for p in (passes[0].prompts if passes else ())}
    return sorted(((k, value) for k, value in known.items() if value is not None), key=lambda entry: entry[1])


def _report(case: Case, strategy: str, outcome: Outcome, labels: np.ndarray, clock: Clock) -> Report:
    table, passes, options = organ_table(), outcome.passes, case.options
    missing: dict[int, str] = {}
    for prompts in passes:
        missing |= {k: reason for k, reason in prompts.missing.items() if k not in missing}
    report = base_report(strategy, case.image, labels, case.organs).with_fields(
        strategy=strategy,
        loop=options.loop,
        thresholds=options.thresholds,
        prompts_from="truth" if strategy in REFERENCE_STRATEGIES else options.prompts,
        prompt_sources={table[k].name: str(origin) for k, origin in passes[0].origins.items()} if passes else {},
        prompts=describe_prompts(passes[-1].prompts, case.image) if passes else [],
        first_pass_prompts=describe_prompts(passes[0].prompts, case.image) if len(passes) > 1 else [],
        confidence={table[k].name: value for k, value in _confidences(case, strategy, passes)},
        fallbacks={table[p.label].name: list(p.notes) for prompts in passes for p in prompts.prompts if p.notes},
        without_prompt={table[k].name: reason for k, reason in sorted(missing.items())},
        seconds={stage: round(value, 3) for stage, value in clock.seconds.items()},
        uses_truth=strategy in REFERENCE_STRATEGIES,
        **({"jitter": str(options.jitter)} if options.jitter else {}),
        **_models_used(case, strategy, passes),
    )
    if not case.used("atlas") or strategy in REFERENCE_STRATEGIES:
        return report
    scores = case.scores(Clock())
    if scores.sex is not None:
        report = report.with_fields(assumed_sex=asdict(scores.sex))
    return report.with_fields(warning=_TURNED) if scores.turned else report


def _models_used(case: Case, strategy: str, passes: tuple[Prompts, ...]) -> dict[str, Any]:
    """Returns the report's fields about atlas, networks and device."""
    found: dict[str, Any] = {"device": "cpu", "weights": None, "unet": None, "atlas": None}
    if case.used("atlas"):
        atlas = case.atlas
        found["atlas"] = {"folder": atlas.source, "version": atlas.version, "references": len(atlas.references)}
    prompter = case.prompter if passes and strategy not in REFERENCE_STRATEGIES else None
    marks = []
    if passes:
        device = case.weights.device
        engine = engine_mode(case.options.mode)
        found |= ran_on(device, medsam2=True, unet=prompter is not None, memory=case.options.memory, **engine)
        found |= {"device": str(device), "weights": case.weights.describe()}
        found |= {"mode": case.options.mode, "engine": describe_engine(device)}
        marks.append(case.weights.mark)
    if prompter is not None:
        about = prompter.used_weights()
        found["unet" if prompter.name in trainable() else "prompter"] = about
        marks.append(str(about.get("mark", "")))
    marks = [mark for mark in marks if mark]
    return found | {"mark": marks[0]} if marks else found
