"""The confidence of an organ in strategy F falls when score map and network differ."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, Prompts
from medsam2_atlas.segmenters.joint_confidence import joint_confidence
from medsam2_atlas.segmenters.joint_config import joint_fusion_config
from medsam2_atlas.segmenters.strategy_report import FUSED, Outcome, _confidences

CONFIG = joint_fusion_config().confidence
PROMPTS = Prompts(
    tuple(OrganPrompt(k, 0, 1, (BoxPrompt(0, (0, 0, 1, 1)),), confidence=c) for k, c in ((6, 0.9), (7, 0.5), (8, None)))
)


def test_confidence_falls_with_the_disagreement_and_rises_with_that_of_the_prompt() -> None:
    falling = [joint_confidence(0.8, differ, CONFIG) for differ in np.linspace(0, 1, 11)]
    assert falling == sorted(falling, reverse=True)  # type: ignore[type-var]
    assert falling[0] > 0.75, "both sources agree"
    assert falling[-1] < 0.35, "they share no voxel"
    rising = [joint_confidence(prompt, 0.4, CONFIG) for prompt in np.linspace(0, 1, 11)]
    assert rising == sorted(rising)  # type: ignore[type-var]


def test_an_organ_whose_prompt_has_no_confidence_has_none() -> None:
    assert joint_confidence(None, 0.1, CONFIG) is None


@pytest.mark.parametrize(
    ("disagreement", "expected"),
    [
        (None, [(7, 0.5), (6, 0.9)]),
        ({6: 0.9, 7: 0.1}, [(6, joint_confidence(0.9, 0.9, CONFIG)), (7, joint_confidence(0.5, 0.1, CONFIG))]),
        ({7: 0.1}, [(6, joint_confidence(0.9, 1.0, CONFIG)), (7, joint_confidence(0.5, 0.1, CONFIG))]),
    ],
)
def test_reports_of_f_combine_both_and_those_of_other_strategies_have_the_prompts_confidence(
    disagreement: dict[int, float] | None, expected: list[tuple[int, float]]
) -> None:
    case: Any = SimpleNamespace()
    outcome = Outcome(np.zeros((1, 2, 2), np.uint8), (PROMPTS,), disagreement=disagreement)
    found = _confidences(case, "D" if disagreement is None else FUSED, outcome)
    assert found == sorted(expected, key=lambda entry: entry[1])
