"""The outcome of a strategy, and its report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.medsam2 import OrganLogits, describe_engine, engine_mode
from medsam2_atlas.prompting import Prompts, confidence, confidence_config, describe_prompts
from medsam2_atlas.registration import registration_config
from medsam2_atlas.segmenters.base import Report, base_report
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.joint_confidence import joint_confidence
from medsam2_atlas.segmenters.joint_config import joint_fusion_config
from medsam2_atlas.segmenters.joint_weights import joint_weights
from medsam2_atlas.segmenters.registry import models, trainable

ATLAS_ALONE, FUSED = "atlas", "F"
"""The strategies without a network, and with a fusion of score maps and network."""
REFERENCE_STRATEGIES = frozenset(name for model in models(roles=["reference"]) for name in model.names)
"""The strategies that read the ground truth."""
_TURNED = "The patient's orientation contradicts the file: left and right may be confused."

_NO_AGREEMENT = (
    "For this atlas and checkpoint, the usual agreement of both sources was not learnt. Learn it: medsam2-atlas thresholds "
    "ATLAS --references REFS --checkpoint FILE."
)


@dataclass(frozen=True)
class Outcome:
    """The result of a strategy.

    Attributes:
        labels: organ numbers `[z, y, x]`.
        passes: prompts of each pass of MedSAM2, in order.
        logits: the last pass's logits that a second pass may use again, by organ number.
        disagreement: strategy F: how much score maps and network differ, 0..1 by organ number; see `joint_fusion.Fused`.
    """

    labels: np.ndarray
    passes: tuple[Prompts, ...] = ()
    logits: dict[int, OrganLogits] = field(default_factory=dict)
    disagreement: dict[int, float] | None = None


def _confidences(case: Case, strategy: str, outcome: Outcome) -> list[tuple[int, float]]:
    """Returns organs and confidences in ascending order.

    They are those of the first prompts. The strategy `atlas` computes them from its score maps in the same way, and F also from
    the disagreement of both sources.
    """
    passes = outcome.passes
    if strategy == ATLAS_ALONE:
        maps = case.scores(Clock()).maps
        known = {k: confidence(score.evidence, confidence_config()) for k, score in maps.items()}
    else:
        known = {p.label: p.confidence for p in (passes[0].prompts if passes else ())}
    if outcome.disagreement is not None:
        model = joint_fusion_config().confidence
        known = {k: joint_confidence(value, outcome.disagreement.get(k, 1.0), model) for k, value in known.items()}
    return sorted(((k, value) for k, value in known.items() if value is not None), key=lambda entry: entry[1])


def strategy_report(case: Case, strategy: str, outcome: Outcome, labels: np.ndarray, clock: Clock) -> Report:
    """Returns the report of a strategy.

    Args:
        case: the CT, with resources and options.
        strategy: name of the strategy.
        outcome: its result.
        labels: organ numbers `[z, y, x]` of the requested organs.
        clock: the wall time of its stages.
    """
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
        confidence={table[k].name: value for k, value in _confidences(case, strategy, outcome)},
        fallbacks={table[p.label].name: list(p.notes) for prompts in passes for p in prompts.prompts if p.notes},
        without_prompt={table[k].name: reason for k, reason in sorted(missing.items())},
        seconds={stage: round(value, 3) for stage, value in clock.seconds.items()},
        uses_truth=strategy in REFERENCE_STRATEGIES,
        **({"jitter": str(options.jitter)} if options.jitter else {}),
        **(_joint_fields(case, outcome) if strategy == FUSED else {}),
        **_models_used(case, strategy, passes),
    )
    if not case.used("atlas") or strategy in REFERENCE_STRATEGIES:
        return report
    scores = case.scores(Clock())
    if scores.sex is not None:
        report = report.with_fields(assumed_sex=asdict(scores.sex))
    return report.with_fields(warning=_TURNED) if scores.turned else report


def _joint_fields(case: Case, outcome: Outcome) -> dict[str, Any]:
    """Returns the report's fields about the joint fusion."""
    names, weights = organ_table(), joint_weights(case.atlas, case.weights.sha256)
    differ = {names[k].name: round(share, 3) for k, share in sorted((outcome.disagreement or {}).items())}
    fields: dict[str, Any] = {"disagreement": differ}
    if weights is not None:
        fields["joint_weights"] = weights.as_json()
    if joint_fusion_config().agreement_power > 0 and not (weights and weights.agreement):
        fields["agreement_unknown"] = _NO_AGREEMENT
    return fields


def _models_used(case: Case, strategy: str, passes: tuple[Prompts, ...]) -> dict[str, Any]:
    """Returns the report's fields about atlas, networks and device."""
    found: dict[str, Any] = {"device": "cpu", "weights": None, "unet": None, "atlas": None}
    if case.used("atlas"):
        atlas = case.atlas
        found["atlas"] = {"folder": atlas.source, "version": atlas.version, "references": len(atlas.references)}
        found["atlas"] |= {"registration": registration_config().method, "references_registered_by": atlas.registered_by}
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
