"""Fast mode repeats only organs whose prompts changed; exact mode repeats all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, Prompts
from medsam2_atlas.segmenters import strategies
from medsam2_atlas.segmenters.case import Clock, FirstPass
from medsam2_atlas.segmenters.joint_fusion import Fused

BOX = BoxPrompt(2, (2, 2, 11, 11))
BEFORE = Prompts((OrganPrompt(1, 0, 4, (BOX,)), OrganPrompt(2, 0, 4, (BOX,))))
AFTER = Prompts((BEFORE.prompts[0], replace(BEFORE.prompts[1], boxes=(BoxPrompt(2, (9, 9, 18, 18)),))))


class FakeCase:
    """Records the organs that the network segments."""

    def __init__(self) -> None:
        self.segmented: list[OrganPrompt] = []
        self.fused_from: dict[int, Any] = {}
        self.image = type("Image", (), {"array": np.zeros((6, 30, 30))})()

    def from_labels(self, *_: Any) -> Prompts:
        return AFTER

    def logits(self, prompts: Sequence[OrganPrompt], _: Clock) -> dict[int, Any]:
        self.segmented = list(prompts)
        return {p.label: "second" for p in prompts}

    def fused(self, logits: dict[int, Any], _: Clock) -> np.ndarray:
        self.fused_from = logits
        return np.zeros((6, 30, 30), np.uint8)


@pytest.mark.parametrize("enlarge", [False, True])
def test_organs_that_did_not_move_keep_the_first_result_and_its_prompt(enlarge: bool) -> None:
    case: Any = FakeCase()
    first: Any = strategies.Outcome(np.zeros((6, 30, 30), np.uint8), (BEFORE,), {1: "first", 2: "first"})
    outcome = strategies._second_pass(case, first, Clock(), enlarge=enlarge)
    assert [p.label for p in case.segmented] == [2]
    assert case.fused_from == {1: "first", 2: "second"}
    assert outcome.passes[-1].prompts[0] == BEFORE.prompts[0], "the report names the prompt that was used"


def test_without_kept_logits_all_organs_are_repeated() -> None:
    case: Any = FakeCase()
    strategies._second_pass(case, strategies.Outcome(np.zeros((6, 30, 30), np.uint8), (BEFORE,)), Clock(), enlarge=False)
    assert [p.label for p in case.segmented] == [1, 2]


class FakeCaseOfF(FakeCase):
    """A case of strategy F whose fused masks are empty; `joint` lists the logits of each fusion with the score maps."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.fast = mode == "fast"
        self.joint: list[dict[int, Any]] = []

    def first_pass(self, _: Clock) -> FirstPass:
        logits: Any = {1: "first", 2: "first"}
        return FirstPass(BEFORE, logits)

    def kept(self, logits: dict[int, Any]) -> dict[int, Any]:
        return logits if self.fast else {}

    def fused_jointly(self, logits: dict[int, Any], _: Clock) -> Fused:
        self.joint.append(logits)
        return Fused(np.zeros((6, 30, 30), np.uint8), {1: 0.25})


@pytest.mark.parametrize(("mode", "again"), [("exact", [1, 2]), ("fast", [2])])
def test_f_fuses_both_passes_with_the_score_maps_and_spares_organs_in_fast_mode(mode: str, again: list[int]) -> None:
    case: Any = FakeCaseOfF(mode)
    outcome = strategies.STRATEGIES["F"](case, Clock())
    assert [p.label for p in case.segmented] == again
    assert case.joint == [{1: "first", 2: "first"}, {k: "second" if k in again else "first" for k in (1, 2)}]
    assert case.fused_from == {}, "no pass is fused without the score maps"
    assert len(outcome.passes) == 2
    assert outcome.disagreement == {1: 0.25}
